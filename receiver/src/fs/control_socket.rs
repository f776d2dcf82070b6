//! The place of the control socket: bound where only this user can reach it, removed at the end.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Removes the socket when dropped, unless somebody else has taken its place.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Takes the place; a socket that nobody answers at is replaced. The listener does not block.
    ///
    /// # Errors
    /// Another receiver answers there, something else is there, or it cannot be made.
    pub fn bind(path: &Path) -> io::Result<(Self, UnixListener)> {
        check_free(path)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // In a directory nobody else may enter, and from there to its place in one step: it is never open to others.
        let private = tempfile::Builder::new()
            .prefix(".syncd")
            .tempdir_in(parent)?;
        let made = private.path().join("s");
        let listener = UnixListener::bind(&made)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&made, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&made)?.ino();
        fs::rename(&made, path)?;
        let path = path.to_owned();
        Ok((Self { path, inode }, listener))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn check_free(path: &Path) -> io::Result<()> {
    let other = |text: &str| io::Error::new(io::ErrorKind::AddrInUse, text);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(other("something that is no socket is there"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(other("another receiver answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_private_replaced_when_dead_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recv.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (socket, listener) = ControlSocket::bind(&path).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let second = ControlSocket::bind(&path).unwrap_err();
        assert!(second.to_string().contains("another receiver"), "{second}");
        drop((socket, listener));
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
