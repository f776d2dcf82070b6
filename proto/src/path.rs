//! [`Name`] and [`WirePath`]: the only names that cross the wire.
//!
//! A path is an array of components. `/`, NUL, the empty name, `.` and `..` cannot be expressed, so a
//! path can only lead down. Names are bytes; nothing here assumes UTF-8.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError as Bad, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

use crate::RESERVED_NAME;
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks `bytes` and makes a name of them.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let valid = !bytes.is_empty()
            && bytes.len() <= NAME_BYTES_MAX
            && bytes != b"."
            && bytes != b".."
            && !bytes.iter().any(|&byte| byte == b'/' || byte == 0);
        valid.then(|| Self(bytes.into()))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as the operating system takes it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Whether this is the name the receiver keeps for itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        &*self.0 == RESERVED_NAME
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Encode for Name {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for Name {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, Bad> {
        let bytes = Vec::<u8>::decode(decoder)?;
        Self::new(&bytes).ok_or(Bad::Other("invalid name"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Name {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, Bad> {
        Self::decode(decoder)
    }
}

/// A path below the root of a mirror: components from the root down; none means the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct WirePath(Vec<Name>);

impl WirePath {
    /// The root of the mirror.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path of these components, if it is within the limits of depth and length.
    #[must_use]
    pub fn from_names(names: Vec<Name>) -> Option<Self> {
        let bytes: usize = names.iter().map(|name| name.0.len() + 1).sum();
        (names.len() <= PATH_DEPTH_MAX && bytes <= PATH_BYTES_MAX).then_some(Self(names))
    }

    /// The path that `path`, taken from the root, names. `None` if it climbs, is absolute or is above a
    /// limit.
    #[must_use]
    pub fn from_relative(path: &Path) -> Option<Self> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) => names.push(Name::new(name.as_bytes())?),
                Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
            }
        }
        Self::from_names(names)
    }

    /// Its components, from the root down.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path and one more component; `None` above the limits.
    #[must_use]
    pub fn join(&self, name: &Name) -> Option<Self> {
        let mut names = Vec::with_capacity(self.0.len() + 1);
        names.extend_from_slice(&self.0);
        names.push(name.clone());
        Self::from_names(names)
    }

    /// Whether this path and one more component are within the limits.
    #[must_use]
    pub fn can_hold(&self, name: &Name) -> bool {
        let bytes: usize = self.0.iter().map(|name| name.0.len() + 1).sum();
        self.0.len() < PATH_DEPTH_MAX && bytes + name.0.len() < PATH_BYTES_MAX
    }

    /// This path with `tail` below it; `None` above the limits.
    #[must_use]
    pub fn join_path(&self, tail: &Self) -> Option<Self> {
        let mut names = self.0.clone();
        names.extend_from_slice(&tail.0);
        Self::from_names(names)
    }

    /// The directory that holds it; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, parents) = self.0.split_last()?;
        Some(Self(parents.to_vec()))
    }

    /// Its last component; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&Name> {
        self.0.last()
    }

    /// Whether it is `other` or lies below it.
    #[must_use]
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Whether it is in the same directory as `other`, or in `other` itself.
    #[must_use]
    pub fn is_beside_or_in(&self, other: &Self) -> bool {
        self.0.split_last().is_some_and(|(_, dir)| {
            let beside = other.0.split_last().map(|(_, dir)| dir);
            dir == other.0.as_slice() || Some(dir) == beside
        })
    }

    /// What follows `base`, if this path is `base` or lies below it.
    #[must_use]
    pub fn strip_prefix(&self, base: &Self) -> Option<Self> {
        self.0
            .strip_prefix(base.0.as_slice())
            .map(|tail| Self(tail.to_vec()))
    }

    /// Whether any component is the name the receiver keeps for itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.iter().any(Name::is_reserved)
    }

    /// The path as the operating system takes it, relative to the root; empty for the root itself.
    #[must_use]
    pub fn to_path_buf(&self) -> PathBuf {
        let mut bytes = Vec::new();
        for name in &self.0 {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name.as_bytes());
        }
        PathBuf::from(OsString::from_vec(bytes))
    }
}

impl fmt::Display for WirePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        for (index, name) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            write!(f, "{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for WirePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Encode for WirePath {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for WirePath {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, Bad> {
        let names = Vec::<Name>::decode(decoder)?;
        Self::from_names(names).ok_or(Bad::Other("path above the limit"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for WirePath {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, Bad> {
        Self::decode(decoder)
    }
}

/// Writes bytes a peer chose so that they are safe on a terminal and in a log: printable text as it is,
/// control characters, direction marks, backslashes and bytes that are not UTF-8 as `\xNN`.
///
/// # Errors
/// Those of the formatter.
pub fn escape(bytes: &[u8], f: &mut impl fmt::Write) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_plain(character) {
                f.write_char(character)?;
            } else {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    write!(f, "\\x{byte:02x}")?;
                }
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// [`escape`] into a new string.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    let _ = escape(bytes, &mut text);
    text
}

fn is_plain(character: char) -> bool {
    !character.is_control()
        && character != '\\'
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// How many of these names the kernel takes as one path: `PATH_MAX` is 4096 bytes, with the NUL.
#[must_use]
pub fn piece_len(names: &[Name]) -> usize {
    let mut bytes = 0;
    let fits = |name: &&Name| {
        bytes += name.as_bytes().len() + 1;
        bytes <= PIECE_BYTES_MAX
    };
    names.iter().take_while(fits).count()
}

/// Names as a relative path; `.` if there are none.
#[must_use]
pub fn joined(names: &[Name]) -> Vec<u8> {
    if names.is_empty() {
        return b".".to_vec();
    }
    let names: Vec<&[u8]> = names.iter().map(Name::as_bytes).collect();
    names.join(&b'/')
}

/// Longest path given to the kernel at once, in bytes.
const PIECE_BYTES_MAX: usize = 4_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(Path::new(text)).unwrap()
    }

    #[test]
    fn a_name_that_climbs_or_hides_cannot_be_made_or_decoded() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(Name::new(bad).is_none());
            let mut bytes = Vec::new();
            codec::encode(&vec![bad.to_vec()], &mut bytes).unwrap();
            assert!(codec::decode::<WirePath>(&bytes).is_err(), "{bad:?}");
        }
        assert!(Name::new(&[b'x'; 255]).is_some());
        assert!(Name::new(b"...").is_some());
    }

    #[test]
    fn relative_paths_become_components() {
        assert_eq!(path("a/./b").names().len(), 2);
        assert!(path(".").is_root());
        assert!(WirePath::from_relative(Path::new("../a")).is_none());
        assert!(WirePath::from_relative(Path::new("/a")).is_none());
        assert_eq!(path("a/b").to_path_buf(), Path::new("a/b"));
    }

    #[test]
    fn prefixes_are_whole_components() {
        assert!(path("a/b").starts_with(&path("a")));
        assert!(!path("ab").starts_with(&path("a")));
        assert_eq!(path("a/b/c").strip_prefix(&path("a")), Some(path("b/c")));
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(WirePath::root().parent(), None);
    }

    #[test]
    fn depth_is_limited() {
        let deep = vec![Name::new(b"d").unwrap(); PATH_DEPTH_MAX];
        let deep = WirePath::from_names(deep).unwrap();
        assert!(deep.join(&Name::new(b"e").unwrap()).is_none());
    }

    #[test]
    fn what_can_be_held_is_what_can_be_joined() {
        let name = |len: usize| Name::new(&vec![b'n'; len]).unwrap();
        let full = PATH_BYTES_MAX / 256;
        for (count, last) in [(0, 1), (full - 1, 1), (full - 1, 254), (full - 1, 255)] {
            let mut names = vec![name(255); count];
            for _ in 0..4 {
                let base = WirePath::from_names(names.clone()).unwrap();
                for len in [1, last, 255] {
                    let joined = base.join(&name(len));
                    assert_eq!(base.can_hold(&name(len)), joined.is_some(), "{count} {len}");
                }
                names.push(name(1));
                if WirePath::from_names(names.clone()).is_none() {
                    break;
                }
            }
        }
        for depth in [PATH_DEPTH_MAX - 1, PATH_DEPTH_MAX] {
            let deep = WirePath::from_names(vec![name(1); depth]).unwrap();
            assert_eq!(deep.can_hold(&name(1)), deep.join(&name(1)).is_some());
        }
    }

    #[test]
    fn hostile_names_are_escaped() {
        let name = Name::new(b"a\x1b[31m\n\xff\\\xe2\x80\xae").unwrap();
        assert_eq!(name.to_string(), "a\\x1b[31m\\x0a\\xff\\x5c\\xe2\\x80\\xae");
    }
}
