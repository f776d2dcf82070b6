//! `rsync -a --delete`, run after every change: to a daemon with `auth users`, or to another server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use syncd_tests::sandbox::{MODULE, USER};

use super::super::place::Place;
use super::service::Service;
use super::{Goal, Peer};

const ATTEMPTS_MAX: usize = 3;

/// What rsync talks to.
pub(super) trait Server {
    /// rsync with the options that lead there, and the destination.
    fn client(&self, place: &Place) -> (Command, String);
    /// What runs.
    fn service(&mut self) -> &mut Service;
    /// The root of its processes.
    fn pid(&self) -> u32;
    /// How often each byte passes the counter of the wire.
    fn times_on_wire(&self) -> f64 {
        1.0
    }
}

/// A daemon as tutorials configure it; the same text serves lsyncd, the script and stunnel.
pub(super) struct Daemon(Service);

impl Daemon {
    /// Writes its configuration and starts it.
    pub(super) fn start(place: &Place, port: u16, nodelay: bool) -> Result<Self, String> {
        let conf = daemon_conf(place, nodelay)?;
        let words = [
            "rsync",
            "--daemon",
            "--no-detach",
            "--address",
            place.listens(),
            &format!("--port={port}"),
            &format!("--config={}", conf.display()),
        ];
        let words = words.map(str::to_owned).to_vec();
        Service::start(place, "rsync-daemon", port, words).map(Self)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port()
    }

    /// Kills it and all its children, and starts it again.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        self.0.crash()
    }
}

/// Writes the configuration of an rsync daemon.
pub(super) fn daemon_conf(place: &Place, nodelay: bool) -> Result<PathBuf, String> {
    let conf = place.sandbox.path().join("rsync-daemon.conf");
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
    Ok(conf)
}

impl Server for Daemon {
    fn client(&self, place: &Place) -> (Command, String) {
        let mut command = Command::new("rsync");
        command.arg(format!(
            "--password-file={}",
            place.sandbox.password_file().display()
        ));
        let to = format!("rsync://{USER}@{}:{}/{MODULE}/", place.host(), self.port());
        (command, to)
    }

    fn service(&mut self) -> &mut Service {
        &mut self.0
    }

    fn pid(&self) -> u32 {
        self.0.pid()
    }
}

/// rsync as a peer.
pub(super) struct Rsync {
    server: Box<dyn Server>,
    options: &'static [&'static str],
    running: Option<Child>,
}

impl Rsync {
    pub(super) fn new(server: Box<dyn Server>, options: &'static [&'static str]) -> Self {
        Self {
            server,
            options,
            running: None,
        }
    }

    fn run(&self, place: &Place) -> Result<Child, String> {
        let mut from = place.source().into_os_string();
        from.push("/");
        let (mut command, to) = self.server.client(place);
        command.args(["-a", "--delete"]).args(self.options);
        command.arg(from).arg(to);
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
        vec![self.server.pid()]
    }

    fn crash_receiver(&mut self, _: &Place) -> Result<(), String> {
        self.server.service().crash()
    }

    fn times_on_wire(&self) -> f64 {
        self.server.times_on_wire()
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
