//! The `notify` backend: always NonRecursive, one watch for each directory (its recursive mode loses
//! files of a copy without a word). A rename of a directory loses the watches below it.
//!
//! notify removes watches by path and each removal looks at all of them: not for large sources.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RemoveKind, RenameMode};
use notify::{
    Config, Error, ErrorKind, Event, EventKind, EventKindMask, INotifyWatcher, RecursiveMode,
    WatchPathConfig, Watcher as _,
};
use syncd_proto::meta::Kind;
use syncd_proto::path::{Name, WirePath};

use super::barrier::BarrierDir;
use super::{Backlog, RawEvent, Sink, Touch, WatchError, Watched, Watcher, limit};
use crate::fs::root::SourceRoot;

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
    watched: BTreeSet<WirePath>,
    /// Watched before an overflow: notify may hold a dead watch for any of them.
    suspect: BTreeSet<WirePath>,
    departed: Option<Departed>,
    /// Directories that moved and whose watches are not set anew yet: notify still tells what happens
    /// in them under their old names.
    moving: Vec<(WirePath, WirePath)>,
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
        let barrier_path = barrier.path().to_owned();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                sink,
                place: place.clone(),
                barrier,
                watched: BTreeSet::from([WirePath::root()]),
                suspect: BTreeSet::new(),
                departed: None,
                moving: Vec::new(),
                held: Vec::new(),
                stopped: false,
            }),
            half: Condvar::new(),
        });
        let config = Config::default()
            .with_follow_symlinks(false)
            .with_event_kinds(KINDS);
        let for_handler = Arc::clone(&shared);
        let handler = move |event: notify::Result<Event>| for_handler.handle(event);
        let mut inner = INotifyWatcher::new(handler, config).map_err(failed)?;
        for path in [&place, &barrier_path] {
            inner.watch_with(path, one_dir()).map_err(failed)?;
        }
        // A root that is held open does not tell of its own removal; what holds it does.
        if let Some(above) = place.parent() {
            let _ = inner.watch_with(above, one_dir());
        }
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

    fn set(&mut self, path: &WirePath) -> Result<Watched, WatchError> {
        self.check_is_dir(path)?;
        let at = self.place.join(path.to_path_buf());
        let is_suspect = self.shared.state().suspect.remove(path);
        if is_suspect {
            // Its watch may be of a directory that is gone; it cannot be told apart.
            let _ = self.inner.unwatch(&at);
        }
        // Noted before it is set: an event that ends the watch must find the note.
        let is_new = self.shared.state().watched.insert(path.clone()) && !is_suspect;
        let set = self.inner.watch_with(&at, one_dir()).map_err(failed);
        // A directory swapped for a file or a link meanwhile.
        let set = set.and_then(|()| self.check_is_dir(path));
        if let Err(error) = set {
            self.shared.state().watched.remove(path);
            let _ = self.inner.unwatch(&at);
            return Err(error);
        }
        // And again: an event of the past may have taken the note of a watch that was only set then.
        // A watch without a note would outlive its directory and pass for that of the next one there.
        self.shared.state().watched.insert(path.clone());
        Ok(if is_new {
            Watched::New
        } else {
            Watched::Already
        })
    }

    fn check_is_dir(&self, path: &WirePath) -> Result<(), WatchError> {
        match self.root.stat(path)? {
            Some(entry) if entry.kind == Kind::Dir => Ok(()),
            _ => Err(WatchError::Gone),
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
        if path.is_root() {
            return;
        }
        let left = self.shared.state().take_below(path);
        for path in left {
            // It fails if notify has dropped the watch itself.
            let _ = self.inner.unwatch(&self.place.join(path.to_path_buf()));
        }
    }

    fn rewatch_after_rename(&mut self, from: &WirePath, to: &WirePath) -> Result<(), WatchError> {
        let moved = self.shared.state().take_below(from);
        let mut result = Ok(());
        // In any case notify is asked once: what it had read by then has been told.
        let _ = self.inner.unwatch(&self.place.join(from.to_path_buf()));
        for old in moved {
            let Some(new) = old.strip_prefix(from).and_then(|tail| to.join_path(&tail)) else {
                continue;
            };
            // notify drops these at the rename; if it has not yet, the old name must not live on.
            let _ = self.inner.unwatch(&self.place.join(old.to_path_buf()));
            if let Err(error @ WatchError::LimitReached { .. }) = self.set(&new) {
                result = Err(error);
                break;
            }
        }
        let mut state = self.shared.state();
        let is_it = |moving: &(WirePath, WirePath)| moving.0 == *from && moving.1 == *to;
        if let Some(at) = state.moving.iter().position(is_it) {
            state.moving.remove(at);
        }
        result
    }

    fn needs_rewatch(&self) -> bool {
        true
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

    fn watched(&self) -> usize {
        let state = self.shared.state();
        state.watched.len() + state.suspect.len()
    }

    fn bytes_estimate(&self) -> usize {
        let state = self.shared.state();
        let all = state.watched.iter().chain(&state.suspect);
        // Twice here (the set), three times the whole path in notify's two maps.
        let path = |path: &WirePath| -> usize {
            let names = path.names().iter().map(|name| name.as_bytes().len() + 32);
            names.sum::<usize>() * 2 + self.place.as_os_str().len() * 3 + 300
        };
        all.map(path).sum()
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

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called on notify's thread. It must not call notify.
    fn handle(&self, event: notify::Result<Event>) {
        let mut state = self.state();
        if state.stopped {
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
    fn translate(&mut self, event: &Event) {
        if event.flag() == Some(Flag::Rescan) {
            return self.overflow();
        }
        let Some(path) = event.paths.first() else {
            return;
        };
        if let Ok(name) = path.strip_prefix(self.barrier.path()) {
            if event.kind.is_create() {
                let name = Name::new(name.as_os_str().as_encoded_bytes());
                let number = name.and_then(|name| self.barrier.arrived(name.as_bytes()));
                if let Some(number) = number {
                    self.tell(RawEvent::Barrier(number));
                }
            }
            return;
        }
        let Some(path) = path
            .strip_prefix(&self.place)
            .ok()
            .and_then(WirePath::from_relative)
        else {
            return;
        };
        match event.kind {
            EventKind::Create(_) if path.is_root() => {}
            EventKind::Create(kind) => {
                self.touched(path, Touch::Created, kind == CreateKind::Folder);
            }
            EventKind::Remove(kind) => self.removed(path, kind, event.info()),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.touched(path, Touch::Written, false);
            }
            EventKind::Modify(ModifyKind::Data(_)) => self.touched(path, Touch::Modified, false),
            EventKind::Modify(ModifyKind::Metadata(_)) => {
                let dir = self.watched.contains(&path);
                self.touched(path, Touch::Attrib, dir);
            }
            EventKind::Modify(ModifyKind::Name(mode)) => {
                self.renamed(path, mode, event.tracker());
            }
            _ => {}
        }
    }

    fn removed(&mut self, path: WirePath, kind: RemoveKind, info: Option<&str>) {
        if path.is_root() {
            self.tell(RawEvent::RootGone);
        } else if info == Some("unmount") || kind == RemoveKind::Other {
            self.take_below(&path);
            self.tell(RawEvent::DirGone { path });
        } else {
            let dir = kind == RemoveKind::Folder;
            if dir {
                self.take_below(&path);
            }
            self.touched(path, Touch::Removed, dir);
        }
    }

    /// notify drops, by name, the watches of what was told gone from `path` and of everything below.
    /// If a directory has that name by now, they are those of the newer one, and nothing else may tell:
    /// what was told gone can have been told under the name of its successor.
    fn dropped(&mut self, path: WirePath) {
        if is_dir(&self.place, &path) == Some(true) {
            self.tell(RawEvent::Unheard { path });
        }
    }

    fn renamed(&mut self, path: WirePath, mode: RenameMode, tracker: Option<usize>) {
        match (mode, tracker) {
            (RenameMode::From, _) if path.is_root() => self.tell(RawEvent::RootGone),
            (RenameMode::From, Some(tracker)) => {
                self.left();
                let dir = self.watched.contains(&path) || self.suspect.contains(&path);
                self.departed = Some(Departed {
                    tracker,
                    from: path,
                    dir,
                });
            }
            // A directory that moved, told under its old name: its parent has told it properly.
            (RenameMode::From, None) => {}
            // Another directory took the root's name; that the root is gone was told.
            (RenameMode::To, _) if path.is_root() => {}
            (RenameMode::To, Some(tracker)) => {
                let dir = is_dir(&self.place, &path);
                match self.departed.take_if(|gone| gone.tracker == tracker) {
                    Some(gone) => {
                        let event = RawEvent::Renamed {
                            from: gone.from.clone(),
                            to: path.clone(),
                            dir: dir.unwrap_or(gone.dir),
                        };
                        let is_dir = dir.unwrap_or(gone.dir);
                        self.release_held();
                        self.moved(&gone.from, &path, event, is_dir);
                        self.dropped(gone.from);
                    }
                    None => self.touched(path, Touch::MovedIn, dir.unwrap_or(true)),
                }
            }
            // Both halves again, in one.
            _ => {}
        }
    }

    fn overflow(&mut self) {
        self.left();
        let mut watched = std::mem::take(&mut self.watched);
        watched.remove(&WirePath::root());
        self.watched.insert(WirePath::root());
        self.suspect.append(&mut watched);
        self.tell(RawEvent::Overflow);
        if let Err(error) = self.barrier.touch_again() {
            let text = format!("a barrier is lost: {error}");
            self.tell(RawEvent::Failed { text });
        }
    }

    /// A departed entry has left what is watched.
    fn left(&mut self) {
        if let Some(gone) = self.departed.take() {
            self.take_below(&gone.from);
            self.sink.event(RawEvent::Touched {
                path: gone.from.clone(),
                touch: Touch::MovedOut,
                dir: gone.dir,
            });
            self.release_held();
            self.dropped(gone.from);
        }
    }

    fn release_held(&mut self) {
        for event in self.held.drain(..) {
            self.sink.event(event);
        }
    }

    /// Takes out of the notes what is at `path` or below.
    fn take_below(&mut self, path: &WirePath) -> Vec<WirePath> {
        let mut taken = Vec::new();
        for set in [&mut self.watched, &mut self.suspect] {
            let from = (Bound::Included(path), Bound::Unbounded);
            let below = set.range::<WirePath, _>(from);
            let below: Vec<_> = below
                .take_while(|at| at.starts_with(path))
                .cloned()
                .collect();
            for path in &below {
                set.remove(path);
            }
            taken.extend(below);
        }
        taken
    }

    /// Tells a rename, unless its old name is one that a directory above it has lost: then both ends
    /// are looked at.
    fn moved(&mut self, from: &WirePath, to: &WirePath, event: RawEvent, dir: bool) {
        let is_stale = [from, to].iter().any(|path| self.names_now(path).len() > 1);
        if is_stale {
            self.touched(to.clone(), Touch::MovedIn, dir);
            self.touched(from.clone(), Touch::MovedOut, dir);
            return;
        }
        self.tell(event);
        if dir && self.moving.len() < MOVING_MAX {
            self.moving.push((from.clone(), to.clone()));
        } else if dir {
            self.tell(RawEvent::Unheard {
                path: WirePath::root(),
            });
        }
    }

    /// What `path` may mean: itself, and what it is called since directories above it moved.
    fn names_now(&self, path: &WirePath) -> Vec<WirePath> {
        let mut names = vec![path.clone()];
        for (from, to) in &self.moving {
            let news: Vec<_> = names
                .iter()
                .filter(|name| name.starts_with(from) && *name != from)
                .filter_map(|name| to.join_path(&name.strip_prefix(from)?))
                .filter(|name| !names.contains(name))
                .collect();
            names.extend(news);
            names.truncate(NAMES_MAX);
        }
        names
    }

    fn touched(&mut self, path: WirePath, touch: Touch, dir: bool) {
        for path in self.names_now(&path) {
            let again = RawEvent::Touched {
                path: path.clone(),
                touch,
                dir,
            };
            self.tell(again);
            if dir && matches!(touch, Touch::Removed | Touch::MovedOut) {
                self.dropped(path);
            }
        }
    }

    fn tell(&mut self, event: RawEvent) {
        if self.departed.is_some() {
            self.held.push(event);
            if self.held.len() >= HELD_MAX {
                self.left();
            }
        } else {
            self.sink.event(event);
        }
    }
}

/// Whether a directory is at `path` now; `None` if nothing can be seen there.
fn is_dir(place: &Path, path: &WirePath) -> Option<bool> {
    let meta = std::fs::symlink_metadata(place.join(path.to_path_buf()));
    meta.ok().map(|meta| meta.is_dir())
}

fn one_dir() -> WatchPathConfig {
    WatchPathConfig::new(RecursiveMode::NonRecursive).with_dereference_symlinks(false)
}

fn failed(error: Error) -> WatchError {
    match error.kind {
        ErrorKind::MaxFilesWatch => limit("max_user_watches", "directories to watch"),
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

/// Most directories that move at once.
const MOVING_MAX: usize = 64;

/// Most names that a path is told under.
const NAMES_MAX: usize = 16;

/// Most events held back behind half a rename.
const HELD_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_barrier_directory_that_was_cleaned_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::sync_channel(1 << 17);
        let sink = move |event| drop(sender.send(event));
        let mut watcher = NotifyWatcher::start(dir.path(), Box::new(sink)).unwrap();
        let private = watcher.shared.state().barrier.path().to_owned();
        assert!(!private.starts_with(dir.path()));
        std::fs::remove_dir_all(private).unwrap();
        let number = watcher.barrier().unwrap();
        let told = events.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(told.unwrap(), RawEvent::Barrier(number));
    }

    /// A watcher of these directories, and what it is told by hand: nothing happens to them.
    fn told(dirs: &[&str], events: &[Event]) -> Vec<RawEvent> {
        let dir = tempfile::tempdir().unwrap();
        for name in dirs {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (sender, heard) = mpsc::sync_channel(1 << 10);
        let sink = move |event| drop(sender.send(event));
        let watcher = NotifyWatcher::start(dir.path(), Box::new(sink)).unwrap();
        let mut state = watcher.shared.state();
        for event in events {
            let mut event = event.clone();
            event.paths = vec![state.place.join(&event.paths[0])];
            state.translate(&event);
        }
        drop(state);
        heard.try_iter().collect()
    }

    fn event(kind: EventKind, at: &str) -> Event {
        Event::new(kind).add_path(at.into())
    }

    fn half(mode: RenameMode, at: &str, cookie: usize) -> Event {
        event(EventKind::Modify(ModifyKind::Name(mode)), at).set_tracker(cookie)
    }

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn touched(at: &str, touch: Touch, dir: bool) -> RawEvent {
        let path = path(at);
        RawEvent::Touched { path, touch, dir }
    }

    fn renamed(from: &str, to: &str) -> RawEvent {
        RawEvent::Renamed {
            from: path(from),
            to: path(to),
            dir: true,
        }
    }

    #[test]
    fn a_directory_that_stands_where_one_was_told_gone_lost_its_watch() {
        let removed = [event(EventKind::Remove(RemoveKind::Folder), "d")];
        let unheard = RawEvent::Unheard { path: path("d") };
        let gone = touched("d", Touch::Removed, true);
        assert_eq!(told(&["d"], &removed), [gone.clone(), unheard]);
        assert_eq!(told(&[], &removed), [gone]);
        let swapped = [half(RenameMode::From, "a", 1), half(RenameMode::To, "b", 1)];
        let unheard = RawEvent::Unheard { path: path("a") };
        assert_eq!(told(&["a", "b"], &swapped), [renamed("a", "b"), unheard]);
    }

    #[test]
    fn what_is_told_below_a_name_of_the_past_is_told_below_the_new_one_as_well() {
        let events = [
            half(RenameMode::From, "a", 1),
            half(RenameMode::To, "b", 1),
            event(EventKind::Remove(RemoveKind::File), "a/f"),
            half(RenameMode::From, "a/g", 2),
            half(RenameMode::To, "g", 2),
        ];
        let all = [
            renamed("a", "b"),
            touched("a/f", Touch::Removed, false),
            touched("b/f", Touch::Removed, false),
            touched("g", Touch::MovedIn, false),
            touched("a/g", Touch::MovedOut, false),
            touched("b/g", Touch::MovedOut, false),
        ];
        assert_eq!(told(&["b"], &events), all);
    }
}
