//! What is on its way: commits sent and not yet durable, and what each was made for.

use std::collections::VecDeque;

use syncd_proto::path::WirePath;

use crate::logic::coalesce::Millis;
use crate::logic::plan::Cause;

/// A commit on its way.
#[derive(Debug)]
pub struct Sent {
    /// Its number in the session's log.
    pub seq: u64,
    /// Bytes of its frame.
    pub bytes: usize,
    /// When it was handed to the connection.
    pub at: Millis,
    /// What each operation was made for; `None` once it was rejected and given back.
    pub causes: Vec<Option<Cause>>,
    /// What each operation does; as long as `causes`.
    pub notes: Vec<Note>,
}

/// What is remembered of an operation on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// A word for it.
    pub verb: &'static str,
    /// Content bytes.
    pub bytes: u64,
    /// Whether its content was staged, and occupies a place there until it is applied.
    pub staged: bool,
    /// It was rejected for the attributes alone: the number of what it was made for.
    pub but_attributes: Option<u64>,
}

/// Commits on their way, in order, and how much room is left for more.
#[derive(Debug)]
pub struct Outbox {
    sent: VecDeque<Sent>,
    /// How many at the front are visible at the receiver, though not durable.
    applied: usize,
    bytes: usize,
    commits_max: usize,
    bytes_max: usize,
}

impl Outbox {
    /// An empty outbox with room for so many commits and bytes.
    #[must_use]
    pub fn new(commits_max: usize, bytes_max: usize) -> Self {
        Self {
            sent: VecDeque::new(),
            applied: 0,
            bytes: 0,
            commits_max: commits_max.max(1),
            bytes_max,
        }
    }

    /// Whether another commit may be sent. One always may when nothing is on its way.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sent.is_empty() || (self.sent.len() < self.commits_max && self.bytes < self.bytes_max)
    }

    /// Notes a commit that was sent.
    pub fn push(&mut self, sent: Sent) {
        self.bytes += sent.bytes;
        self.sent.push_back(sent);
    }

    /// Takes the cause of a rejected operation out, so that it is not counted as done; and whether its
    /// commit had been reported visible before.
    pub fn reject(&mut self, seq: u64, index: u32) -> Option<(Cause, Option<Note>, bool)> {
        let at = self.sent.iter().position(|sent| sent.seq == seq)?;
        let sent = self.sent.get_mut(at)?;
        let cause = sent.causes.get_mut(index as usize)?.take()?;
        let note = sent.notes.get(index as usize).copied();
        Some((cause, note, at < self.applied))
    }

    /// What was rejected is there but for its attributes, and durable when its commit is; it was made for what has the
    /// number `cause`.
    pub fn lacks_attributes(&mut self, seq: u64, index: u32, cause: u64) {
        let sent = self.sent.iter_mut().find(|sent| sent.seq == seq);
        if let Some(note) = sent.and_then(|sent| sent.notes.get_mut(index as usize)) {
            note.but_attributes = Some(cause);
        }
    }

    /// Commits up to `seq` are visible: calls `arrived` with each of their causes and notes, once.
    pub fn applied(&mut self, seq: u64, mut arrived: impl FnMut(&Cause, Option<&Note>)) {
        while let Some(sent) = self.sent.get(self.applied).filter(|sent| sent.seq <= seq) {
            for (index, cause) in sent.causes.iter().enumerate() {
                if let Some(cause) = cause {
                    arrived(cause, sent.notes.get(index));
                }
            }
            self.applied += 1;
        }
    }

    /// Commits up to `seq` are durable: returns them.
    pub fn durable(&mut self, seq: u64) -> Vec<Sent> {
        let mut done = Vec::new();
        while self.sent.front().is_some_and(|sent| sent.seq <= seq) {
            if let Some(sent) = self.sent.pop_front() {
                self.bytes -= sent.bytes;
                self.applied = self.applied.saturating_sub(1);
                done.push(sent);
            }
        }
        done
    }

    /// The connection is gone: returns everything that was not durable, and how many of the commits
    /// in front had been reported visible.
    pub fn drain(&mut self) -> (Vec<Sent>, usize) {
        self.bytes = 0;
        (
            self.sent.drain(..).collect(),
            std::mem::take(&mut self.applied),
        )
    }

    /// Whether nothing on its way concerns a path, what is below it, or a directory above that goes or comes with it.
    #[must_use]
    pub fn is_clean(&self, path: &WirePath) -> bool {
        let concerns = |cause: &Cause| match cause {
            Cause::Path(taken) => {
                let is_above = path.starts_with(&taken.path);
                taken.path.starts_with(path) || is_above && taken.mark.concerns_below()
            }
            Cause::Rename(rename) => rename.to.starts_with(path) || path.starts_with(&rename.to),
            Cause::Follows(_) => false,
        };
        !self
            .sent
            .iter()
            .flat_map(|sent| sent.causes.iter().flatten())
            .any(concerns)
    }

    /// How many commits are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(seq: u64, bytes: usize) -> Sent {
        Sent {
            seq,
            bytes,
            at: 0,
            causes: vec![Some(Cause::Follows(WirePath::root())), None],
            notes: Vec::new(),
        }
    }

    #[test]
    fn room_is_bounded_but_one_always_goes() {
        let mut outbox = Outbox::new(2, 100);
        assert!(outbox.has_room());
        outbox.push(sent(1, 500));
        assert!(!outbox.has_room());
        assert_eq!(outbox.durable(1).len(), 1);
        outbox.push(sent(2, 1));
        assert!(outbox.has_room());
        outbox.push(sent(3, 1));
        assert!(!outbox.has_room());
    }

    #[test]
    fn each_commit_arrives_once_and_is_done_once() {
        let mut outbox = Outbox::new(9, 100);
        (1..=3).for_each(|seq| outbox.push(sent(seq, 1)));
        let mut arrived = 0;
        outbox.applied(2, |_, _| arrived += 1);
        outbox.applied(2, |_, _| arrived += 1);
        assert_eq!(arrived, 2);
        assert_eq!(outbox.durable(1).len(), 1);
        outbox.applied(3, |_, _| arrived += 1);
        assert_eq!(arrived, 3);
        let (rest, applied) = outbox.drain();
        assert_eq!((rest.len(), applied), (2, 2));
    }

    #[test]
    fn a_rejected_operation_is_taken_out_once() {
        let mut outbox = Outbox::new(9, 100);
        outbox.push(sent(1, 1));
        assert!(outbox.reject(1, 0).is_some());
        assert!(outbox.reject(1, 0).is_none());
        assert!(outbox.reject(2, 0).is_none());
        assert!(outbox.reject(1, 7).is_none());
    }
}
