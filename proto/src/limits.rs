//! Every maximum on the wire, in one place, each with its reason.

/// Largest frame body (the part bincode decodes), in bytes. A commit of 4,096 operations with long
/// paths fits; more is never built.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Largest raw payload of a frame, in bytes: inline content of a commit, literals of a chunk,
/// signatures.
pub const PAYLOAD_BYTES_MAX: usize = 2 << 20;

/// Largest frame body before `Welcome`, in bytes: a stranger is not worth more memory.
pub const HANDSHAKE_BODY_BYTES_MAX: usize = 4 << 10;

/// Longest file name, in bytes (`NAME_MAX` on Linux).
pub const NAME_BYTES_MAX: usize = 255;

/// Deepest path, in components. Deeper trees are reported, not mirrored.
pub const PATH_DEPTH_MAX: usize = 2_048;

/// Longest path, in bytes with separators. Longer than `PATH_MAX` on purpose: both sides walk by
/// descriptor.
pub const PATH_BYTES_MAX: usize = 64 << 10;

/// Longest symlink target, in bytes (`PATH_MAX` less the NUL).
pub const LINK_TARGET_BYTES_MAX: usize = 4_095;

/// Most extended attributes of one file.
pub const XATTRS_MAX: usize = 128;

/// Longest extended attribute name, in bytes (`XATTR_NAME_MAX`).
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Largest sum of extended attribute values of one file, in bytes: four of the largest ones
/// (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 256 << 10;

/// Most operations in one commit.
pub const COMMIT_OPS_MAX: usize = 4_096;

/// Most bytes of inline content in one commit, in bytes; the signature needs room beside it.
pub const COMMIT_INLINE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - (4 << 10);

/// Largest file carried inline in a commit, in bytes; larger ones are staged so that they interleave.
pub const INLINE_FILE_BYTES_MAX: u64 = 128 << 10;

/// Longest commit signature, in bytes (ECDSA P-384 in DER is 104; RSA 4096 is 512).
pub const SIGNATURE_BYTES_MAX: usize = 1_024;

/// Most copy, literal and hole instructions in one chunk.
pub const CHUNK_OPS_MAX: usize = 8_192;

/// Most bytes one chunk may produce at the receiver, in bytes: bounds the work a small frame can ask
/// for.
pub const CHUNK_OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// Most transfers staged at once in one session.
pub const TRANSFERS_MAX: usize = 64;

/// Size of an aligned group of the first delta tier, in bytes, for files up to
/// `GROUP_BYTES * GROUPS_MAX`; larger files use larger groups.
pub const GROUP_BYTES: u64 = 64 << 10;

/// Most groups in a group list: bounds its memory whatever the file (32 bytes each, 2 MiB).
pub const GROUPS_MAX: u64 = 1 << 16;

/// Most blocks in a block signature: bounds the agent's index (about 42 bytes each).
pub const BLOCKS_MAX: u64 = 1 << 18;

/// Most byte ranges in one signature query.
pub const SIGNATURE_RANGES_MAX: usize = 1_024;

/// Most entries in one `Listing` frame; more follow in further frames.
pub const LISTING_ENTRIES_MAX: usize = 4_096;

/// Most names of files with several names that one comparison remembers (about 250 bytes each); above,
/// it does not see which names belong together.
pub const LINK_NAMES_MAX: usize = 1 << 20;

/// Most other names of one file told in a `Same`: each is looked at twice.
pub const SAME_NAMES_MAX: usize = 256;

/// Most directories asked for in one `DigestQuery`.
pub const DIGEST_PATHS_MAX: usize = 1_024;

/// Most names of users and groups in one `IdQuery`.
pub const ID_NAMES_MAX: usize = 2_048;

/// Longest human-readable text in a refusal, in bytes.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Longest module or user name, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;

/// Most modules in a module list.
pub const MODULES_MAX: usize = 1_024;

/// Most commits an agent may have sent without a durable acknowledgement.
pub const COMMITS_IN_FLIGHT_MAX: u32 = 4_096;

/// Most interrupted transfers a receiver offers for resumption.
pub const LEFTOVERS_MAX: usize = 256;
