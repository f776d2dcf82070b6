//! Follows a change as it happens: one thread reads inotify and copies each file as soon as it was closed or renamed.
//!
//! It knows what the scenarios do: names that end in `.new` will be renamed and are not worth a copy; nothing is removed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::copy::{copy_file, make_directory, same_times, sync};

const BUFFER_BYTES: usize = 256 << 10;
const EVENTS_BYTES: usize = 64 * 1024;
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000,
};
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);

/// A thread that follows.
pub(super) struct Live {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Live {
    /// Watches every directory from now on.
    pub(super) fn watch(source: &Path, mirror: &Path) -> io::Result<Self> {
        let mut follower = Follower {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            source: source.to_owned(),
            mirror: mirror.to_owned(),
            open: BTreeMap::new(),
            buffer: vec![0; BUFFER_BYTES],
        };
        follower.enter(PathBuf::new(), false)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || follower.run(&stopped));
        Ok(Self { stop, thread })
    }

    /// The change is over: copies what is left and makes everything durable.
    pub(super) fn drain(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Release);
        let panicked = |_| Err(io::Error::other("the thread panicked"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

/// A directory of both sides, and whether anything was copied into it.
struct Pair {
    path: PathBuf,
    from: OwnedFd,
    to: OwnedFd,
    touched: bool,
}

struct Follower {
    inotify: OwnedFd,
    source: PathBuf,
    mirror: PathBuf,
    open: BTreeMap<i32, Pair>,
    buffer: Vec<u8>,
}

/// What an event says, away from the buffer it came in.
struct Heard {
    watch: i32,
    flags: ReadFlags,
    name: OsString,
}

impl Follower {
    fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); EVENTS_BYTES];
        loop {
            // Asked before the queue is read: what happened before that is in the queue.
            let last = stop.load(Ordering::Acquire);
            for heard in self.read(&mut buffer)? {
                self.follow(&heard)?;
            }
            if last && self.read_nothing()? {
                break;
            }
        }
        for pair in self.open.values().filter(|pair| pair.touched) {
            same_times(&self.source.join(&pair.path), &self.mirror.join(&pair.path))?;
        }
        same_times(&self.source, &self.mirror)?;
        sync(&self.mirror)
    }

    /// Whether the queue is empty.
    fn read_nothing(&self) -> io::Result<bool> {
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(&self.inotify, PollFlags::IN)];
        Ok(poll(&mut ready, Some(&none))? == 0)
    }

    fn read(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Vec<Heard>> {
        let mut ready = [PollFd::new(&self.inotify, PollFlags::IN)];
        poll(&mut ready, Some(&LOOK_EVERY))?;
        let mut reader = Reader::new(&self.inotify, buffer);
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => found.push(Heard {
                    watch: event.wd(),
                    flags: event.events(),
                    name: event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned())
                        .unwrap_or_default(),
                }),
                Err(Errno::AGAIN) => return Ok(found),
                Err(errno) => return Err(errno.into()),
            }
            if reader.is_buffer_empty() {
                return Ok(found);
            }
        }
    }

    fn follow(&mut self, heard: &Heard) -> io::Result<()> {
        if heard.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(io::Error::other("more events than the kernel keeps"));
        }
        let Some(pair) = self.open.get_mut(&heard.watch) else {
            return Ok(());
        };
        if heard.flags.contains(ReadFlags::ISDIR) {
            pair.touched = true;
            let path = pair.path.join(&heard.name);
            return self.enter(path, true);
        }
        let written = ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO;
        if !heard.flags.intersects(written) || heard.name.as_bytes().ends_with(b".new") {
            return Ok(());
        }
        pair.touched = true;
        copy_file(&pair.from, &pair.to, &heard.name, &mut self.buffer)
    }

    /// Watches a directory and all below; what is in it already is copied if it is new.
    fn enter(&mut self, path: PathBuf, is_new: bool) -> io::Result<()> {
        let (source, mirror) = (self.source.join(&path), self.mirror.join(&path));
        // It may have been found in its parent already.
        if is_new && mirror.exists() {
            return Ok(());
        }
        make_directory(&mirror)?;
        let watch = inotify::add_watch(&self.inotify, &source, MASK)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = rustix::fs::open(&source, flags, Mode::empty())?;
        let to = rustix::fs::open(&mirror, flags, Mode::empty())?;
        for entry in fs::read_dir(&source)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.enter(path.join(entry.file_name()), is_new)?;
            } else if is_new {
                copy_file(&from, &to, &entry.file_name(), &mut self.buffer)?;
            }
        }
        let touched = is_new;
        let pair = Pair {
            path,
            from,
            to,
            touched,
        };
        self.open.insert(watch, pair);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use syncd_tests::sandbox::wait_equal;
    use syncd_tests::tree::Options;

    #[test]
    fn what_happens_between_watch_and_drain_is_there_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let (source, mirror) = (dir.path().join("a"), dir.path().join("b"));
        for root in [&source, &mirror] {
            fs::create_dir_all(root.join("old")).unwrap();
        }
        let live = Live::watch(&source, &mirror).unwrap();
        fs::create_dir_all(source.join("new/below")).unwrap();
        for index in 0..200 {
            fs::write(source.join(format!("new/below/{index}")), "x").unwrap();
        }
        fs::write(source.join("old/f.new"), "replaced").unwrap();
        fs::rename(source.join("old/f.new"), source.join("old/f")).unwrap();
        live.drain().unwrap();
        wait_equal(&source, &mirror, &Options::default(), Duration::ZERO);
    }
}
