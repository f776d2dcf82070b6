//! The built program: what it makes, adds to and refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

#[test]
fn one_command_makes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    let made = run(&out, &[]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(
        names(&out),
        [
            "agent.key",
            "agent.pem",
            "ca.key",
            "ca.pem",
            "server.key",
            "server.pem"
        ]
    );
    assert!(String::from_utf8_lossy(&made.stdout).contains("not for production"));
}

#[test]
fn an_existing_authority_is_kept_and_can_sign_one_more_agent() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    assert!(run(&out, &["--agent", "web01"]).status.success());
    let ca = fs::read(out.join("ca.pem")).unwrap();
    let added = run(&out, &["--agent", "web02", "--agent", "web03"]);
    assert!(added.status.success(), "{added:?}");
    assert!(String::from_utf8_lossy(&added.stdout).contains("existing authority, kept"));
    assert_eq!(ca, fs::read(out.join("ca.pem")).unwrap());
    assert!(out.join("web02.key").exists() && out.join("web03.key").exists());
}

#[test]
fn what_exists_is_refused_by_name_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    assert!(run(&out, &["--agent", "web01"]).status.success());
    let before = names(&out);
    for (args, file) in [
        (&[][..], "ca.pem"),
        (&["--server-name", "m"], "ca.pem"),
        (&["--agent", "new", "--agent", "web01"], "web01.pem"),
        (&["--agent", "new", "--server-name", "m"], "server.pem"),
        (&["--agent", "../new"], "../new"),
    ] {
        let refused = run(&out, args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains(file), "{args:?}: {said}");
        assert!(
            said.contains("--force") || file.starts_with(".."),
            "{args:?}: {said}"
        );
        assert_eq!(before, names(&out), "{args:?}");
    }
}

#[test]
fn force_replaces_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    assert!(run(&out, &[]).status.success());
    let before = fs::read(out.join("ca.pem")).unwrap();
    assert!(run(&out, &["--force", "--days", "2"]).status.success());
    assert_ne!(before, fs::read(out.join("ca.pem")).unwrap());
}

fn run(out: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_certs-dev"))
        .arg(out)
        .args(args)
        .output()
        .unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
