//! Connections that break: at every record of a session, while everything changes, and without a word.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;
use syncd_tests::proxy::{Fate, Proxy, Way};
use syncd_tests::workload::{Rng, Workload};
use syncd_tests::{Sandbox, wait_until};

use crate::common::{
    LONG, Mirror, code, noise, once, patient, scaled, target_of, wait_content, wait_staging_empty,
};

/// Small files of the tree that is sent through broken connections.
const SMALL: [&str; 8] = ["a", "b", "d/a", "d/b", "d/e/a", "d/e/b", "f/a", "f/b"];

/// A file that travels by itself.
const LARGE: &str = "f/large";

/// What a file is in this version of the tree; every version is told by its first bytes.
fn content(name: &str, version: u64) -> Vec<u8> {
    let mut bytes = format!("{version:06} {name}\n").into_bytes();
    let size = if name == LARGE { 300_000 } else { 3_000 };
    bytes.extend(noise(size, version * 31 + name.len() as u64));
    bytes
}

fn write_version(root: &Path, version: u64) {
    for name in SMALL.into_iter().chain([LARGE]) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, content(name, version)).expect("write");
    }
    // A name that is another one in each version, and one that is a directory in every second.
    let _ = fs::remove_file(root.join(format!("only-{}", version.wrapping_sub(1))));
    fs::write(root.join(format!("only-{version}")), "x").expect("write");
    let turns = root.join("turns");
    if version.is_multiple_of(2) {
        let _ = fs::remove_file(&turns);
        fs::create_dir_all(turns.join("below")).expect("mkdir");
    } else {
        let _ = fs::remove_dir_all(&turns);
        fs::write(&turns, "file").expect("write");
    }
}

/// What is wrong with a file that is there: it is not whole, or of no version that there was.
fn wrong(root: &Path, name: &str, newest: u64) -> Option<String> {
    let found = fs::read(root.join(name)).ok()?;
    let version = found.get(..6).and_then(|bytes| {
        let text = std::str::from_utf8(bytes).ok()?;
        text.parse::<u64>().ok()
    });
    match version {
        None => Some(format!("{name}: {} bytes, and no version", found.len())),
        Some(version) if version > newest || found != content(name, version) => {
            Some(format!("{name} is not the whole version {version}"))
        }
        Some(_) => None,
    }
}

/// Reads the mirror again and again; every file must be there from the first version on, and whole.
struct Reader {
    newest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<String>>,
}

impl Reader {
    fn of(root: PathBuf) -> Self {
        let newest = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (newest, stop) = (Arc::clone(&newest), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for name in SMALL.into_iter().chain([LARGE]) {
                        if !root.join(name).exists() {
                            return Some(format!("{name} is gone"));
                        }
                        // The version may have been written while the file was read.
                        let found = wrong(&root, name, u64::MAX);
                        if found.is_some() {
                            return found;
                        }
                    }
                }
                let newest = newest.load(Ordering::Relaxed);
                SMALL
                    .into_iter()
                    .find_map(|name| wrong(&root, name, newest))
            }
        });
        Self {
            newest,
            stop,
            thread,
        }
    }

    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().expect("the reader"), None);
    }
}

#[test]
fn cut_after_every_record_and_inside_it() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let proxy = Proxy::to(receiver.address());
    let agent = patient(sandbox.agent(&receiver)).port(proxy.port());
    write_version(&sandbox.src(), 0);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    sandbox.assert_equal();
    // How many records a version takes, whole.
    let before = [Way::Out, Way::Back].map(|way| proxy.records(way));
    write_version(&sandbox.src(), 1);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    let totals = [Way::Out, Way::Back].map(|way| proxy.records(way) - before[way as usize]);
    let mut version = 1;
    let reader = Reader::of(sandbox.dst());
    for (way, total) in [Way::Out, Way::Back].into_iter().zip(totals) {
        assert!(total > 8, "only {total} records: nothing was measured");
        let step = scaled(usize::try_from(total / 6).expect("few").max(1), 1);
        for records in (0..total).step_by(step) {
            for inside in [false, true] {
                version += 1;
                reader.newest.store(version, Ordering::Relaxed);
                write_version(&sandbox.src(), version);
                let first = proxy.connections();
                proxy.decide(move |number| match number == first {
                    true => Fate::Cut {
                        way,
                        records,
                        inside,
                    },
                    false => Fate::Whole,
                });
                let said = once(&sandbox, &agent, "sync");
                // A first connection that does not come about is told; a later one is made anew.
                if said.exit == code::FAILED {
                    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
                } else {
                    said.expect(code::DONE, &[]);
                }
                sandbox.assert_equal();
            }
        }
    }
    reader.end();
    wait_staging_empty(&sandbox);
}

#[test]
fn cut_again_and_again_while_everything_changes() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let proxy = Proxy::to(receiver.address());
    let mut rng = Rng::new(77);
    proxy.decide(move |_| Fate::Cut {
        way: if rng.below(2) == 0 {
            Way::Out
        } else {
            Way::Back
        },
        // Never too few to get past the handshake now and then.
        records: 4 + rng.below(60),
        inside: rng.below(2) == 0,
    });
    let agent = patient(sandbox.agent(&receiver)).port(proxy.port()).start();
    let mut workload = Workload::new(sandbox.src(), 78).expect("workload");
    for round in 1..=scaled(6, 60) as u64 {
        fs::write(sandbox.src().join("large"), noise(600_000, round)).expect("write");
        wait_until(LONG, "two more connections are cut", || {
            workload.run(8).expect("changes");
            proxy.connections() > 2 * round
        });
    }
    proxy.decide(|_| Fate::Whole);
    proxy.cut();
    agent.wait_synced(LONG);
    sandbox.assert_equal();
    wait_staging_empty(&sandbox);
}

#[test]
fn a_receiver_that_stands_still_is_waited_for() {
    let mirror = Mirror::start();
    fs::write(mirror.src("a"), "one").expect("write");
    mirror.settle();
    let workers = mirror.receiver.workers();
    let signal = |signal| {
        for pid in &workers {
            let pid = i32::try_from(*pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            rustix::process::kill_process(pid.expect("a process id"), signal).expect("kill");
        }
        mirror.receiver.signal(signal);
    };
    signal(Signal::STOP);
    for number in 0..200 {
        fs::write(mirror.src(format!("f{number}")), "x").expect("write");
    }
    wait_until(LONG, "the agent says that it is behind", || {
        mirror.target()["state"] != "in sync" && !mirror.dst("f0").exists()
    });
    signal(Signal::CONT);
    mirror.settle();
}

#[test]
fn both_sides_sleep_and_the_line_is_gone_when_they_wake() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let proxy = Proxy::to(receiver.address());
    let agent = patient(sandbox.agent(&receiver)).port(proxy.port()).start();
    fs::write(sandbox.src().join("before"), "x").expect("write");
    agent.wait_synced(LONG);
    let workers = receiver.workers();
    let everybody = |signal| {
        for pid in workers.iter().copied().chain([receiver.pid(), agent.pid()]) {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            rustix::process::kill_process(pid.expect("a process id"), signal).expect("kill");
        }
    };
    everybody(Signal::STOP);
    fs::remove_file(sandbox.src().join("before")).expect("remove");
    for number in 0..100 {
        fs::write(
            sandbox.src().join(format!("f{number}")),
            noise(5_000, number),
        )
        .expect("write");
    }
    proxy.cut();
    everybody(Signal::CONT);
    wait_until(LONG, "the agent calls again", || proxy.connections() > 1);
    agent.wait_synced(LONG);
    sandbox.assert_equal();
    wait_staging_empty(&sandbox);
}

/// Each record takes 15 ms either way: at most about a megabyte in a second.
#[test]
fn a_slow_line_takes_longer_and_nothing_is_begun_anew() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let proxy = Proxy::to(receiver.address());
    proxy.decide(|_| Fate::Slow { record_ms: 15 });
    let agent = patient(sandbox.agent(&receiver)).port(proxy.port()).start();
    agent.wait_synced(LONG);
    let large = noise(4 << 20, 1);
    fs::write(sandbox.src().join("large"), &large).expect("write");
    let begun = proxy.records(Way::Out);
    wait_until(LONG, "the large file is on its way", || {
        proxy.records(Way::Out) > begun + 20
    });
    for name in SMALL {
        let path = sandbox.src().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, content(name, 1)).expect("write");
    }
    agent.wait_synced(LONG);
    sandbox.assert_equal();
    assert_eq!(proxy.connections(), 1);
    let sent = target_of(&agent)["bytes_sent"].as_u64().expect("a number");
    assert!(sent < (5 << 20), "{sent} bytes for {}", large.len());
}

#[test]
fn a_connection_that_says_nothing_any_more_is_given_up() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let proxy = Proxy::to(receiver.address());
    let agent = patient(sandbox.agent(&receiver)).port(proxy.port()).start();
    agent.wait_synced(LONG);
    sandbox.assert_equal();
    // The next connection swallows everything after its handshake; the one after that is whole again.
    proxy.decide(|number| match number {
        1 => Fate::Silence { records: 12 },
        _ => Fate::Whole,
    });
    proxy.cut();
    wait_until(LONG, "it is back", || proxy.connections() == 2);
    for number in 0..100 {
        fs::write(
            sandbox.src().join(format!("f{number}")),
            noise(9_000, number),
        )
        .expect("write");
    }
    wait_until(
        Duration::from_secs(180),
        "it gives up and begins anew",
        || proxy.connections() > 2,
    );
    // The receiver takes the silent one for the writer until somebody else wants to write.
    agent.wait_synced(LONG);
    sandbox.assert_equal();
    wait_content(&sandbox.dst().join("f99"), &noise(9_000, 99));
    assert_eq!(
        target_of(&agent)["failed"].as_array().map(Vec::len),
        Some(0)
    );
}
