//! [`Device`]: a disk that remembers what it was told. A FUSE file system that is one file; a loop device on it turns
//! every flush of the file system above into an fsync, so that writes and flushes come here in the order they count.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fuse::{self, Ask, Request};
use crate::record::{Log, Mark};

/// A disk that is being served.
#[derive(Debug)]
pub(crate) struct Device {
    at: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    kernel: File,
    image: File,
    size_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: Log,
    /// Flushes that wait, while they are to wait.
    held: Option<Vec<u64>>,
}

impl Device {
    /// Serves `image` as the file `at`, which is made.
    pub(crate) fn start(image: &Path, at: &Path, log: Log) -> io::Result<Self> {
        let kernel = File::options().read(true).write(true).open("/dev/fuse")?;
        let image = File::options().read(true).write(true).open(image)?;
        File::create_new(at)?;
        let size_bytes = image.metadata()?.len();
        // The mount is told the descriptor by number and takes its own reference.
        let options = format!(
            "fd={},rootmode=100000,user_id=0,group_id=0",
            kernel.as_raw_fd()
        );
        let options = CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("syncd-tests", at, "fuse", flags, &*options)?;
        let shared = Arc::new(Shared {
            kernel,
            image,
            size_bytes,
            state: Mutex::new(State { log, held: None }),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.serve()
        });
        Ok(Self {
            at: at.to_owned(),
            shared,
            thread: Some(thread),
        })
    }

    /// The file to put a loop device on.
    pub(crate) fn disk(&self) -> &Path {
        &self.at
    }

    /// Notes something between what has been written and what will be.
    pub(crate) fn mark(&self, mark: Mark) {
        self.shared.lock().log.mark(mark);
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.shared.lock().log.records().len()
    }

    /// From now on flushes wait.
    pub(crate) fn hold_flushes(&self) {
        self.shared.lock().held.get_or_insert_default();
    }

    /// How many flushes wait.
    pub(crate) fn flushes_held(&self) -> usize {
        self.shared.lock().held.as_ref().map_or(0, Vec::len)
    }

    /// Lets them go, and those that come.
    pub(crate) fn release_flushes(&self) {
        let mut state = self.shared.lock();
        for number in state.held.take().unwrap_or_default() {
            state.log.flush();
            let _ = self.shared.reply(&fuse::answer(number, &[]));
        }
    }

    /// Ends the service; nothing may be mounted on it any more.
    pub(crate) fn finish(mut self) -> Log {
        rustix::mount::unmount(&self.at, UnmountFlags::empty()).expect("unmount the disk");
        let thread = self.thread.take().expect("a thread");
        let served = thread.join().expect("the thread of the disk");
        served.expect("serve the disk");
        self.shared.lock().log.take().expect("the log")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.release_flushes();
            let flags = UnmountFlags::DETACH | UnmountFlags::FORCE;
            let _ = rustix::mount::unmount(&self.at, flags);
        }
        let _ = fs::remove_file(&self.at);
    }
}

impl Shared {
    fn serve(&self) -> io::Result<()> {
        let mut buffer = vec![0; fuse::REQUEST_BYTES_MAX];
        loop {
            match (&self.kernel).read(&mut buffer) {
                Ok(length) => self.take(&buffer[..length])?,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NODEV) => return Ok(()),
                    // A request that was taken back.
                    Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn take(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(Request { number, ask }) = Request::parse(bytes) else {
            return Err(io::Error::other("a request is cut short"));
        };
        let body = match ask {
            Ask::Init {
                minor,
                readahead,
                flags,
            } => fuse::init_body(minor, readahead, flags),
            Ask::Attributes => fuse::attributes_body(self.size_bytes),
            Ask::Open => fuse::open_body(),
            Ask::Read { offset, length } => self.read(offset, length)?,
            Ask::Write { offset, bytes } => {
                self.image.write_all_at(bytes, offset)?;
                self.lock().log.write(offset, bytes)?;
                fuse::written_body(bytes.len())
            }
            Ask::Sync => {
                let mut state = self.lock();
                if let Some(held) = &mut state.held {
                    held.push(number);
                    return Ok(());
                }
                state.log.flush();
                Vec::new()
            }
            Ask::Nothing => Vec::new(),
            Ask::Note => return Ok(()),
            Ask::Statistics => vec![0; 80],
            Ask::Unknown => return self.reply(&fuse::failure(number, Errno::NOSYS)),
        };
        self.reply(&fuse::answer(number, &body))
    }

    fn read(&self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let left = self.size_bytes.saturating_sub(offset);
        let length = u64::from(length).min(left);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.image.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn reply(&self, bytes: &[u8]) -> io::Result<()> {
        match (&self.kernel).write_all(bytes) {
            // Nobody waits any more.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::NODEV)
                ) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
