//! What was seen and cannot go yet: what was seen after it waits, for a moment.
//!
//! A large file takes longer than the small one that was written after it, which would come first: a page before its
//! picture. So does one whose last version is still on its way. Files that take long hold nothing up, and neither do
//! those that a comparison found: what happens now goes before what is made up for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use syncd_proto::path::WirePath;

use super::mark::{Look, Mark, Place, Taken};
use super::{DirtySet, Millis};

/// Files up to this size are soon transferred, in bytes: larger ones hold nothing up.
pub const SOON_BYTES_MAX: u64 = 16 << 20;

/// How long something holds up what came after it, in milliseconds.
const PATIENCE_MS: Millis = 3_000;

/// Files that hold something up; those beyond them do not.
const AHEAD_MAX: usize = 1_024;

/// What holds something up, and what waits for it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Since when.
    places: BTreeMap<Place, Millis>,
    by_seq: HashMap<u64, Place>,
    behind: BTreeSet<Place>,
    /// When something was added last.
    now: Millis,
}

impl Ahead {
    /// Something is whole as far as is known, and cannot go yet.
    pub(super) fn add(&mut self, mark: &Mark, now: Millis) {
        let is_news = !mark.late && !mark.gone && mark.failure.is_none();
        if is_news && mark.look != Look::Meta {
            self.insert(mark.place(), now);
        }
    }

    fn insert(&mut self, place: Place, now: Millis) {
        self.now = now;
        if self.by_seq.contains_key(&place.2) {
            // Its time counts from the first time on: what waits for it may be what it waits for.
            return;
        }
        if self.places.len() >= AHEAD_MAX {
            self.places.retain(|_, since| *since + PATIENCE_MS > now);
            self.by_seq
                .retain(|_, place| self.places.contains_key(place));
        }
        if self.places.len() < AHEAD_MAX {
            self.places.insert(place, now);
            self.by_seq.insert(place.2, place);
        }
    }

    /// Takes it out; returns whether it was in.
    fn remove(&mut self, seq: u64) -> bool {
        let place = self.by_seq.remove(&seq);
        place.is_some_and(|place| self.places.remove(&place).is_some())
    }

    /// Two marks on one path have become one, which has the second number.
    pub(super) fn merge(&mut self, merged: u64, kept: u64) {
        let Some(place) = self.by_seq.remove(&merged) else {
            return;
        };
        let since = self.places.remove(&place);
        if let Some(since) = since.filter(|_| !self.by_seq.contains_key(&kept)) {
            let place = (place.0, place.1, kept);
            self.places.insert(place, since);
            self.by_seq.insert(kept, place);
        }
    }

    /// It has been heard of again: what came between waits for it no more. That may be what it has to wait for itself.
    /// Returns whether it held something up.
    pub(super) fn moved(&mut self, mark: &Mark) -> bool {
        let place = mark.place();
        let Some(old) = self.by_seq.get_mut(&place.2).filter(|old| **old != place) else {
            return false;
        };
        if let Some(since) = self.places.remove(old) {
            self.places.insert(place, since);
        }
        *old = place;
        true
    }

    /// The first that holds something up still.
    fn first(&self) -> Option<Place> {
        let mut places = self.places.iter();
        let first = places.find(|(_, since)| *since + PATIENCE_MS > self.now)?;
        Some(*first.0)
    }

    /// Until when a place waits, at most. Not for what it was itself before it changed again.
    fn until(&self, place: Place, now: Millis) -> Option<Millis> {
        let before = self.places.range(..place);
        let before = before.filter(|((_, _, seq), _)| *seq != place.2);
        let mut until = before.map(|(_, since)| since + PATIENCE_MS);
        until.find(|until| *until > now)
    }
}

impl DirtySet {
    /// It is looked at again in a moment.
    pub fn holds_up(&mut self, taken: &Taken, now: Millis) {
        if !taken.mark.open {
            self.ahead.add(&taken.mark, now);
        } else if taken.mark.heard_open {
            self.passed(taken.mark.seq);
        }
    }

    /// It is no file that somebody writes to, as far as is known, and is looked at again in a moment.
    pub fn comes_soon(&mut self, taken: &Taken, now: Millis) {
        self.ahead.add(&taken.mark, now);
    }

    /// A file of this size is about to be staged. One that was taken for open because it had been written just before it
    /// was found has been quiet since.
    pub fn is_staged(&mut self, taken: &Taken, size: u64, now: Millis) {
        let mark = &taken.mark;
        if let Some(work) = self.in_work.get_mut(&taken.path) {
            work.long = size > SOON_BYTES_MAX;
        }
        if size <= SOON_BYTES_MAX && !(mark.open && mark.heard_open) {
            self.ahead.add(mark, now);
        }
    }

    /// Until when something that was taken waits for what was seen before it, if it does.
    #[must_use]
    pub fn behind_until(&self, taken: &Taken, now: Millis) -> Option<Millis> {
        let mark = &taken.mark;
        // What a comparison found has no place among the events.
        (!mark.late).then(|| self.place_free_at(mark.place(), now))?
    }

    /// What it waits for first, if that has changed again since it went on its way: nobody knows how large it is by now.
    #[must_use]
    pub fn grows_ahead(&self, taken: &Taken) -> Option<Arc<WirePath>> {
        let places = self.ahead.places.range(..taken.mark.place());
        let mut paths = places.filter_map(|((_, _, seq), _)| self.by_seq.get(seq));
        paths.find(|path| self.in_work.contains_key(*path)).cloned()
    }

    /// Something that changed again while it is on its way takes long.
    pub fn takes_long(&mut self, path: &Arc<WirePath>) {
        if let Some(work) = self.in_work.get_mut(path) {
            work.long = true;
        }
        if let Some(seq) = self.marks.get(path).map(|mark| mark.seq) {
            self.passed(seq);
        }
    }

    /// The same of a place in the order of everything seen.
    pub(super) fn place_free_at(&self, place: Place, now: Millis) -> Option<Millis> {
        self.ahead.until(place, now)
    }

    /// Puts a path back until what is before it has gone, and then at once.
    pub fn wait_behind(&mut self, mut taken: Taken, until: Millis) {
        taken.mark.hold_from = taken.mark.hold_from.max(until);
        self.is_behind(taken.mark.place());
        self.give_back(taken, until);
    }

    /// What has this place is looked at again when nothing holds it up any more.
    pub(super) fn is_behind(&mut self, place: Place) {
        self.ahead.behind.insert(place);
    }

    /// It is in the commit log, or will not be: nothing waits for it any more.
    pub fn passed(&mut self, seq: u64) {
        if self.ahead.remove(seq) {
            self.free_behind();
        }
    }

    /// Whatever waited and need not any more is due.
    pub(super) fn free_behind(&mut self) {
        let first = self.ahead.first();
        let mut waiting = first.map(|first| self.ahead.behind.split_off(&first));
        // What holds up others does not wait for itself.
        let own = waiting.as_mut().and_then(|waiting| waiting.take(&first?));
        let mut free = std::mem::replace(&mut self.ahead.behind, waiting.unwrap_or_default());
        free.extend(own);
        for (last, _, seq) in free {
            self.hasten(seq, last);
        }
        self.first_rename_is_free(first);
    }

    /// Something that waited is due now.
    fn hasten(&mut self, seq: u64, last: Millis) {
        let path = self.by_seq.get(&seq);
        let mark = path.and_then(|path| self.marks.get_mut(path));
        // If it was heard of again, it is due when that says so.
        if let Some(mark) = mark.filter(|mark| mark.last == last) {
            self.queue.put_off(mark, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Remote, Settle};
    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn set() -> DirtySet {
        DirtySet::new(Settle {
            settle_ms: 100,
            hold_max_ms: 1_000,
            marks_max: 3 * AHEAD_MAX,
            delete: true,
        })
    }

    fn take(set: &mut DirtySet, now: Millis) -> Vec<Taken> {
        let taken = set.take(now, 100);
        taken.iter().for_each(|taken| set.begun(taken));
        taken
    }

    fn names(taken: &[Taken]) -> Vec<String> {
        let names = taken.iter().map(|taken| taken.path.to_string());
        names.collect()
    }

    /// Does what the planner does with something that has to wait.
    fn put_back(set: &mut DirtySet, taken: Taken, now: Millis) -> Option<Millis> {
        let until = set.behind_until(&taken, now)?;
        set.logged(&taken.path);
        set.arrived(&taken.path);
        set.wait_behind(taken, until);
        Some(until)
    }

    fn done(set: &mut DirtySet, taken: &Taken) {
        set.logged(&taken.path);
        set.passed(taken.mark.seq);
        set.arrived(&taken.path);
    }

    #[test]
    fn a_page_waits_for_its_pictures_and_goes_when_the_last_is_there() {
        let mut set = set();
        for (name, at) in [("one", 10), ("two", 10), ("page", 10), ("three", 11)] {
            set.closed(path(name), at);
        }
        let mut taken = take(&mut set, 12);
        assert_eq!(names(&taken), ["one", "two", "page", "three"]);
        let page = taken.remove(2);
        for picture in &taken {
            set.is_staged(picture, 1 << 20, 12);
        }
        assert_eq!(set.behind_until(&taken[0], 12), None);
        assert_eq!(set.behind_until(&taken[1], 12), Some(12 + PATIENCE_MS));
        assert_eq!(put_back(&mut set, page, 12), Some(12 + PATIENCE_MS));
        done(&mut set, &taken[1]);
        assert!(take(&mut set, 20).is_empty());
        // The one that came after it is of no interest.
        done(&mut set, &taken[0]);
        assert_eq!(names(&take(&mut set, 20)), ["page"]);
    }

    #[test]
    fn a_page_waits_for_a_link_while_the_last_one_is_on_its_way() {
        let on_its_way = || {
            let mut set = set();
            set.written(path("link"), 0);
            let last = take(&mut set, 0).remove(0);
            set.created(path("link"), 10);
            set.closed(path("page"), 11);
            let page = take(&mut set, 500).remove(0);
            assert_eq!(page.path.to_string(), "page");
            assert!(put_back(&mut set, page, 500).is_some());
            assert!(take(&mut set, 501).is_empty());
            (set, last)
        };
        let (mut set, last) = on_its_way();
        done(&mut set, &last);
        let link = take(&mut set, 502).remove(0);
        assert_eq!(link.path.to_string(), "link");
        done(&mut set, &link);
        assert_eq!(names(&take(&mut set, 502)), ["page"]);
        // Somebody writes to it: that is no link.
        let (mut set, _) = on_its_way();
        set.modified(path("link"), 502);
        assert_eq!(names(&take(&mut set, 502)), ["page"]);
        // It is a file that somebody has open.
        let (mut set, last) = on_its_way();
        done(&mut set, &last);
        let file = take(&mut set, 502).remove(0);
        set.given_up(&file.path);
        set.holds_up(&file, 502);
        set.give_back(file, 600);
        assert_eq!(names(&take(&mut set, 502)), ["page"]);
    }

    #[test]
    fn what_takes_long_holds_nothing_up() {
        let mut set = set();
        for (name, at) in [("film", 10), ("picture", 11), ("page", 12)] {
            set.closed(path(name), at);
        }
        let taken = take(&mut set, 12);
        set.is_staged(&taken[0], SOON_BYTES_MAX + 1, 12);
        assert_eq!(set.behind_until(&taken[2], 12), None);
        set.is_staged(&taken[1], SOON_BYTES_MAX, 12);
        assert_eq!(set.behind_until(&taken[2], 12), Some(12 + PATIENCE_MS));
        assert_eq!(set.behind_until(&taken[2], 12 + PATIENCE_MS), None);
        // Nor does what has become of one that was small when it went on its way.
        set.closed(path("picture"), 13);
        set.closed(path("after"), 14);
        let after = take(&mut set, 15);
        assert_eq!(names(&after), ["after"]);
        let grows = set.grows_ahead(&after[0]).unwrap();
        assert_eq!(grows, taken[1].path);
        set.passed(taken[1].mark.seq);
        assert!(set.behind_until(&after[0], 15).is_some());
        set.takes_long(&grows);
        assert_eq!(set.behind_until(&after[0], 15), None);
        // Nor does what has become of the large one meanwhile.
        done(&mut set, &taken[1]);
        set.arrived(&taken[2].path);
        set.closed(path("film"), 20);
        set.closed(path("page"), 21);
        let page = take(&mut set, 22);
        assert_eq!(names(&page), ["picture", "page"]);
        assert_eq!(set.behind_until(&page[1], 22), None);
    }

    #[test]
    fn what_was_listed_while_it_may_be_open_holds_up_once_it_is_quiet() {
        let mut set = set();
        set.created_dir(path("dir"), 1);
        set.entered(path("dir"), 1);
        set.closed(path("page"), 1);
        set.listed(path("dir/picture"), true, 2);
        set.surveyed(&path("dir"), 2, true, 2);
        assert_eq!(names(&take(&mut set, 3)), ["dir"]);
        let taken = take(&mut set, 200);
        assert_eq!(names(&taken), ["dir/picture", "page"]);
        // It is looked at again: perhaps somebody writes to it still.
        set.holds_up(&taken[0], 200);
        assert_eq!(set.behind_until(&taken[1], 200), None);
        set.is_staged(&taken[0], 1 << 20, 200);
        assert!(set.behind_until(&taken[1], 200).is_some());
        // Of this one it is known.
        set.modified(path("log"), 300);
        set.closed(path("later"), 400);
        let both = take(&mut set, 400);
        assert_eq!(names(&both), ["log", "later"]);
        set.passed(taken[0].mark.seq);
        set.is_staged(&both[0], 1 << 20, 400);
        assert_eq!(set.behind_until(&both[1], 400), None);
    }

    #[test]
    fn two_that_are_heard_of_again_do_not_wait_for_each_other() {
        let mut set = set();
        for name in ["one", "two", "page"] {
            set.closed(path(name), 1);
        }
        let taken = take(&mut set, 1);
        for picture in &taken[..2] {
            set.is_staged(picture, 1 << 20, 1);
        }
        for picture in taken.iter().take(2).rev() {
            set.logged(&picture.path);
            set.arrived(&picture.path);
            set.give_back(picture.clone(), 2);
            set.closed(WirePath::clone(&picture.path), 2);
        }
        // The page came between the two versions of each.
        assert_eq!(set.behind_until(&taken[2], 2), None);
        let taken = take(&mut set, 2);
        assert_eq!(names(&taken), ["two", "one"]);
        assert_eq!(set.behind_until(&taken[0], 2), None);
        assert!(set.behind_until(&taken[1], 2).is_some());
        done(&mut set, &taken[0]);
        assert_eq!(set.behind_until(&taken[1], 2), None);
    }

    #[test]
    fn what_holds_up_others_and_waits_itself_goes_when_nothing_else_is_before_it() {
        let mut set = set();
        for (name, at) in [("one", 1), ("two", 2), ("page", 3)] {
            set.closed(path(name), at);
        }
        let mut taken = take(&mut set, 3);
        set.is_staged(&taken[0], 1 << 20, 3);
        set.holds_up(&taken[1], 3);
        for waits in taken.split_off(1) {
            assert_eq!(put_back(&mut set, waits, 3), Some(3 + PATIENCE_MS));
        }
        assert!(take(&mut set, 4).is_empty());
        done(&mut set, &taken[0]);
        let second = take(&mut set, 4);
        assert_eq!(names(&second), ["two"]);
        assert_eq!(set.behind_until(&second[0], 4), None);
        done(&mut set, &second[0]);
        assert_eq!(names(&take(&mut set, 4)), ["page"]);
    }

    #[test]
    fn what_a_comparison_found_neither_waits_nor_holds_up() {
        let mut set = set();
        set.found(path("found"), Look::Content, Remote::Absent, 1);
        set.closed(path("page"), 2);
        set.closed(path("picture"), 2);
        set.found(path("later"), Look::Content, Remote::Absent, 3);
        let mut taken = take(&mut set, 3);
        assert_eq!(names(&taken), ["page", "picture"]);
        taken.extend(take(&mut set, 3));
        assert_eq!(names(&taken[2..]), ["found", "later"]);
        set.is_staged(&taken[2], 1, 3);
        assert_eq!(set.behind_until(&taken[0], 3), None);
        set.is_staged(&taken[1], 1, 3);
        assert_eq!(set.behind_until(&taken[3], 3), None);
    }

    #[test]
    fn changes_all_the_time_do_not_keep_the_rest_back_for_ever() {
        let mut set = set();
        for index in 0..100 {
            set.found(
                path(&format!("found{index}")),
                Look::Content,
                Remote::Absent,
                1,
            );
        }
        let mut found = 0;
        for now in 2..102 {
            set.closed(path("busy"), now);
            let taken = set.take(now, 500);
            assert!(taken.len() == 1 || taken.iter().all(|taken| taken.mark.late));
            found += taken.iter().filter(|taken| taken.mark.late).count();
        }
        assert_eq!(found, 100);
    }

    #[test]
    fn what_is_heard_of_again_is_due_when_that_says_so() {
        let mut set = set();
        set.closed(path("picture"), 1);
        set.closed(path("page"), 2);
        let mut taken = take(&mut set, 2);
        set.is_staged(&taken[0], 1, 2);
        let page = taken.remove(1);
        assert!(put_back(&mut set, page, 2).is_some());
        set.modified(path("page"), 50);
        done(&mut set, &taken[0]);
        assert!(take(&mut set, 60).is_empty());
        assert_eq!(names(&take(&mut set, 150)), ["page"]);
    }

    #[test]
    fn what_changed_again_does_not_wait_for_itself() {
        let mut set = set();
        set.closed(path("page"), 1);
        let taken = take(&mut set, 1).remove(0);
        set.closed(path("page"), 2);
        set.closed(path("later"), 3);
        // It changed while it was read.
        set.logged(&taken.path);
        set.arrived(&taken.path);
        set.holds_up(&taken, 4);
        set.give_back(taken, 5);
        let again = take(&mut set, 5);
        assert_eq!(names(&again), ["page", "later"]);
        assert_eq!(set.behind_until(&again[0], 5), None);
        assert_eq!(set.behind_until(&again[1], 5), Some(4 + PATIENCE_MS));
        done(&mut set, &again[0]);
        assert_eq!(set.behind_until(&again[1], 5), None);
    }

    #[test]
    fn a_rename_waits_too() {
        let mut set = set();
        set.closed(path("new/picture"), 1);
        let taken = take(&mut set, 1);
        set.is_staged(&taken[0], 1, 1);
        set.renamed(path("new"), path("now"), true, 5);
        assert!(set.take_renames(6, 9).is_empty());
        assert_eq!(set.next_due(), Some(1 + PATIENCE_MS));
        done(&mut set, &taken[0]);
        assert_eq!(set.next_due(), Some(5));
        assert_eq!(set.take_renames(6, 9).len(), 1);
        // And not for ever.
        set.closed(path("picture"), 10);
        let taken = take(&mut set, 10);
        set.is_staged(&taken[0], 1, 10);
        set.renamed(path("now"), path("then"), true, 11);
        assert!(set.take_renames(12, 9).is_empty());
        assert_eq!(set.take_renames(10 + PATIENCE_MS, 9).len(), 1);
    }

    #[test]
    fn a_name_takes_the_place_of_another_after_what_was_seen_before() {
        let mut set = set();
        set.found(path("old"), Look::Content, Remote::Absent, 1);
        set.closed(path("picture"), 1);
        set.renamed(path("page.new"), path("page"), false, 2);
        set.closed(path("later"), 3);
        set.closed(path("page"), 4);
        assert!(set.take_before_rename(4, 9).is_empty(), "it is not due");
        let now = 100;
        assert_eq!(names(&set.take_before_rename(now, 9)), ["picture"]);
        assert!(set.take_before_rename(now, 9).is_empty());
        assert_eq!(set.take_renames(now, 9).len(), 1);
        assert_eq!(names(&take(&mut set, now)), ["later", "page"]);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut set = set();
        for index in 0..2 * AHEAD_MAX {
            set.closed(path(&index.to_string()), 1);
        }
        for taken in set.take(1, 2 * AHEAD_MAX) {
            set.is_staged(&taken, 1, 1);
        }
        assert!(set.ahead.places.len() <= AHEAD_MAX);
        set.closed(path("page"), 2 * PATIENCE_MS);
        let taken = take(&mut set, 2 * PATIENCE_MS);
        set.is_staged(&taken[0], 1, 2 * PATIENCE_MS);
        assert_eq!(set.ahead.places.len(), 1);
        assert_eq!(set.ahead.by_seq.len(), 1);
        // Once its time is over it does not begin again.
        set.is_staged(&taken[0], 1, 4 * PATIENCE_MS);
        set.closed(path("next"), 4 * PATIENCE_MS);
        let next = take(&mut set, 4 * PATIENCE_MS);
        assert_eq!(set.behind_until(&next[0], 4 * PATIENCE_MS), None);
    }
}
