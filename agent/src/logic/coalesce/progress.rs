//! What is still to be done, and what became of it.

use std::sync::Arc;

use syncd_proto::path::WirePath;

use super::mark::{Failed, Leave, Mark};
use super::{DirtySet, Look, Millis, above, range_below};

impl DirtySet {
    /// Number that the next thing seen will get; everything below it has been seen.
    #[must_use]
    pub fn horizon(&self) -> u64 {
        self.next_seq
    }

    /// The oldest thing that is not durable: its number and when it was seen.
    #[must_use]
    pub fn oldest(&self) -> Option<(u64, Millis)> {
        self.outstanding
            .first_key_value()
            .map(|(seq, first)| (*seq, *first))
    }

    /// Whether nothing at, below or above `path` is pending that concerns it.
    #[must_use]
    pub fn is_clean(&self, path: &WirePath) -> bool {
        let related = |other: &WirePath| path.starts_with(other) || other.starts_with(path);
        range_below(&self.marks, path).next().is_none()
            && !self.comparisons.keys().any(|other| related(other))
            && !self.in_flight.keys().any(|other| other.starts_with(path))
            && !self
                .renames
                .iter()
                .any(|rename| related(&rename.to) || related(&rename.from))
            && !above(path).any(|above| {
                let mark = self.marks.get(&above);
                mark.is_some_and(Mark::concerns_below) || self.is_in_work(&above)
            })
    }

    /// How many paths are marked and renames waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len() + self.renames.len()
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.renames.is_empty()
    }

    /// How many things seen are not durable yet, those on their way included.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Gives back room that more paths needed than there are now.
    pub fn shrink(&mut self) {
        self.by_seq.shrink_to_fit();
        self.in_flight.shrink_to_fit();
    }

    /// How often marks collapsed because there were too many.
    #[must_use]
    pub fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// How often something that had been seen before became new work under a new number: whoever waits for
    /// the old number waits for that too.
    #[must_use]
    pub fn respawned(&self) -> u64 {
        self.respawned
    }

    /// How many names were seen to go, and are not removed at the target yet.
    #[must_use]
    pub fn removals_pending(&self) -> u64 {
        let gone = self.marks.values().filter(|mark| mark.gone);
        gone.map(|mark| mark.weight).sum()
    }

    /// Directories that could not be compared, and paths that failed, also while they are tried again.
    pub fn failed(&self) -> impl Iterator<Item = Failed<'_>> {
        let comparisons = self.comparisons.iter();
        let comparisons = comparisons.map(|(path, it)| (path, it, Some(it.due)));
        let retried = self.retried.iter().map(|(path, it)| (path, it, None));
        let comparisons = comparisons.chain(retried);
        let comparisons = comparisons.map(|(path, it, due)| (path, &it.failure, it.attempts, due));
        let marks = self.marks.iter();
        let marks = marks.map(|(path, mark)| (path, mark, Some(mark.due)));
        let tried = self.tried.values().map(|(path, mark)| (path, mark, None));
        let marks = marks.chain(tried);
        let marks = marks.map(|(path, mark, due)| (path, &mark.failure, mark.attempts, due));
        comparisons
            .chain(marks)
            .filter_map(|(path, failure, attempts, due)| {
                Some(Failed {
                    path,
                    failure: failure.as_ref()?,
                    attempts,
                    due,
                })
            })
    }

    /// How many of those that failed are being tried again.
    #[must_use]
    pub fn tried(&self) -> usize {
        self.tried.len() + usize::from(self.retried.is_some())
    }

    /// Removals that are held, with what is pending for them.
    pub fn held(&self) -> impl Iterator<Item = (&WirePath, &Mark)> {
        self.marks
            .iter()
            .filter(|(_, mark)| mark.leave == Leave::Held)
            .map(|(path, mark)| (&**path, mark))
    }

    /// Gives every removal that is held leave to go.
    pub fn release_held(&mut self, now: Millis) {
        let queue = &mut self.queue;
        for mark in self
            .marks
            .values_mut()
            .filter(|mark| mark.leave == Leave::Held)
        {
            mark.leave = Leave::Given;
            queue.put_off(mark, now);
        }
    }

    /// Makes everything that waits after a failure due now: somebody made room, or asked.
    pub fn retry_all(&mut self, now: Millis) {
        let queue = &mut self.queue;
        for mark in self
            .marks
            .values_mut()
            .filter(|mark| mark.failure.is_some())
        {
            queue.put_off(mark, now);
        }
        let comparisons = self.comparisons.values_mut();
        for comparison in comparisons.filter(|comparison| comparison.failure.is_some()) {
            comparison.due = now;
        }
    }

    /// Whether something is pending for exactly this path, or on its way.
    #[must_use]
    pub fn is_pending(&self, path: &WirePath) -> bool {
        self.marks.contains_key(path) || self.in_flight.contains_key(path)
    }

    /// What waits to be looked at and is not known to be gone, with the numbers of the marks.
    pub fn waiting(&self) -> impl Iterator<Item = (Arc<WirePath>, u64)> {
        let here = self.marks.iter().filter(|(_, mark)| !mark.gone);
        here.map(|(path, mark)| (path.clone(), mark.seq))
    }

    /// Whether a name waits to be looked at with its content. If it does not, it may be on its way as it was some time
    /// ago: worked on, or in the commit log and not arrived.
    #[must_use]
    pub fn is_looked_at_again(&self, path: &WirePath) -> bool {
        let mark = self.marks.get(path);
        mark.is_some_and(|mark| mark.look != Look::Meta) && !self.in_work.contains_key(path)
    }

    /// Whether what the target has under this name is, as far as is known, what is here: nothing is
    /// pending for it, for a directory above it, or for a name it came from.
    #[must_use]
    pub fn is_settled(&self, path: &WirePath) -> bool {
        !self.marks.contains_key(path)
            && !self.is_below_gone(path)
            && !self.in_work.contains_key(path)
            && !self.comparisons.keys().any(|above| path.starts_with(above))
            && self.renames.is_empty()
    }
}
