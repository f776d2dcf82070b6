//! No thread can be started: a program that cannot even begin ends and says so; one that runs says so, and goes on when
//! it can again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Signal, getrlimit};
use syncd_tests::require::Need;
use syncd_tests::sandbox::MODULE;
use syncd_tests::{Binaries, Exit, ReservedPort, Sandbox, require};

use crate::common::{LONG, patient, run, target_of, tool};

/// Users that nobody else is, so that only what is started here counts.
const USERS: [u32; 5] = [1_954_322, 1_954_323, 1_954_324, 1_954_325, 1_954_326];

/// One process with one thread.
const ALONE: &str = "prlimit --nproc=1";

fn may_limit() -> bool {
    require(&[Need::Root, Need::Tool("setpriv"), Need::Tool("prlimit")])
}

/// A script that becomes `program` as this user, with this before it.
#[track_caller]
fn as_user(sandbox: &Sandbox, user: u32, before: &str, program: &Path) -> PathBuf {
    let script = sandbox.path().join(format!("as-{user}"));
    let program = program.display();
    let text = format!(
        "#!/bin/sh\nexec {before} setpriv --reuid {user} --regid {user} --clear-groups {program} \"$@\"\n"
    );
    // Another process writes it: a descriptor that is open for writing could be inherited.
    let write = r#"printf %s "$1" > "$2" && chmod 755 "$2""#;
    let to = script.to_str().expect("text");
    tool("sh", &["-ec", write, "sh", &text, to], sandbox.path());
    script
}

/// Everything in a sandbox belongs to this user.
fn give(sandbox: &Sandbox, user: u32) {
    let mut left = vec![sandbox.path().to_owned()];
    while let Some(path) = left.pop() {
        chown(&path, Some(user), Some(user)).expect("chown");
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("entries");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(sandbox.path(), mode).expect("chmod");
}

#[test]
fn a_program_that_can_start_no_thread_ends_and_says_so() {
    if !may_limit() {
        return;
    }
    let [user, other, ..] = USERS;
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let both = Binaries::locate();
    let no_agent = as_user(&sandbox, user, ALONE, &both.agent);
    let no_receiver = as_user(&sandbox, other, ALONE, &both.receiver);
    let builder = sandbox.agent(&receiver).program(no_agent);
    give(&sandbox, user);
    for name in ["sync", "verify"] {
        let said = run(&sandbox, &mut builder.once_command(name));
        expect_told(said.exit, &said.text);
    }
    let agent = builder.spawn();
    expect_told(agent.wait_exit(LONG), &agent.log());
    give(&sandbox, other);
    let ended = sandbox.receiver().program(no_receiver).spawn();
    expect_told(ended.wait_exit(LONG), &ended.log());
    receiver.signal(Signal::TERM);
}

/// How many processes and threads this user may have as far as a running program of theirs is concerned; all that are
/// allowed if nothing is said.
#[track_caller]
fn limit(sandbox: &Sandbox, user: u32, pid: u32, most: Option<u64>) {
    let most = most.or(getrlimit(Resource::Nproc).maximum);
    let most = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    let (user, pid) = (user.to_string(), pid.to_string());
    let most = format!("--nproc={most}:");
    let command = [
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "prlimit",
        "--pid",
        &pid,
        &most,
    ];
    tool("setpriv", &command, sandbox.path());
}

#[test]
fn a_receiver_that_can_start_no_more_threads_refuses_and_says_so() {
    if !may_limit() {
        return;
    }
    let user = USERS[2];
    let mut sandbox = Sandbox::new();
    sandbox.conf().module(MODULE).unset("uid").unset("gid");
    let program = as_user(&sandbox, user, "", &Binaries::locate().receiver);
    let builder = sandbox.receiver().program(program);
    give(&sandbox, user);
    for name in [sandbox.password_file(), sandbox.certs().join("agent.key")] {
        chown(name, Some(0), Some(0)).expect("chown");
    }
    let receiver = builder.start();
    fs::write(sandbox.src().join("f"), "text").expect("write");
    limit(&sandbox, user, receiver.pid(), Some(1));
    let agent = patient(sandbox.agent(&receiver)).start();
    let told = "the system starts no more threads for it: Resource temporarily unavailable";
    receiver.wait_line(LONG, told);
    agent.wait_line(LONG, told);
    limit(&sandbox, user, receiver.pid(), None);
    agent.wait_synced(LONG);
    assert_eq!(fs::read(sandbox.dst().join("f")).expect("read"), b"text");
    assert!(!receiver.log().contains("panicked"), "{}", receiver.log());
}

#[test]
fn an_agent_that_can_start_no_more_threads_says_so_and_tries_again() {
    if !may_limit() {
        return;
    }
    let user = USERS[3];
    let sandbox = Sandbox::new();
    let port = ReservedPort::take();
    let receivers = sandbox.receiver().port(port.number());
    let receiver = receivers.start();
    let program = as_user(&sandbox, user, "", &Binaries::locate().agent);
    let builder = sandbox.agent(&receiver).program(program);
    give(&sandbox, user);
    for name in [sandbox.secrets_file(), sandbox.certs().join("server.key")] {
        chown(name, Some(0), Some(0)).expect("chown");
    }
    let agent = builder.start();
    agent.wait_synced(LONG);
    limit(&sandbox, user, agent.pid(), Some(1));
    receiver.terminate(LONG);
    drop(receiver);
    agent.wait_line(
        LONG,
        "cannot start a connection: Resource temporarily unavailable",
    );
    let _receiver = receivers.start();
    fs::write(sandbox.src().join("f"), "text").expect("write");
    limit(&sandbox, user, agent.pid(), None);
    agent.wait_synced(LONG);
    assert_eq!(fs::read(sandbox.dst().join("f")).expect("read"), b"text");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

#[test]
fn what_cannot_be_compressed_for_want_of_a_thread_goes_as_it_is() {
    if !may_limit() {
        return;
    }
    let user = USERS[4];
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let program = as_user(&sandbox, user, "", &Binaries::locate().agent);
    let builder = sandbox.agent(&receiver).program(program);
    let builder = builder.arg("--bwlimit").arg("1M");
    give(&sandbox, user);
    for name in [sandbox.secrets_file(), sandbox.certs().join("server.key")] {
        chown(name, Some(0), Some(0)).expect("chown");
    }
    let agent = builder.start();
    agent.wait_synced(LONG);
    limit(&sandbox, user, agent.pid(), Some(1));
    let text = "what is said again and again\n".repeat(100_000);
    fs::write(sandbox.src().join("f"), &text).expect("write");
    agent.wait_synced(LONG);
    let read = fs::read(sandbox.dst().join("f")).expect("read");
    assert!(read == text.as_bytes(), "{} bytes", read.len());
    let sent = target_of(&agent)["bytes_sent"].as_u64();
    assert!(sent > Some(text.len() as u64 * 9 / 10), "{sent:?} bytes");
    for words in ["panicked", "session ended"] {
        assert!(!agent.log().contains(words), "{}", agent.log());
    }
}

/// It ended with an error of the system, in words that say what is missing.
#[track_caller]
fn expect_told(exit: Exit, text: &str) {
    assert!(matches!(exit, Exit::Code(70 | 71 | 3)), "{exit:?}: {text}");
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
}
