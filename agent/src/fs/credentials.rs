//! Reads the PEM files a connection needs; what they mean is [`crate::net::tls`]'s business.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

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

/// A file that cannot be read.
#[derive(Debug)]
pub struct ReadPemError {
    /// What it should have been.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl ReadPemError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self.source.kind() {
            io::ErrorKind::NotFound => format!("check the path of the {}", self.what),
            io::ErrorKind::PermissionDenied => format!(
                "let the user this runs as read it: ls -l {}",
                self.path.display()
            ),
            _ => format!("check {}", self.path.display()),
        }
    }
}

impl fmt::Display for ReadPemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "cannot read {} {path}: {}", self.what, self.source)
    }
}

impl std::error::Error for ReadPemError {}

/// Reads the three files.
///
/// # Errors
/// The first that cannot be read.
pub fn read(ca: &Path, cert: &Path, key: &Path) -> Result<Credentials, ReadPemError> {
    Ok(Credentials {
        ca: read_pem("CA certificate", ca)?,
        cert: read_pem("certificate", cert)?,
        key: read_pem("private key", key)?,
    })
}

fn read_pem(what: &'static str, path: &Path) -> Result<PemFile, ReadPemError> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX).read_to_end(&mut content))
        .map_err(|source| ReadPemError {
            what,
            path: path.to_owned(),
            source,
        })?;
    Ok(PemFile {
        path: path.to_owned(),
        content,
    })
}
