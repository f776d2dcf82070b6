//! Reads a secrets file: at each login anew, and only if it can be believed.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use syncd_proto::path::escaped;

use super::trusted::{self, TrustError};
use crate::logic::secrets::{SECRETS_BYTES_MAX, Secrets, Unfit, strict_modes};

/// Why there are no secrets.
#[derive(Debug)]
pub struct SecretsError {
    path: Vec<u8>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Trust(TrustError),
    Unfit(Unfit),
}

impl fmt::Display for SecretsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secrets file {}: ", escaped(&self.path))?;
        match &self.cause {
            Cause::Trust(error) => error.fmt(f),
            Cause::Unfit(unfit) => unfit.fmt(f),
        }
    }
}

impl std::error::Error for SecretsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Trust(error) => error.source(),
            Cause::Unfit(_) => None,
        }
    }
}

/// Reads the file of this name. `strict` is the module's `strict modes`; mode and owner are those of
/// the opened file, whatever the name leads to a moment later.
///
/// # Errors
/// [`SecretsError`] if it cannot be read, is reached through somebody else's symlink, is no regular
/// file or too large, or if `strict modes` refuse it.
pub fn read(path: &[u8], strict: bool) -> Result<Secrets, SecretsError> {
    read_checked(path, strict).map_err(|cause| SecretsError {
        path: path.to_vec(),
        cause,
    })
}

fn read_checked(path: &[u8], strict: bool) -> Result<Secrets, Cause> {
    let opened = trusted::open(Path::new(OsStr::from_bytes(path))).map_err(Cause::Trust)?;
    if opened.kind() != FileType::RegularFile {
        return Err(Cause::Trust(TrustError::NotAFile));
    }
    if strict {
        let euid = rustix::process::geteuid().as_raw();
        strict_modes(opened.stat.st_mode, opened.stat.st_uid, euid).map_err(Cause::Unfit)?;
    }
    let text = opened.read(SECRETS_BYTES_MAX).map_err(Cause::Trust)?;
    Ok(Secrets::new(text))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32, text: &[u8]) -> (tempfile::TempDir, Vec<u8>) {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("secrets");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        let path = path.into_os_string().into_encoded_bytes();
        (home, path)
    }

    #[test]
    fn a_fit_file_is_read() {
        let (_home, path) = file(0o640, b"alice:apw\n");
        let secrets = read(&path, true).expect("fit");
        assert_eq!(secrets.user(b"alice"), Some(&b"apw"[..]));
    }

    #[test]
    fn strict_modes_look_at_the_file_itself() {
        let (home, path) = file(0o644, b"alice:apw\n");
        let message = read(&path, true).expect_err("others may read").to_string();
        assert!(message.contains("other-accessible (mode 0644"), "{message}");
        assert!(read(&path, false).is_ok());
        let link = home.path().join("link");
        std::os::unix::fs::symlink("secrets", &link).expect("a link");
        assert!(read(link.as_os_str().as_bytes(), true).is_err());
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let (home, path) = file(0o600, &vec![b'x'; SECRETS_BYTES_MAX + 1]);
        assert!(
            read(&path, true)
                .expect_err("too large")
                .to_string()
                .contains("larger")
        );
        assert!(read(home.path().as_os_str().as_bytes(), false).is_err());
        assert!(read(b"/nonexistent/secrets", false).is_err());
    }
}
