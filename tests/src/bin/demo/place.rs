//! Arguments, and whether the two directories may be used: nobody's files are deleted by surprise.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

const CONSENT: &str = "--into-non-empty";
/// What a receiver leaves in a module it has written to.
const MARKER: &str = ".syncd";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    source: PathBuf,
    dest: PathBuf,
    consent: bool,
}

/// Two directories that do not contain each other, without symlinks in their paths.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) source: PathBuf,
    pub(crate) dest: PathBuf,
}

impl Arguments {
    /// `None` if help was asked for.
    pub(crate) fn parse(given: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut paths = Vec::new();
        let mut consent = false;
        for argument in given {
            match argument.as_bytes() {
                b"--help" | b"-h" => return Ok(None),
                bytes if bytes == CONSENT.as_bytes() => consent = true,
                bytes if bytes.starts_with(b"-") => {
                    return Err(format!("{}: unknown option", argument.display()));
                }
                _ => paths.push(PathBuf::from(argument)),
            }
        }
        match <[PathBuf; 2]>::try_from(paths) {
            Ok([source, dest]) => Ok(Some(Self {
                source,
                dest,
                consent,
            })),
            Err(paths) => Err(format!("two directories are needed, not {}", paths.len())),
        }
    }
}

impl Places {
    /// Checks everything, and makes nothing yet.
    pub(crate) fn check(arguments: &Arguments) -> Result<Self, String> {
        let source = resolve(&arguments.source)?;
        if !source.is_dir() {
            return Err(format!("SRC {} is not a directory", source.display()));
        }
        let dest = resolve(&arguments.dest)?;
        for (name, inner, outer) in [("DST", &dest, &source), ("SRC", &source, &dest)] {
            if inner.starts_with(outer) {
                let (inner, outer) = (inner.display(), outer.display());
                return Err(format!(
                    "{name} {inner} lies within {outer}: take two places"
                ));
            }
        }
        check_writable_in_conf(&dest)?;
        if dest.exists() && !arguments.consent {
            check_ours(&dest)?;
        }
        Ok(Self { source, dest })
    }

    /// Makes the destination if it is missing.
    pub(crate) fn create(self) -> Result<Self, String> {
        fs::create_dir_all(&self.dest)
            .map_err(|error| format!("cannot make DST {}: {error}", self.dest.display()))?;
        Ok(self)
    }
}

/// The path without symlinks; what does not exist yet is taken as it is.
fn resolve(path: &Path) -> Result<PathBuf, String> {
    let failed = |error| format!("{}: {error}", path.display());
    let absolute = std::path::absolute(path).map_err(failed)?;
    let existing = absolute
        .ancestors()
        .find(|ancestor| ancestor.symlink_metadata().is_ok())
        .unwrap_or(Path::new("/"));
    let missing = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
    if missing
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(format!(
            "{}: `..` below what does not exist",
            path.display()
        ));
    }
    let existing = existing.canonicalize().map_err(failed)?;
    Ok(match missing.as_os_str().is_empty() {
        true => existing,
        false => existing.join(missing),
    })
}

/// `rsyncd.conf` trims values, expands `%` and joins lines that end in a backslash.
fn check_writable_in_conf(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    let odd = bytes
        .iter()
        .any(|byte| byte.is_ascii_control() || *byte == b'%');
    let end = bytes
        .last()
        .is_some_and(|byte| matches!(byte, b' ' | b'\\'));
    if odd || end {
        return Err(format!(
            "DST {}: this name cannot be written into an rsyncd.conf as it is; take another one",
            path.display()
        ));
    }
    Ok(())
}

fn check_ours(dest: &Path) -> Result<(), String> {
    let failed = |error| format!("DST {}: {error}", dest.display());
    let empty = fs::read_dir(dest).map_err(failed)?.next().is_none();
    if empty || dest.join(MARKER).is_dir() {
        return Ok(());
    }
    Err(format!(
        "DST {} has files that no demo has put there, and what is not in SRC would be deleted.\n\
         Take an empty directory, or say {CONSENT} if you mean it.",
        dest.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &Path, dest: &Path, consent: bool) -> Result<Places, String> {
        Places::check(&Arguments {
            source: source.to_owned(),
            dest: dest.to_owned(),
            consent,
        })
    }

    #[test]
    fn arguments_are_two_paths_and_perhaps_consent() {
        let parse = |words: &str| Arguments::parse(words.split_whitespace().map(OsString::from));
        let both = |consent| Arguments {
            source: "a".into(),
            dest: "b".into(),
            consent,
        };
        assert_eq!(parse("a b"), Ok(Some(both(false))));
        assert_eq!(parse("a --into-non-empty b"), Ok(Some(both(true))));
        assert_eq!(parse("a --help"), Ok(None));
        for bad in ["", "a", "a b c", "a b --delete"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_within_the_other_is_refused_also_through_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let (a, link) = (dir.path().join("a"), dir.path().join("link"));
        fs::create_dir_all(a.join("inner")).unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        for (source, dest) in [
            (a.clone(), a.clone()),
            (a.clone(), a.join("inner")),
            (a.clone(), a.join("new/deep")),
            (a.clone(), link.join("new")),
            (a.join("inner"), a.clone()),
            (link.join("inner"), a.clone()),
        ] {
            let error = check(&source, &dest, true).unwrap_err();
            assert!(error.contains("lies within"), "{error}");
        }
        assert!(check(&a, &dir.path().join("ab"), false).is_ok());
        assert!(!dir.path().join("ab").exists(), "a check makes nothing");
        assert!(!a.join("new").exists());
    }

    #[test]
    fn somebody_elses_files_need_consent() {
        let dir = tempfile::tempdir().unwrap();
        let (source, dest) = (dir.path().join("s"), dir.path().join("d"));
        fs::create_dir(&source).unwrap();
        assert!(check(&source, &dest, false).is_ok());
        fs::create_dir(&dest).unwrap();
        assert!(check(&source, &dest, false).is_ok());
        fs::write(dest.join("mine"), "").unwrap();
        let error = check(&source, &dest, false).unwrap_err();
        assert!(error.contains(CONSENT), "{error}");
        assert!(check(&source, &dest, true).is_ok());
        fs::create_dir(dest.join(MARKER)).unwrap();
        assert!(check(&source, &dest, false).is_ok());
    }

    #[test]
    fn what_cannot_be_configured_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a%b", "a\nb", "a ", "a\\"] {
            assert!(check(dir.path(), &Path::new("/tmp").join(name), false).is_err());
        }
        assert!(check(&dir.path().join("missing"), Path::new("/tmp/x"), false).is_err());
        assert!(check(dir.path(), &dir.path().join("no/../x"), false).is_err());
    }
}
