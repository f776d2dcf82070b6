//! What to ask for after the first tier: [`BlockQuery`].

use crate::delta::{BlockSize, GroupDiff, GroupList, block_bytes_for};
use crate::limits::{BLOCKS_MAX, GROUP_BYTES, SIGNATURE_RANGES_MAX};
use crate::message::SignatureWant;

/// Runs of changed groups up to this length are taken for changes in place, where the finest blocks
/// pay; a longer one looks like content that moved.
pub const IN_PLACE_RUN_BYTES_MAX: u64 = 4 << 20;

/// How far [`BlockQuery::onward`] reaches, in bytes.
const ONWARD_BYTES: u64 = IN_PLACE_RUN_BYTES_MAX + (1 << 20);

/// What to ask the receiver for: the fields of `SignatureWant::Blocks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockQuery {
    /// Block size.
    pub block: BlockSize,
    /// Ranges of the basis (offset, length), ascending, aligned to the block size, apart.
    pub ranges: Vec<(u64, u64)>,
}

impl BlockQuery {
    /// As it travels, for this version of the basis.
    #[must_use]
    pub fn want(&self, version: [u8; 16]) -> SignatureWant {
        SignatureWant::Blocks {
            version,
            block_bytes: self.block.bytes(),
            ranges: self.ranges.clone(),
        }
    }

    /// The whole basis, searched at any offset. `None` if it is empty or has too many blocks even of
    /// the largest size.
    #[must_use]
    pub fn whole(basis_len: u64) -> Option<Self> {
        let block = block_bytes_for(basis_len);
        let blocks = basis_len / u64::from(block.bytes());
        (blocks > 0 && blocks <= BLOCKS_MAX).then(|| Self {
            block,
            ranges: vec![(0, basis_len)],
        })
    }

    /// The basis from the group at or before this offset on, as far as a change in place reaches: where content moved by less
    /// than that, it is found there. `None` at its end.
    #[must_use]
    pub fn onward(basis: &GroupList, offset: u64) -> Option<Self> {
        let start = offset - offset % basis.group_bytes();
        let len = basis.len().saturating_sub(start);
        let reach = ONWARD_BYTES.next_multiple_of(basis.group_bytes());
        Self::for_ranges(vec![(start, len.min(reach))], basis.len())
    }

    /// Whether it asks for the whole of a basis of this length.
    #[must_use]
    pub fn is_whole(&self, basis_len: u64) -> bool {
        self.ranges == [(0, basis_len)]
    }

    /// What to ask for after the first tier: nothing if what changed lies beyond the basis or is
    /// smaller than a block, the whole basis if most of it changed, otherwise the changed ranges.
    #[must_use]
    pub fn plan(diff: &GroupDiff) -> Option<Self> {
        Self::for_ranges(diff.changed_in_basis().collect(), diff.basis_len())
    }

    /// The same for these changed ranges (offset, length) of the basis, which begin at groups and ascend.
    #[must_use]
    pub fn for_ranges(mut ranges: Vec<(u64, u64)>, basis_len: u64) -> Option<Self> {
        let changed: u64 = ranges.iter().map(|(_, len)| len).sum();
        if changed < u64::from(BlockSize::MIN.bytes()) {
            return None;
        }
        if changed > basis_len / 2 {
            return Self::whole(basis_len);
        }
        let longest = ranges.iter().map(|(_, len)| *len).max().unwrap_or(0);
        join_nearest(&mut ranges);
        let asked: u64 = ranges.iter().map(|(_, len)| len).sum();
        let wanted = if longest > IN_PLACE_RUN_BYTES_MAX {
            u64::from(block_bytes_for(asked).bytes())
        } else {
            u64::from(BlockSize::MIN.bytes()).max(asked.div_ceil(BLOCKS_MAX))
        };
        // A power of two up to the group size divides every offset of a group.
        let block = u32::try_from(wanted.next_power_of_two()).ok();
        match block.and_then(BlockSize::new) {
            Some(block) if u64::from(block.bytes()) <= GROUP_BYTES => Some(Self { block, ranges }),
            _ => Self::whole(basis_len),
        }
    }
}

/// Joins ranges across the smallest gaps until their number is within the limit.
fn join_nearest(ranges: &mut Vec<(u64, u64)>) {
    let Some(excess) = ranges.len().checked_sub(SIGNATURE_RANGES_MAX) else {
        return;
    };
    let gap = |pair: &[(u64, u64)]| pair[1].0 - (pair[0].0 + pair[0].1);
    let mut gaps: Vec<(u64, usize)> = ranges
        .windows(2)
        .enumerate()
        .map(|(index, pair)| (gap(pair), index + 1))
        .collect();
    gaps.sort_unstable();
    let mut joined = vec![false; ranges.len()];
    for &(_, index) in gaps.iter().take(excess) {
        joined[index] = true;
    }
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(SIGNATURE_RANGES_MAX);
    for (&(start, len), join) in ranges.iter().zip(joined) {
        match merged.last_mut() {
            Some(last) if join => last.1 = start + len - last.0,
            _ => merged.push((start, len)),
        }
    }
    *ranges = merged;
}
