//! Several targets of one source: one that is dead for long neither delays the others nor takes memory, and has
//! everything once it is back. And large transfers go on after a restart of either side.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use syncd_tests::programs::{AgentBuilder, ReceiverBuilder};
use syncd_tests::sandbox::{MODULE, wait_equal};
use syncd_tests::tree::Options;
use syncd_tests::{Agent, Receiver, ReservedPort, Sandbox, wait_growing, wait_until};

use crate::common::{LONG, noise, patient, scaled, target_of, wait_content, wait_staging_empty};

/// Proportional share of memory, in KiB.
fn pss_kib(agent: &Agent) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", agent.pid());
    let text = fs::read_to_string(path).expect("smaps_rollup");
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).expect("Pss")
}

fn targets(agent: &Agent) -> Vec<Value> {
    let status = agent.control().status().expect("status");
    let targets = status["status"]["sources"][0]["targets"].as_array();
    targets.expect("targets").clone()
}

fn is_idle(target: &Value) -> bool {
    target["state"] == "connected" && target["dirty"] == 0 && target["in_flight"] == 0
}

/// Waits until a target that was away is called again: the longer that was, the longer are the pauses.
fn wait_called(agent: &Agent, number: usize) {
    let pause_max = Duration::from_secs(60);
    wait_until(pause_max + LONG, "it is called again", || {
        let state = &targets(agent)[number]["state"];
        state != "waiting" && state != "connecting"
    });
}

/// A receiver of the same module elsewhere, with a configuration of its own.
pub(crate) fn other_receiver(sandbox: &mut Sandbox, dst: &Path, port: u16) -> ReceiverBuilder {
    fs::create_dir(dst).expect("directory");
    let path = dst.to_str().expect("UTF-8").to_owned();
    sandbox.conf().module(MODULE).set("path", path);
    let conf = dst.with_extension("conf");
    fs::copy(sandbox.write_conf(), &conf).expect("configuration");
    let home = sandbox.dst().to_str().expect("UTF-8").to_owned();
    sandbox.conf().module(MODULE).set("path", home);
    sandbox.receiver().conf(conf).port(port)
}

/// Writes all files anew, waits for the last of them at the first target, and gives the time that took.
#[track_caller]
fn round(sandbox: &Sandbox, agent: &Agent, number: u64) -> Duration {
    let started = Instant::now();
    for file in 0..scaled(1_000, 20_000) {
        let path = sandbox.src().join(format!("d{}/f{file}", file % 40));
        let text = format!("{file} in round {number}: {}", "x".repeat(300));
        fs::write(path, text).expect("write");
    }
    let last = format!("round {number}");
    fs::write(sandbox.src().join("last"), &last).expect("write");
    wait_content(&sandbox.dst().join("last"), last.as_bytes());
    wait_until(LONG, "the first target has everything", || {
        is_idle(&targets(agent)[0])
    });
    started.elapsed()
}

#[test]
fn a_dead_target_neither_delays_others_nor_takes_memory_and_comes_back() {
    let mut sandbox = Sandbox::new();
    for dir in 0..40 {
        fs::create_dir(sandbox.src().join(format!("d{dir}"))).expect("mkdir");
    }
    let receiver = sandbox.receiver().start();
    // One where nobody listens, and one that takes the connection and says nothing.
    let back = ReservedPort::take();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let silent_port = silent.local_addr().expect("address").port();
    let second = sandbox.path().join("second");
    let later = other_receiver(&mut sandbox, &second, back.number());
    let agent = sandbox
        .agent(&receiver)
        .in_file("max_delete = \"unlimited\"", "connect_timeout_ms = 60000")
        .also_to(back.number())
        .also_to(silent_port)
        .start();
    let rounds = scaled(12, 60) as u64;
    let mut times = Vec::new();
    let mut memory = Vec::new();
    for number in 0..rounds {
        times.push(round(&sandbox, &agent, number));
        memory.push(pss_kib(&agent));
    }
    for dead in &targets(&agent)[1..] {
        assert_ne!(dead["state"], "connected", "{dead}");
        assert_eq!(dead["files"], 0, "{dead}");
        assert_eq!(dead["in_flight"], 0, "{dead}");
        assert!(dead["dirty"].as_u64() > Some(0), "{dead}");
    }
    // The third round has seen every path, and what comes later is more of the same; of twenty times as many paths the
    // allocator's room grows for longer.
    let (settled, end) = (memory[scaled(2, 30)], memory[memory.len() - 1]);
    assert!(end < settled + (6 << 10), "KiB: {memory:?}");
    let slowest = times.iter().max().expect("rounds");
    assert!(*slowest < Duration::from_secs(20), "{times:?}");

    let _second = later.start();
    wait_called(&agent, 1);
    wait_until(LONG, "the second target is idle", || {
        is_idle(&targets(&agent)[1])
    });
    wait_equal(&sandbox.src(), &second, &Options::default(), LONG);
    sandbox.assert_equal();
    drop(silent);
}

/// The agent keeps at most so many paths by name for a target.
const MARKS_MAX: u64 = 200_000;

/// More names than the agent keeps come while the target is away: directories are compared instead.
#[test]
fn more_names_than_are_kept_become_comparisons() {
    let sandbox = Sandbox::new();
    let (dirs, names) = (30_u64, 7_000_u64);
    for dir in 0..dirs {
        fs::create_dir(sandbox.src().join(format!("d{dir}"))).expect("mkdir");
    }
    let port = ReservedPort::take();
    let receiver = sandbox.receiver().port(port.number()).start();
    let mut agent = sandbox.agent(&receiver);
    agent = agent.in_file("max_delete = \"unlimited\"", "");
    let agent = agent.start();
    agent.wait_synced(LONG);
    receiver.terminate(LONG);
    drop(receiver);
    let dirty = || targets(&agent)[0]["dirty"].as_u64().expect("a number");
    let (mut most, mut made) = (0, 0);
    for dir in 0..dirs {
        let dir = sandbox.src().join(format!("d{dir}"));
        for number in 0..names {
            symlink("x", dir.join(format!("n{number}"))).expect("symlink");
        }
        made += names;
        // No more at once than the kernel's queue holds.
        let enough = made.min(MARKS_MAX - 2 * names);
        wait_growing(LONG, "the agent has heard of them", enough, || {
            let now = dirty();
            most = most.max(now);
            now
        });
    }
    assert!(
        made > MARKS_MAX && most <= MARKS_MAX + dirs,
        "{most} of {made}"
    );
    // And it says so, once it has heard of the last.
    let collapsed = || targets(&agent)[0]["collapsed"].as_u64().expect("a number");
    wait_until(LONG, "directories are compared instead", || collapsed() > 0);
    assert!(collapsed() <= made - MARKS_MAX, "{}", collapsed());
    let memory = pss_kib(&agent);
    assert!(memory < (256 << 10), "{memory} KiB");
    for dir in 1..dirs {
        fs::remove_dir_all(sandbox.src().join(format!("d{dir}"))).expect("remove");
    }
    let _receiver = sandbox.receiver().port(port.number()).start();
    wait_called(&agent, 0);
    agent.wait_synced(LONG);
    sandbox.assert_equal();
}

/// Who is restarted in the middle of a transfer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Restarted {
    Agent,
    Receiver,
}

/// A mirror both sides of which can be started again.
struct Both {
    agent: Option<Agent>,
    receiver: Option<Receiver>,
    agents: AgentBuilder,
    receivers: ReceiverBuilder,
    _port: ReservedPort,
    sandbox: Sandbox,
}

impl Both {
    fn start() -> Self {
        let sandbox = Sandbox::new();
        let port = ReservedPort::take();
        let receivers = sandbox.receiver().port(port.number());
        let receiver = receivers.start();
        let agents = patient(sandbox.agent(&receiver));
        Self {
            agent: Some(agents.start()),
            receiver: Some(receiver),
            agents,
            receivers,
            _port: port,
            sandbox,
        }
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("an agent")
    }

    fn sent(&self) -> u64 {
        target_of(self.agent())["bytes_sent"]
            .as_u64()
            .expect("a number")
    }

    /// Kills one of the two and starts it again; bytes that a dead agent had sent.
    fn restart(&mut self, who: Restarted) -> u64 {
        match who {
            Restarted::Receiver => {
                if let Some(receiver) = self.receiver.take() {
                    receiver.kill9();
                }
                self.receiver = Some(self.receivers.start());
                0
            }
            Restarted::Agent => {
                let sent = self.sent();
                if let Some(agent) = self.agent.take() {
                    agent.kill9();
                }
                self.agent = Some(self.agents.start());
                sent
            }
        }
    }
}

#[test]
fn a_large_transfer_goes_on_after_a_restart_of_either_side() {
    let size = scaled(96 << 20, 1 << 30) as u64;
    for who in [Restarted::Agent, Restarted::Receiver] {
        let mut both = Both::start();
        both.agent().wait_synced(LONG);
        let beside: PathBuf = both.sandbox.path().join("beside");
        fs::write(&beside, noise(size as usize, 1)).expect("write");
        let before = both.sent();
        fs::rename(&beside, both.sandbox.src().join("file")).expect("rename");
        wait_until(LONG, "most of it is sent", || {
            both.sent() - before > size * 3 / 4
        });
        let earlier = both.restart(who);
        both.agent().wait_synced(LONG);
        both.sandbox.assert_equal();
        let cost = earlier + both.sent() - before;
        // What was on its way is lost: the window that the receiver grants, and a little.
        assert!(cost < size + (20 << 20), "{who:?}: {cost} bytes for {size}");
        wait_staging_empty(&both.sandbox);
    }
}
