//! What can be wrong with a peer's bytes ([`DecodeError`]) or with their order ([`ProtocolError`]).

use std::fmt;

/// Bytes that are not a valid value of the type they claim to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The codec refused them; the text is bincode's.
    Codec(String),
    /// Some bytes were left over after the value.
    TrailingBytes(usize),
    /// A frame type this version does not know.
    UnknownFrameType(u16),
    /// A frame body or payload above its limit.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes or items.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A value outside its range.
    Invalid(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(text) => write!(f, "malformed body: {text}"),
            Self::TrailingBytes(count) => write!(f, "{count} bytes after the end of the body"),
            Self::UnknownFrameType(kind) => write!(f, "unknown frame type {kind}"),
            Self::TooLarge { what, size, limit } => {
                write!(f, "{what} of {size} is above the limit of {limit}")
            }
            Self::Invalid(what) => write!(f, "invalid {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A peer that sent something valid at the wrong time, or proved not to be who it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// Its bytes do not decode.
    Decode(DecodeError),
    /// A frame out of sequence.
    Sequence {
        /// The number that had to come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A message that is not allowed in this state.
    Unexpected {
        /// What came.
        message: &'static str,
        /// What was awaited.
        state: &'static str,
    },
    /// A commit whose signature does not verify.
    BadSignature,
    /// A commit that names another module or session, or a number out of order.
    WrongChain(&'static str),
    /// The receiver did not prove that it knows the password.
    BadServerProof,
    /// An acknowledgement or answer that contradicts what was sent.
    Contradiction(&'static str),
    /// A peer above a limit of this session.
    Limit(&'static str),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "{error}"),
            Self::Sequence { expected, found } => {
                write!(f, "frame {found} came where {expected} was due")
            }
            Self::Unexpected { message, state } => write!(f, "{message} is not allowed {state}"),
            Self::BadSignature => f.write_str("commit signature does not verify"),
            Self::WrongChain(what) => write!(f, "commit does not continue this session: {what}"),
            Self::BadServerProof => f.write_str(
                "the receiver did not prove that it knows the password: it may not be the one you mean",
            ),
            Self::Contradiction(what) => write!(f, "peer contradicts itself: {what}"),
            Self::Limit(what) => write!(f, "peer exceeds a limit: {what}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl From<DecodeError> for ProtocolError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}
