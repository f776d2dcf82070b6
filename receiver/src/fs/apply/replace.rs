//! Putting an entry in the place of another, whatever that is, without a moment in between.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::rights::grant;
use crate::fs::area::Area;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaced {
    /// A directory went.
    Directory,
    /// A file went, or nothing.
    AtMostAFile,
}

/// Renames `from` to `to`, whatever stands there; a directory in the way, or below a file's name, is
/// swapped out and thrown away, so that the name is never missing.
pub(super) fn replace(
    area: &Area,
    (from_dir, from): (&OwnedFd, &[u8]),
    (to_dir, to): (&OwnedFd, &[u8]),
) -> rustix::io::Result<Replaced> {
    for _ in 0..RACES_MAX {
        match rustix::fs::renameat(from_dir, from, to_dir, to) {
            Ok(()) => return Ok(Replaced::AtMostAFile),
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        match rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::EXCHANGE) {
            Ok(()) => {
                discard_dir(area, from_dir, from)?;
                return Ok(Replaced::Directory);
            }
            // A file system without exchange: the name is missing for a moment.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => discard_dir(area, to_dir, to)?,
            // It went away meanwhile.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY)
}

/// Throws an entry away; a directory of ours that forbids to be moved by its own mode is made to.
pub(super) fn discard_dir(area: &Area, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
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
