//! [`Matcher`]: which stretches of a new version the basis has at the same offset, in the one pass that
//! also gives the new version's own groups and digest.

use crate::delta::{GroupDigest, GroupHasher, GroupList};
use crate::digest::Digest;

/// Compares a new version with its basis as it is read. A stretch is a group; where the basis ends
/// within a group it is cut there, so that what was appended is told from what was there before.
#[derive(Debug, Clone)]
pub struct Matcher<'a> {
    basis: &'a GroupList,
    hasher: GroupHasher,
}

impl<'a> Matcher<'a> {
    /// Of a new version that is read from its beginning.
    #[must_use]
    pub fn new(basis: &'a GroupList) -> Self {
        Self {
            basis,
            hasher: GroupHasher::like(basis),
        }
    }

    /// Where the stretch ends that the next byte belongs to.
    #[must_use]
    pub fn stretch_end(&self) -> u64 {
        let (at, size) = (self.hasher.len(), self.basis.group_bytes());
        let end = (at / size).saturating_add(1).saturating_mul(size);
        match self.basis.len() {
            basis_end if at < basis_end => end.min(basis_end),
            _ => end,
        }
    }

    /// Adds bytes, at most to the end of the stretch.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Adds zeros, at most to the end of the stretch.
    pub fn update_zeros(&mut self, len: u64) {
        self.hasher.update_zeros(len);
    }

    /// Adds a whole stretch by its digest, which must be that of its bytes at this offset. `false`, and nothing is added,
    /// where the stretch is not a whole group or [`GroupHasher::add_known`] takes none.
    #[must_use]
    pub fn add_known(&mut self, digest: &GroupDigest) -> bool {
        let stretch = self.stretch_end() - self.hasher.len();
        stretch == self.basis.group_bytes() && self.hasher.add_known(digest)
    }

    /// Whether the stretch that ends here (at its own end, or with the file) is in the basis at the same
    /// offset.
    #[must_use]
    pub fn is_same(&self) -> bool {
        let (end, size) = (self.hasher.len(), self.basis.group_bytes());
        let Some(index) = end.div_ceil(size).checked_sub(1) else {
            return false;
        };
        let whole = index.saturating_add(1).saturating_mul(size);
        if end != whole.min(self.basis.len()) {
            return false;
        }
        let known = usize::try_from(index).ok();
        let known = known.and_then(|index| self.basis.digests().get(index));
        known.is_some() && known == self.hasher.open_digest().as_ref()
    }

    /// Groups and digest of the new version.
    #[must_use]
    pub fn finish(self) -> (GroupList, Digest) {
        self.hasher.finish()
    }
}
