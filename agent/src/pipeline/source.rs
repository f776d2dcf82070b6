//! The source: one directory tree watched once, for all of its targets.
//!
//! Events mark paths as dirty and do nothing else. A scanner thread adds watches: watch first, then
//! list, then mark what the listing shows, so that nothing made in between is missed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use syncd_proto::meta::Mtime;
use syncd_proto::path::{Name, WirePath};
use tokio::sync::watch;

use crate::fs::root::SourceRoot;
use crate::fs::scan::{ScanProblem, Unscanned};
use crate::fs::watch::{self as watching, Backend, Census, RawEvent, Sink, Touch, Watcher};
use crate::logic::coalesce::Millis;
use crate::pipeline::selection::Selection;
use crate::pipeline::target::Target;
use queue::{Chore, Queue, Shaken};

mod chores;
mod queue;
mod unwatched;

/// How long an overflow, or a directory that could not be watched, waits before the rescan.
const RESCAN: Duration = Duration::from_millis(200);

/// How long a directory is left alone after entries came or went that no message can name, in milliseconds: they may be
/// many.
const UNNAMED_MS: Millis = 200;

/// Most paths of which is remembered that they were told to be left out; others are not told before a comparison meets
/// them.
const RESERVED_MAX: usize = 256;

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
    census: OnceLock<Arc<dyn Census>>,
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
    /// How often something was watched and compared again.
    pub rescans: u64,
    /// Why everything is about to be compared again, if something was missed.
    pub shaken: Option<String>,
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
        root.mounts();
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
            census: OnceLock::new(),
        })
    }

    /// Watches until [`Source::stop`]; runs on a thread of its own. As long as watching cannot begin,
    /// everything is compared now and then instead.
    pub fn run(self: &Arc<Self>, backend: Backend) {
        self.lock().backend = match backend {
            Backend::Notify => "notify",
            Backend::Inotify => "inotify",
        };
        while !self.lock().stopping {
            let sink = Box::new(Events(self.clone()));
            match watching::start(self.root.path(), backend, sink) {
                Ok(watcher) => return self.work(watcher),
                Err(error) => self.not_watching(&error),
            }
        }
    }

    fn work(&self, mut watcher: Box<dyn Watcher>) {
        for target in &self.targets {
            watcher
                .backlog()
                .into_iter()
                .for_each(|it| target.listen(it));
        }
        // Once; a source has one watcher.
        let _ = self.census.set(watcher.census());
        self.watching();
        while let Some(work) = self.next_chore() {
            self.do_chore(&mut *watcher, work);
        }
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
        // Before the lock: who tells events holds the watcher's, and takes ours.
        let watched = self.census.get().map_or(0, |census| census.watched());
        let queue = self.lock();
        WatchState {
            watched,
            unwatched: queue
                .unwatched
                .iter()
                .map(|(path, (text, _))| (path.clone(), text.clone()))
                .collect(),
            overflows: queue.overflows,
            rescans: queue.rescans,
            shaken: queue.trouble(),
            initial_done: queue.initial_done,
            pending: queue.chores.len()
                + usize::from(queue.sweep.is_some())
                + usize::from(queue.busy),
            root_gone: queue.root_gone.clone(),
            backend: queue.backend,
        }
    }

    /// Waits until every change made before this call has been seen and marked.
    pub async fn barrier(&self) {
        self.check_mounts();
        self.compare_unwatched();
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
        if *path == WirePath::root() {
            self.selection.forget_above();
        }
        self.selection.forget();
        // In this order: what changes between a comparison and the watch would be missed.
        self.lock().add(path.clone(), Chore::WatchThenCompare);
        self.wake.notify_all();
    }

    /// A directory has, or had, entries that no message can name: a comparison says so, or that they are gone.
    fn has_unnamed(&self, dir: &WirePath) {
        if self.selection.includes(dir, true) {
            self.mark(|dirty, now| dirty.compare(dir.clone(), now + UNNAMED_MS));
        }
    }

    /// Something came under the name that the receiver keeps for itself: that is told once, as far as paths are remembered.
    fn is_reserved(&self, path: &WirePath) {
        let known = &mut self.lock().reserved;
        if known.len() < RESERVED_MAX && known.insert(path.clone()) {
            let (path, what) = (path.clone(), Unscanned::Reserved);
            tracing::warn!(source = %self.root.path().display(), "{}", ScanProblem { path, what });
        }
    }

    fn compare(&self, path: &WirePath) {
        for target in &self.targets {
            target.update(|state, now| state.dirty.compare_unheard(path, now));
        }
    }

    fn is_scanned(&self) -> bool {
        let queue = self.lock();
        queue.stopping || (queue.chores.is_empty() && queue.sweep.is_none() && !queue.busy)
    }

    fn event(&self, event: RawEvent) {
        tracing::trace!(?event);
        match event {
            RawEvent::Touched { path, touch, dir } => {
                self.rules_touched(&path, touch, dir);
                self.selected(path, touch, dir);
            }
            RawEvent::Renamed { from, to, dir } => {
                self.rules_touched(&from, Touch::MovedOut, dir);
                self.rules_touched(&to, Touch::MovedIn, dir);
                if dir {
                    self.root.mounts().renamed(&from, &to);
                }
                self.renamed_selected(from, to, dir);
            }
            RawEvent::Unnamed { dir } => self.has_unnamed(&dir),
            RawEvent::Overflow => {
                self.lock().overflows += 1;
                self.shaken(Shaken::Overflow, RESCAN);
            }
            RawEvent::DirGone { path } if !self.selection.includes(&path, true) => {}
            RawEvent::DirGone { path } => self.mark(|dirty, now| {
                dirty.gone(path.clone(), now);
                dirty.was_dir(&path);
            }),
            RawEvent::Unheard => self.shaken(Shaken::Moved, Duration::ZERO),
            RawEvent::RootGone => self.root_gone(),
            RawEvent::Failed { text } => self.shaken(Shaken::Failed(text), RESCAN),
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
        let ruled = self.selection.ruled_by(path);
        if let Some(dir) = ruled.filter(|_| touch != Touch::Modified) {
            self.rescan(&dir);
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
            let is_reserved = path.file_name().is_some_and(Name::is_reserved);
            if is_reserved && matches!(touch, Touch::Created | Touch::MovedIn) {
                self.is_reserved(&path);
            }
        }
    }

    /// A rename is one only between names that take part, and away from one that may go, with all that is in it.
    fn renamed_selected(&self, from: WirePath, to: WirePath, dir: bool) {
        let both = self.selection.includes(&from, dir) && self.selection.includes(&to, dir);
        let is_alike = !dir || self.selection.protects_alike(&from, &to);
        if !both || !is_alike || self.selection.protects(&from, dir, None) {
            // A file that an editor puts aside is mostly back at once: absence is then looked at twice.
            let aside = !dir && self.selection.includes(&from, dir);
            let left = if aside {
                Touch::Written
            } else {
                Touch::MovedOut
            };
            self.selected(to, Touch::MovedIn, dir);
            self.selected(from.clone(), left, dir);
            if dir && both && matches!(self.root.stat(&from), Ok(Some(_))) {
                // Swapped with another, in which files may look alike.
                self.mark(|dirty, now| dirty.compare_content(from.clone(), now));
            }
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
            Touch::Created if dir => {
                dirty.created_dir(path.clone(), now);
                dirty.entered(path.clone(), now);
            }
            Touch::Created => dirty.created(path.clone(), now),
            Touch::Modified => dirty.modified(path.clone(), now),
            Touch::Written => dirty.closed(path.clone(), now),
            Touch::MovedIn => {
                if dir {
                    dirty.is_there_again(&path, now);
                }
                dirty.written(path.clone(), now);
                if dir {
                    dirty.entered(path.clone(), now);
                }
            }
            Touch::Attrib => dirty.attrib(path.clone(), now),
            // At once: whoever takes the mark must not take a directory's name for a file's.
            Touch::Removed => {
                dirty.removed(path.clone(), now);
                if dir {
                    dirty.was_dir(&path);
                }
            }
            Touch::MovedOut => {
                dirty.gone(path.clone(), now);
                if dir {
                    dirty.was_dir(&path);
                }
            }
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
            target.mark_state(|state, now| {
                let is_ahead = state.dirty.is_listed_ahead();
                if dir && (state.comparing || state.checking || is_ahead) {
                    // A comparison may still be about to find things under the old name, or what it found under the new
                    // one has been sent already, and goes where the rename takes the place.
                    state.dirty.compare(to.clone(), now);
                }
                let unknown = state.dirty.renamed(from.clone(), to.clone(), dir, now);
                if dir && unknown {
                    state.dirty.entered(to.clone(), now);
                }
                rescan |= unknown;
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
        if queue.may_be_too_long(&from, &to) {
            queue.add(to.clone(), Chore::WatchThenCompare);
        }
        if listed_ahead {
            // A listing made meanwhile may have seen the new name before we were told of it.
            queue.add(from.clone(), Chore::WatchThenCompare);
            queue.add(to.clone(), Chore::WatchThenCompare);
        }
        drop(queue);
        self.wake.notify_all();
    }

    /// Everything is to be watched and compared again.
    fn shaken(&self, why: Shaken, pause: Duration) {
        self.lock().shake(why, pause);
        self.wake.notify_all();
    }

    fn root_gone(&self) {
        let reason = self.root.what_became();
        let known = self.lock().root_gone.replace(reason.clone());
        if known.is_some() {
            return;
        }
        tracing::error!(
            "{reason}; nothing is removed at the targets, and it goes on when the same directory is back"
        );
        for target in &self.targets {
            target.update(|state, now| state.brake.root_lost(reason.clone(), now));
        }
    }

    /// The root was moved or unmounted and is the same as before.
    fn root_back(&self) {
        if self.lock().root_gone.take().is_none() {
            return;
        }
        let text = format!("{} is back", self.root.path().display());
        for target in &self.targets {
            target.update(|state, _| state.brake.root_back());
        }
        self.shaken(Shaken::Failed(text), Duration::ZERO);
    }

    /// What is wrong with the rules in the source's directories: where, and what.
    pub fn rules_problem(&self) -> Option<(WirePath, String)> {
        self.selection.problem()
    }

    /// Whether the rules let a path take part.
    pub fn includes(&self, path: &WirePath, is_dir: bool) -> bool {
        self.selection.includes(path, is_dir)
    }

    /// Whether the root is not the one of the start at this moment.
    pub fn is_root_lost(&self) -> bool {
        self.lock().root_gone.is_some() || matches!(self.root.check_identity(), Ok(false))
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

/// Whether a time is less than so many milliseconds ago.
pub(super) fn is_younger(mtime: Mtime, age_ms: Millis) -> bool {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let then = u64::try_from(mtime.secs()).map(|secs| Duration::new(secs, mtime.nanos()));
    match (since, then) {
        (Ok(now), Ok(then)) => now
            .checked_sub(then)
            .is_some_and(|age| age < Duration::from_millis(age_ms)),
        _ => false,
    }
}
