//! [`Queue`]: what the scanner of a source has to do, and which of it comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use syncd_proto::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};
use syncd_proto::path::WirePath;

/// What the scanner has to do for a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    /// Watch it and everything below; nothing is marked: a comparison follows.
    Watch,
    /// As before, and then compare it.
    WatchThenCompare,
    /// Watch it, and mark everything in and below it.
    WatchAndMark,
    /// As before, and then compare it: what went meanwhile cannot be marked.
    MarkAndCompare,
}

/// What the scanner has to do, and what is known of the watching.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) chores: BTreeMap<WirePath, Chore>,
    /// When everything is to be watched and compared again, if it is.
    pub(super) sweep: Option<Instant>,
    /// Before when no other such sweep begins.
    pub(super) sweep_not_before: Option<Instant>,
    /// Why the next sweep is needed.
    pub(super) shaken: Option<Shaken>,
    /// Why the one under way was.
    pub(super) sweeping: Option<Shaken>,
    pub(super) busy: bool,
    pub(super) initial_done: bool,
    pub(super) stopping: bool,
    pub(super) barrier_wanted: u64,
    pub(super) barrier_issued: u64,
    /// Barrier after the last listing: events told before it may be older than what was listed.
    pub(super) scan_barrier: u64,
    pub(super) scanned_since: bool,
    /// What listings had told each target when the barrier of this number was asked for.
    pub(super) told: (u64, Vec<u64>),
    /// Why a directory cannot be watched, and which walk found that.
    pub(super) unwatched: BTreeMap<WirePath, (String, u64)>,
    /// When they are tried again.
    pub(super) unwatched_due: Option<Instant>,
    /// How long they were left alone last time.
    pub(super) unwatched_pause: Option<Duration>,
    /// Counts the walks in which directories are watched.
    pub(super) walk: u64,
    pub(super) overflows: u64,
    pub(super) rescans: u64,
    pub(super) root_gone: Option<String>,
    /// The most names and bytes that the path of a directory had.
    pub(super) longest: (usize, usize),
    /// When the root and the mounts below it are looked at next.
    pub(super) identity_due: Option<Instant>,
    pub(super) backend: &'static str,
    /// What came under the name that the receiver keeps for itself, and was told.
    pub(super) reserved: BTreeSet<WirePath>,
}

impl Queue {
    /// Adds a chore; with one that is there already it becomes one that does what both do.
    pub(super) fn add(&mut self, path: WirePath, chore: Chore) {
        let there = self.chores.entry(path).or_insert(chore);
        *there = match (chore, *there) {
            (Chore::WatchThenCompare, Chore::WatchAndMark)
            | (Chore::WatchAndMark, Chore::WatchThenCompare) => Chore::MarkAndCompare,
            (one, other) => one.max(other),
        };
    }

    /// A directory has been met.
    pub(super) fn met(&mut self, path: &WirePath) {
        let (depth, bytes) = length(path);
        self.longest = (self.longest.0.max(depth), self.longest.1.max(bytes));
    }

    /// Whether something below a directory may have a path above the limits now that it has another name.
    pub(super) fn may_be_too_long(&self, from: &WirePath, to: &WirePath) -> bool {
        let (before, after) = (length(from), length(to));
        let depth = self.longest.0 + 1 + after.0;
        let bytes = self.longest.1 + NAME_BYTES_MAX + 1 + after.1;
        (after.0 > before.0 && depth > PATH_DEPTH_MAX + before.0)
            || (after.1 > before.1 && bytes > PATH_BYTES_MAX + before.1)
    }

    /// Everything is to be watched and compared again after `pause`, or when enough time has passed since it
    /// was last done.
    pub(super) fn shake(&mut self, why: Shaken, pause: Duration) {
        let at = Instant::now() + pause;
        let at = self.sweep_not_before.map_or(at, |before| at.max(before));
        self.sweep.get_or_insert(at);
        let graver = self.shaken.take().map_or(why.clone(), |old| old.max(why));
        self.shaken = Some(graver);
    }

    /// What is wrong until everything has been watched and compared again.
    pub(super) fn trouble(&self) -> Option<String> {
        let whys = self.shaken.iter().chain(&self.sweeping);
        whys.max()?.text()
    }
}

/// Names of a path, and bytes with what is between them.
fn length(path: &WirePath) -> (usize, usize) {
    let names = path.names();
    let bytes = names.iter().map(|name| name.as_bytes().len() + 1);
    (names.len(), bytes.sum())
}

/// Why everything is watched and compared again; the graver one counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shaken {
    /// Directories moved, and the backend lost track.
    Moved,
    /// The kernel dropped events.
    Overflow,
    /// The watcher failed.
    Failed(String),
}

impl Shaken {
    /// What to tell the user, if it is not all in the day's work.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Moved => None,
            Self::Overflow => Some(
                "the kernel dropped events (fs.inotify.max_queued_events): everything is compared again".to_owned(),
            ),
            Self::Failed(text) => Some(format!("{text}: everything is compared again")),
        }
    }
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Work {
    Watch(WirePath, Chore),
    Sweep,
    /// Everything that was asked for has been listed.
    Settle,
    Barrier(u64),
}

/// The next thing to do.
pub(super) fn take_work(queue: &mut Queue) -> Option<Work> {
    if let Some((path, chore)) = queue.chores.pop_first() {
        return Some(Work::Watch(path, chore));
    }
    if queue.sweep.is_some_and(|at| at <= Instant::now()) {
        queue.sweep = None;
        queue.sweeping = queue.shaken.take();
        return Some(Work::Sweep);
    }
    if queue.scanned_since {
        queue.scanned_since = false;
        return Some(Work::Settle);
    }
    if queue.barrier_issued < queue.barrier_wanted {
        queue.barrier_issued = queue.barrier_wanted;
        return Some(Work::Barrier(queue.barrier_issued));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_name_may_make_paths_below_too_long() {
        let path = |text: &str| WirePath::from_relative(text.as_ref()).unwrap();
        let mut queue = Queue::default();
        queue.met(&path(&vec!["d"; PATH_DEPTH_MAX - 2].join("/")));
        queue.met(&path("other"));
        assert!(!queue.may_be_too_long(&path("d"), &path("longer name")));
        assert!(!queue.may_be_too_long(&path("d"), &path("x/d")));
        assert!(queue.may_be_too_long(&path("d"), &path("x/y/d")));
        assert!(!queue.may_be_too_long(&path("x/y/d"), &path("d")));
        queue.met(&path(&vec!["n".repeat(255); 254].join("/")));
        assert!(!queue.may_be_too_long(&path("d"), &path(&"d".repeat(200))));
        let long = ["x".repeat(150), "d".repeat(200)].join("/");
        assert!(queue.may_be_too_long(&path("d"), &path(&long)));
    }

    #[test]
    fn lost_events_are_wrong_until_all_was_watched_again_and_not_longer() {
        let mut queue = Queue::default();
        queue.shake(Shaken::Moved, Duration::ZERO);
        assert_eq!(queue.trouble(), None);
        queue.shake(Shaken::Overflow, Duration::ZERO);
        assert!(queue.trouble().is_some());
        assert!(matches!(take_work(&mut queue), Some(Work::Sweep)));
        // Directories that move meanwhile need another pass, but nothing is lost by it.
        queue.shake(Shaken::Moved, Duration::ZERO);
        assert!(queue.trouble().is_some());
        queue.sweeping = None;
        assert_eq!(queue.trouble(), None);
        assert!(matches!(take_work(&mut queue), Some(Work::Sweep)));
        assert_eq!(queue.trouble(), None);
    }
}
