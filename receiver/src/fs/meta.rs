//! Metadata: what a file is ([`entry_of`]), and setting it on descriptors ([`Keeper`]).
//!
//! Order matters and is kept here: owner (which clears setuid and capabilities), then extended attributes
//! (an ACL changes the mode), then mode, times last.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, Statx, StatxFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use syncd_proto::attributes::Attributes;
use syncd_proto::digest::Digest;
use syncd_proto::limits::LINK_TARGET_BYTES_MAX;
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Mtime, Times};

use super::attributes::{self, Lacking, Outcome, Place};
use super::fake;
use super::guard::Guard;
use crate::logic::chmod::Chmod;
use crate::logic::fake_super::Said;

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
    /// It may make devices, and is to.
    pub mknod: bool,
    /// It may set `trusted` attributes.
    pub trusted: bool,
    /// It may give programs capabilities.
    pub capabilities: bool,
}

impl Powers {
    /// What the two trees are compared by when this process keeps one of them, and the agent wants these
    /// attributes. Where modes are mapped, ACLs could not be what they are there.
    #[must_use]
    pub fn compare(self, maps_modes: bool, wanted: Attributes, times: Times) -> Compare {
        let mode_mask = match (maps_modes, self.any_mode) {
            (true, _) => 0,
            (false, true) => 0o7777,
            (false, false) => 0o777,
        };
        Compare {
            owner: self.chown,
            mode_mask,
            mtime: times,
            xattrs: wanted.and(Attributes {
                user: true,
                trusted: self.trusted,
                acls: !maps_modes,
                capabilities: self.capabilities,
            }),
            specials: true,
            devices: self.mknod,
            links: true,
        }
    }
}

/// What the two trees are compared by where owners and types are only said.
#[must_use]
pub fn compare_faked(maps_modes: bool, wanted: Attributes, times: Times) -> Compare {
    Compare {
        owner: true,
        mode_mask: if maps_modes { 0 } else { 0o7777 },
        mtime: times,
        xattrs: wanted.and(Attributes {
            user: true,
            ..Attributes::NONE
        }),
        specials: true,
        devices: true,
        links: true,
    }
}

/// Sets metadata as far as the process may, in one agent's terms.
#[derive(Debug)]
pub struct Keeper {
    /// What the process may do.
    pub powers: Powers,
    /// Extended attributes that were agreed.
    pub attributes: Attributes,
    /// `incoming chmod`.
    pub chmod: Option<Chmod>,
    /// What it leaves out where it names nobody.
    pub umask: u32,
    /// Whether targets of symlinks are munged.
    pub munges: bool,
    /// What is held of times.
    pub times: Times,
    /// What the module forbids.
    pub guard: Arc<Guard>,
}

impl Keeper {
    /// Sets everything on an open file or directory; tells an attribute that could not be set.
    ///
    /// # Errors
    /// Those of the system; some of it may be set then.
    pub fn set_fd(
        &self,
        fd: BorrowedFd<'_>,
        kind: Kind,
        meta: &Meta,
    ) -> rustix::io::Result<Option<Lacking>> {
        if self.guard.fakes() {
            return self.set_fake(fd, kind, (0, 0), meta);
        }
        let mut now = rustix::fs::fstat(fd)?;
        let mut touched = false;
        if self.powers.chown {
            let (uid, gid) = owner(meta)?;
            // Even to the same owner it would take setuid and capabilities away for a moment.
            if (now.st_uid, now.st_gid) != (uid.as_raw(), gid.as_raw()) {
                rustix::fs::fchown(fd, Some(uid), Some(gid))?;
                touched = true;
            }
        }
        let outcome = self.set_attributes_fd(fd, meta)?;
        // As it is after all that: an owner takes bits of it away, an ACL is part of it.
        if touched || outcome.touched {
            now = rustix::fs::fstat(fd)?;
        }
        let mode = self.mode(kind, meta);
        if now.st_mode & 0o7777 != mode.as_raw_mode() {
            rustix::fs::fchmod(fd, mode)?;
        }
        rustix::fs::futimens(fd, &times(meta.mtime))?;
        let lacking = outcome.lacking;
        Ok(lacking.or(lacking_time(fd, b"", meta.mtime)?))
    }

    /// Says what an open file would be, and sets the rest.
    ///
    /// # Errors
    /// As [`Self::set_fd`].
    pub fn set_fake(
        &self,
        fd: BorrowedFd<'_>,
        kind: Kind,
        rdev: (u32, u32),
        meta: &Meta,
    ) -> rustix::io::Result<Option<Lacking>> {
        let mode = self.mode(kind, meta).as_raw_mode();
        let said = Said {
            kind,
            mode: u16::try_from(mode).unwrap_or(0),
            rdev,
            uid: meta.uid,
            gid: meta.gid,
        };
        fake::write(fd, &said)?;
        let lacking = self.set_attributes_fd(fd, meta)?.lacking;
        rustix::fs::futimens(fd, &times(meta.mtime))?;
        Ok(lacking.or(lacking_time(fd, b"", meta.mtime)?))
    }

    fn set_attributes_fd(&self, fd: BorrowedFd<'_>, meta: &Meta) -> rustix::io::Result<Outcome> {
        let Some(wanted) = &meta.xattrs else {
            return Ok(Outcome::default());
        };
        let place = Place::Opened(fd);
        let outcome = attributes::set(&place, wanted, self.attributes)?;
        if outcome.lacking.is_none() || self.powers.any_mode {
            return Ok(outcome);
        }
        // Without the right to write to a file of ours nothing in `user` can be set.
        let mode = Mode::from_raw_mode(rustix::fs::fstat(fd)?.st_mode & 0o7777);
        if mode.contains(Mode::WUSR) || rustix::fs::fchmod(fd, mode | Mode::WUSR).is_err() {
            return Ok(outcome);
        }
        let again = attributes::set(&place, wanted, self.attributes)?;
        // The mode was, if nothing else.
        Ok(Outcome {
            touched: true,
            ..again
        })
    }

    fn set_attributes_named(
        &self,
        dir: impl AsFd,
        name: &[u8],
        meta: &Meta,
    ) -> rustix::io::Result<Option<Lacking>> {
        let Some(xattrs) = &meta.xattrs else {
            return Ok(None);
        };
        let place = Place::named(dir, name)?;
        Ok(attributes::set(&place, xattrs, self.attributes)?.lacking)
    }

    /// Sets owner, attributes and times of a symlink, which has nothing else, in a directory that is ours alone;
    /// never follows.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_link(
        &self,
        dir: impl AsFd,
        name: &[u8],
        meta: &Meta,
    ) -> rustix::io::Result<Option<Lacking>> {
        self.set_owner(&dir, name, meta)?;
        let lacking = self.set_attributes_named(&dir, name, meta)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&dir, name, &times(meta.mtime), flags)?;
        Ok(lacking.or(lacking_time(dir, name, meta.mtime)?))
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
    ) -> rustix::io::Result<Option<Lacking>> {
        self.set_owner(&dir, name, meta)?;
        let lacking = self.set_attributes_named(&dir, name, meta)?;
        rustix::fs::chmodat(&dir, name, self.mode(kind, meta), AtFlags::empty())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&dir, name, &times(meta.mtime), flags)?;
        Ok(lacking.or(lacking_time(dir, name, meta.mtime)?))
    }

    fn set_owner(&self, dir: impl AsFd, name: &[u8], meta: &Meta) -> rustix::io::Result<()> {
        if !self.powers.chown {
            return Ok(());
        }
        let (uid, gid) = owner(meta)?;
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
}

/// Whether a time that was set became another one: the system puts what a file system cannot hold within its bounds,
/// and says nothing. Within 1980 to 2037 all hold it, if only to two seconds.
fn lacking_time(dir: impl AsFd, name: &[u8], mtime: Mtime) -> rustix::io::Result<Option<Lacking>> {
    const HELD_BY_ALL: std::ops::Range<i64> = 315_532_800..2_145_916_800;
    if HELD_BY_ALL.contains(&mtime.secs()) {
        return Ok(None);
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let held = rustix::fs::statx(dir, name, flags, StatxFlags::MTIME)?
        .stx_mtime
        .tv_sec;
    Ok((held.abs_diff(mtime.secs()) > 2).then(Lacking::of_time))
}

fn owner(meta: &Meta) -> rustix::io::Result<(Uid, Gid)> {
    // The highest number means "leave it" to the kernel.
    if meta.uid == u32::MAX || meta.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    Ok((Uid::from_raw(meta.uid), Gid::from_raw(meta.gid)))
}

/// Access time is left alone.
pub(super) fn times(mtime: Mtime) -> Timestamps {
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

/// A file system as it is mounted at one place: names move within one only.
pub type Mount = (u32, u32, u64);

/// Which mount an open directory is on; where the kernel does not tell, which device.
///
/// # Errors
/// Those of `statx`.
pub fn mount_of(dir: impl AsFd) -> rustix::io::Result<Mount> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, wanted)?;
    let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let mount = if told { stat.stx_mnt_id } else { 0 };
    Ok((stat.stx_dev_major, stat.stx_dev_minor, mount))
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
    Mtime::said(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// File type of what was examined.
#[must_use]
pub fn kind_of(stat: &Statx) -> Option<Kind> {
    Kind::of_mode(stat.stx_mode.into())
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

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::relay::Rules;

    fn keeper(powers: Powers) -> Keeper {
        Keeper {
            powers,
            attributes: Attributes::NONE,
            chmod: None,
            umask: 0,
            munges: false,
            times: Times::Nanos,
            guard: Arc::new(Guard::new(&Rules::default())),
        }
    }

    const NONE: Powers = Powers {
        chown: false,
        any_mode: false,
        mknod: false,
        trusted: false,
        capabilities: false,
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
        let compare = NONE.compare(false, Attributes::ALL, Times::Nanos);
        assert!(!compare.owner && !compare.devices && compare.specials);
        assert_eq!(compare.mode_mask, 0o777);
        let user_and_acls = Attributes {
            trusted: false,
            capabilities: false,
            ..Attributes::ALL
        };
        assert_eq!(compare.xattrs, user_and_acls);
        let mapped = NONE.compare(true, Attributes::ALL, Times::Seconds);
        assert_eq!((mapped.mode_mask, mapped.mtime), (0, Times::Seconds));
        assert!(mapped.xattrs.user && !mapped.xattrs.acls);
        assert!(
            !NONE
                .compare(false, Attributes::NONE, Times::Nanos)
                .xattrs
                .any()
        );
    }
}
