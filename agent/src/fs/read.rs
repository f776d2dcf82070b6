//! Stable reads: what is returned is one version of a file, or [`ReadError::Changed`].
//!
//! The descriptor is examined before and after (inode, size, mtime, ctime). Never a memory map: a file
//! that shrinks while it is read must be an error, not a signal.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, SeekFrom, Statx};
use rustix::io::Errno;
use syncd_proto::delta::{GroupHasher, GroupList};
use syncd_proto::digest::Digest;
use syncd_proto::meta::{EntryMeta, Kind, Meta};
use syncd_proto::path::WirePath;

use super::ahead::Ahead;
use super::attributes::{self, Place};
use super::root::{self, Identity, Linked, SourceRoot};
use crate::logic::terms::Terms;

/// Why a file could not be read as one version.
#[derive(Debug)]
pub enum ReadError {
    /// There is nothing at the path any more.
    Gone,
    /// It was written to, replaced or cut while it was read.
    Changed,
    /// It is larger than it may be to be read at once.
    TooLarge,
    /// What is there is no regular file.
    NotAFile,
    /// It may not be read.
    Denied(io::Error),
    /// The disk, or the system, failed.
    Io(io::Error),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("gone"),
            Self::Changed => f.write_str("changed while it was read"),
            Self::TooLarge => f.write_str("too large to be read at once"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::Denied(error) => write!(f, "not readable: {error}"),
            Self::Io(error) => write!(f, "read failed: {error}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(error) | Self::Io(error) => Some(error),
            Self::Gone | Self::Changed | Self::TooLarge | Self::NotAFile => None,
        }
    }
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Gone,
            Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::NODEV => Self::NotAFile,
            Errno::ACCESS | Errno::PERM => Self::Denied(error.into()),
            _ => Self::Io(error.into()),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Self::Io(error), Self::from)
    }
}

/// A small file, whole.
#[derive(Debug, Clone)]
pub struct SmallFile {
    /// What to set on the mirror.
    pub meta: Meta,
    /// What a scan would say of it.
    pub entry: EntryMeta,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Digest of the content.
    pub digest: Digest,
    /// Which file it is, if it has several names.
    pub linked: Option<Identity>,
}

/// How sure a read must be that the file stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// It did, or the read is [`ReadError::Changed`].
    Required,
    /// The file never rests: what was read within its length at opening goes, with the metadata from
    /// before.
    Waived,
}

/// Reads the file at `path` at once, if it has at most `max` bytes.
///
/// # Errors
/// See [`ReadError`].
pub fn read_small(
    root: &SourceRoot,
    path: &WirePath,
    max: u64,
    stability: Stability,
    terms: &Terms,
) -> Result<SmallFile, ReadError> {
    read_small_opened(&Opened::of(root.open_file(path)?)?, max, stability, terms)
}

/// A regular file, opened and examined.
#[derive(Debug)]
pub struct Opened {
    fd: OwnedFd,
    stat: Statx,
    entry: EntryMeta,
}

impl Opened {
    /// Examines what was opened.
    ///
    /// # Errors
    /// [`ReadError::NotAFile`], or the system failed.
    pub fn of(fd: OwnedFd) -> Result<Self, ReadError> {
        let stat = root::statx_of(&fd)?;
        match root::entry_of(&stat, None) {
            Some(entry) if entry.kind == Kind::File => Ok(Self { fd, stat, entry }),
            _ => Err(ReadError::NotAFile),
        }
    }

    /// Whether it has a name still. Where a file system does not count them it has none.
    #[must_use]
    pub fn has_name(&self) -> bool {
        self.stat.stx_nlink > 0
    }

    /// What [`SourceRoot::stat_links`] says of it.
    #[must_use]
    pub fn stat_links(&self) -> (EntryMeta, Option<Linked>) {
        (self.entry.clone(), root::linked(&self.stat))
    }
}

/// The same for a file that was opened a moment ago; it is read from its beginning.
///
/// # Errors
/// See [`ReadError`].
pub fn read_small_opened(
    Opened { fd, stat, entry }: &Opened,
    max: u64,
    stability: Stability,
    terms: &Terms,
) -> Result<SmallFile, ReadError> {
    let (stamp, entry) = (Stamp::of(stat), terms.entry(entry.clone()));
    if stamp.size > max {
        return Err(ReadError::TooLarge);
    }
    let size = usize::try_from(stamp.size).map_err(|_| ReadError::TooLarge)?;
    // One byte more, so that a file that grew shows; that there is none is not asked for again.
    let mut bytes = Vec::new();
    read_at_least(fd, 0, size, size.saturating_add(1), &mut bytes)?;
    let meta = meta_of(fd, &entry, terms);
    let after = root::statx_of(fd)?;
    let changed = bytes.len() != size || Stamp::of(&after) != stamp;
    if changed && stability == Stability::Required {
        return Err(ReadError::Changed);
    }
    bytes.truncate(size);
    Ok(SmallFile {
        meta,
        digest: Digest::of(&bytes),
        linked: root::linked(&after).map(|linked| linked.file),
        entry,
        bytes,
    })
}

/// The next stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Vec<u8>),
    /// So many zero bytes that take no room on the disk.
    Hole(u64),
}

impl Piece {
    /// Bytes that it stands for.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(len) => *len,
        }
    }

    /// Whether it stands for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its first `max` bytes, and the rest if there is one.
    #[must_use]
    pub fn split(self, max: u64) -> (Self, Option<Self>) {
        if self.len() <= max {
            return (self, None);
        }
        match self {
            Self::Data(mut bytes) => {
                let tail = bytes.split_off(max as usize);
                (Self::Data(bytes), Some(Self::Data(tail)))
            }
            Self::Hole(len) => (Self::Hole(max), Some(Self::Hole(len - max))),
        }
    }
}

/// Where the next stretch of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Bytes.
    Data {
        /// Offset in bytes.
        start: u64,
        /// Length in bytes.
        len: usize,
    },
    /// So many zero bytes that take no room on the disk.
    Hole(u64),
}

/// What a file of any size turned out to be.
#[derive(Debug, Clone)]
pub struct ReadFile {
    /// What to set on the mirror.
    pub meta: Meta,
    /// Its length in bytes.
    pub len: u64,
    /// Digest of its content.
    pub digest: Digest,
    /// Groups of its content.
    pub groups: GroupList,
    /// Whether it stood still while it was read.
    pub stable: bool,
    /// Which file it is.
    pub file: Identity,
    /// The same, if it has several names.
    pub linked: Option<Identity>,
}

/// A file of any size, read in pieces and hashed on the way. Memory does not depend on its size.
#[derive(Debug)]
pub struct LargeFile {
    fd: OwnedFd,
    stamp: Stamp,
    entry: EntryMeta,
    terms: Arc<Terms>,
    /// `None` if somebody else hashes.
    hasher: Option<GroupHasher>,
    position: u64,
    /// End of the stretch of data that `position` is in.
    data_end: u64,
}

impl LargeFile {
    /// Opens the file at `path`; what it becomes at the receiver is told by `terms`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(root: &SourceRoot, path: &WirePath, terms: Arc<Terms>) -> Result<Self, ReadError> {
        Self::from_fd(root.open_file(path)?, terms)
    }

    /// The same for a descriptor that is already open.
    pub(super) fn from_fd(fd: OwnedFd, terms: Arc<Terms>) -> Result<Self, ReadError> {
        let Opened { fd, stat, entry } = Opened::of(fd)?;
        let (stamp, entry) = (Stamp::of(&stat), terms.entry(entry));
        // Only a hint to read ahead; a filesystem without it is fine.
        let _ = rustix::fs::fadvise(&fd, 0, None::<NonZeroU64>, Advice::Sequential);
        Ok(Self {
            fd,
            stamp,
            entry,
            terms,
            hasher: Some(GroupHasher::for_len(stamp.size)),
            position: 0,
            data_end: 0,
        })
    }

    /// The same, for somebody who hashes what is read himself.
    #[must_use]
    pub fn without_hashing(self) -> Self {
        Self {
            hasher: None,
            ..self
        }
    }

    /// Which version it was when it was opened.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Its length when it was opened, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// What a scan would have said of it when it was opened.
    #[must_use]
    pub fn entry(&self) -> &EntryMeta {
        &self.entry
    }

    /// How far [`Self::next_piece`] has come, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next piece, at most `max` bytes of data (a hole may be longer); `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::Changed`] if the file has become shorter; else see [`ReadError`].
    pub fn next_piece(&mut self, max: usize) -> Result<Option<Piece>, ReadError> {
        match self.next_span(max)? {
            Some(Span::Hole(len)) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update_zeros(len);
                }
                Ok(Some(Piece::Hole(len)))
            }
            Some(Span::Data { start, len }) => {
                let mut bytes = Vec::new();
                self.read_span(start, len, &mut bytes)?;
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&bytes);
                }
                Ok(Some(Piece::Data(bytes)))
            }
            None => Ok(None),
        }
    }

    /// Where the next piece is, which counts as read.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next_span(&mut self, max: usize) -> Result<Option<Span>, ReadError> {
        let start = self.position;
        if start >= self.stamp.size {
            return Ok(None);
        }
        if start >= self.data_end {
            let (data, end) = self.find_data()?;
            self.data_end = end;
            if data > start {
                self.position = data;
                return Ok(Some(Span::Hole(data - start)));
            }
        }
        let len = (self.data_end - start).min(max.max(1) as u64) as usize;
        self.position += len as u64;
        Ok(Some(Span::Data { start, len }))
    }

    /// Reads a stretch into `bytes`, in place of what is there; does not move [`Self::position`].
    ///
    /// # Errors
    /// [`ReadError::Changed`] if the file has become shorter; else see [`ReadError`].
    pub fn read_span(&self, start: u64, len: usize, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        read_exact(&self.fd, start, len, bytes)
    }

    /// A thread that reads stretches of this file and hashes groups of `group_bytes`, if it pays.
    #[must_use]
    pub fn ahead(&self, group_bytes: u64) -> Option<Ahead> {
        Ahead::begin(&self.fd, self.stamp.size, group_bytes)
    }

    /// Hashes what has not been read yet, and checks that the file is still the version that was
    /// opened. Only then was everything read before one version.
    ///
    /// # Errors
    /// [`ReadError::Changed`] if it is not; else see [`ReadError`].
    pub fn finish(self) -> Result<(Meta, u64, Digest), ReadError> {
        let read = self.finish_as_read()?;
        if read.stable {
            Ok((read.meta, read.len, read.digest))
        } else {
            Err(ReadError::Changed)
        }
    }

    /// The same without the check: also says whether the file stood still. For a file that never rests
    /// and must go as it is; what was read is its content within the length at opening.
    ///
    /// # Errors
    /// [`ReadError::Changed`] if it has become shorter; else see [`ReadError`].
    pub fn finish_as_read(mut self) -> Result<ReadFile, ReadError> {
        while self.next_piece(REST_BYTES)?.is_some() {}
        let fresh = || GroupHasher::for_len(0);
        let (groups, digest) = self.hasher.take().unwrap_or_else(fresh).finish();
        self.finish_hashed(groups, digest)
    }

    /// The same for somebody who has hashed all of it himself.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn finish_hashed(self, groups: GroupList, digest: Digest) -> Result<ReadFile, ReadError> {
        let meta = meta_of(&self.fd, &self.entry, &self.terms);
        let stable = self.check_unchanged().is_ok();
        let stat = root::statx_of(&self.fd)?;
        Ok(ReadFile {
            stable,
            file: root::identity_of(&stat),
            linked: root::linked(&stat).map(|linked| linked.file),
            meta,
            len: self.stamp.size,
            digest,
            groups,
        })
    }

    /// Whether the file is still the version that was opened, so that a long read can stop early.
    ///
    /// # Errors
    /// [`ReadError::Changed`] if it is not; else see [`ReadError`].
    pub fn check_unchanged(&self) -> Result<(), ReadError> {
        if Stamp::of(&root::statx_of(&self.fd)?) == self.stamp {
            Ok(())
        } else {
            Err(ReadError::Changed)
        }
    }

    /// Start and end of the next stretch of data from `position` on, within the size at opening; both
    /// are the size if only a hole follows.
    fn find_data(&self) -> Result<(u64, u64), ReadError> {
        let size = self.stamp.size;
        let data = match rustix::fs::seek(&self.fd, SeekFrom::Data(self.position)) {
            Ok(data) => data.clamp(self.position, size),
            Err(Errno::NXIO) => return Ok((size, size)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((self.position, size)),
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(&self.fd, SeekFrom::Hole(data)) {
            // A hole at the very place where data was a moment ago: the file is changing.
            Ok(end) if end <= data && data < size => return Err(ReadError::Changed),
            Ok(end) => end.min(size),
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error.into()),
        };
        Ok((data, end.max(data)))
    }
}

/// What tells one version of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    identity: Identity,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Self {
            identity: root::identity_of(stat),
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }
}

/// Metadata with the attributes, or without if those cannot be read or sent: the content goes all the
/// same, and whoever looks at the attributes alone is told why.
fn meta_of(fd: &OwnedFd, entry: &EntryMeta, terms: &Terms) -> Meta {
    let mut meta = entry.meta();
    if terms.attributes.any() {
        meta.xattrs = attributes::read(&Place::Opened(fd.as_fd()), terms).ok();
    }
    meta
}

/// Reads `len` bytes at `offset` into `bytes`, in place of what is there.
pub(super) fn read_exact(
    fd: &OwnedFd,
    offset: u64,
    len: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), ReadError> {
    read_at_least(fd, offset, len, len, bytes)?;
    match bytes.len() < len {
        true => Err(ReadError::Changed),
        false => Ok(()),
    }
}

/// Reads up to `len` bytes, where `enough` are enough; fewer only at the end of the file.
fn read_at_least(
    fd: &OwnedFd,
    offset: u64,
    enough: usize,
    len: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), ReadError> {
    bytes.clear();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| ReadError::Io(io::ErrorKind::OutOfMemory.into()))?;
    loop {
        let at = offset.saturating_add(bytes.len() as u64);
        let before = bytes.len();
        match rustix::io::pread(fd, spare_capacity(bytes), at) {
            Ok(_) if bytes.len() == before || bytes.len() >= enough => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(len);
    Ok(())
}

/// Piece size for what is only hashed, in bytes.
pub(super) const REST_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Seek, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::SystemTime;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn setup() -> (tempfile::TempDir, SourceRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(dir.path()).unwrap();
        (dir, root)
    }

    fn write_to(at: &Path) -> fs::File {
        fs::File::options().write(true).open(at).unwrap()
    }

    #[test]
    fn a_small_file_is_read_whole_with_what_was_seen_of_it() {
        let (dir, root) = setup();
        fs::write(dir.path().join("f"), "hello").unwrap();
        let file =
            read_small(&root, &path("f"), 5, Stability::Required, &Terms::default()).unwrap();
        assert_eq!(file.bytes, b"hello");
        assert_eq!(file.digest, Digest::of(b"hello"));
        assert_eq!(Some(file.entry), root.stat(&path("f")).unwrap());
        let too_large = read_small(&root, &path("f"), 4, Stability::Waived, &Terms::default());
        assert!(matches!(too_large, Err(ReadError::TooLarge)));
        fs::write(dir.path().join("empty"), "").unwrap();
        let empty = read_small(
            &root,
            &path("empty"),
            0,
            Stability::Required,
            &Terms::default(),
        )
        .unwrap();
        assert!(empty.bytes.is_empty());
    }

    #[test]
    fn what_is_no_file_is_refused_and_a_fifo_does_not_hang() {
        let (dir, root) = setup();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
        for bad in ["fifo", "dir", "link", "sock"] {
            let read = read_small(
                &root,
                &path(bad),
                100,
                Stability::Required,
                &Terms::default(),
            );
            assert!(matches!(read, Err(ReadError::NotAFile)), "{bad}: {read:?}");
            assert!(LargeFile::open(&root, &path(bad), Arc::default()).is_err());
        }
        for gone in ["fifo/x", "absent"] {
            let read = read_small(
                &root,
                &path(gone),
                100,
                Stability::Required,
                &Terms::default(),
            );
            assert!(matches!(read, Err(ReadError::Gone)), "{gone}: {read:?}");
        }
    }

    #[test]
    fn pieces_join_to_the_file_and_holes_stay_holes() {
        let (dir, root) = setup();
        let mut file = fs::File::create(dir.path().join("f")).unwrap();
        let mut want = vec![0; 3 << 20];
        for start in [0, 1 << 20] {
            want[start..start + 70_000].fill(7);
            file.seek(std::io::SeekFrom::Start(start as u64)).unwrap();
            file.write_all(&want[start..start + 70_000]).unwrap();
        }
        file.set_len(3 << 20).unwrap();
        let mut large = LargeFile::open(&root, &path("f"), Arc::default()).unwrap();
        let (mut got, mut holes) = (Vec::new(), 0);
        while let Some(piece) = large.next_piece(64 << 10).unwrap() {
            match piece {
                Piece::Data(bytes) => {
                    assert!(bytes.len() <= 64 << 10);
                    got.extend(bytes);
                }
                Piece::Hole(length) => {
                    holes += length;
                    got.resize(got.len() + length as usize, 0);
                }
            }
        }
        assert!(got == want);
        assert!(holes >= 2 << 20, "{holes} bytes of holes");
        let mut edge = vec![9; 100];
        large.read_span(70_000 - 4, 8, &mut edge).unwrap();
        assert_eq!(edge, [7, 7, 7, 7, 0, 0, 0, 0]);
        let beyond = large.read_span((3 << 20) - 1, 2, &mut edge);
        assert!(matches!(beyond, Err(ReadError::Changed)));
        let (_, size, digest) = large.finish().unwrap();
        assert_eq!((size, digest), (3 << 20, Digest::of(&want)));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_says_so() {
        let (dir, root) = setup();
        let at = dir.path().join("f");
        let changes: [fn(&Path); 4] = [
            |at| {
                let mut file = fs::File::options().append(true).open(at).unwrap();
                file.write_all(b"x").unwrap();
            },
            |at| write_to(at).set_len(10).unwrap(),
            |at| write_to(at).write_all(b"yy").unwrap(),
            |at| {
                let longer = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
                fs::set_permissions(at, fs::Permissions::from_mode(0o600)).unwrap();
                write_to(at).set_modified(longer).unwrap();
            },
        ];
        for (index, change) in changes.iter().enumerate() {
            fs::write(&at, vec![1; 100_000]).unwrap();
            // A time in the past: the change cannot fall into the same tick of the clock.
            write_to(&at).set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let mut large = LargeFile::open(&root, &path("f"), Arc::default()).unwrap();
            large.next_piece(10).unwrap();
            assert!(large.check_unchanged().is_ok());
            change(&at);
            assert!(large.check_unchanged().is_err(), "change {index}");
            let finished = large.finish();
            assert!(
                matches!(finished, Err(ReadError::Changed)),
                "change {index}"
            );
        }
    }

    #[test]
    fn what_was_not_asked_for_is_hashed_at_the_end() {
        let (dir, root) = setup();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        fs::write(dir.path().join("f"), &bytes).unwrap();
        let large = LargeFile::open(&root, &path("f"), Arc::default()).unwrap();
        assert_eq!(large.finish().unwrap().2, Digest::of(&bytes));
    }
}
