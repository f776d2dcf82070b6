//! Many agents at one receiver: all get in after it comes back, and none is held up by another.

use std::fs;
use std::path::PathBuf;

use syncd_tests::programs::AgentBuilder;
use syncd_tests::{Agent, Receiver, ReservedPort, Sandbox, wait_until};

use crate::common::{LONG, assert_same, noise, patient, scaled, target_of, wait_content};

/// Agents, each with a source and a module of its own, at one receiver.
struct Crowd {
    agents: Vec<Agent>,
    sandbox: Sandbox,
}

impl Crowd {
    /// Writes the configuration; starts nobody.
    fn configure(count: usize) -> Sandbox {
        let mut sandbox = Sandbox::new();
        let (user, secrets) = (syncd_tests::sandbox::USER, sandbox.secrets_file());
        for number in 0..count {
            for path in [source(&sandbox, number), module(&sandbox, number)] {
                fs::create_dir_all(path).expect("mkdir");
            }
            let path = module(&sandbox, number).display().to_string();
            let section = sandbox.conf().module(&format!("m{number}"));
            section.set("path", path).set("read only", "no");
            section.set("use chroot", "no").set("munge symlinks", "no");
            section.set("uid", rustix::process::geteuid().as_raw());
            section.set("gid", rustix::process::getegid().as_raw());
            section.set("auth users", user);
            section.set("secrets file", secrets.display());
        }
        sandbox
    }

    /// Starts all agents without waiting for one of them to be in.
    fn start(sandbox: Sandbox, receiver: &Receiver, count: usize) -> Self {
        let agent = |number| -> AgentBuilder {
            let destination = format!("mirror@localhost::m{number}");
            patient(sandbox.agent(receiver))
                .source(source(&sandbox, number))
                .destination(&destination)
        };
        let agents = (0..count).map(|number| agent(number).start()).collect();
        Self { agents, sandbox }
    }

    /// Each source has this in a file of its own, and each mirror has it afterwards.
    #[track_caller]
    fn settle(&self, text: &str) {
        for number in 0..self.agents.len() {
            fs::write(source(&self.sandbox, number).join("file"), text).expect("write");
        }
        for (number, agent) in self.agents.iter().enumerate() {
            agent.wait_synced(LONG);
            assert_same(
                &source(&self.sandbox, number),
                &module(&self.sandbox, number),
            );
        }
    }
}

fn source(sandbox: &Sandbox, number: usize) -> PathBuf {
    sandbox.path().join(format!("sources/s{number}"))
}

fn module(sandbox: &Sandbox, number: usize) -> PathBuf {
    sandbox.path().join(format!("modules/m{number}"))
}

#[test]
fn all_come_back_after_a_restart_of_the_receiver() {
    let count = scaled(24, 200);
    let sandbox = Crowd::configure(count);
    let port = ReservedPort::take();
    let builder = sandbox.receiver().port(port.number());
    let mut receiver = builder.start();
    let crowd = Crowd::start(sandbox, &receiver, count);
    crowd.settle("first");
    for round in 0..2 {
        receiver.kill9();
        drop(receiver);
        for agent in &crowd.agents {
            wait_until(LONG, "each agent knows", || {
                target_of(agent)["state"] != "connected"
            });
        }
        receiver = builder.start();
        crowd.settle(&format!("round {round}"));
    }
}

/// One sends as fast as it can; what the others have to say arrives meanwhile.
#[test]
fn one_at_full_speed_holds_up_nobody() {
    let count = 6;
    let sandbox = Crowd::configure(count);
    let receiver = sandbox.receiver().start();
    let crowd = Crowd::start(sandbox, &receiver, count);
    crowd.settle("first");
    let size = scaled(200 << 20, 4 << 30);
    let large = crowd.sandbox.path().join("large");
    fs::write(&large, noise(size, 1)).expect("write");
    fs::rename(large, source(&crowd.sandbox, 0).join("large")).expect("rename");
    let sent = || {
        target_of(&crowd.agents[0])["bytes_sent"]
            .as_u64()
            .expect("a number")
    };
    wait_until(LONG, "the large one is on its way", || sent() > 1 << 20);
    for number in 1..count {
        let text = format!("meanwhile {number}");
        fs::write(source(&crowd.sandbox, number).join("file"), &text).expect("write");
        wait_content(
            &module(&crowd.sandbox, number).join("file"),
            text.as_bytes(),
        );
    }
    let is_there = module(&crowd.sandbox, 0).join("large").exists();
    assert!(
        !is_there,
        "the large one was through before the others: nothing was shown"
    );
    crowd.settle("last");
}
