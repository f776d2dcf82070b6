//! Files of filter rules: those that the configuration names, and those in the directories of a source
//! and above it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use syncd_proto::path::WirePath;

use super::read::{self, ReadError, Stability};
use super::root::SourceRoot;
use crate::logic::filter::RULES_BYTES_MAX;
use crate::logic::terms::Terms;

/// Reads a file of rules that the configuration names.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    read_open(file)
}

fn read_open(file: fs::File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(RULES_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > RULES_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Reads a file of rules that may lie above a source; `None` if there is none.
///
/// # Errors
/// Something is there, and it is no file that can be read.
pub fn read_above(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // A pipe of that name must not stop the agent.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(error),
            };
        }
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    read_open(file).map(Some)
}

/// Reads a file of rules in a source; `None` if there is none.
///
/// # Errors
/// Something is there, and it is no file that can be read.
pub fn read_within(root: &SourceRoot, path: &WirePath) -> Result<Option<Vec<u8>>, ReadError> {
    match read::read_small(
        root,
        path,
        RULES_BYTES_MAX,
        Stability::Waived,
        &Terms::default(),
    ) {
        Ok(file) => Ok(Some(file.bytes)),
        Err(ReadError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
