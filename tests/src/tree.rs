//! A strict picture of a directory tree, and the differences between two of them.
//!
//! Nothing here is shared with the programs under test. Symlinks are never followed, special files are never
//! opened, names are bytes, and neither depth nor path length matters: directories are opened piece by piece.

mod diff;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

pub use diff::{Aspect, Difference, diff};

/// A path relative to the root of a tree, without a leading `/`; empty for the root itself.
pub type RelPath = Vec<u8>;

/// What a scan looks at.
#[derive(Debug, Clone)]
pub struct Options {
    /// Paths relative to the root that are left out, with everything below them.
    pub ignore: Vec<RelPath>,
    /// Whether extended attributes (and so ACLs and capabilities) are read; a machine's own label
    /// (`security.selinux`) is left out.
    pub xattrs: bool,
    /// Whether the root directory's own metadata is part of the picture.
    pub root: bool,
}

impl Default for Options {
    /// Everything but the receiver's own `.syncd` in the root.
    fn default() -> Self {
        Self {
            ignore: vec![b".syncd".to_vec()],
            xattrs: true,
            root: true,
        }
    }
}

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    BlockDevice,
    CharDevice,
}

/// Everything compared about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its type.
    pub kind: Kind,
    /// All twelve permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Length in bytes; 0 except for files.
    pub size: u64,
    /// Major and minor number; (0, 0) except for devices.
    pub rdev: (u32, u32),
    /// Where a symlink points.
    pub target: Option<Vec<u8>>,
    /// BLAKE3 of a file's content.
    pub content: Option<blake3::Hash>,
    /// Extended attributes, if they were asked for.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Device and inode: entries other than directories that share them are hard links of each other.
    pub inode: (u64, u64),
}

/// A picture of a tree; the order is that of the bytes of the paths.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<RelPath, Entry>,
}

impl Tree {
    /// Looks at everything below `root`, which must rest meanwhile: an entry that vanishes or changes under the
    /// scan is an error.
    pub fn scan(root: impl AsRef<Path>, options: &Options) -> Result<Self, TreeError> {
        walk::scan(root.as_ref(), options).map(|entries| Self { entries })
    }

    /// All entries by path.
    pub fn entries(&self) -> &BTreeMap<RelPath, Entry> {
        &self.entries
    }

    /// One entry.
    pub fn entry(&self, path: impl AsRef<[u8]>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// How many entries there are, the root included if it was asked for.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Why there is no picture of a tree.
#[derive(Debug)]
pub enum TreeError {
    /// A system call failed.
    Io {
        /// What was being done.
        action: &'static str,
        /// The path below the root; empty for the root.
        path: RelPath,
        /// What the system said.
        source: io::Error,
    },
    /// A file was not the same before and after it was read.
    Changed(RelPath),
}

impl TreeError {
    pub(crate) fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_vec(),
            source: source.into(),
        }
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => write!(f, "cannot {action} {}: {source}", escape(path)),
            Self::Changed(path) => write!(f, "{}: changed while it was read", escape(path)),
        }
    }
}

impl std::error::Error for TreeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Changed(_) => None,
        }
    }
}

/// A path as printable text on one line; the root is `.`.
pub fn escape(path: &[u8]) -> String {
    if path.is_empty() {
        ".".to_owned()
    } else {
        path.escape_ascii().to_string()
    }
}

/// Sets the modification time of an entry, before 1970 or after 2038 just as well; a symlink is not followed.
///
/// # Panics
/// If the file system does not take it.
#[track_caller]
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}
