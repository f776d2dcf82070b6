//! A child process with its log: started, watched, killed in several ways, and always reaped.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::wait::{wait_for, wait_until};

/// How long a program may take to stop that was told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 200;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A running program, leader of its own process group; output and errors go to one log file.
///
/// It stays a zombie until this value is dropped, so its id always means this process and nothing else.
/// Dropping kills the whole group and, while a test is failing, prints the log.
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with no input and its output appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command.spawn().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: {error}", command.get_program().to_string_lossy()),
            )
        })?;
        let pid = Pid::from_child(&child);
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this process, not to its children; one that has ended already is left alone. One that is to stop
    /// has stopped when this returns: on a busy machine its threads may run for a moment longer.
    pub fn signal(&self, signal: Signal) {
        // The process is at least a zombie, so the id is ours; a zombie takes any signal.
        rustix::process::kill_process(self.pid, signal).expect("signal to a child");
        if signal == Signal::STOP {
            wait_until(STOP_TIMEOUT, "it has stopped", || !self.is_running());
        }
    }

    /// Whether one of its threads may run.
    fn is_running(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut tasks = tasks.into_iter().flatten().flatten();
        tasks.any(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name before it, in parentheses, may hold anything.
            let state = stat.rsplit(") ").next().unwrap_or_default();
            !state.starts_with(['T', 't', 'Z', 'X']) && !state.is_empty()
        })
    }

    /// Kills it as a power cut would, and waits until it is gone. Its children are left to find out by themselves.
    pub fn kill9(&self) -> Exit {
        self.signal(Signal::KILL);
        self.wait_exit(Duration::from_secs(30))
    }

    /// Asks it to end and waits for that.
    #[track_caller]
    pub fn terminate(&self, timeout: Duration) -> Exit {
        self.signal(Signal::TERM);
        self.wait_exit(timeout)
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_exit(&self, timeout: Duration) -> Exit {
        wait_for(timeout, &format!("{} ends", self.name), || {
            self.exit().ok_or_else(String::new)
        })
    }

    /// How it ended, or nothing while it runs.
    pub fn exit(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status =
            rustix::process::waitid(WaitId::Pid(self.pid), options).expect("wait for a child")?;
        status
            .exit_status()
            .map(Exit::Code)
            .or_else(|| status.terminating_signal().map(Exit::Signal))
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for a line of the log that contains `text`, and gives the whole line; fails at once if the process ends
    /// without it.
    #[track_caller]
    pub fn wait_line(&self, timeout: Duration, text: &str) -> String {
        let what = format!("{} prints {text:?}", self.name);
        let line = wait_for(timeout, &what, || {
            // Ask for the end before reading, so that the last words are not missed.
            let exit = self.exit();
            let log = self.log();
            let mut lines = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            match (lines.find(|line| line.contains(text)), exit) {
                (Some(line), _) => Ok(Ok(line.trim_end().to_owned())),
                (None, Some(exit)) => Ok(Err(exit)),
                (None, None) => Err("it runs, but has not".to_owned()),
            }
        });
        line.unwrap_or_else(|exit| panic!("{what}: it ended instead: {exit:?}\n{}", self.tail()))
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not reaped yet, so the group's id cannot have become another's.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- log of {} ({}) ---\n{}\n---",
                self.name,
                self.pid(),
                self.tail()
            );
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(dir: &Path, script: &str) -> Process {
        Process::spawn(
            "sh",
            Command::new("sh").args(["-c", script]),
            &dir.join("log"),
        )
        .unwrap()
    }

    #[test]
    fn codes_and_signals_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shell(dir.path(), "exit 7").wait_exit(LONG), Exit::Code(7));
        let reading = shell(dir.path(), "read line || exit 5");
        assert_eq!(reading.wait_exit(LONG), Exit::Code(5), "there is no input");
    }

    #[test]
    fn kill9_and_terminate_end_it_and_the_status_can_be_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "echo up; exec sleep 1000");
        process.wait_line(LONG, "up");
        assert_eq!(process.exit(), None);
        assert_eq!(process.kill9(), Exit::Signal(9));
        assert_eq!(process.exit(), Some(Exit::Signal(9)));
        let process = shell(
            dir.path(),
            "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done",
        );
        process.wait_line(LONG, "ready");
        assert_eq!(process.terminate(LONG), Exit::Code(3));
        assert!(process.log().contains("bye"));
    }

    #[test]
    fn dropping_kills_its_children_too() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "sleep 1000 & echo child=$!; wait");
        let line = process.wait_line(LONG, "child=");
        let child: i32 = line.trim_start_matches("child=").parse().unwrap();
        drop(process);
        let stat = PathBuf::from(format!("/proc/{child}/stat"));
        let is_gone = || fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z"));
        wait_until(LONG, "the child is gone", is_gone);
    }

    #[test]
    #[should_panic(expected = "it ended instead: Code(0)\nlast words")]
    fn waiting_for_a_line_fails_at_once_when_the_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        shell(dir.path(), "echo last words").wait_line(LONG, "never");
    }
}
