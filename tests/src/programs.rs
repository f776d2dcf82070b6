//! The two programs as child processes, and how they are started.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binaries::Binaries;
use crate::control::Control;
use crate::process::Process;
use crate::queue::QueueLength;
use crate::sandbox::{MODULE, Sandbox, USER};
use crate::wait::try_wait_for;

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const LISTENING: &str = "listening on ";
const LOG_VARIABLE: &str = "RUST_LOG";
const LOG_LEVEL: &str = "debug";

/// What both builders set in their `extras`.
macro_rules! extras_setters {
    () => {
        /// Runs another program, say an older version of this one.
        #[must_use]
        pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
            self.extras.program = Some(path.into());
            self
        }

        /// One more argument, after all others.
        #[must_use]
        pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
            self.extras.args.push(arg.into());
            self
        }

        /// One more environment variable.
        #[must_use]
        pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
            self.extras.env.push((name.into(), value.into()));
            self
        }
    };
}

/// A running `syncd-recv`; everything a [`Process`] can do.
#[derive(Debug)]
pub struct Receiver {
    process: Process,
    address: SocketAddr,
}

impl Receiver {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Worker processes that it runs now.
    pub fn workers(&self) -> Vec<u32> {
        let numbers = fs::read_dir("/proc").expect("/proc");
        let pids =
            numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| parent_of(*pid) == Some(self.pid()))
            .collect()
    }

    /// Kills them as a crash would. Their parent reaps them, so an id is only used while the parent is ours.
    pub fn kill_workers(&self) {
        for pid in self.workers() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let _ = kill_process(pid.expect("a process id"), Signal::KILL);
        }
    }
}

impl Deref for Receiver {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// A running `syncd-agent`; everything a [`Process`] can do.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    control: Control,
}

impl Agent {
    /// Its control socket.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Waits until everything is in sync and durable; panics with the agent's reason.
    #[track_caller]
    pub fn wait_synced(&self, timeout: Duration) {
        if let Err(error) = self.control.wait(None, timeout) {
            let status = self.control.status();
            panic!("agent is not in sync: {error}; status: {status:?}");
        }
    }
}

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// What both builders may change about a command line.
#[derive(Debug, Clone, Default)]
struct Extras {
    program: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Extras {
    /// The other program asked for, or the one from [`Binaries`].
    #[track_caller]
    fn command(&self, usual: impl FnOnce(&'static Binaries) -> &'static PathBuf) -> Command {
        match &self.program {
            Some(program) => Command::new(program),
            None => Command::new(usual(Binaries::locate())),
        }
    }

    fn apply(&self, command: &mut Command) {
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
    }
}

/// How a receiver will be started.
#[derive(Debug, Clone)]
pub struct ReceiverBuilder {
    conf: PathBuf,
    port: u16,
    logs: PathBuf,
    extras: Extras,
}

impl ReceiverBuilder {
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let logs = sandbox.path().to_owned();
        Self {
            conf: sandbox.write_conf(),
            port: 0,
            logs,
            extras: Extras::default(),
        }
    }

    /// Listens on this port and not on any free one, as a restarted receiver does.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Reads another configuration.
    #[must_use]
    pub fn conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.conf = path.into();
        self
    }

    extras_setters!();

    /// Starts it without waiting for anything: for a receiver that is to refuse.
    #[track_caller]
    pub fn spawn(&self) -> Process {
        let mut command = self.extras.command(|found| &found.receiver);
        command
            .arg("run")
            .arg("--config")
            .arg(&self.conf)
            .args(["--port", &self.port.to_string()]);
        command.env(LOG_VARIABLE, LOG_LEVEL);
        self.extras.apply(&mut command);
        Process::spawn("receiver", &mut command, &next_log(&self.logs, "receiver"))
            .expect("start the receiver")
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(&self) -> Receiver {
        let process = self.spawn();
        let line = process.wait_line(READY_TIMEOUT, LISTENING);
        let address =
            listening_address(&line).unwrap_or_else(|| panic!("receiver: no address in {line:?}"));
        Receiver { process, address }
    }
}

/// How an agent will be started.
#[derive(Debug, Clone)]
pub struct AgentBuilder {
    source: PathBuf,
    destination: String,
    port: u16,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    password_file: PathBuf,
    control: PathBuf,
    logs: PathBuf,
    file: Option<AgentFile>,
    queue: Option<u32>,
    extras: Extras,
}

/// What stands in a configuration file instead of on the command line.
#[derive(Debug, Clone, Default)]
struct AgentFile {
    source_keys: String,
    target_keys: String,
    more_ports: Vec<u16>,
}

impl AgentBuilder {
    pub(crate) fn new(sandbox: &Sandbox, port: u16) -> Self {
        let certs = sandbox.certs();
        Self {
            source: sandbox.src(),
            destination: format!("{USER}@localhost::{MODULE}"),
            port,
            ca: certs.join("ca.pem"),
            cert: certs.join("agent.pem"),
            key: certs.join("agent.key"),
            password_file: sandbox.password_file(),
            control: sandbox.path().join(format!("agent-{}.sock", next_number())),
            logs: sandbox.path().to_owned(),
            file: None,
            queue: None,
            extras: Extras::default(),
        }
    }

    /// `run` reads a configuration file, in which these keys stand too: in the source, and in each target.
    #[must_use]
    pub fn in_file(mut self, source_keys: &str, target_keys: &str) -> Self {
        let file = self.file.get_or_insert_default();
        file.source_keys = source_keys.to_owned();
        file.target_keys = target_keys.to_owned();
        self
    }

    /// One more target, the same module of another receiver; `run` reads a configuration file then.
    #[must_use]
    pub fn also_to(mut self, port: u16) -> Self {
        self.file.get_or_insert_default().more_ports.push(port);
        self
    }

    /// Watches another directory.
    #[must_use]
    pub fn source(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = path.into();
        self
    }

    /// Connects to another port: that of a proxy.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sends to another `USER@HOST::MODULE[/PATH]`.
    #[must_use]
    pub fn destination(mut self, destination: &str) -> Self {
        self.destination = destination.to_owned();
        self
    }

    /// Trusts another authority.
    #[must_use]
    pub fn ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = path.into();
        self
    }

    /// Shows another certificate.
    #[must_use]
    pub fn identity(mut self, issued: &certs_dev::Issued) -> Self {
        self.cert.clone_from(&issued.cert_path);
        self.key.clone_from(&issued.key_path);
        self
    }

    /// Reads its password elsewhere.
    #[must_use]
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password_file = path.into();
        self
    }

    /// The kernel's queue of events has room for so few while it begins to watch.
    #[must_use]
    pub fn short_queue(mut self, length: u32) -> Self {
        self.queue = Some(length);
        self
    }

    extras_setters!();

    /// The command line of `syncd-agent run`.
    pub fn run_command(&self) -> Command {
        let mut command = match &self.file {
            None => self.command("run"),
            Some(file) => {
                let mut command = self.extras.command(|found| &found.agent);
                command.args(["run", "--config"]).arg(self.write_file(file));
                command.env(LOG_VARIABLE, LOG_LEVEL);
                command
            }
        };
        command.arg("--control").arg(&self.control);
        self.extras.apply(&mut command);
        command
    }

    /// The command line of a one-shot command, `sync` or `verify`, with the same source, destination and identity.
    pub fn once_command(&self, name: &str) -> Command {
        let mut command = self.command(name);
        self.extras.apply(&mut command);
        command
    }

    /// The configuration file, written anew.
    fn write_file(&self, file: &AgentFile) -> PathBuf {
        let mut text = format!(
            "[[source]]\npath = {:?}\n{}\n",
            self.source, file.source_keys
        );
        for port in [&[self.port][..], &file.more_ports].concat() {
            let to = format!("syncd://{USER}@localhost:{port}/{MODULE}");
            let (ca, cert, key) = (&self.ca, &self.cert, &self.key);
            let password = &self.password_file;
            text += &format!(
                "[[source.target]]\nto = {to:?}\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n\
                 password_file = {password:?}\n{}\n",
                file.target_keys
            );
        }
        let path = self.control.with_extension("toml");
        std::fs::write(&path, text).expect("write agent.toml");
        path
    }

    fn command(&self, name: &str) -> Command {
        let mut command = self.extras.command(|found| &found.agent);
        command
            .arg(name)
            .arg(&self.source)
            .arg(&self.destination)
            .args(["--port", &self.port.to_string()]);
        for (option, path) in [
            ("--ca", &self.ca),
            ("--cert", &self.cert),
            ("--key", &self.key),
            ("--password-file", &self.password_file),
        ] {
            command.arg(option).arg(path);
        }
        command.env(LOG_VARIABLE, LOG_LEVEL);
        command
    }

    /// Starts it without waiting for anything: for an agent that is to fail.
    #[track_caller]
    pub fn spawn(&self) -> Process {
        Process::spawn(
            "agent",
            &mut self.run_command(),
            &next_log(&self.logs, "agent"),
        )
        .expect("start the agent")
    }

    /// Starts it and waits until it answers on its control socket, and has begun to watch or says that it cannot; it need
    /// not be connected by then.
    #[track_caller]
    pub fn start(&self) -> Agent {
        let _queue = match self.queue {
            None => QueueLength::usual(),
            Some(length) => QueueLength::short(length),
        };
        let process = self.spawn();
        let control = Control::new(&self.control);
        let ready = try_wait_for(READY_TIMEOUT, || match (process.exit(), control.status()) {
            (Some(exit), _) => Ok(Err(exit)),
            (None, Ok(status)) if has_begun(&status) => Ok(Ok(())),
            (None, Ok(status)) => Err(format!("it does not watch: {status}")),
            (None, Err(error)) => Err(error.to_string()),
        });
        match ready {
            Ok(Ok(())) => Agent { process, control },
            Ok(Err(exit)) => panic!("agent ended instead of getting ready: {exit:?}"),
            Err(reason) => panic!("agent not ready within {READY_TIMEOUT:?}: {reason}"),
        }
    }
}

/// Whether each source is watched, or told to be one that cannot be.
fn has_begun(status: &Value) -> bool {
    let sources = status["status"]["sources"].as_array();
    sources.is_some_and(|sources| {
        let number = |source: &Value, name: &str| source[name].as_u64() > Some(0);
        sources.iter().all(|source| {
            number(source, "watched_dirs")
                || number(source, "unwatched_dirs")
                || source["state"] == "lost"
        })
    })
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.next()?.parse().ok()
}

/// `listening on ADDRESS:PORT`, wherever in the line that is and whatever follows.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once(LISTENING)?;
    after.split_whitespace().next()?.parse().ok()
}

/// A log of its own for every start, so that a line of an earlier one is not taken for a new one.
fn next_log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-{}.log", next_number()))
}

fn next_number() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use serde_json::json;

    use super::*;
    use crate::process::Exit;

    const LONG: Duration = Duration::from_secs(60);

    /// A program that prints its arguments and then does what `script` says. Another process writes it: a descriptor
    /// open for writing here could be inherited by a test's child, and then the program could not be executed.
    fn program(sandbox: &Sandbox, script: &str) -> PathBuf {
        let path = sandbox.path().join("program");
        let text = format!("#!/bin/sh\necho \"args $*\"\n{script}\n");
        let write = r#"printf %s "$1" > "$2" && chmod 755 "$2""#;
        let written = Command::new("sh")
            .args(["-c", write, "sh", &text])
            .arg(&path)
            .status()
            .unwrap();
        assert!(written.success());
        path
    }

    #[test]
    fn the_address_is_found_in_a_log_line() {
        for line in [
            "listening on 127.0.0.1:4711",
            "2026-01-01 INFO syncd: listening on 127.0.0.1:4711 (1 module)",
        ] {
            assert_eq!(
                listening_address(line),
                Some(SocketAddr::from(([127, 0, 0, 1], 4711))),
                "{line}"
            );
        }
        assert_eq!(
            listening_address("listening on [::1]:1").map(|address| address.port()),
            Some(1)
        );
        assert_eq!(listening_address("listening on somewhere"), None);
    }

    #[test]
    fn a_receiver_is_started_as_agreed_and_known_by_its_port() {
        let sandbox = Sandbox::new();
        let fake = program(
            &sandbox,
            "echo \"$NOTE listening on 127.0.0.1:4711\" >&2; exec sleep 1000",
        );
        let builder = sandbox
            .receiver()
            .program(fake)
            .arg("--more")
            .env("NOTE", "first");
        let receiver = builder.start();
        assert_eq!(receiver.port(), 4711);
        let args = format!(
            "args run --config {} --port 0 --more\n",
            sandbox.conf_file().display()
        );
        assert!(receiver.log().starts_with(&args), "{}", receiver.log());
        assert_eq!(receiver.kill9(), Exit::Signal(9));
        // A restart writes a log of its own: the line of the first start is not taken for the second's.
        let again = builder.port(4711).env("NOTE", "second").start();
        assert!(
            again.log().contains("--port 4711") && !again.log().contains("first"),
            "{}",
            again.log()
        );
    }

    #[test]
    #[should_panic(expected = "it ended instead: Code(64)")]
    fn a_receiver_that_ends_at_once_fails_the_test() {
        let sandbox = Sandbox::new();
        sandbox
            .receiver()
            .program(program(&sandbox, "exit 64"))
            .start();
    }

    #[test]
    fn an_agent_is_started_as_agreed_and_ready_when_it_watches() {
        let sandbox = Sandbox::new();
        let builder = sandbox
            .agent_to(8730)
            .program(program(&sandbox, "exec sleep 1000"))
            .arg("--more");
        let listener = UnixListener::bind(&builder.control).unwrap();
        let answering = thread::spawn(move || {
            for watched in [[0, 0], [1, 0], [1, 1]] {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream)
                    .read_line(&mut String::new())
                    .unwrap();
                let sources = watched.map(|number| json!({"watched_dirs": number}));
                let answer = json!({"ok": true, "status": {"sources": sources}});
                stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        });
        let agent = builder.start();
        answering.join().unwrap();
        let line = agent.wait_line(LONG, "args run ");
        let dir = sandbox.path().display();
        let start = format!(
            "args run {dir}/src mirror@localhost::demo --port 8730 --ca {dir}/certs/ca.pem "
        );
        assert!(line.starts_with(&start), "{line}");
        let rest = [
            &format!("--cert {dir}/certs/agent.pem --key {dir}/certs/agent.key")[..],
            &format!(
                "--password-file {dir}/password --control {} --more",
                agent.control().path().display()
            ),
        ];
        assert!(line.ends_with(&rest.join(" ")), "{line}");
    }

    #[test]
    #[should_panic(expected = "agent ended instead of getting ready: Code(3)")]
    fn an_agent_that_ends_at_once_fails_the_test() {
        let sandbox = Sandbox::new();
        sandbox
            .agent_to(1)
            .program(program(&sandbox, "exit 3"))
            .start();
    }
}
