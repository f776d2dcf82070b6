//! The operations of a commit: what changes names under a module, in one order.

use bincode::{Decode, Encode};

use crate::digest::Digest;
use crate::meta::{Kind, Meta, Mtime};
use crate::path::WirePath;

/// Identifier of a transfer, chosen by the agent, never reused within a session.
pub type TransferId = u64;

/// Where the content of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Content {
    /// The next `len` bytes of the commit frame's inline payload.
    Inline {
        /// Length in bytes.
        len: u32,
        /// Digest of those bytes.
        digest: Digest,
    },
    /// A staged transfer, complete and checked.
    Staged {
        /// Which one.
        transfer: TransferId,
        /// Its length in bytes.
        len: u64,
        /// Its digest.
        digest: Digest,
    },
}

impl Content {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline { len, .. } => u64::from(*len),
            Self::Staged { len, .. } => *len,
        }
    }

    /// Whether the file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Digest of the content.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Inline { digest, .. } | Self::Staged { digest, .. } => digest,
        }
    }
}

/// What the receiver must find at the old name before it renames: the agent cannot know that its own
/// last word arrived unchanged, so it says what it believes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Expect {
    /// File type.
    pub kind: Kind,
    /// Length in bytes of a regular file, else 0.
    pub size: u64,
    /// Modification time of anything but a directory, whose time may still be on its way.
    pub mtime: Option<Mtime>,
}

/// One namespace operation. Each is idempotent as far as its kind allows, so that a batch may be
/// repeated after a cut.
///
/// `Put`, `Symlink`, `Link`, `Special` and `Mkdir` replace whatever stood at the path, of any type
/// (`Mkdir` keeps an existing directory and its content). The parent must exist and be a directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Install a regular file.
    Put {
        /// Where.
        path: WirePath,
        /// Its metadata.
        meta: Meta,
        /// Its content.
        content: Content,
    },
    /// Make a directory, or set the metadata of one that is there.
    Mkdir {
        /// Where.
        path: WirePath,
        /// Its metadata; the time is set again by a later `SetMeta` once its content is complete.
        meta: Meta,
    },
    /// Install a symbolic link.
    Symlink {
        /// Where.
        path: WirePath,
        /// Its metadata; the mode is ignored.
        meta: Meta,
        /// Its target, stored verbatim.
        target: Vec<u8>,
    },
    /// Make `path` another name of the file at `to`.
    Link {
        /// New name.
        path: WirePath,
        /// Existing name.
        to: WirePath,
    },
    /// Install a fifo, socket or device.
    Special {
        /// Where.
        path: WirePath,
        /// Its metadata.
        meta: Meta,
        /// What it is; never `File`, `Dir` or `Symlink`.
        kind: Kind,
        /// Major and minor number of a device.
        rdev: (u32, u32),
    },
    /// Rename, replacing whatever stands at `to`; after
    /// [`FEATURE_SPARE`](crate::message::FEATURE_SPARE) nothing but a directory that is not empty.
    Rename {
        /// Old name.
        from: WirePath,
        /// New name.
        to: WirePath,
        /// What must be found at `from`; otherwise the operation is rejected and nothing changes.
        expect: Option<Expect>,
    },
    /// Swap two names atomically.
    Exchange {
        /// One.
        a: WirePath,
        /// The other.
        b: WirePath,
    },
    /// Remove a name; one that is not there is no error.
    Remove {
        /// What.
        path: WirePath,
        /// Whether a directory goes with everything below it. Without it a directory must be empty.
        recursive: bool,
    },
    /// Set metadata of what is there.
    SetMeta {
        /// What.
        path: WirePath,
        /// The type it must have.
        kind: Kind,
        /// Length of a regular file that it must have, so that a stale file is never made to look
        /// current.
        size: u64,
        /// What to set.
        meta: Meta,
    },
    /// Set metadata of a small file whose content is there already; only after
    /// [`FEATURE_SAME`](crate::message::FEATURE_SAME).
    Same {
        /// What.
        path: WirePath,
        /// Length in bytes of the regular file that must be there.
        len: u32,
        /// Digest of its content.
        digest: Digest,
        /// What to set.
        meta: Meta,
        /// Its other names, all of them.
        names: Vec<WirePath>,
    },
}

impl Op {
    /// The path it is about (the new name of a rename).
    #[must_use]
    pub fn path(&self) -> &WirePath {
        match self {
            Self::Put { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Symlink { path, .. }
            | Self::Link { path, .. }
            | Self::Special { path, .. }
            | Self::Remove { path, .. }
            | Self::SetMeta { path, .. }
            | Self::Same { path, .. } => path,
            Self::Rename { to, .. } => to,
            Self::Exchange { a, .. } => a,
        }
    }

    /// Every path it names.
    pub fn paths(&self) -> impl Iterator<Item = &WirePath> {
        let second = match self {
            Self::Link { to, .. } => Some(to),
            Self::Rename { from, .. } => Some(from),
            Self::Exchange { b, .. } => Some(b),
            _ => None,
        };
        let others = match self {
            Self::Same { names, .. } => names.as_slice(),
            _ => &[],
        };
        std::iter::once(self.path()).chain(second).chain(others)
    }

    /// The metadata it sets, if it sets some.
    #[must_use]
    pub const fn meta(&self) -> Option<&Meta> {
        match self {
            Self::Put { meta, .. }
            | Self::Mkdir { meta, .. }
            | Self::Symlink { meta, .. }
            | Self::Special { meta, .. }
            | Self::SetMeta { meta, .. }
            | Self::Same { meta, .. } => Some(meta),
            Self::Link { .. }
            | Self::Rename { .. }
            | Self::Exchange { .. }
            | Self::Remove { .. } => None,
        }
    }

    /// Bytes of inline content it takes from its commit's payload.
    #[must_use]
    pub fn inline_len(&self) -> u64 {
        match self {
            Self::Put {
                content: Content::Inline { len, .. },
                ..
            } => u64::from(*len),
            _ => 0,
        }
    }

    /// A word for messages.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Mkdir { .. } => "mkdir",
            Self::Symlink { .. } => "symlink",
            Self::Link { .. } => "link",
            Self::Special { .. } => "mknod",
            Self::Rename { .. } => "rename",
            Self::Exchange { .. } => "exchange",
            Self::Remove { .. } => "remove",
            Self::SetMeta { .. } | Self::Same { .. } => "set metadata of",
        }
    }
}

/// Which namespace an [`IdName`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum IdKind {
    /// User.
    User,
    /// Group.
    Group,
}

/// The name the agent's machine gives a numeric id, so that a receiver without `numeric ids` can say
/// which number it is there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IdName {
    /// User or group.
    pub kind: IdKind,
    /// The number.
    pub id: u32,
    /// Its name there.
    pub name: Vec<u8>,
}
