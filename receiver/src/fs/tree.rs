//! [`Trees`]: what the mirror looks like, as digests and listings, for reconcile and verify.
//!
//! The walk itself is [`syncd_proto::tree`]'s; here is what reads directories for it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RawDir, Statx};
use rustix::io::Errno;

use syncd_proto::attributes::Attributes;
use syncd_proto::digest::{Digest, Hasher};
use syncd_proto::limits::LINK_TARGET_BYTES_MAX;
use syncd_proto::links::{LinkGroups, LinkNames};
use syncd_proto::message::{DigestQuery, Digests, ListEntry, ListQuery, Listing};
use syncd_proto::meta::{Compare, EntryMeta, Kind};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::{DigestTree, TreeReader, put_in_order};

use super::attributes::{self, Here, Place};
use super::fake;
use super::known::Known;
use super::meta::{Identity, entry_of, identity_of, kind_of, link_target, statx_at, statx_fd};
use super::parallel;
use super::refusal::Refusal;
use super::root::{LISTABLE, READABLE, Root};
use super::signature::version_of;
use crate::logic::fake_super::Said;
use crate::logic::munge;

/// The session ends: nobody wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Why there is no listing.
#[derive(Debug)]
pub enum ListError {
    /// Nobody wants it.
    Stopped,
    /// The directory is there and cannot be read.
    Unread(Refusal),
}

impl From<Stopped> for ListError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Digest trees of one session.
#[derive(Debug)]
pub struct Trees {
    compare: Compare,
    munges: bool,
    faked: bool,
    links_all: bool,
    known: Option<Arc<Known>>,
    hashes: Hashes,
    built: Option<Built>,
}

#[derive(Debug)]
struct Built {
    at: WirePath,
    content: bool,
    /// Commits applied when it was built.
    applied: u64,
    /// How long that took.
    took: Duration,
    tree: DigestTree,
    links: LinkNames,
}

impl Trees {
    /// Trees compared by this; `munges` if targets of symlinks are stored munged.
    #[must_use]
    pub fn new(compare: Compare, munges: bool) -> Self {
        Self {
            compare,
            munges,
            faked: false,
            links_all: false,
            known: None,
            hashes: Hashes::default(),
            built: None,
        }
    }

    /// The same, where files may be said to be something else than they are.
    #[must_use]
    pub fn faked(self, faked: bool) -> Self {
        Self { faked, ..self }
    }

    /// The same; `all`: names of symlinks, fifos, sockets and devices are compared too, and not only those of regular
    /// files.
    #[must_use]
    pub fn linking(self, all: bool) -> Self {
        Self {
            links_all: all,
            ..self
        }
    }

    /// The same; what is known of a version that turns out to have other content is forgotten.
    #[must_use]
    pub fn knowing(self, known: Arc<Known>) -> Self {
        Self {
            known: Some(known),
            ..self
        }
    }

    /// Answers a question for digests. A directory is read anew whenever it is asked for itself, or
    /// something was committed since; below a directory just read, what was read then is the answer.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn digests(
        &mut self,
        root: &Root,
        query: &DigestQuery,
        applied: u64,
        stop: &AtomicBool,
    ) -> Result<Digests, Stopped> {
        let mut digests = Vec::with_capacity(query.paths.len());
        for path in &query.paths {
            let below = self.built.as_ref().is_some_and(|built| {
                built.covers(path, query.content) && built.at != *path && built.applied == applied
            });
            if !below {
                self.build(root, path, query.content, applied, stop)?;
            }
            digests.push(self.known(path, query.content));
        }
        Ok(Digests {
            id: query.id,
            digests,
        })
    }

    /// Answers a question for entries, a frame at a time. Where contents are asked for and the directory was not read
    /// whole before, only what is in the directory itself is read: nothing is said of what is below then.
    ///
    /// # Errors
    /// [`ListError::Stopped`], also when `send` returns `false`; and [`ListError::Unread`], since a directory that
    /// cannot be read is neither absent nor empty.
    pub fn list(
        &mut self,
        root: &Root,
        query: &ListQuery,
        applied: u64,
        stop: &AtomicBool,
        mut send: impl FnMut(Listing) -> bool,
    ) -> Result<(), ListError> {
        let covered = |built: &Built| built.covers(&query.path, query.content);
        if !query.content && !self.built.as_ref().is_some_and(covered) {
            self.build(root, &query.path, query.content, applied, stop)?;
        }
        let mut reader = self.reader(root, query.content, stop);
        // What was read for the digests is not read again for the listing that explains them.
        reader.hashes = self
            .built
            .as_ref()
            .filter(|built| covered(built))
            .map(|_| &self.hashes);
        let unread = |errno| ListError::Unread(Refusal::system("read", &query.path, errno));
        let opened = self.open_with_meta(root, &query.path).map_err(unread)?;
        let found = match &opened {
            Some((dir, _)) => reader.entries(dir, &query.path)?,
            None => None,
        };
        if let Some(errno) = reader.unread.filter(|_| found.is_none()) {
            return Err(unread(errno));
        }
        let dir = opened.map(|(_, meta)| meta).filter(|_| found.is_some());
        let mut entries = found.unwrap_or_default();
        put_in_order(&mut entries);
        let mut pages = entries.chunks(ENTRIES_PER_FRAME).peekable();
        loop {
            let page = pages.next().unwrap_or_default();
            let last = pages.peek().is_none();
            let entries = page.iter().map(|entry| self.list_entry(query, entry));
            let listing = Listing {
                id: query.id,
                dir: dir.clone(),
                entries: entries.collect(),
                last,
            };
            if !send(listing) {
                return Err(ListError::Stopped);
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Forgets the tree that was read last, if nobody has asked for so long, `silent`, that to read it once more would not count.
    /// Whether there was one.
    pub fn forget(&mut self, silent: Duration) -> bool {
        let is_old = |built: &mut Built| built.took * KEPT_TIMES <= silent;
        let is_forgotten = self.built.take_if(is_old).is_some();
        if is_forgotten {
            self.hashes = Hashes::default();
        }
        is_forgotten
    }

    fn list_entry(&self, query: &ListQuery, (name, meta): &(Name, EntryMeta)) -> ListEntry {
        let path = query.path.join(name);
        let dir = path.as_ref().filter(|_| meta.kind == Kind::Dir);
        let linked = path.as_ref().filter(|_| meta.kind != Kind::Dir);
        ListEntry {
            name: name.clone(),
            meta: meta.clone(),
            subtree: dir.and_then(|path| self.known(path, query.content)),
            links: linked.and_then(|path| self.first_link(path)),
        }
    }

    fn first_link(&self, path: &WirePath) -> Option<Digest> {
        let built = self.built.as_ref()?;
        built.links.first_of(&path.strip_prefix(&built.at)?)
    }

    fn known(&self, path: &WirePath, content: bool) -> Option<Digest> {
        let built = self.built.as_ref()?;
        if !built.covers(path, content) {
            return None;
        }
        let below = path.strip_prefix(&built.at)?;
        // What could not be read is unknown, never equal.
        let digest = built.tree.digest(&below);
        digest.filter(|_| built.tree.is_complete(&below))
    }

    /// `None` if there is no such directory.
    fn open_with_meta(
        &self,
        root: &Root,
        path: &WirePath,
    ) -> rustix::io::Result<Option<(OwnedFd, EntryMeta)>> {
        if path.is_reserved() || root.hides(path, true) {
            return Ok(None);
        }
        let dir = match root.open_listable(path) {
            Err(error) if is_absent(error) => return Ok(None),
            dir => dir?,
        };
        let place = Place::Opened(dir.as_fd());
        let Some(mut meta) = entry_of(&statx_fd(&dir)?, None) else {
            return Ok(None);
        };
        if self.faked {
            meta = fake::applied(meta, fake::read(&place)?);
        }
        let which = self.compare.xattrs;
        if which.any() {
            meta.xattrs = attributes::digest(&place, which)?;
        }
        Ok(Some((dir, meta)))
    }

    fn reader<'a>(&'a self, root: &'a Root, content: bool, stop: &'a AtomicBool) -> Reader<'a> {
        Reader {
            root,
            content,
            munges: self.munges,
            faked: self.faked,
            links_all: self.links_all,
            known: self.known.as_deref(),
            hashes: None,
            attributes: self.compare.xattrs,
            stop,
            here: (self.faked || self.compare.xattrs.any())
                .then(Here::own)
                .flatten(),
            links: LinkGroups::default(),
            unread: None,
        }
    }

    fn build(
        &mut self,
        root: &Root,
        path: &WirePath,
        content: bool,
        applied: u64,
        stop: &AtomicBool,
    ) -> Result<(), Stopped> {
        self.built = None;
        // What cannot be read is unknown here; whoever asks for its entries is told why.
        let Ok(Some((dir, meta))) = self.open_with_meta(root, path) else {
            return Ok(());
        };
        self.hashes = Hashes::default();
        let started = Instant::now();
        let mut reader = self.reader(root, content, stop);
        reader.hashes = Some(&self.hashes);
        let tree = DigestTree::build(&mut reader, dir, path, &meta, self.compare)?;
        let links = if self.compare.links {
            reader.links.names(path)
        } else {
            LinkNames::default()
        };
        self.built = Some(Built {
            at: path.clone(),
            content,
            applied,
            took: started.elapsed(),
            tree: tree.with_links(&links),
            links,
        });
        Ok(())
    }
}

impl Built {
    fn covers(&self, path: &WirePath, content: bool) -> bool {
        self.content == content && path.starts_with(&self.at)
    }
}

/// Reads directories by descriptor. What vanishes while it is read was never there.
#[derive(Debug)]
struct Reader<'a> {
    root: &'a Root,
    content: bool,
    munges: bool,
    faked: bool,
    links_all: bool,
    known: Option<&'a Known>,
    hashes: Option<&'a Hashes>,
    attributes: Attributes,
    stop: &'a AtomicBool,
    /// Where attributes are read, if they are.
    here: Option<Here>,
    links: LinkGroups,
    /// Why the last directory that could not be read could not.
    unread: Option<Errno>,
}

impl TreeReader for Reader<'_> {
    type Dir = OwnedFd;
    type Error = Stopped;

    fn entries(
        &mut self,
        dir: &OwnedFd,
        path: &WirePath,
    ) -> Result<Option<Vec<(Name, EntryMeta)>>, Stopped> {
        let names = match names(dir) {
            Ok(names) => names,
            Err(error) => {
                // Removed while it was open: it is not there.
                self.unread = Some(error).filter(|error| !is_absent(*error));
                return Ok(None);
            }
        };
        let is_here = self.here.as_ref().is_some_and(|here| here.enter(dir));
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            if name.is_reserved() {
                continue;
            }
            match self.entry((dir, is_here), path, &name) {
                Ok(Some(meta)) => entries.push((name, meta)),
                Ok(None) => {}
                Err(error) => {
                    self.unread = Some(error);
                    return Ok(None);
                }
            }
        }
        if self.content {
            self.hash_all(dir.as_fd(), &mut entries)?;
        }
        Ok(Some(entries))
    }

    fn open(
        &mut self,
        parent: &OwnedFd,
        name: &Name,
        _path: &WirePath,
    ) -> Result<Option<OwnedFd>, Stopped> {
        let flags = LISTABLE | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(parent, name.as_bytes(), flags, Mode::empty()).ok())
    }
}

impl Reader<'_> {
    /// Adds the digests of contents, by several threads where that is worth it.
    fn hash_all(
        &self,
        dir: BorrowedFd<'_>,
        entries: &mut [(Name, EntryMeta)],
    ) -> Result<(), Stopped> {
        let bytes: u64 = entries.iter().map(|(_, entry)| entry.size).sum();
        let alone = bytes < PARALLEL_BYTES_MIN;
        let contents = Contents {
            known: self.known,
            hashes: self.hashes,
            stop: self.stop,
        };
        let digests = parallel::map(entries, alone, |(name, entry)| match entry.kind {
            Kind::File => contents.digest(dir, name),
            _ => Ok(entry.content),
        });
        for ((_, entry), digest) in entries.iter_mut().zip(digests) {
            entry.content = digest?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        (dir, is_here): (&OwnedFd, bool),
        parent: &WirePath,
        name: &Name,
    ) -> rustix::io::Result<Option<EntryMeta>> {
        let Some(stat) = statx_at(dir, name.as_bytes())? else {
            return Ok(None);
        };
        if let Some(hidden) = self.root.hidden()
            && parent
                .join(name)
                .is_none_or(|path| hidden.hides_found(&path, &stat))
        {
            return Ok(None);
        }
        let said = match self.said((dir, is_here), name, &stat) {
            Err(Errno::NOENT) => return Ok(None),
            said => said?,
        };
        let content = match said.map(|said| said.kind).or(kind_of(&stat)) {
            Some(Kind::Symlink) if said.is_some() => self.said_target(dir, name)?,
            Some(Kind::Symlink) => match link_target(dir, name.as_bytes())? {
                Some(target) if self.munges => Some(Digest::of(munge::unmunged(&target))),
                Some(target) => Some(Digest::of(&target)),
                None => return Ok(None),
            },
            _ => None,
        };
        let entry = entry_of(&stat, content);
        let mut entry = entry.map(|entry| fake::applied(entry, said));
        if let Some(entry) = entry.as_mut().filter(|_| self.attributes.any()) {
            let place = self.place((dir, is_here), name)?;
            entry.xattrs = match attributes::digest(&place, self.attributes) {
                Err(Errno::NOENT) => return Ok(None),
                digest => digest?,
            };
        }
        if let Some(entry) = entry.as_ref()
            && entry.kind.counts_links(self.links_all)
            && stat.stx_nlink > 1
            && let Some(path) = parent.join(name)
        {
            let Identity { dev, ino } = identity_of(&stat);
            self.links.add((dev, ino), entry, path);
        }
        Ok(entry)
    }

    /// Where the attributes of an entry are, of an open directory that may be the working directory.
    fn place<'a>(
        &'a self,
        (dir, is_here): (&OwnedFd, bool),
        name: &'a Name,
    ) -> rustix::io::Result<Place<'a>> {
        match &self.here {
            Some(here) if is_here => Ok(Place::Here(here, name.as_bytes())),
            _ => Place::named(dir, name.as_bytes()),
        }
    }

    /// What a file is said to be, where that may be.
    fn said(
        &self,
        dir: (&OwnedFd, bool),
        name: &Name,
        stat: &Statx,
    ) -> rustix::io::Result<Option<Said>> {
        let Some(kind) = kind_of(stat).filter(|kind| matches!(kind, Kind::File | Kind::Dir)) else {
            return Ok(None);
        };
        if !self.faked {
            return Ok(None);
        }
        let said = fake::read(&self.place(dir, name)?)?;
        Ok(said.filter(|said| said.fits(kind)))
    }

    /// The target of a symlink that is a file.
    fn said_target(&self, dir: &OwnedFd, name: &Name) -> rustix::io::Result<Option<Digest>> {
        let opened = rustix::fs::openat(dir, name.as_bytes(), READABLE, Mode::empty());
        let Ok(file) = opened else {
            return Ok(None);
        };
        let mut target = vec![0; LINK_TARGET_BYTES_MAX + munge::PREFIX.len() + 1];
        let length = rustix::io::pread(&file, &mut target[..], 0)?;
        let target = &target[..length];
        Ok(Some(if self.munges {
            Digest::of(munge::unmunged(target))
        } else {
            Digest::of(target)
        }))
    }
}

/// The names in a directory that was just opened.
fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(DIR_BUFFER_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        // `.` and `..` are no names.
        names.extend(Name::new(entry?.file_name().to_bytes()));
    }
    Ok(names)
}

/// Digests of versions that were read a moment ago.
type Hashes = Mutex<HashMap<[u8; 16], Digest>>;

/// Reads contents; several threads may at once.
struct Contents<'a> {
    known: Option<&'a Known>,
    hashes: Option<&'a Hashes>,
    stop: &'a AtomicBool,
}

impl Contents<'_> {
    /// `None` if it cannot be read: it is not known to be equal then.
    fn digest(&self, dir: BorrowedFd<'_>, name: &Name) -> Result<Option<Digest>, Stopped> {
        let opened = rustix::fs::openat(dir, name.as_bytes(), READABLE, Mode::empty());
        let Ok(file) = opened else {
            return Ok(None);
        };
        let version = |file: &OwnedFd| statx_fd(file).ok().map(|stat| version_of(&stat));
        let before = version(&file);
        if let (Some(hashes), Some(before)) = (self.hashes, &before)
            && let Some(digest) = lock(hashes).get(before)
        {
            return Ok(Some(*digest));
        }
        let Some(digest) = self.read(&file)? else {
            return Ok(None);
        };
        if let (Some(known), Ok(after)) = (self.known, statx_fd(&file)) {
            known.seen(&after, &digest);
        }
        if let (Some(hashes), Some(before)) = (self.hashes, before)
            && version(&file) == Some(before)
        {
            let mut hashes = lock(hashes);
            if hashes.len() < HASHES_MAX {
                hashes.insert(before, digest);
            }
        }
        Ok(Some(digest))
    }

    fn read(&self, file: &OwnedFd) -> Result<Option<Digest>, Stopped> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            match rustix::io::read(file, &mut buffer[..]) {
                Ok(0) => return Ok(Some(hasher.finish())),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(Errno::INTR) => continue,
                Err(_) => return Ok(None),
            };
        }
    }
}

fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

fn lock(hashes: &Hashes) -> MutexGuard<'_, HashMap<[u8; 16], Digest>> {
    hashes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Contents of a directory that are read by several threads at once, in bytes.
const PARALLEL_BYTES_MIN: u64 = 1 << 20;

/// Most versions whose digests are noted.
const HASHES_MAX: usize = 1 << 16;

/// A tree is kept this many times as long as it took to read.
const KEPT_TIMES: u32 = 4;

/// Entries of one frame: with the longest names it stays below the limit of a body.
const ENTRIES_PER_FRAME: usize = 2_048;

/// Room for names of one `getdents64`, in bytes: about a thousand entries.
const DIR_BUFFER_BYTES: usize = 32 << 10;

/// Bytes read at once when contents are compared.
const READ_BYTES: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::root::HANDLE;
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn root(dir: &Path) -> Root {
        let fd = rustix::fs::open(dir, HANDLE, Mode::empty()).unwrap();
        Root::new(fd, false).unwrap()
    }

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn digest(trees: &mut Trees, root: &Root, at: &str, content: bool) -> Option<Digest> {
        let query = DigestQuery {
            id: 1,
            paths: vec![path(at)],
            content,
        };
        trees.digests(root, &query, 0, &GO).unwrap().digests[0]
    }

    /// The frames that a question for a listing is answered with.
    fn listed(trees: &mut Trees, root: &Root, at: &str, content: bool) -> Vec<Listing> {
        let query = ListQuery {
            id: 9,
            path: path(at),
            content,
        };
        let mut found = Vec::new();
        let sent = trees.list(root, &query, 0, &GO, |listing| {
            found.push(listing);
            true
        });
        sent.unwrap();
        found
    }

    #[test]
    fn the_staging_area_takes_no_part() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::create_dir(dir.path().join(".syncd")).unwrap();
        let time = fs::metadata(dir.path()).unwrap().modified().unwrap();
        let root = root(dir.path());
        let mut trees = Trees::new(Compare::ALL, false);
        let with = digest(&mut trees, &root, ".", false);
        fs::remove_dir(dir.path().join(".syncd")).unwrap();
        fs::File::open(dir.path())
            .unwrap()
            .set_modified(time)
            .unwrap();
        assert_eq!(with, digest(&mut trees, &root, ".", false));
        assert_eq!(digest(&mut trees, &root, ".syncd", false), None);
    }

    #[test]
    fn munged_targets_are_compared_as_the_agent_knows_them() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/rsyncd-munged/../t", dir.path().join("l")).unwrap();
        let root = root(dir.path());
        let content = |munges: bool| {
            let mut trees = Trees::new(Compare::ALL, munges);
            listed(&mut trees, &root, ".", false)[0].entries[0]
                .meta
                .content
        };
        assert_eq!(content(true), Some(Digest::of(b"../t")));
        assert_eq!(content(false), Some(Digest::of(b"/rsyncd-munged/../t")));
    }

    #[test]
    fn a_listing_carries_the_digests_of_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "x").unwrap();
        fs::write(dir.path().join("a"), "content").unwrap();
        let root = root(dir.path());
        let mut trees = Trees::new(Compare::ALL, false);
        let below = digest(&mut trees, &root, "d", true).unwrap();
        digest(&mut trees, &root, ".", true).unwrap();
        let found = listed(&mut trees, &root, ".", true);
        let [listing] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(listing.last);
        assert_eq!(
            listing.entries[0].meta.content,
            Some(Digest::of(b"content"))
        );
        assert_eq!(listing.entries[1].subtree, Some(below));
    }

    #[test]
    fn a_tree_is_forgotten_when_nobody_asks_and_read_anew_for_who_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        let root = root(dir.path());
        let mut trees = Trees::new(Compare::ALL, false);
        assert!(!trees.forget(Duration::MAX));
        let below = digest(&mut trees, &root, "d/e", false);
        digest(&mut trees, &root, ".", false);
        assert!(!trees.forget(Duration::ZERO));
        assert!(trees.built.is_some());
        assert!(trees.forget(Duration::MAX) && !trees.forget(Duration::MAX));
        let found = listed(&mut trees, &root, "d", false);
        assert_eq!(found[0].entries[0].subtree, below);
    }

    #[test]
    fn contents_are_read_by_several_and_anew_where_they_changed() {
        let dir = tempfile::tempdir().unwrap();
        let text = |index: u32| index.to_string().repeat(100_000);
        for index in 0..20 {
            fs::write(dir.path().join(format!("f{index:02}")), text(index)).unwrap();
        }
        fs::create_dir(dir.path().join("f05.d")).unwrap();
        let root = root(dir.path());
        let mut trees = Trees::new(Compare::ALL, false);
        digest(&mut trees, &root, ".", true).unwrap();
        fs::write(dir.path().join("f07"), text(8)).unwrap();
        let found = listed(&mut trees, &root, ".", true);
        let entries = found.iter().flat_map(|listing| &listing.entries);
        let files = entries.filter(|entry| entry.meta.kind == Kind::File);
        let contents: Vec<_> = files.map(|entry| entry.meta.content).collect();
        let mut expected: Vec<_> = (0..20).map(text).collect();
        expected[7] = text(8);
        let expected: Vec<_> = expected
            .iter()
            .map(|text| Some(Digest::of(text.as_bytes())))
            .collect();
        assert_eq!(contents, expected);
    }

    #[test]
    fn names_of_one_symlink_or_fifo_are_told_apart_only_where_both_sides_do() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("x", at("l1")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("p1"), fifo, Mode::RUSR, 0).unwrap();
        for (name, other) in [("l1", "l2"), ("p1", "p2")] {
            fs::hard_link(at(name), at(other)).unwrap();
        }
        let root = root(dir.path());
        let links = |trees: &mut Trees| {
            digest(trees, &root, ".", false);
            let found = listed(trees, &root, ".", false).into_iter();
            let entries = found.flat_map(|listing| listing.entries);
            entries.map(|entry| entry.links).collect::<Vec<_>>()
        };
        let mut blind = Trees::new(Compare::ALL, false);
        assert_eq!(links(&mut blind), [None; 4]);
        let mut trees = Trees::new(Compare::ALL, false).linking(true);
        let found = links(&mut trees);
        assert!(found[0].is_some() && found[0] == found[1], "{found:?}");
        assert!(found[2].is_some() && found[2] == found[3], "{found:?}");
        assert_ne!(
            digest(&mut trees, &root, ".", false),
            digest(&mut blind, &root, ".", false)
        );
    }

    #[test]
    fn names_of_one_file_are_told_apart_from_copies() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("a/f"), "x").unwrap();
        fs::write(dir.path().join("b/g"), "x").unwrap();
        fs::hard_link(dir.path().join("a/f"), dir.path().join("b/f")).unwrap();
        let root = root(dir.path());
        let mut trees = Trees::new(Compare::ALL, false);
        let linked = digest(&mut trees, &root, ".", false);
        let mut found = Vec::new();
        for at in ["a", "b"] {
            let entries = listed(&mut trees, &root, at, false).into_iter();
            let entries = entries.flat_map(|listing| listing.entries);
            found.extend(entries.map(|entry| entry.links));
        }
        assert!(found[0].is_some() && found[0] == found[1], "{found:?}");
        assert_eq!(found[2], None, "b/g has no other name");
        let without_links = Compare {
            links: false,
            ..Compare::ALL
        };
        let mut blind = Trees::new(without_links, false);
        assert_ne!(digest(&mut blind, &root, ".", false), linked);
    }

    #[test]
    fn many_entries_come_in_frames() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..ENTRIES_PER_FRAME + 1 {
            fs::write(dir.path().join(index.to_string()), "").unwrap();
        }
        let mut trees = Trees::new(Compare::ALL, false);
        let found = listed(&mut trees, &root(dir.path()), ".", false);
        let sizes: Vec<_> = found
            .iter()
            .map(|listing| (listing.entries.len(), listing.last))
            .collect();
        assert_eq!(sizes, [(ENTRIES_PER_FRAME, false), (1, true)]);
    }

    #[test]
    fn a_missing_directory_has_no_digest_and_a_stopped_walk_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        let root = root(dir.path());
        let mut trees = Trees::new(Compare::ALL, false);
        assert_eq!(digest(&mut trees, &root, "none", false), None);
        assert_eq!(digest(&mut trees, &root, "f", false), None);
        let query = DigestQuery {
            id: 1,
            paths: vec![WirePath::root()],
            content: false,
        };
        let stopped = trees.digests(&root, &query, 0, &AtomicBool::new(true));
        assert_eq!(stopped.unwrap_err(), Stopped);
    }
}
