//! [`Listener`]: follows what a worker says to its agent, and picks out what says how far the session is.
//!
//! The front copies these bytes and decides nothing by them; a worker that lies here deceives the status and
//! nobody else.

use syncd_proto::frame::{Frame, FrameLimits, HEADER_BYTES, Header};
use syncd_proto::limits::TEXT_BYTES_MAX;
use syncd_proto::message::{Ack, ReceiverMessage};
use syncd_proto::reject::RejectCode;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// How far the log has come.
    Ack(Ack),
    /// Something was refused: an operation, a transfer, the session.
    Refused(RejectCode, String),
}

/// Follows the frames of one session from `Welcome` on.
#[derive(Debug, Default)]
pub struct Listener {
    /// The header of the frame that comes, and its body if it is of interest.
    held: Vec<u8>,
    /// The frame whose body is being held.
    header: Option<Header>,
    /// Bytes of the current frame that are of no interest.
    skip: usize,
    /// What came is no frame: nothing is understood any more.
    deaf: bool,
}

impl Listener {
    /// Hears some bytes, however they are cut.
    pub fn hear(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Heard)) {
        while !bytes.is_empty() && !self.deaf {
            let skipped = self.skip.min(bytes.len());
            bytes = &bytes[skipped..];
            self.skip -= skipped;
            let wanted = self.header.map_or(HEADER_BYTES, |header| header.body_len);
            let taken = (wanted - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.skip == 0 && self.held.len() == wanted {
                self.whole(&mut tell);
            }
        }
    }

    /// A header, or the body that was wanted, is complete.
    fn whole(&mut self, tell: &mut impl FnMut(Heard)) {
        let held = std::mem::take(&mut self.held);
        if let Some(header) = self.header.take() {
            self.skip = header.payload_len;
            return heard(header, held).into_iter().for_each(tell);
        }
        let head = held.first_chunk::<HEADER_BYTES>();
        match head.map(|head| Header::parse(head, FrameLimits::SESSION)) {
            Some(Ok(header)) if is_of_interest(header) => {
                self.header = Some(header);
            }
            Some(Ok(header)) => self.skip = header.body_len + header.payload_len,
            Some(Err(_)) | None => self.deaf = true,
        }
    }
}

/// Types of `Refused`, `Ack` and `Reject`.
const OF_INTEREST: [u16; 3] = [131, 133, 134];

/// Their largest body, in bytes: a text and a little.
const BODY_BYTES_MAX: usize = TEXT_BYTES_MAX + 1_024;

fn is_of_interest(header: Header) -> bool {
    OF_INTEREST.contains(&header.kind) && (1..=BODY_BYTES_MAX).contains(&header.body_len)
}

fn heard(header: Header, body: Vec<u8>) -> Option<Heard> {
    let frame = Frame {
        seq: header.seq,
        kind: header.kind,
        body,
        payload: Vec::new(),
        packed: false,
    };
    match ReceiverMessage::from_frame(&frame) {
        Ok(ReceiverMessage::Ack(ack)) => Some(Heard::Ack(ack)),
        Ok(ReceiverMessage::Reject(reject)) => Some(Heard::Refused(reject.code, reject.text)),
        Ok(ReceiverMessage::Refused(refused)) => Some(Heard::Refused(refused.code, refused.text)),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::digest::Digest;
    use syncd_proto::message::{Pong, Refused, Reject, Rejected};

    use super::*;

    fn frame(seq: u64, message: impl Into<ReceiverMessage>, payload: usize) -> Vec<u8> {
        let message = message.into();
        let mut body = Vec::new();
        message.encode_body(&mut body).unwrap();
        let mut wire = Vec::new();
        Frame {
            seq,
            kind: message.kind(),
            body,
            payload: vec![7; payload],
            packed: false,
        }
        .write_to(&mut wire);
        wire
    }

    fn said() -> (Vec<u8>, Vec<Heard>) {
        let ack = Ack {
            applied: 9,
            durable: 7,
            root: Digest::of(b"root"),
        };
        let reject = Reject {
            what: Rejected::Op { seq: 3, index: 0 },
            code: RejectCode::NoSpace,
            text: "full".into(),
        };
        let refused = Refused {
            code: RejectCode::Busy,
            text: "another".into(),
        };
        let wire = [
            frame(0, Pong { token: 1 }, 0),
            frame(1, ack, 0),
            frame(2, Pong { token: 2 }, 70_000),
            frame(3, reject, 0),
            frame(4, refused, 0),
            frame(5, ack, 0),
        ];
        let heard = vec![
            Heard::Ack(ack),
            Heard::Refused(RejectCode::NoSpace, "full".into()),
            Heard::Refused(RejectCode::Busy, "another".into()),
            Heard::Ack(ack),
        ];
        (wire.concat(), heard)
    }

    #[test]
    fn what_matters_is_heard_however_it_is_cut() {
        let (wire, expected) = said();
        for size in [1, 2, 7, 19, 20, 21, 4_096, wire.len()] {
            let mut listener = Listener::default();
            let mut heard = Vec::new();
            for piece in wire.chunks(size) {
                listener.hear(piece, |one| heard.push(one));
            }
            assert_eq!(heard, expected, "pieces of {size}");
            assert!(listener.held.is_empty());
        }
    }

    #[test]
    fn nonsense_is_not_listened_to() {
        let (wire, expected) = said();
        let mut listener = Listener::default();
        let mut heard = Vec::new();
        listener.hear(&wire, |one| heard.push(one));
        listener.hear(&[0xff; 200], |one| heard.push(one));
        listener.hear(&wire, |one| heard.push(one));
        assert_eq!(heard, expected);
        assert!(listener.held.len() <= HEADER_BYTES);
    }

    #[test]
    fn a_body_that_is_too_large_to_be_one_is_not_held() {
        let mut wire = Vec::new();
        Frame {
            seq: 0,
            kind: OF_INTEREST[2],
            body: vec![1; BODY_BYTES_MAX + 1],
            payload: Vec::new(),
            packed: false,
        }
        .write_to(&mut wire);
        let mut listener = Listener::default();
        let mut heard = Vec::new();
        listener.hear(&wire[..2_000], |one| heard.push(one));
        assert!(listener.held.is_empty());
        listener.hear(&wire[2_000..], |one| heard.push(one));
        let (said, expected) = said();
        listener.hear(&said, |one| heard.push(one));
        assert_eq!(heard, expected);
    }

    #[test]
    fn the_types_of_interest_are_those() {
        let (_, heard) = said();
        assert_eq!(heard.len(), 4);
        let ack = Ack {
            applied: 0,
            durable: 0,
            root: Digest::of(b""),
        };
        assert!(OF_INTEREST.contains(&ReceiverMessage::from(ack).kind()));
    }
}
