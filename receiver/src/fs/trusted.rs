//! Opening a file that is trusted because of where it is: each component is looked at by descriptor,
//! and a symlink is followed only if root or the daemon's own user made it.
//!
//! So nobody else can choose which file is read, also not between a look and the open.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// Symlinks on one way.
const LINKS_MAX: usize = 40;
/// Components on one way, those of link targets included.
const COMPONENTS_MAX: usize = 1_024;

/// Why a file was not opened or read.
#[derive(Debug)]
pub enum TrustError {
    /// The system says no.
    Io(io::Error),
    /// A symlink on the way belongs to somebody else.
    ForeignLink {
        /// The link's name.
        name: OsString,
        /// Its owner.
        owner: u32,
    },
    /// Too many symlinks or components.
    TooManyLinks,
    /// It is no regular file (nor, where one may be, a directory).
    NotAFile,
    /// It is larger than it may be.
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl std::fmt::Display for TrustError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::ForeignLink { name, owner } => {
                let name = syncd_proto::path::escaped(name.as_bytes());
                write!(
                    f,
                    "the symlink \"{name}\" on the way belongs to user {owner}: make it root's, or name the file itself"
                )
            }
            Self::TooManyLinks => f.write_str("too many symlinks on the way"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::TooLarge { bytes_max } => write!(f, "larger than {bytes_max} bytes"),
        }
    }
}

impl std::error::Error for TrustError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<rustix::io::Errno> for TrustError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for TrustError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Something opened for reading, with what the descriptor itself says about it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) stat: Stat,
}

impl Opened {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// The whole content, if it is a regular file of at most so many bytes.
    pub(super) fn read(self, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, TrustError> {
        if self.kind() != FileType::RegularFile {
            return Err(TrustError::NotAFile);
        }
        let size = usize::try_from(self.stat.st_size).unwrap_or(usize::MAX);
        if size > bytes_max {
            return Err(TrustError::TooLarge { bytes_max });
        }
        // Enough room from the start, so that no copy of a secret is left behind by growing.
        let mut text = Zeroizing::new(Vec::with_capacity(bytes_max.min(size + 1)));
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let mut file = File::from(self.file).take(limit.saturating_add(1));
        file.read_to_end(&mut text)?;
        if text.len() > bytes_max {
            return Err(TrustError::TooLarge { bytes_max });
        }
        Ok(text)
    }
}

/// Opens `path`; relative paths start at the working directory.
pub(super) fn open(path: &Path) -> Result<Opened, TrustError> {
    let (parent, name, stat) = walk(path)?;
    open_last(&parent, &name, &stat)
}

/// Where `path` leads to in the end: a directory, and a name in it that is no symlink and may be free.
///
/// # Errors
/// [`TrustError`].
pub fn find(path: &Path) -> Result<(OwnedFd, OsString), TrustError> {
    let (parent, name, _) = walk_to(path)?;
    Ok((parent, name))
}

/// Directory and name of `path`, whatever stands there itself.
///
/// # Errors
/// [`TrustError`].
pub fn find_itself(path: &Path) -> Result<(OwnedFd, OsString), TrustError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(TrustError::NotAFile);
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Ok((open_directory(parent)?, name.to_owned()))
}

/// A handle of the directory `path`, reached in the same way.
///
/// # Errors
/// [`TrustError`], also if it is no directory.
pub fn open_directory(path: &Path) -> Result<OwnedFd, TrustError> {
    let (parent, name, _) = walk(path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&parent, &name, flags, Mode::empty())?)
}

/// Goes as far as the last component: the directory it is in, its name, and what stood there. It is no symlink.
fn walk(path: &Path) -> Result<(OwnedFd, OsString, Stat), TrustError> {
    match walk_to(path)? {
        (parent, name, Some(stat)) => Ok((parent, name, stat)),
        _ => Err(Errno::NOENT.into()),
    }
}

/// The same, where the last name may be free.
fn walk_to(path: &Path) -> Result<(OwnedFd, OsString, Option<Stat>), TrustError> {
    let euid = rustix::process::geteuid().as_raw();
    let mut way = Way::new(path)?;
    while let Some(name) = way.ahead.pop_front() {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(&way.here, &name, flags, Mode::empty()) {
            Err(Errno::NOENT) if way.ahead.is_empty() => return Ok((way.here, name, None)),
            found => found?,
        };
        let stat = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            if stat.st_uid != 0 && stat.st_uid != euid {
                return Err(TrustError::ForeignLink {
                    name,
                    owner: stat.st_uid,
                });
            }
            way.follow(&found)?;
        } else if way.ahead.is_empty() {
            return Ok((way.here, name, Some(stat)));
        } else {
            way.here = found;
        }
    }
    // Nothing but a root or `.` was named.
    let stat = rustix::fs::fstat(&way.here)?;
    Ok((way.here, OsString::from("."), Some(stat)))
}

/// What was looked at is what is opened, or nothing.
fn open_last(parent: &OwnedFd, name: &OsStr, seen: &Stat) -> Result<Opened, TrustError> {
    let kind = FileType::from_raw_mode(seen.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Err(TrustError::NotAFile);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    Ok(Opened { file, stat })
}

struct Way {
    here: OwnedFd,
    ahead: VecDeque<OsString>,
    links_left: usize,
    components_left: usize,
}

impl Way {
    fn new(path: &Path) -> Result<Self, TrustError> {
        let mut way = Self {
            here: directory(if path.is_absolute() { "/" } else { "." })?,
            ahead: VecDeque::new(),
            links_left: LINKS_MAX,
            components_left: COMPONENTS_MAX,
        };
        if path.as_os_str().is_empty() {
            return Err(TrustError::Io(io::ErrorKind::NotFound.into()));
        }
        way.put_ahead(path)?;
        Ok(way)
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<(), TrustError> {
        self.links_left = self
            .links_left
            .checked_sub(1)
            .ok_or(TrustError::TooManyLinks)?;
        let target = rustix::fs::readlinkat(link, c"", Vec::new())?;
        let target = OsString::from_vec(target.into_bytes());
        let target = Path::new(&target);
        if target.is_absolute() {
            self.here = directory("/")?;
        }
        self.put_ahead(target)
    }

    fn put_ahead(&mut self, path: &Path) -> Result<(), TrustError> {
        let names: Vec<OsString> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            })
            .collect();
        self.components_left = self
            .components_left
            .checked_sub(names.len())
            .ok_or(TrustError::TooManyLinks)?;
        for name in names.into_iter().rev() {
            self.ahead.push_front(name);
        }
        Ok(())
    }
}

fn directory(path: &str) -> Result<OwnedFd, TrustError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::AtFlags;

    use super::*;

    fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
        Ok(open(path)?.read(16)?.to_vec())
    }

    #[test]
    fn own_links_are_followed_wherever_they_lead() {
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("d")).expect("a directory");
        fs::write(at("d/file"), "text").expect("a file");
        symlink("d", at("dir-link")).expect("a link");
        symlink("../d/file", at("d/up")).expect("a link");
        symlink(at("d/up"), at("absolute")).expect("a link");
        symlink("loop", at("loop")).expect("a link");
        for name in [
            "d/file",
            "dir-link/file",
            "dir-link/up",
            "absolute",
            "d/../d/./file",
        ] {
            assert_eq!(read(&at(name)).expect(name), b"text", "{name}");
        }
        assert!(matches!(read(&at("loop")), Err(TrustError::TooManyLinks)));
        assert!(matches!(read(&at("none")), Err(TrustError::Io(_))));
        assert!(matches!(read(&at("d")), Err(TrustError::NotAFile)));
        assert!(matches!(
            read(Path::new("/dev/null")),
            Err(TrustError::NotAFile)
        ));
        assert!(matches!(read(Path::new("")), Err(TrustError::Io(_))));
    }

    #[test]
    fn a_link_of_somebody_else_is_not_followed() {
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        fs::write(at("file"), "text").expect("a file");
        fs::create_dir(at("d")).expect("a directory");
        symlink("file", at("link")).expect("a link");
        symlink("..", at("d/up")).expect("a link");
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for link in ["link", "d/up"] {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let nobody = rustix::fs::Uid::from_raw(65_534);
            rustix::fs::chownat(CWD, at(link), Some(nobody), None, flags).expect("root may");
        }
        for way in ["link", "d/up/file"] {
            assert!(
                matches!(
                    read(&at(way)),
                    Err(TrustError::ForeignLink { owner: 65_534, .. })
                ),
                "{way}"
            );
        }
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("file");
        fs::write(&file, [b'x'; 16]).expect("a file");
        assert_eq!(read(&file).expect("just fits").len(), 16);
        fs::write(&file, [b'x'; 17]).expect("a file");
        assert!(matches!(
            read(&file),
            Err(TrustError::TooLarge { bytes_max: 16 })
        ));
    }
}
