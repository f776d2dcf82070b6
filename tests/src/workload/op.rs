//! One operation on a tree: printable, repeatable, and what it does to a model of the tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::rng::Rng;

const SAVE_SUFFIX: &str = ".tmp-save";
const ATTRIBUTE: &str = "user.workload";

/// An operation; all paths are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say it")]
pub enum Op {
    /// A new file with `size` bytes made from `seed`.
    Create { path: PathBuf, size: u64, seed: u64 },
    /// The same file, emptied and written again.
    Overwrite { path: PathBuf, size: u64, seed: u64 },
    /// The content that it has, written again: in place, or to a new file beside it that is renamed over it.
    Again { path: PathBuf, beside: bool },
    /// More at its end.
    Append { path: PathBuf, size: u64, seed: u64 },
    /// Another length: cut, or a hole at the end.
    Truncate { path: PathBuf, size: u64 },
    /// A new file beside it, renamed over it.
    Save { path: PathBuf, size: u64, seed: u64 },
    /// A rename of anything, also over a file.
    Rename { from: PathBuf, to: PathBuf },
    /// A new directory.
    MakeDirectory { path: PathBuf },
    /// An empty directory removed.
    RemoveDirectory { path: PathBuf },
    /// A directory removed with everything in it.
    RemoveTree { path: PathBuf },
    /// A file or symlink removed.
    Remove { path: PathBuf },
    /// A new symlink.
    Symlink { path: PathBuf, target: PathBuf },
    /// A second name of a file.
    HardLink { from: PathBuf, to: PathBuf },
    /// New permission bits.
    Mode { path: PathBuf, mode: u32 },
    /// An extended attribute set, or removed.
    Attribute { path: PathBuf, value: Option<u64> },
    /// A new modification time, of a symlink itself too.
    Times {
        path: PathBuf,
        seconds: u64,
        nanoseconds: u64,
    },
}

impl Op {
    /// A name that it makes and takes away again before it is done.
    #[must_use]
    pub fn passing(&self) -> Option<PathBuf> {
        match self {
            Self::Save { path, .. } | Self::Again { path, beside: true } => Some(beside(path)),
            _ => None,
        }
    }

    /// Does it below `root`.
    pub fn apply(&self, root: &Path) -> io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        match self {
            Self::Create { path, size, seed } => {
                write(&mut File::create_new(at(path))?, *size, *seed)
            }
            Self::Overwrite { path, size, seed } => write(
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(at(path))?
                    .by_ref(),
                *size,
                *seed,
            ),
            Self::Again {
                path,
                beside: false,
            } => {
                let content = fs::read(at(path))?;
                fs::write(at(path), content)
            }
            Self::Again { path, beside: true } => {
                let beside = at(&beside(path));
                fs::copy(at(path), &beside)?;
                fs::rename(beside, at(path))
            }
            Self::Append { path, size, seed } => write(
                OpenOptions::new().append(true).open(at(path))?.by_ref(),
                *size,
                *seed,
            ),
            Self::Truncate { path, size } => OpenOptions::new()
                .write(true)
                .open(at(path))?
                .set_len(*size),
            Self::Save { path, size, seed } => {
                let beside = at(&beside(path));
                write(&mut File::create_new(&beside)?, *size, *seed)?;
                fs::rename(beside, at(path))
            }
            Self::Rename { from, to } => rename(&at(from), &at(to)),
            Self::MakeDirectory { path } => fs::create_dir(at(path)),
            Self::RemoveDirectory { path } => fs::remove_dir(at(path)),
            Self::RemoveTree { path } => fs::remove_dir_all(at(path)),
            Self::Remove { path } => fs::remove_file(at(path)),
            Self::Symlink { path, target } => symlink(target, at(path)),
            Self::HardLink { from, to } => fs::hard_link(at(from), at(to)),
            Self::Mode { path, mode } => {
                fs::set_permissions(at(path), Permissions::from_mode(*mode))
            }
            Self::Attribute { path, value } => attribute(&at(path), *value),
            Self::Times {
                path,
                seconds,
                nanoseconds,
            } => set_times(&at(path), *seconds, *nanoseconds),
        }
    }

    /// Whether it would do nothing, as a rename to itself.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Rename { from, to } if from == to)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &PathBuf| path.as_os_str().as_bytes().escape_ascii().to_string();
        match self {
            Self::Create { path, size, seed } => {
                write!(f, "create {} size {size} seed {seed:#x}", name(path))
            }
            Self::Overwrite { path, size, seed } => {
                write!(f, "overwrite {} size {size} seed {seed:#x}", name(path))
            }
            Self::Again { path, beside } => {
                let how = if *beside { "beside" } else { "in place" };
                write!(f, "again {how} {}", name(path))
            }
            Self::Append { path, size, seed } => {
                write!(f, "append {} size {size} seed {seed:#x}", name(path))
            }
            Self::Truncate { path, size } => write!(f, "truncate {} size {size}", name(path)),
            Self::Save { path, size, seed } => {
                write!(f, "save {} size {size} seed {seed:#x}", name(path))
            }
            Self::Rename { from, to } => write!(f, "rename {} -> {}", name(from), name(to)),
            Self::MakeDirectory { path } => write!(f, "mkdir {}", name(path)),
            Self::RemoveDirectory { path } => write!(f, "rmdir {}", name(path)),
            Self::RemoveTree { path } => write!(f, "remove-tree {}", name(path)),
            Self::Remove { path } => write!(f, "remove {}", name(path)),
            Self::Symlink { path, target } => {
                write!(f, "symlink {} -> {}", name(path), name(target))
            }
            Self::HardLink { from, to } => write!(f, "link {} -> {}", name(from), name(to)),
            Self::Mode { path, mode } => write!(f, "chmod {} {mode:04o}", name(path)),
            Self::Attribute { path, value } => match value {
                Some(value) => write!(f, "attribute {} {value:#x}", name(path)),
                None => write!(f, "attribute {} removed", name(path)),
            },
            Self::Times {
                path,
                seconds,
                nanoseconds,
            } => {
                write!(f, "times {} {seconds}.{nanoseconds:09}", name(path))
            }
        }
    }
}

/// What a path is, as far as choosing operations goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File,
    Directory,
    Symlink,
}

/// Which paths there are; kept beside the tree, so that choosing does not need the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model(BTreeMap<PathBuf, Node>);

impl Model {
    /// What is below `root` now.
    pub(super) fn look(root: &Path) -> io::Result<Self> {
        let mut model = Self::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(parent) = pending.pop() {
            for entry in fs::read_dir(root.join(&parent))? {
                let entry = entry?;
                let (path, kind) = (parent.join(entry.file_name()), entry.file_type()?);
                let node = match kind {
                    kind if kind.is_dir() => Node::Directory,
                    kind if kind.is_symlink() => Node::Symlink,
                    _ => Node::File,
                };
                if node == Node::Directory {
                    pending.push(path.clone());
                }
                model.0.insert(path, node);
            }
        }
        Ok(model)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    pub(super) fn is_empty_directory(&self, path: &Path) -> bool {
        !self
            .0
            .keys()
            .any(|other| other != path && other.starts_with(path))
    }

    /// Any path of a wanted kind.
    pub(super) fn pick(&self, rng: &mut Rng, wanted: impl Fn(Node) -> bool) -> Option<PathBuf> {
        let found: Vec<_> = self
            .0
            .iter()
            .filter(|(_, node)| wanted(**node))
            .map(|(path, _)| path)
            .collect();
        rng.pick(&found).map(|path| path.to_path_buf())
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path, .. } => self.insert(path, Node::File),
            Op::MakeDirectory { path } => self.insert(path, Node::Directory),
            Op::Symlink { path, .. } => self.insert(path, Node::Symlink),
            Op::HardLink { from, to } => {
                let node = self.0.get(from).copied().unwrap_or(Node::File);
                self.insert(to, node);
            }
            Op::Remove { path } | Op::RemoveDirectory { path } | Op::RemoveTree { path } => {
                self.remove(path)
            }
            Op::Rename { from, to } => self.rename(from, to),
            Op::Overwrite { .. }
            | Op::Again { .. }
            | Op::Append { .. }
            | Op::Truncate { .. }
            | Op::Save { .. }
            | Op::Mode { .. }
            | Op::Attribute { .. }
            | Op::Times { .. } => {}
        }
    }

    fn insert(&mut self, path: &Path, node: Node) {
        self.0.insert(path.to_owned(), node);
    }

    fn remove(&mut self, path: &Path) {
        self.0.retain(|other, _| !other.starts_with(path));
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let moved: Vec<_> = self
            .0
            .iter()
            .filter_map(|(path, node)| {
                path.strip_prefix(from)
                    .ok()
                    .map(|rest| (rest.to_owned(), *node))
            })
            .collect();
        self.remove(from);
        for (rest, node) in moved {
            let path = if rest.as_os_str().is_empty() {
                to.to_owned()
            } else {
                to.join(rest)
            };
            self.0.insert(path, node);
        }
    }
}

/// A file name from bytes.
pub(super) fn os_name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Where there are no attributes, or not for this file, nothing happens.
fn attribute(path: &Path, value: Option<u64>) -> io::Result<()> {
    let done = match value {
        Some(value) => {
            rustix::fs::setxattr(path, ATTRIBUTE, &value.to_le_bytes(), XattrFlags::empty())
        }
        None => rustix::fs::removexattr(path, ATTRIBUTE),
    };
    match done {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) => Ok(()),
        done => Ok(done?),
    }
}

/// Sets the modification time of a path, without following a symlink.
pub(super) fn set_times(path: &Path, seconds: u64, nanoseconds: u64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(seconds).map_err(io::Error::other)?,
        tv_nsec: i64::try_from(nanoseconds).map_err(io::Error::other)?,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// As `mv`: two names of one file become one, which the system call alone leaves as they are.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match fs::symlink_metadata(from) {
        Ok(_) => fs::remove_file(from),
        Err(_) => Ok(()),
    }
}

fn write(file: &mut File, size: u64, seed: u64) -> io::Result<()> {
    let size = usize::try_from(size).map_err(io::Error::other)?;
    file.write_all(&Rng::new(seed).bytes(size))
}

/// The temporary file's name of [`Op::Save`]; no other operation makes such a name.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SAVE_SUFFIX);
    name.into()
}
