//! The rights to change names where we are not root: a directory of ours whose own mode forbids it is
//! opened up for as long as it takes.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Applier;
use crate::fs::meta::statx_fd;
use crate::fs::root::LISTABLE;

impl Applier<'_> {
    /// Tries `change`; if a directory of ours forbids it by its own mode, that is lifted meanwhile.
    /// Only needed, and only tried, where we are not root.
    pub(super) fn with_right_to<T>(
        &self,
        dir: &OwnedFd,
        change: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match change() {
            Err(Errno::ACCESS) if !self.keeper.powers.any_mode => {}
            done => return done,
        }
        let stat = statx_fd(dir)?;
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode & 0o7777));
        if mode.contains(Mode::WUSR | Mode::XUSR) || grant(dir, mode | Mode::RWXU).is_err() {
            return Err(Errno::ACCESS);
        }
        let done = change();
        grant(dir, mode)?;
        done
    }

    /// Tries `change`; a directory that moves to another one has to be writable itself.
    pub(super) fn with_right_to_move<T>(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        change: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match change() {
            Err(Errno::ACCESS) if !self.keeper.powers.any_mode => {}
            done => return done,
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(moved) => self.with_right_to(&moved, change),
            Err(_) => Err(Errno::ACCESS),
        }
    }
}

/// Sets the mode of what a descriptor names, even if it cannot be opened.
pub(in crate::fs) fn grant(handle: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    if let Ok(opened) = rustix::fs::openat(handle, ".", LISTABLE, Mode::empty()) {
        return rustix::fs::fchmod(opened, mode);
    }
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(handle));
    rustix::fs::chmod(path, mode)
}
