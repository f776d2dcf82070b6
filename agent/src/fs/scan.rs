//! Directory listings, and [`SourceReader`], by which digests of the source are built.
//!
//! What vanishes while it is looked at is left out; what cannot be looked at is told to the caller and
//! counts as unknown, never as absent.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;
use syncd_proto::digest::Digest;
use syncd_proto::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};
use syncd_proto::links::LinkGroups;
use syncd_proto::meta::{EntryMeta, Kind};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::TreeReader;

use super::attributes::{self, Here, Place};
use super::parallel;
use super::read::{LargeFile, Piece, ReadError, Stamp};
use super::root::{self, Directory, Identity, SourceRoot, is_gone};
use crate::logic::terms::Terms;

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its entries, in no order, each with its path.
    pub entries: Vec<(WirePath, EntryMeta)>,
    /// There are others, whose names or paths are above the limits of what can be sent.
    pub unnamed: bool,
    /// One that is left out, since the receiver keeps its name for itself.
    pub reserved: Option<WirePath>,
}

/// The entries of the directory at `path`; `None` if there is no directory. The name the receiver keeps for itself is
/// left out.
///
/// # Errors
/// The directory is there but cannot be read.
pub fn list(root: &SourceRoot, path: &WirePath) -> io::Result<Option<Listing>> {
    let dir = match root.open_dir(path) {
        Ok(dir) => dir,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut listing = Listing::default();
    let read = for_each_name(&dir, |name| {
        let name = name.ok();
        let below = name.as_ref().and_then(|name| path.join(name));
        if name.as_ref().is_some_and(Name::is_reserved) {
            listing.reserved = below;
            return Ok(());
        }
        let (Some(name), Some(below)) = (name, below) else {
            listing.unnamed = true;
            return Ok(());
        };
        if let Some(entry) = root::stat_entry(dir.as_fd(), &name)? {
            listing.entries.push((below, entry));
        }
        Ok(())
    });
    match read {
        Ok(()) => Ok(Some(listing)),
        // Removed while it was open.
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the source has no name at its top that `keeps` says is one, told whether it is a directory; also if its root
/// is no directory any more.
///
/// # Errors
/// The directory could not be read.
pub fn is_empty(root: &SourceRoot, keeps: impl Fn(&WirePath, bool) -> bool) -> io::Result<bool> {
    let dir = match root.open_dir(&WirePath::root()) {
        Ok(dir) => dir,
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut found = false;
    let read = for_each_entry(&dir, |name, kind| {
        let Ok(name) = name else { return Ok(()) };
        if let Some(path) = WirePath::root().join(&name) {
            found = keeps(&path, is_dir(&dir, &name, kind)?);
        }
        // No need to read on.
        if found { Err(Errno::CANCELED) } else { Ok(()) }
    });
    match read {
        Err(error) if !found && !is_gone(&error) => Err(error),
        _ => Ok(!found),
    }
}

/// The names of the directories in the directory at `path`; none if there is no directory. Costs no
/// look at an entry where the file system tells types with names, and no listing where it counts directories.
///
/// # Errors
/// The directory is there but cannot be read.
pub fn list_dirs(root: &SourceRoot, path: &WirePath) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let read = root.open_dir(path).and_then(|dir| {
        if root::is_leaf(&dir) {
            return Ok(());
        }
        for_each_entry(&dir, |name, kind| {
            let Some(name) = name.ok().filter(|name| !name.is_reserved()) else {
                return Ok(());
            };
            if is_dir(&dir, &name, kind)? {
                names.push(name);
            }
            Ok(())
        })
    });
    match read {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(names),
    }
}

/// Whether an entry is a directory, by the type that came with its name if there was one.
fn is_dir(dir: &OwnedFd, name: &Name, kind: FileType) -> rustix::io::Result<bool> {
    Ok(match kind {
        FileType::Directory => true,
        FileType::Unknown => {
            root::stat_entry(dir.as_fd(), name)?.is_some_and(|entry| entry.kind == Kind::Dir)
        }
        _ => false,
    })
}

/// A directory at the top of the source that `keeps` says takes part, if one is among the first names read; which one is
/// for the file system to say.
///
/// # Errors
/// The root could not be read.
pub fn any_dir(
    root: &SourceRoot,
    mut keeps: impl FnMut(&WirePath) -> bool,
) -> io::Result<Option<WirePath>> {
    let dir = root.open_dir(&WirePath::root())?;
    let mut found = None;
    let mut names = 0;
    let read = for_each_entry(&dir, |name, kind| {
        names += 1;
        let name = name.ok().filter(|_| kind == FileType::Directory);
        let path = name.and_then(|name| WirePath::root().join(&name));
        found = path.filter(|path| keeps(path));
        // No need to read on.
        if found.is_some() || names >= GLANCE_MAX {
            Err(Errno::CANCELED)
        } else {
            Ok(())
        }
    });
    match read {
        Err(error) if names < GLANCE_MAX && found.is_none() => Err(error),
        _ => Ok(found),
    }
}

/// Something a walk could not take in.
#[derive(Debug)]
pub struct ScanProblem {
    /// Where.
    pub path: WirePath,
    /// What.
    pub what: Unscanned,
}

/// Why something could not be taken in.
#[derive(Debug)]
pub enum Unscanned {
    /// The entries of the directory cannot be read.
    Unreadable(io::Error),
    /// The content of the file, which was asked for, cannot be read.
    Content(io::Error),
    /// The entry has the name that the receiver keeps for itself.
    Reserved,
    /// The directory has entries that no message can name.
    Unnamed(Unnamed),
    /// The receiver keeps no entries of this type.
    NotKept(Kind),
    /// Its extended attributes cannot be read.
    Attributes(io::Error),
    /// The file kept changing while its content was hashed.
    Unstable,
}

/// Entries of one directory whose names or paths are above the limits of what can be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// How many they are.
    pub count: u64,
    /// The name of the first.
    pub first: Vec<u8>,
}

impl Unnamed {
    /// Notes one more.
    pub fn add(&mut self, name: &[u8]) {
        if self.count == 0 {
            self.first = name.to_vec();
        }
        self.count += 1;
    }
}

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of its entries cannot be mirrored, such as ",
            self.count
        )?;
        syncd_proto::path::escape(&self.first, f)?;
        write!(
            f,
            ": with their names the path is above what can be sent \
             ({PATH_BYTES_MAX} bytes, {PATH_DEPTH_MAX} names of {NAME_BYTES_MAX} bytes)"
        )
    }
}

impl fmt::Display for ScanProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.what {
            Unscanned::Unreadable(error) | Unscanned::Content(error) => {
                write!(f, "cannot be read: {error}")
            }
            Unscanned::NotKept(kind) => {
                write!(f, "not mirrored: the receiver keeps no {}", kind.word())
            }
            Unscanned::Attributes(error) => {
                write!(f, "its extended attributes cannot be read: {error}")
            }
            Unscanned::Reserved => {
                f.write_str("not mirrored: the receiver keeps this name for itself")
            }
            Unscanned::Unnamed(unnamed) => write!(f, "{unnamed}"),
            Unscanned::Unstable => f.write_str("kept changing while its content was hashed"),
        }
    }
}

/// The walk was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// Whether the entry of this name in this directory (`true`: a directory itself) takes part.
pub type Keep<'a> = &'a dyn Fn(&WirePath, &Name, bool) -> bool;

/// Told of a directory that was read, and of what takes part of its entries.
pub type Note<'a> = &'a dyn Fn(Directory, &[(Name, EntryMeta)]);

/// Reads the source for [`syncd_proto::tree::DigestTree::build`].
pub struct SourceReader<'a> {
    root: &'a SourceRoot,
    keep: Keep<'a>,
    report: &'a mut dyn FnMut(ScanProblem),
    cancel: &'a AtomicBool,
    hash_contents: bool,
    pace: Option<&'a (dyn Fn(u64) + Sync)>,
    hashes: Option<&'a Hashes>,
    note: Option<Note<'a>>,
    terms: Arc<Terms>,
    /// Where attributes are read, if they are.
    here: Option<Here>,
    links: LinkGroups,
}

/// A directory being walked.
#[derive(Debug)]
pub enum WalkDir {
    /// Held open, at this depth.
    Held(OwnedFd, usize),
    /// So deep that no descriptor is spent on it: opened by its path each time.
    ByPath,
}

impl<'a> SourceReader<'a> {
    /// A reader of `root` that leaves out what `keep` says no to, tells `report` what it could not
    /// take in, and stops when `cancel` is set.
    pub fn new(
        root: &'a SourceRoot,
        keep: Keep<'a>,
        report: &'a mut dyn FnMut(ScanProblem),
        cancel: &'a AtomicBool,
    ) -> Self {
        Self {
            root,
            keep,
            report,
            cancel,
            hash_contents: false,
            pace: None,
            hashes: None,
            note: None,
            terms: Arc::default(),
            here: None,
            links: LinkGroups::default(),
        }
    }

    /// Whether to hash the content of every file too (`verify`): reads everything.
    #[must_use]
    pub fn hash_contents(mut self, yes: bool) -> Self {
        self.hash_contents = yes;
        self
    }

    /// Told of every piece of content that was read, and may take its time.
    #[must_use]
    pub fn paced(mut self, pace: &'a (dyn Fn(u64) + Sync)) -> Self {
        self.pace = Some(pace);
        self
    }

    /// What was read before is not read again as long as it is the same version, and is noted for the next time.
    #[must_use]
    pub fn remembering(mut self, hashes: &'a Hashes) -> Self {
        self.hashes = Some(hashes);
        self
    }

    /// Who is told of every directory that was read.
    #[must_use]
    pub fn noting(mut self, note: Note<'a>) -> Self {
        self.note = Some(note);
        self
    }

    /// Entries are told as the receiver is to have them, with the digests of the attributes it keeps.
    #[must_use]
    pub fn terms(mut self, terms: Arc<Terms>) -> Self {
        self.here = terms.attributes.any().then(Here::own).flatten();
        self.terms = terms;
        self
    }

    /// The names it has met of files that have several.
    #[must_use]
    pub fn take_links(&mut self) -> LinkGroups {
        std::mem::take(&mut self.links)
    }

    /// Opens the directory that a walk starts from, with its metadata; `None` if there is none.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn start(&mut self, path: &WirePath) -> io::Result<Option<(WalkDir, EntryMeta)>> {
        match self.root.open_dir(path) {
            Ok(fd) => {
                let Some(entry) = root::entry_of(&root::statx_of(&fd)?, None) else {
                    return Ok(None);
                };
                let mut entry = self.terms.entry(entry);
                match attributes::digest(&Place::Opened(fd.as_fd()), &self.terms) {
                    Ok(digest) => entry.xattrs = digest,
                    Err(error) => self.tell(path.clone(), Unscanned::Attributes(error.into())),
                }
                Ok(Some((WalkDir::Held(fd, 0), entry)))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_entries(
        &mut self,
        dir: &OwnedFd,
        path: &WirePath,
    ) -> io::Result<Result<Vec<(Name, EntryMeta)>, Cancelled>> {
        let mut entries = Vec::new();
        let mut unnamed = Unnamed::default();
        let mut cancelled = false;
        let is_here = self.here.as_ref().is_some_and(|here| here.enter(dir));
        for_each_name(dir, |name| {
            cancelled |= self.cancel.load(Ordering::Relaxed);
            if cancelled {
                return Ok(());
            }
            let name = match name {
                Ok(name) => name,
                Err(bytes) => {
                    unnamed.add(bytes);
                    return Ok(());
                }
            };
            if path.can_hold(&name) {
                if let Some(entry) = self.entry((dir.as_fd(), is_here), path, &name)? {
                    entries.push((name, entry));
                }
            } else if !name.is_reserved() {
                unnamed.add(name.as_bytes());
            }
            Ok(())
        })?;
        if unnamed.count > 0 {
            // However many they are, they are told as their directory.
            self.tell(path.clone(), Unscanned::Unnamed(unnamed));
        }
        if self.hash_contents && !cancelled {
            entries = self.hash_all(dir.as_fd(), path, entries);
            cancelled = self.cancel.load(Ordering::Relaxed);
        }
        if cancelled {
            return Ok(Err(Cancelled));
        }
        if let Some(note) = self.note
            && let Ok(dir) = root::directory(dir.as_fd())
        {
            note(dir, &entries);
        }
        Ok(Ok(entries))
    }

    /// What takes part of the entry `name` of an open directory, which may be the working directory.
    fn entry(
        &mut self,
        (dir, is_here): (BorrowedFd<'_>, bool),
        parent: &WirePath,
        name: &Name,
    ) -> rustix::io::Result<Option<EntryMeta>> {
        if name.is_reserved() {
            self.tell_of(parent, name, Unscanned::Reserved);
            return Ok(None);
        }
        let Some((entry, linked)) = root::stat_links(dir, name)? else {
            return Ok(None);
        };
        let mut entry = self.terms.entry(entry);
        if !(self.keep)(parent, name, entry.kind == Kind::Dir) {
            return Ok(None);
        }
        if !self.terms.keeps(entry.kind) {
            self.tell_of(parent, name, Unscanned::NotKept(entry.kind));
            return Ok(None);
        }
        let linked = linked.filter(|_| self.terms.links(entry.kind));
        if let Some(Identity { dev, ino }) = linked.map(|linked| linked.file)
            && let Some(path) = parent.join(name)
        {
            self.links.add((dev, ino), &entry, path);
        }
        if self.terms.attributes.any() {
            let place = match &self.here {
                Some(here) if is_here => Place::Here(here, name.as_bytes()),
                _ => Place::named(dir, name.as_bytes()),
            };
            match attributes::digest(&place, &self.terms) {
                Ok(digest) => entry.xattrs = digest,
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => {
                    self.tell_of(parent, name, Unscanned::Attributes(error.into()));
                }
            }
        }
        Ok(Some(entry))
    }

    /// Adds the digests of contents to what was listed.
    fn hash_all(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &WirePath,
        entries: Vec<(Name, EntryMeta)>,
    ) -> Vec<(Name, EntryMeta)> {
        let hashing = Hashing {
            terms: &self.terms,
            cancel: self.cancel,
            pace: self.pace,
            hashes: self.hashes,
        };
        let bytes: u64 = entries.iter().map(|(_, entry)| entry.size).sum();
        let alone = self.pace.is_some() || bytes < PARALLEL_BYTES_MIN;
        let hashed = parallel::map(&entries, alone, |(name, entry)| {
            (entry.kind == Kind::File).then(|| hashing.entry(dir, name))
        });
        let mut kept = Vec::with_capacity(entries.len());
        for ((name, entry), hashed) in entries.into_iter().zip(hashed) {
            let what = match hashed {
                None => None,
                Some(Ok(hashed)) => {
                    let xattrs = entry.xattrs;
                    kept.push((name, EntryMeta { xattrs, ..hashed }));
                    continue;
                }
                Some(Err(ReadError::Gone | ReadError::NotAFile)) => continue,
                Some(Err(ReadError::Changed | ReadError::TooLarge)) => Some(Unscanned::Unstable),
                Some(Err(ReadError::Denied(error) | ReadError::Io(error))) => {
                    Some(Unscanned::Content(error))
                }
            };
            if let Some(what) = what {
                self.tell_of(path, &name, what);
            }
            kept.push((name, entry));
        }
        kept
    }

    fn tell_of(&mut self, dir: &WirePath, name: &Name, what: Unscanned) {
        if let Some(path) = dir.join(name) {
            self.tell(path, what);
        }
    }

    fn tell(&mut self, path: WirePath, what: Unscanned) {
        (self.report)(ScanProblem { path, what });
    }
}

/// Digests of versions that were read a moment ago.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<HashMap<Stamp, Digest>>);

impl Hashes {
    fn find(&self, stamp: &Stamp) -> Option<Digest> {
        self.lock().get(stamp).copied()
    }

    fn add(&self, stamp: Stamp, digest: Digest) {
        let mut known = self.lock();
        if known.len() < HASHES_MAX {
            known.insert(stamp, digest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Stamp, Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads contents; several threads may at once.
struct Hashing<'a> {
    terms: &'a Arc<Terms>,
    cancel: &'a AtomicBool,
    pace: Option<&'a (dyn Fn(u64) + Sync)>,
    hashes: Option<&'a Hashes>,
}

impl Hashing<'_> {
    /// The entry of a file with the digest of its content.
    fn entry(&self, dir: BorrowedFd<'_>, name: &Name) -> Result<EntryMeta, ReadError> {
        for _ in 0..HASH_TRIES {
            let file = LargeFile::from_fd(root::open_file_at(dir, name)?, self.terms.clone())?;
            let mut entry = file.entry().clone();
            let stamp = file.stamp();
            entry.content = self.hashes.and_then(|known| known.find(&stamp));
            if entry.content.is_some() {
                return Ok(entry);
            }
            match self.digest(file) {
                Ok(digest) => {
                    if let (Some(known), Some(digest)) = (self.hashes, digest) {
                        known.add(stamp, digest);
                    }
                    entry.content = digest;
                    return Ok(entry);
                }
                Err(ReadError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ReadError::Changed)
    }

    /// The digest of a file; `None` if the walk was cancelled meanwhile.
    fn digest(&self, mut file: LargeFile) -> Result<Option<Digest>, ReadError> {
        while let Some(piece) = file.next_piece(super::read::REST_BYTES)? {
            if let (Some(pace), Piece::Data(bytes)) = (self.pace, &piece) {
                pace(bytes.len() as u64);
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        file.finish().map(|(_, _, digest)| Some(digest))
    }
}

impl TreeReader for SourceReader<'_> {
    type Dir = WalkDir;
    type Error = Cancelled;

    fn entries(
        &mut self,
        dir: &WalkDir,
        path: &WirePath,
    ) -> Result<Option<Vec<(Name, EntryMeta)>>, Cancelled> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Cancelled);
        }
        let read = match dir {
            WalkDir::Held(fd, _) => self.read_entries(fd, path),
            WalkDir::ByPath => match self.root.open_dir(path) {
                Ok(fd) => self.read_entries(&fd, path),
                Err(error) => Err(error),
            },
        };
        match read {
            Ok(entries) => entries.map(Some),
            Err(error) => {
                if !is_gone(&error) {
                    self.tell(path.clone(), Unscanned::Unreadable(error));
                }
                Ok(None)
            }
        }
    }

    fn open(
        &mut self,
        parent: &WalkDir,
        name: &Name,
        path: &WirePath,
    ) -> Result<Option<WalkDir>, Cancelled> {
        let (fd, depth) = match parent {
            WalkDir::Held(fd, depth) if *depth < DEPTH_HELD_MAX => (fd, depth + 1),
            WalkDir::Held(..) | WalkDir::ByPath => return Ok(Some(WalkDir::ByPath)),
        };
        match root::open_dir_at(fd.as_fd(), name).map_err(io::Error::from) {
            Ok(fd) => Ok(Some(WalkDir::Held(fd, depth))),
            Err(error) => {
                if !is_gone(&error) {
                    self.tell(path.clone(), Unscanned::Unreadable(error));
                }
                Ok(None)
            }
        }
    }
}

impl fmt::Debug for SourceReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceReader")
            .field("root", &self.root.path())
            .field("hash_contents", &self.hash_contents)
            .finish_non_exhaustive()
    }
}

/// Calls `each` with every name in a directory, or with its bytes if it is none that can be sent.
fn for_each_name(
    dir: &OwnedFd,
    mut each: impl FnMut(Result<Name, &[u8]>) -> rustix::io::Result<()>,
) -> io::Result<()> {
    for_each_entry(dir, |name, _| each(name))
}

fn for_each_entry(
    dir: &OwnedFd,
    mut each: impl FnMut(Result<Name, &[u8]>, FileType) -> rustix::io::Result<()>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(DIR_BUFFER_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            each(Name::new(bytes).ok_or(bytes), entry.file_type())?;
        }
    }
    Ok(())
}

/// Room for names of one `getdents64`, in bytes: about a thousand entries.
const DIR_BUFFER_BYTES: usize = 32 << 10;

/// Names looked at for a directory among them.
const GLANCE_MAX: usize = 1_024;

/// How many levels of a walk hold a descriptor; deeper ones open theirs by path.
const DEPTH_HELD_MAX: usize = 64;

/// How often a file that changes while it is hashed is hashed again.
const HASH_TRIES: usize = 3;

/// Contents of a directory that are read by several threads at once, in bytes.
const PARALLEL_BYTES_MIN: u64 = 1 << 20;

/// Most versions whose digests are noted.
const HASHES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use rustix::fs::RenameFlags;
    use syncd_proto::meta::Compare;
    use syncd_proto::tree::DigestTree;

    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn everything(_: &WirePath, _: &Name, _: bool) -> bool {
        true
    }

    fn walk(dir: &Path, keep: Keep<'_>, hash: bool) -> (DigestTree, Vec<ScanProblem>) {
        let root = SourceRoot::open(dir).unwrap();
        let mut problems = Vec::new();
        let mut report = |problem| problems.push(problem);
        let cancel = AtomicBool::new(false);
        let mut reader = SourceReader::new(&root, keep, &mut report, &cancel).hash_contents(hash);
        let (top, meta) = reader.start(&WirePath::root()).unwrap().unwrap();
        let tree = DigestTree::build(&mut reader, top, &WirePath::root(), &meta, Compare::ALL);
        (tree.unwrap(), problems)
    }

    #[test]
    fn a_directory_is_found_that_takes_part() {
        let dir = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(dir.path()).unwrap();
        let found = |skip: &str| {
            let found = any_dir(&root, |path| path.to_string() != skip).unwrap();
            found.map(|path| path.to_string())
        };
        assert_eq!(found(""), None);
        fs::write(dir.path().join("file"), "").unwrap();
        symlink(".", dir.path().join("link")).unwrap();
        assert_eq!(found(""), None);
        fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(found("").as_deref(), Some("a"));
        assert_eq!(found("a"), None);
        fs::create_dir(dir.path().join("b")).unwrap();
        assert_eq!(found("a").as_deref(), Some("b"));
    }

    #[test]
    fn a_directory_is_not_looked_for_among_all_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(dir.path()).unwrap();
        for number in 0..2 * GLANCE_MAX {
            fs::create_dir(dir.path().join(number.to_string())).unwrap();
        }
        let mut asked = 0;
        let keeps = |_: &WirePath| {
            asked += 1;
            false
        };
        assert_eq!(any_dir(&root, keeps).unwrap(), None);
        assert_eq!(asked, GLANCE_MAX);
    }

    #[test]
    fn a_listing_has_everything_with_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/.syncd")).unwrap();
        fs::create_dir(dir.path().join(".syncd")).unwrap();
        for n in 0..3_000 {
            fs::write(dir.path().join(format!("d/file-{n}")), "x").unwrap();
        }
        symlink("target", dir.path().join("link")).unwrap();
        let root = SourceRoot::open(dir.path()).unwrap();
        let mut top = list(&root, &WirePath::root()).unwrap().unwrap();
        top.entries.sort_by(|a, b| a.0.cmp(&b.0));
        let top = top.entries;
        let kinds: Vec<_> = top
            .iter()
            .map(|(at, meta)| (at.to_string(), meta.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                ("d".to_owned(), Kind::Dir),
                ("link".to_owned(), Kind::Symlink)
            ]
        );
        assert_eq!(top[1].1.content, Some(Digest::of(b"target")));
        let below = list(&root, &path("d")).unwrap().unwrap().entries;
        assert_eq!(
            below.len(),
            3_000,
            "the reserved name is kept back at every level"
        );
        for (at, meta) in &below {
            assert_eq!(root.stat(at).unwrap().as_ref(), Some(meta));
        }
        assert!(list(&root, &path("absent")).unwrap().is_none());
        assert!(list(&root, &path("link")).unwrap().is_none());
    }

    #[test]
    fn directories_are_listed_whatever_the_file_system_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(dir.path()).unwrap();
        let dirs = || {
            let mut names = list_dirs(&root, &path("d")).unwrap();
            names.sort();
            let names = names.iter().map(ToString::to_string);
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(dirs(), "", "there is none");
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "x").unwrap();
        assert_eq!(dirs(), "");
        for (name, all) in [("b", "b"), ("a", "a b"), (".syncd", "a b")] {
            fs::create_dir(dir.path().join("d").join(name)).unwrap();
            assert_eq!(dirs(), all);
        }
        fs::create_dir(dir.path().join("other")).unwrap();
        for (gone, rest) in [("a", "b"), (".syncd", "b"), ("b", "")] {
            fs::remove_dir(dir.path().join("d").join(gone)).unwrap();
            assert_eq!(dirs(), rest);
        }
        fs::rename(dir.path().join("other"), dir.path().join("d/moved")).unwrap();
        assert_eq!(dirs(), "moved");
        // A file takes the directory's place, and goes back.
        let [moved, other] = ["d/moved", "other"].map(|at| dir.path().join(at));
        fs::write(&other, "x").unwrap();
        for expected in ["", "moved"] {
            let (cwd, flags) = (rustix::fs::CWD, RenameFlags::EXCHANGE);
            rustix::fs::renameat_with(cwd, &moved, cwd, &other, flags).unwrap();
            assert_eq!(dirs(), expected);
        }
        fs::rename(&moved, other.with_extension("d")).unwrap();
        assert_eq!(dirs(), "");
    }

    #[test]
    fn a_walk_sees_changes_leaves_out_what_is_excluded_and_tells_the_reserved_name_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join(".syncd/stage")).unwrap();
        fs::create_dir_all(dir.path().join("cache/x")).unwrap();
        fs::write(dir.path().join("a/b/f"), "1").unwrap();
        let keep = |dir: &WirePath, name: &Name, is_dir: bool| {
            !(is_dir && dir.is_root() && name.as_bytes() == b"cache")
        };
        let (first, problems) = walk(dir.path(), &keep, false);
        assert_eq!(first.len(), 3);
        assert_eq!(problems.len(), 1);
        assert!(matches!(problems[0].what, Unscanned::Reserved));
        fs::write(dir.path().join("cache/x/f"), "1").unwrap();
        let (second, _) = walk(dir.path(), &keep, false);
        assert_eq!(first.root_digest(), second.root_digest());
        fs::write(dir.path().join("a/b/f"), "22").unwrap();
        let (third, _) = walk(dir.path(), &keep, false);
        assert_ne!(first.digest(&path("a/b")), third.digest(&path("a/b")));
    }

    #[test]
    fn contents_are_compared_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let write = |bytes: &str| {
            fs::write(&file, bytes).unwrap();
            let file = fs::File::options().write(true).open(&file).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH)
                .unwrap();
        };
        let both = || [false, true].map(|hash| walk(dir.path(), &everything, hash).0.root_digest());
        write("one");
        let one = both();
        write("two");
        let two = both();
        assert_eq!(one[0], two[0], "same size and time");
        assert_ne!(one[1], two[1]);
    }

    #[test]
    fn a_tree_deeper_than_the_descriptors_held_is_walked() {
        let dir = tempfile::tempdir().unwrap();
        let deep = vec!["d"; DEPTH_HELD_MAX + 20].join("/");
        fs::create_dir_all(dir.path().join(&deep)).unwrap();
        let (tree, problems) = walk(dir.path(), &everything, false);
        assert_eq!(tree.len(), DEPTH_HELD_MAX + 21);
        assert!(tree.is_complete(&path(&deep)));
        assert!(problems.is_empty());
    }

    #[test]
    fn an_unreadable_directory_is_told_and_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let shut = dir.path().join("shut");
        fs::create_dir(&shut).unwrap();
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // On a thread of its own, which a superuser can make an ordinary one.
        let walked = std::thread::scope(|scope| {
            let walker = scope.spawn(|| {
                if rustix::process::geteuid().is_root() {
                    let nobody = rustix::process::Uid::from_raw(65_534);
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                walk(dir.path(), &everything, false)
            });
            walker.join().unwrap()
        });
        let (tree, problems) = walked;
        assert!(!tree.is_complete(&WirePath::root()));
        assert!(matches!(problems[0].what, Unscanned::Unreadable(_)));
    }

    #[test]
    fn a_cancelled_walk_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(dir.path()).unwrap();
        let cancel = AtomicBool::new(true);
        let mut report = |_| {};
        let mut reader = SourceReader::new(&root, &everything, &mut report, &cancel);
        let (top, meta) = reader.start(&WirePath::root()).unwrap().unwrap();
        let tree = DigestTree::build(&mut reader, top, &WirePath::root(), &meta, Compare::ALL);
        assert_eq!(tree.unwrap_err(), Cancelled);
    }
}
