//! [`GroupHasher`]: the groups of a file and its digest, in one pass.
//!
//! A group's digest is its chaining value in the BLAKE3 tree of the whole file, so one pass over the
//! bytes gives the list and the file's digest; it depends on the group's offset, and groups are only
//! ever compared at equal offsets.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::delta::{GroupDigest, GroupList, group_bytes};
use crate::digest::Digest;
use crate::limits::GROUPS_MAX;

/// Builds a [`GroupList`] and the file's [`Digest`] from its bytes in order.
#[derive(Debug, Clone)]
pub struct GroupHasher {
    group_bytes: u64,
    /// Digests kept; groups beyond count for the file's digest only.
    keep: usize,
    len: u64,
    digests: Vec<GroupDigest>,
    group: blake3::Hasher,
    in_group: u64,
    /// Set while the open group is one whose digest was known, see [`Self::add_known`].
    known: Option<GroupDigest>,
    /// Roots of complete subtrees, the largest first: group counts are the bits of `merged`.
    stack: Vec<GroupDigest>,
    merged: u64,
}

impl GroupHasher {
    /// For a file of about this length: the list that goes to a peer or is kept for next time.
    #[must_use]
    pub fn for_len(len: u64) -> Self {
        Self::new(group_bytes(len), GROUPS_MAX as usize)
    }

    /// For a new version of a file: groups as large as the basis', and no more of them than it has.
    #[must_use]
    pub fn against(basis: &GroupList) -> Self {
        Self::new(basis.group_bytes, basis.digests.len())
    }

    /// For a new version of a file: groups as large as the basis', and all of them, to be compared as
    /// they come and kept for next time.
    #[must_use]
    pub fn like(basis: &GroupList) -> Self {
        Self::new(basis.group_bytes, GROUPS_MAX as usize)
    }

    fn new(group_bytes: u64, keep: usize) -> Self {
        Self {
            group_bytes,
            keep,
            len: 0,
            digests: Vec::new(),
            group: blake3::Hasher::new(),
            in_group: 0,
            known: None,
            stack: Vec::new(),
            merged: 0,
        }
    }

    /// Size of a group, in bytes.
    #[must_use]
    pub fn group_bytes(&self) -> u64 {
        self.group_bytes
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.close_full_group();
            let room = self.group_bytes - self.in_group;
            let step = room.min(bytes.len() as u64) as usize;
            let (head, tail) = bytes.split_at(step);
            self.group.update(head);
            self.in_group += step as u64;
            self.len += step as u64;
            bytes = tail;
        }
    }

    /// Adds `length` zero bytes: the content of a hole.
    pub fn update_zeros(&mut self, mut length: u64) {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        while length > 0 {
            let step = length.min(ZEROS.len() as u64);
            self.update(&ZEROS[..step as usize]);
            length -= step;
        }
    }

    /// Adds a whole group by its digest, which must be that of its bytes at this offset. `false`, and
    /// nothing is added, inside of a group, or in front of the first, whose bytes a file of one group
    /// needs.
    #[must_use]
    pub fn add_known(&mut self, digest: &GroupDigest) -> bool {
        if self.len == 0 || !self.len.is_multiple_of(self.group_bytes) {
            return false;
        }
        self.close_full_group();
        self.known = Some(*digest);
        self.in_group = self.group_bytes;
        self.len += self.group_bytes;
        true
    }

    /// Digest of the open group as far as it has come; `None` if nothing has been added.
    #[must_use]
    pub fn open_digest(&self) -> Option<GroupDigest> {
        match self.known {
            Some(digest) => Some(digest),
            None => (self.in_group > 0).then(|| self.group.finalize_non_root()),
        }
    }

    /// Digests of the groups that are complete and have more bytes behind them.
    #[must_use]
    pub fn closed(&self) -> &[GroupDigest] {
        &self.digests
    }

    /// Bytes added so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has been added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The list, and the digest of the whole file (the same as [`Digest::of`] its bytes).
    #[must_use]
    pub fn finish(mut self) -> (GroupList, Digest) {
        let digest = self.digest();
        if let Some(last) = self.open_digest()
            && self.digests.len() < self.keep
        {
            self.digests.push(last);
        }
        let list = GroupList {
            group_bytes: self.group_bytes,
            len: self.len,
            digests: self.digests,
        };
        (list, digest)
    }

    /// A group is closed only when more bytes follow: the last one may be the root.
    fn close_full_group(&mut self) {
        if self.in_group < self.group_bytes {
            return;
        }
        let value = match self.known.take() {
            Some(digest) => digest,
            None => self.group.finalize_non_root(),
        };
        if self.digests.len() < self.keep {
            self.digests.push(value);
        }
        let mut value = value;
        let mut complete = self.merged;
        while complete & 1 == 1 {
            let Some(left) = self.stack.pop() else { break };
            value = merge_subtrees_non_root(&left, &value, Mode::Hash);
            complete >>= 1;
        }
        self.stack.push(value);
        self.merged += 1;
        self.in_group = 0;
        self.group = group_at(self.len);
    }

    fn digest(&self) -> Digest {
        let mut stack = self.stack.iter().rev();
        let (Some(mut left), Some(mut right)) = (stack.next(), self.open_digest()) else {
            return Digest::from_bytes(*self.group.finalize().as_bytes());
        };
        for next in stack {
            right = merge_subtrees_non_root(left, &right, Mode::Hash);
            left = next;
        }
        let root = merge_subtrees_root(left, &right, Mode::Hash);
        Digest::from_bytes(*root.as_bytes())
    }
}

/// Digests of the whole groups that `bytes` begin with, which lie at `offset`: what [`GroupHasher::add_known`] takes. None if
/// no group begins there.
#[must_use]
pub fn group_digests(offset: u64, bytes: &[u8], group_bytes: u64) -> Vec<GroupDigest> {
    let size = usize::try_from(group_bytes).unwrap_or(usize::MAX);
    if !offset.is_multiple_of(group_bytes) {
        return Vec::new();
    }
    let groups = bytes.chunks_exact(size).zip((offset..).step_by(size));
    groups
        .map(|(group, start)| group_digest(start, group))
        .collect()
}

/// Digest of the group at this offset.
pub(super) fn group_digest(offset: u64, group: &[u8]) -> GroupDigest {
    group_at(offset).update(group).finalize_non_root()
}

/// A fresh one each time: `reset` keeps the old offset.
fn group_at(offset: u64) -> blake3::Hasher {
    let mut group = blake3::Hasher::new();
    group.set_input_offset(offset);
    group
}
