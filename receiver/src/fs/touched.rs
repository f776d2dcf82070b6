//! [`Touched`]: what has been changed and is not known to be durable yet.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use syncd_proto::message::Durability;
use syncd_proto::path::WirePath;

use super::meta::{identity_of, statx_fd};
use super::root::LISTABLE;

/// Directories and files to be synced: each by itself while they are few, the whole file system when
/// they are many.
#[derive(Debug)]
pub struct Touched {
    dirs: HashMap<WirePath, Arc<OwnedFd>>,
    files: Vec<OwnedFd>,
    /// Something cannot be synced by itself, or there is too much.
    everything: bool,
    policy: Policy,
    failed: Option<Errno>,
}

#[derive(Debug, Clone, Copy)]
struct Policy {
    durability: Durability,
    /// Device of the module: what lies on another one is not reached by syncing the module's.
    home: u64,
}

impl Touched {
    /// Nothing yet, in a module on the device `home`. With [`Durability::Files`] everything is synced
    /// by itself, at once where it gets too much to hold; with [`Durability::None`] nothing is noted.
    #[must_use]
    pub fn new(durability: Durability, home: u64) -> Self {
        Self::empty(Policy { durability, home })
    }

    fn empty(policy: Policy) -> Self {
        Self {
            dirs: HashMap::new(),
            files: Vec::new(),
            everything: false,
            policy,
            failed: None,
        }
    }

    /// Names in this directory have changed.
    pub fn dir(&mut self, path: Option<WirePath>, fd: Arc<OwnedFd>) {
        if self.needs_nothing() {
            return;
        }
        if self.is_foreign(&fd) {
            return self.sync_now(|| sync_dir(&fd));
        }
        if self.everything && self.policy.durability == Durability::Batch {
            return;
        }
        let before = self.dirs.insert(path.unwrap_or_default(), Arc::clone(&fd));
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &fd)) {
            // Another directory was at this path when it was touched before.
            self.sync_or_defer(|| sync_dir(&before));
        }
        self.bound();
    }

    /// A file that was made without a name on the module's file system has got one, or a directory with files in it.
    pub fn linked(&mut self) {
        if self.needs_nothing() {
            return;
        }
        // Whether a sync of its directory reaches it depends on the file system.
        self.everything = true;
    }

    /// Metadata of this open file has changed.
    pub fn file(&mut self, fd: OwnedFd) {
        if self.needs_nothing() {
            return;
        }
        if self.is_foreign(&fd) {
            return self.sync_now(|| rustix::fs::fsync(&fd));
        }
        if !(self.everything && self.policy.durability == Durability::Batch) {
            self.files.push(fd);
            self.bound();
        }
    }

    /// Names have changed in a directory that is none of the mirror's.
    pub fn aside(&mut self, dir: &OwnedFd) {
        match reopened(dir) {
            Ok(opened) => self.file(opened),
            Err(error) => self.sync_now(|| Err(error)),
        }
    }

    /// Metadata of something in this directory that cannot be opened has changed.
    pub fn unopened(&mut self, dir: &OwnedFd) {
        if self.needs_nothing() {
            return;
        }
        if self.is_foreign(dir) {
            return self.sync_now(|| rustix::fs::syncfs(reopened(dir)?));
        }
        self.everything = true;
    }

    /// Whether there is nothing to sync.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.files.is_empty() && !self.everything && self.failed.is_none()
    }

    /// The file system of the module has just been synced.
    ///
    /// # Errors
    /// Something had to be synced by itself before, and that failed.
    pub fn all_synced(&mut self) -> rustix::io::Result<()> {
        let before = std::mem::replace(self, Self::empty(self.policy));
        before.failed.map_or(Ok(()), Err)
    }

    /// Makes everything durable; `any` is any open file of the file system.
    ///
    /// # Errors
    /// Something may be lost: nothing of it may be acknowledged.
    pub fn sync(&mut self, any: &OwnedFd) -> rustix::io::Result<()> {
        let now = std::mem::replace(self, Self::empty(self.policy));
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
        if self.policy.durability == Durability::Batch {
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
        if self.policy.durability == Durability::Batch {
            self.everything = true;
            return;
        }
        match sync() {
            Err(Errno::ACCESS) => self.everything = true,
            done => self.sync_now(|| done),
        }
    }

    fn sync_now(&mut self, sync: impl FnOnce() -> rustix::io::Result<()>) {
        if let Err(error) = sync() {
            self.failed.get_or_insert(error);
        }
    }

    /// Whether nothing more needs to be noted.
    fn needs_nothing(&self) -> bool {
        self.policy.durability == Durability::None
    }

    fn is_foreign(&self, fd: &OwnedFd) -> bool {
        statx_fd(fd).map_or(true, |stat| identity_of(&stat).dev != self.policy.home)
    }
}

fn sync_dir(handle: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsync(reopened(handle)?)
}

fn reopened(handle: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(handle, ".", LISTABLE, Mode::empty())
}

/// Most things synced by themselves; beyond, one sync of the file system is cheaper.
const SINGLE_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, LISTABLE, Mode::empty()).unwrap()
    }

    fn touched(durability: Durability) -> (tempfile::TempDir, Touched) {
        let dir = tempfile::tempdir().unwrap();
        let home = identity_of(&statx_fd(open(dir.path())).unwrap()).dev;
        (dir, Touched::new(durability, home))
    }

    #[test]
    fn many_things_become_one_sync_and_few_stay_few() {
        let (dir, mut touched) = touched(Durability::Batch);
        for count in 0..=SINGLE_MAX {
            assert!(!touched.everything, "{count}");
            touched.file(open(dir.path()));
        }
        assert!(touched.everything && touched.files.is_empty());
        touched.sync(&open(dir.path())).unwrap();
        assert!(touched.is_empty());
    }

    #[test]
    fn files_durability_never_syncs_the_whole_file_system() {
        let (dir, mut touched) = touched(Durability::Files);
        for _ in 0..=SINGLE_MAX {
            touched.file(open(dir.path()));
        }
        assert!(!touched.everything && touched.files.is_empty());
    }

    #[test]
    fn what_lies_on_another_device_is_synced_by_itself() {
        let (dir, touched) = touched(Durability::Batch);
        let home = touched.policy.home;
        let mut elsewhere = Touched::new(Durability::Batch, home + 1);
        elsewhere.dir(None, Arc::new(open(dir.path())));
        elsewhere.file(open(dir.path()));
        assert!(elsewhere.is_empty());
        // A pipe cannot be synced: nothing of it may be acknowledged.
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        elsewhere.file(pipe);
        assert!(elsewhere.sync(&open(dir.path())).is_err());
    }

    #[test]
    fn a_directory_that_took_the_place_of_another_does_not_hide_it() {
        let (dir, mut touched) = touched(Durability::Batch);
        touched.dir(None, Arc::new(open(dir.path())));
        touched.dir(None, Arc::new(open(dir.path())));
        assert!(touched.everything);
    }
}
