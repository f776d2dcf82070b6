//! `munge symlinks`: targets are stored behind a directory that does not exist, so that nothing on this machine
//! follows them, and told to agents without it.

/// What stands before a munged target. The module is refused where this directory exists.
pub const PREFIX: &[u8] = b"/rsyncd-munged/";

/// How a target is stored.
#[must_use]
pub fn munged(target: &[u8]) -> Vec<u8> {
    [PREFIX, target].concat()
}

/// What an agent is told of a stored target.
#[must_use]
pub fn unmunged(stored: &[u8]) -> &[u8] {
    stored.strip_prefix(PREFIX).unwrap_or(stored)
}

/// Whether targets are munged: as the module says, or else wherever the module is not the root directory.
#[must_use]
pub const fn applies(written: Option<bool>, module_is_root_directory: bool) -> bool {
    match written {
        Some(wanted) => wanted,
        None => !module_is_root_directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_comes_back_as_it_was() {
        for target in [&b"a"[..], b"/etc/passwd", b"../x", b"/rsyncd-munged/y", b""] {
            assert_eq!(unmunged(&munged(target)), target);
        }
        assert_eq!(unmunged(b"plain"), b"plain");
        assert_eq!(unmunged(b"/rsyncd-munged"), b"/rsyncd-munged");
    }

    #[test]
    fn unset_means_without_a_root_directory_of_its_own() {
        assert!(applies(None, false) && !applies(None, true));
        assert!(applies(Some(true), true) && !applies(Some(false), false));
    }
}
