//! [`Tree`]: which watch descriptor is which directory. About fifty bytes a directory, and no path
//! is stored: it is put together from the names when an event needs it.
//!
//! Plain data; it knows nothing of inotify and calls nothing.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use syncd_proto::path::{Name, WirePath};

/// Index of a directory.
pub(super) type Id = u32;

/// No directory.
pub(super) const NONE: Id = Id::MAX;

/// The root.
pub(super) const ROOT: Id = 0;

/// Descriptor of a directory that is only on the way to a watched one.
const UNWATCHED: i32 = -1;

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: Id,
    first_child: Id,
    next: Id,
    prev: Id,
    wd: i32,
    name_at: u32,
    name_len: u8,
    /// Whether it can be found by its name. If not, parent and name are what they were last.
    linked: bool,
    /// When it got this name: the tree's count of such moments.
    since: u32,
}

/// Directories by descriptor and by name.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Vec<Id>,
    names: Vec<u8>,
    names_dead: usize,
    /// Those that have a descriptor. Keys are in the nodes: they change only while the node is not in here.
    by_wd: HashTable<Id>,
    /// Those that are linked, likewise.
    by_name: HashTable<Id>,
    hasher: RandomState,
    moment: u32,
}

impl Tree {
    /// A tree of a root with this descriptor.
    pub(super) fn new(root_wd: i32) -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            free: Vec::new(),
            names: Vec::new(),
            names_dead: 0,
            by_wd: HashTable::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            moment: 0,
        };
        tree.allocate(NONE, b"", root_wd);
        tree.nodes[ROOT as usize].linked = true;
        tree
    }

    /// How many directories have a watch.
    pub(super) fn len(&self) -> usize {
        self.by_wd.len()
    }

    /// The descriptors of all of them.
    pub(super) fn watches(&self) -> Vec<i32> {
        self.by_wd
            .iter()
            .map(|&id| self.nodes[id as usize].wd)
            .collect()
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let table = |capacity: usize| capacity * 8 / 7 * 5;
        self.nodes.capacity() * size_of::<Node>()
            + self.free.capacity() * size_of::<Id>()
            + self.names.capacity()
            + table(self.by_wd.capacity())
            + table(self.by_name.capacity())
    }

    /// The directory with this descriptor.
    pub(super) fn by_wd(&self, wd: i32) -> Option<Id> {
        let has_it = |&id: &Id| self.nodes[id as usize].wd == wd;
        self.by_wd.find(self.hasher.hash_one(wd), has_it).copied()
    }

    /// The descriptor of a directory, if it is watched.
    pub(super) fn wd(&self, id: Id) -> Option<i32> {
        let wd = self.nodes.get(id as usize)?.wd;
        (wd != UNWATCHED).then_some(wd)
    }

    /// The directory that holds `id`; `None` for the root.
    pub(super) fn parent(&self, id: Id) -> Option<Id> {
        Some(self.nodes[id as usize].parent).filter(|&parent| parent != NONE)
    }

    /// Whether the directory can be found by its name.
    pub(super) fn is_linked(&self, id: Id) -> bool {
        self.nodes[id as usize].linked
    }

    /// Whether the directory is, or was last, `name` in `parent`.
    pub(super) fn is_named(&self, id: Id, parent: Id, name: &[u8]) -> bool {
        let node = &self.nodes[id as usize];
        node.parent == parent && self.name(node) == name
    }

    /// The moment up to which names have been given.
    pub(super) fn moment(&self) -> u32 {
        self.moment
    }

    /// Whether the directory got its name after `moment`.
    pub(super) fn is_named_since(&self, id: Id, moment: u32) -> bool {
        self.nodes[id as usize].since.wrapping_sub(moment) as i32 > 0
    }

    /// The directory `name` in `parent`.
    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        let is_it = |&id: &Id| self.is_named(id, parent, name);
        self.by_name.find(self.hash(parent, name), is_it).copied()
    }

    /// The directory at `path`.
    pub(super) fn find(&self, path: &WirePath) -> Option<Id> {
        path.names()
            .iter()
            .try_fold(ROOT, |id, name| self.child(id, name.as_bytes()))
    }

    /// The directory at `path`; those on the way are made without a watch.
    pub(super) fn find_or_make(&mut self, path: &WirePath) -> Id {
        path.names().iter().fold(ROOT, |id, name| {
            self.child(id, name.as_bytes())
                .unwrap_or_else(|| self.insert(id, name.as_bytes(), UNWATCHED))
        })
    }

    /// The path of a directory; `None` if it is above the limits.
    pub(super) fn path(&self, id: Id) -> Option<WirePath> {
        let mut names = Vec::new();
        let mut node = &self.nodes[id as usize];
        while node.parent != NONE {
            names.push(Name::new(self.name(node))?);
            node = &self.nodes[node.parent as usize];
        }
        names.reverse();
        WirePath::from_names(names)
    }

    /// Gives a directory that has none a descriptor.
    pub(super) fn set_wd(&mut self, id: Id, wd: i32) {
        self.take_wd(id);
        self.give_wd(id, wd);
        self.moment = self.moment.wrapping_add(1);
        self.nodes[id as usize].since = self.moment;
    }

    /// A new directory, whose name must be free.
    pub(super) fn insert(&mut self, parent: Id, name: &[u8], wd: i32) -> Id {
        let id = self.allocate(parent, name, wd);
        self.link(id);
        id
    }

    /// Takes the name from a directory; it still says what it was last.
    pub(super) fn unlink(&mut self, id: Id) {
        if id == ROOT || !self.nodes[id as usize].linked {
            return;
        }
        let node = &self.nodes[id as usize];
        let hash = self.hash(node.parent, self.name(node));
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.nodes[id as usize].linked = false;
    }

    /// Gives back the last name to a directory that lost it; the name must be free.
    pub(super) fn relink(&mut self, id: Id) {
        if self.nodes[id as usize].linked {
            return;
        }
        let (nodes, names, hasher) = (&self.nodes, &self.names, &self.hasher);
        let key = |&id: &Id| {
            let node = &nodes[id as usize];
            hasher.hash_one((node.parent, node.name(names)))
        };
        self.by_name.insert_unique(key(&id), id, key);
        self.nodes[id as usize].linked = true;
    }

    /// Moves a directory to another name, which must be free. `false` (and nothing happens) if the
    /// directory would hold itself.
    pub(super) fn relocate(&mut self, id: Id, parent: Id, name: &[u8]) -> bool {
        let mut above = parent;
        while above != NONE {
            if above == id {
                return false;
            }
            above = self.nodes[above as usize].parent;
        }
        self.unlink(id);
        self.leave_parent(id);
        self.names_dead += usize::from(self.nodes[id as usize].name_len);
        let name_at = self.store(name);
        let node = &mut self.nodes[id as usize];
        node.parent = parent;
        node.name_at = name_at;
        node.name_len = name.len() as u8;
        self.join_parent(id);
        self.link(id);
        true
    }

    /// Removes a directory and everything below it; `each` is told the descriptors. Directories above
    /// it that were only on the way go too.
    pub(super) fn remove(&mut self, id: Id, mut each: impl FnMut(Id, Option<i32>)) {
        let above = self.nodes[id as usize].parent;
        let mut at = id;
        loop {
            let child = self.nodes[at as usize].first_child;
            if child != NONE {
                at = child;
                continue;
            }
            let parent = self.nodes[at as usize].parent;
            each(at, self.wd(at));
            self.release(at);
            if at == id {
                break;
            }
            at = parent;
        }
        let is_idle = |node: &Node| node.wd == UNWATCHED && node.first_child == NONE;
        let mut at = above;
        while at != NONE && at != ROOT && is_idle(&self.nodes[at as usize]) {
            let parent = self.nodes[at as usize].parent;
            each(at, None);
            self.release(at);
            at = parent;
        }
    }

    fn link(&mut self, id: Id) {
        self.moment = self.moment.wrapping_add(1);
        self.nodes[id as usize].since = self.moment;
        self.relink(id);
    }

    fn allocate(&mut self, parent: Id, name: &[u8], wd: i32) -> Id {
        let node = Node {
            parent,
            first_child: NONE,
            next: NONE,
            prev: NONE,
            wd: UNWATCHED,
            name_at: self.store(name),
            name_len: name.len() as u8,
            linked: false,
            since: self.moment,
        };
        let id = if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            id
        } else {
            self.nodes.push(node);
            (self.nodes.len() - 1) as Id
        };
        if wd != UNWATCHED {
            self.give_wd(id, wd);
        }
        self.join_parent(id);
        id
    }

    fn release(&mut self, id: Id) {
        self.unlink(id);
        self.leave_parent(id);
        let node = &mut self.nodes[id as usize];
        self.names_dead += usize::from(node.name_len);
        node.name_len = 0;
        self.take_wd(id);
        if id != ROOT {
            self.free.push(id);
        }
    }

    fn give_wd(&mut self, id: Id, wd: i32) {
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let has_it = |&other: &Id| nodes[other as usize].wd == wd;
        let key = |&other: &Id| hasher.hash_one(nodes[other as usize].wd);
        match self.by_wd.entry(hasher.hash_one(wd), has_it, key) {
            Entry::Occupied(mut entry) => *entry.get_mut() = id,
            Entry::Vacant(entry) => drop(entry.insert(id)),
        }
        self.nodes[id as usize].wd = wd;
    }

    fn take_wd(&mut self, id: Id) {
        let hash = self.hasher.hash_one(self.nodes[id as usize].wd);
        if let Ok(entry) = self.by_wd.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.nodes[id as usize].wd = UNWATCHED;
    }

    fn join_parent(&mut self, id: Id) {
        let parent = self.nodes[id as usize].parent;
        if parent == NONE {
            return;
        }
        let first = std::mem::replace(&mut self.nodes[parent as usize].first_child, id);
        self.nodes[id as usize].next = first;
        self.nodes[id as usize].prev = NONE;
        if first != NONE {
            self.nodes[first as usize].prev = id;
        }
    }

    fn leave_parent(&mut self, id: Id) {
        let Node {
            parent, next, prev, ..
        } = self.nodes[id as usize];
        if parent == NONE {
            return;
        }
        if prev == NONE {
            self.nodes[parent as usize].first_child = next;
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
    }

    fn store(&mut self, name: &[u8]) -> u32 {
        if self.names_dead > self.names.len() / 2 && self.names_dead > NAMES_DEAD_MAX {
            self.compact();
        }
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name);
        at
    }

    fn compact(&mut self) {
        let mut names = Vec::with_capacity(self.names.len() - self.names_dead);
        for node in &mut self.nodes {
            let at = node.name_at as usize;
            node.name_at = names.len() as u32;
            names.extend_from_slice(&self.names[at..at + usize::from(node.name_len)]);
        }
        self.names = names;
        self.names_dead = 0;
    }

    fn name(&self, node: &Node) -> &[u8] {
        node.name(&self.names)
    }

    fn hash(&self, parent: Id, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }
}

impl Node {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        let at = self.name_at as usize;
        &names[at..at + usize::from(self.name_len)]
    }
}

/// So many bytes of names of removed directories are not worth tidying up.
const NAMES_DEAD_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn add(tree: &mut Tree, at: &str, wd: i32) -> Id {
        let id = tree.find_or_make(&path(at));
        tree.set_wd(id, wd);
        id
    }

    fn remove(tree: &mut Tree, at: &str) -> Vec<i32> {
        let mut wds = Vec::new();
        let id = tree.find(&path(at)).unwrap();
        tree.remove(id, |_, wd| wds.extend(wd));
        wds.sort_unstable();
        wds
    }

    #[test]
    fn a_moved_directory_takes_what_is_below_it_along() {
        let mut tree = Tree::new(1);
        let a = add(&mut tree, "a", 2);
        let deep = add(&mut tree, "a/b/c", 3);
        add(&mut tree, "z", 4);
        let z = tree.find(&path("z")).unwrap();
        assert!(tree.relocate(a, z, b"new"));
        assert_eq!(tree.path(deep), Some(path("z/new/b/c")));
        assert_eq!(tree.find(&path("z/new/b/c")), Some(deep));
        assert_eq!(tree.find(&path("a")), None);
        assert!(!tree.relocate(z, deep, b"loop"));
        assert_eq!(remove(&mut tree, "z"), [2, 3, 4]);
        assert_eq!((tree.len(), tree.by_name.len()), (1, 0));
    }

    #[test]
    fn directories_only_on_the_way_go_with_the_last_below_them() {
        let mut tree = Tree::new(1);
        add(&mut tree, "a/b/c", 2);
        add(&mut tree, "a/x", 3);
        assert_eq!(remove(&mut tree, "a/b/c"), [2]);
        assert_eq!(tree.find(&path("a/b")), None);
        assert!(tree.find(&path("a")).is_some());
        assert_eq!(remove(&mut tree, "a/x"), [3]);
        assert_eq!(tree.find(&path("a")), None);
    }

    #[test]
    fn names_are_tidied_up_and_memory_is_reused() {
        let mut tree = Tree::new(1);
        let (mut wd, mut peak) = (1, 0);
        for round in 0..20 {
            for n in 0..2_000 {
                wd += 1;
                add(&mut tree, &format!("some-name-{n}/below-{round}"), wd);
            }
            assert_eq!(tree.len(), 2_001);
            for n in 0..2_000 {
                let id = tree
                    .find(&path(&format!("some-name-{n}/below-{round}")))
                    .unwrap();
                assert!(tree.path(id).is_some());
                let given = wd - 1_999 + n;
                assert_eq!(tree.by_wd(given), Some(id));
                tree.remove(id, |_, _| {});
                assert_eq!(tree.by_wd(given), None);
            }
            peak = peak.max(tree.bytes());
        }
        assert_eq!(tree.len(), 1);
        assert!(peak < 1_500_000, "{peak} bytes");
    }
}
