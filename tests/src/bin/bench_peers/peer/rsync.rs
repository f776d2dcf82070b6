//! `rsync -a --delete` to a daemon with `auth users`, run after every change.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use syncd_tests::Process;
use syncd_tests::sandbox::{MODULE, USER};
use syncd_tests::wait::try_wait_for;

use super::super::meter;
use super::super::place::Place;
use super::{Goal, PATIENCE, Peer};

const NODELAY: &str = "rsync-nodelay";
const ATTEMPTS_MAX: usize = 3;

/// A daemon as tutorials configure it; the same text serves lsyncd.
pub(super) struct Daemon {
    conf: PathBuf,
    log: PathBuf,
    listens: (&'static str, u16),
    process: Process,
}

impl Daemon {
    /// Writes its configuration and starts it.
    pub(super) fn start(place: &Place, port: u16, nodelay: bool) -> Result<Self, String> {
        let dir = place.sandbox.path();
        let (conf, log) = (dir.join("rsync-daemon.conf"), dir.join("rsync-daemon.log"));
        let socket = if nodelay {
            "socket options = TCP_NODELAY\n"
        } else {
            ""
        };
        let text = format!(
            "uid = root\ngid = root\nuse chroot = no\nmunge symlinks = no\n{socket}[{MODULE}]\npath = {}\n\
             read only = no\nauth users = {USER}\nsecrets file = {}\n",
            place.mirror().display(),
            place.sandbox.secrets_file().display()
        );
        std::fs::write(&conf, text).map_err(|error| error.to_string())?;
        let listens = (place.listens(), port);
        let process = spawn(&conf, &log, listens)?;
        Ok(Self {
            conf,
            log,
            listens,
            process,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it and all its children, and starts it again.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        crash(self.pid());
        self.process.kill9();
        self.process = spawn(&self.conf, &self.log, self.listens)?;
        Ok(())
    }
}

/// Kills everything below `root` and `root` itself at once, as a power cut does.
pub(super) fn crash(root: u32) {
    for pid in meter::receiver_pids(&[root]) {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
    }
}

fn spawn(conf: &Path, log: &Path, listens: (&str, u16)) -> Result<Process, String> {
    let mut command = Command::new("rsync");
    command.args(["--daemon", "--no-detach", "--address", listens.0]);
    command
        .arg(format!("--port={}", listens.1))
        .arg(format!("--config={}", conf.display()));
    let process =
        Process::spawn("rsync daemon", &mut command, log).map_err(|error| error.to_string())?;
    try_wait_for(PATIENCE, || {
        std::net::TcpStream::connect(listens).map_err(|error| error.to_string())
    })?;
    Ok(process)
}

/// rsync as a peer.
pub(super) struct Rsync {
    daemon: Daemon,
    options: &'static [&'static str],
    running: Option<Child>,
}

impl Rsync {
    pub(super) fn new(
        place: &Place,
        port: u16,
        name: &str,
        options: &'static [&'static str],
    ) -> Result<Self, String> {
        Ok(Self {
            daemon: Daemon::start(place, port, name == NODELAY)?,
            options,
            running: None,
        })
    }

    fn run(&self, place: &Place) -> Result<Child, String> {
        let mut from = place.source().into_os_string();
        from.push("/");
        let mut command = Command::new("rsync");
        command.args(["-a", "--delete"]).args(self.options);
        command.arg(format!(
            "--password-file={}",
            place.sandbox.password_file().display()
        ));
        command.arg(from).arg(format!(
            "rsync://{USER}@{}:{}/{MODULE}/",
            place.host(),
            self.daemon.listens.1
        ));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().map_err(|error| format!("rsync: {error}"))
    }
}

impl Peer for Rsync {
    fn start(&mut self, place: &Place) -> Result<(), String> {
        self.kick(place)
    }

    fn settle(&mut self, place: &Place) -> Result<(), String> {
        self.finish(place, &|_| true)
    }

    fn stop(&mut self) {}

    fn kick(&mut self, place: &Place) -> Result<(), String> {
        self.running = Some(self.run(place)?);
        Ok(())
    }

    fn is_idle(&mut self) -> bool {
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        self.running.as_mut().is_none_or(ended)
    }

    fn finish(&mut self, place: &Place, _: Goal<'_>) -> Result<(), String> {
        for _ in 0..ATTEMPTS_MAX {
            let mut child = match self.running.take() {
                Some(child) => child,
                None => self.run(place)?,
            };
            if child.wait().map_err(|error| error.to_string())?.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("rsync failed again and again".to_owned())
    }

    fn durable(&mut self, place: &Place, _: &Path) -> Result<bool, String> {
        self.finish(place, &|_| true)?;
        Ok(self.options.contains(&"--fsync"))
    }

    fn receivers(&self) -> Vec<u32> {
        vec![self.daemon.pid()]
    }

    fn crash_receiver(&mut self, _: &Place) -> Result<(), String> {
        self.daemon.crash()
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
