//! [`Refusal`]: why one thing was not done, for programs and for people.

use std::fmt;

use rustix::io::Errno;

use syncd_proto::limits::TEXT_BYTES_MAX;
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

/// Why something was refused by itself; the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RejectCode,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal with this text, shortened to what a frame may carry.
    #[must_use]
    pub fn new(code: RejectCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: shortened(text.into()),
        }
    }

    /// What the system said when we tried to `verb` this path.
    #[must_use]
    pub fn system(verb: &str, path: &WirePath, errno: Errno) -> Self {
        let text = format!("cannot {verb} {path}: {}", describe(errno));
        Self::new(code_of(errno), text)
    }

    /// What the system said when we tried to `verb` our own staging area or a peer's transfer.
    #[must_use]
    pub fn staging(verb: &str, errno: Errno) -> Self {
        let text = format!("cannot {verb} staged content: {}", describe(errno));
        Self::new(code_of(errno), text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// The reason a peer is told for an error of the system.
#[must_use]
pub fn code_of(errno: Errno) -> RejectCode {
    match errno {
        Errno::NOSPC => RejectCode::NoSpace,
        Errno::DQUOT => RejectCode::Quota,
        Errno::ROFS => RejectCode::ReadOnlyFilesystem,
        Errno::IO | Errno::NODATA | Errno::NOTRECOVERABLE => RejectCode::Io,
        Errno::ACCESS | Errno::PERM => RejectCode::Permission,
        Errno::NAMETOOLONG | Errno::ILSEQ => RejectCode::BadName,
        Errno::NOENT => RejectCode::NoParent,
        Errno::NOTDIR | Errno::LOOP => RejectCode::NotADirectory,
        Errno::NOTEMPTY | Errno::EXIST => RejectCode::NotEmpty,
        Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS => RejectCode::Unsupported,
        Errno::FBIG | Errno::MLINK => RejectCode::TooLarge,
        _ => RejectCode::Other,
    }
}

/// The system's words, and its number since those vary.
#[must_use]
pub fn describe(errno: Errno) -> String {
    if errno == Errno::XDEV {
        return "another file system is mounted there".to_owned();
    }
    std::io::Error::from(errno).to_string()
}

/// The text within the limit of a frame.
#[must_use]
pub fn shortened(mut text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let mut end = TEXT_BYTES_MAX - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str("...");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = shortened("\u{e9}".repeat(TEXT_BYTES_MAX));
        assert!(text.len() <= TEXT_BYTES_MAX);
        assert!(text.ends_with("..."));
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn a_full_disk_and_a_missing_parent_are_told_apart() {
        assert_eq!(code_of(Errno::NOSPC), RejectCode::NoSpace);
        assert_eq!(code_of(Errno::NOENT), RejectCode::NoParent);
        assert_eq!(code_of(Errno::LOOP), RejectCode::NotADirectory);
        assert_eq!(code_of(Errno::PERM), RejectCode::Permission);
    }
}
