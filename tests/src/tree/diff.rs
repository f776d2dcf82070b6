//! What differs between two pictures: every aspect of every entry, none of them forgiven.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::{Entry, Kind, RelPath, Tree, escape};

/// What differs about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Only the left tree has it.
    Missing,
    /// Only the right tree has it.
    Extra,
    /// File, directory, symlink, ...; nothing else is compared then.
    Kind,
    /// Length of a file.
    Size,
    /// Content of a file.
    Content,
    /// Permission bits, all twelve.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time, to the nanosecond.
    Mtime,
    /// Where a symlink points.
    Target,
    /// Device number.
    Device,
    /// Which other paths are the same inode.
    HardLinks,
    /// Extended attributes.
    Xattrs,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path below both roots.
    pub path: RelPath,
    /// What differs.
    pub aspect: Aspect,
    /// The left tree's value, printable.
    pub left: String,
    /// The right tree's value, printable.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escape(&self.path);
        match self.aspect {
            Aspect::Missing => write!(f, "{path}: missing on the right, {} on the left", self.left),
            Aspect::Extra => write!(
                f,
                "{path}: missing on the left, {} on the right",
                self.right
            ),
            aspect => write!(f, "{path}: {aspect:?}: {} | {}", self.left, self.right),
        }
    }
}

/// All differences, in the order of the paths; empty if and only if the trees are equal.
pub fn diff(left: &Tree, right: &Tree) -> Vec<Difference> {
    let (ours, theirs) = (left.entries(), right.entries());
    let paths: BTreeSet<&RelPath> = ours.keys().chain(theirs.keys()).collect();
    let common = |path: &RelPath| ours.contains_key(path) && theirs.contains_key(path);
    let (groups_left, groups_right) = (groups(ours, &common), groups(theirs, &common));
    let mut found = Vec::new();
    for path in paths {
        let mut note = |aspect, left: &dyn fmt::Display, right: &dyn fmt::Display| {
            let [left, right] = [left.to_string(), right.to_string()];
            found.push(Difference {
                path: path.clone(),
                aspect,
                left,
                right,
            });
        };
        match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) if a.kind == b.kind => {
                compare(a, b, &mut note);
                let [a, b] = [&groups_left, &groups_right].map(|groups| groups.get(path).copied());
                if a != b {
                    note(Aspect::HardLinks, &link(a), &link(b));
                }
            }
            (Some(a), Some(b)) => note(Aspect::Kind, &kind(a), &kind(b)),
            (Some(a), None) => note(Aspect::Missing, &kind(a), &""),
            (None, Some(b)) => note(Aspect::Extra, &"", &kind(b)),
            (None, None) => {}
        }
    }
    found
}

type Note<'a> = dyn FnMut(Aspect, &dyn fmt::Display, &dyn fmt::Display) + 'a;

fn compare(a: &Entry, b: &Entry, note: &mut Note<'_>) {
    if a.size != b.size {
        note(Aspect::Size, &a.size, &b.size);
    } else if a.content != b.content {
        note(Aspect::Content, &hash(a), &hash(b));
    }
    if a.mode != b.mode {
        note(
            Aspect::Mode,
            &format!("{:04o}", a.mode),
            &format!("{:04o}", b.mode),
        );
    }
    if a.uid != b.uid {
        note(Aspect::Uid, &a.uid, &b.uid);
    }
    if a.gid != b.gid {
        note(Aspect::Gid, &a.gid, &b.gid);
    }
    if a.mtime != b.mtime {
        note(Aspect::Mtime, &time(a), &time(b));
    }
    if a.target != b.target {
        note(Aspect::Target, &target(a), &target(b));
    }
    if a.rdev != b.rdev {
        note(
            Aspect::Device,
            &format!("{:?}", a.rdev),
            &format!("{:?}", b.rdev),
        );
    }
    if a.xattrs != b.xattrs {
        note(Aspect::Xattrs, &xattrs(a, b), &xattrs(b, a));
    }
}

/// For each path that shares its inode with others that both trees have: the first of them.
fn groups<'a>(
    entries: &'a BTreeMap<RelPath, Entry>,
    common: &dyn Fn(&RelPath) -> bool,
) -> HashMap<&'a RelPath, &'a RelPath> {
    let mut first = HashMap::new();
    let mut leaders = HashMap::new();
    for (path, entry) in entries
        .iter()
        .filter(|(path, entry)| entry.kind != Kind::Directory && common(path))
    {
        let leader = *first.entry(entry.inode).or_insert(path);
        if leader != path {
            leaders.insert(path, leader);
        }
    }
    leaders
}

fn link(leader: Option<&RelPath>) -> String {
    leader.map_or_else(
        || "not a link of an earlier path".to_owned(),
        |leader| format!("link of {}", escape(leader)),
    )
}

fn kind(entry: &Entry) -> String {
    format!("{:?}", entry.kind)
}

fn hash(entry: &Entry) -> String {
    entry
        .content
        .map_or_else(String::new, |hash| hash.to_hex()[..16].to_owned())
}

fn time(entry: &Entry) -> String {
    format!("{}.{:09}", entry.mtime.0, entry.mtime.1)
}

fn target(entry: &Entry) -> String {
    entry.target.as_deref().map(escape).unwrap_or_default()
}

/// The attributes of `a` that `b` does not have in the same way.
fn xattrs(a: &Entry, b: &Entry) -> String {
    let differing = a
        .xattrs
        .iter()
        .filter(|(name, value)| b.xattrs.get(*name) != Some(value));
    let shown: Vec<_> = differing
        .map(|(name, value)| format!("{}={}", escape(name), value.escape_ascii()))
        .collect();
    if shown.is_empty() {
        "nothing more".to_owned()
    } else {
        shown.join(" ")
    }
}
