//! What is known of a file besides its content: [`Kind`], [`Mtime`], [`Meta`], [`EntryMeta`].

use bincode::de::{BorrowDecoder, Decoder};
use bincode::error::DecodeError as Bad;
use bincode::{BorrowDecode, Decode, Encode};

use crate::attributes::Attributes;
use crate::digest::Digest;

/// File type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl Kind {
    /// Whether names of one thing of this type are compared as such. `all`: where both sides do that for symlinks, fifos,
    /// sockets and devices ([`crate::message::FEATURE_LINKS`]), and not only for regular files.
    #[must_use]
    pub const fn counts_links(self, all: bool) -> bool {
        match self {
            Self::File => true,
            Self::Dir => false,
            _ => all,
        }
    }

    /// The type that the type bits of `st_mode` say (inode(7)); `None` for one that Linux does not have.
    #[must_use]
    pub const fn of_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Dir),
            0o120_000 => Some(Self::Symlink),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            _ => None,
        }
    }

    /// The word for it in messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }
}

/// Modification time: seconds since the epoch (may be negative) and nanoseconds below 10^9.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode)]
pub struct Mtime {
    secs: i64,
    nanos: u32,
}

impl Mtime {
    /// The time, if `nanos` is below 10^9.
    #[must_use]
    pub const fn new(secs: i64, nanos: u32) -> Option<Self> {
        if nanos < 1_000_000_000 {
            Some(Self { secs, nanos })
        } else {
            None
        }
    }

    /// The time that a file system says, with nanoseconds beyond a second taken for its end.
    #[must_use]
    pub const fn said(secs: i64, nanos: u32) -> Self {
        let nanos = if nanos < 1_000_000_000 {
            nanos
        } else {
            999_999_999
        };
        Self { secs, nanos }
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.secs
    }

    /// Nanoseconds within the second.
    #[must_use]
    pub const fn nanos(self) -> u32 {
        self.nanos
    }
}

impl<C> Decode<C> for Mtime {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, Bad> {
        let secs = i64::decode(decoder)?;
        let nanos = u32::decode(decoder)?;
        Self::new(secs, nanos).ok_or(Bad::Other("nanoseconds above 999999999"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Mtime {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, Bad> {
        Self::decode(decoder)
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Xattr {
    /// Full name with its namespace, such as `user.comment`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Metadata that an operation sets.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Meta {
    /// Permission and special bits, `0o7777` at most; meaningless for symlinks.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes of the classes agreed at `Welcome`, complete and sorted by name; `None` leaves
    /// them alone.
    pub xattrs: Option<Vec<Xattr>>,
}

/// What a scan knows of an entry: what reconcile compares.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EntryMeta {
    /// File type.
    pub kind: Kind,
    /// Permission and special bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Length in bytes of a regular file; 0 for everything else.
    pub size: u64,
    /// Major and minor number of a device; (0, 0) for everything else.
    pub rdev: (u32, u32),
    /// Digest of a symlink's target, or of a file's content where content is compared.
    pub content: Option<Digest>,
    /// Digest of the extended attributes, if they are compared and there are some.
    pub xattrs: Option<Digest>,
}

impl EntryMeta {
    /// What of it an operation sets; of the attributes nothing is known.
    #[must_use]
    pub const fn meta(&self) -> Meta {
        Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: None,
        }
    }
}

/// What of an entry is compared; agreed at `Welcome`, since a receiver can only be held to what it
/// promised to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Compare {
    /// Owner and group.
    pub owner: bool,
    /// Permission bits that are compared.
    pub mode_mask: u16,
    /// Modification times (of symlinks and directories too).
    pub mtime: bool,
    /// Which extended attributes.
    pub xattrs: Attributes,
    /// The presence of fifos and sockets.
    pub specials: bool,
    /// The presence of devices, and their numbers.
    pub devices: bool,
    /// Which names are names of one file.
    pub links: bool,
}

impl Compare {
    /// Whether entries of this type count at all.
    #[must_use]
    pub const fn keeps(self, kind: Kind) -> bool {
        match kind {
            Kind::File | Kind::Dir | Kind::Symlink => true,
            Kind::Fifo | Kind::Socket => self.specials,
            Kind::CharDevice | Kind::BlockDevice => self.devices,
        }
    }

    /// Everything but extended attributes.
    pub const ALL: Self = Self {
        owner: true,
        mode_mask: 0o7777,
        mtime: true,
        xattrs: Attributes::NONE,
        specials: true,
        devices: true,
        links: true,
    };
}
