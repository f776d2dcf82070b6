//! [`RejectCode`]: the closed list of reasons a peer is told.

use std::fmt;

use bincode::{Decode, Encode};

/// Why something was refused. The text beside it is for people; programs look at this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum RejectCode {
    /// No common protocol version.
    Version,
    /// No such module, or none that this host may know of.
    UnknownModule,
    /// `hosts allow` / `hosts deny` refuse this address.
    HostDenied,
    /// The certificate is not allowed for the module.
    CertificateDenied,
    /// `max connections` reached.
    TooManyConnections,
    /// Unknown user, wrong password, or a rule that denies the user.
    AuthFailed,
    /// The module is read only for this user.
    ReadOnly,
    /// Another writer holds this module and sub-path.
    Busy,
    /// The module cannot be served: its path is missing, its user cannot be taken, its hooks fail.
    ModuleUnavailable,
    /// The receiver is going down; come back.
    Draining,
    /// The peer broke the protocol.
    Protocol,

    /// No space or no inodes.
    NoSpace,
    /// Quota exceeded.
    Quota,
    /// The file system is read only.
    ReadOnlyFilesystem,
    /// The disk failed.
    Io,
    /// The receiver may not do this.
    Permission,
    /// The file is immutable or append-only at the receiver.
    Immutable,
    /// A name too long, or otherwise impossible, on the receiver's file system.
    BadName,
    /// A name the receiver keeps for itself.
    ReservedName,
    /// The parent directory is not there.
    NoParent,
    /// The parent, or a component above it, is not a directory or is a symlink.
    NotADirectory,
    /// A directory that had to be empty is not.
    NotEmpty,
    /// What was expected at the path is not there: wrong type, size or time, or nothing.
    Mismatch,
    /// The named basis is not there or has changed: send the whole file.
    NoBasis,
    /// Staged content is missing, incomplete or does not have its digest: send it again.
    BadContent,
    /// The receiver's file system or configuration cannot hold this kind of file or attribute.
    Unsupported,
    /// Above a limit of the module.
    TooLarge,
    /// Deletes are held at the receiver (`max delete`).
    DeleteHeld,
    /// Anything else; the text says what.
    Other,
    /// Extended attributes could not be set; everything else of the operation was done.
    Attributes,
}

impl RejectCode {
    /// Whether the whole session waits because of it: nothing else would fare better until somebody
    /// makes room.
    #[must_use]
    pub const fn pauses_transfers(self) -> bool {
        matches!(
            self,
            Self::NoSpace | Self::Quota | Self::ReadOnlyFilesystem | Self::Io
        )
    }

    /// Whether trying again at once, with the content sent whole or the path looked at anew, may help.
    #[must_use]
    pub const fn is_stale(self) -> bool {
        matches!(
            self,
            Self::NoBasis | Self::BadContent | Self::Mismatch | Self::NoParent
        )
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "version not supported",
            Self::UnknownModule => "unknown module",
            Self::HostDenied => "host not allowed",
            Self::CertificateDenied => "certificate not allowed",
            Self::TooManyConnections => "too many connections",
            Self::AuthFailed => "auth failed",
            Self::ReadOnly => "module is read only",
            Self::Busy => "another writer is connected",
            Self::ModuleUnavailable => "module unavailable",
            Self::Draining => "receiver is going down",
            Self::Protocol => "protocol error",
            Self::NoSpace => "no space left",
            Self::Quota => "quota exceeded",
            Self::ReadOnlyFilesystem => "file system is read only",
            Self::Io => "input/output error",
            Self::Permission => "permission denied",
            Self::Immutable => "file is immutable or append-only",
            Self::BadName => "name not possible on the receiver",
            Self::ReservedName => "name is reserved for syncd",
            Self::NoParent => "parent directory missing",
            Self::NotADirectory => "not a directory, or a symlink",
            Self::NotEmpty => "directory not empty",
            Self::Mismatch => "not what was expected",
            Self::NoBasis => "basis missing or changed",
            Self::BadContent => "content incomplete or damaged",
            Self::Unsupported => "not supported by the receiver",
            Self::TooLarge => "above a limit of the module",
            Self::DeleteHeld => "deletes are held",
            Self::Other => "failed",
            Self::Attributes => "attributes not set",
        })
    }
}
