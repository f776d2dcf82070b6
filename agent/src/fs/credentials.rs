//! Reads the PEM files a connection needs; what they mean is [`crate::net::tls`]'s business.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::fs::password::OTHER_READ_WRITE;

/// More than any bundle of certificates needs, in bytes.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// A PEM file and what is in it; wiped when dropped, since it may be a key.
#[derive(Clone)]
pub struct PemFile {
    /// Where it is, for messages.
    pub path: PathBuf,
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemFile({})", self.path.display())
    }
}

/// The three files of a connection.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Authorities that a receiver's certificate must come from.
    pub ca: PemFile,
    /// Our certificate, and what links it to the receiver's authority.
    pub cert: PemFile,
    /// Its private key.
    pub key: PemFile,
}

/// Why a file is not used.
#[derive(Debug)]
pub enum Unusable {
    /// It cannot be read.
    Unreadable(io::Error),
    /// A key that others may read or write.
    Exposed {
        /// Its mode.
        mode: u32,
    },
    /// We are root, and the key belongs to somebody else.
    NotRoots {
        /// To whom.
        owner: u32,
    },
}

/// A file that cannot be used.
#[derive(Debug)]
pub struct ReadPemError {
    /// What it should have been.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    pub why: Unusable,
}

impl ReadPemError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let path = self.path.display();
        let error = match &self.why {
            Unusable::Unreadable(error) => error,
            Unusable::Exposed { .. } => return format!("chmod 600 {path}"),
            Unusable::NotRoots { .. } => return format!("chown root {path}"),
        };
        match error.kind() {
            io::ErrorKind::NotFound => format!("check the path of the {}", self.what),
            io::ErrorKind::PermissionDenied => {
                format!("let the user this runs as read it: ls -l {path}")
            }
            _ => format!("check {path}"),
        }
    }

    /// Whether it is there, and must not be used as it is.
    #[must_use]
    pub const fn is_unsafe(&self) -> bool {
        !matches!(self.why, Unusable::Unreadable(_))
    }
}

impl fmt::Display for ReadPemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let what = self.what;
        match &self.why {
            Unusable::Unreadable(error) => write!(f, "cannot read {what} {path}: {error}"),
            Unusable::Exposed { mode } => {
                write!(
                    f,
                    "{what} {path}: others may read or write it (mode {mode:04o})"
                )
            }
            Unusable::NotRoots { owner } => {
                write!(f, "{what} {path}: it belongs to uid {owner}, not to root")
            }
        }
    }
}

impl std::error::Error for ReadPemError {}

/// Reads the three files. The key must be nobody else's, as a password file.
///
/// # Errors
/// The first that cannot be used.
pub fn read(ca: &Path, cert: &Path, key: &Path) -> Result<Credentials, ReadPemError> {
    Ok(Credentials {
        ca: read_pem("CA certificate", ca, any)?,
        cert: read_pem("certificate", cert, any)?,
        key: read_pem("private key", key, private)?,
    })
}

fn any(_: &File) -> Result<(), Unusable> {
    Ok(())
}

/// The rules for a password file.
fn private(file: &File) -> Result<(), Unusable> {
    let metadata = file.metadata().map_err(Unusable::Unreadable)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHER_READ_WRITE != 0 {
        return Err(Unusable::Exposed { mode });
    }
    let owner = metadata.uid();
    if rustix::process::geteuid().is_root() && owner != 0 {
        return Err(Unusable::NotRoots { owner });
    }
    Ok(())
}

fn read_pem(
    what: &'static str,
    path: &Path,
    check: fn(&File) -> Result<(), Unusable>,
) -> Result<PemFile, ReadPemError> {
    let failed = |why| ReadPemError {
        what,
        path: path.to_owned(),
        why,
    };
    let unreadable = |error| failed(Unusable::Unreadable(error));
    let file = File::open(path).map_err(unreadable)?;
    check(&file).map_err(failed)?;
    let mut content = Zeroizing::new(Vec::new());
    let mut limited = file.take(PEM_BYTES_MAX);
    limited.read_to_end(&mut content).map_err(unreadable)?;
    Ok(PemFile {
        path: path.to_owned(),
        content,
    })
}
