//! Frames in: read whole, numbered, verified, and given to whom they concern.

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use syncd_proto::error::ProtocolError;
use syncd_proto::exchange::receiver::{Incoming, ReceiverSession, Verified};
use syncd_proto::frame::{Frame, FrameLimits, HEADER_BYTES, Header};
use syncd_proto::limits::PAYLOAD_BYTES_MAX;
use syncd_proto::message::{
    AgentMessage, DigestQuery, IdQuery, ListQuery, Pong, SignatureQuery, StageAbort, StageBegin,
    StageChunk, StageEnd,
};
use syncd_proto::pack;
use syncd_proto::reject::RejectCode;
use syncd_proto::spares::Spares;

use super::outbox::Outbox;
use super::shared::Shared;
use crate::fs::refusal::Refusal;

/// A commit, and what has to be done before it.
#[derive(Debug)]
pub(super) struct Job {
    /// The commit.
    pub(super) verified: Box<Verified>,
    /// Stage messages that came before it.
    pub(super) staged_before: u64,
    /// What it holds of the budget, in bytes.
    pub(super) cost: u64,
}

/// A message about a transfer.
#[derive(Debug)]
pub(super) enum StageMessage {
    /// It begins.
    Begin(StageBegin),
    /// A piece.
    Chunk(StageChunk, Vec<u8>),
    /// It is complete.
    End(StageEnd),
    /// It is given up.
    Abort(StageAbort),
}

/// A question about the tree.
#[derive(Debug)]
pub(super) enum Question {
    /// For digests.
    Digests(DigestQuery),
    /// For entries.
    List(ListQuery),
    /// For the numbers of users and groups.
    Ids(IdQuery),
    /// For a signature.
    Signature(SignatureQuery),
    /// None: the agent rests.
    Rest,
}

/// Where messages go.
#[derive(Debug)]
pub(super) struct Queues {
    /// To the committer; `None` in a session that may not write.
    pub(super) commits: SyncSender<Job>,
    /// To the stager.
    pub(super) stages: SyncSender<StageMessage>,
    /// To the answerer.
    pub(super) questions: SyncSender<Question>,
    /// To the one that reads contents for its answers.
    pub(super) contents: SyncSender<Question>,
    /// To the writer.
    pub(super) outbox: Outbox,
}

/// Why there is nothing more to read.
#[derive(Debug)]
pub(super) enum End {
    /// The agent left, or its connection did.
    Left(String),
    /// It did something that ends the session.
    Refused(Refusal),
}

/// Reads until the session ends, for whatever reason.
pub(super) fn read(
    socket: &UnixStream,
    limits: FrameLimits,
    session: ReceiverSession,
    shared: &Shared<'_>,
    queues: Queues,
    writable: bool,
) -> End {
    let mut reader = Reader {
        session,
        shared,
        queues,
        writable,
        staged: 0,
    };
    let mut input = BufReader::with_capacity(READ_BYTES, socket);
    loop {
        let frame = match read_frame(&mut input, limits, |kind| shared.spares(kind)) {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Left("the connection was closed".to_owned()),
            Err(Broken::Socket(error)) => return End::Left(socket_text(&error)),
            Err(Broken::Protocol(error)) => return refused(&error),
        };
        reader.shared.heard.note();
        match reader.take(frame) {
            Ok(Next::Frame) => {}
            Ok(Next::End(end)) => return end,
            Err(error) => return refused(&error),
        }
    }
}

struct Reader<'a> {
    session: ReceiverSession,
    shared: &'a Shared<'a>,
    queues: Queues,
    writable: bool,
    staged: u64,
}

enum Next {
    Frame,
    End(End),
}

impl Reader<'_> {
    fn take(&mut self, frame: Frame) -> Result<Next, ProtocolError> {
        let frame = pack::unpack(frame)?;
        let cost = frame.wire_len() as u64;
        let sent = match self.session.handle(frame)? {
            Incoming::Commit(_) | Incoming::Message(AgentMessage::StageBegin(_))
                if !self.writable =>
            {
                return Ok(Next::End(End::Refused(Refusal::new(
                    RejectCode::ReadOnly,
                    "this session may not write",
                ))));
            }
            Incoming::Commit(verified) => self.commit(verified, cost),
            Incoming::Chunk(chunk, payload) => {
                self.charge(payload.len() as u64)?;
                self.stage(StageMessage::Chunk(chunk, payload))
            }
            Incoming::Message(message) => return self.message(message),
        };
        Ok(next(sent))
    }

    /// What takes long does not delay the answers that changes wait for.
    fn queue(&self, content: bool) -> &SyncSender<Question> {
        if content {
            &self.queues.contents
        } else {
            &self.queues.questions
        }
    }

    fn message(&mut self, message: AgentMessage) -> Result<Next, ProtocolError> {
        let questions = &self.queues.questions;
        let sent = match message {
            AgentMessage::StageBegin(begin) => self.stage(StageMessage::Begin(begin)),
            AgentMessage::StageEnd(end) => self.stage(StageMessage::End(end)),
            AgentMessage::StageAbort(abort) => self.stage(StageMessage::Abort(abort)),
            AgentMessage::DigestQuery(query) => self
                .queue(query.content)
                .send(Question::Digests(query))
                .is_ok(),
            AgentMessage::ListQuery(query) => self
                .queue(query.content)
                .send(Question::List(query))
                .is_ok(),
            AgentMessage::IdQuery(query) => questions.send(Question::Ids(query)).is_ok(),
            AgentMessage::SignatureQuery(query) => {
                questions.send(Question::Signature(query)).is_ok()
            }
            AgentMessage::Ping(ping) => {
                // Whose queue is full does not rest.
                let _ = questions.try_send(Question::Rest);
                let _ = self.queues.contents.try_send(Question::Rest);
                self.queues.outbox.send(Pong { token: ping.token })
            }
            AgentMessage::Bye(bye) => {
                let text = syncd_proto::path::escaped(bye.text.as_bytes());
                return Ok(Next::End(End::Left(format!("the agent left: {text}"))));
            }
            AgentMessage::Hello(_)
            | AgentMessage::Answer(_)
            | AgentMessage::StageChunk(_)
            | AgentMessage::Commit(_) => {
                return Err(ProtocolError::Unexpected {
                    message: message.name(),
                    state: "in a session",
                });
            }
        };
        Ok(next(sent))
    }

    fn commit(&mut self, verified: Box<Verified>, cost: u64) -> bool {
        self.shared.commit_bytes.take(cost, COMMIT_BYTES_MAX);
        let job = Job {
            verified,
            staged_before: self.staged,
            cost,
        };
        self.queues.commits.send(job).is_ok()
    }

    fn stage(&mut self, message: StageMessage) -> bool {
        self.staged += 1;
        self.queues.stages.send(message).is_ok()
    }

    /// Holds the agent to its window.
    fn charge(&self, bytes: u64) -> Result<(), ProtocolError> {
        let held = self.shared.window.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > WINDOW_BYTES + PAYLOAD_BYTES_MAX as u64 {
            return Err(ProtocolError::Limit("more chunks than the window allows"));
        }
        Ok(())
    }
}

/// A thread that takes nothing any more has said why.
fn next(sent: bool) -> Next {
    if sent {
        Next::Frame
    } else {
        Next::End(End::Left("the session was ended".to_owned()))
    }
}

fn refused(error: &ProtocolError) -> End {
    End::Refused(Refusal::new(RejectCode::Protocol, error.to_string()))
}

fn socket_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "no sign of life from the agent".to_owned()
        }
        _ => format!("the connection broke: {error}"),
    }
}

enum Broken {
    Socket(io::Error),
    Protocol(ProtocolError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

/// The next whole frame; `None` if the stream ends between frames.
fn read_frame<'a>(
    input: &mut impl BufRead,
    limits: FrameLimits,
    spares: impl FnOnce(u16) -> Option<&'a Spares>,
) -> Result<Option<Frame>, Broken> {
    loop {
        match input.fill_buf() {
            Ok([]) => return Ok(None),
            Ok(_) => break,
            // A process that was stopped goes on; here the system does not do that by itself, since there is a time limit.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let header = Header::parse(&header, limits).map_err(|error| Broken::Protocol(error.into()))?;
    let mut body = vec![0; header.body_len];
    input.read_exact(&mut body)?;
    let mut payload = match spares(header.kind) {
        Some(spares) => spares.take(header.payload_len),
        None => vec![0; header.payload_len],
    };
    input.read_exact(&mut payload)?;
    Ok(Some(Frame {
        seq: header.seq,
        kind: header.kind,
        body,
        payload,
        packed: header.packed,
    }))
}

/// Chunk bytes an agent may have sent ahead.
pub(super) const WINDOW_BYTES: u64 = 16 << 20;

/// Bytes of commits that wait at once; an agent that sends more is not read from meanwhile.
const COMMIT_BYTES_MAX: u64 = 16 << 20;

/// Bytes read from the socket at once. What is larger is read to where it belongs, but for its beginning.
const READ_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Is interrupted before each byte.
    struct Interrupted<'a>(&'a [u8], bool);

    impl io::Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let room = buffer.len().min(1);
            self.0.read(&mut buffer[..room])
        }
    }

    #[test]
    fn a_process_that_was_stopped_and_goes_on_loses_no_frame() {
        let frame = Frame {
            seq: 1,
            kind: 11,
            body: vec![1, 2, 3],
            payload: Vec::new(),
            packed: false,
        };
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        let mut input = BufReader::new(Interrupted(&bytes, false));
        let mut next = || read_frame(&mut input, FrameLimits::SESSION, |_| None);
        let read = next().ok().flatten().unwrap();
        assert_eq!((read.seq, read.body), (frame.seq, frame.body));
        assert!(matches!(next(), Ok(None)));
    }
}
