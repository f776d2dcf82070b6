//! The inotify backend: one thread that reads, and the [`Tracker`] shared with those who set watches.
//!
//! A directory is opened beneath the root first and watched by its descriptor, so no symlink on the way
//! can lead a watch elsewhere and paths may be of any length.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchMask, Watches};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use syncd_proto::path::WirePath;

use super::barrier::BarrierDir;
use super::pace::{Pace, Rounds};
use super::track::{Placed, Tracker};
use super::{Backlog, Census, RawEvent, Sink, WatchError, Watched, Watcher};
use crate::fs::root::{self, SourceRoot};

/// See the module.
#[derive(Debug)]
pub(super) struct InotifyWatcher {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A duplicate of inotify's descriptor, to wait on without the lock.
    queue: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    rounds: Rounds,
}

#[derive(Debug)]
struct State {
    inotify: Inotify,
    watches: Watches,
    root: SourceRoot,
    tracker: Tracker,
    barrier: BarrierDir,
    barrier_wd: i32,
    /// Watches that the kernel has ended; what it told of them before may still be unread.
    ended: Vec<i32>,
    /// The directory that holds the root, and the root's name: a root that is held open does not tell
    /// of its own removal. `None` if that directory may not be watched.
    above: Option<(i32, OsString)>,
}

impl InotifyWatcher {
    /// Watches the directory at `root`.
    pub(super) fn start(root: &Path, mut sink: Box<dyn Sink>) -> Result<Self, WatchError> {
        let state = State::new(root)?;
        let queue = state.inotify.as_fd().try_clone_to_owned()?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags).map_err(io::Error::from)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            queue,
            wake,
            stop: AtomicBool::new(false),
            rounds: Rounds::default(),
        });
        let for_reader = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                for_reader.read(&mut *sink);
                for_reader.rounds.end();
            })?;
        Ok(Self {
            shared,
            reader: Some(reader),
        })
    }
}

impl Watcher for InotifyWatcher {
    fn watch(&mut self, path: &WirePath) -> Result<Watched, WatchError> {
        self.shared.state().watch(path)
    }

    fn forget(&mut self, path: &WirePath) {
        self.shared.state().tracker.forget(path);
        self.shared.wake();
    }

    fn refresh(&mut self) -> Result<(), WatchError> {
        Ok(())
    }

    fn tidy(&mut self) {
        let known = self.shared.state().tracker.tree.watches();
        // Without the lock, since it takes a while. What is watched meanwhile is not among those that were known.
        let live = live_watches(&self.shared.queue).unwrap_or_default();
        let count = known.len();
        let ended: Vec<i32> = known.into_iter().filter(|wd| !live.contains(wd)).collect();
        // A kernel that names none at all does not say.
        if ended.len() < count {
            self.shared.state().ended = ended;
            self.shared.wake();
        }
    }

    fn barrier(&mut self) -> io::Result<u64> {
        self.shared.state().barrier()
    }

    fn backlog(&self) -> Option<Arc<dyn Backlog>> {
        Some(self.shared.clone())
    }

    fn census(&self) -> Arc<dyn Census> {
        self.shared.clone()
    }

    fn bytes_estimate(&self) -> usize {
        self.shared.state().tracker.tree.bytes()
    }
}

impl Drop for InotifyWatcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is full wakes just as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn read(&self, sink: &mut dyn Sink) {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut patience = None;
        let mut pace = Pace::default();
        let mut nap = None;
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = self.wait(nap, patience) {
                let text = format!("waiting for events failed: {error}");
                return sink.event(RawEvent::Failed { text });
            }
            self.rounds.begin();
            let mut state = self.state();
            let read = state.read(&mut buffer);
            state.end_watches();
            patience = state.patience();
            let events = state.tracker.take_ready();
            let waiting = state.tracker.is_waiting();
            drop(state);
            for event in events {
                sink.event(event);
            }
            match read {
                Ok(true) if !waiting => self.rounds.told(),
                Ok(_) => {}
                Err(error) => {
                    let text = format!("reading events failed: {error}");
                    return sink.event(RawEvent::Failed { text });
                }
            }
            nap = pace.ended(Instant::now());
        }
    }

    /// Waits for events or to be woken; for events not before `nap` is over.
    fn wait(&self, nap: Option<Duration>, patience: Option<Timespec>) -> io::Result<()> {
        let queue = PollFd::new(&self.queue, PollFlags::IN);
        let wake = PollFd::new(&self.wake, PollFlags::IN);
        if let Some(nap) = nap {
            poll(&mut [wake.clone()], Timespec::try_from(nap).ok())?;
        }
        poll(&mut [queue, wake], patience)?;
        // Empties the counter; nothing in it is nothing lost.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        Ok(())
    }
}

impl Backlog for Shared {
    fn hear(&self, most: Duration) -> bool {
        // In this order: what is not in the queue any more was read in a round that had begun.
        let queued = rustix::io::ioctl_fionread(&self.queue);
        let is_empty = queued.is_ok_and(|bytes| bytes == 0) && self.rounds.is_told();
        is_empty || self.rounds.wait(most, || self.wake())
    }
}

impl Census for Shared {
    fn watched(&self) -> usize {
        self.state().tracker.tree.len()
    }
}

impl State {
    fn new(root: &Path) -> Result<Self, WatchError> {
        let root = SourceRoot::open(root)?;
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let mask = MASK | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF;
        let root_wd = add(&mut watches, &root, &WirePath::root(), mask)?;
        let place = root.path().canonicalize()?;
        let barrier = BarrierDir::new(&place)?;
        let barrier_wd = add_barrier(&mut watches, &barrier)?;
        let above = add_above(&mut watches, &place);
        Ok(Self {
            inotify,
            above,
            watches,
            tracker: Tracker::new(root_wd),
            root,
            barrier,
            barrier_wd,
            ended: Vec::new(),
        })
    }

    /// The lock is held from the system call until its result is noted, so that no event of the new
    /// watch can be read before it is known.
    fn watch(&mut self, path: &WirePath) -> Result<Watched, WatchError> {
        if path.is_root() {
            return Ok(Watched::Already);
        }
        let wd = add(&mut self.watches, &self.root, path, MASK)?;
        if wd == self.barrier_wd {
            return Err(WatchError::Other("kept for the watcher itself".to_owned()));
        }
        match self.tracker.placed(path, wd) {
            Placed::New => Ok(Watched::New),
            Placed::Instead => Ok(Watched::Other),
            Placed::Already => Ok(Watched::Already),
            Placed::Elsewhere(other) => match other.filter(|other| self.is_same(path, other)) {
                Some(other) => Err(WatchError::Other(format!(
                    "the same directory as {other}, where it is watched"
                ))),
                None => {
                    self.tracker.moved(path, wd);
                    Ok(Watched::Other)
                }
            },
        }
    }

    /// Whether two paths lead to one directory (a bind mount).
    fn is_same(&self, one: &WirePath, other: &WirePath) -> bool {
        let identity = |path| -> io::Result<_> {
            let dir = self.root.dir_handle(path)?;
            Ok(root::identity_of(&root::statx_of(&dir)?))
        };
        matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
    }

    fn barrier(&mut self) -> io::Result<u64> {
        let number = self.barrier.issue();
        match self.barrier.touch() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.barrier.renew(self.root.path())?;
                self.barrier_wd = add_barrier(&mut self.watches, &self.barrier)?;
                self.barrier.touch()?;
            }
            touched => touched?,
        }
        Ok(number)
    }

    /// Reads what is there, at most a few buffers of it. Whether that was all.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut is_all = false;
        for _ in 0..READS_MAX {
            let events = match self.inotify.read_events(buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.settle();
                    is_all = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut overflow = false;
            for event in events {
                overflow |= event.mask.contains(EventMask::Q_OVERFLOW);
                let wd = event.wd.get_watch_descriptor_id();
                let name = event.name.map(OsStrExt::as_bytes);
                if wd == self.barrier_wd {
                    let number = name.and_then(|name| self.barrier.arrived(name));
                    if let Some(number) = number {
                        self.tracker.push(RawEvent::Barrier(number));
                    }
                } else if self.above.as_ref().is_some_and(|above| above.0 == wd) {
                    if self
                        .above
                        .as_ref()
                        .is_some_and(|above| name == Some(above.1.as_bytes()))
                    {
                        self.tracker.push(RawEvent::RootGone);
                    }
                } else {
                    self.tracker.event(wd, event.mask, event.cookie, name);
                }
            }
            if overflow && let Err(error) = self.barrier.touch_again() {
                let text = format!("a barrier is lost: {error}");
                self.tracker.push(RawEvent::Failed { text });
            }
        }
        self.tracker.end_batch();
        Ok(is_all)
    }

    /// The queue is empty, and nobody sets a watch meanwhile.
    fn settle(&mut self) {
        for wd in std::mem::take(&mut self.ended) {
            self.tracker.ended(wd);
        }
        if !self.tracker.is_unsettled() {
            return;
        }
        for path in self.tracker.doubts() {
            if let Ok(wd) = add(&mut self.watches, &self.root, &path, MASK) {
                self.tracker.confirm(&path, wd);
            }
        }
        self.tracker.settle();
    }

    /// Ends watches that are not wanted, some at a time: each makes an event, and the queue is finite.
    fn end_watches(&mut self) {
        let some: Vec<i32> = self
            .tracker
            .leaving
            .iter()
            .take(ENDS_MAX)
            .copied()
            .collect();
        for wd in some {
            self.tracker.leaving.remove(&wd);
            // It fails if the kernel has ended the watch itself.
            let _ = rustix::fs::inotify::remove_watch(&self.inotify, wd);
        }
    }

    /// How long to wait for events before looking again; `None`: for ever.
    fn patience(&self) -> Option<Timespec> {
        let nanos = if self.tracker.leaving.is_empty() {
            if !self.tracker.is_waiting() {
                return None;
            }
            RENAME_WAIT_NANOS
        } else {
            0
        };
        Some(Timespec {
            tv_sec: 0,
            tv_nsec: nanos,
        })
    }
}

/// The watches that the kernel has, by its own word; `None` if it cannot be asked.
fn live_watches(inotify: &OwnedFd) -> Option<HashSet<i32>> {
    let path = format!("/proc/self/fdinfo/{}", inotify.as_raw_fd());
    let mut lines = BufReader::with_capacity(BUFFER_BYTES, File::open(path).ok()?);
    let (mut live, mut line) = (HashSet::new(), String::new());
    while lines.read_line(&mut line).ok()? > 0 {
        if let Some(rest) = line.strip_prefix("inotify wd:") {
            let number = rest.split_ascii_whitespace().next()?;
            live.insert(i32::from_str_radix(number, 16).ok()?);
        }
        line.clear();
    }
    Some(live)
}

fn poll(fds: &mut [PollFd<'_>], most: Option<Timespec>) -> io::Result<()> {
    match rustix::event::poll(fds, most.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn add(
    watches: &mut Watches,
    root: &SourceRoot,
    path: &WirePath,
    mask: WatchMask,
) -> io::Result<i32> {
    let dir = root.dir_handle(path)?;
    let by_fd = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let added = match watches.add(by_fd, mask) {
        // No /proc here: by name, as the last resort.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = root.path().join(path.to_path_buf());
            watches.add(path, mask | WatchMask::DONT_FOLLOW)
        }
        added => added,
    };
    Ok(added?.get_watch_descriptor_id())
}

fn add_barrier(watches: &mut Watches, barrier: &BarrierDir) -> io::Result<i32> {
    let mask = WatchMask::CREATE | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW;
    Ok(watches.add(barrier.path(), mask)?.get_watch_descriptor_id())
}

fn add_above(watches: &mut Watches, place: &Path) -> Option<(i32, OsString)> {
    let (above, name) = (place.parent()?, place.file_name()?);
    let mask = WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::ONLYDIR;
    let wd = watches.add(above, mask).ok()?;
    Some((wd.get_watch_descriptor_id(), name.to_owned()))
}

const MASK: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::MODIFY)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::ONLYDIR)
    .union(WatchMask::EXCL_UNLINK);

/// Room for events of one read, in bytes: about two thousand.
const BUFFER_BYTES: usize = 64 << 10;

/// Most reads before events are told.
const READS_MAX: usize = 4;

/// Most watches ended at once.
const ENDS_MAX: usize = 1_024;

/// How long the second half of a rename may take to follow the first, in nanoseconds, twice.
const RENAME_WAIT_NANOS: i64 = 1_000_000;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_barrier_directory_that_was_cleaned_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::sync_channel(1 << 17);
        let sink = move |event| drop(sender.send(event));
        let mut watcher = InotifyWatcher::start(dir.path(), Box::new(sink)).unwrap();
        let private = watcher.shared.state().barrier.path().to_owned();
        assert!(!private.starts_with(dir.path()));
        std::fs::remove_dir_all(private).unwrap();
        let number = watcher.barrier().unwrap();
        let told = events.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(told.unwrap(), RawEvent::Barrier(number));
    }
}
