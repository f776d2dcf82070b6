//! The floor as a peer: a worker process that is told what to do, and for streams one more that reads them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use syncd_tests::Process;
use syncd_tests::wait::try_wait_for;

use super::super::floor::{DONE, DURABLE, READY, SINK, TLS_SINK, WORKER};
use super::super::place::Place;
use super::super::scenario::{Far, Scenario};
use super::{Goal, PATIENCE, Peer, wait_log};

/// How many directories of the tree hold the files that S2b replaces.
const REPLACED_DIRS: usize = 50;

/// What the floor of a scenario is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Job {
    /// These names copied when the change is over.
    Copy(String),
    /// The same, and not durable.
    Write(String),
    /// Files copied while the change happens.
    Follow,
    /// These files of the source read and hashed.
    Hash(&'static str),
    /// Both trees looked at, and which attributes there are.
    Scan { attributes: bool },
    /// These names sent as one stream.
    Stream(&'static str),
    /// These names sent through TLS, checked and published.
    Secure { name: &'static str, durable: bool },
}

impl Job {
    /// Nothing where no floor is known.
    pub(super) fn of(peer: &str, scenario: &Scenario) -> Option<Self> {
        let write = |job| match job {
            Self::Copy(names) => Some(Self::Write(names)),
            _ => None,
        };
        Some(match (peer, scenario) {
            ("floor-none", scenario) => return Self::of("floor", scenario).and_then(write),
            ("floor", Scenario::S2) => Self::Copy("burst".to_owned()),
            ("floor", Scenario::S2b) => {
                let names = (0..REPLACED_DIRS).map(|index| format!("d{index:05}"));
                Self::Copy(names.collect::<Vec<_>>().join(" "))
            }
            ("floor", Scenario::S3 | Scenario::S3Mix) => Self::Copy(String::new()),
            // Of a changed file, too, a new version is written.
            ("floor", Scenario::S4 | Scenario::S5a | Scenario::S5b | Scenario::S5c) => {
                Self::Copy("file.bin".to_owned())
            }
            ("floor" | "floor-HAX", Scenario::S7(_)) => Self::Scan {
                attributes: peer == "floor-HAX",
            },
            ("floor-hash", Scenario::S4 | Scenario::S5a | Scenario::S5b | Scenario::S5c) => {
                Self::Hash("file.bin")
            }
            ("floor-live", Scenario::S2 | Scenario::S2b) => Self::Follow,
            ("floor-tls" | "floor-tls-none", Scenario::S3 | Scenario::S3Mix | Scenario::S4) => {
                Self::Secure {
                    name: match scenario {
                        Scenario::S4 => "file.bin",
                        _ => "",
                    },
                    durable: peer == "floor-tls",
                }
            }
            ("floor-tcp", Scenario::S4) => Self::Stream("file.bin"),
            ("floor" | "floor-tcp", Scenario::S11(Far::Files | Far::Large, _)) => {
                Self::Stream("new")
            }
            _ => return None,
        })
    }
}

/// The floor of one scenario.
pub(super) struct Floor {
    job: Job,
    port: u16,
    mirrored: bool,
    worker: Option<Worker>,
    sink: Option<Process>,
}

impl Floor {
    pub(super) fn new(place: &Place, port: u16, job: Job) -> Result<Self, String> {
        let sink = match job {
            Job::Stream(_) => Some(sink(place, port, SINK, &[])?),
            Job::Secure { durable, .. } => {
                let (mirror, certs) = (place.mirror(), place.sandbox.certs());
                let last = if durable { DURABLE } else { "" };
                let more = [mirror.as_os_str(), certs.as_os_str(), OsStr::new(last)];
                Some(sink(place, port, TLS_SINK, &more)?)
            }
            _ => None,
        };
        Ok(Self {
            job,
            port,
            mirrored: false,
            worker: None,
            sink,
        })
    }

    fn worker(&mut self) -> Result<&mut Worker, String> {
        self.worker.as_mut().ok_or("no worker".to_owned())
    }
}

fn sink(place: &Place, port: u16, role: &str, more: &[&OsStr]) -> Result<Process, String> {
    let mut command = own()?;
    let address = format!("{}:{port}", place.listens());
    command.arg(role).arg(&address).args(more);
    let log = place.sandbox.path().join("floor-sink.log");
    let process = Process::spawn(role, &mut command, &log).map_err(|error| error.to_string())?;
    wait_log(&process, READY)?;
    // Counted by nobody, and it shows that the way is open.
    try_wait_for(PATIENCE, || {
        TcpStream::connect(&address).map_err(|error| error.to_string())
    })?;
    Ok(process)
}

fn own() -> Result<Command, String> {
    let path = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    Ok(Command::new(path))
}

impl Peer for Floor {
    fn start(&mut self, place: &Place) -> Result<(), String> {
        let mut worker = Worker::spawn(place)?;
        match (&self.job, self.mirrored) {
            (Job::Stream(_), _) => {
                worker.tell(&format!("connect {}:{}", place.host(), self.port))?;
            }
            (Job::Secure { .. }, _) => {
                let (host, certs) = (place.host(), place.sandbox.certs());
                let certs = certs.display();
                worker.tell(&format!("handshake {host}:{} {certs}", self.port))?;
                worker.wait()?;
                worker.tell("tls ")?;
            }
            (Job::Scan { attributes: false }, true) => worker.tell("scan")?,
            (Job::Scan { attributes: true }, true) => worker.tell("scan HAX")?,
            // The whole tree.
            (Job::Write(_), _) => worker.tell("write ")?,
            (Job::Hash(_), _) => worker.tell("hash ")?,
            _ => worker.tell("copy ")?,
        }
        self.worker = Some(worker);
        Ok(())
    }

    fn settle(&mut self, _: &Place) -> Result<(), String> {
        self.worker()?.wait()?;
        self.mirrored = true;
        let more = match self.job {
            Job::Follow => "watch",
            // As a first sync does: TCP begins slowly on a connection that was never used.
            Job::Stream(_) => "send ",
            _ => return Ok(()),
        };
        self.worker()?.tell(more)?;
        self.worker()?.wait()
    }

    fn stop(&mut self) {
        self.worker = None;
    }

    fn kick(&mut self, _: &Place) -> Result<(), String> {
        let line = match &self.job {
            Job::Copy(names) => format!("copy {names}"),
            Job::Write(names) => format!("write {names}"),
            Job::Follow => "drain".to_owned(),
            Job::Hash(name) => format!("hash {name}"),
            Job::Scan { .. } => "scan".to_owned(),
            Job::Stream(names) => format!("send {names}"),
            Job::Secure { name, .. } => format!("tls {name}"),
        };
        self.worker()?.tell(&line)
    }

    fn finish(&mut self, _: &Place, _: Goal<'_>) -> Result<(), String> {
        self.worker()?.wait()
    }

    fn receivers(&self) -> Vec<u32> {
        self.sink.iter().map(Process::pid).collect()
    }

    fn crash_receiver(&mut self, _: &Place) -> Result<(), String> {
        Err("there is no receiver to kill".to_owned())
    }

    fn mirrors(&self) -> bool {
        !matches!(self.job, Job::Stream(_) | Job::Hash(_))
    }
}

/// A process that answers lines.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn spawn(place: &Place) -> Result<Self, String> {
        let mut command = own()?;
        command.arg(WORKER).arg(place.source()).arg(place.mirror());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("{WORKER}: {error}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                input,
                output: BufReader::new(output),
            }),
            _ => Err(format!("{WORKER}: no pipes")),
        }
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.input, "{line}").map_err(|error| format!("{WORKER}: {error}"))
    }

    fn wait(&mut self) -> Result<(), String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        read.map_err(|error| format!("{WORKER}: {error}"))?;
        match line.trim_end() {
            DONE => Ok(()),
            "" => Err(format!("{WORKER}: it ended")),
            text => Err(format!("{WORKER}: {text}")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_own_floor_or_none() {
        let copied = Job::of("floor", &Scenario::S2b);
        let names = |job| matches!(job, Some(Job::Copy(names)) if names.split(' ').count() == REPLACED_DIRS);
        assert!(names(copied));
        assert_eq!(Job::of("floor-live", &Scenario::S4), None);
        assert_eq!(Job::of("floor-tls", &Scenario::S5a), None);
        assert_eq!(Job::of("floor", &Scenario::S6), None);
        assert_eq!(Job::of("floor-none", &Scenario::S7(1)), None);
        let written = Job::of("floor-none", &Scenario::S4);
        assert_eq!(written, Some(Job::Write("file.bin".to_owned())));
    }
}
