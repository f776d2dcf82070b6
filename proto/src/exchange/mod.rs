//! Both sides of a conversation, one step at a time: frames in, frames and facts out.
//!
//! No state owns a socket, so a test runs agent and receiver in one thread and cuts, delays or replays
//! at any frame. A handshake state consumes itself and names what it waits for.

pub mod agent;
pub mod receiver;

use crate::error::{DecodeError, ProtocolError};
use crate::frame::Frame;
use crate::message::{AgentMessage, ReceiverMessage};

/// Numbers outgoing frames and checks the numbers of incoming ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Number of the next frame to send.
    pub next_out: u64,
    /// Number of the next frame to come.
    pub next_in: u64,
}

impl Counters {
    fn accept(&mut self, frame: &Frame) -> Result<(), ProtocolError> {
        if frame.seq != self.next_in {
            return Err(ProtocolError::Sequence {
                expected: self.next_in,
                found: frame.seq,
            });
        }
        if frame.packed {
            return Err(DecodeError::Invalid("frame: its payload is still compressed").into());
        }
        self.next_in += 1;
        Ok(())
    }

    fn frame(&mut self, kind: u16, body: Vec<u8>, payload: Vec<u8>) -> Frame {
        let seq = self.next_out;
        self.next_out += 1;
        Frame {
            seq,
            kind,
            body,
            payload,
            packed: false,
        }
    }

    fn agent_frame(
        &mut self,
        message: &AgentMessage,
        payload: Vec<u8>,
    ) -> Result<Frame, DecodeError> {
        let mut body = Vec::new();
        message.encode_body(&mut body)?;
        Ok(self.frame(message.kind(), body, payload))
    }

    fn receiver_frame(
        &mut self,
        message: &ReceiverMessage,
        payload: Vec<u8>,
    ) -> Result<Frame, DecodeError> {
        let mut body = Vec::new();
        message.encode_body(&mut body)?;
        Ok(self.frame(message.kind(), body, payload))
    }
}
