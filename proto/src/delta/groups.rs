//! First tier: digests of aligned groups, compared at equal offsets.

use crate::delta::DeltaError;
use crate::delta::hasher::group_digest;
use crate::limits::{GROUP_BYTES, GROUPS_MAX};

/// Length of a group's digest, in memory and on the wire.
pub const GROUP_DIGEST_BYTES: usize = 32;

/// Digest of one group.
pub type GroupDigest = [u8; GROUP_DIGEST_BYTES];

/// Group size for a file of this length: [`GROUP_BYTES`], doubled until the list fits its limit.
#[must_use]
pub const fn group_bytes(len: u64) -> u64 {
    let mut group = GROUP_BYTES;
    while len.div_ceil(group) > GROUPS_MAX {
        group *= 2;
    }
    group
}

/// The groups of one version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupList {
    pub(super) group_bytes: u64,
    pub(super) len: u64,
    pub(super) digests: Vec<GroupDigest>,
}

impl GroupList {
    /// A peer's list for a file of this length.
    ///
    /// # Errors
    /// [`DeltaError::SignatureLength`] unless it has exactly the groups of such a file.
    pub fn from_payload(payload: &[u8], len: u64) -> Result<Self, DeltaError> {
        let group_bytes = group_bytes(len);
        let expected = len.div_ceil(group_bytes) * GROUP_DIGEST_BYTES as u64;
        let (digests, rest) = payload.as_chunks::<GROUP_DIGEST_BYTES>();
        if payload.len() as u64 != expected || !rest.is_empty() {
            return Err(DeltaError::SignatureLength {
                expected,
                found: payload.len() as u64,
            });
        }
        Ok(Self {
            group_bytes,
            len,
            digests: digests.to_vec(),
        })
    }

    /// Its wire form; frames cut it at will.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        self.digests.as_flattened().to_vec()
    }

    /// Size of a group, in bytes.
    #[must_use]
    pub fn group_bytes(&self) -> u64 {
        self.group_bytes
    }

    /// Length of the file, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digests, in order.
    #[must_use]
    pub fn digests(&self) -> &[GroupDigest] {
        &self.digests
    }

    /// Whether it covers the whole file with the group size of its length: only such a list may be
    /// sent. One made with [`GroupHasher::against`](crate::delta::GroupHasher::against) may be shorter.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        self.group_bytes == group_bytes(self.len)
            && self.digests.len() as u64 == self.len.div_ceil(self.group_bytes)
    }

    /// How many bytes at the beginning of `bytes`, whatever their place in another version, are the whole groups that begin at
    /// this offset of this one.
    #[must_use]
    pub fn followed_by(&self, offset: u64, bytes: &[u8]) -> u64 {
        let mut followed = 0;
        while let Some(size) = self.size_at(offset + followed)
            && let Some(group) = bytes.get(followed as usize..(followed + size) as usize)
            && self.is_group(offset + followed, group)
        {
            followed += size;
        }
        followed
    }

    /// Length of the group that begins at this offset, in bytes; `None` if none does.
    pub(super) fn size_at(&self, offset: u64) -> Option<u64> {
        let begins = offset < self.len && offset.is_multiple_of(self.group_bytes);
        begins.then(|| self.group_bytes.min(self.len - offset))
    }

    fn is_group(&self, offset: u64, group: &[u8]) -> bool {
        let known = usize::try_from(offset / self.group_bytes).ok();
        let known = known.and_then(|index| self.digests.get(index));
        known.is_some_and(|known| *known == group_digest(offset, group))
    }

    /// Compares this (new) version with the receiver's. Lists of different group sizes have nothing
    /// in common: hash the new version [`GroupHasher::against`](crate::delta::GroupHasher::against) the basis.
    #[must_use]
    pub fn compare(&self, basis: &Self) -> GroupDiff {
        let mut diff = GroupDiff {
            segments: Vec::new(),
            len: self.len,
            basis_len: basis.len,
        };
        let comparable = self.group_bytes == basis.group_bytes;
        let groups = if comparable { self.digests.len() } else { 0 };
        for index in 0..groups {
            let (start, len) = self.span(index);
            let same = self.digests.get(index) == basis.digests.get(index)
                && basis.span(index) == (start, len);
            diff.push(start, len, same);
        }
        let compared = diff.compared_to();
        diff.push(compared, self.len - compared, false);
        diff
    }

    fn span(&self, index: usize) -> (u64, u64) {
        let start = (index as u64 * self.group_bytes).min(self.len);
        (start, self.group_bytes.min(self.len - start))
    }
}

/// A range of the new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// Whether the basis has the same bytes at the same offset.
    pub same: bool,
}

/// What the first tier found: segments that cover the new file in order, equal and changed in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDiff {
    segments: Vec<Segment>,
    len: u64,
    basis_len: u64,
}

impl GroupDiff {
    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Length of the new file, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the new file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Length of the basis, in bytes.
    #[must_use]
    pub fn basis_len(&self) -> u64 {
        self.basis_len
    }

    /// Bytes that are equal at equal offsets.
    #[must_use]
    pub fn same_bytes(&self) -> u64 {
        let same = self.segments.iter().filter(|segment| segment.same);
        same.map(|segment| segment.len).sum()
    }

    /// Whether both files are equal as far as the first tier can tell.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.len == self.basis_len && self.same_bytes() == self.len
    }

    /// Changed ranges of the new file that lie below the end of the basis: (offset, length).
    pub fn changed_in_basis(&self) -> impl Iterator<Item = (u64, u64)> {
        let changed = self.segments.iter().filter(|segment| !segment.same);
        changed.filter_map(|segment| {
            let end = (segment.start + segment.len).min(self.basis_len);
            (end > segment.start).then(|| (segment.start, end - segment.start))
        })
    }

    fn compared_to(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.start + last.len)
    }

    fn push(&mut self, start: u64, len: u64, same: bool) {
        if len == 0 {
            return;
        }
        match self.segments.last_mut() {
            Some(last) if last.same == same => last.len += len,
            _ => self.segments.push(Segment { start, len, same }),
        }
    }
}
