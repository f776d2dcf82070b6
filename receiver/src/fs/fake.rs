//! `fake super`: owner, special bits and file types that this process cannot make are kept in an attribute of the
//! file, in rsync's own form, so that `rsync --fake-super` can restore them.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, XattrFlags};
use rustix::io::Errno;

use syncd_proto::meta::{EntryMeta, Kind};

use super::attributes::Place;
use super::meta::{kind_of, statx_fd};
use crate::logic::fake_super::{ATTRIBUTE, LINE_BYTES_MAX, Said};

/// What is said about a file; `None` if nothing is, or nothing that could be.
///
/// # Errors
/// Those of the system, such as that nothing is there any more.
pub fn read(place: &Place<'_>) -> rustix::io::Result<Option<Said>> {
    let mut line = [0; LINE_BYTES_MAX];
    match place.value(ATTRIBUTE.as_bytes(), &mut line) {
        Ok(length) => Ok(Said::parse(&line[..length])),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Says it about an open file or directory, as far as it is not so anyway.
///
/// # Errors
/// Those of the system: a file system without attributes among them.
pub fn write(fd: BorrowedFd<'_>, said: &Said) -> rustix::io::Result<()> {
    let mode = said.mode_on_disk();
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode.into()))?;
    let stat = statx_fd(fd)?;
    let is_so = kind_of(&stat) == Some(said.kind)
        && mode == said.mode
        && (stat.stx_uid, stat.stx_gid) == (said.uid, said.gid);
    if !is_so {
        let line = said.line();
        return rustix::fs::fsetxattr(fd, ATTRIBUTE, line.as_bytes(), XattrFlags::empty());
    }
    match rustix::fs::fremovexattr(fd, ATTRIBUTE) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        removed => removed,
    }
}

/// An entry as it is said to be.
#[must_use]
pub fn applied(entry: EntryMeta, said: Option<Said>) -> EntryMeta {
    let Some(said) = said.filter(|said| said.fits(entry.kind)) else {
        return entry;
    };
    EntryMeta {
        kind: said.kind,
        mode: said.mode,
        uid: said.uid,
        gid: said.gid,
        size: if said.kind == Kind::File {
            entry.size
        } else {
            0
        },
        rdev: said.rdev,
        ..entry
    }
}
