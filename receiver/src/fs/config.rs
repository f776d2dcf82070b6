//! Reads `rsyncd.conf` and what it includes from the disk.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Dir, FileType};

use super::trusted::{self, Opened, TrustError};
use crate::logic::rsyncd_conf::{
    ConfigSource, Entry, Loaded, Reading, SourceError, Unusable, Variables, load,
};

/// A configuration file larger than this is refused.
const CONFIG_BYTES_MAX: usize = 1 << 20;
/// A directory with more entries than this is refused.
const ENTRIES_MAX: usize = 10_000;
/// Writable by others.
const OTHER_WRITE: u32 = 0o002;

/// The disk, as configurations name it: relative names start at the working directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskSource;

impl ConfigSource for DiskSource {
    fn read(&mut self, path: &[u8]) -> Result<Entry, SourceError> {
        let opened = trusted::open(Path::new(OsStr::from_bytes(path))).map_err(source_error)?;
        if opened.kind() == FileType::Directory {
            return names(&opened).map(Entry::Directory);
        }
        if opened.stat.st_mode & OTHER_WRITE != 0 {
            return Err(SourceError("anybody may change it: chmod o-w".into()));
        }
        let text = opened.read(CONFIG_BYTES_MAX).map_err(source_error)?;
        Ok(Entry::File(text.to_vec()))
    }
}

/// Reads the configuration of this name with the environment of this process.
///
/// # Errors
/// [`Unusable`] with all there is to say, if it cannot be used.
pub fn read(path: &Path) -> Result<Loaded, Unusable> {
    let variables: Variables = std::env::vars_os()
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .collect();
    load(
        &mut DiskSource,
        path.as_os_str().as_bytes(),
        &variables,
        Reading::Strict,
    )
}

/// Reads a file of rules that a parameter names.
///
/// # Errors
/// Why it cannot be used.
pub fn read_rules(path: &Path) -> Result<Vec<u8>, String> {
    let opened = trusted::open(path).map_err(|error| error.to_string())?;
    let text = opened.read(RULES_BYTES_MAX);
    text.map(|text| text.to_vec())
        .map_err(|error| error.to_string())
}

/// The largest file of rules; all of a module's travel to its worker in one message.
const RULES_BYTES_MAX: usize = 256 << 10;

fn names(directory: &Opened) -> Result<Vec<Vec<u8>>, SourceError> {
    let entries = Dir::read_from(&directory.file).map_err(|error| source_error(error.into()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| source_error(error.into()))?;
        if names.len() == ENTRIES_MAX {
            return Err(SourceError(format!("more than {ENTRIES_MAX} entries")));
        }
        names.push(entry.file_name().to_bytes().to_vec());
    }
    Ok(names)
}

fn source_error(error: TrustError) -> SourceError {
    SourceError(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_included_in_byte_order() {
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("conf.d")).expect("a directory");
        for name in ["b.conf", "A.conf", ".h.conf", "x.inc", "b.conf~"] {
            let text = format!("[{name}]\npath = /srv\n");
            fs::write(at("conf.d").join(name), text).expect("a file");
        }
        let text = format!("&include {}\n", at("conf.d").display());
        fs::write(at("rsyncd.conf"), text).expect("a file");
        let loaded = read(&at("rsyncd.conf")).expect("usable");
        let modules = loaded.config.modules.iter();
        let names: Vec<_> = modules.map(|module| &module.name.value[..]).collect();
        assert_eq!(names, [&b".h.conf"[..], b"A.conf", b"b.conf"]);
    }

    #[test]
    fn what_anybody_may_change_is_not_used() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("rsyncd.conf");
        fs::write(&file, "[m]\n").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("ours");
        let error = read(&file).expect_err("writable by all").to_string();
        assert!(error.contains("chmod o-w"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nonexistent/rsyncd.conf")).expect_err("missing");
        let text = error.to_string();
        assert!(
            text.starts_with("error: /nonexistent/rsyncd.conf: No such file"),
            "{text}"
        );
    }
}
