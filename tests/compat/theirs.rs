//! The installed `rsync --daemon` on a vector's configuration, and an rsync client (or a bare socket) as the
//! vectors were recorded with.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value;
use syncd_tests::{Process, wait_for};

use crate::lab::{INSIDE, Lab, Met, chmod};
use crate::ours::{in_turn, socket};
use crate::vectors::{bytes, octal, options};

const PATIENCE: Duration = Duration::from_secs(30);
const GREETING: &str = "@RSYNCD: 32.0 sha512 sha256 sha1 md5 md4";
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a client that needs something sent ahead connects instead.
const FORWARDER_OFFSET: u16 = 20_000;

/// A client's words and the outcome they mean, the first that fits.
const WORDS: [(&str, &str); 30] = [
    ("access denied to", "denied-host"),
    ("Unknown module", "unknown-module"),
    ("Unknown command", "unknown-command"),
    ("max connections (", "max-connections"),
    ("failed to open lock file", "lock-file-error"),
    ("auth failed on module", "auth-failed"),
    ("invalid uid", "bad-uid"),
    ("invalid gid", "bad-gid"),
    ("getpwuid failed", "bad-gid"),
    ("no path setting", "no-path"),
    ("@ERROR: chroot failed", "chroot-failed"),
    ("@ERROR: chdir failed", "chdir-failed"),
    ("setuid failed", "setuid-failed"),
    ("setgid failed", "setgid-failed"),
    ("setgroups failed", "setgid-failed"),
    ("daemon security issue", "munge-dir-exists"),
    ("early exec failed", "hook-failed"),
    ("pre-xfer exec returned failure", "hook-failed"),
    ("is configured to refuse", "option-refused"),
    ("module is read only", "read-only"),
    ("module is write only", "write-only"),
    ("temp-dir does not exist", "temp-dir-missing"),
    ("refused to receive", "excluded"),
    ("must not be other-accessible", "client-password-file-open"),
    ("must be owned by root", "client-password-file-owner"),
    (
        "could not open password file",
        "client-password-file-unreadable",
    ),
    ("failed to read a password", "client-password-file-empty"),
    ("Too many levels of symbolic links", "symlink-refused"),
    ("Permission denied", "permission-denied"),
    ("File exists", "transfer-failed"),
];

const LATER_WORDS: [(&str, &str); 5] = [
    ("protocol startup error", "bad-greeting"),
    ("your client omitted", "bad-greeting"),
    ("Operation not permitted", "partial"),
    ("did not see server greeting", "dropped"),
    ("didn't get server startup line", "dropped"),
];

/// A running daemon, or the reason why there is none.
pub(crate) struct Daemon {
    process: Option<Process>,
    inetd: bool,
}

impl Daemon {
    pub(crate) fn start(lab: &Lab<'_>, vector: &Value) -> Self {
        let inetd = vector["daemon"]["launch"] == "inetd";
        fs::write(config(lab), lab.placed(&bytes(&vector["config"]))).expect("configuration");
        if inetd {
            return Self {
                process: None,
                inetd,
            };
        }
        let mut command = daemon(lab, vector);
        command.args(["--no-detach", "--port", &lab.port.to_string()]);
        let log = lab.root.with_extension("log");
        let process = Process::spawn("rsync", &mut command, &log).expect("start");
        let up = wait_for(PATIENCE, "rsync listens", || {
            let reached = TcpStream::connect(("127.0.0.1", lab.port)).is_ok();
            match (reached, process.exit()) {
                (_, Some(_)) => Ok(false),
                (true, None) => Ok(true),
                (false, None) => Err(process.log()),
            }
        });
        Self {
            process: up.then_some(process),
            inetd,
        }
    }

    pub(crate) fn log(&self, lab: &Lab<'_>) -> String {
        fs::read_to_string(lab.root.with_extension("log")).unwrap_or_default()
    }

    pub(crate) fn ask(&self, lab: &Lab<'_>, vector: &Value) -> Met {
        if self.process.is_none() && !self.inetd {
            return Met::new("daemon-start-failed");
        }
        let client = &vector["client"];
        let holders = client["holders"].as_array().into_iter().flatten();
        let _held: Vec<_> = holders
            .map(|holder| {
                let source = holder["source"].as_str().unwrap_or("127.0.0.1");
                let module = bytes(&holder["module"]);
                Bare::connect(source, lab.port).map(|bare| bare.ask(GREETING, &module))
            })
            .collect();
        in_turn(vector, || match client["op"].as_str() {
            Some("list" | "handshake") => bare(lab, client),
            _ => self.transfer(lab, vector),
        })
    }

    fn transfer(&self, lab: &Lab<'_>, vector: &Value) -> Met {
        let client = &vector["client"];
        let header = client["proxy_header"].as_str();
        let mut port = lab.port;
        let mut aside = Vec::new();
        if self.inetd {
            aside.push(inetd(lab, vector));
        }
        if let Some(header) = header {
            port += FORWARDER_OFFSET;
            let source = client["source"].as_str().expect("a source");
            aside.push(forward(port, lab.port, source, unescaped(header)));
        }
        let output = rsync(lab, vector, port);
        for thread in aside {
            let _ = thread.join();
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Met::told(outcome_of(&said, output.status.code()), said)
    }
}

fn config(lab: &Lab<'_>) -> PathBuf {
    lab.root.join("rsyncd.conf")
}

fn daemon(lab: &Lab<'_>, vector: &Value) -> Command {
    let mut command = Command::new("rsync");
    command
        .arg("--daemon")
        .arg("--config")
        .arg(config(lab))
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/")
        .current_dir("/");
    for (name, value) in vector["daemon"]["env"].as_object().into_iter().flatten() {
        command.env(name, OsStr::from_bytes(&lab.placed(&bytes(value))));
    }
    if let Some(user) = vector["daemon"]["run_as"].as_str() {
        let (uid, gid) = lab.account(user);
        command.uid(uid).gid(gid);
    }
    command
}

/// Serves one connection on a socket for both families, as inetd would.
fn inetd(lab: &Lab<'_>, vector: &Value) -> thread::JoinHandle<()> {
    let listener = TcpListener::bind(("::", lab.port)).expect("listen");
    let mut command = daemon(lab, vector);
    thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a client");
        let input = OwnedFd::from(socket.try_clone().expect("a copy"));
        command
            .stdin(input)
            .stdout(OwnedFd::from(socket))
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("rsync");
        drop(command);
        let _ = child.wait();
    })
}

/// Takes one connection and passes it on from the right address, with something sent ahead.
fn forward(from: u16, to: u16, source: &str, ahead: Vec<u8>) -> thread::JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", from)).expect("listen");
    let mut daemon = socket(source, to).expect("connect");
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let _ = daemon.write_all(&ahead);
        let (mut up, mut down) = (client.try_clone().expect("a copy"), client);
        let mut back = daemon.try_clone().expect("a copy");
        let sending = thread::spawn(move || {
            let _ = std::io::copy(&mut up, &mut daemon);
            let _ = daemon.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut back, &mut down);
        let _ = down.shutdown(Shutdown::Both);
        let _ = sending.join();
    })
}

pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.push(character as u8);
            continue;
        }
        bytes.push(match rest.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect("a byte")
            }
            other => panic!("escape {other:?}"),
        });
    }
    bytes
}

fn rsync(lab: &Lab<'_>, vector: &Value, port: u16) -> Output {
    let client = &vector["client"];
    let source = client["source"].as_str().expect("a source");
    let host = match source {
        _ if port != lab.port => "127.0.0.1".to_owned(),
        _ if !source.contains(':') => "127.0.0.1".to_owned(),
        _ if source.contains('%') => format!("[{source}]"),
        _ => "[::1]".to_owned(),
    };
    let user = client["user"].as_str().map(|_| bytes(&client["user"]));
    // What would not be taken for a user there comes from the environment.
    let (mut remote, name) = match user {
        Some(user) if !user.contains(&b'/') => ([&user[..], b"@"].concat(), b"nobody".to_vec()),
        Some(user) => (Vec::new(), user),
        None => (Vec::new(), b"nobody".to_vec()),
    };
    let name = OsStr::from_bytes(&name);
    remote.extend(host.bytes());
    remote.extend(b"::");
    remote.extend(bytes(&client["module"]));
    remote.push(b'/');
    if client["path"].is_string() {
        remote.extend(bytes(&client["path"]));
    }
    let remote = OsStr::from_bytes(&remote).to_owned();
    let aside = lab.root.with_extension("client");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(aside.join("source")).expect("a directory");
    chmod(&aside, 0o777);
    let (given, from, to): (&[&str], OsString, OsString) = match client["op"].as_str() {
        Some("push") => (
            &["-t"],
            made(lab, vector, &aside.join("source")).into(),
            remote,
        ),
        Some("pull") => (&["-r"], remote, aside.join("into/").into()),
        _ => (&["-r", "--delete"], aside.join("source/").into(), remote),
    };
    let mut command = Command::new("rsync");
    command
        .args(given)
        .args(options(vector))
        .args(["--port", &port.to_string()]);
    if port == lab.port {
        command.args(["--address", source]);
    }
    if client["password_file"].is_string() {
        let file = lab.placed(&bytes(&client["password_file"]));
        command.arg("--password-file").arg(OsStr::from_bytes(&file));
    }
    if let Some(user) = client["run_as"].as_str() {
        let (uid, gid) = lab.account(user);
        command.uid(uid).gid(gid);
    }
    let password = client["password"]
        .as_str()
        .map(|_| bytes(&client["password"]));
    command
        .arg(from)
        .arg(to)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/")
        .env("USER", name)
        .env("LOGNAME", name)
        .env(
            "RSYNC_PASSWORD",
            OsStr::from_bytes(&password.unwrap_or_default()),
        )
        .stdin(Stdio::null())
        .output()
        .expect("rsync")
}

/// The thing to push.
fn made(lab: &Lab<'_>, vector: &Value, dir: &Path) -> PathBuf {
    let client = &vector["client"];
    let path = dir.join(Lab::probe(vector));
    let owner = client["file_owner"].as_str().unwrap_or("root");
    let (uid, gid) = lab.account(owner);
    let mode = octal(&client["file_mode"]).unwrap_or(0o644);
    let write = |path: &Path| {
        fs::write(path, crate::content(vector)).expect("file");
        chown(path, Some(uid), Some(gid)).expect("owner");
        chmod(path, mode);
    };
    let node = |kind, device| {
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), device).expect("node");
        chown(&path, Some(uid), Some(gid)).expect("owner");
        chmod(&path, mode);
    };
    if let Some(dir_mode) = octal(&client["dir_mode"]) {
        fs::create_dir(&path).expect("directory");
        write(&path.join(INSIDE));
        chown(&path, Some(uid), Some(gid)).expect("owner");
        chmod(&path, dir_mode);
        return path;
    }
    let kind = client["kind"].as_str().unwrap_or("file");
    match kind.split_once(':') {
        None if kind == "fifo" => node(FileType::Fifo, 0),
        None => write(&path),
        Some(("symlink", target)) => {
            symlink(target, &path).expect("symlink");
            lchown(&path, Some(uid), Some(gid)).expect("owner");
        }
        Some((_, numbers)) => {
            let (major, minor) = numbers.split_once(',').expect("two numbers");
            let device =
                rustix::fs::makedev(major.parse().expect("major"), minor.parse().expect("minor"));
            node(FileType::CharacterDevice, device);
        }
    }
    path
}

fn outcome_of(said: &str, code: Option<i32>) -> &'static str {
    let words = WORDS.iter().chain(&LATER_WORDS);
    if let Some((_, outcome)) = words.into_iter().find(|(words, _)| said.contains(words)) {
        return outcome;
    }
    match code {
        Some(0) => "accepted",
        _ if ["Connection reset", "Broken pipe", "closed"]
            .iter()
            .any(|words| said.contains(words)) =>
        {
            "dropped"
        }
        _ => "failed",
    }
}

/// A client that speaks only the first lines.
struct Bare {
    reader: BufReader<TcpStream>,
}

impl Bare {
    fn connect(source: &str, port: u16) -> Option<Self> {
        let socket = socket(source, port).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Self {
            reader: BufReader::new(socket),
        })
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(length) if length > 0 => {
                line.pop();
                Some(line)
            }
            _ => None,
        }
    }

    /// The lines up to the daemon's verdict, and the connection.
    fn ask(mut self, greeting: &str, module: &[u8]) -> (Vec<Vec<u8>>, Self) {
        let mut lines = Vec::new();
        if self.line().is_none() {
            return (vec![b"no greeting".to_vec()], self);
        }
        let socket = self.reader.get_mut();
        let _ = socket.write_all(&[greeting.as_bytes(), b"\n", module, b"\n"].concat());
        while let Some(line) = self.line() {
            let last = line.starts_with(b"@");
            lines.push(line);
            if last {
                break;
            }
        }
        (lines, self)
    }
}

fn bare(lab: &Lab<'_>, client: &Value) -> Met {
    let source = client["source"].as_str().expect("a source");
    let lists = client["op"] == "list";
    let module = if lists {
        Vec::new()
    } else {
        bytes(&client["module"])
    };
    let greeting = client["greeting"].as_str().unwrap_or(GREETING);
    let Some(bare) = Bare::connect(source, lab.port) else {
        return Met::new("daemon-start-failed");
    };
    let (mut lines, mut bare) = bare.ask(greeting, &module);
    let Some(last) = lines.pop() else {
        return Met::new("dropped");
    };
    let text = String::from_utf8_lossy(&last).into_owned();
    if text.starts_with("@RSYNCD: EXIT") {
        let mut rest = Vec::new();
        let _ = bare.reader.read_to_end(&mut rest);
        // Lines without a tab are the message of the day.
        let split = lines.iter().filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'\t')?;
            Some((
                line[..at].trim_ascii_end().to_vec(),
                line[at + 1..].to_vec(),
            ))
        });
        return Met {
            modules: Some(split.collect()),
            ..Met::new("listed")
        };
    }
    if text.starts_with("@RSYNCD: OK") {
        return Met::new("accepted");
    }
    if text == "no greeting" {
        return Met::new("dropped");
    }
    Met::told(outcome_of(&text, None), text)
}
