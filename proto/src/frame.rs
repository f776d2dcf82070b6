//! Frames: a fixed header, a small body, a raw payload.
//!
//! ```text
//! offset  size  field
//!      0     4  body length, bytes, little-endian
//!      4     4  payload length, bytes, little-endian
//!      8     8  sequence number of this direction, from 0, little-endian
//!     16     2  type, little-endian
//!     18     2  flags, little-endian: 1 if the payload is compressed (crate::pack), else 0
//!     20        body, then payload
//! ```

use crate::error::{DecodeError, ProtocolError};
use crate::limits::{BODY_BYTES_MAX, HANDSHAKE_BODY_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 20;

/// How much a frame may carry now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Largest body, in bytes.
    pub body: usize,
    /// Largest payload, in bytes.
    pub payload: usize,
    /// Whether payloads may be compressed.
    pub packed: bool,
}

impl FrameLimits {
    /// Before `Welcome`.
    pub const HANDSHAKE: Self = Self {
        body: HANDSHAKE_BODY_BYTES_MAX,
        payload: 0,
        packed: false,
    };
    /// After `Welcome`. What a receiver sends before it (`Welcome`, `Modules`) may be as large: its
    /// agent has chosen whom to call.
    pub const SESSION: Self = Self {
        body: BODY_BYTES_MAX,
        payload: PAYLOAD_BYTES_MAX,
        packed: false,
    };
    /// From an agent after a `Welcome` with [`FEATURE_ZSTD`](crate::message::FEATURE_ZSTD).
    pub const PACKED: Self = Self {
        packed: true,
        ..Self::SESSION
    };
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the body, in bytes.
    pub body_len: usize,
    /// Length of the payload, in bytes.
    pub payload_len: usize,
    /// Sequence number in its direction.
    pub seq: u64,
    /// Frame type.
    pub kind: u16,
    /// Whether the payload is compressed.
    pub packed: bool,
}

/// The flag of a compressed payload.
const FLAG_PACKED: u16 = 1;

impl Header {
    /// Decodes a header and checks its lengths.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] above `limits`; [`DecodeError::Invalid`] for flags that mean nothing here.
    pub fn parse(bytes: &[u8; HEADER_BYTES], limits: FrameLimits) -> Result<Self, DecodeError> {
        let [b0, b1, b2, b3, p0, p1, p2, p3, seq @ .., k0, k1, f0, f1] = *bytes;
        let flags = u16::from_le_bytes([f0, f1]);
        let header = Self {
            body_len: u32::from_le_bytes([b0, b1, b2, b3]) as usize,
            payload_len: u32::from_le_bytes([p0, p1, p2, p3]) as usize,
            seq: u64::from_le_bytes(seq),
            kind: u16::from_le_bytes([k0, k1]),
            packed: flags == FLAG_PACKED,
        };
        for (what, size, limit) in [
            ("frame body", header.body_len, limits.body),
            ("frame payload", header.payload_len, limits.payload),
        ] {
            if size > limit {
                return Err(DecodeError::TooLarge {
                    what,
                    size: size as u64,
                    limit: limit as u64,
                });
            }
        }
        let is_known = flags == 0 || (header.packed && header.payload_len > 0);
        if !is_known {
            return Err(DecodeError::Invalid("frame header"));
        }
        if header.packed && !limits.packed {
            return Err(DecodeError::Invalid(
                "frame header: compression was not agreed on",
            ));
        }
        Ok(header)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&(self.body_len as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.payload_len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.kind.to_le_bytes());
        let flags = if self.packed { FLAG_PACKED } else { 0 };
        bytes[18..20].copy_from_slice(&flags.to_le_bytes());
        bytes
    }
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Sequence number in its direction.
    pub seq: u64,
    /// Frame type.
    pub kind: u16,
    /// Encoded message.
    pub body: Vec<u8>,
    /// Bytes beside it, as on the wire.
    pub payload: Vec<u8>,
    /// Whether they are compressed.
    pub packed: bool,
}

impl Frame {
    /// Its header.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            body_len: self.body.len(),
            payload_len: self.payload.len(),
            seq: self.seq,
            kind: self.kind,
            packed: self.packed,
        }
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        HEADER_BYTES + self.body.len() + self.payload.len()
    }

    /// Appends its wire form to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.wire_len());
        out.extend_from_slice(&self.header().to_bytes());
        out.extend_from_slice(&self.body);
        out.extend_from_slice(&self.payload);
    }
}

/// Turns bytes as they arrive into whole frames, and checks that their numbers follow each other.
#[derive(Debug)]
pub struct Deframer {
    limits: FrameLimits,
    next_seq: u64,
    buffer: Vec<u8>,
    start: usize,
}

impl Deframer {
    /// A deframer that expects frame `next_seq` first.
    #[must_use]
    pub fn new(limits: FrameLimits, next_seq: u64) -> Self {
        Self {
            limits,
            next_seq,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// Changes the limits, from the next frame on.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// Number of the frame that must come next.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Takes bytes from the wire.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// A header above the limits or a number out of sequence. The connection is over then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let bytes = &self.buffer[self.start..];
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::parse(head, self.limits)?;
        if header.seq != self.next_seq {
            return Err(ProtocolError::Sequence {
                expected: self.next_seq,
                found: header.seq,
            });
        }
        let Some(content) = rest.get(..header.body_len + header.payload_len) else {
            return Ok(None);
        };
        let (body, payload) = content.split_at(header.body_len);
        let frame = Frame {
            seq: header.seq,
            kind: header.kind,
            body: body.to_vec(),
            payload: payload.to_vec(),
            packed: header.packed,
        };
        self.start += frame.wire_len();
        self.next_seq += 1;
        Ok(Some(frame))
    }

    /// Bytes that have arrived but do not make a frame yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seq: u64, body: usize, payload: usize) -> Frame {
        Frame {
            seq,
            kind: 11,
            body: vec![1; body],
            payload: vec![2; payload],
            packed: false,
        }
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let mut wire = Vec::new();
        frame(0, 3, 5).write_to(&mut wire);
        frame(1, 0, 0).write_to(&mut wire);
        let mut deframer = Deframer::new(FrameLimits::SESSION, 0);
        let mut found = Vec::new();
        for byte in wire {
            deframer.feed(&[byte]);
            while let Some(frame) = deframer.next_frame().unwrap() {
                found.push(frame);
            }
        }
        assert_eq!(found, [frame(0, 3, 5), frame(1, 0, 0)]);
        assert!(deframer.pending().is_empty());
    }

    #[test]
    fn a_repeated_or_skipped_frame_ends_it() {
        let mut wire = Vec::new();
        frame(1, 0, 0).write_to(&mut wire);
        let mut deframer = Deframer::new(FrameLimits::SESSION, 0);
        deframer.feed(&wire);
        assert_eq!(
            deframer.next_frame(),
            Err(ProtocolError::Sequence {
                expected: 0,
                found: 1
            })
        );
    }

    #[test]
    fn a_frame_above_its_limit_is_refused_by_its_header() {
        let mut wire = Vec::new();
        frame(0, HANDSHAKE_BODY_BYTES_MAX + 1, 0).write_to(&mut wire);
        let mut deframer = Deframer::new(FrameLimits::HANDSHAKE, 0);
        deframer.feed(&wire[..HEADER_BYTES]);
        assert!(deframer.next_frame().is_err());
    }
}
