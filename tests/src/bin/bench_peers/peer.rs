//! The peers: how each is set up, started, asked to converge and killed.

mod floor;
mod lsyncd;
mod rsync;
mod script;
mod service;
mod ssh;
mod syncd;
mod tls;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use syncd_tests::Process;
use syncd_tests::sandbox::free_port;
use syncd_tests::wait::try_wait_for;

use super::place::Place;
use super::scenario::Scenario;

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// And than the first sync of a million files.
const FIRST_PATIENCE: Duration = Duration::from_secs(900);
const NODELAY: &str = "rsync-nodelay";

/// A peer by name, with what makes it a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One run per change: rsync and the options of a variant.
    Rsync(&'static str, &'static [&'static str]),
    /// The same over ssh.
    RsyncSsh,
    /// The same through TLS.
    RsyncTls,
    /// inotifywait and rsync.
    Script,
    /// lsyncd with this delay.
    Lsyncd(&'static str, u32),
    /// syncd with this `durability`, and these options of the agent.
    Syncd(&'static str, &'static str, &'static [&'static str]),
    /// What the machine itself needs.
    Floor(&'static str),
}

/// Comparing and mirroring no more of an entry than `rsync -a`.
const PLAIN: &[&str] = &["--no-xattrs", "--no-acls", "--no-capabilities"];

const KINDS: [Kind; 25] = [
    Kind::Rsync("rsync", &[]),
    Kind::Rsync("rsync-fsync", &["--fsync"]),
    Kind::Rsync("rsync-HAX", &["-HAX"]),
    Kind::Rsync("rsync-nodelay", &["--sockopts=TCP_NODELAY"]),
    Kind::Rsync("rsync-W", &["-W"]),
    Kind::Rsync("rsync-z", &["-z"]),
    Kind::Rsync("rsync-inplace", &["--inplace"]),
    Kind::Rsync("rsync-checksum", &["--checksum"]),
    Kind::RsyncSsh,
    Kind::RsyncTls,
    Kind::Script,
    Kind::Lsyncd("lsyncd", 1),
    Kind::Lsyncd("lsyncd-delay0", 0),
    Kind::Syncd("syncd", "batch", &[]),
    Kind::Syncd("syncd-none", "none", &[]),
    Kind::Syncd("syncd-files", "files", &[]),
    Kind::Syncd("syncd-plain", "batch", PLAIN),
    Kind::Floor("floor"),
    Kind::Floor("floor-none"),
    Kind::Floor("floor-HAX"),
    Kind::Floor("floor-hash"),
    Kind::Floor("floor-live"),
    Kind::Floor("floor-tcp"),
    Kind::Floor("floor-tls"),
    Kind::Floor("floor-tls-none"),
];

impl Kind {
    /// As in `--peers`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rsync(name, _)
            | Self::Lsyncd(name, _)
            | Self::Syncd(name, ..)
            | Self::Floor(name) => name,
            Self::RsyncSsh => "rsync-ssh",
            Self::RsyncTls => "rsync-tls",
            Self::Script => "inotify-script",
        }
    }

    /// Whether it has something to do there.
    pub(crate) fn takes(&self, scenario: &Scenario) -> bool {
        match self {
            Self::Floor(name) => floor::Job::of(name, scenario).is_some(),
            _ => true,
        }
    }

    /// Whether it works only when it is run.
    pub(crate) fn is_one_shot(&self) -> bool {
        matches!(self, Self::Rsync(..) | Self::RsyncSsh | Self::RsyncTls)
    }

    /// Whether it takes times within the same second for equal, as rsync does and all that call it.
    pub(crate) fn rounds_times(&self) -> bool {
        !matches!(self, Self::Syncd(..) | Self::Floor(_))
    }

    /// Its receiver's side up, with nothing mirrored yet.
    pub(crate) fn set_up(
        &self,
        place: &mut Place,
        scenario: &Scenario,
    ) -> Result<Box<dyn Peer>, String> {
        let port = free_port();
        Ok(match self {
            Self::Rsync(name, options) => {
                let daemon = rsync::Daemon::start(place, port, *name == NODELAY)?;
                Box::new(rsync::Rsync::new(Box::new(daemon), options))
            }
            Self::RsyncSsh => {
                let server = Box::new(ssh::Sshd::start(place, port)?);
                Box::new(rsync::Rsync::new(server, &[]))
            }
            Self::RsyncTls => {
                let server = Box::new(tls::Stunnel::start(place, port)?);
                Box::new(rsync::Rsync::new(server, &[]))
            }
            Self::Script => Box::new(script::Script::new(place, port)?),
            Self::Lsyncd(_, delay) => Box::new(lsyncd::Lsyncd::new(place, port, *delay)?),
            Self::Syncd(_, durability, options) => {
                Box::new(syncd::Syncd::new(place, port, durability, options)?)
            }
            Self::Floor(name) => {
                let job = floor::Job::of(name, scenario).ok_or("not for this scenario")?;
                Box::new(floor::Floor::new(place, port, job)?)
            }
        })
    }
}

/// Whether what a peer should achieve can be seen in the mirror, for one that does not tell.
pub(crate) type Goal<'a> = &'a dyn Fn(&Path) -> bool;

/// A peer that has been set up.
pub(crate) trait Peer {
    /// Starts the sender's side, and does not wait.
    fn start(&mut self, place: &Place) -> Result<(), String>;
    /// Waits until the first comparison of everything is done.
    fn settle(&mut self, place: &Place) -> Result<(), String>;
    /// Ends the sender's side properly.
    fn stop(&mut self);
    /// Something has changed: one shot peers start to work; the others know.
    fn kick(&mut self, _: &Place) -> Result<(), String> {
        Ok(())
    }
    /// Whether a run that was kicked is over; never for those that always run.
    fn is_idle(&mut self) -> bool {
        false
    }
    /// Waits until all changes are in the mirror, and durable if the peer can tell.
    fn finish(&mut self, place: &Place, goal: Goal<'_>) -> Result<(), String>;
    /// Waits until this path is durable in the mirror; false for a peer that does not promise it.
    fn durable(&mut self, _: &Place, _: &Path) -> Result<bool, String> {
        Ok(false)
    }
    /// The roots of the receiver's processes.
    fn receivers(&self) -> Vec<u32>;
    /// Kills the receiver's side with everything it has, and starts it again.
    fn crash_receiver(&mut self, place: &Place) -> Result<(), String>;
    /// Whether there is a mirror afterwards that can be compared.
    fn mirrors(&self) -> bool {
        true
    }
    /// How often each of its bytes passes the counter of the wire.
    fn times_on_wire(&self) -> f64 {
        1.0
    }
}

/// The peers asked for that are here, and the others with the reason.
pub(crate) fn available(names: &[String]) -> (Vec<Kind>, Vec<(String, String)>) {
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let Some(kind) = KINDS.into_iter().find(|kind| kind.name() == name) else {
            missing.push((name.clone(), "there is no driver for it here".to_owned()));
            continue;
        };
        let programs: &[&str] = match kind {
            Kind::Rsync(..) => &["rsync"],
            Kind::RsyncSsh => &["rsync", "sshd", "ssh", "ssh-keygen"],
            Kind::RsyncTls => &["rsync", "rsync-ssl", "openssl", "stunnel4"],
            Kind::Script => &["rsync", "inotifywait", "bash"],
            Kind::Lsyncd(..) => &["lsyncd", "rsync"],
            Kind::Syncd(..) | Kind::Floor(_) => &[],
        };
        match programs.iter().find(|program| installed(program).is_none()) {
            None => here.push(kind),
            Some(program) => missing.push((name.clone(), format!("{program} is not installed"))),
        }
    }
    (here, missing)
}

/// Where a program is, also one that only root has on its path.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut files = places.map(|dir| dir.join(program));
    files.find(|file| file.is_file())
}

/// The first line with a number in what a program says about itself, if it is installed.
pub(crate) fn version(program: &str) -> Option<String> {
    let option = match program {
        "lsyncd" | "stunnel4" => "-version",
        "ssh" => "-V",
        "inotifywait" => "--help",
        _ => "--version",
    };
    let output = Command::new(program).arg(option).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines();
    let line = lines.find(|line| line.contains(|c: char| c.is_ascii_digit()));
    line.map(str::to_owned)
}

/// Waits until the mirror shows it, for a peer that does not tell.
fn wait_goal(place: &Place, goal: Goal<'_>) -> Result<(), String> {
    let mirror = place.mirror();
    try_wait_for(PATIENCE, || match goal(&mirror) {
        true => Ok(()),
        false => Err("it did not get there".to_owned()),
    })
}

/// Waits for a line of a log that may come any time.
fn wait_log(process: &Process, text: &str) -> Result<(), String> {
    try_wait_for(FIRST_PATIENCE, || {
        match (process.exit(), process.log().contains(text)) {
            (_, true) => Ok(Ok(())),
            (Some(exit), _) => Ok(Err(format!("it ended: {exit:?}: {}", process.tail()))),
            (None, _) => Err(format!("{text:?} was never printed")),
        }
    })?
}
