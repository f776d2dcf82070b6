//! Orders what the disk says about dirty paths into one batch of operations.
//!
//! Parents before children; renames first, as the source did them; removes after everything that may
//! have moved away from them, deepest first; the metadata of touched directories last, since each entry
//! made or removed below changes a directory's time.

use std::collections::BTreeSet;

use syncd_proto::digest::Digest;
use syncd_proto::limits;
use syncd_proto::meta::{EntryMeta, Kind, Meta};
use syncd_proto::op::{Content, Expect, Op, TransferId};
use syncd_proto::path::WirePath;

use crate::logic::coalesce::{Look, Rename, Taken};
use crate::logic::held::Place;
use crate::logic::links::Inode;

/// Operations after which a batch is sent, whatever else is dirty.
const BATCH_OPS: usize = 1_024;

/// Operations and inline bytes after which a batch of what comparisons found ends where a directory does, so that as many as
/// can be come whole. It has room for twice as much as others.
const WHOLE_OPS: usize = 256;
const WHOLE_INLINE_BYTES: usize = 512 << 10;

/// Inline bytes after which a batch is sent.
const BATCH_INLINE_BYTES: usize = 1 << 20;

/// The same on a slow link: the receiver works at what has come while the rest comes.
const SLOW_BATCH_INLINE_BYTES: usize = 128 << 10;

/// Encoded size after which a batch is sent, estimated; well below the limit of a frame body.
const BATCH_BODY_BYTES: usize = limits::BODY_BYTES_MAX / 2;

/// What stands at a dirty path now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// Nothing, and at the target it may only go if nothing is in it.
    AbsentName,
    /// A directory.
    Dir(Meta),
    /// A symlink.
    Symlink {
        /// Its metadata.
        meta: Meta,
        /// Its target.
        target: Vec<u8>,
        /// Which one it is, if it has several names.
        linked: Option<Inode>,
    },
    /// A fifo, socket or device.
    Special {
        /// Its metadata.
        meta: Meta,
        /// What it is.
        kind: Kind,
        /// Device numbers.
        rdev: (u32, u32),
        /// Which one it is, if it has several names.
        linked: Option<Inode>,
    },
    /// A file small enough to travel inline.
    Small {
        /// Its metadata.
        meta: Meta,
        /// Its content.
        bytes: Vec<u8>,
        /// Digest of the content.
        digest: Digest,
        /// Which file it is, if it has several names.
        linked: Option<Inode>,
        /// Its place among those whose content the target is believed to have, if it has one.
        place: Option<Place>,
    },
    /// A small file whose content the target has, if all is as it is believed to be.
    Same {
        /// Its metadata.
        meta: Meta,
        /// Its length in bytes.
        len: u32,
        /// Digest of its content.
        digest: Digest,
        /// Which file it is, if it has several names.
        linked: Option<Inode>,
        /// The other ones.
        names: Vec<WirePath>,
    },
    /// A file whose content has been staged.
    Staged {
        /// Its metadata.
        meta: Meta,
        /// The transfer.
        transfer: TransferId,
        /// Its length in bytes.
        len: u64,
        /// Its digest.
        digest: Digest,
        /// Which file it is.
        file: Inode,
        /// The same, if it has several names.
        linked: Option<Inode>,
    },
    /// Another name of a file that the target has, or gets earlier in the log.
    Link {
        /// That name.
        to: WirePath,
    },
    /// Something whose metadata alone is sent.
    Metadata {
        /// What it is.
        kind: Kind,
        /// Length of a regular file, else 0.
        size: u64,
        /// Its metadata.
        meta: Meta,
    },
}

impl Found {
    /// The metadata it sets, if it sets some.
    #[must_use]
    pub const fn meta(&self) -> Option<&Meta> {
        match self {
            Self::Dir(meta)
            | Self::Symlink { meta, .. }
            | Self::Special { meta, .. }
            | Self::Small { meta, .. }
            | Self::Same { meta, .. }
            | Self::Staged { meta, .. }
            | Self::Metadata { meta, .. } => Some(meta),
            Self::Absent | Self::AbsentName | Self::Link { .. } => None,
        }
    }

    /// Which file it is, if its content goes, or may go, and it has several names.
    #[must_use]
    pub const fn linked(&self) -> Option<Inode> {
        match self {
            Self::Symlink { linked, .. }
            | Self::Special { linked, .. }
            | Self::Small { linked, .. }
            | Self::Same { linked, .. }
            | Self::Staged { linked, .. } => *linked,
            _ => None,
        }
    }
}

/// What an operation of a batch was made for: where to put the blame when it is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A dirty path.
    Path(Taken),
    /// A rename.
    Rename(Rename),
    /// A directory whose metadata, or a name of a file whose link, follows a change elsewhere.
    Follows(WirePath),
}

/// A batch, ready to be signed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The operations.
    pub ops: Vec<Op>,
    /// Inline content, in the order of the operations.
    pub inline: Vec<u8>,
    /// What each operation was made for; as long as `ops`.
    pub causes: Vec<Cause>,
}

/// Collects operations for one batch.
#[derive(Debug, Default)]
pub struct Planner {
    renames: Vec<(Op, Cause)>,
    makes: Vec<(Op, Cause)>,
    removes: Vec<(Op, Cause)>,
    inline: Vec<u8>,
    touched: BTreeSet<WirePath>,
    body_bytes: usize,
}

impl Planner {
    /// A planner for an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, whose inline content goes into this buffer.
    #[must_use]
    pub fn with_buffer(inline: Vec<u8>) -> Self {
        Self {
            inline,
            ..Self::default()
        }
    }

    /// Its buffer, for another one; what was added is lost.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.inline
    }

    /// Adds a rename. `there` is what stands at the new name now; the receiver must find the same at
    /// the old one.
    pub fn rename(&mut self, rename: Rename, there: Option<&EntryMeta>) {
        let expect = there.map(|entry| Expect {
            kind: entry.kind,
            size: if entry.kind == Kind::File {
                entry.size
            } else {
                0
            },
            mtime: (entry.kind != Kind::Dir).then_some(entry.mtime),
        });
        let op = Op::Rename {
            from: rename.from.clone(),
            to: rename.to.clone(),
            expect,
        };
        self.count(&op);
        self.touch(&rename.from);
        self.touch(&rename.to);
        self.renames.push((op, Cause::Rename(rename)));
    }

    /// Adds the swap of two directories.
    pub fn exchange(&mut self, rename: Rename) {
        let op = Op::Exchange {
            a: rename.from.clone(),
            b: rename.to.clone(),
        };
        self.count(&op);
        self.touch(&rename.from);
        self.touch(&rename.to);
        self.renames.push((op, Cause::Rename(rename)));
    }

    /// Adds what was found at a dirty path.
    pub fn found(&mut self, taken: Taken, found: Found) {
        let path = WirePath::clone(&taken.path);
        // What cannot be opened is replaced by one like it, which changes its directory. So does a file that comes in the
        // place of another one with its content.
        let metadata_only = taken.mark.look == Look::Meta
            && matches!(
                found,
                Found::Metadata {
                    kind: Kind::File | Kind::Dir | Kind::Symlink,
                    ..
                }
            );
        let op = match found {
            Found::Absent | Found::AbsentName => {
                let recursive = found == Found::Absent;
                let op = Op::Remove { path, recursive };
                self.count(&op);
                self.touch(&taken.path);
                self.removes.push((op, Cause::Path(taken)));
                return;
            }
            Found::Dir(meta) => Op::Mkdir { path, meta },
            Found::Symlink { meta, target, .. } => Op::Symlink { path, meta, target },
            Found::Special {
                meta, kind, rdev, ..
            } => Op::Special {
                path,
                meta,
                kind,
                rdev,
            },
            Found::Small {
                meta,
                bytes,
                digest,
                ..
            } => {
                let len = bytes.len() as u32;
                self.inline.extend_from_slice(&bytes);
                Op::Put {
                    path,
                    meta,
                    content: Content::Inline { len, digest },
                }
            }
            Found::Staged {
                meta,
                transfer,
                len,
                digest,
                ..
            } => Op::Put {
                path,
                meta,
                content: Content::Staged {
                    transfer,
                    len,
                    digest,
                },
            },
            Found::Same {
                meta,
                len,
                digest,
                names,
                ..
            } => Op::Same {
                path,
                len,
                digest,
                meta,
                names,
            },
            Found::Link { to } => Op::Link { path, to },
            Found::Metadata { kind, size, meta } => Op::SetMeta {
                path,
                kind,
                size,
                meta,
            },
        };
        self.count(&op);
        if !metadata_only {
            self.touch(&taken.path);
        }
        self.makes.push((op, Cause::Path(taken)));
    }

    /// Adds a link that follows the content just added for `to`.
    pub fn relink(&mut self, path: &WirePath, to: &WirePath) {
        let op = Op::Link {
            path: path.clone(),
            to: to.clone(),
        };
        self.count(&op);
        self.touch(path);
        self.makes.push((op, Cause::Follows(path.clone())));
    }

    /// Whether the batch should be sent before more is added; `slow`: over a slow link.
    #[must_use]
    pub fn is_full(&self, slow: bool) -> bool {
        // Others may wait for what was heard of, and nobody for what was found.
        let is_found = self.makes.last().is_some_and(is_found);
        let (ops, inline_bytes) = match (slow, is_found) {
            (true, _) => (BATCH_OPS, SLOW_BATCH_INLINE_BYTES),
            (false, false) => (BATCH_OPS, BATCH_INLINE_BYTES),
            (false, true) => (2 * BATCH_OPS, 2 * BATCH_INLINE_BYTES),
        };
        self.len() >= ops
            || self.inline.len() >= inline_bytes
            || self.body_bytes >= BATCH_BODY_BYTES
    }

    /// Whether it should be sent before this path is added, since a directory ended.
    #[must_use]
    pub fn ends_before(&self, next: &Taken) -> bool {
        let is_enough = self.len() >= WHOLE_OPS || self.inline.len() >= WHOLE_INLINE_BYTES;
        let last = self.makes.last().filter(|_| is_enough && next.mark.late);
        last.is_some_and(|(op, _)| !next.path.is_beside_or_in(op.path()))
    }

    /// Whether a file of this length fits in.
    #[must_use]
    pub fn has_room(&self, len: u64) -> bool {
        self.inline.len() as u64 + len <= limits::COMMIT_INLINE_BYTES_MAX as u64
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many removes it holds: the brake counts them.
    #[must_use]
    pub fn removes(&self) -> usize {
        self.removes.len()
    }

    /// Directories whose entries change, whose metadata must follow.
    #[must_use]
    pub fn touched(&self) -> Vec<WirePath> {
        let removed: BTreeSet<_> = self.removes.iter().map(|(op, _)| op.path()).collect();
        // Of one that goes in this very batch nothing is to be found out any more.
        let touched = self.touched.iter().filter(|path| !removed.contains(path));
        touched.cloned().collect()
    }

    /// The batch, with the metadata of touched directories that are (still) there.
    #[must_use]
    pub fn finish(mut self, dirs: Vec<(WirePath, Meta)>) -> Batch {
        self.removes.reverse();
        let dirs = dirs.into_iter().rev().map(|(path, meta)| {
            let op = Op::SetMeta {
                path: path.clone(),
                kind: Kind::Dir,
                size: 0,
                meta,
            };
            (op, Cause::Follows(path))
        });
        let (ops, causes) = self
            .renames
            .into_iter()
            .chain(self.makes)
            .chain(self.removes)
            .chain(dirs)
            .unzip();
        Batch {
            ops,
            inline: self.inline,
            causes,
        }
    }

    fn len(&self) -> usize {
        self.renames.len() + self.makes.len() + self.removes.len() + self.touched.len()
    }

    fn touch(&mut self, path: &WirePath) {
        if let Some(parent) = path.parent() {
            self.touched.insert(parent);
        }
    }

    fn count(&mut self, op: &Op) {
        let names: usize = op
            .paths()
            .flat_map(|path| path.names())
            .map(|name| name.as_bytes().len() + 3)
            .sum();
        let target = match op {
            Op::Symlink { target, .. } => target.len(),
            _ => 0,
        };
        let attributes: usize = op
            .meta()
            .and_then(|meta| meta.xattrs.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|xattr| xattr.name.len() + xattr.value.len() + 12)
            .sum();
        self.body_bytes += 128 + 2 * names + target + attributes;
    }
}

/// Whether it was made for what a comparison found.
fn is_found((_, cause): &(Op, Cause)) -> bool {
    matches!(cause, Cause::Path(taken) if taken.mark.late)
}

#[cfg(test)]
mod tests {
    use syncd_proto::meta::{Mtime, Xattr};

    use super::*;
    use crate::logic::coalesce::{DirtySet, Remote, Settle};

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn meta() -> Meta {
        Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::new(0, 0).unwrap(),
            xattrs: None,
        }
    }

    fn dirty(paths: &[&str]) -> Vec<Taken> {
        let mut set = DirtySet::new(Settle {
            settle_ms: 0,
            hold_max_ms: 0,
            marks_max: 99,
            delete: true,
        });
        for text in paths {
            set.written(path(text), 0);
        }
        set.take(0, 99)
    }

    fn words(batch: &Batch) -> Vec<String> {
        batch
            .ops
            .iter()
            .map(|op| format!("{} {}", op.verb(), op.path()))
            .collect()
    }

    #[test]
    fn parents_first_removes_deepest_first_directory_times_last() {
        let mut planner = Planner::new();
        for taken in dirty(&["a", "a/f", "old", "old/sub"]) {
            let found = match taken.path.to_string().as_str() {
                "a" => Found::Dir(meta()),
                "a/f" => Found::Small {
                    meta: meta(),
                    bytes: b"x".to_vec(),
                    digest: Digest::of(b"x"),
                    linked: None,
                    place: None,
                },
                _ => Found::Absent,
            };
            planner.found(taken, found);
        }
        let dirs = planner.touched();
        // Nobody asks what became of the one that goes.
        assert_eq!(dirs, [WirePath::root(), path("a")]);
        let dirs = dirs.into_iter().map(|dir| (dir, meta())).collect();
        let batch = planner.finish(dirs);
        assert_eq!(
            words(&batch),
            [
                "mkdir a",
                "put a/f",
                "remove old/sub",
                "remove old",
                "set metadata of a",
                "set metadata of ."
            ]
        );
        assert_eq!(batch.causes.len(), batch.ops.len());
        assert_eq!(batch.inline, b"x");
    }

    #[test]
    fn a_metadata_change_touches_no_parent_unless_the_file_may_be_another() {
        for (look, touched) in [
            (Look::Meta, vec![]),
            (Look::Doubt, vec![path("d")]),
            (Look::Content, vec![path("d")]),
        ] {
            let mut planner = Planner::new();
            let mut taken = dirty(&["d/f"]).remove(0);
            taken.mark.look = look;
            let found = Found::Metadata {
                kind: Kind::File,
                size: 1,
                meta: meta(),
            };
            planner.found(taken, found);
            assert_eq!(planner.touched(), touched);
        }
    }

    #[test]
    fn a_metadata_change_of_what_is_replaced_touches_its_parent() {
        let mut planner = Planner::new();
        for taken in dirty(&["d/fifo"]) {
            planner.found(
                taken,
                Found::Metadata {
                    kind: Kind::Fifo,
                    size: 0,
                    meta: meta(),
                },
            );
        }
        assert_eq!(planner.touched(), [path("d")]);
    }

    #[test]
    fn attributes_fill_a_batch_too() {
        let mut planner = Planner::new();
        let value = vec![0; limits::XATTR_VALUE_BYTES_MAX];
        for taken in dirty(&["a", "b"]) {
            let xattrs = vec![Xattr {
                name: b"user.x".to_vec(),
                value: value.clone(),
            }];
            let meta = Meta {
                xattrs: Some(xattrs),
                ..meta()
            };
            planner.found(taken, Found::Dir(meta));
        }
        assert!(planner.is_full(false));
    }

    #[test]
    fn a_batch_is_full_by_count_and_by_bytes() {
        let mut planner = Planner::new();
        let mut add = |name, len| {
            let taken = dirty(&[name]).remove(0);
            let small = Found::Small {
                meta: meta(),
                bytes: vec![0; len],
                digest: Digest::empty(),
                linked: None,
                place: None,
            };
            planner.found(taken, small);
            (planner.is_full(false), planner.is_full(true))
        };
        assert_eq!(add("e", SLOW_BATCH_INLINE_BYTES - 1), (false, false));
        assert_eq!(add("f", 1), (false, true));
        let rest = BATCH_INLINE_BYTES - SLOW_BATCH_INLINE_BYTES;
        assert_eq!(add("g", rest), (true, true));
        assert!(planner.has_room(1));
        assert!(!planner.has_room(limits::COMMIT_INLINE_BYTES_MAX as u64));
    }

    #[test]
    fn a_batch_of_what_was_found_ends_where_a_directory_does() {
        let late = |text: &str| {
            let mut set = DirtySet::new(Settle {
                settle_ms: 0,
                hold_max_ms: 0,
                marks_max: 99,
                delete: true,
            });
            set.found(path(text), Look::Content, Remote::Absent, 0);
            set.take(0, 99).remove(0)
        };
        let small = |len: usize| Found::Small {
            meta: meta(),
            bytes: vec![0; len],
            digest: Digest::of(b""),
            linked: None,
            place: None,
        };
        let half = WHOLE_INLINE_BYTES / 2;
        let mut planner = Planner::new();
        planner.found(late("a"), Found::Dir(meta()));
        planner.found(late("a/1"), small(half));
        assert!(!planner.ends_before(&late("b")), "there is little in it");
        planner.found(late("a/2"), small(half));
        assert!(planner.ends_before(&late("b")));
        assert!(!planner.ends_before(&late("a/3")));
        assert!(!planner.ends_before(&dirty(&["b"]).remove(0)), "heard of");
        planner.found(late("a/b"), Found::Dir(meta()));
        assert!(!planner.ends_before(&late("a/b/1")));
        planner.found(late("a/b/1"), small(half));
        assert!(planner.ends_before(&late("a/c")));
        // Up to what a commit may have, unless the link is slow, or others may wait.
        assert!(!planner.is_full(false) && planner.is_full(true));
        planner.found(late("a/b/2"), small(half));
        assert!(!planner.is_full(false));
        planner.found(dirty(&["f"]).remove(0), small(0));
        assert!(planner.is_full(false));
    }
}
