//! [`Upload`]: what a transfer puts out, in order, on its way into chunks.
//!
//! Literals are held back until there are many, or until the whole file has been read: a version that
//! turns out to have changed meanwhile has then cost nothing. What the receiver has from an interrupted
//! transfer is left out.

use syncd_proto::delta::{Chunk, Chunker, WindowDelta};
use syncd_proto::message::{AgentMessage, PatchOp, StageBegin};

use crate::net::link::LinkError;
use crate::pipeline::bulk::Channel;

/// Literals held back, at most.
const HELD_BYTES_MAX: u64 = 4 << 20;

/// Copies go on their way when they are of so many bytes, so that the receiver works meanwhile.
const COPIED_BYTES: u64 = 16 << 20;

/// The same of a file that may well change meanwhile, so that the work was for nothing.
const UNSURE_COPIED_BYTES: u64 = 64 << 20;

/// See the module.
pub struct Upload<'a> {
    channel: &'a Channel<'a>,
    /// Not sent yet.
    begin: Option<StageBegin>,
    chunker: Chunker,
    held: Vec<Chunk>,
    /// Literals so far.
    literal_bytes: u64,
    released: bool,
    /// Whether copies wait for the first literal, since the file may be what the receiver has.
    patient: bool,
    /// Output in the chunker.
    pending: u64,
    /// Output that the receiver has already.
    skip: u64,
}

impl<'a> Upload<'a> {
    /// A transfer that will begin so. `sure`: the file is not expected to change while it is read, and
    /// nothing is held back.
    #[must_use]
    pub fn new(channel: &'a Channel<'a>, begin: StageBegin, sure: bool) -> Self {
        Self {
            channel,
            skip: begin.resume_at,
            chunker: Chunker::new(begin.transfer),
            begin: Some(begin),
            held: Vec::new(),
            literal_bytes: 0,
            released: sure,
            patient: false,
            pending: 0,
        }
    }

    /// Copies wait for the first literal or hole: perhaps there is none, and nothing to be sent.
    pub fn wait_for_a_difference(&mut self) {
        self.patient = true;
    }

    /// Whether the receiver has heard of it.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begin.is_none()
    }

    /// Bytes that the receiver has not got.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn literal(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let known = self.known(bytes.len() as u64) as usize;
        let rest = bytes.get(known..).unwrap_or_default();
        let mut full = Vec::new();
        self.chunker.literal(rest, &mut full);
        self.literal_bytes += rest.len() as u64;
        self.pending += rest.len() as u64;
        self.pass(full)
    }

    /// The same for bytes that need not be packed with others.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn data(&mut self, mut bytes: Vec<u8>) -> Result<(), LinkError> {
        let known = self.known(bytes.len() as u64) as usize;
        if known > 0 {
            bytes.drain(..known);
        }
        let Ok(len) = u32::try_from(bytes.len()) else {
            return self.literal(&bytes);
        };
        if len == 0 {
            return Ok(());
        }
        self.literal_bytes += u64::from(len);
        let mut chunks: Vec<_> = self.chunker.flush().into_iter().collect();
        chunks.push(self.chunker.single(PatchOp::Literal { len }, bytes));
        self.pass(chunks)
    }

    /// Bytes of the basis.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn copy(&mut self, from: u64, len: u64) -> Result<(), LinkError> {
        let known = self.known(len);
        let mut full = Vec::new();
        self.chunker.copy(from + known, len - known, &mut full);
        self.pending += len - known;
        self.pass(full)
    }

    /// Zeros that take no room.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn hole(&mut self, len: u64) -> Result<(), LinkError> {
        let len = len - self.known(len);
        let mut full = Vec::new();
        self.chunker.hole(len, &mut full);
        self.pending += len;
        self.pass(full)
    }

    /// What was found of a window.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn window(&mut self, window: &[u8], delta: &WindowDelta) -> Result<(), LinkError> {
        let mut literals = delta.literals.iter();
        for op in &delta.ops {
            match *op {
                PatchOp::Copy { from, len } => self.copy(from, len)?,
                PatchOp::Hole { len } => self.hole(len)?,
                PatchOp::Literal { .. } => {
                    let range = literals.next().cloned().unwrap_or_default();
                    self.literal(window.get(range).unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }

    /// Everything has been put out: sends what is left.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn finish(&mut self) -> Result<(), LinkError> {
        self.held.extend(self.chunker.flush());
        self.send()
    }

    /// How much of the next `len` bytes of output the receiver has.
    fn known(&mut self, len: u64) -> u64 {
        let known = self.skip.min(len);
        self.skip -= known;
        known
    }

    /// Takes chunks that are full, and sends what need not wait.
    fn pass(&mut self, full: Vec<Chunk>) -> Result<(), LinkError> {
        if !full.is_empty() {
            self.pending = 0;
        }
        self.held.extend(full);
        self.released |= self.literal_bytes > HELD_BYTES_MAX;
        let waits = match self.literal_bytes {
            0 => self.patient,
            _ => !self.released,
        };
        if waits {
            return Ok(());
        }
        let enough = match self.released {
            true => COPIED_BYTES,
            false => UNSURE_COPIED_BYTES,
        };
        if self.pending >= enough {
            self.pending = 0;
            self.held.extend(self.chunker.flush());
        }
        match self.held.is_empty() {
            true => Ok(()),
            false => self.send(),
        }
    }

    fn send(&mut self) -> Result<(), LinkError> {
        if let Some(begin) = self.begin.take() {
            let link = self.channel.link;
            link.send(&AgentMessage::StageBegin(begin), Vec::new())?;
        }
        for chunk in self.held.drain(..) {
            self.channel.chunk(chunk.message.ops, chunk.payload)?;
        }
        Ok(())
    }
}
