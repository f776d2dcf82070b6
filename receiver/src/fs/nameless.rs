//! [`Nameless`]: small files are written without a name (`O_TMPFILE`) and get their only one when they are
//! installed, by a link. That saves the kernel a name that is made only to be renamed, and leaves nothing behind
//! when the process is killed.
//!
//! Each is held open until then, so there are never more than a share of what the process may open. Not every file
//! system has such files, kernels before 6.10 link them only for who has `CAP_DAC_READ_SEARCH`, and a sandbox may
//! forbid it: it is tried once. Where it fails, above the share, and where the name is likely taken, files have
//! names in the staging directory as before.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use syncd_proto::path::WirePath;

use super::root::Root;

/// Whether files can be made without a name, and how many are.
#[derive(Debug)]
pub struct Nameless {
    works: AtomicBool,
    room: Room,
}

/// How many of something that needs a descriptor there are, and may be.
#[derive(Debug)]
pub struct Room {
    open: AtomicUsize,
    most: usize,
}

impl Room {
    /// A share of what the process may open, so many at most.
    fn share(share: u64, most: u64) -> Self {
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        let most = limit.map_or(most, |limit| (limit / share).min(most));
        let most = usize::try_from(most).unwrap_or(0);
        let open = AtomicUsize::new(0);
        Self { open, most }
    }

    /// That for directories that get their first files before their names.
    #[must_use]
    pub fn for_nests() -> Self {
        Self::share(NESTS_SHARE, NESTS_MOST)
    }

    /// A place for one more, if there is one.
    #[must_use]
    pub fn take(&self) -> bool {
        let more = |open: usize| (open < self.most).then_some(open + 1);
        let (order, seen) = (Ordering::Relaxed, Ordering::Relaxed);
        self.open.fetch_update(order, seen, more).is_ok()
    }

    /// One is closed.
    pub fn give(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Nameless {
    /// None are made.
    #[must_use]
    pub fn none() -> Self {
        Self::up_to(0)
    }

    /// So many at most, as far as they can be made at all.
    fn up_to(most: usize) -> Self {
        Self {
            works: AtomicBool::new(most > 0),
            room: Room {
                open: AtomicUsize::new(0),
                most,
            },
        }
    }

    /// Tries it: makes a file without a name in `stage` and gives it `name` in `other`, another directory below the
    /// module, for a moment.
    #[must_use]
    pub fn tried(stage: &OwnedFd, other: &OwnedFd, name: &str) -> Self {
        let linked = create(stage, Mode::RUSR | Mode::WUSR)
            .and_then(|file| link(&file, other, name.as_bytes()))
            .and_then(|()| rustix::fs::unlinkat(other, name, AtFlags::empty()));
        match linked {
            Ok(()) => Self::up_to(most()),
            Err(_) => Self::none(),
        }
    }

    /// Whether any are made.
    #[must_use]
    pub fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// A place for one more, if there is one.
    #[must_use]
    pub fn take(&self) -> bool {
        self.works() && self.room.take()
    }

    /// One is closed.
    pub fn give(&self) {
        self.room.give();
    }

    /// One could not be linked: from now on files have names, unless there was only no room for this one.
    pub fn failed(&self, errno: Errno) {
        if !matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS) {
            self.works.store(false, Ordering::Relaxed);
        }
    }
}

/// A new file without a name.
///
/// # Errors
/// Those of `open`; there are none on this file system.
pub fn create(dir: &OwnedFd, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, mode)
}

/// Gives it its name.
///
/// # Errors
/// Those of `link`.
pub fn link(file: &OwnedFd, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::linkat(file, "", dir, name, AtFlags::EMPTY_PATH)
}

/// Most files without a name at once: a share of what the process may open, and as many as two groups of commits
/// have.
fn most() -> usize {
    Room::share(SHARE, MOST).most
}

/// Has the kernel make its table of descriptors large enough. With several threads it waits for all processors each
/// time the table grows.
pub fn make_room(any: impl AsFd) {
    if let Ok(number) = i32::try_from(most() + BESIDE) {
        let _ = rustix::io::fcntl_dupfd_cloexec(any, number);
    }
}

/// The part of the descriptors that may be files without a name.
const SHARE: u64 = 4;

/// Most of them, whatever the limit is.
const MOST: u64 = 3_840;

/// Descriptors of other things that fit into the same table.
const BESIDE: usize = 255;

/// The part of the descriptors that may be nests, and most of them.
const NESTS_SHARE: u64 = 32;
const NESTS_MOST: u64 = 128;

/// Whether names are likely taken: looked up for the first of each directory, and now and then. Who is wrong loses
/// a system call.
#[derive(Debug, Default)]
pub struct Guess(RefCell<Option<Seen>>);

#[derive(Debug)]
struct Seen {
    dir: Option<WirePath>,
    taken: bool,
    left: u8,
}

impl Guess {
    /// Whether something has this name, probably.
    #[must_use]
    pub fn is_taken(&self, root: &Root, path: &WirePath) -> bool {
        let dir = path.parent();
        let mut last = self.0.borrow_mut();
        if let Some(seen) = &mut *last
            && seen.left > 0
            && seen.dir == dir
        {
            seen.left -= 1;
            return seen.taken;
        }
        let taken = !matches!(root.look_up(path), Err(Errno::NOENT));
        let left = LOOK_UP_EVERY - 1;
        *last = Some(Seen { dir, taken, left });
        taken
    }
}

/// One of so many names of a directory is looked up.
const LOOK_UP_EVERY: u8 = 16;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::root::{HANDLE, LISTABLE};
    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, LISTABLE, Mode::empty()).unwrap()
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let few = Nameless::up_to(2);
        assert!(few.take() && few.take() && !few.take());
        few.give();
        assert!(few.take() && !few.take());
        few.give();
        few.failed(Errno::NOSPC);
        assert!(few.works(), "a full disk says nothing");
        few.failed(Errno::PERM);
        assert!(!few.take());
        assert!(!Nameless::none().take());
    }

    #[test]
    fn trying_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = ["stage", "trash"].map(|name| dir.path().join(name));
        at.iter().for_each(|at| fs::create_dir(at).unwrap());
        let [stage, trash] = at.each_ref().map(|at| open(at));
        let works = Nameless::tried(&stage, &trash, "probe").works();
        assert_eq!(works, link_works(&stage, &trash));
        assert!(at.iter().all(|at| fs::read_dir(at).unwrap().count() == 0));
        // The name is taken: as good as forbidden.
        fs::write(at[1].join("probe"), "").unwrap();
        assert!(!Nameless::tried(&stage, &trash, "probe").works());
    }

    fn link_works(from: &OwnedFd, to: &OwnedFd) -> bool {
        let made = create(from, Mode::RUSR).and_then(|file| link(&file, to, b"x"));
        let _ = rustix::fs::unlinkat(to, "x", AtFlags::empty());
        made.is_ok()
    }

    #[test]
    fn a_file_system_without_such_files_has_none() {
        let proc = open(std::path::Path::new("/proc/self"));
        assert!(!Nameless::tried(&proc, &proc, "probe").works());
    }

    #[test]
    fn one_of_several_names_is_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        fs::write(dir.path().join("d/there"), "").unwrap();
        let fd = rustix::fs::open(dir.path(), HANDLE, Mode::empty()).unwrap();
        let root = Root::new(fd, false).unwrap();
        let guess = Guess::default();
        let is_taken = |path: &str| {
            let path = WirePath::from_relative(path.as_ref()).unwrap();
            guess.is_taken(&root, &path)
        };
        assert!(is_taken("d/there") && is_taken("d/new"), "guessed");
        assert!(!is_taken("new"), "another directory");
        assert!(!is_taken("d/new"), "and this one again");
        assert!(!is_taken("none/new"));
        assert!(is_taken("d/e") && is_taken("d/new"));
        let rest = (2..LOOK_UP_EVERY).filter(|_| is_taken("d/new"));
        assert_eq!(rest.count(), usize::from(LOOK_UP_EVERY) - 2);
        assert!(!is_taken("d/new"), "looked up now");
    }
}
