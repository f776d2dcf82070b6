//! One of the two programs: started in a process group of its own, its log kept, stopped in the end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Stop;

const LISTENING: &str = "listening on ";
const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const TAIL_LINES: usize = 15;

/// A running program.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: Process,
    log: PathBuf,
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Child {
    /// Starts it. Ctrl-C on the terminal reaches the demo only, which then stops it in order.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        dir: &Path,
    ) -> Result<Self, String> {
        let log = dir.join(format!("{name}.log"));
        let failed = |error| format!("cannot start the {name}: {error}");
        let file = File::create(&log).map_err(failed)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name, process, log })
    }

    /// Fails, with the end of its log, if it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!(
                "the {} ended: {status}\n{}",
                self.name,
                self.tail()
            )),
            Err(error) => Err(format!("the {}: {error}", self.name)),
        }
    }

    /// Waits for its port; `None` if the demo was stopped before.
    pub(crate) fn listening_port(&mut self, stop: &Stop) -> Result<Option<u16>, String> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !stop.load(Ordering::Relaxed) {
            let log = fs::read(&self.log).unwrap_or_default();
            if let Some(port) = port_of(&String::from_utf8_lossy(&log)) {
                return Ok(Some(port));
            }
            self.check()?;
            if Instant::now() > deadline {
                return Err(format!(
                    "the {} does not listen\n{}",
                    self.name,
                    self.tail()
                ));
            }
            sleep(POLL);
        }
        Ok(None)
    }

    /// Ends it: politely, then for good.
    pub(crate) fn stop(&mut self) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        let deadline = Instant::now() + STOP_TIMEOUT;
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            sleep(POLL);
        }
    }

    fn tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().collect();
        let start = lines.len().saturating_sub(TAIL_LINES);
        lines[start..].join("\n")
    }
}

/// The port in a whole line `listening on ADDRESS:PORT`.
fn port_of(log: &str) -> Option<u16> {
    let (_, after) = log.split_once(LISTENING)?;
    let (line, _) = after.split_once('\n')?;
    let address = line.split_whitespace().next()?;
    address.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_a_whole_line_only() {
        assert_eq!(
            port_of("x INFO listening on 127.0.0.1:47110 now\nmore"),
            Some(47110)
        );
        assert_eq!(port_of("listening on [::1]:5\n"), Some(5));
        assert_eq!(port_of("listening on 127.0.0.1:471"), None);
        assert_eq!(port_of("nothing"), None);
    }
}
