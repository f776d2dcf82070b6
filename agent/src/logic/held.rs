//! [`Held`]: which content one target is believed to have under which name, for small files.
//!
//! A hint and nothing more: the receiver looks before it believes, and says so where it is not true. A few bits of a hash
//! stand for a name and a few for its content, or its length where no more is known; what finds no place in the table is
//! forgotten. Pure.

use std::hash::{BuildHasher, Hash, RandomState};

use syncd_proto::digest::Digest;

/// Entries that are looked through for one name.
const REACH: usize = 32;

/// Smallest table, in entries of eight bytes.
const ENTRIES_MIN: usize = 1 << 8;

/// Largest one: 8 MiB.
const ENTRIES_MAX: usize = 1 << 20;

/// Set where what stands for a content is its length.
const LENGTH: u32 = 1 << 31;

/// What is believed of a content at the target, the surest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Belief {
    /// It is as long as this one.
    AsLong,
    /// It is another one.
    Other,
    /// It is this one.
    Same,
}

/// What stands for a name: bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// See the module.
#[derive(Debug, Default)]
pub struct Held {
    hasher: RandomState,
    /// Each a place and bits of a digest, or a length; 0 for none. None, or a power of two.
    entries: Vec<u64>,
    used: usize,
}

impl Held {
    /// What stands for a name in a directory. That one is named by what it is and not by where, so that nothing is
    /// believed of a new directory under an old name. A file with several names has a place of its own, without a name.
    pub fn place(&self, dir: impl Hash, name: &[u8]) -> Place {
        Place(self.hasher.hash_one((dir, name)) as u32)
    }

    /// This content of `len` bytes is on its way to the target; what was there before, if anything is known.
    pub fn replace(&mut self, place: Place, content: &Digest, len: u32) -> Option<Belief> {
        let new = entry(place, content);
        let Some(at) = self.find(place) else {
            self.insert(new);
            return None;
        };
        let old = std::mem::replace(&mut self.entries[at], new);
        Some(belief(old, place, content, len))
    }

    /// How what is there compares with this content of `len` bytes, if anything is known.
    #[must_use]
    pub fn is(&self, place: Place, content: &Digest, len: u32) -> Option<Belief> {
        let at = self.find(place)?;
        Some(belief(self.entries[at], place, content, len))
    }

    /// This content was found at the target; what went there later is known already.
    pub fn found(&mut self, place: Place, content: &Digest) {
        match self.find(place) {
            Some(at) if is_length(self.entries[at]) => self.entries[at] = entry(place, content),
            Some(_) => {}
            None => self.insert(entry(place, content)),
        }
    }

    /// The target has, or is to get, a file of `len` bytes, below 2 GiB; nothing that is known goes for that.
    pub fn found_len(&mut self, place: Place, len: u32) {
        if self.find(place).is_none() {
            self.make_room();
            self.put(entry_of(place, LENGTH | len));
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

    /// Of lengths nothing is known any more.
    pub fn forget_lengths(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| is_length(**entry)) {
            *entry = 0;
            self.used -= 1;
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
        self.make_room();
        if !self.put(entry)
            && let Some(victim) = self.reach(place_of(entry)).nth(entry as usize % REACH)
        {
            self.entries[victim] = entry;
        }
    }

    /// Puts in what is not there, if there is room.
    fn put(&mut self, entry: u64) -> bool {
        let mut reach = self.reach(place_of(entry));
        let free = reach.find(|at| self.entries[*at] == 0);
        if let Some(free) = free {
            self.entries[free] = entry;
            self.used += 1;
        }
        free.is_some()
    }

    fn make_room(&mut self) {
        if self.used * 16 < self.entries.len() * 13 || self.entries.len() >= ENTRIES_MAX {
            return;
        }
        let len = (self.entries.len() * 2).max(ENTRIES_MIN);
        let old = std::mem::replace(&mut self.entries, vec![0; len]);
        self.used = 0;
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            self.insert(entry);
        }
    }
}

/// How what an entry of a place says compares with this content.
fn belief(known: u64, place: Place, content: &Digest, len: u32) -> Belief {
    if known == entry(place, content) {
        Belief::Same
    } else if known == entry_of(place, LENGTH | len) {
        Belief::AsLong
    } else {
        Belief::Other
    }
}

fn entry(place: Place, content: &Digest) -> u64 {
    let [a, b, c, d, ..] = *content.as_bytes();
    entry_of(place, u32::from_le_bytes([a, b, c, d]) & !LENGTH)
}

fn entry_of(place: Place, content: u32) -> u64 {
    u64::from(place.0) << 32 | u64::from(content)
}

fn is_length(entry: u64) -> bool {
    entry as u32 & LENGTH != 0
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
        assert_eq!(held.replace(a, &content(1), 4), None);
        assert_eq!(held.replace(a, &content(1), 4), Some(Belief::Same));
        assert_eq!(held.replace(a, &content(2), 4), Some(Belief::Other));
        assert_eq!(held.replace(a, &content(2), 4), Some(Belief::Same));
        held.forget(a);
        assert_eq!(held.replace(a, &content(2), 4), None);
        assert_eq!(held.replace(b, &content(3), 4), None);
        held.renamed(a, b);
        assert_eq!(held.replace(a, &content(2), 4), None, "it has another name");
        assert_eq!(held.replace(b, &content(2), 4), Some(Belief::Same));
        held.renamed(held.place(1, b"unknown"), b);
        assert_eq!(held.replace(b, &content(2), 4), None, "it was replaced");
        held.clear();
        assert_eq!(held.replace(b, &content(2), 4), None);
        held.found(a, &content(1));
        held.found(b, &content(1));
        assert_eq!(held.is(a, &content(1), 4), Some(Belief::Same));
        assert_eq!(
            held.is(b, &content(1), 4),
            Some(Belief::Other),
            "it was sent"
        );
    }

    #[test]
    fn what_is_as_long_is_likely_the_same_until_more_is_known() {
        let mut held = Held::default();
        let (a, b, c) = (
            held.place(1, b"a"),
            held.place(1, b"b"),
            held.place(1, b"c"),
        );
        for place in [a, b, c] {
            held.found_len(place, 4);
        }
        assert_eq!(held.is(a, &content(1), 4), Some(Belief::AsLong));
        assert_eq!(held.is(a, &content(2), 4), Some(Belief::AsLong));
        assert_eq!(held.is(a, &content(1), 5), Some(Belief::Other));
        assert_eq!(held.replace(a, &content(1), 4), Some(Belief::AsLong));
        assert_eq!(held.replace(b, &content(1), 5), Some(Belief::Other));
        held.found(c, &content(1));
        for place in [a, b, c] {
            held.found_len(place, 6);
            assert_eq!(held.is(place, &content(1), 6), Some(Belief::Same));
            assert_eq!(held.is(place, &content(2), 6), Some(Belief::Other));
        }
        let d = held.place(1, b"d");
        held.found_len(d, 4);
        held.forget_lengths();
        assert_eq!(held.is(d, &content(1), 4), None);
        assert_eq!(held.is(a, &content(1), 4), Some(Belief::Same));
        assert_eq!(held.used, 3);
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
                held.replace(*place, &content(number), 4);
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
