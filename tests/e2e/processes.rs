//! No thread can be started: a program that cannot even begin ends and says so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use syncd_tests::require::Need;
use syncd_tests::{Binaries, Exit, Sandbox, require};

use crate::common::{LONG, run, tool};

/// Users that nobody else is, so that only what is started here counts.
const USERS: [u32; 2] = [1_954_322, 1_954_323];

fn may_limit() -> bool {
    require(&[Need::Root, Need::Tool("setpriv"), Need::Tool("prlimit")])
}

/// A script that becomes `program` as this user, who may have one process with one thread.
#[track_caller]
fn as_user(sandbox: &Sandbox, user: u32, program: &Path) -> PathBuf {
    let script = sandbox.path().join(format!("as-{user}"));
    let program = program.display();
    let text = format!(
        "#!/bin/sh\nexec prlimit --nproc=1 setpriv --reuid {user} --regid {user} --clear-groups {program} \"$@\"\n"
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
    let [user, other] = USERS;
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let both = Binaries::locate();
    let no_agent = as_user(&sandbox, user, &both.agent);
    let no_receiver = as_user(&sandbox, other, &both.receiver);
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

/// It ended with an error of the system, in words that say what is missing.
#[track_caller]
fn expect_told(exit: Exit, text: &str) {
    assert!(matches!(exit, Exit::Code(70 | 71 | 3)), "{exit:?}: {text}");
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
}
