//! [`Root`]: a module, or a directory within it, held open. Everything else is opened beneath it by
//! descriptor, so a local user who swaps a directory for a link cannot lead the worker elsewhere.
//!
//! Leaves to others: what is done with the descriptors ([`super::apply`], [`super::tree`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use syncd_proto::filter::Filter;
use syncd_proto::path::{Name, WirePath, joined, piece_len};

use super::hidden::Hidden;
use super::meta::{Identity, identity_of, statx_fd};

/// A directory that is the root of all paths, pinned.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    identity: Identity,
    resolve: ResolveFlags,
    /// Whether `openat2` is missing or filtered, so that paths are walked one component at a time.
    by_component: bool,
    cache: Mutex<Generations>,
    hidden: Option<Hidden>,
}

impl Root {
    /// Takes an open directory. With `keep_dirlinks` symlinks below it may be walked through as long
    /// as they stay beneath it (where there is `openat2`; otherwise they are refused all the same).
    ///
    /// # Errors
    /// It is not a directory, or cannot be examined.
    pub fn new(fd: OwnedFd, keep_dirlinks: bool) -> rustix::io::Result<Self> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if !keep_dirlinks {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let identity = identity_of(&statx_fd(&fd)?);
        let by_component = openat2(fd.as_fd(), b".", HANDLE, resolve).is_err();
        Ok(Self {
            fd,
            identity,
            resolve,
            by_component,
            cache: Mutex::default(),
            hidden: None,
        })
    }

    /// The same, with names that are hidden from agents, and the module's own trash.
    #[must_use]
    pub fn hiding(self, filter: Option<Arc<Filter>>, trash: Option<WirePath>) -> Self {
        let any = filter.is_some() || trash.is_some();
        Self {
            hidden: any.then(|| Hidden::new(filter, trash)),
            ..self
        }
    }

    /// What is hidden here, if anything can be.
    #[must_use]
    pub fn hidden(&self) -> Option<&Hidden> {
        self.hidden.as_ref()
    }

    /// Whether this name is hidden from agents.
    #[must_use]
    pub fn hides(&self, path: &WirePath, is_dir: bool) -> bool {
        self.hidden
            .as_ref()
            .is_some_and(|hidden| hidden.hides(path, is_dir))
    }

    /// The directory at `path` as a root of its own.
    ///
    /// # Errors
    /// Those of [`Self::open_dir`].
    pub fn beneath(&self, path: &WirePath) -> rustix::io::Result<Self> {
        let fd = self.open_dir(path)?;
        Ok(Self {
            identity: identity_of(&statx_fd(&fd)?),
            fd,
            resolve: self.resolve,
            by_component: self.by_component,
            cache: Mutex::default(),
            hidden: self.hidden.as_ref().map(|hidden| hidden.beneath(path)),
        })
    }

    /// Makes the directories of `path` that are missing, each durable by itself.
    ///
    /// # Errors
    /// Something else stands there, or they cannot be made.
    pub fn make_dirs(&self, path: &WirePath) -> rustix::io::Result<()> {
        let mut at = WirePath::root();
        for name in path.names() {
            let parent = self.open_dir(&at)?;
            match rustix::fs::mkdirat(&parent, name.as_bytes(), Mode::from_raw_mode(0o755)) {
                Ok(()) => rustix::fs::fsync(self.open_listable(&at)?)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            at = at.join(name).ok_or(Errno::NAMETOOLONG)?;
        }
        Ok(())
    }

    /// Its descriptor, which only names it: it can neither be read nor synced.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Device and inode of the pinned directory.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The directory at `path`, only to name things in it; kept open until [`Self::forget_all`].
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` or `ELOOP` if it is no directory or a symlink leads to it.
    pub fn dir(&self, path: &WirePath) -> rustix::io::Result<Arc<OwnedFd>> {
        if let Some(found) = self.lock().find(path) {
            return Ok(found);
        }
        let opened = Arc::new(self.open_dir(path)?);
        self.lock().insert(path.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// The directory that holds `path`, and the name in it; `None` for the root itself.
    ///
    /// # Errors
    /// As [`Self::dir`].
    pub fn parent<'p>(
        &self,
        path: &'p WirePath,
    ) -> rustix::io::Result<Option<(Arc<OwnedFd>, &'p Name)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        Ok(Some((self.dir(&parent)?, name)))
    }

    /// What has this name, only to see that something does; nothing is kept open.
    ///
    /// # Errors
    /// `ENOENT` if nothing has it.
    pub fn look_up(&self, path: &WirePath) -> rustix::io::Result<()> {
        self.handle(path).map(drop)
    }

    /// A handle on what has this name, which is there as long as the handle is, whatever becomes of the name.
    ///
    /// # Errors
    /// `ENOENT` if nothing has it.
    pub fn handle(&self, path: &WirePath) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open(path, flags)
    }

    /// Opens a directory only to name things in it: needs no right to read it.
    ///
    /// # Errors
    /// As [`Self::dir`].
    pub fn open_dir(&self, path: &WirePath) -> rustix::io::Result<OwnedFd> {
        self.open(path, HANDLE)
    }

    /// Opens a directory to read its entries or sync it.
    ///
    /// # Errors
    /// As [`Self::dir`], and `EACCES`.
    pub fn open_listable(&self, path: &WirePath) -> rustix::io::Result<OwnedFd> {
        self.open(path, LISTABLE)
    }

    /// Opens a file for reading, without ever blocking on a fifo or taking a terminal. What was
    /// opened may be of any type: the caller checks the descriptor. The last name is never followed. What is
    /// hidden is not there.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open_file(&self, path: &WirePath) -> rustix::io::Result<OwnedFd> {
        if self.hides(path, false) {
            return Err(Errno::NOENT);
        }
        let Some((parent, name)) = self.parent(path)? else {
            return Err(Errno::ISDIR);
        };
        rustix::fs::openat(&*parent, name.as_bytes(), READABLE, Mode::empty())
    }

    /// Forgets the descriptors of `path` and everything below: it was moved, removed or replaced.
    pub fn forget(&self, path: &WirePath) {
        self.lock().retain(|known| !known.starts_with(path));
    }

    /// Forgets all descriptors, so that a directory moved away by somebody else is not written to for
    /// longer than one group of commits.
    pub fn forget_all(&self) {
        *self.lock() = Generations::default();
    }

    /// Opens what `path` leads to, in pieces that the kernel takes.
    fn open(&self, path: &WirePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut at: Option<OwnedFd> = None;
        let mut rest = path.names();
        loop {
            let piece_len = if self.by_component {
                rest.len().min(1)
            } else {
                piece_len(rest)
            };
            let (piece, after) = rest.split_at(piece_len);
            rest = after;
            let flags = if rest.is_empty() { flags } else { HANDLE };
            let dir = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let next = if self.by_component {
                let name = piece.first().map_or(&b"."[..], Name::as_bytes);
                rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty())?
            } else {
                openat2(dir, &joined(piece), flags, self.resolve)?
            };
            if rest.is_empty() {
                return Ok(next);
            }
            at = Some(next);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Open directories by path, bounded: the young are looked up often, the old were not since the last
/// time the young became too many.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<WirePath, Arc<OwnedFd>>,
    old: HashMap<WirePath, Arc<OwnedFd>>,
}

impl Generations {
    fn find(&mut self, path: &WirePath) -> Option<Arc<OwnedFd>> {
        if let Some(found) = self.young.get(path) {
            return Some(Arc::clone(found));
        }
        let (path, found) = self.old.remove_entry(path)?;
        self.insert(path, Arc::clone(&found));
        Some(found)
    }

    fn insert(&mut self, path: WirePath, fd: Arc<OwnedFd>) {
        if self.young.len() >= generation_max() {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(path, fd);
    }

    fn retain(&mut self, keep: impl Fn(&WirePath) -> bool) {
        self.young.retain(|path, _| keep(path));
        self.old.retain(|path, _| keep(path));
    }
}

fn openat2(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    for _ in 0..RACES_MAX {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the system made the kernel unsure; it asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// Flags of a descriptor that only names a directory.
pub const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Flags of a directory to be read or synced.
pub const LISTABLE: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Flags of a file to be read, whatever it is.
pub const READABLE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// How often a lost race is tried again.
const RACES_MAX: usize = 64;

/// Most directories kept open in each of two generations, where the process may open many.
const GENERATION_MAX: usize = 128;

/// The same with regard to what it may open: most of that is for other things.
fn generation_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        let share = limit.map_or(GENERATION_MAX as u64, |limit| limit / 16);
        usize::try_from(share)
            .unwrap_or(GENERATION_MAX)
            .clamp(2, GENERATION_MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn open(dir: &Path, keep_dirlinks: bool) -> Root {
        let fd = rustix::fs::open(dir, HANDLE, Mode::empty()).unwrap();
        Root::new(fd, keep_dirlinks).unwrap()
    }

    /// The same root opened both ways.
    fn both_ways(dir: &Path) -> [Root; 2] {
        let [plain, mut walked] = [(); 2].map(|()| open(dir, false));
        assert!(!plain.by_component, "this kernel has openat2");
        walked.by_component = true;
        [plain, walked]
    }

    #[test]
    fn no_symlink_is_followed_on_the_way_or_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/f"), "abc").unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        symlink("real", dir.path().join("inside")).unwrap();
        for root in both_ways(dir.path()) {
            assert!(root.open_file(&path("real/f")).is_ok());
            for bad in ["link/secret", "inside/f", "link", "inside"] {
                assert!(root.open_file(&path(bad)).is_err(), "{bad}");
                assert!(root.open_dir(&path(bad)).is_err(), "{bad}");
                assert!(root.open_listable(&path(bad)).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn kept_directory_links_are_walked_only_inside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("inside")).unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let root = open(dir.path(), true);
        assert!(root.open_dir(&path("inside")).is_ok());
        assert_eq!(root.open_dir(&path("link")).unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_opened_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new(&[b'd'; 250]).unwrap();
        let mut at = rustix::fs::open(dir.path(), HANDLE, Mode::empty()).unwrap();
        let mut deep = WirePath::root();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, name.as_bytes(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_bytes(), HANDLE, Mode::empty()).unwrap();
            deep = deep.join(&name).unwrap();
        }
        for root in both_ways(dir.path()) {
            assert!(root.open_dir(&deep).is_ok());
            assert!(root.dir(&deep).is_ok());
        }
    }

    #[test]
    fn the_cache_is_bounded_and_forgets_what_was_moved() {
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path(), false);
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        root.dir(&path("a/b")).unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
        assert!(root.dir(&path("a/b")).is_ok(), "kept until told");
        root.forget(&path("a"));
        assert_eq!(root.dir(&path("a/b")).unwrap_err(), Errno::NOENT);
        for index in 0..GENERATION_MAX * 3 {
            let name = format!("d{index}");
            fs::create_dir(dir.path().join(&name)).unwrap();
            root.dir(&path(&name)).unwrap();
        }
        let cache = root.lock();
        assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION_MAX);
    }

    #[test]
    fn missing_directories_are_made_but_not_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let root = open(dir.path(), false);
        root.make_dirs(&path("x/y")).unwrap();
        assert!(dir.path().join("x/y").is_dir());
        assert!(root.make_dirs(&path("link/y")).is_err());
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    }
}
