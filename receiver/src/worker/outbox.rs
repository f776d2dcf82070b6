//! [`Outbox`]: what the threads of a session say, in one bounded queue; [`write()`] numbers it and puts
//! it on the socket, several frames per call.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use syncd_proto::exchange::receiver::FrameSender;
use syncd_proto::message::{ReceiverMessage, Reject, Rejected};

use crate::fs::commit::{Committed, ack_of};
use crate::fs::refusal::Refusal;

/// Something to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Any message but an acknowledgement, with its payload.
    Message(Box<ReceiverMessage>, Vec<u8>),
    /// How far the log has come.
    Committed(Committed),
}

/// The sending end, one for each thread.
#[derive(Debug, Clone)]
pub(super) struct Outbox(SyncSender<Outgoing>);

impl Outbox {
    /// An outbox and its queue.
    pub(super) fn new() -> (Self, Receiver<Outgoing>) {
        let (sender, receiver) = sync_channel(OUTGOING_MAX);
        (Self(sender), receiver)
    }

    /// Sends a message; `false` if the session is over.
    pub(super) fn send(&self, message: impl Into<ReceiverMessage>) -> bool {
        self.send_with(message, Vec::new())
    }

    /// Sends a message with a payload.
    pub(super) fn send_with(&self, message: impl Into<ReceiverMessage>, payload: Vec<u8>) -> bool {
        let message = Box::new(message.into());
        self.0.send(Outgoing::Message(message, payload)).is_ok()
    }

    /// Says why something was refused.
    pub(super) fn reject(&self, what: Rejected, refusal: Refusal) -> bool {
        self.send(Reject {
            what,
            code: refusal.code,
            text: refusal.text,
        })
    }

    /// Acknowledges.
    pub(super) fn committed(&self, committed: Committed) -> bool {
        self.0.send(Outgoing::Committed(committed)).is_ok()
    }
}

/// Writes until every [`Outbox`] is gone, or the socket fails; then nothing more is read either.
///
/// # Errors
/// Those of the socket.
pub(super) fn write(
    mut socket: &UnixStream,
    mut frames: FrameSender,
    queue: &Receiver<Outgoing>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    let result = loop {
        let Ok(mut next) = queue.recv() else {
            break Ok(());
        };
        let encoded = loop {
            if let Err(error) = append(&mut frames, next, &mut buffer) {
                break Err(error);
            }
            if buffer.len() >= WRITE_BYTES {
                break Ok(());
            }
            match queue.try_recv() {
                Ok(another) => next = another,
                Err(_) => break Ok(()),
            }
        };
        if let Err(error) = encoded.and_then(|()| socket.write_all(&buffer)) {
            break Err(error);
        }
        buffer.clear();
        buffer.shrink_to(WRITE_BYTES);
    };
    if result.is_err() {
        let _ = socket.shutdown(Shutdown::Both);
    }
    result
}

fn append(frames: &mut FrameSender, next: Outgoing, buffer: &mut Vec<u8>) -> io::Result<()> {
    let frame = match next {
        Outgoing::Message(message, payload) => frames.frame(&message, payload),
        Outgoing::Committed(committed) => frames.ack(ack_of(committed)),
    };
    let frame = frame.map_err(|error| io::Error::other(error.to_string()))?;
    frame.write_to(buffer);
    Ok(())
}

/// Most messages waiting to be written; those with payload are at most 2 MiB each and come from one
/// thread that waits.
const OUTGOING_MAX: usize = 16;

/// Bytes put into one write.
const WRITE_BYTES: usize = 256 << 10;
