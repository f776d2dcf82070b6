//! How a reader of events goes round: when it lets events gather, and who waits for it to have told them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rounds that follow each other this closely make a burst.
const CLOSE: Duration = Duration::from_millis(2);

/// From so many such rounds on, events gather. An editor's save or a single file needs fewer.
const BURST_ROUNDS: u32 = 24;

/// How long they gather: a small part of what a change takes, and many events long. Waking for each would take
/// the processor from those who make the changes, and from those who send them.
const NAP: Duration = Duration::from_millis(1);

/// Tells when to let events gather before they are read.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    rounds: u32,
}

impl Pace {
    /// Notes that a round has ended; how long to let events gather before the next.
    pub(super) fn ended(&mut self, now: Instant) -> Option<Duration> {
        let close = self.last.is_some_and(|last| now - last <= CLOSE);
        self.rounds = if close {
            self.rounds.saturating_add(1)
        } else {
            0
        };
        self.last = Some(now);
        (self.rounds >= BURST_ROUNDS).then_some(NAP)
    }
}

/// Counts rounds of reading, for those who wait until what has happened has been told.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Count {
    begun: u64,
    /// The last round that left nothing behind.
    told: u64,
    ended: bool,
}

impl Rounds {
    /// A round begins: what happened before is read in it, or in those that follow until nothing is left.
    pub(super) fn begin(&self) {
        self.lock().begun += 1;
    }

    /// All that was there has been told.
    pub(super) fn told(&self) {
        let mut count = self.lock();
        count.told = count.begun;
        drop(count);
        self.changed.notify_all();
    }

    /// Whether every round that has begun has left nothing behind.
    pub(super) fn is_told(&self) -> bool {
        let count = self.lock();
        count.told == count.begun
    }

    /// Nobody reads any more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until a round that begins after this call has told everything, or for `most`. `wake` has to see to
    /// it that one begins. `false` if the time was over first.
    pub(super) fn wait(&self, most: Duration, wake: impl FnOnce()) -> bool {
        let count = self.lock();
        let wanted = count.begun + 1;
        wake();
        let waits = |count: &mut Count| count.told < wanted && !count.ended;
        let waited = self.changed.wait_timeout_while(count, most, waits);
        let (_count, time) = waited.unwrap_or_else(PoisonError::into_inner);
        !time.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn who_waits_is_told_whether_it_was_in_vain() {
        let rounds = Rounds::default();
        assert!(!rounds.wait(Duration::ZERO, || ()), "no round began");
        rounds.end();
        assert!(rounds.wait(Duration::from_secs(60), || ()));
    }

    #[test]
    fn events_gather_in_a_burst_and_only_then() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut naps = Vec::new();
        for _ in 0..BURST_ROUNDS + 2 {
            naps.push(pace.ended(now));
            now += CLOSE;
        }
        let first = naps.iter().position(Option::is_some);
        assert_eq!(first, Some(BURST_ROUNDS as usize));
        assert_eq!(naps.last(), Some(&Some(NAP)));
        assert_eq!(pace.ended(now + CLOSE), None, "it was quiet for a while");
    }

    #[test]
    fn a_round_that_had_begun_is_not_enough() {
        let rounds = Arc::new(Rounds::default());
        rounds.begin();
        let (woken, wakes) = std::sync::mpsc::sync_channel(1);
        let waiter = {
            let rounds = rounds.clone();
            thread::spawn(move || {
                rounds.wait(Duration::from_secs(60), || woken.send(()).unwrap());
                rounds.lock().told
            })
        };
        wakes.recv().unwrap();
        rounds.told();
        rounds.begin();
        rounds.told();
        assert_eq!(waiter.join().unwrap(), 2);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_has_ended() {
        let rounds = Rounds::default();
        rounds.end();
        let begun = Instant::now();
        rounds.wait(Duration::from_secs(60), || ());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
