//! Both trees looked at once, each on a processor of its own: getdents64 and statx of every entry, and for the source an
//! inotify watch of every directory. With `HAX` the names of every entry's attributes are listed too, as whoever compares
//! ACLs and extended attributes has to.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::CloneFlags;
use rustix::ffi::CStr;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, StatxFlags};

const LISTING_BYTES: usize = 32 * 1024;
const ATTRIBUTES_BYTES: usize = 64 * 1024;
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ONLYDIR);

/// Looks at everything there is. The watches are gone with this process.
pub(super) fn both(source: &Path, mirror: &Path, attributes: bool) -> io::Result<()> {
    let watches = inotify::init(CreateFlags::CLOEXEC)?;
    let (ours, theirs) = thread::scope(|scope| {
        let other = scope.spawn(|| scan(mirror, None, attributes));
        let one = scope.spawn(|| scan(source, Some(&watches), attributes));
        let panicked = |_| Err(io::Error::other("a thread panicked"));
        let ours = one.join().unwrap_or_else(panicked);
        (ours, other.join().unwrap_or_else(panicked))
    });
    match (ours?, theirs?) {
        (ours, theirs) if ours == theirs => Ok(()),
        (ours, theirs) => Err(io::Error::other(format!(
            "{ours} entries here, {theirs} there"
        ))),
    }
}

/// How many entries there are. With `attributes` the thread gets a working directory of its own: names are looked up from
/// there, which is the shortest way.
fn scan(root: &Path, watches: Option<&OwnedFd>, attributes: bool) -> io::Result<u64> {
    if attributes {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
    }
    let mut names = vec![0; ATTRIBUTES_BYTES];
    let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    let mut count = 0;
    while let Some(path) = pending.pop() {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty())?;
        if let Some(watches) = watches {
            inotify::add_watch(watches, &path, MASK)?;
        }
        if attributes {
            rustix::process::fchdir(&dir)?;
        }
        let mut listing = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if [&b"."[..], b".."].contains(&name.to_bytes()) {
                continue;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::statx(&dir, name, flags, StatxFlags::BASIC_STATS)?;
            if attributes {
                rustix::fs::llistxattr(name, &mut names)?;
            }
            count += 1;
            if entry.file_type() == FileType::Directory {
                let name = String::from_utf8_lossy(name.to_bytes());
                pending.push(path.join(name.as_ref()));
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_trees_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (source, mirror) = (dir.path().join("a"), dir.path().join("b"));
        for root in [&source, &mirror] {
            std::fs::create_dir_all(root.join("d/e")).unwrap();
            std::fs::write(root.join("d/f"), "").unwrap();
        }
        assert_eq!(scan(&source, None, false).unwrap(), 3);
        for attributes in [false, true] {
            both(&source, &mirror, attributes).unwrap();
        }
        std::fs::write(mirror.join("more"), "").unwrap();
        for attributes in [false, true] {
            let text = both(&source, &mirror, attributes).unwrap_err().to_string();
            assert_eq!(text, "3 entries here, 4 there");
        }
    }
}
