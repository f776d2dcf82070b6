//! The classic script: inotifywait, and rsync for every batch of events, to the same rsync daemon.

use std::process::Command;
use std::time::Duration;

use syncd_tests::Process;
use syncd_tests::sandbox::{MODULE, USER};

use super::super::place::Place;
use super::rsync::Daemon;
use super::{Goal, Peer, wait_goal, wait_log};

const STARTED: &str = "Watches established";
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// `$1` is the source, `$2` the password file, `$3` the destination. What is heard within 10 ms is one batch.
const SCRIPT: &str = r#"
mirror() { rsync -a --delete --password-file="$2" "$1/" "$3"; }
mirror "$@"
inotifywait -mr -e modify,create,delete,attrib,move,close_write "$1" | while read -r event; do
    while read -r -t 0.01 event; do :; done
    mirror "$@"
done
"#;

/// The script as a peer.
pub(super) struct Script {
    daemon: Daemon,
    starts: usize,
    process: Option<Process>,
}

impl Script {
    pub(super) fn new(place: &Place, port: u16) -> Result<Self, String> {
        Ok(Self {
            daemon: Daemon::start(place, port, false)?,
            starts: 0,
            process: None,
        })
    }
}

impl Peer for Script {
    fn start(&mut self, place: &Place) -> Result<(), String> {
        self.starts += 1;
        let name = format!("inotify-script-{}.log", self.starts);
        let to = format!(
            "rsync://{USER}@{}:{}/{MODULE}/",
            place.host(),
            self.daemon.port()
        );
        let mut command = Command::new("bash");
        command.args(["-c", SCRIPT, "inotify-script"]);
        command
            .arg(place.source())
            .arg(place.sandbox.password_file())
            .arg(to);
        let log = place.sandbox.path().join(name);
        let process = Process::spawn("inotify-script", &mut command, &log);
        self.process = Some(process.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn settle(&mut self, _: &Place) -> Result<(), String> {
        let process = self.process.as_ref();
        wait_log(process.ok_or("the script was not started")?, STARTED)
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
