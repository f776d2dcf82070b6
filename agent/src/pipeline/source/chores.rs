//! What the scanner of a source does: watches, lists, asks for barriers.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use syncd_proto::meta::Kind;
use syncd_proto::path::WirePath;

use super::queue::{Chore, Work, take_work};
use super::{Source, is_recent};
use crate::fs::scan;
use crate::fs::watch::{WatchError, Watcher};

/// How often directories that cannot be watched are scanned.
pub(super) const UNWATCHED_SCAN: Duration = Duration::from_secs(30);

/// How often the root is compared with the one of the start: an unmount that waits for nobody, or a rename
/// above the root, tells nobody.
const IDENTITY_CHECK: Duration = Duration::from_secs(5);

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
            let until = match queue.overflow {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => IDENTITY_CHECK,
            };
            let (next, timeout) = self
                .wake
                .wait_timeout(queue, until)
                .unwrap_or_else(PoisonError::into_inner);
            queue = next;
            if timeout.timed_out() && queue.overflow.is_none() && queue.root_gone.is_none() {
                drop(queue);
                if matches!(self.root.check_identity(), Ok(false)) {
                    self.root_gone();
                }
                let listed_ahead = self.is_listed_ahead();
                queue = self.lock();
                queue.scanned_since |= listed_ahead;
            }
            let is_time = queue.unwatched_due.is_some_and(|due| due <= Instant::now());
            if is_time && queue.overflow.is_none() {
                queue.unwatched_due = None;
                let paths: Vec<_> = std::mem::take(&mut queue.unwatched).into_keys().collect();
                drop(queue);
                for path in &paths {
                    self.rescan(path);
                }
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
            Work::Rewatch(from, to) => {
                if watcher.needs_rewatch() {
                    if let Err(error) = watcher.rewatch_after_rename(&from, &to) {
                        self.unwatched(&to, &error);
                    }
                    self.watch_below(watcher, &to, Chore::Watch);
                    // Events between the rename and the new watches are lost: compare.
                    self.compare(&to);
                    // A directory that has the old name by now lost its watches too.
                    if self.is_dir(&from) {
                        self.watch_below(watcher, &from, Chore::Watch);
                        self.compare(&from);
                    }
                }
            }
            Work::Settle => {
                let number = self.ask_barrier(watcher).unwrap_or(0);
                self.lock().scan_barrier = number;
            }
            Work::Watch(path, chore) => {
                self.watch_below(watcher, &path, chore);
                let compares = matches!(chore, Chore::WatchThenCompare | Chore::MarkAndCompare);
                if compares && self.selection.includes(&path, true) {
                    self.compare(&path);
                }
                if path.is_root() {
                    self.targets.iter().for_each(|target| target.watched());
                }
            }
            Work::Overflow => {
                tracing::warn!(
                    source = %self.root.path().display(),
                    "the kernel dropped events (fs.inotify.max_queued_events): comparing everything"
                );
                self.watch_below(watcher, &WirePath::root(), Chore::Watch);
                self.compare(&WirePath::root());
            }
        }
        let watched = watcher.watched();
        self.lock().watched = watched;
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
    fn watch_below(&self, watcher: &mut dyn Watcher, path: &WirePath, chore: Chore) {
        if !self.selection.includes(path, true) {
            return;
        }
        let mut open = vec![path.clone()];
        while let Some(dir) = open.pop() {
            match watcher.watch(&dir) {
                Ok(_) => {
                    self.lock().unwatched.remove(&dir);
                }
                Err(WatchError::Gone) => continue,
                Err(error) => self.unwatched(&dir, &error),
            }
            let listed = if chore >= Chore::WatchAndMark {
                self.mark_listed(&dir, &mut open)
            } else {
                self.list_dirs(&dir, &mut open)
            };
            if let Err(error) = listed {
                tracing::warn!(path = %dir, "cannot list: {error}");
            }
        }
    }

    /// Marks what is in a directory; adds the directories in it to `open`.
    fn mark_listed(&self, dir: &WirePath, open: &mut Vec<WirePath>) -> std::io::Result<()> {
        for (name, meta) in scan::list(&self.root, dir)?.unwrap_or_default() {
            let Some(below) = dir.join(&name) else {
                continue;
            };
            let is_dir = meta.kind == Kind::Dir;
            if !self.selection.keeps(&below, is_dir) {
                continue;
            }
            let recent = meta.kind == Kind::File && is_recent(meta.mtime);
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
        Ok(())
    }

    fn list_dirs(&self, dir: &WirePath, open: &mut Vec<WirePath>) -> std::io::Result<()> {
        let names = scan::list_dirs(&self.root, dir)?;
        let below = names.iter().filter_map(|name| dir.join(name));
        open.extend(below.filter(|below| self.selection.keeps(below, true)));
        Ok(())
    }

    fn is_dir(&self, path: &WirePath) -> bool {
        let entry = self.root.stat(path);
        entry.is_ok_and(|entry| entry.is_some_and(|entry| entry.kind == Kind::Dir))
    }

    fn unwatched(&self, dir: &WirePath, error: &WatchError) {
        let mut queue = self.lock();
        if queue.unwatched.is_empty() {
            tracing::warn!(path = %dir, "not watched, scanned every {} s instead: {error}", UNWATCHED_SCAN.as_secs());
        }
        queue.unwatched.insert(dir.clone(), error.to_string());
        let due = Instant::now() + UNWATCHED_SCAN;
        queue.unwatched_due.get_or_insert(due);
    }
}
