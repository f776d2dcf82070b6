//! [`Password`]: the secret of a password file, wiped when dropped and never printed.

use std::fmt;

use syncd_proto::auth::PasswordKey;
use zeroize::Zeroizing;

/// Longest password that is used, in bytes: rsync's client cuts there, and so the receiver's
/// `secrets file` knows no longer one.
pub const PASSWORD_BYTES_MAX: usize = 511;

/// A password.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// The password in the content of a password file: its first line that is not empty, without the
    /// line's end, cut as rsync cuts it. `None` if there is no such line.
    #[must_use]
    pub fn from_file_content(content: &[u8]) -> Option<Self> {
        let line = content
            .split(|byte| matches!(byte, b'\n' | b'\r' | 0))
            .find(|line| !line.is_empty())?;
        let cut = line.get(..PASSWORD_BYTES_MAX).unwrap_or(line);
        Some(Self(Zeroizing::new(cut.to_vec())))
    }

    /// The key that proves it for one user of one module.
    #[must_use]
    pub fn key(&self, user: &[u8], module: &[u8]) -> PasswordKey {
        PasswordKey::derive(&self.0, user, module)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Option<Vec<u8>> {
        Password::from_file_content(content).map(|password| password.0.to_vec())
    }

    #[test]
    fn the_first_line_that_is_not_empty_counts() {
        for content in [
            &b"apw"[..],
            b"apw\n",
            b"apw\r\n",
            b"\n\napw\n",
            b"apw\nbpw\n",
        ] {
            assert_eq!(read(content).as_deref(), Some(&b"apw"[..]), "{content:?}");
        }
        assert_eq!(read(b"apw \n").as_deref(), Some(&b"apw "[..]));
        assert_eq!(read(b"# x\napw\n").as_deref(), Some(&b"# x"[..]));
        assert_eq!(read(b"alice:apw\n").as_deref(), Some(&b"alice:apw"[..]));
    }

    #[test]
    fn an_empty_file_has_no_password() {
        assert_eq!(read(b""), None);
        assert_eq!(read(b"\n\r\n"), None);
    }

    #[test]
    fn a_long_line_is_cut_where_rsync_cuts_it() {
        assert_eq!(read(&[b'p'; 600]).map(|line| line.len()), Some(511));
    }

    #[test]
    fn it_is_never_printed() {
        let password = Password::from_file_content(b"secret").unwrap();
        assert!(!format!("{password:?}").contains("secret"));
    }
}
