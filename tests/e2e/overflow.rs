//! Agents whose queue of events is far too short for what happens, as operators meet it on busy machines: everything
//! is compared again, nothing is sent again, nobody is restarted, and the status says how often it happened.

use std::fs::{self, FileTimes};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::RenameFlags;
use rustix::process::Signal;
use serde_json::Value;
use syncd_tests::queue;
use syncd_tests::require::Need;
use syncd_tests::workload::{Workload, many_small};
use syncd_tests::{Binaries, Sandbox, require, wait_until};

use crate::common::{LONG, Mirror, code, noise, run, scaled};

/// A batch of changes soon has more events than that.
const QUEUE: u32 = 16;
/// How often it can overflow: notify's is made anew after the first time, which may be at the start, and then it is as
/// long as usual.
const BACKENDS: [(&str, usize); 2] = [("inotify", 4), ("notify", 1)];

fn may_be_short() -> bool {
    let may = Need::Other("a queue of events that can be short", queue::may_change());
    require(&[Need::Root, may])
}

fn with_short_queue(sandbox: Sandbox, backend: &str) -> Mirror {
    Mirror::with(sandbox, |agent| {
        agent.arg("--backend").arg(backend).short_queue(QUEUE)
    })
}

/// What `status --json` says of the one source.
#[track_caller]
fn source(mirror: &Mirror) -> Value {
    let mut command = Command::new(&Binaries::locate().agent);
    command
        .args(["status", "--json", "--control"])
        .arg(mirror.agent.control().path());
    let output = command.output().expect("status");
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let status = &status["status"];
    assert_eq!(status["pid"], mirror.agent.pid(), "{status}");
    status["sources"][0].clone()
}

#[track_caller]
fn overflows(mirror: &Mirror) -> u64 {
    source(mirror)["overflows"].as_u64().expect("a number")
}

/// How many directories there are, `at` itself among them.
fn dirs(at: &Path) -> u64 {
    let entries = fs::read_dir(at).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    1 + paths
        .filter(|path| path.is_dir())
        .map(|path| dirs(&path))
        .sum::<u64>()
}

/// One of many rounds of changes of every kind, in a place of its own, and to what they share.
fn change(src: &Path, round: usize) {
    let at = |name: &str| src.join(format!("{name}-{round}"));
    many_small(&at("new"), 5, 8, 40).expect("files");
    fs::rename(at("new").join("d00000"), at("new").join("moved")).expect("mv");
    fs::rename(at("new"), at("renamed")).expect("mv");
    fs::write(at("renamed").join("moved/f00001"), format!("in {round}")).expect("write");
    fs::remove_dir_all(at("renamed").join("d00002")).expect("rm");
    fs::remove_file(at("renamed").join("d00003/f00003")).expect("rm");
    if let Some(before) = round.checked_sub(2) {
        fs::remove_dir_all(src.join(format!("renamed-{before}"))).expect("rm");
    }
    let (one, other) = (src.join("kept/d00000"), src.join("kept/d00001"));
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, &one, cwd, &other, RenameFlags::EXCHANGE).expect("swap");
    let mode = 0o600 | (u32::try_from(round).expect("few") & 0o77);
    let file = src.join("kept/d00002/f00000");
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
    fs::write(src.join("kept/d00003/f00000"), format!("round {round}")).expect("write");
}

#[test]
fn a_queue_that_is_too_short_is_told_and_costs_a_comparison() {
    if !may_be_short() {
        return;
    }
    for (backend, times) in BACKENDS {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src().join("kept"), 5, 8, 40).expect("files");
        for number in 0..8 {
            // It is swapped with another directory below: where nobody tells, what looks alike passes for the same.
            let path = sandbox.src().join(format!("kept/d00000/f{number:05}"));
            fs::write(path, noise(50, number)).expect("write");
        }
        for number in 0..8 {
            let path = sandbox.src().join(format!("large-{number}"));
            fs::write(path, noise(1 << 20, number)).expect("write");
        }
        let mirror = with_short_queue(sandbox, backend);
        let sent = mirror.bytes_sent();
        let mut rounds = 0;
        let mut shown = 0;
        for _ in 0..times {
            let count = if times > 1 { overflows(&mirror) } else { 0 };
            mirror.agent.signal(Signal::STOP);
            change(&mirror.src(""), rounds);
            change(&mirror.src(""), rounds + 1);
            mirror.agent.signal(Signal::CONT);
            rounds += 2;
            wait_until(LONG, "events were dropped", || {
                let source = source(&mirror);
                let problems = source["problems"].to_string();
                shown += usize::from(problems.contains("fs.inotify.max_queued_events"));
                source["overflows"].as_u64() > Some(count)
            });
        }
        // Only while it is being mended: one look may come too late, not all of them.
        assert!(shown > 0 || times == 1, "it was never shown as a problem");
        for _ in 0..scaled(30, 600) {
            change(&mirror.src(""), rounds);
            rounds += 1;
        }
        mirror.settle();
        wait_until(LONG, "nothing is wrong any more", || {
            source(&mirror)["problems"] == Value::Array(Vec::new())
        });
        // Nothing that was there already went again, and the log is not flooded.
        let new = rounds as u64 * 30 * 1_000;
        let sent = mirror.bytes_sent() - sent;
        assert!(sent < new.max(4 << 20), "{sent} bytes in {rounds} rounds");
        let log = mirror.agent.log();
        let told = log.matches("the kernel dropped events").count() as u64;
        let count = overflows(&mirror);
        assert!(
            (1..=count).contains(&told),
            "{count} overflows, told {told} times"
        );
        // What went unheard is not counted any more.
        let count = dirs(&mirror.src(""));
        wait_until(LONG, "what is watched is what is there", || {
            source(&mirror)["watched_dirs"].as_u64() == Some(count)
        });
        // And what comes one by one is heard.
        fs::write(mirror.src("kept/d00004/f00000"), "heard").expect("write");
        fs::rename(mirror.src("large-0"), mirror.src("large")).expect("mv");
        mirror.settle();
        let mut command = Command::new(&Binaries::locate().agent);
        command
            .args(["status", "--control"])
            .arg(mirror.agent.control().path());
        let words = ["in sync", "the kernel dropped events", "max_queued_events"];
        run(&mirror.sandbox, &mut command).expect(code::DONE, &words);
        assert_eq!(mirror.agent.exit(), None);
    }
}

#[test]
fn what_came_to_a_name_unheard_and_looks_alike_is_compared_by_content() {
    if !may_be_short() {
        return;
    }
    for (backend, _) in BACKENDS {
        let sandbox = Sandbox::new();
        let time = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        let src = sandbox.src();
        let dirs = [
            ("src/one", "1"),
            ("src/two", "2"),
            ("src/old", "3"),
            ("old", "4"),
        ];
        for (name, content) in dirs {
            let dir = sandbox.path().join(name).join("in/deep");
            fs::create_dir_all(&dir).expect("mkdir");
            let mut file = fs::File::create(dir.join("file")).expect("create");
            file.write_all(content.as_bytes()).expect("write");
            file.set_times(time).expect("times");
        }
        let mirror = with_short_queue(sandbox, backend);
        mirror.settle();
        let before = overflows(&mirror);
        mirror.agent.signal(Signal::STOP);
        // From here on nothing is told.
        for number in 0..2 * QUEUE {
            fs::write(src.join(format!("noise-{number}")), "noise").expect("write");
        }
        let cwd = rustix::fs::CWD;
        let (one, two) = (src.join("one"), src.join("two"));
        rustix::fs::renameat_with(cwd, one, cwd, two, RenameFlags::EXCHANGE).expect("swap");
        fs::remove_dir_all(src.join("old")).expect("rm");
        fs::rename(mirror.sandbox.path().join("old"), src.join("old")).expect("mv");
        mirror.agent.signal(Signal::CONT);
        wait_until(LONG, "events were dropped", || overflows(&mirror) > before);
        mirror.settle();
    }
}

#[test]
fn random_changes_under_a_queue_that_is_too_short() {
    if !may_be_short() {
        return;
    }
    let seeds = 3_001..3_001 + scaled(2, 50) as u64;
    for (seed, (backend, times)) in seeds.flat_map(|seed| BACKENDS.map(|it| (seed, it))) {
        let mirror = with_short_queue(Sandbox::new(), backend);
        let work = Workload::new(mirror.sandbox.src(), seed).expect("workload");
        let mut work = work.without_hard_links();
        for _ in 0..times {
            // Changes go on before anybody listens, while it is noticed that events were dropped, and while everything
            // is watched and compared again.
            let before = if times > 1 { overflows(&mirror) } else { 0 };
            mirror.agent.signal(Signal::STOP);
            work.run(50).expect("work");
            mirror.agent.signal(Signal::CONT);
            wait_until(LONG, "events were dropped", || {
                work.run(5).expect("work");
                overflows(&mirror) > before
            });
            work.run(150).expect("work");
            mirror.agent.wait_synced(LONG);
            let equal = std::panic::AssertUnwindSafe(|| mirror.sandbox.assert_equal());
            if let Err(reason) = std::panic::catch_unwind(equal) {
                eprintln!("{backend}: {}", work.story());
                std::panic::resume_unwind(reason);
            }
        }
        mirror.wait_staging_empty();
    }
}
