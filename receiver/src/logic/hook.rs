//! Commands of `early exec`, `pre-xfer exec` and `post-xfer exec`: their text, and what a peer may put into it.
//!
//! What a peer chooses (its user name) reaches a command in the environment. Where the configuration writes
//! `%RSYNC_USER_NAME%` into the command itself, a value that a shell could take for more than a word refuses.

use std::fmt;

use syncd_proto::path::escaped;

use crate::logic::rsyncd_conf::{Text, Variables};

/// Why there is no command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeValue {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl fmt::Display for UnsafeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "%{}% is \"{}\", which a shell would not take as one plain word: use ${} in quotes instead",
            escaped(&self.name),
            escaped(&self.value),
            escaped(&self.name),
        )
    }
}

impl std::error::Error for UnsafeValue {}

/// The command as the shell gets it. `session` are the variables of the session, `variables` all others.
///
/// # Errors
/// One of the session's is written into the text, and is no plain word.
pub fn command(
    text: &Text,
    session: &[(&'static [u8], Vec<u8>)],
    variables: &Variables,
) -> Result<Vec<u8>, UnsafeValue> {
    let mut all = variables.clone();
    for (name, value) in session {
        let reference = [b"%", *name, b"%"].concat();
        let mut places = text.as_written().windows(reference.len());
        if places.any(|place| place == reference) && !is_plain(value) {
            return Err(UnsafeValue {
                name: name.to_vec(),
                value: value.clone(),
            });
        }
        all = all.with(name, value);
    }
    Ok(text.expand(&all))
}

/// Nothing a shell acts upon, in quotes or out of them, and no option.
fn is_plain(value: &[u8]) -> bool {
    !value.starts_with(b"-")
        && value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/@+,=".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str, user: &[u8]) -> Result<Vec<u8>, UnsafeValue> {
        let session: [(&[u8], _); 1] = [(b"RSYNC_USER_NAME", user.to_vec())];
        let known = Variables::from_iter([("HOME", "/root; x")]);
        command(&Text::new(text.as_bytes()), &session, &known)
    }

    #[test]
    fn plain_words_are_put_in_and_others_refuse() {
        let text = "log %RSYNC_USER_NAME% in %HOME%";
        assert_eq!(expanded(text, b"alice").unwrap(), b"log alice in /root; x");
        for user in [
            "a;b", "a b", "$(x)", "`x`", "-rf", "a'b", "a\"b", "a\nb", "*", "~", "a%b",
        ] {
            assert!(expanded(text, user.as_bytes()).is_err(), "{user}");
            // Where it is not asked for, it does not matter.
            assert!(expanded("log $RSYNC_USER_NAME", user.as_bytes()).is_ok());
        }
    }

    proptest! {
        #[test]
        fn no_byte_of_a_peer_ends_a_word(user: Vec<u8>) {
            if let Ok(text) = expanded("<%RSYNC_USER_NAME%>", &user) {
                let word = &text[1..text.len() - 1];
                let acts = |byte: &u8| b" \t\n;&|<>$`\\\"'()*?[]#~!{}%\0".contains(byte);
                prop_assert!(!word.iter().any(acts), "a word that does more");
            }
        }
    }
}
