//! Reads a password file under the rules of rsync's client: nobody else may read or write it, and root's
//! belongs to root.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::logic::password::Password;

/// More than any password file needs; the rest is not read.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// What the mode of a secret must not let others do.
pub(super) const OTHER_READ_WRITE: u32 = 0o006;

/// Why there is no password.
#[derive(Debug)]
pub enum PasswordFileError {
    /// It cannot be opened or read.
    Io(PathBuf, io::Error),
    /// Others may read or write it.
    OtherAccessible(PathBuf),
    /// We are root and it belongs to somebody else.
    NotRoots(PathBuf),
    /// There is no line in it.
    Empty(PathBuf),
}

impl PasswordFileError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Io(path, _) => format!(
                "create it with: install -m 600 /dev/null {0}, and write the password into its first line",
                path.display()
            ),
            Self::OtherAccessible(path) => format!("chmod 600 {}", path.display()),
            Self::NotRoots(path) => format!("chown root {}", path.display()),
            Self::Empty(_) => {
                "write the password into its first line, without the user name".into()
            }
        }
    }
}

impl fmt::Display for PasswordFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, source) => {
                write!(f, "cannot read password file {}: {source}", path.display())
            }
            Self::OtherAccessible(path) => write!(
                f,
                "password file {} must not be other-accessible",
                path.display()
            ),
            Self::NotRoots(path) => write!(
                f,
                "password file {} must be owned by root when running as root",
                path.display()
            ),
            Self::Empty(path) => write!(f, "no password in {}", path.display()),
        }
    }
}

impl std::error::Error for PasswordFileError {}

/// Reads the password of a password file.
///
/// # Errors
/// [`PasswordFileError`].
pub fn read(path: &Path) -> Result<Password, PasswordFileError> {
    let failed = |source| PasswordFileError::Io(path.to_owned(), source);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if metadata.mode() & OTHER_READ_WRITE != 0 {
        return Err(PasswordFileError::OtherAccessible(path.to_owned()));
    }
    if rustix::process::geteuid().is_root() && metadata.uid() != 0 {
        return Err(PasswordFileError::NotRoots(path.to_owned()));
    }
    let mut content = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Password::from_file_content(&content).ok_or_else(|| PasswordFileError::Empty(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with_mode(mode: u32) -> Result<Password, PasswordFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        fs::write(&path, "apw\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read(&path)
    }

    #[test]
    fn only_others_reading_or_writing_is_refused() {
        for mode in [0o600, 0o400, 0o640, 0o660, 0o601] {
            assert!(with_mode(mode).is_ok(), "{mode:o}");
        }
        for mode in [0o604, 0o602, 0o644, 0o666] {
            assert!(
                matches!(with_mode(mode), Err(PasswordFileError::OtherAccessible(_))),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn roots_password_file_belongs_to_root() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        fs::write(&path, "apw\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(2001), None).unwrap();
        assert!(matches!(read(&path), Err(PasswordFileError::NotRoots(_))));
    }

    #[test]
    fn a_missing_or_empty_file_is_an_error_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        let missing = read(&path).unwrap_err();
        assert!(missing.hint().contains("install -m 600"), "{missing}");
        fs::write(&path, "\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&path), Err(PasswordFileError::Empty(_))));
    }
}
