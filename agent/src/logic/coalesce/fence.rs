//! Fences: what happened after a new directory waits until it is known what is in that one.
//!
//! A directory's contents are heard of only once it is watched. What was put into it before is found by a listing,
//! and would follow a change made later that was heard of at once: a page before its pictures.

use syncd_proto::path::WirePath;

use super::hear::RECENT_MS;
use super::{DirtySet, Millis};

/// Fences kept; directories that appear beyond them hold nothing back.
const FENCES_MAX: usize = 1_024;

/// After this time a directory that has not been listed yet holds nothing back any more.
const FENCE_MAX_MS: Millis = 10_000;

/// A directory that appeared.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    path: WirePath,
    /// When it was heard of.
    at: Millis,
    /// Since it was listed: until when what is in it may wait to be closed.
    until: Option<Millis>,
}

impl Fence {
    fn is_over(&self, now: Millis) -> bool {
        self.until.unwrap_or(self.at + FENCE_MAX_MS) <= now
    }
}

impl DirtySet {
    /// A directory appeared, and is about to be listed: what happens from now on elsewhere waits.
    pub fn entered(&mut self, path: WirePath, now: Millis) {
        self.fences.retain(|fence| !fence.is_over(now));
        self.leave_below(&path);
        if self.fences.len() < FENCES_MAX {
            let (at, until) = (now, None);
            self.fences.push(Fence { path, at, until });
        }
    }

    /// It was listed, with all that was below it when that was `begun`. `recent`: with files that may still be open.
    pub fn surveyed(&mut self, path: &WirePath, begun: Millis, recent: bool, now: Millis) {
        let wait = if recent { RECENT_MS } else { 0 };
        // What appeared in it meanwhile is listed by itself.
        let is_listed =
            |fence: &Fence| fence.path == *path || fence.at < begun && fence.path.starts_with(path);
        let fences = self.fences.iter_mut();
        let listed = fences.filter(|fence| fence.until.is_none() && is_listed(fence));
        listed.for_each(|fence| fence.until = Some(now + wait + 1));
        self.free_behind();
    }

    /// A moment before all that was heard of after the directory that this is in appeared, if that one holds back.
    pub(super) fn before_fence(&self, path: &WirePath) -> Option<Millis> {
        let mut fences = self.fences.iter();
        let fence = fences.find(|fence| path.starts_with(&fence.path))?;
        Some(fence.at.saturating_sub(1))
    }

    /// It is gone, with everything below it.
    pub(super) fn leave_below(&mut self, path: &WirePath) {
        let before = self.fences.len();
        self.fences.retain(|fence| !fence.path.starts_with(path));
        if self.fences.len() < before {
            self.free_behind();
        }
    }

    /// It has another name.
    pub(super) fn fences_move(&mut self, from: &WirePath, to: &WirePath) {
        self.leave_below(to);
        for fence in &mut self.fences {
            let tail = fence.path.strip_prefix(from);
            if let Some(path) = tail.and_then(|tail| to.join_path(&tail)) {
                fence.path = path;
            }
        }
    }

    /// Until when a path waits that changed last at `last`. While a directory is not listed the next look is as far
    /// away as it has taken already, so that many paths do not ask all the time.
    pub(super) fn fenced_until(
        &self,
        path: &WirePath,
        last: Millis,
        now: Millis,
    ) -> Option<Millis> {
        let older = self.fences.partition_point(|fence| fence.at <= last);
        let mut fences = self.fences.get(..older)?.iter().rev();
        let concerns =
            |fence: &Fence| path.starts_with(&fence.path) || fence.path.starts_with(path);
        let holds = |fence: &&Fence| !fence.is_over(now) && !concerns(fence);
        let fence = fences.find(holds)?;
        let again = (now + (now - fence.at).max(1)).min(fence.at + FENCE_MAX_MS);
        Some(fence.until.unwrap_or(again))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settle;
    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn set() -> DirtySet {
        DirtySet::new(Settle {
            settle_ms: 100,
            hold_max_ms: 1_000,
            marks_max: 1_000,
            delete: true,
        })
    }

    fn taken(set: &mut DirtySet, now: Millis) -> Vec<String> {
        let taken = set.take(now, 100).into_iter();
        taken.map(|taken| taken.path.to_string()).collect()
    }

    #[test]
    fn what_comes_after_a_new_directory_waits_for_what_is_in_it() {
        let mut set = set();
        set.closed(path("before"), 9);
        set.created_dir(path("dir"), 10);
        set.entered(path("dir"), 10);
        set.closed(path("index"), 10);
        set.closed(path("dir/heard"), 11);
        assert_eq!(taken(&mut set, 11), ["before", "dir", "dir/heard"]);
        set.listed(path("dir/picture"), true, 14);
        set.surveyed(&path("dir"), 13, true, 14);
        assert!(taken(&mut set, 60).is_empty());
        // In the order in which they are due, and not before.
        assert_eq!(set.take(200, 1).remove(0).path.to_string(), "dir/picture");
        assert_eq!(taken(&mut set, 200), ["index"]);
    }

    #[test]
    fn what_appears_while_its_directory_is_listed_is_listed_by_itself() {
        let mut set = set();
        set.created_dir(path("dir"), 10);
        set.entered(path("dir"), 10);
        set.created_dir(path("dir/sub"), 12);
        set.entered(path("dir/sub"), 12);
        set.closed(path("index"), 13);
        set.surveyed(&path("dir"), 11, false, 13);
        assert_eq!(taken(&mut set, 40), ["dir", "dir/sub"]);
        set.surveyed(&path("dir/sub"), 14, false, 50);
        assert_eq!(taken(&mut set, 60), ["index"]);
    }

    #[test]
    fn a_rename_waits_for_what_is_in_a_new_directory() {
        let mut set = set();
        set.created_dir(path("dir"), 10);
        set.entered(path("dir"), 10);
        // Heard of in the same moment.
        set.renamed(path("index.new"), path("index"), false, 10);
        assert_eq!(taken(&mut set, 10), ["dir"]);
        assert!(set.take_renames(50, 9).is_empty());
        set.listed(path("dir/picture"), false, 60);
        set.surveyed(&path("dir"), 59, false, 60);
        let first = set.take_before_rename(61, 9).remove(0);
        assert_eq!(first.path.to_string(), "dir/picture");
        assert!(set.take_before_rename(61, 9).is_empty());
        assert_eq!(set.take_renames(61, 9).len(), 1);
    }

    #[test]
    fn what_is_listed_twice_keeps_its_place() {
        let mut set = set();
        set.created_dir(path("dir"), 10);
        set.entered(path("dir"), 10);
        set.listed(path("dir/sub/picture"), true, 12);
        set.renamed(path("index.new"), path("index"), false, 14);
        set.created_dir(path("dir/sub"), 15);
        set.entered(path("dir/sub"), 15);
        set.surveyed(&path("dir"), 11, true, 16);
        set.listed(path("dir/sub/picture"), true, 18);
        set.surveyed(&path("dir/sub"), 17, true, 18);
        assert_eq!(taken(&mut set, 18), ["dir"]);
        assert!(set.take_renames(60, 9).is_empty());
        let first = set.take_before_rename(200, 9).into_iter();
        let first: Vec<_> = first.map(|taken| taken.path.to_string()).collect();
        assert_eq!(first, ["dir/sub", "dir/sub/picture"]);
        assert_eq!(set.take_renames(200, 9).len(), 1);
    }

    #[test]
    fn what_comes_after_the_rename_of_a_file_waits_for_it() {
        let mut set = set();
        set.closed(path("before"), 9);
        set.renamed(path("index.new"), path("index"), false, 10);
        set.closed(path("after"), 11);
        assert_eq!(taken(&mut set, 11), ["before"]);
        assert_eq!(set.take_renames(20, 9).len(), 1);
        assert_eq!(taken(&mut set, 20), ["after"]);
        // One that may be an editor's takes long, and is waited for only where it matters.
        set.renamed(path("index"), path("index.bak"), false, 30);
        set.closed(path("after"), 31);
        assert!(taken(&mut set, 40).is_empty());
        assert_eq!(taken(&mut set, 50), ["after"]);
    }

    #[test]
    fn what_comes_after_a_link_waits_until_it_is_looked_at() {
        let mut set = set();
        set.gone(path("page"), 9);
        set.created(path("link.new"), 10);
        set.renamed(path("link.new"), path("link"), false, 10);
        set.closed(path("page"), 10);
        assert!(taken(&mut set, 14).is_empty());
        let both: Vec<_> = taken(&mut set, 15);
        assert_eq!(both[both.len() - 2..], ["link", "page"]);
        // Also if everything is late.
        set.created(path("link"), 16);
        set.closed(path("page"), 17);
        assert_eq!(taken(&mut set, 1_000), ["link", "page"]);
        // Who writes to a file tells so, and when it is over.
        set.created(path("log"), 1_020);
        set.modified(path("log"), 1_020);
        set.closed(path("other"), 1_020);
        assert!(taken(&mut set, 1_020).contains(&"other".to_owned()));
        set.created(path("short"), 1_030);
        set.created(path("gone"), 1_030);
        set.closed(path("short"), 1_031);
        set.gone(path("gone"), 1_031);
        set.closed(path("after"), 1_031);
        assert!(taken(&mut set, 1_031).ends_with(&["short".to_owned(), "after".to_owned()]));
    }

    #[test]
    fn nothing_waits_longer_than_it_must() {
        let mut set = set();
        set.entered(path("old"), 0);
        set.closed(path("index"), 1);
        set.surveyed(&WirePath::root(), 1, false, 2);
        assert_eq!(taken(&mut set, 3), ["index"]);
        set.entered(path("gone"), 10);
        set.closed(path("index"), 11);
        set.gone(path("gone"), 12);
        assert_eq!(taken(&mut set, 12), ["index", "gone"]);
        set.entered(path("never listed"), 20);
        set.closed(path("index"), 21);
        assert!(taken(&mut set, 9_000).is_empty());
        assert_eq!(taken(&mut set, 20 + FENCE_MAX_MS), ["index"]);
    }

    #[test]
    fn a_renamed_directory_holds_back_under_its_new_name() {
        let mut set = set();
        set.created_dir(path("tmp"), 0);
        set.entered(path("tmp/sub"), 0);
        set.renamed(path("tmp"), path("final"), true, 1);
        set.closed(path("index"), 2);
        assert_eq!(taken(&mut set, 2), ["final"]);
        set.surveyed(&path("final"), 2, false, 3);
        assert_eq!(taken(&mut set, 10), ["index"]);
    }

    #[test]
    fn fences_are_bounded() {
        let mut set = set();
        for index in 0..2 * FENCES_MAX {
            set.entered(path(&index.to_string()), 0);
        }
        assert_eq!(set.fences.len(), FENCES_MAX);
    }
}
