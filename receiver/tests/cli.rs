//! The built binary: help, wrong arguments, `check`, exit codes.

use std::path::Path;
use std::process::{Command, Output};

use certs_dev::Authority;
use serde_json::Value;
use tempfile::TempDir;

fn recv(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
        .args(arguments)
        .output()
        .expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Certificates, one module that is served, and what is given.
fn site(lines: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("directory");
    let authority = Authority::create(dir.path()).expect("authority");
    authority.issue_server::<&str>(&[]).expect("certificate");
    let config = write(dir.path(), lines);
    (dir, config)
}

fn write(dir: &Path, lines: &str) -> String {
    let path = dir.join("rsyncd.conf");
    let at = dir.display();
    let text = format!(
        "tls cert file = {at}/server.pem\ntls key file = {at}/server.key\ntls ca file = {at}/ca.pem\n{lines}[m]\npath = {at}\n"
    );
    std::fs::write(&path, text).expect("configuration");
    path.display().to_string()
}

#[test]
fn help_and_version_are_no_errors() {
    for argument in ["--help", "--version"] {
        let output = recv(&[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("syncd-recv"));
    }
    assert!(!text(&recv(&["--help"]).stdout).contains("worker"));
}

#[test]
fn wrong_arguments_are_a_usage_error() {
    for arguments in [
        &[][..],
        &["run"],
        &["serve"],
        &["run", "--config", "x", "--port", "70000"],
    ] {
        let output = recv(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    for (command, code) in [("run", 78), ("check", 2)] {
        let output = recv(&[command, "--config", "/no/such/rsyncd.conf"]);
        assert_eq!(output.status.code(), Some(code), "{command}");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("/no/such/rsyncd.conf"), "{said}");
    }
}

#[test]
fn a_good_configuration_is_shown_with_its_lines() {
    let (_dir, config) = site("");
    let output = recv(&["check", "--config", &config]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("[m]"), "{said}");
    assert!(said.contains(&format!("({config}:5:")), "{said}");
    assert!(
        said.contains("read only              yes  (default)"),
        "{said}"
    );
}

#[test]
fn every_written_parameter_is_accounted_for() {
    let (_dir, config) = site("motd file = /etc/motd\nread only = yes\nmax verbosity = 3\n");
    let output = recv(&["check", "--config", &config]);
    let said = text(&output.stdout) + &text(&output.stderr);
    for line in [
        format!("{config}:4:1: ignored: motd file"),
        format!("{config}:5:1: honoured: read only"),
        format!("{config}:6:1: ignored: max verbosity"),
        format!("{config}:8:1: honoured: path"),
    ] {
        assert!(said.contains(&line), "{line} is missing in {said}");
    }
}

#[test]
fn a_module_that_is_not_served_degrades() {
    let (_dir, config) = site("read only = no\n");
    let output = recv(&["check", "--json", "--config", &config]);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(report["modules"][0]["name"], "m");
    assert_eq!(report["modules"][0]["served"], false);
    let remark = &report["diagnostics"][0];
    assert_eq!(remark["severity"], "refused");
    assert!(remark["line"].is_u64(), "{report}");
}

#[test]
fn a_path_that_is_not_there_is_told_before_anybody_connects() {
    let (dir, config) = site("");
    let broken = std::fs::read_to_string(&config).expect("read").replace(
        &format!("\npath = {}", dir.path().display()),
        "\npath = /no/such/dir",
    );
    std::fs::write(&config, broken).expect("write");
    let output = recv(&["check", "--config", &config]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("/no/such/dir: No such file"), "{said}");
}

#[test]
fn a_key_that_others_can_read_stops_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, config) = site("");
    let key = dir.path().join("server.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let output = recv(&["run", "--port", "0", "--config", &config]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    assert!(
        said.contains("`tls key file`") && said.contains("chmod 600"),
        "{said}"
    );
}

#[test]
fn a_key_of_another_certificate_stops_the_start() {
    let (dir, config) = site("");
    let other = Authority::create(dir.path().join("other")).expect("authority");
    let issued = other.issue_server::<&str>(&[]).expect("certificate");
    std::fs::copy(issued.key_path, dir.path().join("server.key")).expect("copy");
    let output = recv(&["run", "--port", "0", "--config", &config]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    assert!(
        said.contains("does not belong to the certificate"),
        "{said}"
    );
}

#[test]
fn a_port_that_is_taken_is_unavailable() {
    let (_dir, config) = site("address = 127.0.0.1\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port().to_string();
    let output = recv(&["run", "--port", &port, "--config", &config]);
    assert_eq!(output.status.code(), Some(69));
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{said}"
    );
    assert!(said.contains("--port"), "{said}");
}

#[test]
fn an_address_of_another_machine_is_unavailable() {
    let (_dir, config) = site("address = 192.0.2.1\n");
    let output = recv(&[
        "run",
        "--port",
        "0",
        "--log-format",
        "json",
        "--config",
        &config,
    ]);
    assert_eq!(output.status.code(), Some(69));
    let last = text(&output.stderr);
    let last: Value = serde_json::from_str(last.lines().last().expect("a line")).expect("json");
    assert_eq!(last["level"], "ERROR");
    assert!(
        last["message"]
            .as_str()
            .expect("text")
            .contains("192.0.2.1")
    );
}
