//! [`SourceRoot`]: the mirrored directory, held open. Paths are resolved beneath it by descriptor and
//! no symlink is followed, so a user who swaps a directory for a link cannot lead the agent elsewhere.
//!
//! Leaves to others: what a listing contains ([`super::scan`]) and how content is read
//! ([`super::read`]).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use syncd_proto::digest::Digest;
use syncd_proto::limits::LINK_TARGET_BYTES_MAX;
use syncd_proto::meta::{EntryMeta, Kind, Mtime, Xattr};
use syncd_proto::path::{Name, WirePath, joined, piece_len};

use super::attributes::{self, Place};
use super::mounts::Mounts;
use crate::logic::terms::Terms;

/// What makes a directory the one it was: device and inode. As long as it is held open the file system stays, and neither
/// number is given to another, so that nothing is added by an identifier of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// A directory, and when it was born where the file system tells: its number may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Directory {
    identity: Identity,
    born: (i64, u32),
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (rustix::fs::major(self.dev), rustix::fs::minor(self.dev));
        write!(formatter, "device {major}:{minor}, inode {}", self.ino)
    }
}

/// Something that has several names, and is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// Which file.
    pub file: Identity,
    /// How many names it has, wherever they are.
    pub names: u32,
}

impl Linked {
    /// Which file, as device and inode.
    #[must_use]
    pub const fn inode(&self) -> (u64, u64) {
        (self.file.dev, self.file.ino)
    }
}

/// The source directory, opened once and pinned.
#[derive(Debug)]
pub struct SourceRoot {
    fd: OwnedFd,
    path: PathBuf,
    identity: Identity,
    /// Whether `openat2` is missing or filtered, so that paths are walked one component at a time.
    by_component: bool,
    mounts: OnceLock<Mounts>,
}

impl SourceRoot {
    /// Opens the directory at `path`. Symlinks in `path` itself are followed: it is the user's word.
    ///
    /// # Errors
    /// It does not exist, is not a directory, or may not be entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, HANDLE, Mode::empty())?;
        let identity = identity_of(&statx_of(&fd)?);
        let by_component = openat2(&fd, b".", HANDLE).is_err();
        Ok(Self {
            fd,
            path: path.to_owned(),
            identity,
            by_component,
            mounts: OnceLock::new(),
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the pinned directory.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What is mounted below; changes are those since this was first asked.
    pub fn mounts(&self) -> &Mounts {
        self.mounts.get_or_init(|| Mounts::below(&self.path))
    }

    /// Whether the path it was opened by still leads to the same directory: `false` when the source
    /// was unmounted, moved, removed or replaced. Removals seen then are not removals of files.
    ///
    /// # Errors
    /// The path could not be examined (which says nothing about the directory).
    pub fn check_identity(&self) -> io::Result<bool> {
        let flags = AtFlags::STATX_SYNC_AS_STAT;
        match rustix::fs::statx(rustix::fs::CWD, &self.path, flags, WANTED) {
            Ok(stat) => {
                Ok(kind_of(&stat) == Some(Kind::Dir) && identity_of(&stat) == self.identity)
            }
            Err(error) if is_absent(error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What the path leads to instead of the directory of the start, as evidence for people.
    #[must_use]
    pub fn what_became(&self) -> String {
        let path = self.path.display();
        match rustix::fs::statx(
            rustix::fs::CWD,
            &self.path,
            AtFlags::STATX_SYNC_AS_STAT,
            WANTED,
        ) {
            Ok(stat) if kind_of(&stat) == Some(Kind::Dir) => format!(
                "{path} is another directory ({}) than the one of the start ({}): unmounted, mounted over, or replaced",
                identity_of(&stat),
                self.identity
            ),
            Ok(_) => format!("{path} is gone: it is no directory any more"),
            Err(error) => format!("{path} is gone: {}", io::Error::from(error)),
        }
    }

    /// Opens a directory for reading its entries.
    ///
    /// # Errors
    /// Also when it is no directory, or a symlink leads to it; [`is_gone`] tells.
    pub fn open_dir(&self, path: &WirePath) -> io::Result<OwnedFd> {
        Ok(self.open_beneath(path.names(), LISTABLE)?)
    }

    /// Opens a directory only to name things in it: needs no right to read it.
    ///
    /// # Errors
    /// As [`Self::open_dir`].
    pub fn dir_handle(&self, path: &WirePath) -> io::Result<OwnedFd> {
        Ok(self.open_beneath(path.names(), HANDLE)?)
    }

    /// Opens a file for reading, without ever blocking on a fifo or taking a terminal. What was
    /// opened may be of any type: the caller checks the descriptor.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open_file(&self, path: &WirePath) -> io::Result<OwnedFd> {
        match self.open_beneath(path.names(), READABLE | OFlags::NOATIME) {
            Err(Errno::PERM) => Ok(self.open_beneath(path.names(), READABLE)?),
            opened => Ok(opened?),
        }
    }

    /// What is at `path`, not following a symlink; `None` if nothing is, or a parent is no directory.
    ///
    /// # Errors
    /// Anything but absence, such as a parent that may not be entered.
    pub fn stat(&self, path: &WirePath) -> io::Result<Option<EntryMeta>> {
        let Some((name, parents)) = path.names().split_last() else {
            return Ok(entry_of(&statx_of(&self.fd)?, None));
        };
        present(self.with_dir(parents, |dir| stat_entry(dir, name))).map(Option::flatten)
    }

    /// The same, and which file it is if that has several names and is no directory.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn stat_links(&self, path: &WirePath) -> io::Result<Option<(EntryMeta, Option<Linked>)>> {
        let Some((name, parents)) = path.names().split_last() else {
            return Ok(self.stat(path)?.map(|entry| (entry, None)));
        };
        present(self.with_dir(parents, |dir| stat_links(dir, name))).map(Option::flatten)
    }

    /// What is at `path` as the receiver is to have it, with the digest of its attributes.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn stat_for(&self, path: &WirePath, terms: &Terms) -> io::Result<Option<EntryMeta>> {
        let Some(mut entry) = self.stat(path)?.map(|entry| terms.entry(entry)) else {
            return Ok(None);
        };
        if terms.attributes.any() {
            match self.at_place(path, |place| attributes::digest(place, terms)) {
                Ok(digest) => entry.xattrs = digest,
                Err(error) if is_absent(error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(entry))
    }

    /// The extended attributes of what is at `path`, as the receiver is to have them.
    ///
    /// # Errors
    /// Those of the system; `E2BIG` if they are more than can be sent.
    pub fn attributes(&self, path: &WirePath, terms: &Terms) -> io::Result<Vec<Xattr>> {
        Ok(self.at_place(path, |place| attributes::read(place, terms))?)
    }

    /// Whether extended attributes of everything can be read here.
    ///
    /// # Errors
    /// Those of the system: most likely that there is no `/proc`.
    pub fn check_attributes(&self) -> io::Result<()> {
        Ok(attributes::check(&self.fd)?)
    }

    fn at_place<T>(
        &self,
        path: &WirePath,
        then: impl FnOnce(&Place<'_>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match path.names().split_last() {
            None => then(&Place::named(&self.fd, b".")),
            Some((name, parents)) => {
                self.with_dir(parents, |dir| then(&Place::named(dir, name.as_bytes())))
            }
        }
    }

    /// The directory that a name is in, and the name. `None` for the root, and where the directory cannot be examined.
    #[must_use]
    pub fn home<'p>(&self, path: &'p WirePath) -> Option<(Directory, &'p Name)> {
        let (name, parents) = path.names().split_last()?;
        let dir = self.with_dir(parents, directory).ok()?;
        Some((dir, name))
    }

    /// The target of the symlink at `path`; `None` if there is no symlink there.
    ///
    /// # Errors
    /// Anything but absence.
    pub fn read_link(&self, path: &WirePath) -> io::Result<Option<Vec<u8>>> {
        let Some((name, parents)) = path.names().split_last() else {
            return Ok(None);
        };
        present(self.with_dir(parents, |dir| link_target(dir, name))).map(Option::flatten)
    }

    fn with_dir<T>(
        &self,
        names: &[Name],
        then: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        if names.is_empty() {
            return then(self.fd.as_fd());
        }
        then(self.open_beneath(names, HANDLE)?.as_fd())
    }

    /// Opens what `names` lead to from the root, in pieces that the kernel takes.
    fn open_beneath(&self, names: &[Name], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut at: Option<OwnedFd> = None;
        let mut rest = names;
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
                openat2(dir, &joined(piece), flags)?
            };
            if rest.is_empty() {
                return Ok(next);
            }
            at = Some(next);
        }
    }
}

/// Looks at names one after the other: the directory of the last one stays open for the next in it. For a moment only:
/// it may have moved, and what is found is under the name that it had.
#[derive(Debug)]
pub struct Nearby<'a> {
    root: &'a SourceRoot,
    last: Option<(Vec<Name>, OwnedFd)>,
    /// What the last one is, once somebody asked.
    last_is: Option<Directory>,
}

impl<'a> Nearby<'a> {
    /// Looks beneath a root.
    #[must_use]
    pub const fn new(root: &'a SourceRoot) -> Self {
        let (last, last_is) = (None, None);
        Self {
            root,
            last,
            last_is,
        }
    }

    /// The moment is over.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// See [`SourceRoot::home`].
    #[must_use]
    pub fn home<'p>(&mut self, path: &'p WirePath) -> Option<(Directory, &'p Name)> {
        let (name, parents) = path.names().split_last()?;
        let dir = self.dir(parents).ok()?;
        if parents.is_empty() {
            return Some((directory(dir).ok()?, name));
        }
        if self.last_is.is_none() {
            self.last_is = directory(self.dir(parents).ok()?).ok();
        }
        Some((self.last_is?, name))
    }

    /// See [`SourceRoot::stat_links`].
    ///
    /// # Errors
    /// As there.
    pub fn stat_links(
        &mut self,
        path: &WirePath,
    ) -> io::Result<Option<(EntryMeta, Option<Linked>)>> {
        match path.names().split_last() {
            None => self.root.stat_links(path),
            Some((name, parents)) => {
                let found = self.dir(parents).and_then(|dir| stat_links(dir, name));
                present(found).map(Option::flatten)
            }
        }
    }

    /// See [`SourceRoot::open_file`].
    ///
    /// # Errors
    /// As there.
    pub fn open_file(&mut self, path: &WirePath) -> io::Result<OwnedFd> {
        match path.names().split_last() {
            None => self.root.open_file(path),
            Some((name, parents)) => Ok(open_file_at(self.dir(parents)?, name)?),
        }
    }

    fn dir(&mut self, names: &[Name]) -> rustix::io::Result<BorrowedFd<'_>> {
        if names.is_empty() {
            return Ok(self.root.fd.as_fd());
        }
        let last = self.last.take().filter(|(known, _)| known == names);
        let (names, dir) = match last {
            Some(last) => last,
            None => {
                self.last_is = None;
                (names.to_vec(), self.root.open_beneath(names, HANDLE)?)
            }
        };
        Ok(self.last.insert((names, dir)).1.as_fd())
    }
}

/// Whether an error means that the path names nothing (any more): absent, or a parent is no directory
/// but a file or a symlink.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_absent)
}

/// What `name` in the open directory is; `None` if it vanished.
pub(super) fn stat_entry(
    dir: BorrowedFd<'_>,
    name: &Name,
) -> rustix::io::Result<Option<EntryMeta>> {
    Ok(stat_links(dir, name)?.map(|(entry, _)| entry))
}

/// The same, and which file it is if that has several names and is no directory.
pub(super) fn stat_links(
    dir: BorrowedFd<'_>,
    name: &Name,
) -> rustix::io::Result<Option<(EntryMeta, Option<Linked>)>> {
    for _ in 0..RACES_MAX {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_SYNC_AS_STAT;
        let stat = match rustix::fs::statx(dir, name.as_bytes(), flags, WANTED) {
            Ok(stat) => stat,
            Err(error) if is_absent(error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if kind_of(&stat) != Some(Kind::Symlink) {
            return Ok(entry_of(&stat, None).map(|entry| (entry, linked(&stat))));
        }
        // A link that became something else between the two calls is looked at again.
        if let Some(target) = link_target(dir, name)? {
            let entry = entry_of(&stat, Some(Digest::of(&target)));
            return Ok(entry.map(|entry| (entry, linked(&stat))));
        }
    }
    Err(Errno::AGAIN)
}

/// What an open file or directory is.
pub(super) fn statx_of(fd: impl AsFd) -> rustix::io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_SYNC_AS_STAT;
    rustix::fs::statx(fd, c"", flags, WANTED)
}

/// Device and inode of what was examined.
pub(super) fn identity_of(stat: &Statx) -> Identity {
    Identity {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
    }
}

/// Which directory this is.
pub(super) fn directory(dir: BorrowedFd<'_>) -> rustix::io::Result<Directory> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_SYNC_AS_STAT;
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(dir, c"", flags, wanted)?;
    let told = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(Directory {
        identity: identity_of(&stat),
        born: match told {
            true => (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            false => (0, 0),
        },
    })
}

/// Which file it is, if it has several names and is no directory.
pub(super) fn linked(stat: &Statx) -> Option<Linked> {
    let linked = stat.stx_nlink > 1 && kind_of(stat) != Some(Kind::Dir);
    linked.then(|| Linked {
        file: identity_of(stat),
        names: stat.stx_nlink,
    })
}

/// The entry of what was examined; `None` for a file type unknown to us.
pub(super) fn entry_of(stat: &Statx, content: Option<Digest>) -> Option<EntryMeta> {
    let kind = kind_of(stat)?;
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Some(EntryMeta {
        kind,
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: Mtime::said(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        rdev: if is_device {
            (stat.stx_rdev_major, stat.stx_rdev_minor)
        } else {
            (0, 0)
        },
        content,
        xattrs: None,
    })
}

/// Whether an open directory is known to hold no directory without being read: it has two links, its name and its own
/// `.`, where each directory in it adds one. One whose count may have run over, or cannot be asked for, is not known to.
pub(super) fn is_leaf(dir: &OwnedFd) -> bool {
    let counted = statx_of(dir).map(|stat| stat.stx_nlink == 2 && stat.stx_size <= LEAF_BYTES_MAX);
    let counts = || rustix::fs::fstatfs(dir).map(|on| COUNTING.contains(&on.f_type));
    counted.is_ok_and(|counted| counted && counts().unwrap_or(false))
}

/// Opens `name` in an open directory to read its entries.
pub(super) fn open_dir_at(dir: BorrowedFd<'_>, name: &Name) -> rustix::io::Result<OwnedFd> {
    let flags = LISTABLE | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name.as_bytes(), flags, Mode::empty())
}

/// Opens `name` in an open directory to read it as a file; see [`SourceRoot::open_file`].
pub(super) fn open_file_at(dir: BorrowedFd<'_>, name: &Name) -> rustix::io::Result<OwnedFd> {
    let open = |flags| rustix::fs::openat(dir, name.as_bytes(), flags, Mode::empty());
    match open(READABLE | OFlags::NOATIME) {
        Err(Errno::PERM) => open(READABLE),
        opened => opened,
    }
}

fn kind_of(stat: &Statx) -> Option<Kind> {
    Kind::of_mode(stat.stx_mode.into())
}

/// The target of the symlink `name`; `None` if it is gone or no symlink.
fn link_target(dir: BorrowedFd<'_>, name: &Name) -> rustix::io::Result<Option<Vec<u8>>> {
    let buffer = Vec::with_capacity(LINK_TARGET_BYTES_MAX / 16);
    match rustix::fs::readlinkat(dir, name.as_bytes(), buffer) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL) => Ok(None),
        Err(error) if is_absent(error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn present<T>(found: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absent(error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

fn openat2(dir: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACES_MAX {
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the system made the kernel unsure; it asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const LISTABLE: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const READABLE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const WANTED: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::MODE)
    .union(StatxFlags::UID)
    .union(StatxFlags::GID)
    .union(StatxFlags::MTIME)
    .union(StatxFlags::CTIME)
    .union(StatxFlags::INO)
    .union(StatxFlags::NLINK)
    .union(StatxFlags::SIZE);

/// File systems on which a directory has a link for each directory in it: ext2 to ext4, XFS, tmpfs.
const COUNTING: [rustix::fs::FsWord; 3] = [0xef53, 0x5846_5342, 0x0102_1994];

/// Size above which the links of a directory are not believed, in bytes: ext4 stops to count at 65 000, whose names take
/// more.
const LEAF_BYTES_MAX: u64 = 512 << 10;

/// How often a lost race is tried again.
const RACES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    /// The same root opened both ways.
    fn both_ways(dir: &Path) -> [SourceRoot; 2] {
        let [plain, mut walked] = [(); 2].map(|()| SourceRoot::open(dir).unwrap());
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
                assert!(is_gone(&root.open_dir(&path(bad)).unwrap_err()), "{bad}");
            }
            assert_eq!(root.stat(&path("link/secret")).unwrap(), None);
            let link = root.stat(&path("inside")).unwrap().unwrap();
            assert_eq!(link.kind, Kind::Symlink);
            assert_eq!(link.content, Some(Digest::of(b"real")));
            assert_eq!(link.size, 0);
            assert_eq!(root.read_link(&path("inside")).unwrap().unwrap(), b"real");
            assert_eq!(root.read_link(&path("real")).unwrap(), None);
        }
    }

    #[test]
    fn what_is_absent_is_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "abc").unwrap();
        for root in both_ways(dir.path()) {
            for absent in ["g", "f/below", "no/such/dir"] {
                assert_eq!(root.stat(&path(absent)).unwrap(), None, "{absent}");
                assert_eq!(root.read_link(&path(absent)).unwrap(), None);
            }
            let file = root.stat(&path("f")).unwrap().unwrap();
            let meta = fs::metadata(dir.path().join("f")).unwrap();
            assert_eq!((file.kind, file.size), (Kind::File, 3));
            assert_eq!(file.mtime.secs(), meta.mtime());
            assert_eq!(i64::from(file.mtime.nanos()), meta.mtime_nsec());
            let top = root.stat(&WirePath::root()).unwrap().unwrap();
            assert_eq!(top.kind, Kind::Dir);
        }
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
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&at, "f", flags, Mode::RUSR).unwrap();
        let file = deep.join(&Name::new(b"f").unwrap()).unwrap();
        for root in both_ways(dir.path()) {
            assert!(root.open_dir(&deep).is_ok());
            assert!(root.open_file(&file).is_ok());
            assert_eq!(root.stat(&file).unwrap().unwrap().kind, Kind::File);
        }
    }

    #[test]
    fn names_in_one_directory_are_looked_at_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one", "two"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("f"), name).unwrap();
        }
        symlink("one", at("link")).unwrap();
        for root in both_ways(dir.path()) {
            let mut near = Nearby::new(&root);
            let size = |near: &mut Nearby<'_>, name: &str| {
                let found = near.stat_links(&path(name)).unwrap();
                found.map(|(entry, _)| entry.size)
            };
            assert_eq!(size(&mut near, "one/f"), Some(3));
            fs::rename(at("one"), at("away")).unwrap();
            assert_eq!(size(&mut near, "one/f"), Some(3), "a moment ago");
            assert!(near.open_file(&path("one/f")).is_ok());
            assert_eq!(size(&mut near, "two/f"), Some(3));
            assert_eq!(size(&mut near, "one/f"), None, "another came between");
            assert_eq!(size(&mut near, "away/f"), Some(3));
            fs::rename(at("away"), at("one")).unwrap();
            near.forget();
            assert_eq!(size(&mut near, "away/f"), None);
            assert_eq!(size(&mut near, "link/f"), None);
            assert_eq!(size(&mut near, "two/none"), None);
            assert!(near.open_file(&path("link")).is_err());
            assert!(near.stat_links(&WirePath::root()).unwrap().is_some());
        }
    }

    #[test]
    fn a_replaced_root_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("root");
        fs::create_dir(&at).unwrap();
        let root = SourceRoot::open(&at).unwrap();
        assert!(root.check_identity().unwrap());
        fs::rename(&at, dir.path().join("away")).unwrap();
        assert!(!root.check_identity().unwrap());
        fs::create_dir(&at).unwrap();
        assert!(!root.check_identity().unwrap());
        assert!(root.stat(&WirePath::root()).unwrap().is_some());
    }
}
