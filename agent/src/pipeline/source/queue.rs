//! [`Queue`]: what the scanner of a source has to do, and which of it comes first.

use std::collections::BTreeMap;
use std::time::Instant;

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
    pub(super) rewatch: Vec<(WirePath, WirePath)>,
    pub(super) overflow: Option<Instant>,
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
    pub(super) unwatched: BTreeMap<WirePath, String>,
    /// When they are scanned.
    pub(super) unwatched_due: Option<Instant>,
    pub(super) overflows: u64,
    pub(super) watched: usize,
    pub(super) root_gone: Option<String>,
    pub(super) backend: &'static str,
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
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Work {
    Rewatch(WirePath, WirePath),
    Watch(WirePath, Chore),
    Overflow,
    /// Everything that was asked for has been listed.
    Settle,
    Barrier(u64),
}

/// The next thing to do, in the order that loses nothing: watches follow renames before anything is listed.
pub(super) fn take_work(queue: &mut Queue) -> Option<Work> {
    if !queue.rewatch.is_empty() {
        let (from, to) = queue.rewatch.remove(0);
        return Some(Work::Rewatch(from, to));
    }
    if let Some((path, chore)) = queue.chores.pop_first() {
        return Some(Work::Watch(path, chore));
    }
    if queue.overflow.is_some_and(|at| at <= Instant::now()) {
        queue.overflow = None;
        return Some(Work::Overflow);
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
