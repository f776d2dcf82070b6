//! [`Names`]: what a worker asks its front about users and groups, and who waits for the answers. The worker itself
//! may be where no name can be looked up.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncd_proto::op::IdName;

use crate::relay::FromWorker;

/// How long an answer is waited for. The front gives up sooner.
const PATIENCE: Duration = Duration::from_secs(30);

type Numbers = Vec<Option<u32>>;

/// Questions that are open.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    waiting: HashMap<u64, SyncSender<Numbers>>,
    /// Nobody will answer any more.
    over: bool,
}

impl Names {
    /// The numbers here of these names, as the front finds them; `None` where it does not, or says nothing.
    pub(super) fn ask(&self, names: Vec<IdName>, tell: impl FnOnce(&FromWorker)) -> Numbers {
        let count = names.len();
        let (sender, answer) = sync_channel(1);
        let ticket = {
            let mut open = self.lock();
            if open.over {
                return vec![None; count];
            }
            open.last += 1;
            let ticket = open.last;
            open.waiting.insert(ticket, sender);
            ticket
        };
        tell(&FromWorker::Names { ticket, names });
        let numbers = answer.recv_timeout(PATIENCE);
        self.lock().waiting.remove(&ticket);
        let mut numbers = numbers.unwrap_or_default();
        numbers.resize(count, None);
        numbers
    }

    /// An answer has come.
    pub(super) fn answered(&self, ticket: u64, numbers: Numbers) {
        if let Some(sender) = self.lock().waiting.remove(&ticket) {
            // It has room for one, and gets one.
            let _ = sender.try_send(numbers);
        }
    }

    /// No more answers will come.
    pub(super) fn close(&self) {
        let mut open = self.lock();
        open.over = true;
        open.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::op::IdKind;

    use super::*;

    fn two() -> Vec<IdName> {
        let name = |id| IdName {
            kind: IdKind::User,
            id,
            name: b"name".to_vec(),
        };
        vec![name(1), name(2)]
    }

    #[test]
    fn an_answer_finds_who_asked_and_is_as_long_as_the_question() {
        let names = Names::default();
        for answer in [vec![Some(7)], vec![Some(7), None, Some(9)]] {
            let found = names.ask(two(), |question| {
                let FromWorker::Names {
                    ticket,
                    names: asked,
                } = question
                else {
                    panic!("{question:?}");
                };
                assert_eq!(*asked, two());
                names.answered(ticket + 100, vec![Some(1), Some(2)]);
                names.answered(*ticket, answer);
            });
            assert_eq!(found, [Some(7), None]);
        }
        assert!(names.lock().waiting.is_empty());
    }

    #[test]
    fn nobody_waits_for_a_front_that_is_gone() {
        let names = Names::default();
        assert_eq!(names.ask(two(), |_| names.close()), [None, None]);
        assert_eq!(names.ask(two(), |_| panic!("asked")), [None, None]);
    }
}
