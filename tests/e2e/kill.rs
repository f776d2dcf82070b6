//! `kill -9` in the middle of things: after a restart all is identical, and nothing was ever visible in the
//! module that the source never had.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use syncd_tests::programs::{AgentBuilder, ReceiverBuilder};
use syncd_tests::workload::{Rng, Workload, many_small, rewrite_random_blocks, vim_save};
use syncd_tests::{Agent, Receiver, ReservedPort, Sandbox, wait_until};

use crate::common::{LONG, Spy, look, noise, patient, scaled, target_of, wait_staging_empty};

/// Who dies.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent,
    Front,
    Worker,
}

const VICTIMS: [Victim; 3] = [Victim::Agent, Victim::Front, Victim::Worker];

/// A mirror whose parts can be killed and started again.
struct Scene {
    agent: Option<Agent>,
    receiver: Option<Receiver>,
    agent_builder: AgentBuilder,
    receiver_builder: ReceiverBuilder,
    _port: ReservedPort,
    known: BTreeSet<Vec<u8>>,
    spy: Option<Spy>,
    sandbox: Sandbox,
}

impl Scene {
    #[track_caller]
    fn new(sandbox: Sandbox) -> Self {
        let port = ReservedPort::take();
        let receiver_builder = sandbox.receiver().port(port.number());
        let receiver = receiver_builder.start();
        let agent_builder = patient(sandbox.agent(&receiver));
        let spy = Spy::on(sandbox.dst());
        Self {
            agent: Some(agent_builder.start()),
            _port: port,
            receiver: Some(receiver),
            agent_builder,
            receiver_builder,
            known: BTreeSet::new(),
            spy: Some(spy),
            sandbox,
        }
    }

    /// Remembers what the source has now as something that may be seen in the module.
    fn remember(&mut self) {
        look(&self.sandbox.src(), &mut Vec::new(), &mut self.known);
    }

    /// Kills one part without warning and starts it again.
    #[track_caller]
    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Agent => {
                if let Some(agent) = self.agent.take() {
                    agent.kill9();
                }
                self.agent = Some(self.agent_builder.start());
            }
            Victim::Front => {
                if let Some(receiver) = self.receiver.take() {
                    receiver.kill9();
                }
                self.receiver = Some(self.receiver_builder.start());
            }
            // The front starts another one for the next session.
            Victim::Worker => self.receiver.as_ref().expect("a receiver").kill_workers(),
        }
    }

    /// Waits until the agent has sent this many bytes since it was started, or has nothing more to send.
    #[track_caller]
    fn wait_sent(&self, bytes: u64) {
        let agent = self.agent.as_ref().expect("an agent");
        wait_until(LONG, "bytes are sent", || {
            let target = target_of(agent);
            let sent = target["bytes_sent"].as_u64().unwrap_or(0);
            sent >= bytes
                || (target["state"] == "connected"
                    && target["dirty"] == 0
                    && target["in_flight"] == 0)
        });
    }

    /// Waits until all is in sync; then it must be, and nothing strange may have been seen on the way.
    #[track_caller]
    fn settle(&mut self) {
        self.remember();
        self.agent.as_ref().expect("an agent").wait_synced(LONG);
        self.sandbox.assert_equal();
    }

    #[track_caller]
    fn finish(mut self) {
        self.settle();
        wait_staging_empty(&self.sandbox);
        if let Some(spy) = self.spy.take() {
            spy.expect_only(&self.known);
        }
    }

    /// The same where renames may meet in another order on their way: each name is known, if not each path.
    #[track_caller]
    fn finish_by_names(mut self) {
        self.settle();
        wait_staging_empty(&self.sandbox);
        if let Some(spy) = self.spy.take() {
            spy.expect_only_names_of(&self.known);
        }
    }
}

/// Kills each part at random moments of the first sync of a tree.
#[test]
fn during_the_first_sync() {
    for (index, victim) in VICTIMS.into_iter().enumerate() {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src(), scaled(20, 500), 20, 3_000).expect("files");
        fs::write(sandbox.src().join("large"), noise(6 << 20, 1)).expect("write");
        let mut rng = Rng::new(index as u64 + 1);
        let mut scene = Scene::new(sandbox);
        scene.remember();
        for _ in 0..3 {
            scene.wait_sent(rng.below(5 << 20));
            scene.kill(victim);
        }
        scene.finish();
    }
}

/// Large files that change in place and by replacement.
#[test]
fn during_a_large_transfer() {
    for (index, victim) in VICTIMS.into_iter().enumerate() {
        let mut scene = Scene::new(Sandbox::new());
        let path = scene.sandbox.src().join("image");
        let size = scaled(24 << 20, 1 << 30);
        let mut rng = Rng::new(index as u64 + 10);
        fs::write(&path, noise(size, 1)).expect("write");
        scene.remember();
        scene.wait_sent(1 + rng.below(size as u64 / 2));
        scene.kill(victim);
        scene.settle();
        for round in 0..2 {
            rewrite_random_blocks(&path, 200, 4096, round).expect("rewrite");
            scene.kill(victim);
        }
        scene.finish();
    }
}

/// A directory moves, and moves on, while it is being mirrored.
#[test]
fn during_renames_of_a_directory() {
    for (index, victim) in VICTIMS.into_iter().enumerate() {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src().join("name-0"), scaled(10, 300), 20, 200).expect("files");
        fs::write(sandbox.src().join("stays"), "here").expect("write");
        let mut scene = Scene::new(sandbox);
        scene.settle();
        let mut rng = Rng::new(index as u64 + 20);
        for number in 0..scaled(8, 50) {
            let at = |number| scene.sandbox.src().join(format!("name-{number}"));
            fs::rename(at(number), at(number + 1)).expect("mv");
            fs::write(at(number + 1).join("d00001/f00001"), format!("{number}")).expect("write");
            scene.remember();
            if rng.below(2) == 0 {
                scene.kill(victim);
            }
            if rng.below(3) == 0 {
                scene.settle();
            }
        }
        scene.finish();
    }
}

/// A tree goes away and comes back.
#[test]
fn during_rm_rf() {
    for victim in VICTIMS {
        let sandbox = Sandbox::new();
        let tree = sandbox.src().join("tree");
        many_small(&tree, scaled(10, 300), 30, 100).expect("files");
        fs::write(sandbox.src().join("stays"), "here").expect("write");
        let mut scene = Scene::new(sandbox);
        scene.settle();
        for _ in 0..2 {
            fs::remove_dir_all(&tree).expect("rm");
            scene.kill(victim);
            many_small(&tree, scaled(5, 100), 10, 150).expect("files");
            scene.kill(victim);
            scene.settle();
        }
        scene.finish();
    }
}

/// One path is saved again and again; the mirror has always one of its versions.
#[test]
fn during_saves() {
    for (index, victim) in VICTIMS.into_iter().enumerate() {
        let mut scene = Scene::new(Sandbox::new());
        let path = scene.sandbox.src().join("page");
        fs::write(&path, vec![b'0'; 50_000]).expect("write");
        for name in ["page~", ".page.swp", "4913"] {
            scene.known.insert(name.as_bytes().to_vec());
        }
        scene.settle();
        let mut rng = Rng::new(index as u64 + 30);
        for number in 1..scaled(12, 100) {
            let byte = b'0' + u8::try_from(number % 70).expect("a byte");
            vim_save(&path, &vec![byte; 50_000]).expect("save");
            if rng.below(3) == 0 {
                scene.kill(victim);
            }
            let copy = fs::read(scene.sandbox.dst().join("page")).expect("the copy is there");
            assert_eq!(copy.len(), 50_000);
            assert!(copy.iter().all(|byte| *byte == copy[0]), "mixed versions");
        }
        scene.finish();
    }
}

/// Random changes, random victims.
#[test]
fn during_random_changes() {
    for seed in 0..scaled(3, 100) as u64 {
        let mut scene = Scene::new(Sandbox::new());
        let mut rng = Rng::new(seed + 40);
        let work = Workload::new(scene.sandbox.src(), seed + 1).expect("workload");
        let mut work = work.without_hard_links();
        for _ in 0..scaled(4, 10) {
            for _ in 0..60 {
                step(&mut work, &mut scene).unwrap_or_else(|error| panic!("{error}"));
            }
            let victim = *rng.pick(&VICTIMS).expect("a victim");
            scene.kill(victim);
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.settle()));
        if let Err(reason) = result {
            eprintln!("{}", work.story());
            std::panic::resume_unwind(reason);
        }
        scene.finish_by_names();
    }
}

fn step(work: &mut Workload, scene: &mut Scene) -> io::Result<()> {
    // A name that is gone again when one could look for it.
    if let Some(passing) = work.step()?.passing() {
        let passing = passing.as_os_str().as_encoded_bytes();
        scene.known.insert(passing.to_vec());
    }
    scene.remember();
    Ok(())
}

/// Staged content is swept when the worker starts again.
#[test]
fn what_a_worker_left_is_removed() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.src().join("file"), "content").expect("write");
    let mut scene = Scene::new(sandbox);
    scene.settle();
    let stage = scene.sandbox.dst().join(".syncd/stage");
    scene.receiver.as_ref().expect("a receiver").kill_workers();
    leave_behind(&stage);
    scene.finish();
}

fn leave_behind(stage: &Path) {
    fs::write(stage.join("00000000.1"), "half a file").expect("write");
    fs::create_dir_all(stage.join("00000000.2/with/things")).expect("mkdir");
}

/// A clean end of the receiver says so; the agent comes back by itself.
#[test]
fn an_orderly_restart_is_no_kill() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 5, 10, 100).expect("files");
    let mut scene = Scene::new(sandbox);
    scene.settle();
    let receiver = scene.receiver.take().expect("a receiver");
    assert_eq!(receiver.workers().len(), 1);
    assert_eq!(receiver.terminate(LONG), syncd_tests::Exit::Code(0));
    drop(receiver);
    fs::write(scene.sandbox.src().join("meanwhile"), "written").expect("write");
    scene.receiver = Some(scene.receiver_builder.start());
    scene.finish();
}

/// Changes go on while the agent starts: in a directory that is compared before it is watched they would be missed.
#[test]
fn changes_while_the_agent_starts_are_not_missed() {
    let sandbox = Sandbox::new();
    let dirs = scaled(1_500, 20_000);
    many_small(&sandbox.src(), dirs, 1, 20).expect("files");
    let mut scene = Scene::new(sandbox);
    scene.settle();
    let mut rng = Rng::new(7);
    for round in 0..scaled(4, 20) {
        drop(scene.agent.take());
        std::thread::scope(|scope| {
            let (src, rng) = (scene.sandbox.src(), &mut rng);
            scope.spawn(move || {
                for _ in 0..scaled(4_000, 20_000) {
                    let path = src.join(format!("d{:05}/f00000", rng.below(dirs as u64)));
                    fs::write(path, format!("{round} {}", rng.next())).expect("write");
                }
            });
            scene.agent = Some(scene.agent_builder.start());
        });
        scene.settle();
    }
    scene.finish();
}

/// What the receiver had is found there, and not sent again.
#[test]
fn an_agent_killed_in_its_first_sync_sends_little_twice() {
    let sandbox = Sandbox::new();
    let (dirs, files, size) = (scaled(40, 500), 20, 15_000);
    many_small(&sandbox.src(), dirs, files, size).expect("files");
    let whole = (dirs * files * size) as u64;
    let mut scene = Scene::new(sandbox);
    let sent = |scene: &Scene| {
        let target = target_of(scene.agent.as_ref().expect("an agent"));
        target["bytes_sent"].as_u64().expect("a number")
    };
    let mut before = 0;
    for part in 1..=3 {
        scene.wait_sent(whole / 5);
        // What is on its way arrives before the connection ends, or does not.
        before += sent(&scene);
        scene.kill(Victim::Agent);
        assert!(before < whole * 3 / 2, "{before} of {whole} in part {part}");
    }
    scene.settle();
    let all = before + sent(&scene);
    assert!(all < whole * 3 / 2, "{all} bytes for {whole}");
    scene.finish();
}

/// SIGTERM to either while everything changes: an end with 0, and nothing is lost.
#[test]
fn an_orderly_end_in_the_middle_of_things() {
    for (index, of_agent) in [true, false, true, false].into_iter().enumerate() {
        let sandbox = Sandbox::new();
        let mut scene = Scene::new(sandbox);
        let src = scene.sandbox.src();
        for round in 0..3 {
            let dir = src.join(format!("part-{round}"));
            many_small(&dir, scaled(10, 200), 20, 4_000).expect("files");
            fs::write(src.join("large"), noise(5 << 20, round)).expect("write");
            scene.wait_sent(1 + index as u64 * 400_000);
            if of_agent {
                let agent = scene.agent.take().expect("an agent");
                assert_eq!(agent.terminate(LONG), syncd_tests::Exit::Code(0));
                scene.agent = Some(scene.agent_builder.start());
            } else {
                let receiver = scene.receiver.take().expect("a receiver");
                assert_eq!(receiver.terminate(LONG), syncd_tests::Exit::Code(0));
                drop(receiver);
                scene.receiver = Some(scene.receiver_builder.start());
            }
        }
        scene.finish();
    }
}
