//! Files of filter rules: those that the configuration names, and those in the directories of a source.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use syncd_proto::path::{Name, WirePath};

use super::read::{self, ReadError, Stability};
use super::root::SourceRoot;
use crate::logic::filter::RULES_BYTES_MAX;
use crate::logic::terms::Terms;

/// Reads a file of rules that the configuration names.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path)?;
    file.take(RULES_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > RULES_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Reads the file of rules `name` in a directory of a source; `None` if there is none.
///
/// # Errors
/// Something is there, and it is no file that can be read.
pub fn read_in_dir(
    root: &SourceRoot,
    dir: &WirePath,
    name: &[u8],
) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(path) = Name::new(name).and_then(|name| dir.join(&name)) else {
        return Ok(None);
    };
    match read::read_small(
        root,
        &path,
        RULES_BYTES_MAX,
        Stability::Waived,
        &Terms::default(),
    ) {
        Ok(file) => Ok(Some(file.bytes)),
        Err(ReadError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
