//! What the scanner of a source does: watches, lists, asks for barriers.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use syncd_proto::meta::Kind;
use syncd_proto::path::WirePath;

use super::queue::{Chore, Shaken, Work, take_work};
use super::{Source, is_recent};
use crate::fs::scan;
use crate::fs::watch::{WatchError, Watched, Watcher};

/// How often the root is compared with the one of the start: an unmount that waits for nobody, or a rename
/// above the root, tells nobody.
const IDENTITY_CHECK: Duration = Duration::from_secs(5);

/// After everything was watched again it is not done once more before this many times as long has passed: a
/// directory renamed every moment costs a part of the time, not all of it.
const SWEEP_PAUSE: u32 = 8;

/// Most of that time.
const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(10);

impl Source {
    /// Waits for the next thing to do; `None` once the watching is to end.
    pub(super) fn next_chore(&self) -> Option<Work> {
        let mut queue = self.lock();
        queue.busy = false;
        loop {
            if queue.stopping {
                return None;
            }
            if let Some(work) = take_work(&mut queue) {
                queue.busy = true;
                queue.scanned_since |= !matches!(work, Work::Barrier(_) | Work::Settle);
                return Some(work);
            }
            if !queue.initial_done {
                queue.initial_done = true;
            }
            self.scanned.send_modify(|passes| *passes += 1);
            let due = [queue.sweep, queue.unwatched_due, queue.identity_due];
            let due = due.into_iter().flatten().min();
            let until = due.map(|at| at.saturating_duration_since(Instant::now()));
            let until = until.unwrap_or_default();
            let (next, _) = self
                .wake
                .wait_timeout(queue, until)
                .unwrap_or_else(PoisonError::into_inner);
            queue = next;
            if queue.identity_due.is_none_or(|due| due <= Instant::now()) {
                queue.identity_due = Some(Instant::now() + IDENTITY_CHECK);
                drop(queue);
                self.check_mounts();
                let listed_ahead = self.is_listed_ahead();
                queue = self.lock();
                queue.scanned_since |= listed_ahead;
            }
            let is_time = queue.unwatched_due.is_some_and(|due| due <= Instant::now());
            if is_time && queue.sweep.is_none() {
                drop(queue);
                let paths = self.unwatched_due();
                paths.iter().for_each(|path| self.rescan(path));
                queue = self.lock();
            }
        }
    }

    /// Does it.
    pub(super) fn do_chore(&self, watcher: &mut dyn Watcher, work: Work) {
        match work {
            Work::Barrier(wanted) => {
                let number = self.ask_barrier(watcher).unwrap_or_else(|error| {
                    tracing::warn!("cannot synchronise with the watcher: {error}");
                    0
                });
                self.barrier_sent.send_replace((wanted, number));
            }
            Work::Settle => {
                let number = self.ask_barrier(watcher).unwrap_or(0);
                self.lock().scan_barrier = number;
            }
            Work::Watch(path, chore) => {
                let begun = self.targets.first().map_or(0, |target| target.now());
                let recent = self.watch_below(watcher, &path, chore);
                self.mark(|dirty, now| dirty.surveyed(&path, begun, recent, now));
                // What this went into may be mounted since a moment ago: noted before any of it is sent.
                self.root.mounts().is_whole();
                let compares = matches!(chore, Chore::WatchThenCompare | Chore::MarkAndCompare);
                if compares && self.selection.includes(&path, true) {
                    self.lock().rescans += 1;
                    self.compare(&path);
                }
                if path.is_root() {
                    self.targets.iter().for_each(|target| target.watched());
                }
            }
            Work::Sweep => self.sweep(watcher),
        }
    }

    /// Looks whether the root is still the same, and what was mounted or unmounted below it.
    pub(super) fn check_mounts(&self) {
        match self.root.check_identity() {
            Ok(true) => self.root_back(),
            Ok(false) => return self.root_gone(),
            // That says nothing.
            Err(_) => {}
        }
        for path in self.root.mounts().news() {
            tracing::warn!(source = %self.root.path().display(), %path, "mounted or unmounted: compared again");
            self.mark(|dirty, now| dirty.attrib(path.clone(), now));
            self.rescan(&path);
        }
        if self.root.mounts().is_whole() {
            for target in &self.targets {
                target.update(|state, _| state.brake.mounts_back());
            }
        }
    }

    /// Watches everything again and has it compared: what was missed, and where, is not known.
    fn sweep(&self, watcher: &mut dyn Watcher) {
        let begun = Instant::now();
        let why = self.lock().sweeping.clone();
        let source = self.root.path().display();
        match why.as_ref().and_then(Shaken::text) {
            Some(text) => tracing::warn!(%source, "{text}"),
            None => tracing::debug!(%source, "directories moved: everything is compared again"),
        }
        let refreshed = watcher.refresh();
        self.watch_below(watcher, &WirePath::root(), Chore::Watch);
        watcher.tidy();
        self.compare(&WirePath::root());
        let pause = (begun.elapsed() * SWEEP_PAUSE).min(SWEEP_PAUSE_MAX);
        let mut queue = self.lock();
        queue.rescans += 1;
        queue.sweep_not_before = Some(Instant::now() + pause);
        queue.sweeping = None;
        if let Err(error) = refreshed {
            queue.shake(Shaken::Failed(error.to_string()), SWEEP_PAUSE_MAX);
        }
    }

    /// Asks for a barrier, and notes what listings have told until now.
    fn ask_barrier(&self, watcher: &mut dyn Watcher) -> std::io::Result<u64> {
        let targets = self.targets.iter();
        let told = targets.map(|target| target.lock().dirty.listings());
        let told = told.collect();
        let number = watcher.barrier()?;
        self.lock().told = (number, told);
        if *self.barrier_passed.borrow() >= number {
            self.heard(number);
        }
        Ok(number)
    }

    /// Watches a directory and those below: watch, list, mark.
    /// Returns whether files were marked that may still be open.
    fn watch_below(&self, watcher: &mut dyn Watcher, path: &WirePath, chore: Chore) -> bool {
        let included = self.selection.includes(path, true);
        let recent = included && self.walk(watcher, path, chore);
        if self.lock().walked(path) {
            tracing::info!(source = %self.root.path().display(), "every directory is watched now");
        }
        recent
    }

    fn walk(&self, watcher: &mut dyn Watcher, path: &WirePath, chore: Chore) -> bool {
        let mut recent = false;
        let mut open = vec![path.clone()];
        while let Some(dir) = open.pop() {
            match watcher.watch(&dir) {
                Ok(watched) => {
                    if watched == Watched::Other && chore <= Chore::WatchThenCompare {
                        // Nobody told how it came here, and files in it may look like those of the one before.
                        self.mark(|dirty, now| dirty.compare_content(dir.clone(), now));
                    }
                    self.lock().met(&dir);
                }
                Err(WatchError::Gone) => continue,
                Err(error) => self.unwatched(&dir, &error),
            }
            let listed = if chore >= Chore::WatchAndMark {
                self.mark(|dirty, now| dirty.watched_from_now(&dir, now));
                self.mark_listed(&dir, &mut open)
            } else {
                self.list_dirs(&dir, &mut open).map(|()| false)
            };
            match listed {
                Ok(found) => recent |= found,
                Err(error) => self.unlisted(&dir, &error),
            }
        }
        recent
    }

    /// Marks what is in a directory; adds the directories in it to `open`. Returns whether there are files that may
    /// still be open.
    fn mark_listed(&self, dir: &WirePath, open: &mut Vec<WirePath>) -> std::io::Result<bool> {
        let mut any_recent = false;
        let listing = scan::list(&self.root, dir)?.unwrap_or_default();
        if listing.unnamed {
            self.has_unnamed(dir);
        }
        if let Some(path) = listing.reserved {
            self.is_reserved(&path);
        }
        for (below, meta) in listing.entries {
            let is_dir = meta.kind == Kind::Dir;
            if !self.selection.keeps(&below, is_dir) {
                continue;
            }
            let recent = meta.kind == Kind::File && is_recent(meta.mtime);
            any_recent |= recent;
            self.mark(|dirty, now| {
                if is_dir {
                    dirty.is_there_again(&below, now);
                }
                dirty.listed(below.clone(), recent, now);
            });
            if is_dir {
                open.push(below);
            }
        }
        Ok(any_recent)
    }

    fn list_dirs(&self, dir: &WirePath, open: &mut Vec<WirePath>) -> std::io::Result<()> {
        let names = scan::list_dirs(&self.root, dir)?;
        let below = names.iter().filter_map(|name| dir.join(name));
        open.extend(below.filter(|below| self.selection.keeps(below, true)));
        Ok(())
    }
}
