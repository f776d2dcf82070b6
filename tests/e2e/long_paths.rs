//! Paths that are too long to be told: what can be mirrored is, and what cannot is a failure with its reason until it
//! is gone.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::Value;
use syncd_tests::sandbox::wait_equal;
use syncd_tests::{Agent, Binaries, Options, Sandbox, wait_until};

use crate::common::{LONG, Mirror, code, once, patient, run, target_of, wait_content};

/// 256 of them, with what is between them, are as long as a path may be.
const NAME: [u8; 255] = [b'n'; 255];
const LEVELS: usize = 256;

fn open(dir: impl std::os::fd::AsFd, name: &[u8]) -> OwnedFd {
    rustix::fs::openat(dir, name, OFlags::DIRECTORY, Mode::empty()).expect("open a directory")
}

fn write(dir: &OwnedFd, name: &str, content: &str) {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).expect("create");
    File::from(file)
        .write_all(content.as_bytes())
        .expect("write");
}

/// A chain of directories, some with a file, but not the last; that one.
fn chain(root: &Path, name: &[u8], levels: usize) -> OwnedFd {
    let mut dir = File::open(root).expect("open").into();
    for level in 0..levels {
        rustix::fs::mkdirat(&dir, name, Mode::RWXU).expect("mkdir");
        dir = open(&dir, name);
        if level + 1 < levels && level.is_multiple_of(32) {
            write(&dir, "f", "within the limits");
        }
    }
    dir
}

/// What failed for the reason that is tested here.
fn failed(agent: &Agent) -> Vec<Value> {
    let target = target_of(agent);
    let failed = target["failed"].as_array().expect("failed").iter();
    let failed = failed.filter(|failed| failed["code"] == "path too long");
    failed.cloned().collect()
}

#[track_caller]
fn wait_failed(agent: &Agent, text: &str) {
    wait_until(LONG, text, || {
        let failed = failed(agent);
        failed.len() == 1
            && failed[0]["text"]
                .as_str()
                .is_some_and(|found| found.contains(text))
    });
}

fn command(agent: &Agent, args: &[&str]) -> Command {
    let mut command = Command::new(&Binaries::locate().agent);
    command
        .args(args)
        .arg("--control")
        .arg(agent.control().path());
    command
}

/// Everything but the file in the last directory of a chain.
fn without_the_last() -> Options {
    let mut names = vec![&NAME[..]; LEVELS];
    names.push(b"f");
    let mut options = Options::default();
    options.ignore.push(names.join(&b'/'));
    options
}

#[test]
fn what_no_message_can_name_is_a_failure_until_it_is_gone() {
    let sandbox = Sandbox::new();
    let last = chain(&sandbox.src(), &NAME, LEVELS);
    write(&last, "f", "beyond them");
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    wait_failed(&agent, "1 of its entries cannot be mirrored, such as f: ");
    let path = failed(&agent)[0]["path"].as_str().map(str::len);
    assert_eq!(path, Some(LEVELS * 256 - 1));
    // All else is there.
    let options = without_the_last();
    wait_equal(&sandbox.src(), &sandbox.dst(), &options, LONG);
    run(&sandbox, &mut command(&agent, &["wait", "--timeout", "1"])).expect(code::DEGRADED, &[]);
    let words = ["degraded", "cannot be mirrored"];
    run(&sandbox, &mut command(&agent, &["status"])).expect(code::DEGRADED, &words);
    // However many they are, they are one failure; and all else goes on.
    for number in 0..1_000 {
        write(&last, &format!("f-{number}"), "beyond them");
    }
    rustix::fs::mkdirat(&last, "d", Mode::RWXU).expect("mkdir");
    wait_failed(&agent, "1002 of its entries cannot be mirrored");
    fs::write(sandbox.src().join("new"), "all else flows").expect("write");
    wait_content(&sandbox.dst().join("new"), b"all else flows");
    let told = agent.log().matches("WARN").count();
    assert!(told < 20, "{told} warnings");
    // Gone: nothing has failed.
    for number in 0..1_000 {
        rustix::fs::unlinkat(&last, format!("f-{number}"), AtFlags::empty()).expect("rm");
    }
    rustix::fs::unlinkat(&last, "d", AtFlags::REMOVEDIR).expect("rmdir");
    wait_failed(&agent, "1 of its entries cannot be mirrored, such as f: ");
    rustix::fs::unlinkat(&last, "f", AtFlags::empty()).expect("rm");
    let mirror = Mirror {
        agent,
        receiver,
        sandbox,
    };
    mirror.settle();
    assert_eq!(failed(&mirror.agent), Vec::<Value>::new());
    run(&mirror.sandbox, &mut command(&mirror.agent, &["status"])).expect(code::DONE, &[]);
}

#[test]
fn a_rename_that_makes_paths_too_long_is_told() {
    let mirror = Mirror::start();
    // Made elsewhere, so that it comes as one.
    let outside = mirror.sandbox.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    drop(chain(&outside, &NAME, LEVELS));
    let within = outside.join(std::str::from_utf8(&NAME).expect("text"));
    fs::rename(&within, mirror.src("top")).expect("mv");
    mirror.settle();
    fs::create_dir(mirror.src("deeper")).expect("mkdir");
    let below = mirror
        .src("deeper")
        .join(within.file_name().expect("a name"));
    fs::rename(mirror.src("top"), &below).expect("mv");
    wait_failed(
        &mirror.agent,
        "1 of its entries cannot be mirrored, such as nnn",
    );
    // And back: all of it can be named again.
    fs::rename(&below, mirror.src("top")).expect("mv");
    mirror.settle();
    assert_eq!(failed(&mirror.agent), Vec::<Value>::new());
}

#[test]
fn what_comes_in_with_a_directory_is_told_as_well() {
    let mirror = Mirror::start();
    let outside = mirror.sandbox.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    write(&chain(&outside, &NAME, LEVELS), "f", "beyond the limits");
    let beyond = outside.join(std::str::from_utf8(&NAME).expect("text"));
    let top = mirror.src(beyond.file_name().expect("a name"));
    fs::rename(&beyond, &top).expect("mv");
    wait_failed(
        &mirror.agent,
        "1 of its entries cannot be mirrored, such as f: ",
    );
    assert_eq!(mirror.agent.exit(), None);
}

#[test]
fn sync_and_verify_do_not_call_it_the_same() {
    let sandbox = Sandbox::new();
    let last = chain(&sandbox.src(), &NAME, LEVELS);
    write(&last, "f", "beyond the limits");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    let words = [
        "path too long",
        "1 of its entries cannot be mirrored, such as f",
    ];
    once(&sandbox, &agent, "sync").expect(code::DEGRADED, &words);
    let options = without_the_last();
    wait_equal(&sandbox.src(), &sandbox.dst(), &options, Duration::ZERO);
    once(&sandbox, &agent, "verify").expect(code::FAILED, &words);
    rustix::fs::unlinkat(&last, "f", AtFlags::empty()).expect("rm");
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    once(&sandbox, &agent, "verify").expect(code::DONE, &[]);
    sandbox.assert_equal();
}
