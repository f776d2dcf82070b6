//! `trash` with both programs: every version that was ever durable is in the mirror or in the trash, whoever dies
//! meanwhile; and it expires while nobody is connected.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncd_tests::sandbox::MODULE;
use syncd_tests::workload::Rng;
use syncd_tests::{Binaries, ReservedPort, Sandbox, wait_until};

use crate::common::{LONG, Mirror, code, once, patient, run};

/// A sandbox whose module keeps versions beside it.
fn keeping() -> (Sandbox, PathBuf) {
    let mut sandbox = Sandbox::new();
    let trash = sandbox.path().join("trash");
    fs::create_dir(&trash).expect("trash");
    let text = trash.to_str().expect("UTF-8").to_owned();
    sandbox.conf().module(MODULE).set("trash", text);
    (sandbox, trash)
}

/// The contents of all files below, by the path they had.
fn kept(trash: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let mut found = BTreeSet::new();
    for day in list(trash) {
        for slot in list(&day) {
            let mut pending = vec![slot.clone()];
            while let Some(path) = pending.pop() {
                if path.is_dir() {
                    pending.extend(list(&path));
                } else {
                    let name = path.strip_prefix(&slot).expect("below").to_owned();
                    found.insert((name, fs::read(&path).expect("read")));
                }
            }
        }
    }
    found
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

#[test]
fn what_is_overwritten_or_deleted_is_in_the_trash() {
    let (sandbox, trash) = keeping();
    fs::create_dir_all(sandbox.src().join("d/e")).expect("mkdir");
    for name in ["a", "d/b", "d/e/c"] {
        fs::write(sandbox.src().join(name), format!("first {name}")).expect("write");
    }
    let mirror = Mirror::of(sandbox);
    fs::write(mirror.src("a"), "second a").expect("write");
    fs::remove_dir_all(mirror.src("d")).expect("remove");
    mirror.settle();
    let names = ["a", "d/b", "d/e/c"];
    let expected = names.map(|name| (PathBuf::from(name), format!("first {name}").into_bytes()));
    assert_eq!(kept(&trash), expected.into());
    // The next comparison finds nothing to repair.
    let asked = mirror.agent.control().rescan(".");
    assert!(asked.is_ok(), "{asked:?}");
    mirror.settle();
    assert_eq!(kept(&trash).len(), 3);
}

#[test]
fn what_a_rename_takes_the_place_of_is_in_the_trash() {
    let (sandbox, trash) = keeping();
    for name in ["new/f", "current/f", "current/e/g", "one", "two"] {
        let path = sandbox.src().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, format!("first {name}")).expect("write");
    }
    let mirror = Mirror::of(sandbox);
    fs::remove_dir_all(mirror.src("current")).expect("remove");
    fs::rename(mirror.src("new"), mirror.src("current")).expect("rename");
    fs::rename(mirror.src("one"), mirror.src("two")).expect("rename");
    mirror.settle();
    let gone = ["current/f", "current/e/g", "two"];
    let gone = gone.map(|name| (PathBuf::from(name), format!("first {name}").into_bytes()));
    let kept = kept(&trash);
    assert!(
        gone.iter().all(|version| kept.contains(version)),
        "{kept:?}"
    );
}

/// A trash in the module is nothing that an agent would remove from a mirror where it does not belong.
#[test]
fn a_trash_in_the_module_survives_a_comparison() {
    let mut sandbox = Sandbox::new();
    sandbox.conf().module(MODULE).set("trash", ".old");
    fs::write(sandbox.src().join("f"), "first").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    fs::write(sandbox.src().join("f"), "second").expect("write");
    for _ in 0..2 {
        once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    }
    once(&sandbox, &agent, "verify").expect(code::DONE, &[]);
    let expected = [(PathBuf::from("f"), b"first".to_vec())];
    assert_eq!(kept(&sandbox.dst().join(".old")), expected.into());
    assert_eq!(fs::read(sandbox.dst().join("f")).expect("read"), b"second");
}

#[test]
fn every_durable_version_is_kept_whatever_is_killed() {
    let (sandbox, trash) = keeping();
    let port = ReservedPort::take();
    let receivers = sandbox.receiver().port(port.number());
    let mut receiver = receivers.start();
    let agent = patient(sandbox.agent(&receiver)).start();
    let mut rng = Rng::new(7);
    let mut versions = BTreeSet::new();
    for number in 0..12 {
        for name in ["f", "d/g"] {
            let path = sandbox.src().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            let content = format!("{name} in its version {number}");
            fs::write(&path, &content).expect("write");
            versions.insert((PathBuf::from(name), content.into_bytes()));
        }
        agent.wait_synced(LONG);
        // What comes now may be cut anywhere; it is no version that was durable.
        for part in 0..=rng.below(3) {
            fs::write(sandbox.src().join("h"), format!("{number}.{part}")).expect("write");
        }
        if number % 4 == 3 {
            receiver.kill9();
            receiver = receivers.start();
        } else {
            receiver.kill_workers();
        }
        if number % 3 == 2 {
            fs::remove_dir_all(sandbox.src().join("d")).expect("remove");
        }
    }
    agent.wait_synced(LONG);
    sandbox.assert_equal();
    let mut all = kept(&trash);
    for name in ["f", "d/g"] {
        if let Ok(content) = fs::read(sandbox.dst().join(name)) {
            all.insert((PathBuf::from(name), content));
        }
    }
    let lost: Vec<_> = versions.difference(&all).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn versions_expire_while_nobody_is_connected() {
    let (sandbox, trash) = keeping();
    let old = trash.join("2020-02-29/235959");
    fs::create_dir_all(&old).expect("mkdir");
    fs::write(old.join("f"), "old").expect("write");
    fs::write(trash.join("README"), "mine").expect("write");
    let _receiver = sandbox.receiver().start();
    wait_until(LONG, "the old version is gone", || {
        !trash.join("2020-02-29").exists()
    });
    assert_eq!(list(&trash), [trash.join("README")]);
}

#[test]
fn a_trash_that_cannot_work_is_told_before_anything_is_lost() {
    let told = |sandbox: &Sandbox| {
        let mut command = Command::new(&Binaries::locate().receiver);
        command
            .arg("check")
            .arg("--config")
            .arg(sandbox.write_conf());
        run(sandbox, &mut command)
    };
    let (mut sandbox, trash) = keeping();
    assert!(told(&sandbox).text.contains("honoured: trash"));
    for (value, why) in [
        ("/proc", "not on the module's file system"),
        ("/nowhere/at/all", "No such file"),
        ("yes", "name a directory"),
        ("../up", "must not lead up"),
        (".syncd", "the receiver's own"),
    ] {
        sandbox.conf().module(MODULE).set("trash", value);
        told(&sandbox).expect(code::DEGRADED, &[why]);
        let receiver = sandbox.receiver().start();
        fs::write(sandbox.src().join("f"), "x").expect("write");
        once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::FAILED, &[]);
        assert!(!sandbox.dst().join("f").exists(), "{value}");
    }
    sandbox
        .conf()
        .module(MODULE)
        .set("trash", ".old")
        .set("keep dirlinks", "yes");
    told(&sandbox).expect(code::DEGRADED, &["does not go with `keep dirlinks`"]);
    sandbox
        .conf()
        .module(MODULE)
        .set("trash", "no")
        .unset("keep dirlinks");
    assert!(told(&sandbox).text.contains(" 0 refused"));
    assert!(list(&trash).is_empty());
}
