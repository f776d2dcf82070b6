//! What can go wrong while making certificates; each error names the file or the name at fault.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a certificate was not made.
#[derive(Debug)]
pub enum CertError {
    /// A file that would be written is already there, and overwriting was not asked for.
    Exists(PathBuf),
    /// A file or directory could not be read, created or written.
    Io {
        /// What was being done, as a verb: `read`, `create`, `write`.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `ca.pem` and `ca.key` do not belong together, or this crate did not make them.
    ForeignAuthority(PathBuf),
    /// A name that cannot be a file name, a DNS name and a part of a URI at once.
    Name(String),
    /// A number of days outside 1 to 36500.
    Days(u32),
    /// The certificate library refused.
    Library {
        /// What was being made or read.
        what: String,
        /// What the library said.
        source: rcgen::Error,
    },
}

impl CertError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn library(what: impl Into<String>, source: rcgen::Error) -> Self {
        Self::Library {
            what: what.into(),
            source,
        }
    }
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => write!(
                f,
                "{}: exists already; pass --force to replace it",
                path.display()
            ),
            Self::Io {
                action,
                path,
                source,
            } => write!(f, "cannot {action} {}: {source}", path.display()),
            Self::ForeignAuthority(path) => {
                write!(
                    f,
                    "{}: not a certs-dev authority, or its ca.key belongs to another one",
                    path.display()
                )
            }
            Self::Name(name) => write!(
                f,
                "{name:?}: not a usable name (1 to 63 of a-z A-Z 0-9 - _ . and not ca, not server, first a letter or digit)"
            ),
            Self::Days(days) => write!(f, "{days} days: not between 1 and 36500"),
            Self::Library { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for CertError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Library { source, .. } => Some(source),
            _ => None,
        }
    }
}
