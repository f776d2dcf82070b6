//! [`Nest`]: a new directory that gets its first files before it gets its name. One rename then installs all of them,
//! where each would cost a name of its own besides; and nobody sees the directory without them.
//!
//! A commit log says in which order names appear, so only what follows a `Mkdir` without a gap goes into its nest
//! ([`Nests`]). If there is a directory of that name by then, what is in the nest is installed one by one, as from the staging
//! directory.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use syncd_proto::op::{Content, Op};
use syncd_proto::path::WirePath;

use super::apply::{Prepared, discard_dir};
use super::area::Area;
use super::root::{LISTABLE, Root};

/// A directory in the staging directory that is to become one of the mirror.
#[derive(Debug)]
pub struct Nest {
    area: Arc<Area>,
    name: String,
    dir: OwnedFd,
    published: AtomicBool,
}

impl Nest {
    /// A new, empty one; none where it cannot be made, or there are too many.
    fn new(area: &Arc<Area>) -> Option<Arc<Self>> {
        if !area.nests().take() {
            return None;
        }
        let name = area.fresh_name();
        let made = rustix::fs::mkdirat(area.stage(), &name, Mode::RWXU);
        let opened = made.and_then(|()| {
            let flags = LISTABLE | OFlags::NOFOLLOW;
            let opened = rustix::fs::openat(area.stage(), &name, flags, Mode::empty());
            opened.inspect_err(|_| abandon(area, &name))
        });
        let Ok(dir) = opened else {
            area.nests().give();
            return None;
        };
        Some(Arc::new(Self {
            area: Arc::clone(area),
            name,
            dir,
            published: AtomicBool::new(false),
        }))
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Where its temporary name is, and that name.
    #[must_use]
    pub fn place(&self) -> (&OwnedFd, &[u8]) {
        (self.area.stage(), self.name.as_bytes())
    }

    /// Whether it was made in this area, and has not got its name.
    #[must_use]
    pub fn waits_in(&self, area: &Arc<Area>) -> bool {
        Arc::ptr_eq(&self.area, area) && !self.is_published()
    }

    /// Whether it has got its name, and all that is in it with it.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Relaxed)
    }

    /// It has got its name: from here on nothing in it is ours to remove.
    pub fn published(&self) {
        self.published.store(true, Ordering::Relaxed);
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        if !self.is_published() {
            abandon(&self.area, &self.name);
        }
        self.area.nests().give();
    }
}

/// Removes a nest with what may be in it. What cannot be removed goes when the area is opened again.
fn abandon(area: &Area, name: &str) {
    match rustix::fs::unlinkat(area.stage(), name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(_) => drop(discard_dir(area, area.stage(), name.as_bytes())),
    }
}

/// Which operations of a group share a nest.
#[derive(Debug)]
pub struct Nests<'a> {
    root: &'a Root,
    area: &'a Arc<Area>,
    /// The directory that the last operation made, or put something into.
    open: Option<(&'a WirePath, Arc<Nest>)>,
}

impl<'a> Nests<'a> {
    /// Those of a group for this root.
    #[must_use]
    pub fn new(root: &'a Root, area: &'a Arc<Area>) -> Self {
        Self {
            root,
            area,
            open: None,
        }
    }

    /// The nest that `op` makes or fills; to be asked for each operation in order, with the one after it. A directory gets
    /// one if its name is free as it seems, and a small file comes into it next.
    pub fn of(&mut self, op: &'a Op, next: Option<&Op>) -> Option<Arc<Nest>> {
        match (op, &self.open) {
            (Op::Mkdir { path, .. }, _) => {
                let is_wanted = next.is_some_and(|next| puts_into(next, path))
                    && matches!(self.root.look_up(path), Err(Errno::NOENT));
                let nest = is_wanted.then(|| Nest::new(self.area)).flatten();
                self.open = nest.map(|nest| (path, nest));
            }
            (_, Some((path, _))) if puts_into(op, path) => {}
            _ => self.open = None,
        }
        self.open.as_ref().map(|(_, nest)| Arc::clone(nest))
    }

    /// Notes what was made. If that is a file which belongs into the nest and is elsewhere, what comes after it must not
    /// appear before it: the nest gets no more.
    pub fn note(&mut self, made: &Prepared) {
        if matches!(made, Prepared::Entry(temp, _) if !temp.is_in_nest()) {
            self.open = None;
        }
    }
}

/// Whether this makes a file in that directory whose content comes with its commit.
fn puts_into(op: &Op, dir: &WirePath) -> bool {
    let Op::Put {
        path,
        content: Content::Inline { .. },
        ..
    } = op
    else {
        return false;
    };
    path.names().len() == dir.names().len() + 1 && path.starts_with(dir)
}
