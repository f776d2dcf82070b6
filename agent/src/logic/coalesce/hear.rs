//! What is heard of paths: from events, listings and comparisons. Marks on one path merge.

use std::sync::Arc;

use syncd_proto::path::WirePath;

use super::mark::{Failure, Leave, Look, Mark, Remote};
use super::{Comparison, DirtySet, Millis, above, range_below};

/// Removals from one directory in quick succession: the directory itself often follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    pub(super) first: Millis,
    pub(super) last: Millis,
    pub(super) count: u32,
}

/// Removals from one directory that make a burst.
pub(super) const BURST_COUNT: u32 = 2;

/// Quiet time that ends a burst, in milliseconds.
pub(super) const BURST_QUIET_MS: Millis = 30;

/// Longest time that a burst holds its removals back, in milliseconds.
pub(super) const BURST_MAX_MS: Millis = 500;

/// Directories remembered for bursts; above, the memory starts anew.
pub(super) const BURSTS_MAX: usize = 1_024;

/// How long a new name waits for the close that usually follows at once, in milliseconds.
pub(super) const BIRTH_MS: Millis = 5;

/// How long it is remembered that a name appeared of which nothing else was heard, in milliseconds.
const BIRTHS_KEPT_MS: Millis = 3_000;

/// How long a file waits that a listing found and that was written just now, in milliseconds.
pub(super) const RECENT_MS: Millis = 100;

impl Burst {
    /// Until when it holds removals back, if it does.
    fn until(&self, now: Millis) -> Option<Millis> {
        let until = (self.last + BURST_QUIET_MS).min(self.first + BURST_MAX_MS);
        (self.count >= BURST_COUNT && now < until).then_some(until)
    }
}

impl DirtySet {
    /// A name appeared. A regular file waits for its close.
    pub fn created(&mut self, path: WirePath, now: Millis) {
        let is_new = self.is_new(&path);
        self.is_back(&path, now);
        self.mark(path.clone(), now, |mark, settle, fresh| {
            mark.look = Look::Content;
            mark.gone = false;
            mark.born |= fresh && is_new;
            (mark.open, mark.heard_open) = (true, true);
            mark.due_if_open(settle, now);
            now + BIRTH_MS
        });
        self.appeared(&path, now);
    }

    /// A name may be a link. What comes after it waits until it is known whether somebody writes to it.
    pub(super) fn appeared(&mut self, path: &WirePath, now: Millis) {
        while let Some(oldest) = self.births.first_entry()
            && oldest.get() + BIRTHS_KEPT_MS <= now
        {
            oldest.remove();
        }
        if let Some(mark) = self.marks.get(path) {
            self.births.insert(mark.turn, now);
        }
    }

    /// Somebody writes to it, or it is gone.
    pub(super) fn is_no_birth(&mut self, path: &WirePath) {
        if let Some(mark) = self.marks.get(path) {
            self.births.remove(&mark.turn);
        }
    }

    /// Until when what got this number waits for names that appeared before it. That may be over: they have not been
    /// looked at all the same.
    pub(super) fn born_until(&self, turn: u64) -> Option<Millis> {
        let (_, at) = self.births.range(..turn).next_back()?;
        Some(at + BIRTH_MS)
    }

    /// A directory appeared.
    pub fn created_dir(&mut self, path: WirePath, now: Millis) {
        self.is_there_again(&path, now);
        let is_new = self.is_new(&path);
        self.mark(path, now, |mark, _, fresh| {
            mark.look = Look::Content;
            mark.gone = false;
            mark.open = false;
            mark.born |= fresh && is_new;
            now
        });
    }

    /// How often a listing told of a name: to be given to [`DirtySet::heard`] once every event that is
    /// older than this question has been told.
    #[must_use]
    pub fn listings(&self) -> u64 {
        self.listings
    }

    /// Every event that is older than the first `listings` names told by listings has been told.
    pub fn heard(&mut self, listings: u64) {
        self.listings_heard = self.listings_heard.max(listings);
    }

    /// Whether events may still tell of what listings told.
    #[must_use]
    pub fn is_listed_ahead(&self) -> bool {
        !self.is_first_heard()
    }

    /// A directory stands where one was seen to go: what the target has in the old one must go too, and
    /// only a comparison knows what that is.
    pub fn is_there_again(&mut self, path: &WirePath, now: Millis) {
        let went = self.marks.get_mut(path).map(|mark| &mut mark.went);
        if went.is_some_and(std::mem::take) {
            self.compare(path.clone(), now);
        }
    }

    /// A listing of a new directory shows the name. `recent`: a file that may still be written, by
    /// somebody who had opened it before it was watched.
    pub fn listed(&mut self, path: WirePath, recent: bool, now: Millis) {
        self.listings += 1;
        // It may have been there as soon as its directory was.
        let before = self.before_fence(&path).unwrap_or(now);
        let known = self.marks.get(&path).map(|mark| (mark.last, mark.turn));
        self.mark(path, now, |mark, _, fresh| {
            mark.look = Look::Content;
            mark.gone = false;
            // That it is listed once more is no change.
            (mark.last, mark.turn) = known.unwrap_or((before, mark.turn));
            if !fresh {
                return mark.due;
            }
            mark.open = recent;
            mark.quiet_at = now + if recent { RECENT_MS } else { 0 };
            mark.quiet_at
        });
    }

    /// A file was written and is still open.
    pub fn modified(&mut self, path: WirePath, now: Millis) {
        let mark = self.marks.get(&path).map(|mark| (mark.turn, mark.seq));
        if let Some((turn, seq)) = mark
            && self.births.remove(&turn).is_some()
        {
            // What is open holds nothing up.
            self.passed(seq);
        }
        self.mark(path, now, |mark, settle, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (true, true);
            (mark.wrote, mark.rewritten) = (true, true);
            mark.due_if_open(settle, now)
        });
    }

    /// A file was closed after writing: look now.
    pub fn closed(&mut self, path: WirePath, now: Millis) {
        self.is_no_birth(&path);
        self.mark(path, now, |mark, _, _| {
            mark.look = mark.look.max(Look::Doubt);
            (mark.open, mark.heard_open) = (false, false);
            mark.wrote = true;
            mark.gone = false;
            now
        });
    }

    /// A name is to be linked to another name of its file, which the target has.
    pub fn relink(&mut self, path: WirePath, now: Millis) {
        // Whoever waits for the name that was written waits for the others too.
        self.respawned += 1;
        self.mark(path, now, |mark, _, fresh| {
            mark.look = Look::Content;
            if fresh {
                mark.remote = Remote::Present;
            }
            if fresh || !mark.open { now } else { mark.due }
        });
    }

    /// A name came from elsewhere: look now.
    pub fn written(&mut self, path: WirePath, now: Millis) {
        self.is_no_birth(&path);
        self.is_back(&path, now);
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (false, false);
            mark.gone = false;
            now
        });
    }

    /// Nobody knows what became of a name: look again, now or once whoever writes to it is done.
    pub fn unclear(&mut self, path: WirePath, now: Millis) {
        self.may_be_there(&path);
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            mark.gone = false;
            if mark.open { mark.due } else { now }
        });
    }

    /// The target may have something under this name, whatever was heard of its birth.
    fn may_be_there(&mut self, path: &WirePath) {
        if let Some(mark) = self.marks.get_mut(path) {
            mark.born = false;
        }
        self.is_in_work_there(path);
    }

    /// The same of what is worked on.
    fn is_in_work_there(&mut self, path: &WirePath) {
        if let Some(work) = self.in_work.get_mut(path) {
            work.born = false;
        }
    }

    /// Metadata changed.
    pub fn attrib(&mut self, path: WirePath, now: Millis) {
        self.mark(path, now, |mark, settle, _| {
            mark.wrote = true;
            mark.due_if_open(settle, now)
        });
    }

    /// A name is gone, with everything below it. One that was never sent is forgotten.
    pub fn gone(&mut self, path: WirePath, now: Millis) {
        self.is_no_birth(&path);
        self.leave_below(&path);
        self.hasten_below(&path, now);
        let is_held = range_below(&self.marks, &path).any(|(_, mark)| mark.leave == Leave::Held);
        let below = self.absorb_below(&path);
        self.strand_in_work(&path);
        if self.was_never_sent(&path) {
            self.forget(&path);
            self.times_of_parent(&path, now);
            return;
        }
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (false, false);
            (mark.gone, mark.went) = (true, true);
            mark.born = false;
            mark.weight += below;
            // What a person is asked about is a part of this now: the question stays the same.
            if is_held && mark.leave == Leave::NotAsked {
                mark.leave = Leave::Held;
            }
            now
        });
    }

    /// What went from a name was a directory.
    pub fn was_dir(&mut self, path: &WirePath) {
        if let Some(mark) = self.marks.get_mut(path) {
            mark.was_dir = true;
        }
    }

    /// So many names of the target go with this one.
    pub fn weighs(&mut self, path: &WirePath, weight: u64) {
        if let Some(mark) = self.marks.get_mut(path) {
            mark.weight = mark.weight.max(weight);
        }
    }

    /// An event says that a name is gone; more may follow at once, and then the directory itself.
    pub fn removed(&mut self, path: WirePath, now: Millis) {
        if let Some(parent) = path.parent() {
            if self.bursts.len() >= BURSTS_MAX {
                self.bursts.clear();
            }
            let burst = self.bursts.entry(parent).or_insert(Burst {
                first: now,
                last: now,
                count: 0,
            });
            if now - burst.last > BURST_QUIET_MS {
                (burst.first, burst.count) = (now, 0);
            }
            if now - burst.first > BURST_MAX_MS {
                burst.first = now;
            }
            burst.last = now;
            burst.count += 1;
            self.bursts_go_on(&path, now);
        }
        self.bursts.remove(&path);
        self.gone(path.clone(), now);
        if let Some(mark) = self.marks.get_mut(&path) {
            mark.witnessed = true;
        }
    }

    /// Whoever removes directories one after the other is at work in one of them.
    fn bursts_go_on(&mut self, path: &WirePath, now: Millis) {
        for dir in above(path) {
            if let Some(burst) = self.bursts.get_mut(&dir)
                && burst.until(now).is_some()
            {
                burst.last = now;
            }
        }
    }

    /// Until when a removal waits because its neighbours are being removed as well, or those of a directory it is in.
    pub(super) fn burst_until(&self, path: &WirePath, now: Millis) -> Option<Millis> {
        let bursts = above(path).filter_map(|dir| self.bursts.get(&dir)?.until(now));
        bursts.max()
    }

    /// A comparison found a name that is gone, and nothing at the target that would have to stay. `sure`:
    /// it has been gone for a while; otherwise it may be about to come again, and is looked at twice.
    pub fn only_there(&mut self, path: WirePath, sure: bool, now: Millis) {
        // Whatever was heard of its birth: the target has it.
        self.may_be_there(&path);
        let late = self.is_late(&path);
        self.gone(path.clone(), now);
        if self.marks.contains_key(&path) {
            self.mark(path, now, |mark, _, _| {
                mark.cleared = true;
                mark.gone = sure;
                mark.late = late;
                mark.due
            });
        }
    }

    /// Whether nothing was heard of a name that a comparison found now.
    fn is_late(&self, path: &WirePath) -> bool {
        self.marks.get(path).is_none_or(|mark| mark.late)
    }

    /// A scan or a comparison found the path to differ.
    pub fn found(&mut self, path: WirePath, look: Look, remote: Remote, now: Millis) {
        self.found_as(path, false, look, remote, now);
    }

    /// The same where it is known whether it is a regular file here.
    pub fn found_as(
        &mut self,
        path: WirePath,
        is_file: bool,
        look: Look,
        remote: Remote,
        now: Millis,
    ) {
        self.respawned += 1;
        self.listings += 1;
        if remote == Remote::Present {
            self.is_in_work_there(&path);
        }
        let late = remote != Remote::Unknown && self.is_late(&path);
        self.mark(path, now, |mark, _, fresh| {
            mark.look = mark.look.max(look);
            mark.remote = remote;
            // What was heard of may be newer than what was seen.
            (mark.late, mark.saw_file) = (late, late && is_file);
            if fresh || !mark.open { now } else { mark.due }
        });
    }

    /// A dirty file was written just now, perhaps by somebody who is not done: it waits for the close, or
    /// for a moment.
    pub fn recent(&mut self, path: WirePath, now: Millis) {
        if self.marks.contains_key(&path) {
            let late = self.is_late(&path);
            self.mark(path, now, |mark, _, _| {
                mark.late = late;
                mark.open = true;
                mark.quiet_at = mark.quiet_at.max(now + RECENT_MS);
                mark.quiet_at
            });
        }
    }

    /// Everything below a directory is to be compared with the target.
    pub fn compare(&mut self, path: WirePath, now: Millis) {
        self.compare_by(path, false, now);
    }

    /// The same where nobody told what happened: what is worked on there may have been read before it happened, and a
    /// comparison sees nothing of that.
    pub fn compare_unheard(&mut self, path: &WirePath, now: Millis) {
        let in_work: Vec<_> = range_below(&self.in_work, path)
            .map(|(path, _)| WirePath::clone(path))
            .collect();
        for path in in_work {
            self.unclear(path, now);
        }
        self.compare(path.clone(), now);
    }

    /// The same by content: another directory may have this name at the target, and files of the same names,
    /// sizes and times may be others.
    pub fn compare_content(&mut self, path: WirePath, now: Millis) {
        self.compare_by(path, true, now);
    }

    pub(super) fn compare_by(&mut self, path: WirePath, content: bool, now: Millis) {
        if let Some(other) = self.comparisons.get_mut(&path)
            && other.failure.is_some()
        {
            // Whatever was in its way may be gone.
            other.due = other.due.min(now);
            other.content |= content;
            return;
        }
        // One that failed may wait for long.
        let covers = |other: &Comparison| (other.content || !content) && other.failure.is_none();
        let covered = self
            .comparisons
            .iter()
            .any(|(above, other)| path.starts_with(above) && covers(other));
        if covered {
            return;
        }
        let below: Vec<_> = range_below(&self.comparisons, &path)
            .filter(|(other, comparison)| content || !comparison.content || ***other == path)
            .map(|(path, comparison)| (path.clone(), comparison.seq))
            .collect();
        for (path, seq) in below {
            self.comparisons.remove(&path);
            self.settle_seq(seq);
        }
        self.respawned += 1;
        let comparison = Comparison {
            seq: self.issue_seq(now),
            first: now,
            due: now,
            attempts: 0,
            content,
            failure: None,
        };
        self.comparisons.insert(Arc::new(path), comparison);
    }

    /// What could not be compared may not be there any more.
    fn hasten_below(&mut self, path: &WirePath, now: Millis) {
        let below = range_below(&self.comparisons, path);
        let failed = below.filter(|(_, comparison)| comparison.failure.is_some());
        let failed: Vec<_> = failed.map(|(path, _)| path.clone()).collect();
        for path in failed {
            if let Some(comparison) = self.comparisons.get_mut(&path) {
                comparison.due = comparison.due.min(now);
            }
        }
    }

    /// A directory could not be compared, as a part of what is above it: it is by itself, later.
    pub fn compare_later(&mut self, path: WirePath, content: bool, failure: Failure, due: Millis) {
        self.compare_by(path.clone(), content, due);
        if let Some(comparison) = self.comparisons.get_mut(&path) {
            comparison.attempts = comparison.attempts.max(1);
            comparison.failure = Some(failure);
            comparison.due = due;
        }
    }

    /// A name came and went without the target ever hearing of it: only its directory's times tell.
    pub(super) fn times_of_parent(&mut self, path: &WirePath, now: Millis) {
        if let Some(parent) = path.parent() {
            self.attrib(parent, now);
        }
    }

    /// A new directory is watched from now on: if it was looked at before, names may have come and gone in it since then
    /// of which nothing but its times tells.
    pub fn watched_from_now(&mut self, path: &WirePath, now: Millis) {
        if !self.marks.contains_key(path) {
            self.attrib(path.clone(), now);
        }
    }

    /// Whether the event that tells of a name now is the first that was heard of it.
    pub(super) fn is_first_heard(&self) -> bool {
        self.listings == self.listings_heard
    }

    /// Whether a name of which the first event tells now is one that the target has never had. While it is looked at that
    /// an older one went, or one above it, the target has that one; while it waits to be compared, it may have any.
    fn is_new(&self, path: &WirePath) -> bool {
        let is_unsure =
            |at: &WirePath| self.in_flight.contains_key(at) || self.comparisons.contains_key(at);
        let under_way = self.under_way.as_ref();
        self.is_first_heard()
            && !under_way.is_some_and(|(compared, _)| path.starts_with(compared))
            && !is_unsure(path)
            && !above(path).any(|at| is_unsure(&at))
    }

    /// Whether the target has nothing under this name, and will not get it as the place that a rename goes into.
    pub(super) fn was_never_sent(&self, path: &WirePath) -> bool {
        self.marks.get(path).is_some_and(Mark::never_sent)
            && !self.in_flight.contains_key(path)
            && !self.renames.iter().any(|to| to.to.starts_with(path))
    }
}
