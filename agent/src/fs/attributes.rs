//! Extended attributes: their names are listed once for each file, values are read only where there are
//! some.
//!
//! Of what cannot be opened (symlinks, devices) they are read by a path through the descriptor of its
//! directory, which needs `/proc`. A walk, which asks for those of every entry, makes each directory the
//! working directory of its thread instead ([`Here`]): that takes a third of the time.

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
    Here(&'a [u8]),
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
            Self::Here(name) => rustix::fs::llistxattr(*name, buffer),
        }
    }

    fn value(&self, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Named(path) => rustix::fs::lgetxattr(&path[..], name, buffer),
            Self::Here(path) => rustix::fs::lgetxattr(*path, name, buffer),
        }
    }
}

/// A working directory that this thread shares with no other; the one it had is back when this is dropped.
#[derive(Debug)]
pub(super) struct Here {
    before: OwnedFd,
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
    let mut few = [0; FEW_NAMES_BYTES];
    match place.list(&mut few) {
        Ok(length) => return Ok(which.select(&few[..length])),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
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
            let found = read(&Place::Here(b"f"), &user()).unwrap();
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
