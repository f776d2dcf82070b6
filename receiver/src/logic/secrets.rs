//! The text of a secrets file, and whether its mode and owner let it be believed.
//!
//! Reading the file is `fs/secrets.rs`; comparing an answer with a password is the challenge's matter.

use std::fmt;

use zeroize::Zeroizing;

/// A secrets file larger than this is refused.
pub const SECRETS_BYTES_MAX: usize = 1 << 20;

/// rsync reads lines in pieces of this size; the rest of a longer line is a line of its own.
const LINE_BYTES_MAX: usize = 1_023;

/// Bits of `mode` that make a secrets file unfit: readable or writable by others.
const OTHER_BITS: u32 = 0o006;

/// The content of a secrets file, wiped when dropped.
pub struct Secrets(Zeroizing<Vec<u8>>);

impl Secrets {
    /// Takes the text as read. More than [`SECRETS_BYTES_MAX`] is cut: readers refuse such a file first.
    #[must_use]
    pub fn new(mut text: Zeroizing<Vec<u8>>) -> Self {
        text.truncate(SECRETS_BYTES_MAX);
        Self(text)
    }

    /// The password on the first line for this user. Names are literal.
    #[must_use]
    pub fn user(&self, name: &[u8]) -> Option<&[u8]> {
        self.lines()
            .filter(|line| !line.starts_with(b"@"))
            .find_map(|line| password(line, name))
    }

    /// The password on the first line for this group (written without its `@`).
    #[must_use]
    pub fn group(&self, name: &[u8]) -> Option<&[u8]> {
        self.lines()
            .filter_map(|line| line.strip_prefix(b"@"))
            .find_map(|line| password(line, name))
    }

    /// Whether no line of it names anybody: it is somebody's password file.
    #[must_use]
    pub fn has_no_names(&self) -> bool {
        self.lines()
            .all(|line| line.starts_with(b"#") || !line.contains(&b':'))
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split_inclusive(|&byte| byte == b'\n')
            .flat_map(|line| line.chunks(LINE_BYTES_MAX))
            .map(|piece| {
                let start = piece
                    .iter()
                    .take_while(|&&byte| matches!(byte, b'\r' | b'\n'))
                    .count();
                let text = &piece[start..];
                let end = text
                    .iter()
                    .position(|&byte| matches!(byte, b'\r' | b'\n' | 0))
                    .unwrap_or(text.len());
                &text[..end]
            })
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} bytes)", self.0.len())
    }
}

fn password<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(name)?.strip_prefix(b":")
}

/// Why `strict modes` refuses a secrets file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Others may read or write it.
    OtherAccess {
        /// Its permission bits.
        mode: u32,
    },
    /// The daemon runs as root and the file is not root's.
    NotRootOwned {
        /// Its owner.
        owner: u32,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherAccess { mode } => write!(
                f,
                "secrets file must not be other-accessible (mode {mode:04o}; see strict modes): chmod o-rwx"
            ),
            Self::NotRootOwned { owner } => write!(
                f,
                "secrets file must be owned by root when running as root (owner {owner}; see strict modes): chown root"
            ),
        }
    }
}

impl std::error::Error for Unfit {}

/// What `strict modes = yes` says to a file with this mode and owner, the daemon running as `euid`.
///
/// # Errors
/// [`Unfit`] if the file must not be used.
pub const fn strict_modes(mode: u32, owner: u32, euid: u32) -> Result<(), Unfit> {
    if mode & OTHER_BITS != 0 {
        return Err(Unfit::OtherAccess {
            mode: mode & 0o7777,
        });
    }
    if euid == 0 && owner != 0 {
        return Err(Unfit::NotRootOwned { owner });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(text: &[u8]) -> Secrets {
        Secrets::new(Zeroizing::new(text.to_vec()))
    }

    #[test]
    fn the_first_line_of_a_name_counts() {
        let file = secrets(b"# people\r\nali:x\nalice:one\nalice:two\n@backup:gpw\nbob: b:#b \n");
        assert_eq!(file.user(b"alice"), Some(&b"one"[..]));
        assert_eq!(file.user(b"bob"), Some(&b" b:#b "[..]));
        assert_eq!(file.user(b"al"), None);
        assert_eq!(file.user(b"@backup"), None);
        assert_eq!(file.group(b"backup"), Some(&b"gpw"[..]));
        assert_eq!(file.group(b"alice"), None);
    }

    #[test]
    fn long_lines_are_cut_where_rsync_cuts_them() {
        let text = [b"alice:".as_slice(), &[b'p'; 1_017], b"bob:bpw\n"].concat();
        let file = secrets(&text);
        assert_eq!(file.user(b"alice").map(<[u8]>::len), Some(1_017));
        assert_eq!(file.user(b"bob"), Some(&b"bpw"[..]));
    }

    #[test]
    fn others_must_not_read_it_and_root_wants_its_own() {
        assert_eq!(strict_modes(0o100_660, 0, 0), Ok(()));
        assert_eq!(strict_modes(0o100_601, 5, 5), Ok(()));
        assert_eq!(strict_modes(0o100_640, 7, 5), Ok(()));
        assert!(strict_modes(0o100_604, 0, 0).is_err());
        assert!(strict_modes(0o100_602, 5, 5).is_err());
        assert!(strict_modes(0o100_600, 5, 0).is_err());
    }

    #[test]
    fn the_text_does_not_show() {
        assert_eq!(
            format!("{:?}", secrets(b"alice:apw\n")),
            "Secrets(10 bytes)"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(text: Vec<u8>, name: Vec<u8>) {
            let file = secrets(&text);
            if let Some(found) = file.user(&name) {
                prop_assert!(!found.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)));
            }
            let _ = file.group(&name);
        }
    }
}
