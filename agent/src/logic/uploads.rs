//! [`Uploads`]: large files that wait for a transfer.

use std::collections::VecDeque;

use crate::logic::coalesce::{Millis, SOON_BYTES_MAX, Taken};

/// Files. What was heard of goes before what comparisons found.
#[derive(Debug, Default)]
pub struct Uploads {
    heard: VecDeque<Waiting>,
    found: VecDeque<Waiting>,
}

/// A file, its size in bytes, and since when it waits.
#[derive(Debug)]
struct Waiting {
    taken: Taken,
    size: u64,
    since: Millis,
}

impl Waiting {
    /// Its writer is not to blame for this wait.
    fn end(mut self, now: Millis) -> Taken {
        let hold_from = &mut self.taken.mark.hold_from;
        *hold_from = (*hold_from + now.saturating_sub(self.since)).min(now);
        self.taken
    }

    fn is_soon_done(&self) -> bool {
        self.size <= SOON_BYTES_MAX
    }
}

impl Uploads {
    /// Adds a file of this size.
    pub fn push(&mut self, taken: Taken, size: u64, since: Millis) {
        let part = match taken.mark.late {
            true => &mut self.found,
            false => &mut self.heard,
        };
        part.push_back(Waiting { taken, size, since });
    }

    /// The next one.
    pub fn pop(&mut self, now: Millis) -> Option<Taken> {
        let next = self.heard.pop_front().or_else(|| self.found.pop_front());
        next.map(|waiting| waiting.end(now))
    }

    /// The next one that was heard of and is soon done.
    pub fn pop_express(&mut self, now: Millis) -> Option<Taken> {
        let at = self.heard.iter().position(Waiting::is_soon_done)?;
        self.heard.remove(at).map(|waiting| waiting.end(now))
    }

    /// Whether [`Uploads::pop_express`] would find one.
    #[must_use]
    pub fn has_express(&self) -> bool {
        self.heard.iter().any(Waiting::is_soon_done)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heard.len() + self.found.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::path::WirePath;

    use super::*;
    use crate::logic::coalesce::{DirtySet, Look, Remote, Settle};

    fn taken(name: &str, late: bool) -> Taken {
        let mut set = DirtySet::new(Settle {
            settle_ms: 0,
            hold_max_ms: 0,
            marks_max: 9,
            delete: true,
        });
        let path = WirePath::from_relative(name.as_ref()).unwrap();
        match late {
            true => set.found(path, Look::Content, Remote::Absent, 0),
            false => set.closed(path, 0),
        }
        set.take(0, 9).remove(0)
    }

    fn name(taken: Option<Taken>) -> Option<String> {
        taken.map(|taken| taken.path.to_string())
    }

    #[test]
    fn what_was_heard_of_goes_first_and_small_ones_have_their_own_way() {
        let mut uploads = Uploads::default();
        uploads.push(taken("old", true), 1, 0);
        uploads.push(taken("film", false), SOON_BYTES_MAX + 1, 0);
        assert!(!uploads.has_express());
        uploads.push(taken("picture", false), SOON_BYTES_MAX, 0);
        assert!(uploads.has_express());
        assert_eq!(uploads.len(), 3);
        assert_eq!(name(uploads.pop_express(5)).as_deref(), Some("picture"));
        assert_eq!(name(uploads.pop_express(5)), None);
        let film = uploads.pop(5).unwrap();
        assert_eq!(
            (film.path.to_string().as_str(), film.mark.hold_from),
            ("film", 5)
        );
        assert_eq!(name(uploads.pop(5)).as_deref(), Some("old"));
        assert!(uploads.is_empty());
    }
}
