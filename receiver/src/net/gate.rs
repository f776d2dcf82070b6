//! [`Gate`]: looks at the headers of a session's frames as they pass, and at nothing else.
//!
//! The front relays an agent's frames without decoding them; what a header can tell (length, number,
//! type) is checked here, so that a worker never sees more than one frame's limit at a time.

use syncd_proto::error::{DecodeError, ProtocolError};
use syncd_proto::frame::{FrameLimits, HEADER_BYTES, Header};

/// Types an agent may send in a session: `StageBegin` to `IdQuery`.
const SESSION_KINDS: std::ops::RangeInclusive<u16> = 3..=13;

/// Follows the frame boundaries of one direction.
#[derive(Debug)]
pub struct Gate {
    next_seq: u64,
    /// Bytes of the current frame that are still to come.
    left: usize,
}

/// What may pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// So many bytes from the start; the rest is part of a header, to be shown again with what follows.
    pub pass: usize,
    /// The frame that begins behind them is refused, and everything after it.
    pub violation: Option<ProtocolError>,
}

impl Gate {
    /// A gate that expects frame `next_seq` first.
    #[must_use]
    pub fn new(next_seq: u64) -> Self {
        Self { next_seq, left: 0 }
    }

    /// How many of these bytes may pass.
    #[must_use]
    pub fn admit(&mut self, bytes: &[u8]) -> Admitted {
        let mut pass = 0;
        loop {
            let step = self.left.min(bytes.len() - pass);
            pass += step;
            self.left -= step;
            let Some((head, _)) = bytes[pass..].split_first_chunk::<HEADER_BYTES>() else {
                return Admitted {
                    pass,
                    violation: None,
                };
            };
            match self.check(head) {
                Ok(length) => self.left = length,
                Err(violation) => {
                    return Admitted {
                        pass,
                        violation: Some(violation),
                    };
                }
            }
        }
    }

    fn check(&mut self, head: &[u8; HEADER_BYTES]) -> Result<usize, ProtocolError> {
        // What was agreed on is the worker's to judge.
        let header = Header::parse(head, FrameLimits::PACKED)?;
        if header.seq != self.next_seq {
            return Err(ProtocolError::Sequence {
                expected: self.next_seq,
                found: header.seq,
            });
        }
        if !SESSION_KINDS.contains(&header.kind) {
            return Err(unexpected(header.kind));
        }
        self.next_seq += 1;
        Ok(HEADER_BYTES + header.body_len + header.payload_len)
    }
}

fn unexpected(kind: u16) -> ProtocolError {
    let message = match kind {
        1 => "Hello",
        2 => "Answer",
        _ => return DecodeError::UnknownFrameType(kind).into(),
    };
    ProtocolError::Unexpected {
        message,
        state: "in a session",
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::frame::Frame;
    use syncd_proto::limits::BODY_BYTES_MAX;
    use syncd_proto::message::{AgentMessage, IdQuery, StageBegin};

    use super::*;

    fn frame(seq: u64, kind: u16, body: usize, payload: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        Frame {
            seq,
            kind,
            body: vec![7; body],
            payload: vec![8; payload],
            packed: false,
        }
        .write_to(&mut wire);
        wire
    }

    /// Feeds `wire` in pieces and collects what passes.
    fn through(wire: &[u8], piece: usize, first: u64) -> (Vec<u8>, Option<ProtocolError>) {
        let mut gate = Gate::new(first);
        let (mut held, mut passed) = (Vec::new(), Vec::new());
        for bytes in wire.chunks(piece) {
            held.extend_from_slice(bytes);
            let admitted = gate.admit(&held);
            passed.extend(held.drain(..admitted.pass));
            if admitted.violation.is_some() {
                return (passed, admitted.violation);
            }
        }
        (passed, None)
    }

    #[test]
    fn whole_frames_pass_unchanged_however_they_are_cut() {
        let wire = [
            frame(5, 3, 30, 0),
            frame(6, 4, 0, 4_000),
            frame(7, 12, 0, 0),
        ]
        .concat();
        for piece in [1, 7, 19, 20, 21, 64, 10_000] {
            let (passed, violation) = through(&wire, piece, 5);
            assert_eq!(violation, None);
            // The last frame is nothing but a header, so it passes only once it is whole.
            assert_eq!(passed, wire, "pieces of {piece}");
        }
    }

    #[test]
    fn not_one_byte_of_a_refused_frame_passes() {
        let good = frame(0, 11, 3, 0);
        let too_large = frame(1, 4, BODY_BYTES_MAX + 1, 0);
        for bad in [
            frame(2, 11, 3, 0),
            frame(0, 11, 3, 0),
            frame(1, 1, 3, 0),
            frame(1, 2, 3, 0),
            frame(1, 0, 3, 0),
            frame(1, 14, 3, 0),
            frame(1, 130, 3, 0),
            too_large[..100].to_vec(),
        ] {
            for piece in [1, 13, 4_096] {
                let (passed, violation) = through(&[&good[..], &bad].concat(), piece, 0);
                assert_eq!(passed, good);
                assert!(violation.is_some());
            }
        }
    }

    #[test]
    fn the_types_of_a_session_are_those_of_the_protocol() {
        let first = AgentMessage::from(StageBegin {
            transfer: 1,
            len_hint: 0,
            basis: None,
            key: None,
            resume_at: 0,
        });
        let last = AgentMessage::from(IdQuery {
            id: 1,
            names: Vec::new(),
        });
        assert_eq!(SESSION_KINDS, first.kind()..=last.kind());
    }
}
