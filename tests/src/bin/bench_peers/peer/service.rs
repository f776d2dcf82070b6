//! A daemon of a receiver's side: started, waited for until it listens, killed with everything below it.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use syncd_tests::Process;
use syncd_tests::wait::try_wait_for;

use super::super::meter;
use super::super::place::Place;
use super::PATIENCE;

/// A process that listens on one port.
pub(super) struct Service {
    words: Vec<String>,
    log: PathBuf,
    listens: (&'static str, u16),
    process: Process,
}

impl Service {
    /// Runs these words; their log is named after the program.
    pub(super) fn start(
        place: &Place,
        name: &str,
        port: u16,
        words: Vec<String>,
    ) -> Result<Self, String> {
        let log = place.sandbox.path().join(format!("{name}.log"));
        let listens = (place.listens(), port);
        let process = spawn(&words, &log, listens)?;
        Ok(Self {
            words,
            log,
            listens,
            process,
        })
    }

    /// The root of its processes.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens.
    pub(super) fn port(&self) -> u16 {
        self.listens.1
    }

    /// Kills it and all its children, and starts it again.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        crash(self.pid());
        self.process.kill9();
        self.process = spawn(&self.words, &self.log, self.listens)?;
        Ok(())
    }
}

/// Kills everything below `root` and `root` itself at once, as a power cut does.
pub(super) fn crash(root: u32) {
    for pid in meter::receiver_pids(&[root]) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
    }
}

fn spawn(words: &[String], log: &Path, listens: (&str, u16)) -> Result<Process, String> {
    let [program, rest @ ..] = words else {
        return Err("nothing to run".to_owned());
    };
    let mut command = Command::new(program);
    let process = Process::spawn(program, command.args(rest), log);
    let process = process.map_err(|error| error.to_string())?;
    try_wait_for(PATIENCE, || match process.exit() {
        Some(exit) => Ok(Err(format!("{program}: {exit:?}: {}", process.tail()))),
        None => TcpStream::connect(listens)
            .map(|_| Ok(()))
            .map_err(|error| error.to_string()),
    })??;
    Ok(process)
}
