//! Second tier: fast_rsync block sums, made on the receiver and searched on the agent.

use fast_rsync::{IndexedSignature, Signature, SignatureOptions};

use crate::delta::{DeltaError, GroupList};
use crate::limits::{BLOCKS_MAX, SIGNATURE_RANGES_MAX};

/// Smallest block, in bytes.
pub const BLOCK_BYTES_MIN: u32 = 2 << 10;

/// Largest block, in bytes: two fit into a window with room to spare.
pub const BLOCK_BYTES_MAX: u32 = 4 << 20;

/// Bytes of MD4 kept per block. Only a search aid: eight leave one false match in 2^64, and the whole
/// file's BLAKE3 finds even one that somebody made (docs/decisions/0003-delta.md).
const HASH_BYTES: usize = 8;

/// Bytes of one block's sums on the wire: a rolling sum of 4 and 8 of MD4.
pub const SUM_BYTES: usize = 4 + HASH_BYTES;

/// Blocks compared at once where a copy may go on, at first: what can be summed in one go.
const FOLLOW_BLOCKS_MIN: usize = 16;

/// Bytes compared at once where a copy goes on.
const FOLLOW_BYTES_MAX: usize = 1 << 20;

/// Length of the header that fast_rsync expects and that never crosses the wire.
const HEADER_BYTES: usize = 12;

/// First word of fast_rsync's header: rolling sum and MD4.
const MD4_MAGIC: u32 = 0x7273_0136;

/// A block size within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize(u32);

impl BlockSize {
    /// The smallest, for ranges that changed in place.
    pub const MIN: Self = Self(BLOCK_BYTES_MIN);

    /// This size, if it is within the limits.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes >= BLOCK_BYTES_MIN && bytes <= BLOCK_BYTES_MAX {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// Block size for searching a file of this length as a whole: about its square root, in whole KiB, so
/// that signature and literals cost about the same; larger where the blocks would be too many.
#[must_use]
pub const fn block_bytes_for(len: u64) -> BlockSize {
    let few = len.div_ceil(BLOCKS_MAX);
    let root = len.isqrt();
    let wanted = if few > root { few } else { root };
    let wanted = wanted.div_ceil(1 << 10).saturating_mul(1 << 10);
    if wanted <= BLOCK_BYTES_MIN as u64 {
        BlockSize(BLOCK_BYTES_MIN)
    } else if wanted >= BLOCK_BYTES_MAX as u64 {
        BlockSize(BLOCK_BYTES_MAX)
    } else {
        BlockSize(wanted as u32)
    }
}

/// Appends the sums of the whole blocks of `data` to `out`; an incomplete last block has none, since it
/// would never match. A range may come in windows whose lengths are multiples of the block size.
pub fn sign_range(data: &[u8], block: BlockSize, out: &mut Vec<u8>) {
    let whole = data.len() - data.len() % block.0 as usize;
    let options = SignatureOptions {
        block_size: block.0,
        crypto_hash_size: HASH_BYTES as u32,
    };
    let signature = Signature::calculate(&data[..whole], options);
    out.extend_from_slice(&signature.serialized()[HEADER_BYTES..]);
}

/// Blocks of one range that was asked for.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Index of its first block in the signature.
    first: u64,
    /// Offset of that block in the basis.
    start: u64,
    blocks: u64,
}

/// Sums of blocks of the receiver's file, checked.
#[derive(Debug, Clone)]
pub struct BlockSignature {
    block: BlockSize,
    runs: Vec<Run>,
    inner: Signature,
}

impl BlockSignature {
    /// A peer's signature of a whole file of this length.
    ///
    /// # Errors
    /// [`DeltaError::SignatureLength`], [`DeltaError::TooManyBlocks`].
    pub fn from_peer(payload: &[u8], block: BlockSize, len: u64) -> Result<Self, DeltaError> {
        Self::from_ranges(payload, block, &[(0, len)], len)
    }

    /// A peer's signature of these ranges (offset, length) of a file of this length, as they were
    /// asked for.
    ///
    /// # Errors
    /// [`DeltaError::BadRanges`] if the question was wrong; [`DeltaError::SignatureLength`],
    /// [`DeltaError::TooManyBlocks`] if the answer is.
    pub fn from_ranges(
        payload: &[u8],
        block: BlockSize,
        ranges: &[(u64, u64)],
        len: u64,
    ) -> Result<Self, DeltaError> {
        let runs = runs_of(block, ranges, len)?;
        let blocks = runs.last().map_or(0, |run| run.first + run.blocks);
        if blocks > BLOCKS_MAX {
            return Err(DeltaError::TooManyBlocks(blocks));
        }
        let expected = blocks * SUM_BYTES as u64;
        if payload.len() as u64 != expected {
            return Err(DeltaError::SignatureLength {
                expected,
                found: payload.len() as u64,
            });
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&MD4_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&block.0.to_be_bytes());
        bytes.extend_from_slice(&(HASH_BYTES as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        let inner = Signature::deserialize(bytes)
            .map_err(|_| DeltaError::Search("signature not accepted"))?;
        Ok(Self { block, runs, inner })
    }

    /// Its block size.
    #[must_use]
    pub fn block(&self) -> BlockSize {
        self.block
    }

    /// How many blocks it has.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.first + run.blocks)
    }

    /// Makes it searchable; about 42 bytes a block.
    #[must_use]
    pub fn index(&self) -> BlockIndex<'_> {
        BlockIndex {
            signature: self,
            groups: None,
            inner: self.inner.index(),
        }
    }

    /// Offset in the basis of the block with this index.
    pub(super) fn offset_of(&self, index: u64) -> Option<u64> {
        let at = self
            .runs
            .partition_point(|run| run.first + run.blocks <= index);
        let run = self.runs.get(at)?;
        Some(run.start + index.checked_sub(run.first)? * u64::from(self.block.0))
    }

    /// Index of the block at this offset of the basis, if it was signed.
    pub(super) fn index_at(&self, offset: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.start <= offset);
        let run = self.runs.get(at.checked_sub(1)?)?;
        let within = offset - run.start;
        let size = u64::from(self.block.0);
        let found = within.is_multiple_of(size) && within / size < run.blocks;
        found.then(|| run.first + within / size)
    }

    /// How many bytes at the beginning of `bytes` are the whole blocks that begin at this offset of the
    /// basis.
    pub(super) fn followed_by(&self, offset: u64, bytes: &[u8]) -> u64 {
        let Some(first) = self.index_at(offset) else {
            return 0;
        };
        let at = self.runs.partition_point(|run| run.start <= offset);
        let run = at.checked_sub(1).and_then(|at| self.runs.get(at));
        let end = run.map_or(first, |run| run.first + run.blocks);
        let size = self.block.0 as usize;
        let (mut index, mut batch, mut sums) = (first, FOLLOW_BLOCKS_MIN, Vec::new());
        let mut rest = bytes;
        while index < end && rest.len() >= size {
            let count = batch.min(rest.len() / size).min((end - index) as usize);
            let (head, tail) = rest.split_at(count * size);
            sums.clear();
            sign_range(head, self.block, &mut sums);
            let found = sums.chunks_exact(SUM_BYTES).zip(index..end);
            let equal = found.take_while(|(sum, index)| self.sums(*index) == Some(*sum));
            let equal = equal.count();
            index += equal as u64;
            if equal < count {
                break;
            }
            rest = tail;
            batch = (batch * 2).min(FOLLOW_BYTES_MAX.div_ceil(size).max(FOLLOW_BLOCKS_MIN));
        }
        (index - first) * size as u64
    }

    /// The sums of a block.
    pub(super) fn sums(&self, index: u64) -> Option<&[u8]> {
        let start = usize::try_from(index).ok()?.checked_mul(SUM_BYTES)?;
        let start = start.checked_add(HEADER_BYTES)?;
        self.inner.serialized().get(start..start + SUM_BYTES)
    }
}

/// How many whole blocks these ranges (offset, length) have; `None` if they overlap, run backwards or
/// are not aligned to the block size.
pub(crate) fn blocks_of(block: BlockSize, ranges: &[(u64, u64)]) -> Option<u64> {
    let runs = runs_of(block, ranges, u64::MAX).ok()?;
    Some(runs.last().map_or(0, |run| run.first + run.blocks))
}

fn runs_of(block: BlockSize, ranges: &[(u64, u64)], len: u64) -> Result<Vec<Run>, DeltaError> {
    if ranges.len() > SIGNATURE_RANGES_MAX {
        return Err(DeltaError::BadRanges);
    }
    let size = u64::from(block.0);
    let mut runs: Vec<Run> = Vec::with_capacity(ranges.len());
    let (mut free_from, mut first) = (0, 0);
    for &(start, length) in ranges {
        let end = start.checked_add(length).ok_or(DeltaError::BadRanges)?;
        if start < free_from || end > len || !start.is_multiple_of(size) {
            return Err(DeltaError::BadRanges);
        }
        let blocks = length / size;
        if blocks > 0 {
            runs.push(Run {
                first,
                start,
                blocks,
            });
        }
        first += blocks;
        free_from = end;
    }
    Ok(runs)
}

/// A [`BlockSignature`] made searchable.
#[derive(Debug, Clone)]
pub struct BlockIndex<'a> {
    pub(super) signature: &'a BlockSignature,
    pub(super) groups: Option<&'a GroupList>,
    pub(super) inner: IndexedSignature<'a>,
}
