//! Putting an entry in the place of another, whatever that is, without a moment in between.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use syncd_proto::meta::Kind;
use syncd_proto::path::WirePath;

use super::rights::grant;
use crate::fs::area::Area;
use crate::fs::attic::{Keep, Kept};
use crate::fs::meta::{identity_of, kind_of, statx_at};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaced {
    /// A directory went.
    Directory,
    /// A file went, or nothing.
    AtMostAFile,
}

/// What becomes of what is found in the place.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Where it is thrown away.
    pub(super) area: &'a Area,
    /// Where it is kept instead, under this path.
    pub(super) keep: Option<(&'a Keep<'a>, &'a WirePath)>,
    /// Whether what comes is known under a temporary name only.
    pub(super) is_staged: bool,
}

type At<'a> = (&'a OwnedFd, &'a [u8]);

/// Renames `from` to `to`, whatever stands there. A file that is kept gets its second name first; a directory in
/// the way, or below a file's name, is swapped out: the name is never missing.
pub(super) fn replace(found: &Found<'_>, from: At<'_>, to: At<'_>) -> rustix::io::Result<Replaced> {
    for _ in 0..RACES_MAX {
        let renamed = match second_name(found, from, to)? {
            Second::Unable => Err(Errno::EXIST),
            second => {
                let renamed = rustix::fs::renameat(from.0, from.1, to.0, to.1);
                if let (Second::Name(kept), true) = (second, renamed.is_err()) {
                    kept.undo();
                }
                renamed
            }
        };
        match renamed {
            Ok(()) => return Ok(Replaced::AtMostAFile),
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        match swap(found, from, to) {
            // It went away meanwhile.
            Err(Errno::NOENT) => {}
            done => return done,
        }
    }
    Err(Errno::BUSY)
}

enum Second {
    /// Nothing is lost by the rename.
    Needless,
    /// The version in the way has one.
    Name(Kept),
    /// It can have none here.
    Unable,
}

/// Gives the file in the way a second name, if it is to be kept.
fn second_name(found: &Found<'_>, from: At<'_>, to: At<'_>) -> rustix::io::Result<Second> {
    let Some((keep, path)) = found.keep else {
        return Ok(Second::Needless);
    };
    let Some(there) = statx_at(to.0, to.1)? else {
        return Ok(Second::Needless);
    };
    let comes = statx_at(from.0, from.1)?;
    let is_same = comes.is_some_and(|comes| identity_of(&comes) == identity_of(&there));
    if is_same || kind_of(&there) == Some(Kind::Dir) {
        return Ok(Second::Needless);
    }
    match keep.link(path, to) {
        Ok(kept) => Ok(Second::Name(kept)),
        Err(Errno::NOENT) => Ok(Second::Needless),
        // No links on this file system, too many of this file, or it is not ours to link.
        Err(Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Ok(Second::Unable)
        }
        Err(error) => Err(error),
    }
}

/// Swaps the two; then what was in the way goes.
fn swap(found: &Found<'_>, from: At<'_>, to: At<'_>) -> rustix::io::Result<Replaced> {
    match found.keep {
        None => {
            exchange(from, to, || discard_dir(found.area, to.0, to.1))?;
            // Nothing is left there if there was no exchange.
            match discard_dir(found.area, from.0, from.1) {
                Err(Errno::NOENT) => {}
                done => done?,
            }
        }
        // From a temporary name it goes to where the old version will be: a crash between the two steps cannot
        // take that along.
        Some((keep, path)) if found.is_staged => {
            let kept = keep.take(path, from)?;
            let place = (&*kept.dir, &kept.name[..]);
            let swapped = exchange(place, to, || keep.take(path, to).map(drop));
            if let Err(error) = swapped {
                let _ = rustix::fs::renameat(place.0, place.1, from.0, from.1);
                return Err(error);
            }
        }
        Some((keep, path)) => {
            exchange(from, to, || keep.take(path, to).map(drop))?;
            match keep.take(path, from) {
                Err(Errno::NOENT) => {}
                done => done.map(drop)?,
            }
        }
    }
    Ok(Replaced::Directory)
}

/// Exchanges two names; on a file system that cannot, `away` takes what is at `to` first, and the name is
/// missing for a moment.
fn exchange(
    from: At<'_>,
    to: At<'_>,
    away: impl FnOnce() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            away()?;
            rustix::fs::renameat(from.0, from.1, to.0, to.1)
        }
        done => done,
    }
}

/// Throws an entry away; a directory of ours that forbids to be moved by its own mode is made to.
pub(in crate::fs) fn discard_dir(
    area: &Area,
    dir: &OwnedFd,
    name: &[u8],
) -> rustix::io::Result<()> {
    match area.discard(dir, name) {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    grant(&handle, Mode::RWXU)?;
    area.discard(dir, name)
}

/// How often a lost race is tried again.
const RACES_MAX: usize = 16;
