//! [`Touched`]: what has been changed and is not known to be durable yet.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use syncd_proto::path::WirePath;

use super::root::LISTABLE;

/// Directories and files to be synced: each by itself while they are few, the whole file system when
/// they are many.
#[derive(Debug)]
pub struct Touched {
    dirs: HashMap<WirePath, Arc<OwnedFd>>,
    files: Vec<OwnedFd>,
    /// Something cannot be synced by itself, or there is too much.
    everything: bool,
    /// Whether the file system may be synced as a whole.
    whole: bool,
    failed: Option<Errno>,
}

impl Touched {
    /// Nothing yet. Without `whole` everything is synced by itself, at once where it gets too much to
    /// hold.
    #[must_use]
    pub fn new(whole: bool) -> Self {
        Self {
            dirs: HashMap::new(),
            files: Vec::new(),
            everything: false,
            whole,
            failed: None,
        }
    }

    /// Names in this directory have changed.
    pub fn dir(&mut self, path: Option<WirePath>, fd: Arc<OwnedFd>) {
        if self.everything && self.whole {
            return;
        }
        let before = self.dirs.insert(path.unwrap_or_default(), Arc::clone(&fd));
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &fd)) {
            // Another directory was at this path when it was touched before.
            self.sync_or_defer(|| sync_dir(&before));
        }
        self.bound();
    }

    /// Metadata of this open file has changed.
    pub fn file(&mut self, fd: OwnedFd) {
        if self.everything && self.whole {
            return;
        }
        self.files.push(fd);
        self.bound();
    }

    /// Metadata of something that cannot be opened has changed.
    pub fn unnamed(&mut self) {
        self.everything = true;
    }

    /// Whether there is nothing to sync.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.files.is_empty() && !self.everything && self.failed.is_none()
    }

    /// The file system has just been synced.
    pub fn all_synced(&mut self) {
        *self = Self::new(self.whole);
    }

    /// Makes everything durable; `any` is any open file of the file system.
    ///
    /// # Errors
    /// Something may be lost: nothing of it may be acknowledged.
    pub fn sync(&mut self, any: &OwnedFd) -> rustix::io::Result<()> {
        let now = std::mem::replace(self, Self::new(self.whole));
        if let Some(error) = now.failed {
            return Err(error);
        }
        if now.everything {
            return rustix::fs::syncfs(any);
        }
        now.files.iter().try_for_each(rustix::fs::fsync)?;
        for dir in now.dirs.values() {
            match sync_dir(dir) {
                // A directory that we may not read cannot be synced by itself.
                Err(Errno::ACCESS) => return rustix::fs::syncfs(any),
                done => done?,
            }
        }
        Ok(())
    }

    fn bound(&mut self) {
        if self.dirs.len() + self.files.len() <= SINGLE_MAX {
            return;
        }
        let files = std::mem::take(&mut self.files);
        let dirs = std::mem::take(&mut self.dirs);
        if self.whole {
            self.everything = true;
            return;
        }
        for file in &files {
            self.sync_or_defer(|| rustix::fs::fsync(file));
        }
        for dir in dirs.values() {
            self.sync_or_defer(|| sync_dir(dir));
        }
    }

    fn sync_or_defer(&mut self, sync: impl FnOnce() -> rustix::io::Result<()>) {
        if self.whole {
            self.everything = true;
            return;
        }
        match sync() {
            Ok(()) => {}
            Err(Errno::ACCESS) => self.everything = true,
            Err(error) => self.failed = self.failed.or(Some(error)),
        }
    }
}

fn sync_dir(handle: &OwnedFd) -> rustix::io::Result<()> {
    let dir = rustix::fs::openat(handle, ".", LISTABLE, Mode::empty())?;
    rustix::fs::fsync(dir)
}

/// Most things synced by themselves; beyond, one sync of the file system is cheaper.
const SINGLE_MAX: usize = 16;
