//! lsyncd with `default.rsync` to the same rsync daemon.

use std::process::Command;
use std::time::Duration;

use syncd_tests::Process;
use syncd_tests::sandbox::{MODULE, USER};

use super::super::place::Place;
use super::rsync::Daemon;
use super::{Goal, Peer, wait_goal, wait_log};

const STARTED: &str = "finished";
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// lsyncd as a peer.
pub(super) struct Lsyncd {
    daemon: Daemon,
    port: u16,
    delay: u32,
    starts: usize,
    process: Option<Process>,
}

impl Lsyncd {
    pub(super) fn new(place: &Place, port: u16, delay: u32) -> Result<Self, String> {
        Ok(Self {
            daemon: Daemon::start(place, port, false)?,
            port,
            delay,
            starts: 0,
            process: None,
        })
    }

    fn running(&self) -> Result<&Process, String> {
        self.process
            .as_ref()
            .ok_or("lsyncd was not started".to_owned())
    }
}

impl Peer for Lsyncd {
    fn start(&mut self, place: &Place) -> Result<(), String> {
        let dir = place.sandbox.path();
        let conf = dir.join("lsyncd.lua");
        let text = format!(
            "settings {{ nodaemon = true, insist = true, maxProcesses = 4 }}\nsync {{ default.rsync, source = '{}',\n\
             target = 'rsync://{USER}@{}:{}/{MODULE}/', delay = {},\n\
             rsync = {{ archive = true, compress = false, password_file = '{}' }} }}\n",
            place.source().display(),
            place.host(),
            self.port,
            self.delay,
            place.sandbox.password_file().display()
        );
        std::fs::write(&conf, text).map_err(|error| error.to_string())?;
        self.starts += 1;
        let log = dir.join(format!("lsyncd-{}.log", self.starts));
        let mut command = Command::new("lsyncd");
        command.arg("-nodaemon").arg(conf);
        let process = Process::spawn("lsyncd", &mut command, &log);
        self.process = Some(process.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn settle(&mut self, _: &Place) -> Result<(), String> {
        wait_log(self.running()?, STARTED)
    }

    fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate(STOP_TIMEOUT);
        }
    }

    fn finish(&mut self, place: &Place, goal: Goal<'_>) -> Result<(), String> {
        wait_goal(place, goal)
    }

    fn receivers(&self) -> Vec<u32> {
        vec![self.daemon.pid()]
    }

    fn crash_receiver(&mut self, _: &Place) -> Result<(), String> {
        self.daemon.crash()
    }
}
