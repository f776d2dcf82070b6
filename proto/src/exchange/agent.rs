//! The agent's side: `Connect` -> `AwaitReply` -> (`AwaitWelcome` ->) `AgentSession`.

use std::collections::VecDeque;

use crate::VERSION;
use crate::auth::{PasswordKey, Transcript};
use crate::chain::{self, CommitSigner};
use crate::digest::Digest;
use crate::error::{DecodeError, ProtocolError};
use crate::exchange::Counters;
use crate::frame::Frame;
use crate::limits::SIGNATURE_BYTES_MAX;
use crate::message::{
    Ack, AgentMessage, Answer, Commit, Hello, Modules, ReceiverMessage, Refused, Welcome,
};
use crate::op::Op;

/// What the TLS connection says of itself.
#[derive(Debug, Clone)]
pub struct Channel {
    /// TLS exporter ([`crate::EXPORTER_LABEL`]).
    pub session: [u8; 32],
    /// Hash of the agent certificate's public key.
    pub agent_key: Digest,
    /// Hash of the receiver certificate's public key.
    pub receiver_key: Digest,
}

/// Starts a conversation.
///
/// # Errors
/// If a name in `hello` is above its limit.
pub fn connect(
    channel: Channel,
    hello: Hello,
    password: Option<PasswordKey>,
) -> Result<(AwaitReply, Frame), DecodeError> {
    let mut counters = Counters::default();
    let module = hello.module.clone();
    let frame = counters.agent_frame(&AgentMessage::Hello(hello), Vec::new())?;
    let state = AwaitReply {
        channel,
        counters,
        module,
        password,
        hello: frame.body.clone(),
    };
    Ok((state, frame))
}

/// `Hello` is sent.
#[derive(Debug)]
pub struct AwaitReply {
    channel: Channel,
    counters: Counters,
    module: Vec<u8>,
    password: Option<PasswordKey>,
    hello: Vec<u8>,
}

/// What comes after `Hello` or `Answer`.
#[derive(Debug)]
pub enum Reply {
    /// The receiver wants the password's proof: send the frame and wait on.
    Answer(Box<AwaitWelcome>, Frame),
    /// The receiver wants a password and there is none.
    PasswordNeeded,
    /// The session is open.
    Open(Box<AgentSession>, Box<Welcome>),
    /// It is refused.
    Refused(Refused),
    /// The modules that were asked for.
    Modules(Modules),
}

impl AwaitReply {
    /// Takes the receiver's first frame.
    ///
    /// # Errors
    /// A frame that is not an answer to `Hello`.
    pub fn handle(mut self, frame: &Frame) -> Result<Reply, ProtocolError> {
        self.counters.accept(frame)?;
        match ReceiverMessage::from_frame(frame)? {
            ReceiverMessage::Challenge(_) => {
                let Some(key) = self.password.take() else {
                    return Ok(Reply::PasswordNeeded);
                };
                self.answer(&key, &frame.body)
            }
            ReceiverMessage::Welcome(welcome) => {
                open(self.channel, self.counters, self.module, welcome)
            }
            ReceiverMessage::Refused(refused) => Ok(Reply::Refused(refused)),
            ReceiverMessage::Modules(modules) => Ok(Reply::Modules(modules)),
            other => Err(unexpected(&other, "in reply to Hello")),
        }
    }

    fn answer(mut self, key: &PasswordKey, challenge: &[u8]) -> Result<Reply, ProtocolError> {
        let transcript = Transcript {
            hello: &self.hello,
            challenge,
            session: &self.channel.session,
            agent_key: &self.channel.agent_key,
            receiver_key: &self.channel.receiver_key,
        }
        .digest();
        let answer = Answer {
            proof: key.client_proof(&transcript),
        };
        let frame = self
            .counters
            .agent_frame(&AgentMessage::Answer(answer), Vec::new())?;
        let next = AwaitWelcome {
            channel: self.channel,
            counters: self.counters,
            module: self.module,
            server_proof: key.server_proof(&transcript),
        };
        Ok(Reply::Answer(Box::new(next), frame))
    }
}

/// The proof is sent.
#[derive(Debug)]
pub struct AwaitWelcome {
    channel: Channel,
    counters: Counters,
    module: Vec<u8>,
    server_proof: Digest,
}

impl AwaitWelcome {
    /// Takes the receiver's second frame.
    ///
    /// # Errors
    /// A frame that is no answer, or a receiver that does not know the password itself.
    pub fn handle(mut self, frame: &Frame) -> Result<Reply, ProtocolError> {
        self.counters.accept(frame)?;
        match ReceiverMessage::from_frame(frame)? {
            ReceiverMessage::Welcome(welcome) => {
                let proved = welcome
                    .proof
                    .is_some_and(|proof| proof.same_secret(&self.server_proof));
                if !proved {
                    return Err(ProtocolError::BadServerProof);
                }
                open(self.channel, self.counters, self.module, welcome)
            }
            ReceiverMessage::Refused(refused) => Ok(Reply::Refused(refused)),
            ReceiverMessage::Modules(modules) => Ok(Reply::Modules(modules)),
            other => Err(unexpected(&other, "in reply to Answer")),
        }
    }
}

fn open(
    channel: Channel,
    counters: Counters,
    module: Vec<u8>,
    welcome: Welcome,
) -> Result<Reply, ProtocolError> {
    if welcome.version != VERSION {
        return Err(ProtocolError::Contradiction(
            "it chose a version that was not offered",
        ));
    }
    let session = AgentSession {
        counters,
        module,
        root: chain::first_root(&channel.session),
        session: channel.session,
        committed: 0,
        applied: 0,
        durable: 0,
        roots: VecDeque::new(),
    };
    Ok(Reply::Open(Box::new(session), Box::new(welcome)))
}

fn unexpected(message: &ReceiverMessage, state: &'static str) -> ProtocolError {
    ProtocolError::Unexpected {
        message: message.name(),
        state,
    }
}

/// An open session.
#[derive(Debug)]
pub struct AgentSession {
    counters: Counters,
    module: Vec<u8>,
    session: [u8; 32],
    root: Digest,
    committed: u64,
    applied: u64,
    durable: u64,
    /// Roots after the commits `applied + 1 ..= committed`.
    roots: VecDeque<Digest>,
}

/// Why a commit could not be made.
#[derive(Debug)]
pub enum CommitError {
    /// It is above a limit: split it.
    TooLarge(DecodeError),
    /// The key could not sign.
    Sign(rustls::Error),
}

impl std::fmt::Display for CommitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge(error) => write!(f, "commit is above a limit: {error}"),
            Self::Sign(error) => write!(f, "cannot sign a commit: {error}"),
        }
    }
}

impl std::error::Error for CommitError {}

impl AgentSession {
    /// A frame for any message but `Commit`, `Hello` and `Answer`.
    ///
    /// # Errors
    /// If the body is above its limit.
    pub fn frame(
        &mut self,
        message: &AgentMessage,
        payload: Vec<u8>,
    ) -> Result<Frame, DecodeError> {
        self.counters.agent_frame(message, payload)
    }

    /// The next signed commit, and its number. `inline` is the content of the inline puts, in order.
    ///
    /// # Errors
    /// [`CommitError`]; the session is unchanged then.
    pub fn commit(
        &mut self,
        signer: &CommitSigner,
        ops: Vec<Op>,
        inline: Vec<u8>,
    ) -> Result<(u64, Frame), CommitError> {
        let seq = self.committed + 1;
        let commit = AgentMessage::Commit(Commit {
            module: self.module.clone(),
            session: self.session,
            seq,
            ops,
        });
        let mut body = Vec::new();
        commit
            .encode_body(&mut body)
            .map_err(CommitError::TooLarge)?;
        let root = chain::next_root(&self.root, &body);
        let signature = signer.sign(&root).map_err(CommitError::Sign)?;
        let payload = commit_payload(&signature, inline).map_err(CommitError::TooLarge)?;
        self.root = root;
        self.committed = seq;
        self.roots.push_back(root);
        Ok((seq, self.counters.frame(commit.kind(), body, payload)))
    }

    /// Takes a frame from the receiver.
    ///
    /// # Errors
    /// A frame out of sequence, a message of the handshake, or an acknowledgement of something else
    /// than what was sent.
    pub fn handle(&mut self, frame: &Frame) -> Result<ReceiverMessage, ProtocolError> {
        self.counters.accept(frame)?;
        let message = ReceiverMessage::from_frame(frame)?;
        match &message {
            ReceiverMessage::Challenge(_)
            | ReceiverMessage::Welcome(_)
            | ReceiverMessage::Modules(_) => Err(unexpected(&message, "in a session")),
            ReceiverMessage::Ack(ack) => {
                self.acked(ack)?;
                Ok(message)
            }
            _ => Ok(message),
        }
    }

    /// Number of the last commit sent.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Number of the last commit that is visible at the receiver.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Number of the last commit that is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    fn acked(&mut self, ack: &Ack) -> Result<(), ProtocolError> {
        if ack.applied > self.committed || ack.applied < self.applied || ack.durable < self.durable
        {
            return Err(ProtocolError::Contradiction("acknowledgement out of order"));
        }
        let newly = (ack.applied - self.applied) as usize;
        let root = match newly {
            0 => None,
            count => self.roots.drain(..count).next_back(),
        };
        if root.is_some_and(|root| root != ack.root) {
            return Err(ProtocolError::Contradiction(
                "acknowledgement of another log",
            ));
        }
        self.applied = ack.applied;
        self.durable = ack.durable;
        Ok(())
    }
}

fn commit_payload(signature: &[u8], inline: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
    if signature.len() > SIGNATURE_BYTES_MAX {
        return Err(DecodeError::Invalid("signature length"));
    }
    let length = (signature.len() as u16).to_le_bytes();
    // Moved within its buffer, which may be known to the processor; a second one is not.
    let mut payload = inline;
    payload.splice(..0, length.into_iter().chain(signature.iter().copied()));
    if payload.len() > crate::limits::PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            what: "commit payload",
            size: payload.len() as u64,
            limit: crate::limits::PAYLOAD_BYTES_MAX as u64,
        });
    }
    Ok(payload)
}
