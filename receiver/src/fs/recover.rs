//! What a crash left ([`sweep`], [`leftovers`]), and the deletion of whole trees ([`purge`]).
//!
//! Nothing here holds more than two descriptors, however deep a tree is: a directory below one that is
//! being emptied is moved up beside it first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use syncd_proto::digest::Digest;
use syncd_proto::message::Leftover;
use syncd_proto::meta::Kind;

use super::apply::discard_dir;
use super::area::Area;
use super::meta::{kind_of, statx_at};
use super::root::LISTABLE;

/// Removes what no transfer can use any more: everything staged without a key, and leftovers that are
/// old, too many or too large for the room that is left. To be called before the first session.
///
/// # Errors
/// The area cannot be read.
pub fn sweep(area: &Area) -> rustix::io::Result<()> {
    for name in names(area.stage())? {
        discard_dir(area, area.stage(), &name)?;
    }
    let now = SystemTime::now();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut kept = 0;
    let mut bytes: u64 = 0;
    let room = free_bytes(area.partial());
    for found in partials(area)? {
        let age = now.saturating_sub(found.mtime_secs.max(0).unsigned_abs());
        let total = bytes.saturating_add(found.bytes);
        if kept < LEFTOVERS_KEPT && total <= room && age <= LEFTOVER_AGE.as_secs() {
            kept += 1;
            bytes = total;
        } else {
            area.discard(area.partial(), &found.name)?;
        }
    }
    Ok(())
}

/// The interrupted transfers that can be continued, the newest first.
///
/// # Errors
/// The area cannot be read.
pub fn leftovers(area: &Area) -> rustix::io::Result<Vec<Leftover>> {
    let found = partials(area)?.into_iter().take(LEFTOVERS_KEPT);
    Ok(found
        .filter_map(|found| {
            Some(Leftover {
                key: found.key?,
                bytes: found.bytes,
            })
        })
        .collect())
}

/// Deletes trash as it comes, for as long as the process lives.
pub fn reap(area: &Arc<Area>) {
    loop {
        area.wait_for_trash();
        if let Err(error) = purge(area) {
            tracing::warn!(%error, "cannot delete what was removed; it stays in .syncd/trash");
        }
    }
}

/// Deletes everything in the trash. What cannot be deleted stays for the next time.
///
/// # Errors
/// The first thing that could not be deleted; everything else is gone.
pub fn purge(area: &Area) -> rustix::io::Result<()> {
    let mut failed: Vec<Vec<u8>> = Vec::new();
    let mut first = Ok(());
    loop {
        let mut queue = names(area.trash())?;
        queue.retain(|name| !failed.contains(name));
        if queue.is_empty() {
            return first;
        }
        for name in queue {
            if let Err(error) = remove_one(area, &name) {
                first = first.and(Err(error));
                failed.push(name);
            }
        }
    }
}

/// Deletes one entry of the trash; directories in it become entries of their own.
fn remove_one(area: &Area, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(area.trash(), name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    if rustix::fs::unlinkat(area.trash(), name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    let dir = open_ours(area.trash(), name)?;
    for below in names(&dir)? {
        match rustix::fs::unlinkat(&dir, below.as_slice(), AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => move_up(area, &dir, &below)?,
            Err(Errno::NOENT) => {}
            done => done?,
        }
    }
    rustix::fs::unlinkat(area.trash(), name, AtFlags::REMOVEDIR)
}

fn move_up(area: &Area, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    if rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    // Its own mode decides whether it may be moved.
    drop(open_ours(dir, name)?);
    rustix::fs::renameat(dir, name, area.trash(), area.fresh_name())
}

/// Opens a directory of the trash, with the right to empty it.
fn open_ours(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let open = || {
        let flags = LISTABLE | OFlags::NOFOLLOW;
        rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())
    };
    let opened = match open() {
        // The trash is private: nobody can have put a symlink here meanwhile.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir.as_fd(), name, Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    Ok(opened)
}

#[derive(Debug)]
struct Partial {
    name: Vec<u8>,
    key: Option<Digest>,
    bytes: u64,
    mtime_secs: i64,
}

/// Interrupted transfers, the newest first; anything else there comes last and has no key.
fn partials(area: &Area) -> rustix::io::Result<Vec<Partial>> {
    let mut found = Vec::new();
    for name in names(area.partial())? {
        let Some(stat) = statx_at(area.partial(), &name)? else {
            continue;
        };
        let is_file = kind_of(&stat) == Some(Kind::File);
        let key = if is_file { parse_key(&name) } else { None };
        found.push(Partial {
            key,
            bytes: if key.is_some() {
                stat.stx_size
            } else {
                u64::MAX
            },
            mtime_secs: stat.stx_mtime.tv_sec,
            name,
        });
    }
    found.sort_by_key(|partial| (partial.key.is_none(), std::cmp::Reverse(partial.mtime_secs)));
    Ok(found)
}

fn parse_key(name: &[u8]) -> Option<Digest> {
    let mut bytes = [0; 32];
    let text = std::str::from_utf8(name).ok()?;
    if !text.is_ascii() || text.len() != 2 * bytes.len() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(Digest::from_bytes(bytes))
}

fn free_bytes(dir: &OwnedFd) -> u64 {
    rustix::fs::fstatvfs(dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The names in an open directory.
///
/// # Errors
/// Those of `getdents`.
pub fn names(dir: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Most leftovers kept.
const LEFTOVERS_KEPT: usize = 64;

/// How long a leftover is kept.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rustix::thread::CapabilitySet;

    use super::super::root::{HANDLE, Root};
    use super::*;

    fn area(dir: &Path) -> Arc<Area> {
        let fd = rustix::fs::open(dir, HANDLE, Mode::empty()).unwrap();
        Arc::new(Area::open(&Root::new(fd, false).unwrap()).unwrap())
    }

    #[test]
    fn a_deep_tree_is_deleted_with_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let area = area(dir.path());
        let mut at = rustix::fs::openat(area.stage(), ".", HANDLE, Mode::empty()).unwrap();
        for _ in 0..1_500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::empty()).unwrap();
            at = rustix::fs::openat(&at, "d", HANDLE, Mode::empty()).unwrap();
        }
        sweep(&area).unwrap();
        assert!(names(area.stage()).unwrap().is_empty());
        purge(&area).unwrap();
        assert!(names(area.trash()).unwrap().is_empty());
    }

    /// What no program without a superuser's rights may do, this thread may not do from here on.
    fn without_superuser_rights() {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
    }

    #[test]
    fn a_directory_that_may_not_be_written_to_goes_with_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let area = area(dir.path());
        // As a crash leaves it that has got its mode, and not its name.
        let left = dir.path().join(".syncd/stage/left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("f"), "").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o555)).unwrap();
        without_superuser_rights();
        sweep(&area).unwrap();
        purge(&area).unwrap();
        assert!(names(area.trash()).unwrap().is_empty());
    }

    #[test]
    fn young_leftovers_stay_and_everything_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        let area = area(dir.path());
        let at = dir.path().join(".syncd/partial");
        let (young, old) = (Digest::of(b"young"), Digest::of(b"old"));
        fs::write(at.join(young.to_string()), "12345").unwrap();
        let file = fs::File::create(at.join(old.to_string())).unwrap();
        file.set_modified(UNIX_EPOCH + LEFTOVER_AGE).unwrap();
        fs::write(at.join("no key"), "1").unwrap();
        fs::create_dir(at.join(Digest::of(b"dir").to_string())).unwrap();
        sweep(&area).unwrap();
        let found = leftovers(&area).unwrap();
        let young = Leftover {
            key: young,
            bytes: 5,
        };
        assert_eq!(found, [young]);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 1);
    }
}
