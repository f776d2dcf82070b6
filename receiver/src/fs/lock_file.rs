//! `lock file`: one range of four bytes for each connection, locked as an rsync daemon locks them, so that both
//! count together.
//!
//! Each place has a descriptor of its own, and the lock belongs to that: it is gone with it, however the process
//! ends, and not a moment before. A child that is not yet the program it will be has the descriptor too, so a place
//! is given back by unlocking it, not by closing alone.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{Mode, OFlags};
use syncd_proto::path::escaped;

use super::trusted::{self, TrustError};
use crate::logic::authorize::{HeldPlace, Places};

/// Bytes of one connection's range.
const RANGE_BYTES: i64 = 4;

/// The lock files of this machine.
#[derive(Debug, Clone, Copy)]
pub struct LockFiles;

impl Places for LockFiles {
    fn take(&self, file: &[u8], number: i32) -> Result<Option<HeldPlace>, String> {
        let failed = |why: String| format!("lock file {}: {why}", escaped(file));
        let opened = open(Path::new(OsStr::from_bytes(file)));
        let opened = opened.map_err(|error| failed(error.to_string()))?;
        match lock(&opened, i64::from(number)) {
            Ok(()) => Ok(Some(Box::new(Place {
                file: File::from(opened),
                number: i64::from(number),
            }))),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// One connection's range, locked.
#[derive(Debug)]
struct Place {
    file: File,
    number: i64,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Closing does it too, a moment later.
        let _ = operate(&self.file, self.number, libc::F_UNLCK);
    }
}

/// Opens it, made if it is missing; symlinks on the way must be root's or our own.
fn open(path: &Path) -> Result<OwnedFd, TrustError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let (dir, name) = trusted::find(path)?;
    let mode = Mode::RUSR | Mode::WUSR;
    let opened = rustix::fs::openat(dir, name, flags | OFlags::CREATE, mode)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Err(TrustError::NotAFile);
    }
    Ok(opened)
}

fn lock(file: impl AsFd, number: i64) -> nix::Result<()> {
    operate(file, number, libc::F_WRLCK)
}

fn operate(file: impl AsFd, number: i64, kind: libc::c_int) -> nix::Result<()> {
    let range = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: number * RANGE_BYTES,
        l_len: RANGE_BYTES,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_place_is_taken_once_and_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = path.as_os_str().as_bytes();
        let first = LockFiles.take(file, 0).unwrap();
        assert!(first.is_some());
        assert!(LockFiles.take(file, 0).unwrap().is_none());
        assert!(LockFiles.take(file, 1).unwrap().is_some());
        drop(first);
        assert!(LockFiles.take(file, 0).unwrap().is_some());
        // A place is free though somebody else has the same open file, as a child has before it is another program.
        let opened = open(&path).unwrap();
        lock(&opened, 2).unwrap();
        let kept = opened.try_clone().unwrap();
        drop(Place {
            file: File::from(opened),
            number: 2,
        });
        assert!(LockFiles.take(file, 2).unwrap().is_some());
        drop(kept);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// rsync's own locks belong to the process.
    #[test]
    fn locks_of_the_other_kind_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create(&path).unwrap();
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::fcntl_lock(&file, operation).unwrap();
        assert!(
            LockFiles
                .take(path.as_os_str().as_bytes(), 3)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_cannot_be_a_lock_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).into_os_string().into_encoded_bytes();
        for file in [
            at("none/lock"),
            dir.path().as_os_str().as_bytes().to_vec(),
            Vec::new(),
        ] {
            assert!(LockFiles.take(&file, 0).is_err(), "{}", escaped(&file));
        }
    }
}
