//! `status` and `metrics`: asks a running receiver, and prints what it says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use syncd_proto::path::escaped;

use crate::error::exit;
use crate::front::control::QUESTION;
use crate::logic::ledger::{Report, metrics, render};

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// For Prometheus.
    Metrics,
}

/// A receiver that is alive answers within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer, in bytes: as many peers as are remembered, with the longest names.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

const SOCKET_NAME: &str = "syncd-recv.sock";

/// Prints what the receiver at this control socket, or at the usual place, says; exit code 0, or 69 if there is none.
#[must_use]
pub fn run(socket: Option<&Path>, form: Form) -> ExitCode {
    let Some(socket) = socket.map(Path::to_owned).or_else(usual_place) else {
        eprintln!("syncd-recv: there is no usual place for this user's control socket");
        eprintln!("  -> set XDG_RUNTIME_DIR, or say where: --control PATH");
        return ExitCode::from(exit::UNAVAILABLE);
    };
    let name = escaped(socket.as_os_str().as_bytes());
    match ask(&socket) {
        Ok(report) => print(&text_of(&report, &name, form)),
        Err(error) => {
            if form == Form::Metrics {
                let _ = print(&metrics::of_nobody(&name));
            }
            eprintln!("syncd-recv: no receiver answers at {name}: {error}");
            eprintln!("  -> start it with `run --control PATH`, or say where its socket is");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

fn text_of(report: &Report, socket: &str, form: Form) -> String {
    match form {
        Form::Text => render::report(report),
        Form::Json => serde_json::to_string_pretty(report).unwrap_or_default() + "\n",
        Form::Metrics => metrics::of_report(report, socket),
    }
}

fn ask(socket: &Path) -> io::Result<Report> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(QUESTION)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// Where a receiver's socket is looked for unless somebody says otherwise.
fn usual_place() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(Path::new("/run").join(SOCKET_NAME));
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(&dir).join(SOCKET_NAME))
}

/// A reader that has gone away is no error.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(exit::OS),
        _ => ExitCode::SUCCESS,
    }
}
