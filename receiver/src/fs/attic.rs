//! [`Attic`]: the directory that `trash` names. Versions that were replaced or removed are kept there for a
//! while, each under the path that it had.
//!
//! A file that is about to be replaced gets a second name here first; what is removed is moved here. So at every
//! moment a version has its old name, its name here, or both. Directories on the way are made here and never
//! shared with what was moved: a version only ever comes to a free name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use syncd_proto::path::WirePath;

use super::apply::grant;
use super::area::Area;
use super::meta::{mount_of, statx_at, statx_fd};
use super::recover::names;
use super::root::LISTABLE;
use crate::logic::trash::{DAY_S, day_name, is_old, parse_day, parse_slot, slot_name};

/// Where versions are kept, open.
#[derive(Debug)]
pub struct Attic {
    dir: OwnedFd,
    keep_s: u64,
    slot: Mutex<Option<Slot>>,
}

/// The directory of one second, and those made in it so far.
#[derive(Debug)]
struct Slot {
    second: u64,
    again: u32,
    top: Arc<OwnedFd>,
    made: HashMap<WirePath, Arc<OwnedFd>>,
}

/// A name for a version.
type Found<'p> = (Arc<OwnedFd>, &'p [u8]);

impl Attic {
    /// The attic in an open directory.
    #[must_use]
    pub fn new(dir: OwnedFd, keep_s: u64) -> Self {
        Self {
            dir,
            keep_s,
            slot: Mutex::default(),
        }
    }

    /// How long versions stay, in seconds.
    #[must_use]
    pub fn keep_s(&self) -> u64 {
        self.keep_s
    }

    /// Whether names can be moved between these two directories: one file system, mounted once.
    ///
    /// # Errors
    /// One of them cannot be examined.
    pub fn is_beside(dir: impl AsFd, module: impl AsFd) -> rustix::io::Result<bool> {
        let (here, there) = (mount_of(dir)?, mount_of(module)?);
        Ok(here == there)
    }

    /// Throws away what has been kept long enough; `true` if there was something.
    ///
    /// # Errors
    /// Something could not be moved to where it is deleted; it stays for the next time.
    pub fn expire(&self, area: &Area) -> rustix::io::Result<bool> {
        let now = now_s();
        let mut some = false;
        for name in names(reopened(&self.dir)?)? {
            let Some(day) = parse_day(&name) else {
                continue;
            };
            if is_old(day + DAY_S, now, self.keep_s) {
                area.discard(&self.dir, &name)?;
                some = true;
            } else if is_old(day, now, self.keep_s) {
                some |= self.expire_day(area, &name, day, now)?;
            }
        }
        Ok(some)
    }

    /// Whether [`Self::expire`] would find something.
    ///
    /// # Errors
    /// The attic cannot be read.
    pub fn has_old(&self) -> rustix::io::Result<bool> {
        let now = now_s();
        let days = names(reopened(&self.dir)?)?;
        let mut days = days.iter().filter_map(|name| parse_day(name));
        Ok(days.any(|day| is_old(day, now, self.keep_s)))
    }

    fn expire_day(&self, area: &Area, name: &[u8], day: u64, now: u64) -> rustix::io::Result<bool> {
        let opened =
            rustix::fs::openat(&self.dir, name, LISTABLE | OFlags::NOFOLLOW, Mode::empty())?;
        let mut some = false;
        for slot in names(&opened)? {
            let at = parse_slot(&slot).map(|second| day + second);
            if at.is_some_and(|at| is_old(at, now, self.keep_s)) {
                area.discard(&opened, &slot)?;
                some = true;
            }
        }
        Ok(some)
    }

    /// Finds a free name for a version of `path` and lets `put` give it that name.
    fn put<'p>(
        &self,
        path: &'p WirePath,
        changed: &mut Vec<Arc<OwnedFd>>,
        put: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<Found<'p>> {
        let name = path.file_name().ok_or(Errno::INVAL)?.as_bytes();
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = 0;
        for _ in 0..TRIES_MAX {
            let dir = self.place(&mut slot, path, changed);
            let done = dir.and_then(|dir| put(&dir, name).map(|()| dir));
            match done {
                Ok(dir) => {
                    changed.push(Arc::clone(&dir));
                    return Ok((dir, name));
                }
                // Something of that path came here within this second, or stands in its way.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {
                    self.next(&mut slot, changed)?;
                }
                // The version has gone, or somebody cleared up here.
                Err(Errno::NOENT) if missing == 0 => {
                    missing += 1;
                    *slot = None;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY)
    }

    /// The directory for a version of `path`, made as far as it is missing.
    fn place(
        &self,
        slot: &mut Option<Slot>,
        path: &WirePath,
        changed: &mut Vec<Arc<OwnedFd>>,
    ) -> rustix::io::Result<Arc<OwnedFd>> {
        let second = now_s();
        if slot
            .as_ref()
            .is_none_or(|slot| slot.second != second || slot.made.len() >= MADE_MAX)
        {
            self.next(slot, changed)?;
        }
        let Some(slot) = slot else {
            return Err(Errno::BUSY);
        };
        let mut here = Arc::clone(&slot.top);
        let mut at = WirePath::root();
        let parents = path
            .names()
            .split_last()
            .map_or(&[][..], |(_, above)| above);
        for name in parents {
            at = at.join(name).ok_or(Errno::NAMETOOLONG)?;
            here = match slot.made.get(&at) {
                Some(known) => Arc::clone(known),
                None => {
                    let made = Arc::new(make(&here, name.as_bytes())?);
                    changed.push(here);
                    slot.made.insert(at.clone(), Arc::clone(&made));
                    made
                }
            };
        }
        Ok(here)
    }

    /// Makes a new directory for this second.
    fn next(
        &self,
        slot: &mut Option<Slot>,
        changed: &mut Vec<Arc<OwnedFd>>,
    ) -> rustix::io::Result<()> {
        let second = now_s();
        let before = slot.as_ref().filter(|slot| slot.second == second);
        let mut again = before.map_or(0, |slot| slot.again + 1);
        let day = day_name(second);
        match rustix::fs::mkdirat(&self.dir, &day, Mode::RWXU) {
            Ok(()) => changed.push(Arc::new(reopened(&self.dir)?)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = LISTABLE | OFlags::NOFOLLOW;
        let day = Arc::new(rustix::fs::openat(&self.dir, &day, flags, Mode::empty())?);
        for _ in 0..TRIES_MAX {
            match make(&day, slot_name(second, again).as_bytes()) {
                Err(Errno::EXIST) => again += 1,
                Err(error) => return Err(error),
                Ok(top) => {
                    changed.push(day);
                    *slot = Some(Slot {
                        second,
                        again,
                        top: Arc::new(top),
                        made: HashMap::new(),
                    });
                    return Ok(());
                }
            }
        }
        Err(Errno::BUSY)
    }
}

/// What one operation keeps.
#[derive(Debug)]
pub struct Keep<'a> {
    attic: &'a Attic,
    base: &'a WirePath,
    changed: RefCell<Vec<Arc<OwnedFd>>>,
    failed: Cell<bool>,
}

impl<'a> Keep<'a> {
    /// For an operation on paths below `base` in the module; `None` if nothing is kept.
    #[must_use]
    pub fn of(area: &'a Area, base: &'a WirePath) -> Option<Self> {
        Some(Self {
            attic: area.attic()?,
            base,
            changed: RefCell::default(),
            failed: Cell::new(false),
        })
    }

    /// Whether an error came from keeping something.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Directories of the attic with new names: to be made durable.
    #[must_use]
    pub fn changed(self) -> Vec<Arc<OwnedFd>> {
        self.changed.into_inner()
    }

    /// Gives a file a second name here. [`Kept::undo`] takes it away again.
    ///
    /// # Errors
    /// Those of `link`.
    pub fn link(
        &self,
        path: &WirePath,
        (dir, name): (&OwnedFd, &[u8]),
    ) -> rustix::io::Result<Kept> {
        self.noted(path, |to_dir, to| {
            rustix::fs::linkat(dir, name, to_dir, to, AtFlags::empty())
        })
    }

    /// Moves something here, whatever it is.
    ///
    /// # Errors
    /// Those of `rename`.
    pub fn take(
        &self,
        path: &WirePath,
        (dir, name): (&OwnedFd, &[u8]),
    ) -> rustix::io::Result<Kept> {
        self.noted(path, |to_dir, to| {
            match rename_free((dir, name), (to_dir, to)) {
                Err(Errno::ACCESS) => move_forbidding((dir, name), (to_dir, to)),
                done => done,
            }
        })
    }

    fn noted(
        &self,
        path: &WirePath,
        put: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<Kept> {
        let whole = self.base.join_path(path).ok_or(Errno::NAMETOOLONG)?;
        let mut changed = self.changed.borrow_mut();
        let found = self.attic.put(&whole, &mut changed, put);
        self.failed
            .set(found.as_ref().is_err_and(|error| *error != Errno::NOENT));
        let (dir, name) = found?;
        let name = name.to_vec();
        Ok(Kept { dir, name })
    }
}

/// A version in the attic.
#[derive(Debug)]
pub struct Kept {
    /// Its directory.
    pub dir: Arc<OwnedFd>,
    /// Its name there.
    pub name: Vec<u8>,
}

impl Kept {
    /// Takes the second name of a file away again: it was not replaced after all.
    pub fn undo(self) {
        let _ = rustix::fs::unlinkat(&*self.dir, &self.name[..], AtFlags::empty());
    }
}

/// Renames to a name that is free.
fn rename_free(
    (dir, name): (&OwnedFd, &[u8]),
    (to_dir, to): (&OwnedFd, &[u8]),
) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(dir, name, to_dir, to, RenameFlags::NOREPLACE) {
        // A file system that does not know this. The directory is ours alone.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match statx_at(to_dir, to)? {
            None => rustix::fs::renameat(dir, name, to_dir, to),
            Some(_) => Err(Errno::EXIST),
        },
        done => done,
    }
}

/// Moves a directory of ours whose own mode forbids that; the mode stays as it was.
fn move_forbidding(
    (dir, name): (&OwnedFd, &[u8]),
    to: (&OwnedFd, &[u8]),
) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|_| Errno::ACCESS)?;
    let mode = Mode::from_raw_mode(u32::from(statx_fd(&handle)?.stx_mode & 0o7777));
    if mode.contains(Mode::WUSR | Mode::XUSR) {
        return Err(Errno::ACCESS);
    }
    grant(&handle, mode | Mode::RWXU)?;
    let moved = rename_free((dir, name), to);
    grant(&handle, mode)?;
    moved
}

fn make(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    rustix::fs::openat(dir, name, LISTABLE | OFlags::NOFOLLOW, Mode::empty())
}

fn reopened(dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, ".", LISTABLE, Mode::empty())
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// How often a name that is not free is tried again.
const TRIES_MAX: usize = 10_000;

/// Most directories of one second held open.
const MADE_MAX: usize = 256;
