//! rsync's `user.rsync.%stat`: what a file would be if the receiver might make it so, as a line of text.
//!
//! `100644 0,0 1000:1000` is mode with file type (octal), device numbers, owner and group. A later restore with
//! `rsync --fake-super` understands it.

use syncd_proto::meta::Kind;

/// The attribute's name.
pub const ATTRIBUTE: &str = "user.rsync.%stat";

/// The longest line that is read.
pub const LINE_BYTES_MAX: usize = 128;

const TYPE_MASK: u32 = 0o170_000;
const TYPES: [(Kind, u32); 7] = [
    (Kind::File, 0o100_000),
    (Kind::Dir, 0o040_000),
    (Kind::Symlink, 0o120_000),
    (Kind::Fifo, 0o010_000),
    (Kind::Socket, 0o140_000),
    (Kind::CharDevice, 0o020_000),
    (Kind::BlockDevice, 0o060_000),
];

/// What a file is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Its type.
    pub kind: Kind,
    /// Its permissions, special bits included.
    pub mode: u16,
    /// Device numbers; 0 if it is none.
    pub rdev: (u32, u32),
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Said {
    /// As it is written.
    #[must_use]
    pub fn line(&self) -> String {
        let kind = TYPES.iter().find(|(kind, _)| *kind == self.kind);
        let mode = kind.map_or(0, |(_, bits)| *bits) | u32::from(self.mode & 0o7777);
        let (major, minor) = self.rdev;
        format!("{mode:o} {major},{minor} {}:{}", self.uid, self.gid)
    }

    /// Reads a line; `None` if it says nothing that can be.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?.trim_end_matches('\0');
        let mut words = text.split_ascii_whitespace();
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let (major, minor) = words.next()?.split_once(',')?;
        let (uid, gid) = words.next()?.split_once(':')?;
        let &(kind, _) = TYPES.iter().find(|(_, bits)| *bits == mode & TYPE_MASK)?;
        if mode & !(TYPE_MASK | 0o7777) != 0 {
            return None;
        }
        Some(Self {
            kind,
            mode: u16::try_from(mode & 0o7777).ok()?,
            rdev: (major.parse().ok()?, minor.parse().ok()?),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    }

    /// The permissions such a file gets on the disk: nothing special, and its owner may always read and write it.
    #[must_use]
    pub fn mode_on_disk(&self) -> u16 {
        let owner = if self.kind == Kind::Dir { 0o700 } else { 0o600 };
        self.mode & 0o777 | owner
    }

    /// Whether something of this kind on the disk can stand for it: a directory for one, a file for all else.
    #[must_use]
    pub fn fits(&self, on_disk: Kind) -> bool {
        match self.kind {
            Kind::Dir => on_disk == Kind::Dir,
            _ => on_disk == Kind::File,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_rsyncs() {
        for (line, kind, mode, rdev, ids) in [
            (
                "100444 0,0 2003:2003",
                Kind::File,
                0o444,
                (0, 0),
                (2003, 2003),
            ),
            (
                "104755 0,0 65534:65534",
                Kind::File,
                0o4755,
                (0, 0),
                (65_534, 65_534),
            ),
            ("41777 0,0 0:0", Kind::Dir, 0o1777, (0, 0), (0, 0)),
            ("120777 0,0 0:0", Kind::Symlink, 0o777, (0, 0), (0, 0)),
            ("10644 0,0 0:0", Kind::Fifo, 0o644, (0, 0), (0, 0)),
            (
                "20644 250,300 0:0",
                Kind::CharDevice,
                0o644,
                (250, 300),
                (0, 0),
            ),
        ] {
            let said = Said {
                kind,
                mode,
                rdev,
                uid: ids.0,
                gid: ids.1,
            };
            assert_eq!(said.line(), line);
            assert_eq!(Said::parse(line.as_bytes()), Some(said));
        }
        for line in [
            "",
            "644 0,0 0:0",
            "100644 0,0 0",
            "100644 0 0:0",
            "9 0,0 0:0",
            "100644 0,0 -1:0",
        ] {
            assert_eq!(Said::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn on_the_disk_the_owner_can_always_work() {
        for (line, mode) in [
            ("100000 0,0 0:0", 0o600),
            ("104755 0,0 0:0", 0o755),
            ("100444 0,0 0:0", 0o644),
            ("40555 0,0 0:0", 0o755),
            ("40000 0,0 0:0", 0o700),
            ("41777 0,0 0:0", 0o777),
        ] {
            assert_eq!(
                Said::parse(line.as_bytes()).unwrap().mode_on_disk(),
                mode,
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind in 0_usize..7, mode in 0_u16..=0o7777, rdev: (u32, u32), uid: u32, gid: u32) {
            let said = Said { kind: TYPES[kind].0, mode, rdev, uid, gid };
            prop_assert_eq!(Said::parse(said.line().as_bytes()), Some(said));
        }

        #[test]
        fn any_bytes_end_well(line: Vec<u8>) {
            let _ = Said::parse(&line);
        }
    }
}
