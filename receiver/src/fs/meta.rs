//! Metadata: what a file is ([`entry_of`]), and setting it on descriptors ([`Keeper`]).
//!
//! Order matters and is kept here: owner (which clears setuid), then mode, then extended attributes,
//! times last.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, Statx, StatxFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use syncd_proto::digest::Digest;
use syncd_proto::limits::LINK_TARGET_BYTES_MAX;
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Mtime, Xattr};
use syncd_proto::op::IdKind;

use super::guard::Guard;
use super::ids::IdMap;
use crate::logic::chmod::Chmod;

/// What makes a file the one it was: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// What this process may do, found once at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Powers {
    /// It may give files away.
    pub chown: bool,
    /// It may set any mode bit on any file.
    pub any_mode: bool,
    /// It may make devices.
    pub mknod: bool,
}

impl Powers {
    /// What the two trees are compared by when this process keeps one of them.
    #[must_use]
    pub fn compare(self, maps_modes: bool) -> Compare {
        let mode_mask = match (maps_modes, self.any_mode) {
            (true, _) => 0,
            (false, true) => 0o7777,
            (false, false) => 0o777,
        };
        Compare {
            owner: self.chown,
            mode_mask,
            mtime: true,
            xattrs: false,
            specials: self.mknod,
            links: true,
        }
    }
}

/// Sets metadata as far as the process may, in one agent's terms.
#[derive(Debug)]
pub struct Keeper {
    /// What the process may do.
    pub powers: Powers,
    /// The agent's numbers.
    pub ids: IdMap,
    /// `incoming chmod`.
    pub chmod: Option<Chmod>,
    /// What it leaves out where it names nobody.
    pub umask: u32,
    /// Whether targets of symlinks are munged.
    pub munges: bool,
    /// What the module forbids.
    pub guard: Arc<Guard>,
}

impl Keeper {
    /// Sets everything on an open file or directory.
    ///
    /// # Errors
    /// Those of the system; some of it may be set then.
    pub fn set_fd(&self, fd: BorrowedFd<'_>, kind: Kind, meta: &Meta) -> rustix::io::Result<()> {
        if self.powers.chown {
            let (uid, gid) = self.owner(meta)?;
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(fd, self.mode(kind, meta))?;
        if let Some(xattrs) = &meta.xattrs {
            set_xattrs(fd, xattrs)?;
        }
        rustix::fs::futimens(fd, &times(meta.mtime))
    }

    /// Sets owner and times of a symlink, which has nothing else; never follows.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_link(&self, dir: impl AsFd, name: &[u8], meta: &Meta) -> rustix::io::Result<()> {
        self.set_owner(&dir, name, meta)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(dir, name, &times(meta.mtime), flags)
    }

    /// Sets everything on something that must not be opened, in a directory that is ours alone: the
    /// mode is set by name.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_private(
        &self,
        dir: impl AsFd,
        name: &[u8],
        kind: Kind,
        meta: &Meta,
    ) -> rustix::io::Result<()> {
        self.set_owner(&dir, name, meta)?;
        rustix::fs::chmodat(&dir, name, self.mode(kind, meta), AtFlags::empty())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(dir, name, &times(meta.mtime), flags)
    }

    fn set_owner(&self, dir: impl AsFd, name: &[u8], meta: &Meta) -> rustix::io::Result<()> {
        if !self.powers.chown {
            return Ok(());
        }
        let (uid, gid) = self.owner(meta)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags)
    }

    /// The mode a file of this kind gets.
    #[must_use]
    pub fn mode(&self, kind: Kind, meta: &Meta) -> Mode {
        let mode = u32::from(meta.mode);
        let mode = match &self.chmod {
            Some(rules) => rules.apply(mode, kind == Kind::Dir, self.umask),
            None => mode,
        };
        Mode::from_raw_mode(mode & 0o7777)
    }

    fn owner(&self, meta: &Meta) -> rustix::io::Result<(Uid, Gid)> {
        let uid = self.ids.local(IdKind::User, meta.uid);
        let gid = self.ids.local(IdKind::Group, meta.gid);
        // The highest number means "leave it" to the kernel.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }
}

fn set_xattrs(fd: BorrowedFd<'_>, wanted: &[Xattr]) -> rustix::io::Result<()> {
    for name in user_xattrs(fd)? {
        if !wanted.iter().any(|xattr| xattr.name == name) {
            rustix::fs::fremovexattr(fd, name.as_slice())?;
        }
    }
    wanted.iter().try_for_each(|xattr| {
        let flags = XattrFlags::empty();
        rustix::fs::fsetxattr(fd, xattr.name.as_slice(), &xattr.value, flags)
    })
}

/// Names of the attributes in the `user` namespace: the ones that are ours to remove.
fn user_xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; XATTR_LIST_BYTES_MAX];
    let length = match rustix::fs::flistxattr(fd, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    let names = list[..length].split(|&byte| byte == 0);
    Ok(names
        .filter(|name| name.starts_with(b"user."))
        .map(<[u8]>::to_vec)
        .collect())
}

/// Access time is left alone.
fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs(),
            tv_nsec: mtime.nanos().into(),
        },
    }
}

/// What an open file is.
///
/// # Errors
/// Those of the system.
pub fn statx_fd(fd: impl AsFd) -> rustix::io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_SYNC_AS_STAT;
    rustix::fs::statx(fd, c"", flags, WANTED)
}

/// What `name` in an open directory is, not following a symlink; `None` if nothing is there.
///
/// # Errors
/// Those of the system.
pub fn statx_at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_SYNC_AS_STAT;
    match rustix::fs::statx(dir, name, flags, WANTED) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Device and inode of what was examined.
#[must_use]
pub fn identity_of(stat: &Statx) -> Identity {
    Identity {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
    }
}

/// The entry of what was examined; `None` for a file type unknown to us.
#[must_use]
pub fn entry_of(stat: &Statx, content: Option<Digest>) -> Option<EntryMeta> {
    let kind = kind_of(stat)?;
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let rdev = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Some(EntryMeta {
        kind,
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: mtime_of(stat),
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        rdev: if is_device { rdev } else { (0, 0) },
        content,
        xattrs: None,
    })
}

/// Modification time of what was examined.
#[must_use]
pub fn mtime_of(stat: &Statx) -> Mtime {
    let time = stat.stx_mtime;
    Mtime::new(time.tv_sec, time.tv_nsec.min(999_999_999)).unwrap_or(EPOCH)
}

/// File type of what was examined.
#[must_use]
pub fn kind_of(stat: &Statx) -> Option<Kind> {
    use rustix::fs::FileType;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}

/// The target of the symlink `name`; `None` if it is gone or no symlink.
///
/// # Errors
/// Those of the system.
pub fn link_target(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let buffer = Vec::with_capacity(LINK_TARGET_BYTES_MAX / 16);
    match rustix::fs::readlinkat(dir, name, buffer) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

const EPOCH: Mtime = match Mtime::new(0, 0) {
    Some(epoch) => epoch,
    None => unreachable!(),
};

const WANTED: StatxFlags = StatxFlags::BASIC_STATS;

/// The kernel's limit of an attribute list, in bytes (`XATTR_LIST_MAX`).
const XATTR_LIST_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::relay::Rules;

    fn keeper(powers: Powers) -> Keeper {
        Keeper {
            powers,
            ids: IdMap::new(None),
            chmod: None,
            umask: 0,
            munges: false,
            guard: Arc::new(Guard::new(&Rules::default())),
        }
    }

    const NONE: Powers = Powers {
        chown: false,
        any_mode: false,
        mknod: false,
    };

    fn meta(mode: u16) -> Meta {
        Meta {
            mode,
            uid: 1,
            gid: 1,
            mtime: Mtime::new(-5, 999_999_999).unwrap(),
            xattrs: None,
        }
    }

    #[test]
    fn mode_and_time_are_set_to_the_nanosecond() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = fs::File::create(&path).unwrap();
        let set = keeper(NONE).set_fd(file.as_fd(), Kind::File, &meta(0o4751));
        set.unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o4751);
        assert_eq!((found.mtime(), found.mtime_nsec()), (-5, 999_999_999));
    }

    #[test]
    fn the_owner_that_means_nobody_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("f")).unwrap();
        let all = Powers {
            chown: true,
            ..NONE
        };
        let mut meta = meta(0o600);
        meta.uid = u32::MAX;
        let set = keeper(all).set_fd(file.as_fd(), Kind::File, &meta);
        assert_eq!(set, Err(Errno::INVAL));
    }

    #[test]
    fn what_cannot_be_kept_is_not_compared() {
        let compare = NONE.compare(false);
        assert!(!compare.owner && !compare.specials && compare.mtime);
        assert_eq!(compare.mode_mask, 0o777);
        assert_eq!(NONE.compare(true).mode_mask, 0);
    }
}
