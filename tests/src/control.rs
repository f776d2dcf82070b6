//! Questions to a running agent through its control socket: one JSON object a line, each way.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const ANSWER_SIZE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A client of one control socket; every question is a connection of its own.
#[derive(Debug, Clone)]
pub struct Control {
    path: PathBuf,
}

/// Why a question has no good answer.
#[derive(Debug)]
pub enum ControlError {
    /// Nobody there, or the connection broke.
    Io(io::Error),
    /// The answer is not what was agreed on.
    Answer(String),
    /// `"ok": false`, with the agent's reason.
    Refused(String),
}

impl Control {
    /// The socket at `path`, which need not exist yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until `path`, or everything if there is none, is in sync and durable.
    pub fn wait(&self, path: Option<&str>, timeout: Duration) -> Result<Value, ControlError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let question = json!({"cmd": "wait", "path": path, "timeout_ms": timeout_ms});
        self.ask(&question, timeout.saturating_add(ANSWER_TIMEOUT))
    }

    /// The agent's view of itself.
    pub fn status(&self) -> Result<Value, ControlError> {
        self.request(&json!({"cmd": "status"}))
    }

    /// Makes the agent look again at everything below `path`; the whole source if it is empty.
    pub fn rescan(&self, path: &str) -> Result<Value, ControlError> {
        self.request(&json!({"cmd": "rescan", "path": path}))
    }

    /// Any question that is answered at once.
    pub fn request(&self, question: &Value) -> Result<Value, ControlError> {
        self.ask(question, ANSWER_TIMEOUT)
    }

    fn ask(&self, question: &Value, timeout: Duration) -> Result<Value, ControlError> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut line = Vec::new();
        BufReader::new(stream.take(ANSWER_SIZE_BYTES_MAX)).read_until(b'\n', &mut line)?;
        judge(&line)
    }
}

fn judge(line: &[u8]) -> Result<Value, ControlError> {
    let strange = || ControlError::Answer(line.escape_ascii().to_string());
    let text = line.strip_suffix(b"\n").ok_or_else(strange)?;
    let answer: Value = serde_json::from_slice(text).map_err(|_| strange())?;
    match answer["ok"].as_bool() {
        Some(true) => Ok(answer),
        Some(false) => Err(ControlError::Refused(
            answer["error"].as_str().ok_or_else(strange)?.to_owned(),
        )),
        None => Err(strange()),
    }
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "control socket: {error}"),
            Self::Answer(line) => write!(f, "control socket: not an answer: {line:?}"),
            Self::Refused(reason) => write!(f, "agent refused: {reason}"),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers one question with `answer` and gives back the question.
    fn ask_stub(
        answer: &'static str,
        ask: impl Fn(&Control) -> Result<Value, ControlError>,
    ) -> (Value, String) {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::new(dir.path().join("control"));
        let listener = UnixListener::bind(control.path()).unwrap();
        let stub = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            line
        });
        let said = ask(&control).map_or_else(|error| error.to_string(), |value| value.to_string());
        (serde_json::from_str(&stub.join().unwrap()).unwrap(), said)
    }

    #[test]
    fn questions_are_as_agreed() {
        let second = Duration::from_secs(1);
        let (asked, said) = ask_stub("{\"ok\":true,\"x\":1}\n", |control| {
            control.wait(None, second)
        });
        assert_eq!(
            asked,
            json!({"cmd": "wait", "path": null, "timeout_ms": 1000})
        );
        assert_eq!(said, r#"{"ok":true,"x":1}"#);
        let (asked, _) = ask_stub("{\"ok\":true}\n", |control| control.wait(Some("a"), second));
        assert_eq!(asked["path"], "a");
        let (asked, _) = ask_stub("{\"ok\":true}\n", Control::status);
        assert_eq!(asked, json!({"cmd": "status"}));
        let (asked, _) = ask_stub("{\"ok\":true}\n", |control| control.rescan("a/b"));
        assert_eq!(asked, json!({"cmd": "rescan", "path": "a/b"}));
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        let (_, said) = ask_stub(
            "{\"ok\":false,\"error\":\"no such path\"}\n",
            Control::status,
        );
        assert_eq!(said, "agent refused: no such path");
        for nonsense in ["", "{\"ok\":true}", "[]\n", "{}\n", "{\"ok\":false}\n"] {
            let (_, said) = ask_stub(nonsense, Control::status);
            assert!(said.contains("not an answer"), "{nonsense:?}: {said}");
        }
        let nobody = Control::new("/nonexistent/control").status().unwrap_err();
        assert!(matches!(nobody, ControlError::Io(_)), "{nobody}");
    }
}
