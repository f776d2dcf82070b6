//! [`Ground`]: where a rule stands, for what it says with a leading slash; and paths as text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::path::WirePath;

/// Where a rule stands. All paths are without slashes around them.
#[derive(Debug, Clone, Default)]
pub(super) struct Ground {
    /// The directory of the source that an anchored rule is about.
    pub(super) base: Vec<u8>,
    /// If that directory is above the source: the way down to the source.
    pub(super) lead: Vec<u8>,
    /// The source.
    pub(super) root: Arc<[u8]>,
}

impl Ground {
    /// Rules that are about the whole source.
    pub(super) fn of_root(root: &Arc<[u8]>) -> Self {
        Self {
            root: root.clone(),
            ..Self::default()
        }
    }

    /// Rules of a file in this directory (absolute): in the source, or above it.
    pub(super) fn of_dir(root: &Arc<[u8]>, dir: &[u8]) -> Self {
        Self {
            base: below(dir, root).unwrap_or_default().to_vec(),
            lead: below(root, dir).unwrap_or_default().to_vec(),
            root: root.clone(),
        }
    }
}

/// A file of rules: where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesFile {
    /// In the source.
    Within(WirePath),
    /// Elsewhere, by its absolute path.
    Outside(PathBuf),
}

impl RulesFile {
    /// What this absolute path is about; `None` if it is no file's.
    pub(super) fn at(root: &[u8], path: &[u8]) -> Option<Self> {
        match below(path, root) {
            Some(inside) => {
                let path = WirePath::from_relative(as_path(inside))?;
                (!path.names().is_empty()).then_some(Self::Within(path))
            }
            None => Some(Self::Outside(as_path(&[b"/", path].concat()).into())),
        }
    }

    /// As people are told.
    pub(super) fn display(&self) -> String {
        match self {
            Self::Within(path) => path.to_string(),
            Self::Outside(path) => {
                crate::path::escaped(path.as_os_str().as_encoded_bytes()).to_string()
            }
        }
    }
}

/// The path of a file that is named `name` in the directory `dir`, or absolutely.
pub(super) fn resolved(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let whole = if name.starts_with(b"/") {
        name.to_vec()
    } else {
        [dir, name].join(&b'/')
    };
    let mut names: Vec<&[u8]> = Vec::new();
    for name in whole.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// Where a path leads from a directory that it is in, or is.
pub(super) fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    if dir.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(dir)? {
        [] => Some(b""),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// A path as patterns see it: names with `/` between them.
pub(super) fn bytes_of(path: &WirePath) -> Vec<u8> {
    let names: Vec<&[u8]> = path.names().iter().map(|name| name.as_bytes()).collect();
    names.join(&b'/')
}

/// Bytes as a path.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_as_they_are_written() {
        for (dir, name, path) in [
            (&b"a/b"[..], &b"c"[..], &b"a/b/c"[..]),
            (b"a/b", b"../c", b"a/c"),
            (b"a/b", b"./c/./d", b"a/b/c/d"),
            (b"a/b", b"/c", b"c"),
            (b"a/b", b"../../../c", b"c"),
            (b"", b"c", b"c"),
        ] {
            assert_eq!(resolved(dir, name), path);
        }
        assert_eq!(below(b"a/b", b"a"), Some(&b"b"[..]));
        assert_eq!(below(b"a", b"a"), Some(&b""[..]));
        assert_eq!(below(b"ab", b"a"), None);
        assert_eq!(below(b"a", b""), Some(&b"a"[..]));
    }

    #[test]
    fn files_are_in_the_source_or_outside() {
        let at = |path: &str| RulesFile::at(b"home/src", path.as_bytes());
        let inside = WirePath::from_relative("a/x".as_ref()).map(RulesFile::Within);
        assert_eq!(at("home/src/a/x"), inside);
        assert_eq!(at("home/x"), Some(RulesFile::Outside("/home/x".into())));
        assert_eq!(at("home/src"), None);
    }
}
