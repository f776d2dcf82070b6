//! What the two sides say: one enum per direction, one struct per message.
//!
//! A message travels as the body of one frame whose type says which message it is; content, deltas and
//! signatures travel beside it as the frame's raw payload.

mod check;

use bincode::{Decode, Encode};

use crate::attributes::Attributes;
use crate::codec;
use crate::digest::Digest;
use crate::error::DecodeError;
use crate::frame::Frame;
use crate::meta::{Compare, EntryMeta, Mtime};
use crate::op::{IdName, Op, TransferId};
use crate::path::{Name, WirePath};
use crate::reject::RejectCode;

/// Feature: an agent's payloads may be compressed ([`crate::pack`]).
pub const FEATURE_ZSTD: u64 = 1;

/// Feature: a rename does not take the place of a directory that is not empty, but is rejected with
/// [`RejectCode::NotEmpty`]. An agent asks for it that has rules by which names there may have to stay.
pub const FEATURE_SPARE: u64 = 1 << 1;

/// Feature: names of one symlink, fifo, socket or device are compared like names of one regular file; otherwise each such
/// name counts as a thing of its own.
pub const FEATURE_LINKS: u64 = 1 << 2;

/// Feature: `Welcome` may say that times are compared less exactly than to the nanosecond.
pub const FEATURE_TIMES: u64 = 1 << 3;

/// Feature: [`Op::Same`] is known.
pub const FEATURE_SAME: u64 = 1 << 4;

/// What an agent comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Purpose {
    /// To mirror: the one writer of its module and sub-path.
    Mirror,
    /// To compare only: nothing will be changed (`verify`, `--dry-run`).
    Compare,
    /// To list the modules this peer may see; the module name is empty.
    ListModules,
}

/// First message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub version_min: u16,
    /// Highest protocol version it speaks.
    pub version_max: u16,
    /// Optional features it has, one bit each ([`FEATURE_ZSTD`], [`FEATURE_SPARE`], [`FEATURE_LINKS`],
    /// [`FEATURE_TIMES`], [`FEATURE_SAME`]).
    pub features: u64,
    /// What it comes for.
    pub purpose: Purpose,
    /// Module, exactly as written in the receiver's configuration.
    pub module: Vec<u8>,
    /// Directory within the module that is the root of its mirror.
    pub sub_path: WirePath,
    /// Extended attributes it wants to mirror.
    pub attributes: Attributes,
    /// User name for `auth users`, if it has one.
    pub user: Option<Vec<u8>>,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// Program, version and host, for the receiver's log.
    pub agent: String,
}

/// The receiver asks for proof of the password.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Challenge {
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

/// The agent's proof ([`crate::auth`]).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// Keyed BLAKE3 of the transcript.
    pub proof: Digest,
}

/// How durable an acknowledgement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Durability {
    /// Group commit; one flush serves many operations.
    Batch,
    /// Each file and directory is synced by itself: for volumes shared with others.
    Files,
    /// Nothing is synced: an acknowledgement means visible, not safe.
    None,
}

/// A partly received file that can be continued.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Leftover {
    /// Key the agent gave it in `StageBegin`.
    pub key: Digest,
    /// Bytes that are already there.
    pub bytes: u64,
}

/// The session is open.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// Protocol version of this session.
    pub version: u16,
    /// Features both sides have.
    pub features: u64,
    /// Program and version, for the agent's log.
    pub receiver: String,
    /// Proof that the receiver knows the password too, where there was a challenge.
    pub proof: Option<Digest>,
    /// Whether this peer may write here.
    pub writable: bool,
    /// What the two trees are compared by.
    pub compare: Compare,
    /// Whether owners are known here by their names: the agent asks for its names' numbers.
    pub maps_names: bool,
    /// How durable acknowledgements are.
    pub durability: Durability,
    /// Bytes of chunks the agent may have sent beyond the credit it was given back.
    pub window_bytes: u64,
    /// Commits the agent may have sent without a durable acknowledgement.
    pub window_commits: u32,
    /// Name of this copy of the module, made when it was first written; another one means that
    /// nothing remembered of the old one holds.
    pub instance: [u8; 16],
    /// Interrupted transfers that can be continued.
    pub leftovers: Vec<Leftover>,
}

/// No session: why.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refused {
    /// The reason, for programs.
    pub code: RejectCode,
    /// The reason, for people.
    pub text: String,
}

/// One module in a [`Modules`] list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ModuleLine {
    /// Name.
    pub name: Vec<u8>,
    /// Its `comment`.
    pub comment: Vec<u8>,
}

/// The modules this peer may see; ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Modules {
    /// In the order of the configuration.
    pub modules: Vec<ModuleLine>,
}

/// A file whose unchanged ranges a transfer copies, as a `Signature` described it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Basis {
    /// Where it is.
    pub path: WirePath,
    /// The version meant, from [`SignatureInfo::version`].
    pub version: [u8; 16],
    /// Its length in bytes.
    pub len: u64,
}

/// A transfer into staging begins.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StageBegin {
    /// Its number.
    pub transfer: TransferId,
    /// Length the file is expected to have, for the receiver's checks of room; the true one comes with
    /// `StageEnd`.
    pub len_hint: u64,
    /// Basis of `Copy` instructions.
    pub basis: Option<Basis>,
    /// Names the version being sent (path, inode, size, times), so that an interrupted transfer can be
    /// continued later.
    pub key: Option<Digest>,
    /// Continue the leftover of this key after so many bytes.
    pub resume_at: u64,
}

/// One instruction of a chunk. Output is appended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum PatchOp {
    /// The next `len` bytes of the chunk's payload.
    Literal {
        /// Length in bytes.
        len: u32,
    },
    /// Bytes of the basis.
    Copy {
        /// Offset in the basis, in bytes.
        from: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A hole: zeros that take no space.
    Hole {
        /// Length in bytes.
        len: u64,
    },
}

impl PatchOp {
    /// Bytes it produces.
    #[must_use]
    pub const fn output_len(&self) -> u64 {
        match *self {
            Self::Literal { len } => len as u64,
            Self::Copy { len, .. } | Self::Hole { len } => len,
        }
    }
}

/// A piece of a staged file; literals are the payload.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StageChunk {
    /// Which transfer.
    pub transfer: TransferId,
    /// What to append.
    pub ops: Vec<PatchOp>,
}

/// A transfer is complete.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StageEnd {
    /// Which.
    pub transfer: TransferId,
    /// Length of the whole file in bytes.
    pub len: u64,
    /// Digest of the whole file.
    pub digest: Digest,
}

/// A transfer is given up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StageAbort {
    /// Which.
    pub transfer: TransferId,
}

/// A batch of operations. Its payload is the signature's length (two bytes, little-endian), the
/// signature, and the inline content in the order of the operations.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Commit {
    /// The module, again: part of what is signed.
    pub module: Vec<u8>,
    /// The session (TLS exporter): part of what is signed.
    pub session: [u8; 32],
    /// Number in the session's log, from 1, without gaps.
    pub seq: u64,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// Asks for subtree digests.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DigestQuery {
    /// Number of the question.
    pub id: u64,
    /// Directories asked for.
    pub paths: Vec<WirePath>,
    /// Whether file contents are compared too (`verify`).
    pub content: bool,
}

/// Asks for the entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ListQuery {
    /// Number of the question.
    pub id: u64,
    /// The directory.
    pub path: WirePath,
    /// Whether file contents are compared too.
    pub content: bool,
}

/// Asks which numbers the agent's users and groups have at the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IdQuery {
    /// Number of the question.
    pub id: u64,
    /// Their names and numbers at the agent.
    pub names: Vec<IdName>,
}

/// What of a file's signature is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SignatureWant {
    /// The first tier: digests of aligned groups of the whole file.
    Groups,
    /// The second tier: fast_rsync block signatures of these byte ranges (offset, length).
    Blocks {
        /// The version meant, from the first tier's [`SignatureInfo::version`].
        version: [u8; 16],
        /// Block size in bytes.
        block_bytes: u32,
        /// Offset and length of each range; offsets are multiples of the block size.
        ranges: Vec<(u64, u64)>,
    },
    /// Only which version is there: for an agent that remembers the rest.
    Version,
}

/// Asks for the signature of a file the receiver has.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignatureQuery {
    /// Number of the question.
    pub id: u64,
    /// The file.
    pub path: WirePath,
    /// What is wanted.
    pub want: SignatureWant,
}

/// Are you there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ping {
    /// Comes back in `Pong`.
    pub token: u64,
}

/// The agent leaves.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Bye {
    /// Why, for the receiver's log.
    pub text: String,
}

/// What has become of the commits so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Ack {
    /// Every commit up to this one is visible.
    pub applied: u64,
    /// Every commit up to this one would survive a power cut.
    pub durable: u64,
    /// Chain root after `applied`: proof that both mean the same log.
    pub root: Digest,
}

/// What a [`Reject`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Rejected {
    /// One operation of a commit; the others of its commit stand.
    Op {
        /// Number of the commit.
        seq: u64,
        /// Index of the operation in it.
        index: u32,
    },
    /// A transfer.
    Transfer(TransferId),
    /// A question.
    Query(u64),
    /// The session; the connection ends.
    Session,
}

/// Something was refused by itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reject {
    /// What.
    pub what: Rejected,
    /// Why, for programs.
    pub code: RejectCode,
    /// Why, for people.
    pub text: String,
}

/// Subtree digests, in the order of the question.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Digests {
    /// Number of the question.
    pub id: u64,
    /// `None` where there is no such directory.
    pub digests: Vec<Option<Digest>>,
}

/// Numbers of users and groups, in the order of the question.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ids {
    /// Number of the question.
    pub id: u64,
    /// The agent's own number where the name is unknown.
    pub numbers: Vec<u32>,
}

/// One entry of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ListEntry {
    /// Its name.
    pub name: Name,
    /// Its metadata.
    pub meta: EntryMeta,
    /// Digest of everything below, for a directory.
    pub subtree: Option<Digest>,
    /// For a file with other names in the tree of the digests it is compared by: what stands for the
    /// first of them, see [`crate::links`].
    pub links: Option<Digest>,
}

/// Entries of a directory, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Listing {
    /// Number of the question.
    pub id: u64,
    /// The directory's own metadata; `None` if there is no such directory.
    pub dir: Option<EntryMeta>,
    /// Entries of this frame.
    pub entries: Vec<ListEntry>,
    /// Whether this was the last frame of the answer.
    pub last: bool,
}

/// What a signature describes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignatureInfo {
    /// Names this version of the file; a transfer that builds on it says so.
    pub version: [u8; 16],
    /// Its length in bytes.
    pub len: u64,
    /// Its modification time.
    pub mtime: Mtime,
    /// Digest of its content, if the receiver has verified this very version before and remembers.
    pub content: Option<Digest>,
}

/// A signature, or a part of one; the payload is raw digests ([`crate::delta`]).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Signature {
    /// Number of the question.
    pub id: u64,
    /// The file; `None` if there is no regular file at the path, and then nothing follows.
    pub info: Option<SignatureInfo>,
    /// Whether this was the last frame of the answer.
    pub last: bool,
}

/// Chunk bytes that have been consumed and may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Credit {
    /// Payload bytes.
    pub bytes: u64,
}

/// I am.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Pong {
    /// From the `Ping`.
    pub token: u64,
}

/// The receiver goes down, or closes this session; reconnect, with jitter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Draining {
    /// Why.
    pub text: String,
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $kind:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $variant($variant)),+
        }

        impl $name {
            /// The frame type of this message.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $(Self::$variant(_) => $kind),+ }
            }

            /// Its name, for messages about messages.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant)),+ }
            }

            /// Appends the encoded body to `out`.
            ///
            /// # Errors
            /// If the body is above its limit.
            pub fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
                match self { $(Self::$variant(body) => codec::encode(body, out)),+ }
            }

            /// The message of a frame, checked against every limit that its type states.
            ///
            /// # Errors
            /// Any body that is not exactly one valid message of the frame's type.
            pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
                let message = match frame.kind {
                    $($kind => Self::$variant(codec::decode(&frame.body)?),)+
                    other => return Err(DecodeError::UnknownFrameType(other)),
                };
                message.check(frame.payload.len())?;
                Ok(message)
            }
        }

        $(impl $variant {
            /// The frame type of this message.
            pub const KIND: u16 = $kind;
        })+

        $(impl From<$variant> for $name {
            fn from(body: $variant) -> Self { Self::$variant(body) }
        })+
    };
}

messages! {
    /// From agent to receiver.
    AgentMessage {
        /// Opens the conversation.
        Hello = 1,
        /// Answers a challenge.
        Answer = 2,
        /// A transfer begins.
        StageBegin = 3,
        /// A piece of it.
        StageChunk = 4,
        /// It is complete.
        StageEnd = 5,
        /// It is given up.
        StageAbort = 6,
        /// A signed batch of operations.
        Commit = 7,
        /// Asks for subtree digests.
        DigestQuery = 8,
        /// Asks for a directory's entries.
        ListQuery = 9,
        /// Asks for a file's signature.
        SignatureQuery = 10,
        /// Asks for a sign of life.
        Ping = 11,
        /// Leaves.
        Bye = 12,
        /// Asks for the numbers of users and groups.
        IdQuery = 13,
    }
}

messages! {
    /// From receiver to agent.
    ReceiverMessage {
        /// Asks for the password's proof.
        Challenge = 129,
        /// Opens the session.
        Welcome = 130,
        /// Refuses it.
        Refused = 131,
        /// Lists modules.
        Modules = 132,
        /// Acknowledges commits.
        Ack = 133,
        /// Refuses one thing.
        Reject = 134,
        /// Answers `DigestQuery`.
        Digests = 135,
        /// Answers `ListQuery`.
        Listing = 136,
        /// Answers `SignatureQuery`.
        Signature = 137,
        /// Gives window back.
        Credit = 138,
        /// Answers `Ping`.
        Pong = 139,
        /// Announces the end.
        Draining = 140,
        /// Answers `IdQuery`.
        Ids = 141,
    }
}
