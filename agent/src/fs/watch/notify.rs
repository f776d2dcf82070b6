//! The `notify` backend: always NonRecursive, one watch for each directory (its recursive mode loses
//! files of a copy without a word).
//!
//! notify knows its watches by name. When a directory departs it drops the watches of that name and of
//! all names below, a moment later and whoever has those names by then, and until then it tells what
//! happens in a renamed directory under the old name. None of that is followed here: every departure is
//! told as [`RawEvent::Unheard`], upon which [`Watcher::refresh`] compares the notes with what notify
//! holds and with the disk, the caller watches what is missing, and compares.
//!
//! notify removes watches by path and each removal looks at all of them: not for large sources.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::{
    Config, Error, ErrorKind, Event, EventKindMask, INotifyWatcher, RecursiveMode, WatchPathConfig,
    Watcher as _,
};
use syncd_proto::path::WirePath;

use super::barrier::BarrierDir;
use super::limits::{Limit, limit};
use super::{Backlog, Census, RawEvent, Sink, WatchError, Watched, Watcher};
use crate::fs::root::{self, Identity, SourceRoot};

mod hear;
#[cfg(test)]
mod tests;

/// See the module.
pub(super) struct NotifyWatcher {
    inner: INotifyWatcher,
    root: SourceRoot,
    /// The root without symlinks: notify takes and gives absolute paths.
    place: PathBuf,
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the flusher: half a rename is waiting, or the end has come.
    half: Condvar,
}

struct State {
    sink: Box<dyn Sink>,
    place: PathBuf,
    barrier: BarrierDir,
    /// Which directory each watch was set for. notify may hold less, never another directory under a
    /// name that is noted: it is asked to drop a name before another directory gets it.
    watched: BTreeMap<WirePath, Identity>,
    /// The same of watches that were dropped by the last refresh, and not set again.
    before: BTreeMap<WirePath, Identity>,
    /// Paths whose notes events took since the last refresh: notify may hold them still, for the directories that had these
    /// names, since it drops what is below a name only where it holds that name.
    lost: HashSet<WirePath>,
    /// Which of notify's instances is listened to.
    generation: u64,
    /// Events were lost: notify's own notes are worth nothing.
    overflowed: bool,
    departed: Option<Departed>,
    /// Names that directories departed from since the last refresh: what is told below them may have
    /// happened elsewhere.
    stale: Vec<WirePath>,
    /// Events after a first half, which must not be told before it.
    held: Vec<RawEvent>,
    stopped: bool,
}

struct Departed {
    tracker: usize,
    from: WirePath,
    dir: bool,
}

impl NotifyWatcher {
    /// Watches the directory at `root`.
    pub(super) fn start(root: &Path, sink: Box<dyn Sink>) -> Result<Self, WatchError> {
        let root = SourceRoot::open(root)?;
        let place = root.path().canonicalize()?;
        let barrier = BarrierDir::new(&place)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                sink,
                place: place.clone(),
                watched: BTreeMap::from([(WirePath::root(), root.identity())]),
                before: BTreeMap::new(),
                lost: HashSet::new(),
                generation: 0,
                overflowed: false,
                departed: None,
                stale: Vec::new(),
                held: Vec::new(),
                stopped: false,
                barrier,
            }),
            half: Condvar::new(),
        });
        let inner = instance(&shared, 0)?;
        let for_flusher = Arc::clone(&shared);
        let flusher = std::thread::Builder::new()
            .name("watch-flush".to_owned())
            .spawn(move || for_flusher.flush())?;
        Ok(Self {
            inner,
            root,
            place,
            shared,
            flusher: Some(flusher),
        })
    }

    /// Which directory is at `path`.
    fn identity(&self, path: &WirePath) -> Result<Identity, WatchError> {
        let handle = self.root.dir_handle(path)?;
        let stat = root::statx_of(&handle).map_err(io::Error::from)?;
        Ok(root::identity_of(&stat))
    }

    fn unwatch(&mut self, path: &WirePath) {
        // It fails if notify has dropped the watch itself.
        let _ = self.inner.unwatch(&self.place.join(path.to_path_buf()));
    }

    fn set(&mut self, path: &WirePath) -> Result<Watched, WatchError> {
        for _ in 0..SWAPS_MAX {
            let identity = self.identity(path)?;
            let (noted, lost) = {
                let mut state = self.shared.state();
                (state.watched.get(path).copied(), state.lost.remove(path))
            };
            match noted {
                Some(noted) if noted != identity => self.replaced(path),
                None if lost => self.unwatch(path),
                _ => {}
            }
            // Noted before it is set: an event that ends the watch must find the note.
            self.shared.state().watched.insert(path.clone(), identity);
            let at = self.place.join(path.to_path_buf());
            let set = self.inner.watch_with(&at, one_dir()).map_err(failed);
            // Another directory, a file or a link may have taken the name meanwhile.
            let now = set.and_then(|()| self.identity(path));
            if matches!(&now, Ok(now) if *now == identity) {
                // And again: an event of the past may have taken the note of a watch that was only set
                // then. A watch without a note would pass for that of the next directory there.
                let mut state = self.shared.state();
                state.watched.insert(path.clone(), identity);
                let before = noted.or(state.before.remove(path));
                return Ok(match before {
                    Some(before) if before != identity => Watched::Other,
                    Some(_) if noted.is_some() => Watched::Already,
                    _ => Watched::New,
                });
            }
            self.replaced(path);
            now?;
        }
        Err(WatchError::Gone)
    }

    /// Another directory is at `path`: drops what was watched there, and below.
    fn replaced(&mut self, path: &WirePath) {
        let gone = self.drop_below(path);
        self.shared.state().before.extend(gone);
    }

    /// Watches what is at `path` or below no more; returns what that was.
    fn drop_below(&mut self, path: &WirePath) -> Vec<(WirePath, Identity)> {
        let below = self.shared.state().take_below(path);
        for (path, _) in &below {
            self.unwatch(path);
        }
        below
    }

    /// Takes a new instance of notify, without any watch of the old one.
    fn start_over(&mut self) -> Result<(), WatchError> {
        let generation = {
            let mut state = self.shared.state();
            if !state.barrier.path().exists() {
                state.barrier.renew(&self.place)?;
            }
            state.generation += 1;
            state.generation
        };
        let begun = instance(&self.shared, generation);
        let mut state = self.shared.state();
        match begun {
            Ok(inner) => {
                state.before = std::mem::take(&mut state.watched);
                let root = state.before.remove_entry(&WirePath::root());
                state.watched.extend(root);
                state.overflowed = false;
                let touched = state.barrier.touch_again();
                drop(state);
                self.inner = inner;
                Ok(touched?)
            }
            Err(error) => {
                state.generation -= 1;
                Err(error)
            }
        }
    }
}

impl Watcher for NotifyWatcher {
    fn watch(&mut self, path: &WirePath) -> Result<Watched, WatchError> {
        if path.is_root() {
            return Ok(Watched::Already);
        }
        self.set(path)
    }

    fn forget(&mut self, path: &WirePath) {
        if !path.is_root() {
            self.drop_below(path);
        }
    }

    fn refresh(&mut self) -> Result<(), WatchError> {
        let (overflowed, stale) = {
            let mut state = self.shared.state();
            state.before.clear();
            state.lost.clear();
            (state.overflowed, state.stale.len())
        };
        if overflowed {
            self.start_over()?;
        }
        // notify answers once it has dropped what departed in the events that it had told by then.
        let held = self.inner.watched_paths().map_err(failed)?;
        let mut held: HashSet<PathBuf> = held.into_iter().map(|(path, _)| path).collect();
        let noted = {
            let mut state = self.shared.state();
            let stale = stale.min(state.stale.len());
            state.stale.drain(..stale);
            state.watched.clone()
        };
        for (path, identity) in noted.into_iter().filter(|(path, _)| !path.is_root()) {
            let is_held = held.remove(&self.place.join(path.to_path_buf()));
            let is_there = matches!(self.identity(&path), Ok(now) if now == identity);
            if is_held && is_there {
                continue;
            }
            {
                let mut state = self.shared.state();
                state.watched.remove(&path);
                state.before.insert(path.clone(), identity);
            }
            if is_held {
                self.unwatch(&path);
            }
        }
        // What is held without a note, which some event took, would pass for a watch of the next directory there.
        held.remove(&self.place);
        for path in held.iter().filter(|path| path.starts_with(&self.place)) {
            let _ = self.inner.unwatch(path);
        }
        Ok(())
    }

    fn barrier(&mut self) -> io::Result<u64> {
        let (number, touched) = {
            let mut state = self.shared.state();
            let number = state.barrier.issue();
            (number, state.barrier.touch())
        };
        match touched {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = {
                    let mut state = self.shared.state();
                    state.barrier.renew(&self.place)?;
                    state.barrier.path().to_owned()
                };
                let watched = self.inner.watch_with(&path, one_dir());
                watched.map_err(|error| io::Error::other(failed(error)))?;
                self.shared.state().barrier.touch()?;
            }
            touched => touched?,
        }
        Ok(number)
    }

    fn backlog(&self) -> Option<Arc<dyn Backlog>> {
        None
    }

    fn census(&self) -> Arc<dyn Census> {
        self.shared.clone()
    }

    fn bytes_estimate(&self) -> usize {
        let state = self.shared.state();
        // Once here, three times the whole path in notify's two maps.
        let path = |path: &WirePath| -> usize {
            let names = path.names().iter().map(|name| name.as_bytes().len() + 32);
            names.sum::<usize>() + self.place.as_os_str().len() * 3 + 300
        };
        state.watched.keys().map(path).sum()
    }
}

impl Drop for NotifyWatcher {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        // notify's own thread ends later; the sink need not live as long.
        state.sink = Box::new(|_| {});
        drop(state);
        self.shared.half.notify_all();
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Census for Shared {
    fn watched(&self) -> usize {
        self.state().watched.len()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called on notify's thread. It must not call notify.
    fn handle(&self, event: notify::Result<Event>, generation: u64) {
        let mut state = self.state();
        if state.stopped || state.generation != generation {
            return;
        }
        match event {
            Ok(event) => state.translate(&event),
            Err(error) => {
                let text = format!("watching failed: {error}");
                state.tell(RawEvent::Failed { text });
            }
        }
        if state.departed.is_some() {
            self.half.notify_all();
        }
    }

    /// Tells the first half of a rename as a departure when the second does not follow.
    fn flush(&self) {
        let mut state = self.state();
        while !state.stopped {
            let waiting = state.departed.as_ref().map(|gone| gone.tracker);
            let Some(waiting) = waiting else {
                state = self
                    .half
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = self.half.wait_timeout(state, RENAME_WAIT);
            let (held, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = held;
            let is_same = state
                .departed
                .as_ref()
                .is_some_and(|gone| gone.tracker == waiting);
            if timeout.timed_out() && is_same {
                state.left();
            }
        }
    }
}

impl State {
    /// Takes out of the notes what is at `path` or below.
    fn take_below(&mut self, path: &WirePath) -> Vec<(WirePath, Identity)> {
        let from = (Bound::Included(path), Bound::Unbounded);
        let below = self.watched.range::<WirePath, _>(from);
        let below: Vec<_> = below
            .take_while(|(at, _)| at.starts_with(path))
            .map(|(at, identity)| (at.clone(), *identity))
            .collect();
        for (path, _) in &below {
            self.watched.remove(path);
        }
        below
    }

    /// The same where an event says that they are gone.
    fn lose_below(&mut self, path: &WirePath) {
        let lost = self.take_below(path);
        self.lost.extend(lost.into_iter().map(|(path, _)| path));
    }
}

/// Starts notify, on the root, on what tells of the root's end, and on the barrier's directory.
fn instance(shared: &Arc<Shared>, generation: u64) -> Result<INotifyWatcher, WatchError> {
    let (place, barrier) = {
        let state = shared.state();
        (state.place.clone(), state.barrier.path().to_owned())
    };
    let config = Config::default()
        .with_follow_symlinks(false)
        .with_event_kinds(KINDS);
    let shared = Arc::clone(shared);
    let handler = move |event: notify::Result<Event>| shared.handle(event, generation);
    let mut inner = INotifyWatcher::new(handler, config).map_err(failed)?;
    for path in [&place, &barrier] {
        inner.watch_with(path, one_dir()).map_err(failed)?;
    }
    // A root that is held open does not tell of its own removal; what holds it does.
    if let Some(above) = place.parent() {
        let _ = inner.watch_with(above, one_dir());
    }
    Ok(inner)
}

fn one_dir() -> WatchPathConfig {
    WatchPathConfig::new(RecursiveMode::NonRecursive).with_dereference_symlinks(false)
}

fn failed(error: Error) -> WatchError {
    match error.kind {
        ErrorKind::MaxFilesWatch => limit(Limit::Watches),
        ErrorKind::PathNotFound => WatchError::Gone,
        ErrorKind::Io(error) => error.into(),
        _ => WatchError::Other(format!("cannot watch: {error}")),
    }
}

const KINDS: EventKindMask = EventKindMask::CREATE
    .union(EventKindMask::REMOVE)
    .union(EventKindMask::MODIFY_DATA)
    .union(EventKindMask::MODIFY_META)
    .union(EventKindMask::MODIFY_NAME)
    .union(EventKindMask::ACCESS_CLOSE);

/// How long the second half of a rename may take to follow the first.
const RENAME_WAIT: Duration = Duration::from_millis(2);

/// How often the directory at a name may be another one by the time its watch is set.
const SWAPS_MAX: u32 = 4;
