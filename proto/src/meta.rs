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

/// How exactly modification times are compared: what the receiver's file systems hold of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Times {
    /// Not at all.
    Ignored,
    /// To the nanosecond.
    Nanos,
    /// To the microsecond.
    Micros,
    /// To the second.
    Seconds,
    /// To two seconds.
    TwoSeconds,
}

impl Times {
    /// What of a time is compared: the last moment not after it that is held.
    #[must_use]
    pub const fn of(self, mtime: Mtime) -> Mtime {
        let Mtime { secs, nanos } = mtime;
        match self {
            Self::Ignored => Mtime { secs: 0, nanos: 0 },
            Self::Nanos => mtime,
            Self::Micros => Mtime {
                secs,
                nanos: nanos - nanos % 1_000,
            },
            Self::Seconds => Mtime { secs, nanos: 0 },
            Self::TwoSeconds => Mtime {
                secs: secs & !1,
                nanos: 0,
            },
        }
    }

    /// Whether two times are the same as far as this looks.
    #[must_use]
    pub fn same(self, a: Mtime, b: Mtime) -> bool {
        self.of(a) == self.of(b)
    }

    /// How exactly, for people, where it is less than to the nanosecond.
    #[must_use]
    pub const fn words(self) -> Option<&'static str> {
        match self {
            Self::Ignored | Self::Nanos => None,
            Self::Micros => Some("to the microsecond"),
            Self::Seconds => Some("to the second"),
            Self::TwoSeconds => Some("to two seconds"),
        }
    }

    /// The most exact of these under which a file system that was given a time holds it; to the nanosecond where it
    /// holds another one altogether.
    #[must_use]
    pub fn found(given: Mtime, held: Mtime) -> Self {
        let coarser = [Self::Micros, Self::Seconds, Self::TwoSeconds];
        let exact = given == held;
        let found = coarser.into_iter().find(|times| times.same(given, held));
        found.filter(|_| !exact).unwrap_or(Self::Nanos)
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
    pub mtime: Times,
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
        mtime: Times::Nanos,
        xattrs: Attributes::NONE,
        specials: true,
        devices: true,
        links: true,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: Mtime = Mtime::said(-3, 987_654_321);

    #[test]
    fn a_file_system_is_known_by_what_it_leaves_of_a_time() {
        for (held, times) in [
            (EXACT, Times::Nanos),
            (Mtime::said(-3, 987_654_300), Times::Micros),
            (Mtime::said(-3, 987_654_000), Times::Micros),
            (Mtime::said(-3, 980_000_000), Times::Seconds),
            (Mtime::said(-3, 0), Times::Seconds),
            (Mtime::said(-4, 0), Times::TwoSeconds),
            (Mtime::said(-2, 0), Times::Nanos),
            (Mtime::said(1_700_000_000, 5), Times::Nanos),
        ] {
            assert_eq!(Times::found(EXACT, held), times, "{held:?}");
            assert_eq!(times.same(EXACT, held), times.of(held) == times.of(EXACT));
        }
    }

    #[test]
    fn what_is_left_off_is_not_compared() {
        let other = Mtime::said(-3, 1);
        assert!(Times::Ignored.same(EXACT, Mtime::default()));
        assert!(!Times::Nanos.same(EXACT, other) && !Times::Micros.same(EXACT, other));
        assert!(
            Times::Seconds.same(EXACT, other) && !Times::Seconds.same(EXACT, Mtime::said(-4, 0))
        );
        assert_eq!(Times::TwoSeconds.of(EXACT), Mtime::said(-4, 0));
        assert_eq!(Times::Micros.of(EXACT), Mtime::said(-3, 987_654_000));
    }
}
