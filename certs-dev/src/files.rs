//! Writing certificates and keys: a key is never readable by others, not even for a moment.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::CertError;

/// Mode of a file that holds a private key, from its creation on.
pub(crate) const MODE_KEY: u32 = 0o600;
/// Mode of a file that holds only public matter.
pub(crate) const MODE_PUBLIC: u32 = 0o644;
const MODE_DIR: u32 = 0o700;

/// Whether writing may replace a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overwrite {
    Refuse,
    Allow,
}

/// The first of `names` that already exists in `dir`, if any.
pub fn occupied(dir: &Path, names: &[String]) -> Option<PathBuf> {
    names
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.symlink_metadata().is_ok())
}

/// Creates `dir` for its owner only; a directory that is there already keeps its mode.
pub(crate) fn create_dir(dir: &Path) -> Result<(), CertError> {
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|source| CertError::io("create", parent, source))?;
    }
    match DirBuilder::new().mode(MODE_DIR).create(dir) {
        Err(source) if source.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(source) => Err(CertError::io("create", dir, source)),
        Ok(()) => Ok(()),
    }
}

/// Writes a whole new file with `mode`; replacing goes through a new file and a rename.
pub(crate) fn write(
    path: &Path,
    text: &str,
    mode: u32,
    overwrite: Overwrite,
) -> Result<(), CertError> {
    match overwrite {
        Overwrite::Refuse => write_new(path, text, mode),
        Overwrite::Allow => {
            let mut beside = path.as_os_str().to_owned();
            beside.push(format!(".{}.new", std::process::id()));
            let beside = PathBuf::from(beside);
            write_new(&beside, text, mode)?;
            fs::rename(&beside, path).map_err(|source| CertError::io("replace", path, source))
        }
    }
}

/// Reads a whole text file.
pub(crate) fn read(path: &Path) -> Result<String, CertError> {
    fs::read_to_string(path).map_err(|source| CertError::io("read", path, source))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = opened.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => CertError::Exists(path.to_owned()),
        _ => CertError::io("create", path, source),
    })?;
    file.write_all(text.as_bytes())
        .map_err(|source| CertError::io("write", path, source))
}
