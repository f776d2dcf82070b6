//! What the tests of the built binary share: a running receiver, and [`agent`].

#[expect(
    dead_code,
    reason = "shared with the crate's own tests, which need another part of it"
)]
pub(crate) mod agent;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use agent::{PATIENCE, Site};

#[derive(Default)]
struct Log {
    lines: Mutex<(String, bool)>,
    more: Condvar,
}

/// A running receiver; killed when dropped.
pub(crate) struct Daemon {
    child: Mutex<Child>,
    log: Arc<Log>,
    pub(crate) port: u16,
}

impl Daemon {
    pub(crate) fn start(site: &Site, modules: &str) -> Self {
        site.configure(modules);
        let mut child = Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
            .args(["run", "--port", "0", "--address", "127.0.0.1", "--config"])
            .arg(site.config())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("piped");
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                let mut lines = sink.lines.lock().unwrap();
                lines.0.push_str(&line);
                lines.0.push('\n');
                sink.more.notify_all();
            }
            sink.lines.lock().unwrap().1 = true;
            sink.more.notify_all();
        });
        let mut daemon = Self {
            child: Mutex::new(child),
            log,
            port: 0,
        };
        let line = daemon.wait_for("listening on 127.0.0.1:");
        let port = line.rsplit(':').next().expect("port");
        daemon.port = port.trim().parse().expect("a number");
        daemon
    }

    /// The first log line with this text, once it is there.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let mut lines = self.log.lines.lock().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = lines.0.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!lines.1 && !left.is_zero(), "no {text:?} in:\n{}", lines.0);
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until so many lines have this text.
    pub(crate) fn wait_for_times(&self, text: &str, times: usize) {
        let mut lines = self.log.lines.lock().unwrap();
        let until = Instant::now() + PATIENCE;
        while lines.0.lines().filter(|line| line.contains(text)).count() < times {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !lines.1 && !left.is_zero(),
                "too few {text:?} in:\n{}",
                lines.0
            );
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().0.clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.lock().unwrap().id();
        let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        kill_process(pid, signal).expect("signal");
    }

    /// Exit code after a signal; `None` if it had to be killed by it.
    pub(crate) fn end(&self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.lock().unwrap().wait().expect("wait").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}
