//! [`Queue`]: which mark is next.
//!
//! What was heard of goes before what comparisons found: a change made now does not wait for a first sync.

use std::collections::BTreeSet;

use super::Millis;
use super::mark::Mark;

/// When a mark is due, the number of its newest change, and its own.
pub(super) type Turn = (Millis, u64, u64);

/// So many paths that comparisons found are taken although others wait.
pub const FEW: usize = 16;

/// After so many turns of what was heard of.
const TURNS_MAX: u32 = 8;

/// The turns of marks that do not wait for an earlier version to arrive.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heard: BTreeSet<Turn>,
    found: BTreeSet<Turn>,
    /// How often in a row the first went before the second.
    turns: u32,
}

impl Queue {
    pub(super) fn insert(&mut self, mark: &Mark) {
        self.part(mark).insert((mark.due, mark.turn, mark.seq));
    }

    /// Takes a mark out; returns whether it was in.
    pub(super) fn remove(&mut self, mark: &Mark) -> bool {
        self.part(mark).remove(&(mark.due, mark.turn, mark.seq))
    }

    /// Changes when a mark is due; one that is not in is changed as well.
    pub(super) fn put_off(&mut self, mark: &mut Mark, due: Millis) {
        let was_in = self.remove(mark);
        mark.due = due;
        if was_in {
            self.insert(mark);
        }
    }

    /// Takes out the number of the next mark that is due, of those that were heard of or of those that were found.
    pub(super) fn pop_due(&mut self, now: Millis, heard: bool) -> Option<u64> {
        let part = match heard {
            true => &mut self.heard,
            false => &mut self.found,
        };
        let next = is_due(part, now).then(|| part.pop_first())??;
        Some(next.2)
    }

    /// The number of the next mark that is due.
    pub(super) fn next(&self, now: Millis, heard: bool) -> Option<u64> {
        let part = match heard {
            true => &self.heard,
            false => &self.found,
        };
        let (_, _, seq) = part.first().filter(|_| is_due(part, now))?;
        Some(*seq)
    }

    /// Whether it is the turn of what was heard of, and how much may be taken of `max`. Who makes changes all the time
    /// must not keep the rest back for ever.
    pub(super) fn choose(&mut self, now: Millis, max: usize) -> (bool, usize) {
        let (heard, found) = (is_due(&self.heard, now), is_due(&self.found, now));
        match (heard, found) {
            (true, true) if self.turns >= TURNS_MAX => {
                self.turns = 0;
                (false, max.min(FEW))
            }
            (true, true) => {
                self.turns += 1;
                (true, max)
            }
            _ => (heard, max),
        }
    }

    /// Whether something that was heard of is due.
    pub(super) fn has_heard(&self, now: Millis) -> bool {
        is_due(&self.heard, now)
    }

    /// The numbers of those that are due, in their turn.
    pub(super) fn due(&self, now: Millis) -> impl Iterator<Item = u64> {
        let parts = [&self.heard, &self.found].into_iter();
        let due = parts.flat_map(move |part| part.range(..=(now, u64::MAX, u64::MAX)));
        due.map(|(_, _, seq)| *seq)
    }

    /// When the first one is due.
    pub(super) fn next_due(&self) -> Option<Millis> {
        let firsts = [self.heard.first(), self.found.first()].into_iter();
        firsts.flatten().map(|(due, ..)| *due).min()
    }

    /// When the first one is due that is not yet.
    pub(super) fn next_due_after(&self, now: Millis) -> Option<Millis> {
        let later = |part: &BTreeSet<Turn>| part.range((now + 1, 0, 0)..).next().copied();
        let firsts = [later(&self.heard), later(&self.found)].into_iter();
        firsts.flatten().map(|(due, ..)| due).min()
    }

    fn part(&mut self, mark: &Mark) -> &mut BTreeSet<Turn> {
        match mark.late {
            true => &mut self.found,
            false => &mut self.heard,
        }
    }
}

/// Whether something of these is due.
fn is_due(part: &BTreeSet<Turn>, now: Millis) -> bool {
    part.first().is_some_and(|(due, ..)| *due <= now)
}
