//! `syncd pid file`: this process's number, locked as long as it lives and removed at its end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::trusted::{self, TrustError};

/// The file; removed when dropped.
#[derive(Debug)]
pub struct PidFile {
    dir: OwnedFd,
    name: std::ffi::OsString,
    _file: File,
}

impl PidFile {
    /// Writes it. Anything but a file in its place is replaced, not followed.
    ///
    /// # Errors
    /// It cannot be made, or another process holds it.
    pub fn write(path: &[u8]) -> Result<Self, String> {
        let failed = |error: TrustError| error.to_string();
        let (dir, name) =
            trusted::find_itself(Path::new(OsStr::from_bytes(path))).map_err(failed)?;
        let system = |errno: Errno| io::Error::from(errno).to_string();
        let found = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW);
        let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
        if found.is_ok_and(|stat| !is_file(stat.st_mode)) {
            rustix::fs::unlinkat(&dir, &name, AtFlags::empty()).map_err(system)?;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let opened = rustix::fs::openat(&dir, &name, flags, mode).map_err(system)?;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        rustix::fs::fcntl_lock(&opened, exclusive).map_err(|errno| match errno {
            Errno::AGAIN | Errno::ACCESS => "another process runs with it".to_owned(),
            errno => system(errno),
        })?;
        let mut file = File::from(opened);
        let text = format!("{}\n", std::process::id());
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| error.to_string())?;
        Ok(Self {
            dir,
            name,
            _file: file,
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_holds_the_number_and_goes_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let target = dir.path().join("target");
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let file = PidFile::write(path.as_os_str().as_bytes()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert!(PidFile::write(b"/no/such/dir/pid").is_err());
    }
}
