//! Reads the TLS files that the configuration names, and says which one is wrong and what to do.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use syncd_proto::path::escaped;
use zeroize::Zeroizing;

use crate::front::accounts::Me;
use crate::logic::secrets::{Unfit, strict_modes};
use crate::net::tls::{Material, Part, Tls};

/// Largest file read; an authority bundle of the whole web is a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The names of the files, as configured.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `tls cert file`.
    pub certificate: Option<Vec<u8>>,
    /// `tls key file`.
    pub key: Option<Vec<u8>>,
    /// `tls ca file`.
    pub authorities: Option<Vec<u8>>,
    /// `tls crl file`.
    pub revocations: Option<Vec<u8>>,
}

/// Prepares TLS from the files.
///
/// # Errors
/// What is wrong, where, and the fix, for people.
pub fn load(files: &Files, me: Me) -> Result<Tls, String> {
    let certificate = read(
        parameter(Part::Certificate),
        files.certificate.as_deref(),
        None,
    )?;
    let key = read(parameter(Part::Key), files.key.as_deref(), Some(me))?;
    let authorities = read(
        parameter(Part::Authorities),
        files.authorities.as_deref(),
        None,
    )?;
    let revocations = match &files.revocations {
        Some(path) => Some(read(parameter(Part::Revocations), Some(path), None)?),
        None => None,
    };
    let material = Material {
        certificate: &certificate,
        key: &key,
        authorities: &authorities,
        revocations: revocations.as_deref().map(Vec::as_slice),
    };
    Tls::new(&material).map_err(|error| {
        let path = match error.part {
            Part::Certificate => &files.certificate,
            Part::Key => &files.key,
            Part::Authorities => &files.authorities,
            Part::Revocations => &files.revocations,
        };
        let path = path.as_deref().map(escaped).unwrap_or_default();
        format!("`{}` {path}: {error}", parameter(error.part))
    })
}

fn parameter(part: Part) -> &'static str {
    match part {
        Part::Certificate => "tls cert file",
        Part::Key => "tls key file",
        Part::Authorities => "tls ca file",
        Part::Revocations => "tls crl file",
    }
}

fn read(
    parameter: &str,
    path: Option<&[u8]>,
    private: Option<Me>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let path = path.ok_or_else(|| {
        format!(
            "`{parameter}` is not set: syncd speaks TLS only; name a PEM file with `{parameter} = FILE` in the global part (before the first [module])"
        )
    })?;
    let at = escaped(path);
    let failed = |error: std::io::Error| format!("`{parameter}` {at}: {error}");
    let file = File::open(Path::new(OsStr::from_bytes(path))).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("`{parameter}` {at}: not a regular file"));
    }
    if let Some(me) = private {
        strict_modes(metadata.mode(), metadata.uid(), me.uid())
            .map_err(|unfit| format!("`{parameter}` {at}: {}", unfit_key(unfit)))?;
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let mut limited = file.take(FILE_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "`{parameter}` {at}: larger than {FILE_BYTES_MAX} bytes"
        ));
    }
    Ok(bytes)
}

fn unfit_key(unfit: Unfit) -> String {
    match unfit {
        Unfit::OtherAccess { mode } => {
            format!("others may read or write it (mode {mode:04o}): chmod 600 it")
        }
        Unfit::NotRootOwned { owner } => {
            format!("it belongs to uid {owner}, not to root: chown it to root")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_named_with_its_fix() {
        let text = load(&Files::default(), Me::now()).unwrap_err();
        assert!(text.contains("`tls cert file` is not set"), "{text}");
        assert!(text.contains("`tls cert file = FILE`"), "{text}");
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let files = Files {
            certificate: Some(b"/no/such\nfile".to_vec()),
            ..Files::default()
        };
        let text = load(&files, Me::now()).unwrap_err();
        assert!(
            text.starts_with("`tls cert file` /no/such\\x0afile: No such file"),
            "{text}"
        );
    }
}
