//! Two-tier delta: what of a new file the receiver already has.
//!
//! | step | side | what |
//! |---|---|---|
//! | [`GroupHasher`] | both | digests of aligned groups and of the whole file, in one pass |
//! | [`GroupList::compare`], [`Matcher`] | agent | which groups are equal at the same offset, which are not |
//! | [`BlockQuery::plan`] | agent | whether and how finely to ask for the rest |
//! | [`sign_range`] | receiver | sums of the blocks of the ranges asked for |
//! | [`BlockSignature`], [`BlockIndex::diff_window`] | agent | copies and literals, window by window |
//! | [`LiteralMeter`] | agent | when searching no longer pays |
//! | [`Chunker`] | agent | instructions and literals packed into `StageChunk`s |
//! | [`apply`] | tests | the instructions, carried out in memory |
//!
//! Nothing here proves anything: a wrong match gives wrong bytes, and the BLAKE3 digest of the whole
//! file is what finds out. A signature is hostile input; nothing here panics on one, and its header
//! never crosses the wire.

mod blocks;
mod cache;
mod groups;
mod hasher;
mod matcher;
mod ops;
mod plan;
mod window;

#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use blocks::blocks_of;
pub use blocks::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BlockIndex, BlockSignature, BlockSize, SUM_BYTES,
    block_bytes_for, sign_range,
};
pub use cache::{GroupCache, KnownVersion};
pub use groups::{GROUP_DIGEST_BYTES, GroupDiff, GroupDigest, GroupList, Segment, group_bytes};
pub use hasher::{GroupHasher, group_digests};
pub use matcher::Matcher;
pub use ops::{CHUNK_LITERAL_BYTES, Chunk, Chunker, LiteralMeter, apply};
pub use plan::{BlockQuery, IN_PLACE_RUN_BYTES_MAX};
pub use window::{WINDOW_BYTES_MAX, WindowDelta};

/// What is wrong with a signature or with instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeltaError {
    /// A signature of another length than its file and block size make it.
    SignatureLength {
        /// Bytes it must have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// More blocks than an index may hold.
    TooManyBlocks(u64),
    /// Ranges that overlap, run backwards, are not aligned to the block size, or leave the file.
    BadRanges,
    /// A window above [`WINDOW_BYTES_MAX`].
    WindowTooLarge(usize),
    /// What fast_rsync wrote is not a delta of its window.
    Search(&'static str),
    /// A copy from beyond the end of the basis.
    CopyBeyondBasis {
        /// Offset in the basis, in bytes.
        from: u64,
        /// Length in bytes.
        len: u64,
    },
    /// More output than was allowed.
    OutputLimit(u64),
    /// Literal instructions and literal bytes that do not add up.
    LiteralsDiffer,
}

impl fmt::Display for DeltaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignatureLength { expected, found } => {
                write!(f, "signature of {found} bytes where {expected} are due")
            }
            Self::TooManyBlocks(count) => write!(f, "signature of {count} blocks is too long"),
            Self::BadRanges => f.write_str("signature ranges out of order or out of the file"),
            Self::WindowTooLarge(size) => write!(f, "window of {size} bytes is too large"),
            Self::Search(what) => write!(f, "block search failed: {what}"),
            Self::CopyBeyondBasis { from, len } => {
                write!(f, "copy of {len} bytes at {from} is beyond the basis")
            }
            Self::OutputLimit(limit) => write!(f, "output is above the limit of {limit} bytes"),
            Self::LiteralsDiffer => f.write_str("literal lengths and literal bytes differ"),
        }
    }
}

impl std::error::Error for DeltaError {}
