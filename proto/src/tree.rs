//! [`DigestTree`]: the digests of every directory of a tree, built by one walk.
//!
//! The walk is the same on both sides and is written once, here; what reads a directory is a
//! [`TreeReader`], which the caller brings.

use crate::digest::{Digest, Hasher};
use crate::links::LinkNames;
use crate::merkle::DirHasher;
use crate::meta::{Compare, EntryMeta, Kind};
use crate::path::{Name, WirePath};

/// Reads directories for [`DigestTree::build`].
pub trait TreeReader {
    /// An open directory.
    type Dir;
    /// What ends the whole walk, such as a cancellation.
    type Error;

    /// The entries of a directory in any order, without those that do not take part. `None` if it
    /// cannot be read; the reader has reported that itself, and the directory counts as unknown.
    ///
    /// # Errors
    /// Only what must end the walk.
    fn entries(
        &mut self,
        dir: &Self::Dir,
        path: &WirePath,
    ) -> Result<Option<Vec<(Name, EntryMeta)>>, Self::Error>;

    /// Opens a directory below another. `None` if that fails (it may have gone meanwhile).
    ///
    /// # Errors
    /// Only what must end the walk.
    fn open(
        &mut self,
        parent: &Self::Dir,
        name: &Name,
        path: &WirePath,
    ) -> Result<Option<Self::Dir>, Self::Error>;
}

/// One directory of a [`DigestTree`].
#[derive(Debug, Clone)]
struct Node {
    name: Option<Name>,
    /// Indices of the directories below, in byte order of their names.
    dirs: Vec<u32>,
    digest: Digest,
    complete: bool,
}

/// Digests of a directory and of all directories below it, addressed by path from there. About 80
/// bytes and a name for each directory; files take no room. By default of nothing: no path has a digest.
#[derive(Debug, Clone, Default)]
pub struct DigestTree {
    nodes: Vec<Node>,
    root: u32,
    entries: u64,
}

/// A directory being read: its children come first.
struct Open<D> {
    dir: Option<D>,
    name: Option<Name>,
    hasher: DirHasher,
    /// Entries still to come, the last name first.
    entries: Vec<(Name, EntryMeta)>,
    dirs: Vec<u32>,
    complete: bool,
}

impl DigestTree {
    /// Walks a tree from an open directory with this metadata.
    ///
    /// # Errors
    /// Those of the reader that end the walk.
    pub fn build<R: TreeReader>(
        reader: &mut R,
        root: R::Dir,
        root_path: &WirePath,
        root_meta: &EntryMeta,
        compare: Compare,
    ) -> Result<Self, R::Error> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut path = root_path.clone();
        let mut entries = 0;
        let mut stack = vec![begin(reader, Some(root), None, &path, root_meta, compare)?];
        loop {
            let Some(top) = stack.last_mut() else {
                let root = nodes.len().saturating_sub(1) as u32;
                return Ok(Self {
                    nodes,
                    root,
                    entries,
                });
            };
            entries += u64::from(!top.entries.is_empty());
            match top.entries.pop() {
                Some((name, meta)) if meta.kind == Kind::Dir => {
                    let Some(below) = path.join(&name) else {
                        top.complete = false;
                        continue;
                    };
                    let dir = match &top.dir {
                        Some(dir) => reader.open(dir, &name, &below)?,
                        None => None,
                    };
                    path = below;
                    stack.push(begin(
                        reader,
                        dir,
                        Some((name, meta)),
                        &path,
                        root_meta,
                        compare,
                    )?);
                }
                Some((name, meta)) => {
                    if top.hasher.file(&name, &meta).is_err() {
                        top.complete = false;
                    }
                }
                None => {
                    if let Some(done) = stack.pop() {
                        path = path.parent().unwrap_or_default();
                        finish(done, &mut nodes, stack.last_mut());
                    }
                }
            }
        }
    }

    /// The same digests with, for each directory that has files with several names in or below it, which
    /// names those are. `links` has paths from the root of this tree.
    #[must_use]
    pub fn with_links(mut self, links: &LinkNames) -> Self {
        let mut open: Vec<OpenList> = Vec::new();
        for (path, first) in links.iter() {
            let Some((name, parents)) = path.names().split_last() else {
                continue;
            };
            while open.len() > 1 && !is_prefix(&open, parents) {
                self.close_list(&mut open);
            }
            if self.open_lists(&mut open, parents)
                && let Some(top) = open.last_mut()
            {
                top.hasher.update_sized(name.as_bytes());
                top.hasher.update(&[0]).update(first.as_bytes());
            }
        }
        while !open.is_empty() {
            self.close_list(&mut open);
        }
        self
    }

    /// Opens the lists of a directory and of those above it; `false` if the tree has no such directory.
    fn open_lists(&self, open: &mut Vec<OpenList>, parents: &[Name]) -> bool {
        if open.is_empty() {
            open.push(OpenList::new(None, self.root));
        }
        for name in parents.get(open.len() - 1..).unwrap_or_default() {
            let top = open
                .last()
                .and_then(|top| self.nodes.get(top.node as usize));
            let Some(node) = top.and_then(|top| self.child(top, name)) else {
                return false;
            };
            open.push(OpenList::new(Some(name.clone()), node));
        }
        true
    }

    fn close_list(&mut self, open: &mut Vec<OpenList>) {
        let Some(OpenList { name, node, hasher }) = open.pop() else {
            return;
        };
        let list = hasher.finish();
        if let Some(node) = self.nodes.get_mut(node as usize) {
            let mut hasher = Hasher::for_context(LINKS_CONTEXT);
            hasher.update(node.digest.as_bytes());
            node.digest = hasher.update(list.as_bytes()).finish();
        }
        if let (Some(above), Some(name)) = (open.last_mut(), name) {
            above.hasher.update_sized(name.as_bytes());
            above.hasher.update(&[0xff]).update(list.as_bytes());
        }
    }

    /// Digest of the directory at `path` (taken from the root of this tree), if there is one.
    #[must_use]
    pub fn digest(&self, path: &WirePath) -> Option<Digest> {
        self.node(path).map(|node| node.digest)
    }

    /// Whether everything below the directory at `path` could be read.
    #[must_use]
    pub fn is_complete(&self, path: &WirePath) -> bool {
        self.node(path).is_some_and(|node| node.complete)
    }

    /// Digest of the whole tree.
    #[must_use]
    pub fn root_digest(&self) -> Digest {
        self.nodes
            .get(self.root as usize)
            .map_or_else(Digest::empty, |node| node.digest)
    }

    /// How many entries of all kinds lie below it.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many directories it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has none; a built tree has at least its root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn node(&self, path: &WirePath) -> Option<&Node> {
        let mut node = self.nodes.get(self.root as usize)?;
        for name in path.names() {
            node = self.nodes.get(self.child(node, name)? as usize)?;
        }
        Some(node)
    }

    /// Index of the directory `name` in another.
    fn child(&self, node: &Node, name: &Name) -> Option<u32> {
        let at = node
            .dirs
            .binary_search_by(|&index| self.nodes[index as usize].name.as_ref().cmp(&Some(name)))
            .ok()?;
        node.dirs.get(at).copied()
    }
}

/// Puts the entries of a directory in byte order of their names, each once: a name that goes and comes while a
/// directory is read may be read twice.
pub fn put_in_order(entries: &mut Vec<(Name, EntryMeta)>) {
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    entries.dedup_by(|a, b| a.0 == b.0);
}

/// The list of linked names of a directory, being hashed.
struct OpenList {
    name: Option<Name>,
    node: u32,
    hasher: Hasher,
}

impl OpenList {
    fn new(name: Option<Name>, node: u32) -> Self {
        Self {
            name,
            node,
            hasher: Hasher::for_context(LIST_CONTEXT),
        }
    }
}

/// Whether the directories whose lists are open are those that `names` lead through.
fn is_prefix(open: &[OpenList], names: &[Name]) -> bool {
    let inner = open.get(1..).unwrap_or_default();
    inner.len() <= names.len()
        && inner
            .iter()
            .zip(names)
            .all(|(list, name)| list.name.as_ref() == Some(name))
}

const LINKS_CONTEXT: &str = "syncd/1 links";

const LIST_CONTEXT: &str = "syncd/1 link list";

fn begin<R: TreeReader>(
    reader: &mut R,
    dir: Option<R::Dir>,
    entry: Option<(Name, EntryMeta)>,
    path: &WirePath,
    root_meta: &EntryMeta,
    compare: Compare,
) -> Result<Open<R::Dir>, R::Error> {
    let entries = match &dir {
        Some(dir) => reader.entries(dir, path)?,
        None => None,
    };
    let complete = entries.is_some();
    let mut entries = entries.unwrap_or_default();
    put_in_order(&mut entries);
    entries.reverse();
    let (name, meta) = entry.unzip();
    Ok(Open {
        dir,
        name,
        hasher: DirHasher::new(compare, meta.as_ref().unwrap_or(root_meta)),
        entries,
        dirs: Vec::new(),
        complete,
    })
}

fn finish<D>(done: Open<D>, nodes: &mut Vec<Node>, parent: Option<&mut Open<D>>) {
    let digest = done.hasher.finish();
    let index = nodes.len() as u32;
    if let (Some(parent), Some(name)) = (parent, &done.name) {
        parent.dirs.push(index);
        let in_order = parent.hasher.subtree(name, &digest).is_ok();
        parent.complete &= done.complete && in_order;
    }
    nodes.push(Node {
        name: done.name,
        dirs: done.dirs,
        digest,
        complete: done.complete,
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;
    use crate::links::LinkGroups;
    use crate::meta::Mtime;

    fn meta(kind: Kind, size: u64) -> EntryMeta {
        EntryMeta {
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::new(1, 0).unwrap(),
            size,
            rdev: (0, 0),
            content: None,
            xattrs: None,
        }
    }

    /// A tree in memory: path -> size of a file, or `None` for a directory. What is in `twice/` is read twice.
    struct Fake(BTreeMap<String, Option<u64>>);

    impl TreeReader for Fake {
        type Dir = String;
        type Error = Infallible;

        fn entries(
            &mut self,
            dir: &String,
            _: &WirePath,
        ) -> Result<Option<Vec<(Name, EntryMeta)>>, Infallible> {
            if dir.ends_with("secret/") {
                return Ok(None);
            }
            let found = self.0.iter().rev().filter_map(|(path, size)| {
                let name = path.strip_prefix(dir.as_str())?;
                let meta = match size {
                    Some(size) => meta(Kind::File, *size),
                    None => meta(Kind::Dir, 0),
                };
                (!name.contains('/')).then(|| (Name::new(name.as_bytes()).unwrap(), meta))
            });
            let mut found: Vec<_> = found.collect();
            if dir.ends_with("twice/") {
                found.extend(found.clone());
            }
            Ok(Some(found))
        }

        fn open(
            &mut self,
            parent: &String,
            name: &Name,
            _: &WirePath,
        ) -> Result<Option<String>, Infallible> {
            Ok(Some(format!("{parent}{name}/")))
        }
    }

    fn build(entries: &[(&str, Option<u64>)]) -> DigestTree {
        let entries = entries
            .iter()
            .map(|(path, size)| ((*path).to_owned(), *size));
        let mut fake = Fake(entries.collect());
        let root = meta(Kind::Dir, 0);
        DigestTree::build(
            &mut fake,
            String::new(),
            &WirePath::root(),
            &root,
            Compare::ALL,
        )
        .unwrap()
    }

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    #[test]
    fn a_difference_shows_in_every_directory_above_it_and_nowhere_else() {
        let tree = |size| {
            build(&[
                ("a", None),
                ("a/b", None),
                ("a/b/f", Some(size)),
                ("a/x", Some(1)),
                ("c", None),
                ("c/f", Some(1)),
            ])
        };
        let (one, two) = (tree(1), tree(2));
        assert_eq!((one.len(), one.entries()), (4, 6));
        assert_ne!(one.root_digest(), two.root_digest());
        for changed in ["a", "a/b"] {
            assert_ne!(one.digest(&path(changed)), two.digest(&path(changed)));
        }
        assert_eq!(one.digest(&path("c")), two.digest(&path("c")));
        assert_eq!(one.digest(&path("a/x")), None);
        assert_eq!(tree(1).root_digest(), one.root_digest());
    }

    #[test]
    fn what_was_read_twice_counts_once() {
        let tree = |dir: &str| {
            let (file, below) = (format!("{dir}/f"), format!("{dir}/d"));
            let tree = build(&[(dir, None), (&file, Some(1)), (&below, None)]);
            assert!(tree.is_complete(&WirePath::root()));
            assert_eq!((tree.len(), tree.entries()), (3, 3));
            tree.digest(&path(dir))
        };
        assert_eq!(tree("twice"), tree("once"));
    }

    #[test]
    fn an_unreadable_directory_makes_everything_above_it_incomplete() {
        let tree = build(&[("a", None), ("a/secret", None), ("c", None)]);
        assert!(!tree.is_complete(&path("a/secret")));
        assert!(!tree.is_complete(&path("a")));
        assert!(!tree.is_complete(&WirePath::root()));
        assert!(tree.is_complete(&path("c")));
    }

    #[test]
    fn which_names_are_linked_shows_in_every_directory_above_them_and_nowhere_else() {
        let tree = || {
            build(&[
                ("a", None),
                ("a/b", None),
                ("a/b/f", Some(1)),
                ("a/x", Some(1)),
                ("c", None),
                ("c/f", Some(1)),
                ("d", None),
                ("d/f", Some(1)),
            ])
        };
        let linked = |files: &[&[&str]]| {
            let mut groups = LinkGroups::default();
            for (inode, names) in files.iter().enumerate() {
                for name in *names {
                    groups.add((1, inode as u64), &meta(Kind::File, 1), path(name));
                }
            }
            tree().with_links(&groups.names(&WirePath::root()))
        };
        let none = linked(&[&["a/x"]]);
        let one = linked(&[&["a/b/f", "c/f"]]);
        let same = linked(&[&["d/f"], &["c/f", "a/b/f"]]);
        let other = linked(&[&["a/b/f", "a/x", "c/f"]]);
        assert_eq!(none.root_digest(), tree().root_digest());
        for changed in [".", "a", "a/b", "c"] {
            assert_ne!(
                one.digest(&path(changed)),
                none.digest(&path(changed)),
                "{changed}"
            );
        }
        assert_eq!(one.digest(&path("d")), none.digest(&path("d")));
        for at in [".", "a", "a/b", "c", "d"] {
            assert_eq!(one.digest(&path(at)), same.digest(&path(at)), "{at}");
        }
        assert_ne!(one.digest(&path("a")), other.digest(&path("a")));
        assert_eq!(one.digest(&path("a/b")), other.digest(&path("a/b")));
        assert_eq!(one.digest(&path("c")), other.digest(&path("c")));
    }
}
