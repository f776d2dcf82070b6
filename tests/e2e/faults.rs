//! System calls that fail: each kind at several places, in the receiver and in the agent.
//!
//! strace lets the n-th call of a kind fail in every thread. What was refused is told and tried again; what is said
//! to be done is done.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use syncd_tests::binaries::Binaries;
use syncd_tests::programs::AgentBuilder;
use syncd_tests::require::Need;
use syncd_tests::{Process, Receiver, ReservedPort, Sandbox, require, wait_until};

use crate::common::{LONG, Mirror, code, noise, once, patient, scaled, wait_staging_empty};

/// What fails in the process that touches the module, and how.
const RECEIVER: [(&str, &str); 14] = [
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("openat", "EMFILE"),
    ("openat", "EIO"),
    ("renameat", "EIO"),
    ("renameat", "ENOSPC"),
    ("utimensat", "EIO"),
    ("mkdirat", "EDQUOT"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("syncfs", "EIO"),
    ("unlinkat", "EIO"),
    ("openat2", "EMFILE"),
    ("getdents64", "EIO"),
];

/// And in the agent.
const AGENT: [(&str, &str); 7] = [
    ("pread64", "EIO"),
    ("openat2", "EMFILE"),
    ("statx", "EIO"),
    ("getdents64", "EIO"),
    ("openat2", "ENOMEM"),
    ("flistxattr", "EIO"),
    ("readlinkat", "EIO"),
];

/// A script that runs `program` with the n-th call of a kind failing in each of its threads.
pub(crate) fn failing(dir: &Path, program: &Path, inject: &str) -> PathBuf {
    let calls = inject.split(':').next().expect("a call");
    let script = dir.join("failing.sh");
    let text = format!(
        "#!/bin/sh\nexec strace -D -f -qqq -o /dev/null -e trace={calls} -e inject={inject} {} \"$@\"\n",
        program.display()
    );
    fs::write(&script, text).expect("write");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("chmod");
    script
}

/// Small and large files, links, directories; things to replace, to remove and to rename for the second time.
fn fill(root: &Path, version: u64) {
    for dir in ["a", "b/c", "gone"] {
        fs::create_dir_all(root.join(dir)).expect("mkdir");
    }
    for number in 0..12 {
        let name = format!("{}/f{number}", ["a", "b/c", "b"][number % 3]);
        fs::write(root.join(name), noise(2_000, version * 100 + number as u64)).expect("write");
    }
    for number in 0..2 {
        let content = noise(200_000, version * 7 + number);
        fs::write(root.join(format!("large{number}")), content).expect("write");
    }
    if version == 0 {
        std::os::unix::fs::symlink("a", root.join("link")).expect("symlink");
        fs::write(root.join("gone/x"), "x").expect("write");
        fs::hard_link(root.join("a/f0"), root.join("hard")).expect("ln");
    } else {
        fs::remove_dir_all(root.join("gone")).expect("rm -r");
        fs::create_dir(root.join("new")).expect("mkdir");
        fs::rename(root.join("b/c/f1"), root.join("new/f1")).expect("mv");
    }
}

/// One run with a failure that may refuse something, and one without that has to mend everything.
#[track_caller]
fn through_a_failure(inject: &str, of_receiver: bool) {
    // Shown if the test fails.
    eprintln!("{inject}");
    let sandbox = Sandbox::new();
    let binaries = Binaries::locate();
    let port = ReservedPort::take();
    fill(&sandbox.src(), 0);
    let receiver = sandbox.receiver().port(port.number());
    let started = receiver.start();
    let agent = patient(sandbox.agent(&started));
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    fill(&sandbox.src(), 1);
    let failing = if of_receiver {
        drop(started);
        let program = failing(sandbox.path(), &binaries.receiver, inject);
        let process = receiver.clone().program(program).spawn();
        wait_until(LONG, "it listens, or says why it cannot", || {
            process.exit().is_some() || process.log().contains("listening on")
        });
        Failing::Receiver(process, agent.clone())
    } else {
        let program = failing(sandbox.path(), &binaries.agent, inject);
        Failing::Agent {
            _running: started,
            agent: agent.clone().program(program),
        }
    };
    if let Failing::Agent { agent, .. } = &failing {
        // They differ, and whatever cannot be read makes that no better.
        let verified = once(&sandbox, agent, "verify").exit;
        assert_ne!(verified, code::DONE, "verified what is not the same");
    }
    failing.sync(&sandbox);
    drop(failing);
    let _receiver = receiver.start();
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    sandbox.assert_equal();
    wait_staging_empty(&sandbox);
}

/// Which of the two fails; both are up, unless the receiver could not begin.
enum Failing {
    Receiver(Process, AgentBuilder),
    Agent {
        _running: Receiver,
        agent: AgentBuilder,
    },
}

impl Failing {
    /// Synchronises as far as that is possible: what is said to be done is done.
    #[track_caller]
    fn sync(&self, sandbox: &Sandbox) {
        let agent = match self {
            Self::Receiver(process, _) if process.exit().is_some() => return,
            Self::Receiver(_, agent) | Self::Agent { agent, .. } => agent,
        };
        let log = sandbox.path().join("failing.log");
        let process = Process::spawn("sync", &mut agent.once_command("sync"), &log);
        let process = process.expect("start");
        // What keeps failing is tried for ever; a word about it is enough.
        wait_until(LONG, "it ends, or says what fails", || {
            let log = process.log();
            process.exit().is_some() || log.contains("WARN") || log.contains("ERROR")
        });
        if process.exit() == Some(code::DONE) {
            sandbox.assert_equal();
        }
    }
}

fn places() -> &'static [u32] {
    match scaled(0, 1) {
        0 => &[1, 4],
        _ => &[1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30],
    }
}

#[test]
fn calls_of_the_receiver_fail() {
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    for (call, error) in RECEIVER {
        for place in places() {
            through_a_failure(&format!("{call}:error={error}:when={place}"), true);
        }
    }
}

#[test]
fn calls_of_the_agent_fail() {
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    for (call, error) in AGENT {
        for place in places() {
            through_a_failure(&format!("{call}:error={error}:when={place}"), false);
        }
    }
}

/// The process that touches the module dies at the n-th call of a kind, and so does each one that comes after it.
#[test]
fn the_worker_dies_at_a_call() {
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    for call in [
        "renameat",
        "fsync",
        "syncfs",
        "utimensat",
        "unlinkat",
        "mkdirat",
    ] {
        for place in places() {
            through_a_failure(&format!("{call}:signal=KILL:when={place}"), true);
        }
    }
}

#[test]
fn a_source_that_cannot_be_read_is_not_identical_and_not_empty() {
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    // Its own directory, and those below it.
    for place in ["1+", "2+"] {
        let sandbox = Sandbox::new();
        fill(&sandbox.src(), 0);
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver));
        once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
        fs::remove_dir_all(sandbox.src().join("gone")).expect("rm -r");
        fs::write(sandbox.dst().join("b/extra"), "not here").expect("write");
        let inject = format!("getdents64:error=EIO:when={place}");
        let program = failing(sandbox.path(), &Binaries::locate().agent, &inject);
        let blind = agent.clone().program(program);
        once(&sandbox, &blind, "sync").expect(code::DEGRADED, &["cannot be read", "not mirrored"]);
        once(&sandbox, &blind, "verify").expect(code::FAILED, &["cannot be read"]);
        assert!(sandbox.dst().join("b/extra").exists());
        once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
        sandbox.assert_equal();
    }
}

#[test]
fn a_disk_that_takes_its_time_delays_and_changes_nothing() {
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    let sandbox = Sandbox::new();
    let slow = "fsync,fdatasync,syncfs:delay_enter=300000";
    let program = failing(sandbox.path(), &Binaries::locate().receiver, slow);
    let receiver = sandbox.receiver().program(program).start();
    let agent = patient(sandbox.agent(&receiver)).start();
    agent.wait_synced(LONG);
    let mirror = Mirror {
        agent,
        receiver,
        sandbox,
    };
    for number in 0..300 {
        fs::write(mirror.src(format!("f{number}")), noise(500, number)).expect("write");
    }
    mirror.settle();
    fs::rename(mirror.src("f0"), mirror.src("g0")).expect("mv");
    fs::write(mirror.src("large"), noise(900_000, 5)).expect("write");
    mirror.settle();
}
