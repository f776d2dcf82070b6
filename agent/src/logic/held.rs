//! [`Held`]: which content one target is believed to have under which name, for small files.
//!
//! A hint and nothing more: the receiver looks before it believes, and says so where it is not true. A few bits of a hash
//! stand for a name and a few for its content, and what finds no place in the table is forgotten. Pure.

use std::hash::{BuildHasher, Hash, RandomState};

use syncd_proto::digest::Digest;

/// Entries that are looked through for one name.
const REACH: usize = 32;

/// Smallest table, in entries of eight bytes.
const ENTRIES_MIN: usize = 1 << 8;

/// Largest one: 8 MiB.
const ENTRIES_MAX: usize = 1 << 20;

/// What stands for a name: bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// See the module.
#[derive(Debug, Default)]
pub struct Held {
    hasher: RandomState,
    /// Each a place and bits of a digest; 0 for none. None, or a power of two.
    entries: Vec<u64>,
    used: usize,
}

impl Held {
    /// What stands for a name in a directory. That one is named by what it is and not by where, so that nothing is
    /// believed of a new directory under an old name. A file with several names has a place of its own, without a name.
    pub fn place(&self, dir: impl Hash, name: &[u8]) -> Place {
        Place(self.hasher.hash_one((dir, name)) as u32)
    }

    /// This content is on its way to the target; whether it was this one before, if that is known.
    pub fn replace(&mut self, place: Place, content: &Digest) -> Option<bool> {
        let entry = entry(place, content);
        let known = self.find(place).map(|at| {
            let old = std::mem::replace(&mut self.entries[at], entry);
            old == entry
        });
        if known.is_none() {
            self.insert(entry);
        }
        known
    }

    /// Whether it is this content, if that is known.
    #[must_use]
    pub fn is(&self, place: Place, content: &Digest) -> Option<bool> {
        let at = self.find(place)?;
        Some(self.entries[at] == entry(place, content))
    }

    /// This content was found at the target; what went there later is known already.
    pub fn found(&mut self, place: Place, content: &Digest) {
        if self.find(place).is_none() {
            self.insert(entry(place, content));
        }
    }

    /// Something else is there, or nothing.
    pub fn forget(&mut self, place: Place) {
        self.take(place);
    }

    /// What had one name has another one.
    pub fn renamed(&mut self, from: Place, to: Place) {
        self.take(to);
        if let Some(entry) = self.take(from) {
            self.insert(u64::from(to.0) << 32 | entry & u64::from(u32::MAX));
        }
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        (self.entries, self.used) = (Vec::new(), 0);
    }

    fn take(&mut self, place: Place) -> Option<u64> {
        let at = self.find(place)?;
        self.used -= 1;
        Some(std::mem::take(&mut self.entries[at]))
    }

    fn find(&self, place: Place) -> Option<usize> {
        let is_it = |at: &usize| {
            let entry = self.entries[*at];
            entry != 0 && place_of(entry) == place
        };
        self.reach(place).find(is_it)
    }

    /// Where an entry may be.
    fn reach(&self, place: Place) -> impl Iterator<Item = usize> + use<> {
        let len = self.entries.len();
        let first = place.0 as usize;
        (0..REACH.min(len)).map(move |step| (first + step) & (len - 1))
    }

    /// Puts in what is not there; another one may have to go.
    fn insert(&mut self, entry: u64) {
        if self.used * 16 >= self.entries.len() * 13 && self.entries.len() < ENTRIES_MAX {
            self.grow();
        }
        let place = place_of(entry);
        match self.reach(place).find(|at| self.entries[*at] == 0) {
            Some(free) => {
                self.entries[free] = entry;
                self.used += 1;
            }
            None => {
                let victim = self.reach(place).nth(entry as usize % REACH);
                if let Some(at) = victim {
                    self.entries[at] = entry;
                }
            }
        }
    }

    fn grow(&mut self) {
        let len = (self.entries.len() * 2).max(ENTRIES_MIN);
        let old = std::mem::replace(&mut self.entries, vec![0; len]);
        self.used = 0;
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            self.insert(entry);
        }
    }
}

fn entry(place: Place, content: &Digest) -> u64 {
    let [a, b, c, d, ..] = *content.as_bytes();
    u64::from(place.0) << 32 | u64::from(u32::from_le_bytes([a, b, c, d]))
}

fn place_of(entry: u64) -> Place {
    Place((entry >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn what_was_sent_is_known_until_something_else_is() {
        let mut held = Held::default();
        let (a, b) = (held.place(1, b"a"), held.place(1, b"b"));
        assert_eq!(held.replace(a, &content(1)), None);
        assert_eq!(held.replace(a, &content(1)), Some(true));
        assert_eq!(held.replace(a, &content(2)), Some(false));
        assert_eq!(held.replace(a, &content(2)), Some(true));
        held.forget(a);
        assert_eq!(held.replace(a, &content(2)), None);
        assert_eq!(held.replace(b, &content(3)), None);
        held.renamed(a, b);
        assert_eq!(held.replace(a, &content(2)), None, "it has another name");
        assert_eq!(held.replace(b, &content(2)), Some(true));
        held.renamed(held.place(1, b"unknown"), b);
        assert_eq!(held.replace(b, &content(2)), None, "it was replaced");
        held.clear();
        assert_eq!(held.replace(b, &content(2)), None);
        held.found(a, &content(1));
        held.found(b, &content(1));
        assert_eq!(held.is(a, &content(1)), Some(true));
        assert_eq!(held.is(b, &content(1)), Some(false), "it was sent");
    }

    #[test]
    fn names_and_directories_are_told_apart() {
        let held = Held::default();
        let all = [
            held.place(1, b"a"),
            held.place(2, b"a"),
            held.place(1, b"b"),
        ];
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
        assert_eq!(held.place(1, b"a"), all[0]);
    }

    /// Hardly anything is lost while the table grows, and it takes no more room than it may.
    #[test]
    fn it_grows_to_its_bound_and_no_further() {
        let mut held = Held::default();
        for (files, bytes_max, lost_max) in [
            (1_000, 16 << 10, 50),
            (100_000, 1 << 20, 2_500),
            (2_000_000, 8 << 20, 1_100_000),
        ] {
            let places: Vec<_> = (0..files).map(|n: u32| held.place(n, b"f")).collect();
            for (number, place) in (0..).zip(&places) {
                held.replace(*place, &content(number));
            }
            let known = (0..).zip(&places).filter(|(number, place)| {
                let at = held.find(**place);
                at.is_some_and(|at| held.entries[at] == entry(**place, &content(*number)))
            });
            let lost = files as usize - known.count();
            assert!(held.entries.len() * 8 <= bytes_max, "{files}");
            assert!(lost <= lost_max, "{lost} of {files}");
            let used = held.entries.iter().filter(|entry| **entry != 0).count();
            assert_eq!(held.used, used);
        }
    }
}
