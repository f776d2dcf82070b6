//! What cannot be watched: it is tried again and compared after a while, at first soon, then less and less often.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use syncd_proto::path::WirePath;

use super::Source;
use super::queue::{Chore, Queue};
use crate::fs::watch::WatchError;

/// How long what cannot be watched is left alone at first.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How often it is compared at least, however often it failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Source {
    /// A directory cannot be watched.
    pub(super) fn unwatched(&self, dir: &WirePath, error: &WatchError) {
        let mut queue = self.lock();
        if queue.unwatched.is_empty() {
            let source = self.root.path().display();
            tracing::warn!(%source, path = %dir, "not watched, compared every {} s instead: {error}", PAUSE_MAX.as_secs());
        }
        let walk = queue.walk;
        queue
            .unwatched
            .insert(dir.clone(), (error.to_string(), walk));
        let due = Instant::now() + queue.unwatched_pause.unwrap_or(PAUSE_MIN);
        queue.unwatched_due.get_or_insert(due);
    }

    /// A directory cannot be listed, though perhaps it is watched: what is new in it is not known.
    pub(super) fn unlisted(&self, dir: &WirePath, error: &std::io::Error) {
        if !self.lock().is_unwatched_now(dir) {
            self.unwatched(
                dir,
                &WatchError::Other(format!("cannot be listed: {error}")),
            );
        }
    }

    /// Watching could not begin: waits a while, then has everything compared.
    pub(super) fn not_watching(&self, error: &WatchError) {
        self.unwatched(&WirePath::root(), error);
        let mut queue = self.lock();
        queue.chores.clear();
        queue.initial_done = true;
        let pause = queue.next_pause();
        queue.unwatched_due = None;
        drop(queue);
        // Nobody has to wait for a watcher that is not there.
        self.barrier_sent.send_replace((u64::MAX, 0));
        self.scanned.send_modify(|passes| *passes += 1);
        self.targets.iter().for_each(|target| target.watched());
        self.compare(&WirePath::root());
        let until = Instant::now() + pause;
        let mut queue = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if queue.stopping || left.is_zero() {
                return;
            }
            queue.chores.clear();
            let waited = self.wake.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Watching has begun, perhaps after it could not for a while.
    pub(super) fn watching(&self) {
        let mut queue = self.lock();
        if queue.unwatched.is_empty() {
            return;
        }
        queue.initial_done = false;
        queue.walk += 1;
        queue
            .chores
            .insert(WirePath::root(), Chore::WatchThenCompare);
        queue.barrier_issued = queue.barrier_wanted;
        let asked = queue.barrier_wanted;
        self.barrier_sent.send_replace((asked, 0));
    }

    /// Whoever wants to know that everything was seen has to wait for what nobody is told of.
    pub(super) fn compare_unwatched(&self) {
        let tops = self.lock().unwatched_tops();
        tops.iter().for_each(|path| self.compare(path));
    }

    /// What cannot be watched and is to be tried again now.
    pub(super) fn unwatched_due(&self) -> Vec<WirePath> {
        let mut queue = self.lock();
        if queue.unwatched_due.is_none_or(|due| due > Instant::now()) {
            return Vec::new();
        }
        queue.unwatched_due = None;
        queue.unwatched_pause = Some(queue.next_pause());
        queue.unwatched_tops()
    }
}

impl Queue {
    /// Directories that cannot be watched, without those below others.
    fn unwatched_tops(&self) -> Vec<WirePath> {
        let mut tops: Vec<WirePath> = Vec::new();
        for path in self.unwatched.keys() {
            if !tops.last().is_some_and(|top| path.starts_with(top)) {
                tops.push(path.clone());
            }
        }
        tops
    }

    /// Whether this walk has found already that a directory cannot be watched.
    fn is_unwatched_now(&self, dir: &WirePath) -> bool {
        self.unwatched
            .get(dir)
            .is_some_and(|(_, walk)| *walk == self.walk)
    }

    /// Twice the last pause.
    fn next_pause(&mut self) -> Duration {
        let pause = self.unwatched_pause.map_or(PAUSE_MIN, |last| last * 2);
        let pause = pause.min(PAUSE_MAX);
        self.unwatched_pause = Some(pause);
        pause
    }

    /// A walk of `path` is over: what it did not find unwatched is watched, or gone. Returns whether nothing is unwatched
    /// any more.
    pub(super) fn walked(&mut self, path: &WirePath) -> bool {
        let (walk, before) = (self.walk, self.unwatched.len());
        self.unwatched
            .retain(|dir, (_, seen)| *seen == walk || !dir.starts_with(path));
        self.walk += 1;
        if self.unwatched.is_empty() {
            (self.unwatched_due, self.unwatched_pause) = (None, None);
        }
        before > 0 && self.unwatched.is_empty()
    }
}
