//! Instructions: packed into chunks ([`Chunker`]), weighed ([`LiteralMeter`]), carried out ([`apply`]).

use crate::delta::{DeltaError, WindowDelta};
use crate::limits::{CHUNK_OPS_MAX, CHUNK_OUTPUT_BYTES_MAX};
use crate::message::{PatchOp, StageChunk};
use crate::op::TransferId;

/// Literals a chunk carries at most, in bytes: half of what a frame may, so that small things wait less
/// behind it.
pub const CHUNK_LITERAL_BYTES: usize = 1 << 20;

/// A chunk and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The message.
    pub message: StageChunk,
    /// Its literals.
    pub payload: Vec<u8>,
}

/// Packs instructions into chunks within every limit of a chunk; neighbours of a kind are merged.
#[derive(Debug)]
pub struct Chunker {
    transfer: TransferId,
    ops: Vec<PatchOp>,
    payload: Vec<u8>,
    output: u64,
}

impl Chunker {
    /// Packs for this transfer.
    #[must_use]
    pub const fn new(transfer: TransferId) -> Self {
        Self {
            transfer,
            ops: Vec::new(),
            payload: Vec::new(),
            output: 0,
        }
    }

    /// Adds literal bytes; chunks that are full go to `out`.
    pub fn literal(&mut self, mut bytes: &[u8], out: &mut Vec<Chunk>) {
        while !bytes.is_empty() {
            let room = self
                .room()
                .min((CHUNK_LITERAL_BYTES - self.payload.len()) as u64);
            let step = room.min(bytes.len() as u64) as usize;
            let (head, tail) = bytes.split_at(step);
            if step > 0 && self.push(PatchOp::Literal { len: step as u32 }) {
                self.payload.extend_from_slice(head);
                bytes = tail;
            } else {
                out.extend(self.flush());
            }
        }
    }

    /// Adds a copy from the basis.
    pub fn copy(&mut self, mut from: u64, mut len: u64, out: &mut Vec<Chunk>) {
        while len > 0 {
            let step = self.room().min(len);
            if step > 0 && self.push(PatchOp::Copy { from, len: step }) {
                from += step;
                len -= step;
            } else {
                out.extend(self.flush());
            }
        }
    }

    /// Adds a hole.
    pub fn hole(&mut self, mut len: u64, out: &mut Vec<Chunk>) {
        while len > 0 {
            let step = self.room().min(len);
            if step > 0 && self.push(PatchOp::Hole { len: step }) {
                len -= step;
            } else {
                out.extend(self.flush());
            }
        }
    }

    /// Adds what was found of a window.
    pub fn window(&mut self, window: &[u8], delta: &WindowDelta, out: &mut Vec<Chunk>) {
        let mut literals = delta.literals.iter();
        for op in &delta.ops {
            match *op {
                PatchOp::Copy { from, len } => self.copy(from, len, out),
                PatchOp::Hole { len } => self.hole(len, out),
                PatchOp::Literal { .. } => {
                    let range = literals.next().cloned().unwrap_or_default();
                    self.literal(window.get(range).unwrap_or_default(), out);
                }
            }
        }
    }

    /// A chunk of its own for one instruction and its literals, which are not copied; to be sent after
    /// what [`Self::flush`] gave.
    #[must_use]
    pub fn single(&self, op: PatchOp, payload: Vec<u8>) -> Chunk {
        Chunk {
            message: StageChunk {
                transfer: self.transfer,
                ops: vec![op],
            },
            payload,
        }
    }

    /// What has not gone yet, if anything: at the end, or when nothing more is ready.
    pub fn flush(&mut self) -> Option<Chunk> {
        if self.ops.is_empty() {
            return None;
        }
        self.output = 0;
        Some(Chunk {
            message: StageChunk {
                transfer: self.transfer,
                ops: std::mem::take(&mut self.ops),
            },
            payload: std::mem::take(&mut self.payload),
        })
    }

    fn room(&self) -> u64 {
        CHUNK_OUTPUT_BYTES_MAX - self.output
    }

    /// Adds an instruction to this chunk, or says that there is no room for one more.
    fn push(&mut self, op: PatchOp) -> bool {
        let merged = match (self.ops.last_mut(), op) {
            (Some(PatchOp::Literal { len }), PatchOp::Literal { len: more }) => {
                *len += more;
                true
            }
            (Some(PatchOp::Hole { len }), PatchOp::Hole { len: more }) => {
                *len += more;
                true
            }
            (
                Some(PatchOp::Copy { from, len }),
                PatchOp::Copy {
                    from: next,
                    len: more,
                },
            ) if *from + *len == next => {
                *len += more;
                true
            }
            _ => false,
        };
        if !merged && self.ops.len() == CHUNK_OPS_MAX {
            return false;
        }
        if !merged {
            self.ops.push(op);
        }
        self.output += op.output_len();
        true
    }
}

/// Says when searching no longer pays: literals are found at a tenth of the speed of copies, and
/// streaming them raw needs no search at all.
#[derive(Debug, Clone, Default)]
pub struct LiteralMeter {
    poor: u32,
}

impl LiteralMeter {
    /// Poor windows in a row after which it gives up.
    const POOR_MAX: u32 = 3;

    /// Takes note of a window: how much of it was covered, and how much of that by literals.
    pub fn note(&mut self, delta: &WindowDelta) {
        let poor = delta.literal_bytes() > delta.consumed as u64 / 2;
        self.poor = match (self.gives_up(), poor) {
            (true, _) => self.poor,
            (false, true) => self.poor + 1,
            (false, false) => 0,
        };
    }

    /// Whether to stop searching and stream the rest of the file raw.
    #[must_use]
    pub const fn gives_up(&self) -> bool {
        self.poor >= Self::POOR_MAX
    }
}

/// Carries out instructions in memory: the reference that other implementations are compared with.
///
/// # Errors
/// [`DeltaError::CopyBeyondBasis`], [`DeltaError::OutputLimit`], [`DeltaError::LiteralsDiffer`].
pub fn apply(
    basis: &[u8],
    ops: &[PatchOp],
    literals: &[u8],
    out_limit: usize,
) -> Result<Vec<u8>, DeltaError> {
    let total = ops
        .iter()
        .try_fold(0u64, |sum, op| sum.checked_add(op.output_len()));
    if total.is_none_or(|total| total > out_limit as u64) {
        return Err(DeltaError::OutputLimit(out_limit as u64));
    }
    let mut out = Vec::new();
    let mut rest = literals;
    for op in ops {
        match *op {
            PatchOp::Literal { len } => {
                let (head, tail) = rest
                    .split_at_checked(len as usize)
                    .ok_or(DeltaError::LiteralsDiffer)?;
                out.extend_from_slice(head);
                rest = tail;
            }
            PatchOp::Copy { from, len } => out.extend_from_slice(slice_of(basis, from, len)?),
            PatchOp::Hole { len } => out.resize(out.len() + len as usize, 0),
        }
    }
    if !rest.is_empty() {
        return Err(DeltaError::LiteralsDiffer);
    }
    Ok(out)
}

fn slice_of(basis: &[u8], from: u64, len: u64) -> Result<&[u8], DeltaError> {
    let end = from.checked_add(len);
    let range = usize::try_from(from)
        .ok()
        .zip(end.and_then(|end| usize::try_from(end).ok()));
    range
        .and_then(|(from, end)| basis.get(from..end))
        .ok_or(DeltaError::CopyBeyondBasis { from, len })
}
