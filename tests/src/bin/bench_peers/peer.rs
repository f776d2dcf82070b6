//! The peers: how each is set up, started, asked to converge and killed.

mod lsyncd;
mod rsync;
mod syncd;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use syncd_tests::Process;
use syncd_tests::sandbox::free_port;
use syncd_tests::wait::try_wait_for;

use super::place::Place;

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// A peer by name, with what makes it a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One run per change: rsync and the options of a variant.
    Rsync(&'static str, &'static [&'static str]),
    /// lsyncd with this delay.
    Lsyncd(&'static str, u32),
    /// syncd with this `durability`.
    Syncd(&'static str, &'static str),
}

const KINDS: [Kind; 12] = [
    Kind::Rsync("rsync", &[]),
    Kind::Rsync("rsync-fsync", &["--fsync"]),
    Kind::Rsync("rsync-nodelay", &["--sockopts=TCP_NODELAY"]),
    Kind::Rsync("rsync-W", &["-W"]),
    Kind::Rsync("rsync-z", &["-z"]),
    Kind::Rsync("rsync-inplace", &["--inplace"]),
    Kind::Rsync("rsync-checksum", &["--checksum"]),
    Kind::Lsyncd("lsyncd", 1),
    Kind::Lsyncd("lsyncd-delay0", 0),
    Kind::Syncd("syncd", "batch"),
    Kind::Syncd("syncd-none", "none"),
    Kind::Syncd("syncd-files", "files"),
];

impl Kind {
    /// As in `--peers`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rsync(name, _) | Self::Lsyncd(name, _) | Self::Syncd(name, _) => name,
        }
    }

    /// Whether it works only when it is run.
    pub(crate) fn is_one_shot(&self) -> bool {
        matches!(self, Self::Rsync(..))
    }

    /// Whether it takes times within the same second for equal, as rsync does and all that call it.
    pub(crate) fn rounds_times(&self) -> bool {
        !matches!(self, Self::Syncd(..))
    }

    /// Its receiver's side up, with nothing mirrored yet.
    pub(crate) fn set_up(&self, place: &mut Place) -> Result<Box<dyn Peer>, String> {
        let port = free_port();
        Ok(match self {
            Self::Rsync(name, options) => Box::new(rsync::Rsync::new(place, port, name, options)?),
            Self::Lsyncd(_, delay) => Box::new(lsyncd::Lsyncd::new(place, port, *delay)?),
            Self::Syncd(_, durability) => Box::new(syncd::Syncd::new(place, port, durability)?),
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
    fn kick(&mut self, place: &Place) -> Result<(), String>;
    /// Whether a run that was kicked is over; never for those that always run.
    fn is_idle(&mut self) -> bool;
    /// Waits until all changes are in the mirror, and durable if the peer can tell.
    fn finish(&mut self, place: &Place, goal: Goal<'_>) -> Result<(), String>;
    /// Waits until this path is durable in the mirror; false for a peer that does not promise it.
    fn durable(&mut self, place: &Place, path: &Path) -> Result<bool, String>;
    /// The roots of the receiver's processes.
    fn receivers(&self) -> Vec<u32>;
    /// Kills the receiver's side with everything it has, and starts it again.
    fn crash_receiver(&mut self, place: &Place) -> Result<(), String>;
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
            Kind::Lsyncd(..) => &["lsyncd", "rsync"],
            Kind::Syncd(..) => &[],
        };
        match programs.iter().find(|program| version(program).is_none()) {
            None => here.push(kind),
            Some(program) => missing.push((name.clone(), format!("{program} is not installed"))),
        }
    }
    (here, missing)
}

/// The first line a program says about itself, if it is installed.
pub(crate) fn version(program: &str) -> Option<String> {
    let option = if program == "lsyncd" {
        "-version"
    } else {
        "--version"
    };
    let output = Command::new(program).arg(option).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().map(str::to_owned)
}

/// Waits for a line of a log that may come any time.
fn wait_log(process: &Process, text: &str) -> Result<(), String> {
    try_wait_for(PATIENCE, || {
        match (process.exit(), process.log().contains(text)) {
            (_, true) => Ok(Ok(())),
            (Some(exit), _) => Ok(Err(format!("it ended: {exit:?}: {}", process.tail()))),
            (None, _) => Err(format!("{text:?} was never printed")),
        }
    })?
}
