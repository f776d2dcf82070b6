//! [`LinkMap`]: which names of files with several names one target has, and has as one file.
//!
//! A cache of what was sent and compared in this session; what it says of a name is checked against the
//! source before it is used. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use syncd_proto::digest::Digest;
use syncd_proto::limits::{LINK_NAMES_MAX, SAME_NAMES_MAX};
use syncd_proto::links::LinkGroup;
use syncd_proto::meta::{EntryMeta, Kind, Meta, Mtime};
use syncd_proto::path::WirePath;

use crate::logic::coalesce::Taken;
use crate::logic::plan::Found;

/// Device and inode at the source.
pub type Inode = (u64, u64);

/// What a file looked like when it was sent or found equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    size: u64,
    what: What,
    mode: u16,
    owner: (u32, u32),
    mtime: Mtime,
}

/// What a version is besides its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A regular file; or nothing.
    File,
    /// A symlink to where this stands for.
    Symlink(Digest),
    /// A fifo, socket or device.
    Special(Kind, (u32, u32)),
}

impl Version {
    const NONE: Self = Self {
        size: 0,
        what: What::File,
        mode: 0,
        owner: (0, 0),
        mtime: match Mtime::new(0, 0) {
            Some(epoch) => epoch,
            None => unreachable!(),
        },
    };

    /// As an operation sets it for a regular file.
    #[must_use]
    pub const fn of(meta: &Meta, size: u64) -> Self {
        Self {
            size,
            what: What::File,
            mode: meta.mode,
            owner: (meta.uid, meta.gid),
            mtime: meta.mtime,
        }
    }

    /// As an operation makes a symlink.
    #[must_use]
    pub fn of_symlink(meta: &Meta, target: &[u8]) -> Self {
        Self {
            what: What::Symlink(Digest::of(target)),
            ..Self::of(meta, 0)
        }
    }

    /// As an operation makes a fifo, socket or device.
    #[must_use]
    pub const fn of_special(meta: &Meta, kind: Kind, rdev: (u32, u32)) -> Self {
        Self {
            what: What::Special(kind, rdev),
            ..Self::of(meta, 0)
        }
    }

    /// Length of the file in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// As a scan sees it.
    #[must_use]
    pub const fn of_entry(entry: &EntryMeta) -> Self {
        Self {
            size: entry.size,
            what: match (entry.kind, entry.content) {
                (Kind::Symlink, Some(target)) => What::Symlink(target),
                (Kind::File | Kind::Dir | Kind::Symlink, _) => What::File,
                (kind, _) => What::Special(kind, entry.rdev),
            },
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            mtime: entry.mtime,
        }
    }
}

/// What is known of a file, for another name of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: its content has to be sent.
    Nothing,
    /// It is being transferred under another name.
    Busy,
    /// The target has an older version under these names.
    Older(Vec<Arc<WirePath>>),
    /// The target has it, or gets it earlier in the log, under these names.
    Names(Vec<Arc<WirePath>>),
}

#[derive(Debug)]
struct Group {
    version: Version,
    names: BTreeSet<Arc<WirePath>>,
    busy: Option<Arc<WirePath>>,
    /// The target cannot link them: each name gets the content.
    apart: bool,
    /// The number of what the target was asked about last and has not agreed to: until then it may have another version.
    unsure: Option<u64>,
}

/// A name that moves with its directory, from there on.
struct Moved {
    tail: WirePath,
    inode: Inode,
    version: Version,
    unsure: Option<u64>,
}

/// Names of files with several names, as one target has them.
#[derive(Debug, Default)]
pub struct LinkMap {
    groups: HashMap<Inode, Group>,
    by_path: BTreeMap<Arc<WirePath>, Inode>,
    /// A comparison of everything has ended in this session: what is not pending is at the target.
    ready: bool,
    /// Files whose other names are to be looked for, with how many there are.
    sought: HashMap<Inode, u32>,
    /// Files that were sent before that, with how many names there are: the comparison may have been there already.
    early: HashMap<Inode, u32>,
    /// Those whose names were looked for when there were so many.
    searched: HashMap<Inode, u32>,
    /// The names that made them be looked for and are not sent yet, with the numbers of their marks. What is seen later
    /// may be a name of a file that got the inode since then, or of another file.
    asked: HashMap<WirePath, (u64, Inode)>,
    /// Names of files of which the target was asked whether it has their content under all these, by the number of the mark
    /// that led to it.
    told: HashMap<u64, Vec<Arc<WirePath>>>,
}

impl LinkMap {
    /// Whether the other names of a file have to be looked for at the source first: of its `count` names
    /// not all are known. It was a file with one name when it was sent, or has names elsewhere. `seq` is that of the
    /// mark that leads to this question.
    pub fn seek(&mut self, inode: Inode, path: &WirePath, count: u32, seq: u64) -> bool {
        let names = self.groups.get(&inode).map(|group| &group.names);
        let known = names.map_or(0, BTreeSet::len);
        let itself = usize::from(names.is_none_or(|names| !names.contains(path)));
        let is_asked = itself == 0 || self.asked.get(path) == Some(&(seq, inode));
        let seek = known + itself < count as usize
            && !(is_asked && self.searched.get(&inode) == Some(&count))
            && self.by_path.len() < LINK_NAMES_MAX
            && self.asked.len() + self.early.len() < LINK_NAMES_MAX;
        if seek && self.ready {
            self.sought.insert(inode, count);
            self.asked.insert(path.clone(), (seq, inode));
        } else if seek {
            self.early.insert(inode, count);
        }
        seek && self.ready
    }

    /// Whether names are to be looked for.
    #[must_use]
    pub fn is_seeking(&self) -> bool {
        !self.sought.is_empty()
    }

    /// The files whose names are to be looked for now.
    pub fn take_sought(&mut self) -> HashMap<Inode, u32> {
        std::mem::take(&mut self.sought)
    }

    /// They were looked for, and [`Self::compared`] was told of what was found. What asked for it and is not pending any
    /// more went before it was sent: nothing is remembered of that.
    pub fn sought(&mut self, files: HashMap<Inode, u32>, is_pending: impl Fn(&WirePath) -> bool) {
        self.searched.extend(files);
        self.asked.retain(|path, _| is_pending(path));
        let asked: HashSet<Inode> = self.asked.values().map(|(_, inode)| *inode).collect();
        let groups = &self.groups;
        self.searched
            .retain(|inode, _| groups.contains_key(inode) || asked.contains(inode));
    }

    /// A comparison of everything has ended.
    pub fn ready(&mut self) {
        self.ready = true;
        for (inode, count) in std::mem::take(&mut self.early) {
            let known = self.groups.get(&inode).map_or(0, |group| group.names.len());
            if known < count as usize {
                self.sought.insert(inode, count);
            }
        }
    }

    /// What is known of a file for its name `path`; at most a few names are told. `in_work` says whether
    /// a transfer that began has neither ended nor failed.
    #[must_use]
    pub fn known(
        &self,
        inode: Inode,
        path: &WirePath,
        version: Version,
        in_work: impl Fn(&WirePath) -> bool,
    ) -> Known {
        let Some(group) = self.groups.get(&inode) else {
            return Known::Nothing;
        };
        let busy = group.busy.as_ref().filter(|busy| ***busy != *path);
        if busy.is_some_and(|busy| in_work(busy)) {
            return Known::Busy;
        }
        let others = group.names.iter().filter(|name| ***name != *path);
        let others: Vec<_> = others.take(TOLD_MAX).cloned().collect();
        if group.apart || others.is_empty() {
            Known::Nothing
        } else if group.version == version && group.unsure.is_none() {
            Known::Names(others)
        } else {
            Known::Older(others)
        }
    }

    /// Whether names of a file are known, or one is on its way.
    #[must_use]
    pub fn has(&self, inode: Inode) -> bool {
        self.groups.contains_key(&inode)
    }

    /// Whether the target cannot link the names of a file.
    #[must_use]
    pub fn is_apart(&self, inode: Inode) -> bool {
        self.groups.get(&inode).is_some_and(|group| group.apart)
    }

    /// The other names of a file with `count` names, if the target has all of them as one file, or gets them so earlier in
    /// the log, and they are few.
    #[must_use]
    pub fn others(&self, inode: Inode, path: &WirePath, count: u32) -> Option<Vec<Arc<WirePath>>> {
        let group = self.groups.get(&inode)?;
        let is_whole = group.names.len() == count as usize && group.names.contains(path);
        let is_plain = !group.apart && group.busy.is_none();
        let others = group.names.iter().filter(|name| ***name != *path);
        (is_whole && is_plain && group.names.len() <= 1 + SAME_NAMES_MAX)
            .then(|| others.cloned().collect())
    }

    /// The question whether the target has the content of a file under all its names is in the log, for a mark of this
    /// number: if so, it has this version.
    fn ask(&mut self, path: &WirePath, inode: Inode, version: Version, seq: u64) {
        let group = self.groups.get_mut(&inode);
        if let Some(group) = group.filter(|group| group.names.contains(path)) {
            (group.version, group.unsure) = (version, Some(seq));
            let names = group.names.iter().filter(|name| ***name != *path);
            self.told.insert(seq, names.cloned().collect());
        }
    }

    /// What is in the log for a name, for a mark of this number, is at the target.
    pub fn agreed(&mut self, path: &WirePath, seq: u64) {
        if self.told.remove(&seq).is_none() {
            return;
        }
        let inode = self.by_path.get(path);
        if let Some(group) = inode.and_then(|inode| self.groups.get_mut(inode)) {
            group.unsure.take_if(|unsure| *unsure == seq);
        }
    }

    /// The target said no to what is in the log for a mark of this number. If it was asked about all names of a file: the
    /// others, which are to be looked at again.
    pub fn disagreed(&mut self, seq: u64) -> Option<Vec<Arc<WirePath>>> {
        self.told.remove(&seq)
    }

    /// A file with several names is going to be transferred under this one.
    pub fn busy(&mut self, path: &Arc<WirePath>, inode: Inode, version: Version) {
        self.group(inode, version).busy = Some(path.clone());
    }

    /// Its content is in the log under this name, which thereby is a file of its own at the target.
    /// Returns the names that have to be linked to it; `wrote`: because the content changed.
    pub fn put(
        &mut self,
        path: &Arc<WirePath>,
        inode: Inode,
        version: Version,
        wrote: bool,
    ) -> Vec<Arc<WirePath>> {
        self.forget(path);
        let group = self.group(inode, version);
        group.busy = None;
        (group.version, group.unsure) = (version, None);
        let others = if group.apart {
            let others = group.names.iter().filter(|_| wrote);
            others.cloned().collect()
        } else {
            let others: Vec<_> = std::mem::take(&mut group.names).into_iter().collect();
            for name in &others {
                self.by_path.remove(name);
            }
            others
        };
        self.insert(path, inode);
        others
    }

    /// A link to `to` is in the log under this name.
    pub fn linked(&mut self, path: &Arc<WirePath>, to: &WirePath) {
        self.forget(path);
        if let Some(&inode) = self.by_path.get(to) {
            self.insert(path, inode);
        }
    }

    /// Its metadata is in the log.
    pub fn set_meta(&mut self, path: &WirePath, version: Version) {
        let inode = self.by_path.get(path);
        if let Some(group) = inode.and_then(|inode| self.groups.get_mut(inode)) {
            group.version = version;
        }
    }

    /// The target refused to link a name; `stale`: because what it has is not what was expected.
    /// Returns the names that have to be looked at again.
    pub fn link_refused(&mut self, path: &WirePath, stale: bool) -> Vec<Arc<WirePath>> {
        if stale {
            return self.put_refused(path);
        }
        let inode = self.by_path.get(path).copied();
        self.forget(path);
        if let Some(group) = inode.and_then(|inode| self.groups.get_mut(&inode)) {
            group.apart = true;
        }
        Vec::new()
    }

    /// The target refused content: returns the names that were to be linked to it.
    pub fn put_refused(&mut self, path: &WirePath) -> Vec<Arc<WirePath>> {
        let Some(inode) = self.by_path.get(path).copied() else {
            return Vec::new();
        };
        let Some(group) = self.groups.remove(&inode) else {
            return Vec::new();
        };
        for name in &group.names {
            self.by_path.remove(name);
        }
        let others = group.names.into_iter().filter(|name| **name != *path);
        others.collect()
    }

    /// A comparison saw these names of a file; `differing` holds those that the target does not have as
    /// they are. Returns the names that have to be linked to others.
    pub fn compared(
        &mut self,
        inode: Inode,
        group: &LinkGroup,
        differing: &HashSet<WirePath>,
    ) -> Vec<Arc<WirePath>> {
        let equal = group.paths.iter().filter(|path| !differing.contains(*path));
        let equal = equal.map(|path| Arc::new(path.clone()));
        if let Some(known) = self.groups.get(&inode).filter(|known| !known.apart) {
            return equal.filter(|path| !known.names.contains(path)).collect();
        }
        let version = Version::of_entry(&group.entry);
        for path in equal {
            self.forget(&path);
            self.group(inode, version);
            self.insert(&path, inode);
        }
        Vec::new()
    }

    /// The target has this version of a file under a name of its own: others may be linked to it.
    /// `false` if there is one such name already.
    pub fn adopt(&mut self, path: &WirePath, inode: Inode, entry: &EntryMeta) -> bool {
        let free = self
            .groups
            .get(&inode)
            .is_none_or(|group| group.names.is_empty() && group.busy.is_none() && !group.apart);
        if free && entry.kind != Kind::Dir {
            self.forget(path);
            self.group(inode, Version::of_entry(entry));
            self.insert(&Arc::new(path.clone()), inode);
        }
        free
    }

    /// Other names of what is at and below a name, but for those of `same`: who wrote to it wrote to them.
    #[must_use]
    pub fn beside(&self, path: &WirePath, same: Option<Inode>) -> Vec<Arc<WirePath>> {
        let range = (Bound::Included(path), Bound::Unbounded);
        let below = self.by_path.range::<WirePath, _>(range);
        let below = below.take_while(|(other, _)| other.starts_with(path));
        let inodes: BTreeSet<Inode> = below.map(|(_, inode)| *inode).collect();
        let others = inodes.into_iter().filter(|inode| Some(*inode) != same);
        let groups = others.filter_map(|inode| self.groups.get(&inode));
        let names = groups.flat_map(|group| &group.names);
        names
            .filter(|name| !name.starts_with(path))
            .cloned()
            .collect()
    }

    /// None of these is a name of the file at `path`, whose names are to be looked for again.
    pub fn mistaken(&mut self, path: &WirePath, names: &[Arc<WirePath>]) {
        self.asked.remove(path);
        for name in names {
            self.forget(name);
        }
    }

    /// Whether the target has this name as one of a file that has, or had, several.
    #[must_use]
    pub fn has_name(&self, path: &WirePath) -> bool {
        self.by_path.contains_key(path)
    }

    /// Something else stands at a name, or nothing.
    pub fn forget(&mut self, path: &WirePath) {
        let Some(inode) = self.by_path.remove(path) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(&inode) {
            group.names.remove(path);
            if group.names.is_empty() && group.busy.is_none() {
                self.groups.remove(&inode);
            }
        }
    }

    /// The same of everything at and below a name.
    pub fn forget_below(&mut self, path: &WirePath) {
        self.extract(path);
    }

    /// A rename is in the log.
    pub fn renamed(&mut self, from: &WirePath, to: &WirePath) {
        let moved = self.extract(from);
        self.forget_below(to);
        self.add_below(to, moved);
    }

    /// A swap is in the log.
    pub fn exchanged(&mut self, a: &WirePath, b: &WirePath) {
        let (from_a, from_b) = (self.extract(a), self.extract(b));
        self.add_below(b, from_a);
        self.add_below(a, from_b);
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn group(&mut self, inode: Inode, version: Version) -> &mut Group {
        self.groups.entry(inode).or_insert_with(|| Group {
            version,
            names: BTreeSet::new(),
            busy: None,
            apart: false,
            unsure: None,
        })
    }

    fn insert(&mut self, path: &Arc<WirePath>, inode: Inode) {
        if self.by_path.len() >= LINK_NAMES_MAX {
            return;
        }
        if let Some(group) = self.groups.get_mut(&inode) {
            group.names.insert(path.clone());
            self.by_path.insert(path.clone(), inode);
            self.asked.remove(path);
        }
    }

    /// Takes out the names at and below a path, as tails from there. Their files stay.
    fn extract(&mut self, path: &WirePath) -> Vec<Moved> {
        let range = (Bound::Included(path), Bound::Unbounded);
        let below: Vec<_> = self
            .by_path
            .range::<WirePath, _>(range)
            .take_while(|(other, _)| other.starts_with(path))
            .map(|(other, inode)| (other.clone(), *inode))
            .collect();
        let moved = below.into_iter().filter_map(|(other, inode)| {
            let Group {
                version, unsure, ..
            } = *self.groups.get(&inode)?;
            self.forget(&other);
            let tail = other.strip_prefix(path)?;
            Some(Moved {
                tail,
                inode,
                version,
                unsure,
            })
        });
        moved.collect()
    }

    fn add_below(&mut self, path: &WirePath, moved: Vec<Moved>) {
        for name in moved {
            if let Some(path) = path.join_path(&name.tail) {
                self.group(name.inode, name.version).unsure = name.unsure;
                self.insert(&Arc::new(path), name.inode);
            }
        }
    }
}

/// Notes what `found`, about to be in the log, does to the names of linked files; returns those that
/// have to be linked anew.
pub fn note(links: &mut LinkMap, taken: &Taken, found: &Found) -> Vec<Arc<WirePath>> {
    // What was asked for this mark before never got there.
    links.disagreed(taken.mark.seq);
    let is_new = !matches!(found, Found::Dir(_) | Found::Metadata { .. });
    let mut others = match taken.mark.wrote && is_new {
        // Perhaps not to what is there now.
        true => links.beside(&taken.path, found.linked()),
        false => Vec::new(),
    };
    others.extend(note_names(links, taken, found));
    others
}

/// The same of the names of what was found.
fn note_names(links: &mut LinkMap, taken: &Taken, found: &Found) -> Vec<Arc<WirePath>> {
    let (linked, version) = match found {
        Found::Small {
            linked,
            meta,
            bytes,
            ..
        } => (linked, Version::of(meta, bytes.len() as u64)),
        Found::Staged {
            linked, meta, len, ..
        } => (linked, Version::of(meta, *len)),
        Found::Link { to } => {
            links.linked(&taken.path, to);
            return Vec::new();
        }
        Found::Metadata { size, meta, .. } => {
            links.set_meta(&taken.path, Version::of(meta, *size));
            return Vec::new();
        }
        Found::Dir(_) => {
            links.forget(&taken.path);
            return Vec::new();
        }
        Found::AbsentName => {
            links.forget(&taken.path);
            return Vec::new();
        }
        Found::Symlink {
            linked,
            meta,
            target,
        } => (linked, Version::of_symlink(meta, target)),
        Found::Special {
            linked,
            meta,
            kind,
            rdev,
        } => (linked, Version::of_special(meta, *kind, *rdev)),
        Found::Same {
            linked: Some(inode),
            meta,
            len,
            ..
        } => {
            let version = Version::of(meta, u64::from(*len));
            links.ask(&taken.path, *inode, version, taken.mark.seq);
            return Vec::new();
        }
        Found::Absent | Found::Same { .. } => (&None, Version::NONE),
    };
    match linked {
        Some(inode) => links.put(&taken.path, *inode, version, taken.mark.wrote),
        None => {
            links.forget_below(&taken.path);
            Vec::new()
        }
    }
}

/// Most names told of one file: the first that is still right at the source is used.
const TOLD_MAX: usize = 4;

#[cfg(test)]
mod tests;
