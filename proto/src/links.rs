//! Hard links: which names of a tree are names of one file ([`LinkGroups`]), and the form in which two
//! trees are compared by that ([`LinkNames`]).
//!
//! Inode numbers mean nothing on another machine. What both sides can say of a file with several names
//! is which of them is the first in byte order, so that is what is compared: a name that was linked to
//! other names, or to none, has another first one.

use std::collections::BTreeMap;

use crate::digest::{Digest, Hasher};
use crate::limits::LINK_NAMES_MAX;
use crate::meta::EntryMeta;
use crate::path::WirePath;

const CONTEXT: &str = "syncd/1 link name";

/// One file with several names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkGroup {
    /// What it was when its first name was found.
    pub entry: EntryMeta,
    /// Its names, in the order in which they were found.
    pub paths: Vec<WirePath>,
}

/// Collects, during a walk, the names of files that have more than one.
#[derive(Debug, Clone, Default)]
pub struct LinkGroups {
    groups: BTreeMap<(u64, u64), LinkGroup>,
    names: usize,
}

impl LinkGroups {
    /// Notes a name of the file with this device and inode.
    pub fn add(&mut self, inode: (u64, u64), entry: &EntryMeta, path: WirePath) {
        self.names += 1;
        if self.is_full() {
            self.groups.clear();
            return;
        }
        let fresh = || LinkGroup {
            entry: entry.clone(),
            paths: Vec::new(),
        };
        self.groups
            .entry(inode)
            .or_insert_with(fresh)
            .paths
            .push(path);
    }

    /// Whether there were more names than are remembered: nothing is known then.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.names > LINK_NAMES_MAX
    }

    /// The files, by device and inode; some may have but one name in the tree that was walked.
    pub fn iter(&self) -> impl Iterator<Item = ((u64, u64), &LinkGroup)> {
        self.groups.iter().map(|(inode, group)| (*inode, group))
    }

    /// What is compared, for a walk that began at `base`.
    #[must_use]
    pub fn names(&self, base: &WirePath) -> LinkNames {
        let mut firsts = BTreeMap::new();
        for group in self.groups.values().filter(|group| group.paths.len() > 1) {
            let tails = group
                .paths
                .iter()
                .filter_map(|path| path.strip_prefix(base));
            let Some(first) = tails.clone().min() else {
                continue;
            };
            let digest = digest_of(&first);
            firsts.extend(tails.map(|tail| (tail, digest)));
        }
        LinkNames { firsts }
    }
}

/// The names in a tree that share a file with other names there, as paths from where the walk began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkNames {
    firsts: BTreeMap<WirePath, Digest>,
}

impl LinkNames {
    /// Stands for the first name of the file at `path`; `None` if it has no other name in the tree.
    #[must_use]
    pub fn first_of(&self, path: &WirePath) -> Option<Digest> {
        self.firsts.get(path).copied()
    }

    /// Every such name with what stands for its first one, in the order of the paths.
    pub fn iter(&self) -> impl Iterator<Item = (&WirePath, &Digest)> {
        self.firsts.iter()
    }

    /// Whether no file has two names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }
}

fn digest_of(path: &WirePath) -> Digest {
    let mut hasher = Hasher::for_context(CONTEXT);
    for name in path.names() {
        hasher.update_sized(name.as_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Kind, Mtime};

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn entry() -> EntryMeta {
        EntryMeta {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: 1,
            rdev: (0, 0),
            content: None,
            xattrs: None,
        }
    }

    fn names(found: &[(u64, &str)], base: &str) -> LinkNames {
        let mut groups = LinkGroups::default();
        for (inode, text) in found {
            groups.add((1, *inode), &entry(), path(text));
        }
        groups.names(&path(base))
    }

    #[test]
    fn neither_inode_numbers_nor_the_order_of_the_walk_matter() {
        let one = names(&[(7, "d/b"), (7, "d/a"), (8, "d/c"), (8, "d/e/f")], "d");
        let two = names(&[(3, "d/e/f"), (9, "d/a"), (9, "d/b"), (3, "d/c")], "d");
        assert_eq!(one, two);
        assert_eq!(one.first_of(&path("a")), one.first_of(&path("b")));
        assert_ne!(one.first_of(&path("a")), one.first_of(&path("c")));
    }

    #[test]
    fn a_name_whose_others_are_elsewhere_stands_alone() {
        let alone = names(&[(7, "d/b")], "d");
        assert!(alone.is_empty());
        assert_eq!(alone.first_of(&path("b")), None);
    }

    #[test]
    fn above_the_limit_nothing_is_known() {
        let mut groups = LinkGroups::default();
        for _ in 0..=LINK_NAMES_MAX {
            groups.add((1, 1), &entry(), path("a"));
        }
        assert!(groups.is_full());
        assert!(groups.names(&WirePath::root()).is_empty());
    }
}
