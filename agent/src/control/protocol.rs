//! What is said over the control socket: one JSON object per line in each direction.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use syncd_proto::path::escaped;

use crate::control::status::{Status, Verdict};

/// Longest request line, in bytes: a path of 4,096 bytes, all of them escaped, fits.
pub const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Everything the agent knows of itself.
    Status {},
    /// Answer when the path, or everything, is durable at every target, or when the time is over.
    Wait {
        /// Absolute, or relative to every source; everything if absent.
        #[serde(default, with = "path_text")]
        path: Option<PathBuf>,
        /// How long to wait.
        timeout_ms: u64,
    },
    /// Look at the path, or everything, again.
    Rescan {
        /// Absolute, or relative to every source; everything if absent.
        #[serde(default, with = "path_text")]
        path: Option<PathBuf>,
    },
    /// Let held deletes go.
    Approve {
        /// Which.
        id: String,
    },
    /// Drop held deletes.
    Reject {
        /// Which.
        id: String,
    },
    /// Every change from now on, one [`Event`] per line, until the connection ends.
    Events {},
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status {
        /// In one word; [`Status::verdict`].
        verdict: Verdict,
        /// In all words.
        status: Status,
    },
    /// To `wait`.
    Wait {
        /// How it stands, for the path that was asked for.
        verdict: Verdict,
        /// What is not done, for people.
        text: String,
    },
    /// Done, or begun.
    Done {
        /// What, for people.
        text: String,
    },
    /// To `events`, before the first of them.
    Events {},
    /// It cannot be done.
    Error {
        /// Why.
        text: String,
        /// What would help.
        hint: Option<String>,
    },
}

/// A [`Reply`] as it is sent: with `ok` and `error` beside it, for scripts that look no further.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    reply: &'a Reply,
}

impl<'a> From<&'a Reply> for Answer<'a> {
    fn from(reply: &'a Reply) -> Self {
        let error = match reply {
            Reply::Error { text, .. } => Some(text.clone()),
            Reply::Wait { verdict, text } if *verdict != Verdict::InSync => {
                Some(format!("{}: {text}", verdict.name()))
            }
            _ => None,
        };
        Self {
            ok: error.is_none(),
            error,
            reply,
        }
    }
}

/// What was done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A file's content, with its metadata.
    Put,
    /// A directory was made.
    Mkdir,
    /// A symlink was made.
    Symlink,
    /// A hard link was made.
    Link,
    /// A device, pipe or socket was made.
    Special,
    /// Renamed.
    Rename,
    /// Removed.
    Remove,
    /// Metadata only.
    Meta,
}

impl Change {
    /// One word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Mkdir => "mkdir",
            Self::Symlink => "symlink",
            Self::Link => "link",
            Self::Special => "special",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Meta => "meta",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A change became durable at a target.
    Durable {
        /// Where.
        target: String,
        /// Path below the source, escaped.
        path: String,
        /// What was done.
        op: Change,
        /// Bytes of content it stands for.
        bytes: u64,
        /// From the first notice of it to the durable acknowledgement.
        latency_ms: u64,
    },
    /// The reader was too slow for this many events.
    Missed {
        /// How many.
        count: u64,
    },
}

/// The bytes that [`escaped`] made this text of; `None` if it did not.
#[must_use]
pub fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('\\');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let digits = part.strip_prefix('x')?.get(..2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(part.get(3..)?.as_bytes());
    }
    Some(bytes)
}

/// A path as text that can be read back.
#[must_use]
pub fn path_text(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

mod path_text {
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    use super::*;

    #[expect(clippy::ref_option, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(super::path_text).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let bytes =
            unescaped(&text).ok_or_else(|| D::Error::custom("path: write a backslash as \\x5c"))?;
        Ok(Some(PathBuf::from(OsString::from_vec(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_survives() {
        let bytes: Vec<u8> = (1..=255).collect();
        assert_eq!(unescaped(&escaped(&bytes)), Some(bytes.clone()));
        let command = Command::Rescan {
            path: Some(PathBuf::from(OsString::from_vec(bytes))),
        };
        let line = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), command);
        for bad in ["\\", "\\x", "\\x1", "\\xg0", "\\x+1", "a\\\\"] {
            assert_eq!(unescaped(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_answer_says_at_once_whether_it_is_good() {
        let wait = |verdict| Reply::Wait {
            verdict,
            text: "x".into(),
        };
        for (reply, line) in [
            (
                wait(Verdict::InSync),
                r#"{"ok":true,"reply":"wait","verdict":"in_sync","text":"x"}"#,
            ),
            (
                wait(Verdict::Behind),
                r#"{"ok":false,"error":"behind: x","reply":"wait","verdict":"behind","text":"x"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&Answer::from(&reply)).unwrap(), line);
            assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), reply);
        }
        let error = Reply::Error {
            text: "no".into(),
            hint: None,
        };
        let line = serde_json::to_string(&Answer::from(&error)).unwrap();
        assert!(line.starts_with(r#"{"ok":false,"error":"no""#), "{line}");
    }

    #[test]
    fn requests_can_be_written_by_hand() {
        for (line, command) in [
            (r#"{"cmd":"status"}"#, Command::Status {}),
            (
                r#"{"cmd":"wait","path":null,"timeout_ms":5}"#,
                Command::Wait {
                    path: None,
                    timeout_ms: 5,
                },
            ),
            (r#"{"cmd":"rescan"}"#, Command::Rescan { path: None }),
        ] {
            assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
        }
        assert!(serde_json::from_str::<Command>(r#"{"cmd":"rescan","paht":"x"}"#).is_err());
    }
}
