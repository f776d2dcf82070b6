//! The receiver's side: `AwaitHello` -> `Greeted` (-> `AwaitAnswer` -> `Answered`) -> `ReceiverSession`.
//!
//! The process that faces the network walks the handshake; the one that touches files takes over with
//! [`ReceiverSession::resume`], and verifies every commit itself.

use crate::VERSION;
use crate::auth::{PasswordKey, Transcript};
use crate::chain::{self, CommitVerifier};
use crate::digest::Digest;
use crate::error::{DecodeError, ProtocolError};
use crate::exchange::Counters;
use crate::exchange::agent::Channel;
use crate::frame::Frame;
use crate::limits::SIGNATURE_BYTES_MAX;
use crate::message::{
    Ack, AgentMessage, Challenge, Commit, Hello, Modules, ReceiverMessage, Refused,
};
use crate::op::{Content, Op};
use crate::reject::RejectCode;

/// Waits for `Hello`.
#[derive(Debug)]
pub struct AwaitHello {
    channel: Channel,
    counters: Counters,
}

impl AwaitHello {
    /// A conversation on this TLS connection.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            counters: Counters::default(),
        }
    }

    /// Takes the agent's first frame. A version we do not speak is a refusal to be sent, not an error.
    ///
    /// # Errors
    /// Anything but a `Hello`.
    pub fn handle(mut self, frame: &Frame) -> Result<Greeted, ProtocolError> {
        self.counters.accept(frame)?;
        let message = AgentMessage::from_frame(frame)?;
        let AgentMessage::Hello(hello) = message else {
            return Err(ProtocolError::Unexpected {
                message: message.name(),
                state: "before Hello",
            });
        };
        Ok(Greeted {
            channel: self.channel,
            counters: self.counters,
            hello,
            body: frame.body.clone(),
        })
    }
}

/// `Hello` has come; the receiver decides.
#[derive(Debug)]
pub struct Greeted {
    channel: Channel,
    counters: Counters,
    hello: Hello,
    body: Vec<u8>,
}

/// What the process that takes over needs to know of the frames so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// Frame numbers.
    pub counters: Counters,
    /// TLS exporter.
    pub session: [u8; 32],
    /// The receiver's own proof, if there was a challenge: it belongs into `Welcome`.
    pub proof: Option<Digest>,
}

impl Greeted {
    /// What the agent said.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Refusal text if we have no version in common.
    #[must_use]
    pub fn version_refusal(&self) -> Option<Refused> {
        let Hello {
            version_min: min,
            version_max: max,
            ..
        } = self.hello;
        if (min..=max).contains(&VERSION) {
            return None;
        }
        Some(Refused {
            code: RejectCode::Version,
            text: format!(
                "this receiver speaks protocol version {VERSION}, the agent {min} to {max}: upgrade the older side"
            ),
        })
    }

    /// Asks for the password's proof.
    ///
    /// # Errors
    /// Never in practice; the body is small.
    pub fn challenge(mut self, nonce: [u8; 32]) -> Result<(AwaitAnswer, Frame), DecodeError> {
        let challenge = ReceiverMessage::Challenge(Challenge { nonce });
        let frame = self.counters.receiver_frame(&challenge, Vec::new())?;
        let transcript = Transcript {
            hello: &self.body,
            challenge: &frame.body,
            session: &self.channel.session,
            agent_key: &self.channel.agent_key,
            receiver_key: &self.channel.receiver_key,
        }
        .digest();
        let state = AwaitAnswer {
            session: self.channel.session,
            counters: self.counters,
            transcript,
        };
        Ok((state, frame))
    }

    /// Goes on without a password.
    #[must_use]
    pub fn accept(self) -> Handover {
        Handover {
            counters: self.counters,
            session: self.channel.session,
            proof: None,
        }
    }

    /// The frame that refuses.
    ///
    /// # Errors
    /// If the text is above its limit.
    pub fn refuse(mut self, refused: Refused) -> Result<Frame, DecodeError> {
        self.counters
            .receiver_frame(&ReceiverMessage::Refused(refused), Vec::new())
    }

    /// The frame that lists modules.
    ///
    /// # Errors
    /// If the list is above its limit.
    pub fn list(mut self, modules: Modules) -> Result<Frame, DecodeError> {
        self.counters
            .receiver_frame(&ReceiverMessage::Modules(modules), Vec::new())
    }
}

/// The challenge is sent.
#[derive(Debug, Clone)]
pub struct AwaitAnswer {
    session: [u8; 32],
    counters: Counters,
    transcript: Digest,
}

impl AwaitAnswer {
    /// Takes the answer and compares it with what `keys` would have proved, all of them, in constant
    /// time each. The index of the key that matched, if one did.
    ///
    /// # Errors
    /// Anything but an `Answer`.
    pub fn handle(
        mut self,
        frame: &Frame,
        keys: &[PasswordKey],
    ) -> Result<(Answered, Option<usize>), ProtocolError> {
        self.counters.accept(frame)?;
        let message = AgentMessage::from_frame(frame)?;
        let AgentMessage::Answer(answer) = message else {
            return Err(ProtocolError::Unexpected {
                message: message.name(),
                state: "in reply to a challenge",
            });
        };
        let mut matched = None;
        for (index, key) in keys.iter().enumerate() {
            let same = key
                .client_proof(&self.transcript)
                .same_secret(&answer.proof);
            if same && matched.is_none() {
                matched = Some(index);
            }
        }
        let proof = matched.map(|index| keys[index].server_proof(&self.transcript));
        let answered = Answered {
            handover: Handover {
                counters: self.counters,
                session: self.session,
                proof,
            },
        };
        Ok((answered, matched))
    }
}

/// The answer has been compared.
#[derive(Debug)]
pub struct Answered {
    handover: Handover,
}

impl Answered {
    /// Goes on; only after a key matched.
    #[must_use]
    pub fn accept(self) -> Handover {
        self.handover
    }

    /// The frame that refuses.
    ///
    /// # Errors
    /// If the text is above its limit.
    pub fn refuse(mut self, refused: Refused) -> Result<Frame, DecodeError> {
        self.handover
            .counters
            .receiver_frame(&ReceiverMessage::Refused(refused), Vec::new())
    }
}

/// A commit whose signature, session, module, number and content layout have been checked.
#[derive(Debug)]
pub struct Verified {
    commit: Commit,
    root: Digest,
    payload: Vec<u8>,
    inline_at: usize,
}

impl Verified {
    /// Its number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.commit.seq
    }

    /// Chain root after it.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root
    }

    /// The commit.
    #[must_use]
    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Its payload, once it is worked off: the buffer may be used again.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The operations, each with its inline content if it has some.
    pub fn ops(&self) -> impl Iterator<Item = (&Op, Option<&[u8]>)> {
        let mut at = self.inline_at;
        self.commit.ops.iter().map(move |op| {
            let Op::Put {
                content: Content::Inline { len, .. },
                ..
            } = op
            else {
                return (op, None);
            };
            let start = at;
            at += *len as usize;
            // `verify` has checked that the inline lengths add up to the payload.
            (op, self.payload.get(start..at))
        })
    }
}

/// What came in a session.
#[derive(Debug)]
pub enum Incoming {
    /// A verified commit.
    Commit(Box<Verified>),
    /// A chunk, with its payload.
    Chunk(crate::message::StageChunk, Vec<u8>),
    /// Any other message.
    Message(AgentMessage),
}

/// An open session, in the process that touches files.
#[derive(Debug)]
pub struct ReceiverSession {
    counters: Counters,
    module: Vec<u8>,
    session: [u8; 32],
    verifier: CommitVerifier,
    root: Digest,
    seq: u64,
}

impl ReceiverSession {
    /// Takes over after the handshake.
    #[must_use]
    pub fn resume(
        counters: Counters,
        session: [u8; 32],
        module: Vec<u8>,
        verifier: CommitVerifier,
    ) -> Self {
        Self {
            counters,
            module,
            root: chain::first_root(&session),
            session,
            verifier,
            seq: 0,
        }
    }

    /// A frame for a message.
    ///
    /// # Errors
    /// If the body is above its limit.
    pub fn frame(
        &mut self,
        message: &ReceiverMessage,
        payload: Vec<u8>,
    ) -> Result<Frame, DecodeError> {
        self.counters.receiver_frame(message, payload)
    }

    /// The sending half of a session: numbers frames on its own, so that one thread may read while
    /// another writes. Frames made by the session itself must not be mixed with it.
    #[must_use]
    pub fn sender(&self) -> FrameSender {
        FrameSender {
            counters: self.counters,
        }
    }

    /// Takes a frame from the agent.
    ///
    /// # Errors
    /// Anything that ends the session: a number out of sequence, a message of the handshake, a commit
    /// that does not verify.
    pub fn handle(&mut self, frame: Frame) -> Result<Incoming, ProtocolError> {
        self.counters.accept(&frame)?;
        let message = AgentMessage::from_frame(&frame)?;
        match message {
            AgentMessage::Hello(_) | AgentMessage::Answer(_) => Err(ProtocolError::Unexpected {
                message: message.name(),
                state: "in a session",
            }),
            AgentMessage::Commit(commit) => {
                let verified = self.verify(commit, &frame.body, frame.payload)?;
                Ok(Incoming::Commit(Box::new(verified)))
            }
            AgentMessage::StageChunk(chunk) => Ok(Incoming::Chunk(chunk, frame.payload)),
            other => Ok(Incoming::Message(other)),
        }
    }

    fn verify(
        &mut self,
        commit: Commit,
        body: &[u8],
        payload: Vec<u8>,
    ) -> Result<Verified, ProtocolError> {
        if commit.seq != self.seq + 1 {
            return Err(ProtocolError::WrongChain("number out of order"));
        }
        if commit.session != self.session {
            return Err(ProtocolError::WrongChain("another session"));
        }
        if commit.module != self.module {
            return Err(ProtocolError::WrongChain("another module"));
        }
        let (signature, inline_at) = split_signature(&payload)?;
        let root = chain::next_root(&self.root, body);
        self.verifier.verify(&root, signature)?;
        check_inline(&commit, payload.len() - inline_at)?;
        self.root = root;
        self.seq = commit.seq;
        Ok(Verified {
            commit,
            root,
            payload,
            inline_at,
        })
    }
}

/// Numbers and encodes outgoing frames of a session.
#[derive(Debug)]
pub struct FrameSender {
    counters: Counters,
}

impl FrameSender {
    /// A frame for a message.
    ///
    /// # Errors
    /// If the body is above its limit.
    pub fn frame(
        &mut self,
        message: &ReceiverMessage,
        payload: Vec<u8>,
    ) -> Result<Frame, DecodeError> {
        self.counters.receiver_frame(message, payload)
    }

    /// The frame of an acknowledgement.
    ///
    /// # Errors
    /// Never in practice; the body is small.
    pub fn ack(&mut self, ack: Ack) -> Result<Frame, DecodeError> {
        self.frame(&ReceiverMessage::Ack(ack), Vec::new())
    }
}

fn split_signature(payload: &[u8]) -> Result<(&[u8], usize), ProtocolError> {
    let (length, rest) = payload
        .split_first_chunk::<2>()
        .ok_or(DecodeError::Invalid("commit without signature"))?;
    let length = usize::from(u16::from_le_bytes(*length));
    if length > SIGNATURE_BYTES_MAX {
        return Err(DecodeError::Invalid("signature length").into());
    }
    let signature = rest
        .get(..length)
        .ok_or(DecodeError::Invalid("commit without signature"))?;
    Ok((signature, 2 + length))
}

fn check_inline(commit: &Commit, carried: usize) -> Result<(), ProtocolError> {
    let declared: u64 = commit.ops.iter().map(Op::inline_len).sum();
    if declared == carried as u64 {
        return Ok(());
    }
    Err(DecodeError::Invalid("commit: inline content and lengths differ").into())
}
