//! `syncd-agent check` on this machine alone: one line for each thing, the fix, and the exit code.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use certs_dev::{Authority, Request, Validity};
use serde_json::Value;
use tempfile::TempDir;

/// A configuration whose every part is in order, but for the receiver, which is not there.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().expect("directory");
        let authority = Authority::create(dir.path().join("pki")).expect("authority");
        authority.issue_agent("web01").expect("certificate");
        fs::create_dir_all(dir.path().join("src/a/b")).expect("source");
        fs::create_dir_all(dir.path().join("src/left/out")).expect("source");
        let place = Self { dir };
        place.write("pw", "secret\n", 0o600);
        place.configure("");
        place
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path().join(name);
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "control = \"sock\"\n[[source]]\npath = \"src\"\nexclude = \"/left/\"\n{more}[[source.target]]\n\
             to = \"mirror@127.0.0.1::m\"\nca = \"pki/ca.pem\"\ncert = \"pki/web01.pem\"\nkey = \"pki/web01.key\"\n\
             password_file = \"pw\"\n"
        );
        self.write("agent.toml", &text, 0o644);
    }

    /// Exit code and what it said.
    fn check(&self, more: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_syncd-agent"))
            .args(["check", "--config"])
            .arg(self.path().join("agent.toml"))
            .args(more)
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = said + &String::from_utf8_lossy(&output.stderr);
        let at = format!("{}/", self.path().display());
        (output.status.code().expect("a code"), said.replace(&at, ""))
    }

    fn expect(&self, more: &[&str], code: i32, lines: &[&str]) {
        let (found, said) = self.check(more);
        for line in lines {
            assert!(
                said.lines().any(|said| said.starts_with(line)),
                "{line}\n{said}"
            );
        }
        assert_eq!(found, code, "{said}");
    }
}

#[test]
fn what_is_in_order_is_said_too() {
    let place = Place::new();
    let (code, said) = place.check(&["--offline"]);
    for line in [
        "ok      configuration: 1 source, 1 target",
        // What is excluded gets no watch.
        "ok      source src: 3 directories to watch",
        "ok      control socket sock: free",
        "ok      certificate pki/web01.pem: until ",
        "ok      authority pki/ca.pem: until ",
        "ok      key pki/web01.key: mode 0600",
        "ok      password file pw: ",
    ] {
        assert!(
            said.lines().any(|said| said.starts_with(line)),
            "{line}\n{said}"
        );
    }
    // The limits of this machine may be small; nothing else is wrong.
    let wrong = said.lines().filter(|line| !line.starts_with("ok "));
    let wrong: Vec<_> = wrong
        .filter(|line| !line.contains("inotify") && !line.contains("open files"))
        .collect();
    assert!(wrong.is_empty() && code <= 1, "{code}: {said}");
}

#[test]
fn the_configuration_alone_needs_no_files() {
    let place = Place::new();
    fs::remove_dir_all(place.path().join("pki")).expect("remove");
    place.expect(&["--syntax"], 0, &["ok      configuration: "]);
    place.configure("setle_ms = 1\n");
    place.expect(
        &["--syntax"],
        78,
        &["syncd-agent: agent.toml: line 5: unknown key `setle_ms`"],
    );
    fs::remove_file(place.path().join("agent.toml")).expect("remove");
    place.expect(
        &["--syntax"],
        66,
        &["syncd-agent: cannot read configuration agent.toml"],
    );
}

#[test]
fn each_thing_that_is_wrong_has_a_line_with_its_fix() {
    let place = Place::new();
    place.write("pw", "secret\n", 0o644);
    place.expect(
        &["--offline"],
        2,
        &["FAILED  password file pw: password file pw must not be other-accessible; chmod 600 pw"],
    );
    place.write("pw", "secret\n", 0o600);
    let key = place.path().join("pki/web01.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("chmod");
    place.expect(
        &["--offline"],
        2,
        &["FAILED  key pki/web01.key: private key pki/web01.key: others may read or write it (mode 0644); chmod 600 pki/web01.key"],
    );
    fs::set_permissions(&key, Permissions::from_mode(0o640)).expect("chmod");
    place.expect(
        &["--offline"],
        1,
        &["warning key pki/web01.key: its group may use it (mode 0640); chmod 600 pki/web01.key"],
    );
    fs::copy(place.path().join("pki/ca.key"), &key).expect("copy");
    place.expect(
        &["--offline"],
        2,
        &["FAILED  certificate pki/web01.pem: the key in pki/web01.key is not the key of"],
    );
    fs::remove_file(&key).expect("remove");
    place.expect(
        &["--offline"],
        2,
        &["FAILED  certificate pki/web01.pem: cannot read private key pki/web01.key"],
    );
}

#[test]
fn a_source_or_a_socket_that_cannot_be_is_told() {
    let place = Place::new();
    fs::rename(place.path().join("src"), place.path().join("gone")).expect("rename");
    place.write("sock", "no socket", 0o600);
    place.expect(
        &["--offline"],
        2,
        &[
            "FAILED  source src: source src: No such file",
            "FAILED  control socket sock: something else is there; remove it",
        ],
    );
}

#[test]
fn a_certificate_that_ends_soon_is_told() {
    let place = Place::new();
    let authority = Authority::open(place.path().join("pki")).expect("authority");
    let soon = Request::agent("web01")
        .file_stem("soon")
        .validity(Validity::Days(7));
    let issued = authority.issue(&soon).expect("certificate");
    fs::copy(issued.cert_path, place.path().join("pki/web01.pem")).expect("copy");
    fs::copy(issued.key_path, place.path().join("pki/web01.key")).expect("copy");
    place.expect(
        &["--offline"],
        1,
        &["warning certificate pki/web01.pem: until "],
    );
}

#[test]
fn a_receiver_that_is_not_there_fails_the_target() {
    let place = Place::new();
    // Nobody listens on port 1.
    let text = fs::read_to_string(place.path().join("agent.toml")).expect("read");
    let text = text.replace("mirror@127.0.0.1::m", "syncd://mirror@127.0.0.1:1/m");
    place.write("agent.toml", &text, 0o644);
    place.expect(
        &[],
        2,
        &["FAILED  target mirror@127.0.0.1::m (port 1): cannot reach 127.0.0.1 port 1"],
    );
}

#[test]
fn the_same_is_said_as_json() {
    let place = Place::new();
    place.write("pw", "", 0o600);
    let (code, said) = place.check(&["--offline", "--json"]);
    assert_eq!(code, 2, "{said}");
    let report: Value = serde_json::from_str(&said).expect("json");
    let findings = report["findings"].as_array().expect("a list");
    let failed: Vec<_> = findings
        .iter()
        .filter(|finding| finding["level"] == "FAILED")
        .collect();
    assert_eq!(failed.len(), 1, "{said}");
    assert_eq!(failed[0]["subject"], "password file pw");
    assert!(
        failed[0]["fix"]
            .as_str()
            .expect("a fix")
            .contains("first line"),
        "{said}"
    );
}
