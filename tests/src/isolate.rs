//! Tests that mount things: they run once more, alone, in namespaces of their own for mounts and processes.
//!
//! Whatever such a test mounts or starts is gone when it ends, however it ends; loop devices that `mount` made go with
//! their mounts. Nothing outside ever sees any of it.

use std::env;
use std::fs::OpenOptions;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::binaries::Binaries;
use crate::require::{Need, require};

/// Set within: the test that runs there.
const INSIDE: &str = "SYNCD_TESTS_INSIDE";

/// Runs `body` within. `name` is the whole name of the test that calls this, `needs` what it needs beside root and
/// the right to mount; where something is missing it is skipped as [`require`] says.
///
/// # Panics
/// If the test fails within.
#[track_caller]
pub fn isolated(name: &str, needs: &[Need], body: impl FnOnce()) {
    if env::var(INSIDE).is_ok_and(|inside| inside == name) {
        end_with_parent();
        return body();
    }
    let may = may_isolate();
    let there = [Need::Other("namespaces and mounts of one's own", may)];
    if !require(&[Need::Root, Need::Tool("unshare"), Need::Tool("mount")])
        || !require(&there)
        || !require(needs)
    {
        return;
    }
    let binaries = Binaries::locate().receiver.parent().expect("a directory");
    let own = env::current_exe().expect("own path");
    // The input ends when this process does, and so does what runs within.
    let mut child = unshare()
        .arg(own)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env("SYNCD_BIN_DIR", binaries)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare");
    let input = child.stdin.take();
    let output = child.wait_with_output().expect("the test within");
    drop(input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // As of any test it is shown if it fails, or if one asks for it.
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{name} failed within: {}",
        output.status
    );
}

/// Whether loop devices can be used here.
#[must_use]
pub fn loop_devices() -> Need {
    let there = can_open("/dev/loop-control");
    Need::Other("loop devices", there)
}

/// Whether a file system can be served from here.
#[must_use]
pub fn fuse() -> Need {
    Need::Other("/dev/fuse", can_open("/dev/fuse"))
}

fn can_open(path: &str) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(Path::new(path)).is_ok()
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid"]);
    command.args(["--mount-proc", "--fork", "--kill-child"]);
    command
}

fn may_isolate() -> bool {
    let mut command = unshare();
    command.args(["mount", "-t", "tmpfs", "-o", "size=64k", "syncd-tests"]);
    let output = command.arg(env::temp_dir()).output();
    output.is_ok_and(|output| output.status.success())
}

/// This is the first process of its namespace: when it ends, all others do.
fn end_with_parent() {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
}
