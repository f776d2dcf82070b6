//! [`Tracker`]: turns the events of inotify into ours and keeps the [`Tree`] right while directories
//! move. It makes no system call: which watches must end it says in `leaving`, what only the kernel
//! can answer in [`Tracker::doubts`].
//!
//! The difficulty is that a watch is set on the tree as it is now, while events tell of the tree as it
//! was. A directory whose name was taken by a newer one becomes a *shadow*: its departure is still in
//! the queue, and an event about that name means the shadow first. Once the queue has been read empty,
//! nothing can be said of shadows any more; the kernel is asked who has the name, and they go.

use std::collections::{BTreeSet, HashSet};

use inotify::EventMask;
use syncd_proto::path::{Name, WirePath};

use super::tree::{Id, ROOT, Tree};
use super::{RawEvent, Touch};

/// How a descriptor that the kernel returned for a path fits what is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is new and has its place now.
    New,
    /// The same, and the place was that of another one.
    Instead,
    /// It was known for this path.
    Already,
    /// It is known for another path: the directory moved, or is visible twice.
    Elsewhere(Option<WirePath>),
}

/// The first half of a rename.
#[derive(Debug)]
struct Departed {
    cookie: u32,
    /// The directory, if it is watched.
    id: Option<Id>,
    from: WirePath,
    dir: bool,
    /// Whether `id` is certain: its watch is older than all events still to be read.
    sure: bool,
    /// Its place among the events, kept free.
    slot: usize,
    batches: u8,
}

/// Directories, half-known renames and the events to tell.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) tree: Tree,
    /// Descriptors whose watches are to be ended.
    pub(super) leaving: HashSet<i32>,
    shadows: Vec<Id>,
    unsure: BTreeSet<WirePath>,
    departed: Vec<Departed>,
    out: Vec<Option<RawEvent>>,
    /// Moment of the tree at which the queue was last seen empty.
    settled: u32,
    last_modified: Option<(i32, Box<[u8]>)>,
}

impl Tracker {
    /// A tracker of a root with this descriptor.
    pub(super) fn new(root_wd: i32) -> Self {
        Self {
            tree: Tree::new(root_wd),
            leaving: HashSet::new(),
            shadows: Vec::new(),
            unsure: BTreeSet::new(),
            departed: Vec::new(),
            out: Vec::new(),
            settled: 0,
            last_modified: None,
        }
    }

    /// Takes note of the descriptor the kernel gave for `path` just now.
    pub(super) fn placed(&mut self, path: &WirePath, wd: i32) -> Placed {
        self.leaving.remove(&wd);
        let at = self.tree.find(path);
        match self.tree.by_wd(wd) {
            Some(id) if at == Some(id) => return Placed::Already,
            Some(id) => {
                // Only a path that can be found counts: one through a shadow is the past.
                let other = self.tree.path(id);
                let other = other.filter(|other| self.tree.find(other) == Some(id));
                return Placed::Elsewhere(other);
            }
            None => {}
        }
        let old = at.filter(|&old| old != ROOT && self.tree.wd(old).is_some());
        if let Some(old) = old {
            self.displace(old);
        }
        let id = self.tree.find_or_make(path);
        self.tree.set_wd(id, wd);
        match old {
            Some(_) => Placed::Instead,
            None => Placed::New,
        }
    }

    /// Moves the directory of a known descriptor to `path`, where it is now.
    pub(super) fn moved(&mut self, path: &WirePath, wd: i32) {
        let (Some(id), Some(parent), Some(name)) =
            (self.tree.by_wd(wd), path.parent(), path.file_name())
        else {
            return;
        };
        self.shadows.retain(|&shadow| shadow != id);
        if let Some(old) = self.tree.find(path) {
            self.displace(old);
        }
        let parent = self.tree.find_or_make(&parent);
        if !self.tree.relocate(id, parent, name.as_bytes()) {
            // The tree has it upside down: start again below it.
            self.drop_subtree(id);
            self.leaving.remove(&wd);
            let id = self.tree.find_or_make(path);
            self.tree.set_wd(id, wd);
        }
    }

    /// Ends the watches of `path` and below.
    pub(super) fn forget(&mut self, path: &WirePath) {
        if let Some(id) = self.tree.find(path).filter(|&id| id != ROOT) {
            self.drop_subtree(id);
        }
    }

    /// Takes one event.
    pub(super) fn event(&mut self, wd: i32, mask: EventMask, cookie: u32, name: Option<&[u8]>) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            return self.overflow();
        }
        let Some(id) = self.tree.by_wd(wd) else {
            return;
        };
        if mask != EventMask::MODIFY {
            // After a close another write says that it is open again.
            self.last_modified = None;
        } else if self.is_modified_again(wd, name) {
            return;
        }
        match name.map(Name::new) {
            Some(Some(name)) => self.entry_event(id, mask, cookie, &name),
            Some(None) => self.unnamed(id, mask),
            None => self.self_event(id, mask),
        }
    }

    /// After each read: a rename whose second half is still missing after two more of them left the
    /// tree.
    pub(super) fn end_batch(&mut self) {
        self.last_modified = None;
        for departed in &mut self.departed {
            departed.batches += 1;
        }
        while let Some(at) = self.departed.iter().position(|gone| gone.batches > 2) {
            self.left(at);
        }
    }

    /// Whether the second half of a rename is awaited.
    pub(super) fn is_waiting(&self) -> bool {
        !self.departed.is_empty()
    }

    /// Whether something can be settled once the queue is empty.
    pub(super) fn is_unsettled(&self) -> bool {
        self.settled != self.tree.moment() || !self.shadows.is_empty() || !self.unsure.is_empty()
    }

    /// The queue is empty: paths of which only the kernel knows who has them. To be followed by
    /// [`Self::confirm`] for each and [`Self::settle`].
    pub(super) fn doubts(&mut self) -> BTreeSet<WirePath> {
        let mut doubts = std::mem::take(&mut self.unsure);
        doubts.extend(self.shadows.iter().filter_map(|&id| self.tree.path(id)));
        doubts
    }

    /// The kernel gave this descriptor for a path in doubt.
    pub(super) fn confirm(&mut self, path: &WirePath, wd: i32) {
        match self.tree.by_wd(wd) {
            Some(id) if self.tree.find(path) == Some(id) => {}
            Some(_) => {
                self.moved(path, wd);
                self.tell(path.clone(), Touch::MovedIn, true);
            }
            // Some other directory than was thought. Whoever watches it keeps this watch.
            None => {
                self.leaving.insert(wd);
                self.tell(path.clone(), Touch::MovedIn, true);
            }
        }
    }

    /// Nothing that happened before now is still unread.
    pub(super) fn settle(&mut self) {
        while let Some(&shadow) = self.shadows.first() {
            self.drop_subtree(shadow);
        }
        self.settled = self.tree.moment();
    }

    /// The kernel has ended a watch, and all that it told of it before has been taken.
    pub(super) fn ended(&mut self, wd: i32) {
        if let Some(id) = self.tree.by_wd(wd) {
            self.self_event(id, EventMask::IGNORED);
        }
    }

    /// Tells an event.
    pub(super) fn push(&mut self, event: RawEvent) {
        self.out.push(Some(event));
    }

    /// What can be told by now, in order.
    pub(super) fn take_ready(&mut self) -> Vec<RawEvent> {
        let held = self.departed.iter().map(|gone| gone.slot).min();
        let ready = held.unwrap_or(self.out.len());
        for gone in &mut self.departed {
            gone.slot -= ready;
        }
        self.out.drain(..ready).flatten().collect()
    }

    fn entry_event(&mut self, parent: Id, mask: EventMask, cookie: u32, name: &Name) {
        let Some(path) = self.tree.path(parent).and_then(|path| path.join(name)) else {
            return self.unnamed(parent, mask);
        };
        let dir = mask.contains(EventMask::ISDIR);
        let touch = match mask.difference(EventMask::ISDIR) {
            EventMask::CREATE => Touch::Created,
            EventMask::DELETE => Touch::Removed,
            EventMask::CLOSE_WRITE => Touch::Written,
            EventMask::MODIFY => Touch::Modified,
            EventMask::ATTRIB => Touch::Attrib,
            EventMask::MOVED_FROM => return self.departs(parent, name, cookie, path, dir),
            EventMask::MOVED_TO => return self.arrives(parent, name, cookie, path, dir),
            _ => return,
        };
        self.tell(path, touch, dir);
    }

    /// An event about an entry that no path can name.
    fn unnamed(&mut self, parent: Id, mask: EventMask) {
        let moves = EventMask::MOVED_FROM | EventMask::MOVED_TO;
        let names = EventMask::CREATE | EventMask::DELETE | moves;
        if let Some(dir) = self.tree.path(parent).filter(|_| mask.intersects(names)) {
            self.push(RawEvent::Unnamed { dir });
        }
    }

    /// An event about the watched directory itself. Mostly its parent has told it already.
    fn self_event(&mut self, id: Id, mask: EventMask) {
        if mask.contains(EventMask::UNMOUNT) {
            if id == ROOT {
                self.push(RawEvent::RootGone);
            } else if let Some(path) = self.tree.path(id) {
                self.push(RawEvent::DirGone { path });
            }
        } else if mask.contains(EventMask::IGNORED) {
            if id == ROOT {
                self.push(RawEvent::RootGone);
            }
            if let Some(wd) = self.tree.wd(id) {
                self.drop_subtree(id);
                self.leaving.remove(&wd);
            }
        } else if mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF) {
            if id == ROOT {
                self.push(RawEvent::RootGone);
            }
        } else if mask.contains(EventMask::ATTRIB) {
            let parent = self.tree.parent(id);
            let is_told = parent.is_some_and(|parent| self.tree.wd(parent).is_some());
            if let Some(path) = self.tree.path(id).filter(|_| !is_told) {
                self.tell(path, Touch::Attrib, true);
            }
        }
    }

    fn departs(&mut self, parent: Id, name: &Name, cookie: u32, from: WirePath, dir: bool) {
        let is_it = |&id: &Id| self.tree.is_named(id, parent, name.as_bytes());
        let id = if let Some(at) = self.shadows.iter().position(is_it) {
            Some(self.shadows.remove(at))
        } else {
            let found = self.tree.child(parent, name.as_bytes());
            let found = found.filter(|_| dir);
            if let Some(id) = found {
                self.tree.unlink(id);
            }
            found
        };
        self.departed.push(Departed {
            cookie,
            id,
            from,
            dir,
            sure: id.is_none_or(|id| !self.tree.is_named_since(id, self.settled)),
            slot: self.out.len(),
            batches: 0,
        });
        self.out.push(None);
    }

    fn arrives(&mut self, parent: Id, name: &Name, cookie: u32, to: WirePath, dir: bool) {
        let Some(at) = self.departed.iter().position(|gone| gone.cookie == cookie) else {
            return self.tell(to, Touch::MovedIn, dir);
        };
        let gone = self.departed.remove(at);
        if !gone.sure {
            self.unsure.extend([gone.from.clone(), to.clone()]);
        }
        self.push(RawEvent::Renamed {
            from: gone.from,
            to: to.clone(),
            dir,
        });
        let Some(id) = gone.id.filter(|&id| !self.tree.is_linked(id)) else {
            // It moved before anybody watched it: nothing is known of its contents.
            if dir && gone.id.is_none() {
                self.tell(to, Touch::MovedIn, dir);
            }
            return;
        };
        let name = name.as_bytes();
        let moved = match self.tree.child(parent, name) {
            None => self.tree.relocate(id, parent, name),
            // Watched at that name after this event: the mover has left again.
            Some(newer) if self.tree.is_named_since(newer, self.settled) => {
                self.tree.unlink(newer);
                let moved = self.tree.relocate(id, parent, name);
                self.displace(id);
                self.tree.relink(newer);
                self.unsure.insert(to);
                moved
            }
            Some(older) => {
                self.displace(older);
                self.tree.relocate(id, parent, name)
            }
        };
        if !moved {
            self.drop_subtree(id);
            self.push(RawEvent::Overflow);
        }
    }

    /// The directory at a name is no longer the one that is there.
    fn displace(&mut self, id: Id) {
        if id != ROOT && self.tree.is_linked(id) {
            self.tree.unlink(id);
            self.shadows.push(id);
        }
    }

    /// A departed entry has left what is watched.
    fn left(&mut self, at: usize) {
        let gone = self.departed.remove(at);
        if !gone.sure {
            self.unsure.insert(gone.from.clone());
        }
        self.out[gone.slot] = Some(RawEvent::Touched {
            path: gone.from,
            touch: Touch::MovedOut,
            dir: gone.dir,
        });
        // Unless somebody has found it elsewhere and watched it there.
        if let Some(id) = gone.id.filter(|&id| !self.tree.is_linked(id)) {
            self.drop_subtree(id);
        }
    }

    fn overflow(&mut self) {
        while !self.departed.is_empty() {
            self.left(0);
        }
        while let Some(&shadow) = self.shadows.first() {
            self.drop_subtree(shadow);
        }
        self.push(RawEvent::Overflow);
    }

    fn drop_subtree(&mut self, id: Id) {
        let (shadows, departed, leaving) =
            (&mut self.shadows, &mut self.departed, &mut self.leaving);
        self.tree.remove(id, |id, wd| {
            leaving.extend(wd);
            shadows.retain(|&shadow| shadow != id);
            for gone in departed.iter_mut().filter(|gone| gone.id == Some(id)) {
                gone.id = None;
            }
        });
    }

    fn is_modified_again(&mut self, wd: i32, name: Option<&[u8]>) -> bool {
        let name = name.unwrap_or_default();
        let is_same = |last: &(i32, Box<[u8]>)| -> bool { last.0 == wd && &*last.1 == name };
        if self.last_modified.as_ref().is_some_and(is_same) {
            return true;
        }
        self.last_modified = Some((wd, name.into()));
        false
    }

    fn tell(&mut self, path: WirePath, touch: Touch, dir: bool) {
        self.push(RawEvent::Touched { path, touch, dir });
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::limits::PATH_DEPTH_MAX;

    use super::*;

    #[test]
    fn what_no_path_can_name_is_told_as_its_directory() {
        let mut tracker = Tracker::new(1);
        let deep = WirePath::from_names(vec![Name::new(b"d").unwrap(); PATH_DEPTH_MAX]).unwrap();
        let id = tracker.tree.find_or_make(&deep);
        tracker.tree.set_wd(id, 2);
        for (wd, mask, name) in [
            (2, EventMask::CREATE, &b"below"[..]),
            (2, EventMask::MODIFY, b"below"),
            (2, EventMask::MOVED_FROM, b"below"),
            (1, EventMask::DELETE, &[b'x'; 300]),
            (1, EventMask::ATTRIB, &[b'x'; 300]),
        ] {
            tracker.event(wd, mask, 7, Some(name));
        }
        let unnamed = |dir: &WirePath| RawEvent::Unnamed { dir: dir.clone() };
        let expected = [unnamed(&deep), unnamed(&deep), unnamed(&WirePath::root())];
        assert_eq!(tracker.take_ready(), expected);
    }

    #[test]
    fn a_directory_at_the_place_of_another_is_known_as_such() {
        let path = |text: &str| WirePath::from_relative(text.as_ref()).unwrap();
        let mut tracker = Tracker::new(1);
        for (name, wd) in [("a", 2), ("b", 3), ("b/in", 4)] {
            assert_eq!(tracker.placed(&path(name), wd), Placed::New);
        }
        // Swapped, and nobody told.
        let elsewhere = Placed::Elsewhere(Some(path("b")));
        assert_eq!(tracker.placed(&path("a"), 3), elsewhere);
        tracker.moved(&path("a"), 3);
        assert_eq!(tracker.placed(&path("b"), 2), Placed::Elsewhere(None));
        tracker.moved(&path("b"), 2);
        for (name, wd) in [("a", 3), ("b", 2), ("a/in", 4)] {
            assert_eq!(tracker.placed(&path(name), wd), Placed::Already);
        }
        assert_eq!(tracker.placed(&path("b"), 5), Placed::Instead);
        assert_eq!(tracker.placed(&path("b"), 5), Placed::Already);
    }

    #[test]
    fn a_write_after_a_close_is_told_and_those_before_it_only_once() {
        let mut tracker = Tracker::new(1);
        let events = [
            EventMask::MODIFY,
            EventMask::MODIFY,
            EventMask::CLOSE_WRITE,
            EventMask::MODIFY,
            EventMask::MODIFY,
        ];
        for mask in events {
            tracker.event(1, mask, 0, Some(b"f"));
        }
        let touches = tracker.take_ready().into_iter().map(|event| match event {
            RawEvent::Touched { touch, .. } => touch,
            other => panic!("{other:?}"),
        });
        let expected = [Touch::Modified, Touch::Written, Touch::Modified];
        assert_eq!(touches.collect::<Vec<_>>(), expected);
    }
}
