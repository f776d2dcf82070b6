//! Extended attributes: their names are listed once for each file, values are read only where there are
//! some.
//!
//! Of what cannot be opened (symlinks, devices) they are read by a path through the descriptor of its
//! directory, which needs `/proc`. A walk, which asks for those of every entry, makes each directory the
//! working directory of its thread instead ([`Here`]): that takes a third of the time.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use syncd_proto::attributes::{AttributeHasher, Attributes};
use syncd_proto::digest::Digest;
use syncd_proto::limits::{XATTR_VALUE_BYTES_MAX, XATTRS_MAX};
use syncd_proto::meta::Xattr;

use crate::logic::terms::Terms;

/// Where attributes are read from.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// An open file or directory.
    Opened(BorrowedFd<'a>),
    /// A name in an open directory.
    Named(Vec<u8>),
    /// A name in the working directory of this thread.
    Here(&'a Here, &'a [u8]),
}

impl Place<'_> {
    /// The entry `name` of an open directory; the directory itself is `.`.
    pub(super) fn named(dir: impl AsFd, name: &[u8]) -> Self {
        let fd = dir.as_fd().as_raw_fd();
        let mut path = format!("/proc/self/fd/{fd}/").into_bytes();
        path.extend_from_slice(name);
        Self::Named(path)
    }

    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Named(path) => rustix::fs::llistxattr(&path[..], buffer),
            Self::Here(_, name) => rustix::fs::llistxattr(*name, buffer),
        }
    }

    fn value(&self, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Named(path) => rustix::fs::lgetxattr(&path[..], name, buffer),
            Self::Here(_, path) => rustix::fs::lgetxattr(*path, name, buffer),
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
            Self::Named(path) => rustix::fs::llistxattr_query(&path[..]),
            Self::Here(_, name) => rustix::fs::llistxattr_query(*name),
        }
    }

    /// Notes for the next entry whether this one has some.
    fn met(&self, some: bool) {
        if let Self::Here(here, _) = self {
            here.met_some.set(some);
        }
    }
}

/// A working directory that this thread shares with no other; the one it had is back when this is dropped.
#[derive(Debug)]
pub(super) struct Here {
    before: OwnedFd,
    /// Whether the entry looked at last has attributes.
    met_some: Cell<bool>,
    /// Of this thread only.
    unsent: PhantomData<*const ()>,
}

impl Here {
    /// Parts the thread from the working directory of the process; `None` where that cannot be done.
    pub(super) fn own() -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = rustix::fs::openat(CWD, ".", flags, Mode::empty()).ok()?;
        nix::sched::unshare(CloneFlags::CLONE_FS).ok()?;
        Some(Self {
            before,
            met_some: Cell::new(false),
            unsent: PhantomData,
        })
    }

    /// Makes an open directory the working directory; whether that could be done.
    pub(super) fn enter(&self, dir: impl AsFd) -> bool {
        rustix::process::fchdir(dir).is_ok()
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // Relative paths of a configuration are read again when a connection is.
        let _ = rustix::process::fchdir(&self.before);
    }
}

/// The digest of the attributes that were agreed, as the receiver has them; none if there are none.
///
/// # Errors
/// Those of the system, such as that nothing is there any more.
pub(super) fn digest(place: &Place<'_>, terms: &Terms) -> rustix::io::Result<Option<Digest>> {
    let mut hasher = AttributeHasher::default();
    for_each(place, terms, |name, value| {
        hasher.add(&name, value);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// The attributes that were agreed, as the receiver is to have them.
///
/// # Errors
/// [`Errno::TOOBIG`] if they are more than can be sent; else those of the system.
pub(super) fn read(place: &Place<'_>, terms: &Terms) -> rustix::io::Result<Vec<Xattr>> {
    let mut found = Vec::new();
    let mut bytes = 0;
    for_each(place, terms, |name, value| {
        bytes += value.len();
        if found.len() >= XATTRS_MAX || bytes > XATTR_VALUE_BYTES_MAX {
            return Err(Errno::TOOBIG);
        }
        let value = value.to_vec();
        found.push(Xattr { name, value });
        Ok(())
    })?;
    Ok(found)
}

/// Whether attributes of what cannot be opened can be read here.
///
/// # Errors
/// Those of the system: most likely that there is no `/proc`.
pub(super) fn check(dir: impl AsFd) -> rustix::io::Result<()> {
    match Place::named(dir, b".").list(&mut []) {
        Ok(_) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Calls `each` with every agreed attribute, in byte order of their names. On a file system without
/// attributes there are none.
fn for_each(
    place: &Place<'_>,
    terms: &Terms,
    mut each: impl FnMut(Vec<u8>, &[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    if !terms.attributes.any() {
        return Ok(());
    }
    let names = names(place, terms.attributes)?;
    if names.is_empty() {
        return Ok(());
    }
    let mut buffer = vec![0; VALUE_BYTES_MAX];
    for name in names {
        let length = match place.value(&name, &mut buffer) {
            Ok(length) => length,
            // It went meanwhile; or it is listed and not to be had, as with ACLs that are switched off.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        };
        let value = &buffer[..length];
        match terms.value(&name, value) {
            Some(mapped) => each(name, &mapped)?,
            None => each(name, value)?,
        }
    }
    Ok(())
}

fn names(place: &Place<'_>, which: Attributes) -> rustix::io::Result<Vec<Vec<u8>>> {
    if !place.may_have_any()? {
        return Ok(Vec::new());
    }
    let mut few = [0; FEW_NAMES_BYTES];
    match place.list(&mut few) {
        Ok(length) => {
            place.met(length > 0);
            return Ok(which.select(&few[..length]));
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
    Ok(which.select(&many[..length]))
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

    use rustix::fs::XattrFlags;
    use syncd_proto::meta::Compare;

    use super::*;

    fn set(path: &std::path::Path, name: &str, value: &[u8]) {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    }

    fn user() -> Terms {
        let user = Attributes {
            user: true,
            ..Attributes::NONE
        };
        let compare = Compare {
            xattrs: user,
            ..Compare::ALL
        };
        Terms::new(compare, Attributes::ALL)
    }

    #[test]
    fn a_thread_has_a_working_directory_of_its_own_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        set(&dir.path().join("f"), "user.a", b"1");
        let before = std::env::current_dir().unwrap();
        std::thread::spawn(move || {
            let open = File::open(dir.path()).unwrap();
            let Some(here) = Here::own() else {
                return;
            };
            assert!(here.enter(&open));
            let own = std::env::current_dir().unwrap();
            assert_eq!(own, dir.path().canonicalize().unwrap());
            let found = read(&Place::Here(&here, b"f"), &user()).unwrap();
            assert_eq!(found[0].name, b"user.a");
            drop(here);
            assert_ne!(std::env::current_dir().unwrap(), own);
        })
        .join()
        .unwrap();
        assert_eq!(std::env::current_dir().unwrap(), before);
    }

    #[test]
    fn what_was_agreed_is_read_in_order_whichever_way_it_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        for name in ["user.b", "user.a", "user.rsync.%stat"] {
            set(&path, name, name.as_bytes());
        }
        let (dir, file) = (File::open(dir.path()).unwrap(), File::open(&path).unwrap());
        for place in [Place::Opened(file.as_fd()), Place::named(&dir, b"f")] {
            let names: Vec<_> = read(&place, &user()).unwrap();
            let names: Vec<_> = names.into_iter().map(|xattr| xattr.name).collect();
            assert_eq!(names, [b"user.a", b"user.b"]);
            assert!(digest(&place, &user()).unwrap().is_some());
            assert_eq!(digest(&place, &Terms::default()).unwrap(), None);
        }
        assert_eq!(digest(&Place::named(&dir, b"."), &user()).unwrap(), None);
        let gone = digest(&Place::named(&dir, b"none"), &user());
        assert_eq!(gone, Err(Errno::NOENT));
        check(&dir).unwrap();
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
        for (at, kind) in order.iter().enumerate() {
            let path = dir.path().join(at.to_string());
            fs::write(&path, "x").unwrap();
            kinds[*kind].iter().for_each(|name| set(&path, name, b"1"));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let open = File::open(dir.path()).unwrap();
                let here = Here::own().unwrap();
                assert!(here.enter(&open));
                for (at, kind) in order.iter().enumerate() {
                    let name = at.to_string();
                    let found = read(&Place::Here(&here, name.as_bytes()), &user()).unwrap();
                    let names: Vec<_> = found.iter().map(|xattr| &xattr.name[..]).collect();
                    let mut kept = kinds[*kind].to_vec();
                    kept.retain(|name| !name.contains('%'));
                    kept.sort_unstable();
                    let kept: Vec<_> = kept.into_iter().map(str::as_bytes).collect();
                    assert_eq!(names, kept, "{at}");
                    assert_eq!(
                        read(&Place::named(&open, name.as_bytes()), &user()).unwrap(),
                        found
                    );
                }
                let gone = digest(&Place::Here(&here, b"none"), &user());
                assert_eq!(gone, Err(Errno::NOENT));
            });
        });
    }

    #[test]
    fn more_than_can_be_sent_is_told_and_still_has_a_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        let mut told = None;
        for count in 0..=XATTRS_MAX {
            let set = rustix::fs::lsetxattr(
                &path,
                format!("user.{count:03}-{}", "n".repeat(8)),
                b"",
                XattrFlags::empty(),
            );
            told = set.err();
        }
        if told.is_some() {
            // This file system holds fewer than the limit.
            return;
        }
        let dir = File::open(dir.path()).unwrap();
        let place = Place::named(&dir, b"f");
        assert_eq!(read(&place, &user()), Err(Errno::TOOBIG));
        assert!(digest(&place, &user()).unwrap().is_some());
    }
}
