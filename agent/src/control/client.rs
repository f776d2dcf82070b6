//! Asks a running agent, blocking: the side of `status`, `wait` and `rescan`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::control::ControlError;
use crate::control::protocol::{Command, Reply};

/// An agent that is alive answers within this time, `wait` aside.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a request and waits for its answer.
///
/// # Errors
/// If no agent answers there, or not in its language.
pub fn ask(socket: &Path, command: &Command) -> Result<Reply, ControlError> {
    let failed = |source| ControlError::client(socket, source);
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    let patience = match command {
        Command::Wait { timeout_ms, .. } => ANSWER_TIMEOUT + Duration::from_millis(*timeout_ms),
        _ => ANSWER_TIMEOUT,
    };
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    stream
        .set_write_timeout(Some(ANSWER_TIMEOUT))
        .map_err(failed)?;
    let mut line = serde_json::to_vec(command).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(failed)?;
    if answer.is_empty() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(|error| failed(error.into()))
}
