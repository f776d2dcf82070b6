//! Extended attributes: compared by their digest, and set so that they are what the agent's are, as far
//! as both sides agreed to keep them.
//!
//! System calls for attributes take a descriptor or a path, never a name in an open directory. What cannot
//! be opened (symlinks, devices) is therefore reached by making its directory the working directory, which
//! nothing else in this process uses.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sched::CloneFlags;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use syncd_proto::attributes::{AttributeHasher, Attributes};
use syncd_proto::digest::Digest;
use syncd_proto::meta::Xattr;
use syncd_proto::path::escaped;

use super::refusal::describe;

/// The working directory is one for the whole process.
static WORKING_DIRECTORY: Mutex<()> = Mutex::new(());

/// Something that has attributes.
#[derive(Debug)]
pub enum Place<'a> {
    /// An open file or directory.
    Opened(BorrowedFd<'a>),
    /// A name in the working directory, which is ours as long as this lives.
    Named(&'a [u8], MutexGuard<'static, ()>),
    /// A name in the working directory of this thread, which it shares with no other.
    Here(&'a Here, &'a [u8]),
}

impl<'a> Place<'a> {
    /// The entry `name` of an open directory; a symlink is not followed. A thread has one at a time.
    ///
    /// # Errors
    /// The directory may not be entered.
    pub fn named(dir: impl AsFd, name: &'a [u8]) -> rustix::io::Result<Self> {
        let guard = WORKING_DIRECTORY
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rustix::process::fchdir(dir)?;
        Ok(Self::Named(name, guard))
    }

    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Named(name, _) | Self::Here(_, name) => rustix::fs::llistxattr(*name, buffer),
        }
    }

    /// Whether it may have attributes, which the kernel tells in half the time if it is given no room for names.
    /// Where the entry before had some this is not asked, but supposed.
    fn may_have_any(&self) -> rustix::io::Result<bool> {
        match self {
            Self::Here(here, _) if here.met_some.get() => Ok(true),
            _ => match self.names_bytes() {
                Err(Errno::OPNOTSUPP) => Ok(false),
                bytes => Ok(bytes? > 0),
            },
        }
    }

    fn names_bytes(&self) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(fd) => rustix::fs::flistxattr_query(fd),
            Self::Named(name, _) | Self::Here(_, name) => rustix::fs::llistxattr_query(*name),
        }
    }

    /// Notes for the next entry whether this one has some.
    fn met(&self, some: bool) {
        if let Self::Here(here, _) = self {
            here.met_some.set(some);
        }
    }

    pub(super) fn value(&self, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Named(path, _) | Self::Here(_, path) => {
                rustix::fs::lgetxattr(*path, name, buffer)
            }
        }
    }

    fn set(&self, xattr: &Xattr) -> rustix::io::Result<()> {
        let (name, flags) = (&xattr.name[..], XattrFlags::empty());
        match self {
            Self::Opened(fd) => rustix::fs::fsetxattr(fd, name, &xattr.value, flags),
            Self::Named(path, _) | Self::Here(_, path) => {
                rustix::fs::lsetxattr(*path, name, &xattr.value, flags)
            }
        }
    }

    fn remove(&self, name: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Opened(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Named(path, _) | Self::Here(_, path) => rustix::fs::lremovexattr(*path, name),
        }
    }
}

/// A working directory that this thread shares with no other: a walk enters each directory once instead of once for
/// each entry.
#[derive(Debug)]
pub struct Here {
    /// Whether the entry looked at last has attributes.
    met_some: Cell<bool>,
    /// Of this thread only.
    unsent: PhantomData<*const ()>,
}

impl Here {
    /// Parts the thread from the working directory of the process; `None` where that cannot be done.
    #[must_use]
    pub fn own() -> Option<Self> {
        nix::sched::unshare(CloneFlags::CLONE_FS).ok()?;
        Some(Self {
            met_some: Cell::new(false),
            unsent: PhantomData,
        })
    }

    /// Makes an open directory the working directory; whether that could be done.
    #[must_use]
    pub fn enter(&self, dir: impl AsFd) -> bool {
        rustix::process::fchdir(dir).is_ok()
    }
}

/// An attribute that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    name: Vec<u8>,
    errno: Errno,
}

impl Lacking {
    /// A time that the file system cannot hold.
    #[must_use]
    pub fn of_time() -> Self {
        Self {
            name: b"mtime".to_vec(),
            errno: Errno::OPNOTSUPP,
        }
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.errno {
            Errno::OPNOTSUPP => "the receiver's file system or configuration cannot hold it".into(),
            Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG => {
                format!("no room for it ({})", describe(self.errno))
            }
            errno => describe(errno),
        };
        write!(f, "{}: {why}", escaped(&self.name))
    }
}

/// The digest of the attributes that were agreed; none if there are none. What may not be read is equal
/// to nothing.
///
/// # Errors
/// Those of the system, such as that nothing is there any more.
pub fn digest(place: &Place<'_>, agreed: Attributes) -> rustix::io::Result<Option<Digest>> {
    let names = names(place, agreed)?;
    if names.is_empty() {
        return Ok(None);
    }
    let mut hasher = AttributeHasher::default();
    let mut buffer = vec![0; VALUE_BYTES_MAX];
    for name in names {
        match place.value(&name, &mut buffer) {
            Ok(length) => hasher.add(&name, &buffer[..length]),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(Errno::ACCESS | Errno::PERM) => hasher.add_unreadable("receiver"),
            Err(errno) => return Err(errno),
        }
    }
    Ok(hasher.finish())
}

/// What became of attributes that were to be set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether any was set or removed, or was meant to be, or the mode was for that.
    pub touched: bool,
    /// The first that could not be set or removed.
    pub lacking: Option<Lacking>,
}

/// Makes the agreed attributes those in `wanted`: others of their classes are removed, what is as it
/// should be is not touched, and what was not agreed is neither set nor removed.
///
/// # Errors
/// The disk failed, or nothing could be listed.
pub fn set(place: &Place<'_>, wanted: &[Xattr], agreed: Attributes) -> rustix::io::Result<Outcome> {
    let present = names(place, agreed)?;
    let mut outcome = Outcome::default();
    let mut note = |name: &[u8], done: rustix::io::Result<()>| {
        outcome.touched = true;
        match done {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno @ (Errno::IO | Errno::ROFS)) => Err(errno),
            Err(errno) => {
                let name = name.to_vec();
                outcome.lacking.get_or_insert(Lacking { name, errno });
                Ok(())
            }
        }
    };
    for name in &present {
        if !wanted.iter().any(|xattr| xattr.name == *name) {
            note(name, place.remove(name))?;
        }
    }
    for xattr in wanted {
        if !agreed.includes(&xattr.name) {
            note(&xattr.name, Err(Errno::OPNOTSUPP))?;
        } else if !(present.contains(&xattr.name) && has(place, xattr)) {
            note(&xattr.name, place.set(xattr))?;
        }
    }
    Ok(outcome)
}

fn has(place: &Place<'_>, xattr: &Xattr) -> bool {
    let mut buffer = vec![0; xattr.value.len() + 1];
    let found = place.value(&xattr.name, &mut buffer);
    found.is_ok_and(|length| buffer[..length] == xattr.value)
}

/// Names that were agreed, in order. A file system without attributes has none.
fn names(place: &Place<'_>, agreed: Attributes) -> rustix::io::Result<Vec<Vec<u8>>> {
    if !place.may_have_any()? {
        return Ok(Vec::new());
    }
    let mut few = [0; FEW_NAMES_BYTES];
    match place.list(&mut few) {
        Ok(length) => {
            place.met(length > 0);
            return Ok(agreed.select(&few[..length]));
        }
        Err(Errno::OPNOTSUPP) => {
            place.met(false);
            return Ok(Vec::new());
        }
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    let mut many = vec![0; NAMES_BYTES_MAX];
    let length = place.list(&mut many)?;
    Ok(agreed.select(&many[..length]))
}

/// Room for the names that files usually have, in bytes.
const FEW_NAMES_BYTES: usize = 512;

/// Longest list of names, in bytes (`XATTR_LIST_MAX`).
const NAMES_BYTES_MAX: usize = 64 << 10;

/// Longest value, in bytes (`XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    const USER: Attributes = Attributes {
        user: true,
        ..Attributes::NONE
    };

    fn xattr(name: &str, value: &str) -> Xattr {
        Xattr {
            name: name.into(),
            value: value.into(),
        }
    }

    fn listed(place: &Place<'_>) -> Vec<String> {
        let mut list = [0; 512];
        let length = place.list(&mut list).unwrap();
        let names = list[..length].split(|&byte| byte == 0);
        let mut names: Vec<_> = names
            .filter(|name| name.starts_with(b"user."))
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn attributes_become_what_is_wanted_but_for_our_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        let (opened_dir, file) = (
            File::open(dir.path()).unwrap(),
            File::open(dir.path().join("f")).unwrap(),
        );
        let opened = Place::Opened(file.as_fd());
        for (name, value) in [
            ("user.old", "1"),
            ("user.a", "1"),
            ("user.rsync.%stat", "x"),
        ] {
            opened.set(&xattr(name, value)).unwrap();
        }
        let wanted = [xattr("user.a", "2"), xattr("user.b", "")];
        let outcome = |touched| Outcome {
            touched,
            lacking: None,
        };
        assert_eq!(set(&opened, &wanted, USER).unwrap(), outcome(true));
        assert_eq!(set(&opened, &wanted, USER).unwrap(), outcome(false));
        assert_eq!(listed(&opened), ["user.a", "user.b", "user.rsync.%stat"]);
        let before = digest(&opened, USER).unwrap();
        let there = Here::own().unwrap();
        assert!(there.enter(&opened_dir));
        assert_eq!(digest(&Place::Here(&there, b"f"), USER).unwrap(), before);
        let named = Place::named(&opened_dir, b"f").unwrap();
        assert_eq!(digest(&named, USER).unwrap(), before);
        assert_eq!(digest(&named, Attributes::NONE).unwrap(), None);
        assert_eq!(set(&named, &wanted[..1], USER).unwrap(), outcome(true));
        assert_eq!(listed(&named), ["user.a", "user.rsync.%stat"]);
        assert_ne!(digest(&named, USER).unwrap(), before);
        assert_eq!(set(&named, &[], Attributes::NONE).unwrap(), outcome(false));
        assert_eq!(listed(&named).len(), 2);
    }

    #[test]
    fn a_walk_finds_attributes_wherever_they_begin_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("user.{}", "n".repeat(240));
        let kinds: [&[&str]; 4] = [
            &[],
            &["user.a"],
            &["user.rsync.%stat"],
            &[&long, "user.b", "user.c"],
        ];
        // Each kind after each other one.
        let order = [
            0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 0, 1, 2, 1, 3, 1, 0, 3, 2, 3, 0, 2, 0,
        ];
        let opened = File::open(dir.path()).unwrap();
        let mut expected = Vec::new();
        for (at, kind) in order.iter().enumerate() {
            let file = File::create(dir.path().join(at.to_string())).unwrap();
            let place = Place::Opened(file.as_fd());
            kinds[*kind]
                .iter()
                .for_each(|name| place.set(&xattr(name, "1")).unwrap());
            expected.push(digest(&place, USER).unwrap());
            assert_eq!(expected[at].is_some(), matches!(kind, 1 | 3));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let here = Here::own().unwrap();
                assert!(here.enter(&opened));
                for (at, expected) in expected.iter().enumerate() {
                    let found = digest(&Place::Here(&here, at.to_string().as_bytes()), USER);
                    assert_eq!(found.unwrap(), *expected, "{at}");
                }
                let gone = digest(&Place::Here(&here, b"none"), USER);
                assert_eq!(gone, Err(Errno::NOENT));
            });
        });
    }

    #[test]
    fn what_is_not_agreed_is_told_and_neither_set_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let place = Place::Opened(file.as_fd());
        let foreign = xattr("user.syncd.any", "x");
        let outcome = set(&place, &[foreign, xattr("user.a", "")], USER).unwrap();
        let told = outcome.lacking.unwrap().to_string();
        assert!(told.starts_with("user.syncd.any: the receiver's"), "{told}");
        assert_eq!(listed(&place), ["user.a"]);
        let gone = Place::named(File::open(dir.path()).unwrap(), b"none").unwrap();
        assert_eq!(digest(&gone, USER), Err(Errno::NOENT));
    }
}
