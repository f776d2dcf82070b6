//! The source: one directory tree watched once, for all of its targets.
//!
//! Events mark paths as dirty and do nothing else. A scanner thread adds watches: watch first, then
//! list, then mark what the listing shows, so that nothing made in between is missed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use syncd_proto::meta::Mtime;
use syncd_proto::path::WirePath;
use tokio::sync::watch;

use crate::fs::root::SourceRoot;
use crate::fs::watch::{self as watching, Backend, RawEvent, Sink, Touch, WatchError};
use crate::logic::coalesce::Millis;
use crate::pipeline::selection::Selection;
use crate::pipeline::target::Target;
use chores::UNWATCHED_SCAN;
use queue::{Chore, Queue};

mod chores;
mod queue;

/// How long an overflow, or a directory that could not be watched, waits before the rescan.
const RESCAN_MS: u64 = 200;

/// One source and its targets.
#[derive(Debug)]
pub struct Source {
    /// The tree.
    pub root: Arc<SourceRoot>,
    /// Where it goes.
    pub targets: Vec<Arc<Target>>,
    /// Which paths take part.
    selection: Arc<Selection>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Number the watcher gave to the newest barrier that was asked for.
    barrier_sent: watch::Sender<(u64, u64)>,
    barrier_passed: watch::Sender<u64>,
    scanned: watch::Sender<u64>,
}

/// What is known of the watching.
#[derive(Debug, Clone)]
pub struct WatchState {
    /// Directories watched.
    pub watched: usize,
    /// Directories that could not be watched, with the reason.
    pub unwatched: Vec<(WirePath, String)>,
    /// How often the kernel dropped events.
    pub overflows: u64,
    /// The first pass over the tree is done.
    pub initial_done: bool,
    /// Directories waiting to be watched.
    pub pending: usize,
    /// The root is gone.
    pub root_gone: Option<String>,
    /// How changes are noticed.
    pub backend: &'static str,
}

/// Delivers events of a watcher to the source.
struct Events(Arc<Source>);

impl Sink for Events {
    fn event(&mut self, event: RawEvent) {
        self.0.event(event);
    }
}

impl Source {
    /// A source whose watching has not begun.
    #[must_use]
    pub fn new(
        root: Arc<SourceRoot>,
        selection: Arc<Selection>,
        targets: Vec<Arc<Target>>,
    ) -> Arc<Self> {
        let mut queue = Queue::default();
        queue.chores.insert(WirePath::root(), Chore::Watch);
        Arc::new(Self {
            root,
            targets,
            selection,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            barrier_sent: watch::Sender::new((0, 0)),
            barrier_passed: watch::Sender::new(0),
            scanned: watch::Sender::new(0),
        })
    }

    /// Watches until [`Source::stop`]; runs on a thread of its own.
    ///
    /// # Errors
    /// If watching cannot begin at all.
    pub fn run(self: &Arc<Self>, backend: Backend) -> Result<(), WatchError> {
        self.lock().backend = match backend {
            Backend::Notify => "notify",
            Backend::Inotify => "inotify",
        };
        let sink = Box::new(Events(self.clone()));
        let mut watcher = watching::start(self.root.path(), backend, sink)?;
        for target in &self.targets {
            watcher
                .backlog()
                .into_iter()
                .for_each(|it| target.listen(it));
        }
        while let Some(work) = self.next_chore() {
            self.do_chore(&mut *watcher, work);
        }
        Ok(())
    }

    /// Ends the watching.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
        self.barrier_sent.send_replace((u64::MAX, 0));
        self.scanned.send_modify(|passes| *passes += 1);
    }

    /// What is known of the watching.
    #[must_use]
    pub fn watch_state(&self) -> WatchState {
        let queue = self.lock();
        WatchState {
            watched: queue.watched,
            unwatched: queue
                .unwatched
                .iter()
                .map(|(path, text)| (path.clone(), text.clone()))
                .collect(),
            overflows: queue.overflows,
            initial_done: queue.initial_done,
            pending: queue.chores.len() + queue.rewatch.len() + usize::from(queue.busy),
            root_gone: queue.root_gone.clone(),
            backend: queue.backend,
        }
    }

    /// Watching could not begin, or ended: everything is scanned on a timer instead.
    pub fn watching_failed(&self, text: &str) {
        tracing::error!(source = %self.root.path().display(), "not watched: {text}");
        let mut queue = self.lock();
        queue.unwatched.insert(WirePath::root(), text.to_owned());
        queue.chores.clear();
        queue.initial_done = true;
        drop(queue);
        self.barrier_sent.send_replace((u64::MAX, 0));
        self.targets.iter().for_each(|target| target.watched());
        self.scan_on_timer();
    }

    fn scan_on_timer(&self) {
        let mut queue = self.lock();
        while !queue.stopping {
            queue.chores.clear();
            let (next, timeout) = self
                .wake
                .wait_timeout(queue, UNWATCHED_SCAN)
                .unwrap_or_else(PoisonError::into_inner);
            queue = next;
            if timeout.timed_out() {
                drop(queue);
                self.compare(&WirePath::root());
                queue = self.lock();
            }
        }
    }

    /// Waits until every change made before this call has been seen and marked.
    pub async fn barrier(&self) {
        let mut passed = self.barrier_passed.subscribe();
        let mut scanned = self.scanned.subscribe();
        let wanted = {
            let mut queue = self.lock();
            queue.barrier_wanted += 1;
            queue.barrier_wanted
        };
        self.wake.notify_all();
        let mut sent = self.barrier_sent.subscribe();
        // If the watching has ended, nothing more will be seen either.
        let number = match sent.wait_for(|(asked, _)| *asked >= wanted).await {
            Ok(sent) => sent.1,
            Err(_) => return,
        };
        let _ = passed.wait_for(|passed| *passed >= number).await;
        while !self.is_scanned() {
            if scanned.changed().await.is_err() {
                return;
            }
        }
    }

    /// Everything below a directory is to be compared again, and watched again.
    pub fn rescan(&self, path: &WirePath) {
        self.selection.forget();
        // In this order: what changes between a comparison and the watch would be missed.
        self.lock().add(path.clone(), Chore::WatchThenCompare);
        self.wake.notify_all();
    }

    fn compare(&self, path: &WirePath) {
        for target in &self.targets {
            target.update(|state, now| state.dirty.compare(path.clone(), now));
        }
    }

    fn is_scanned(&self) -> bool {
        let queue = self.lock();
        queue.stopping
            || (queue.chores.is_empty()
                && queue.rewatch.is_empty()
                && queue.overflow.is_none()
                && !queue.busy)
    }

    fn event(&self, event: RawEvent) {
        match event {
            RawEvent::Touched { path, touch, dir } => {
                self.rules_touched(&path, touch, dir);
                self.selected(path, touch, dir);
            }
            RawEvent::Renamed { from, to, dir } => {
                self.rules_touched(&from, Touch::MovedOut, dir);
                self.rules_touched(&to, Touch::MovedIn, dir);
                self.renamed_selected(from, to, dir);
            }
            RawEvent::Overflow => self.overflow(),
            RawEvent::DirGone { path } if !self.selection.includes(&path, true) => {}
            RawEvent::DirGone { path } => self.mark(|dirty, now| dirty.gone(path.clone(), now)),
            RawEvent::Unheard { path } => self.unheard(path),
            RawEvent::RootGone => self.root_gone(),
            RawEvent::Failed { text } => {
                tracing::warn!(source = %self.root.path().display(), "watching: {text}");
                self.overflow();
            }
            RawEvent::Barrier(number) => {
                self.heard(number);
                self.barrier_passed
                    .send_modify(|passed| *passed = number.max(*passed));
            }
        }
    }

    /// Every event older than this barrier has been told: listings made before it are not ahead any more.
    fn heard(&self, barrier: u64) {
        let (asked, told) = self.lock().told.clone();
        if barrier >= asked {
            for (target, listings) in self.targets.iter().zip(told) {
                target.lock().dirty.heard(listings);
            }
        }
    }

    fn is_listed_ahead(&self) -> bool {
        let mut targets = self.targets.iter();
        targets.any(|target| target.lock().dirty.is_listed_ahead())
    }

    /// What directories say about themselves may be different now.
    fn rules_touched(&self, path: &WirePath, touch: Touch, dir: bool) {
        if self.selection.is_rules_file(path) && touch != Touch::Modified {
            self.rescan(&path.parent().unwrap_or_default());
        } else if dir && !matches!(touch, Touch::Attrib | Touch::Modified) {
            self.selection.forget();
        }
    }

    /// Passes on what takes part. What does not still changes the time of the directory it is in.
    fn selected(&self, path: WirePath, touch: Touch, dir: bool) {
        if self.selection.includes(&path, dir) {
            return self.touched(path, touch, dir);
        }
        let in_place = matches!(touch, Touch::Modified | Touch::Written | Touch::Attrib);
        if let Some(parent) = path.parent().filter(|_| !in_place)
            && self.selection.includes(&parent, true)
        {
            self.mark(|dirty, now| dirty.attrib(parent.clone(), now));
        }
    }

    /// A rename is one only between names that take part, and away from one that may go.
    fn renamed_selected(&self, from: WirePath, to: WirePath, dir: bool) {
        let both = self.selection.includes(&from, dir) && self.selection.includes(&to, dir);
        if !both || self.selection.protects(&from, dir, None) {
            // A file that an editor puts aside is mostly back at once: absence is then looked at twice.
            let aside = !dir && self.selection.includes(&from, dir);
            let left = if aside {
                Touch::Written
            } else {
                Touch::MovedOut
            };
            self.selected(to, Touch::MovedIn, dir);
            self.selected(from, left, dir);
            return;
        }
        self.renamed(from, to.clone(), dir);
        if dir && self.selection.depends_on_place() {
            self.rescan(&to);
        }
    }

    fn touched(&self, path: WirePath, touch: Touch, dir: bool) {
        if path.is_reserved() {
            return;
        }
        self.mark(|dirty, now| match touch {
            Touch::Created if dir => dirty.created_dir(path.clone(), now),
            Touch::Created => dirty.created(path.clone(), now),
            Touch::Modified => dirty.modified(path.clone(), now),
            Touch::Written => dirty.closed(path.clone(), now),
            Touch::MovedIn => {
                if dir {
                    dirty.is_there_again(&path, now);
                }
                dirty.written(path.clone(), now);
            }
            Touch::Attrib => dirty.attrib(path.clone(), now),
            Touch::Removed => dirty.removed(path.clone(), now),
            Touch::MovedOut => dirty.gone(path.clone(), now),
        });
        if !dir {
            return;
        }
        let mut queue = self.lock();
        match touch {
            Touch::Created | Touch::MovedIn => {
                queue.add(path, Chore::WatchAndMark);
            }
            // The watcher drops the watches of what is gone by itself.
            Touch::Removed | Touch::MovedOut | Touch::Written | Touch::Modified | Touch::Attrib => {
                return;
            }
        }
        drop(queue);
        self.wake.notify_all();
    }

    fn renamed(&self, from: WirePath, to: WirePath, dir: bool) {
        let mut rescan = false;
        for target in &self.targets {
            rescan |= target.update(|state, now| {
                if dir && (state.comparing || state.checking) {
                    // The comparison may still be about to find things under the old name.
                    state.dirty.compare(to.clone(), now);
                }
                state.dirty.renamed(from.clone(), to.clone(), dir, now)
            });
        }
        if !dir {
            return;
        }
        let mut queue = self.lock();
        // Directories still to be watched moved along.
        let moved: Vec<_> = queue
            .chores
            .keys()
            .filter(|path| path.starts_with(&from))
            .cloned()
            .collect();
        for path in moved {
            let chore = queue.chores.remove(&path);
            let tail = path.strip_prefix(&from);
            if let (Some(chore), Some(path)) = (chore, tail.and_then(|tail| to.join_path(&tail))) {
                queue.add(path, chore);
            }
        }
        if rescan {
            queue.add(to.clone(), Chore::WatchAndMark);
        }
        let listed_ahead = queue.busy || queue.scan_barrier > *self.barrier_passed.borrow();
        if listed_ahead {
            // A listing made meanwhile may have seen the new name before we were told of it.
            queue.add(from.clone(), Chore::WatchThenCompare);
            queue.add(to.clone(), Chore::WatchThenCompare);
        }
        queue.rewatch.push((from.clone(), to.clone()));
        drop(queue);
        self.wake.notify_all();
    }

    /// The watches of a directory were lost for a while.
    fn unheard(&self, path: WirePath) {
        self.lock().add(path, Chore::MarkAndCompare);
        self.wake.notify_all();
    }

    fn overflow(&self) {
        let mut queue = self.lock();
        queue.overflows += 1;
        queue.overflow = Some(Instant::now() + Duration::from_millis(RESCAN_MS));
        drop(queue);
        self.wake.notify_all();
    }

    fn root_gone(&self) {
        if self.lock().root_gone.is_some() {
            return;
        }
        let reason = format!("{} is gone", self.root.path().display());
        tracing::error!(
            "{reason}: nothing is removed at the targets; mount or restore it and restart"
        );
        self.lock().root_gone = Some(reason.clone());
        for target in &self.targets {
            target.update(|state, now| state.brake.root_lost(reason.clone(), now));
        }
    }

    fn mark(&self, mut change: impl FnMut(&mut crate::logic::coalesce::DirtySet, Millis)) {
        for target in &self.targets {
            target.mark(&mut change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file was written so lately that it may still be open.
pub(super) fn is_recent(mtime: Mtime) -> bool {
    let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else {
        return false;
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    (0..=1).contains(&now.saturating_sub(mtime.secs()))
}
