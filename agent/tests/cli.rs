//! The built binary: help, wrong arguments and configurations, exit codes, and asking an agent.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use certs_dev::Authority;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncd-agent"))
        .args(arguments)
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .unwrap()
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code and standard error.
fn fails(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), error_of(&output))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_names_every_command() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for command in [
        "run", "sync", "verify", "status", "wait", "rescan", "modules",
    ] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}: {help}"
        );
    }
    assert!(run(&["run", "--help"]).status.success());
    assert!(run(&["--version"]).status.success());
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in [
        &[][..],
        &["fly"],
        &["run"],
        &["run", "/data"],
        &["run", "/data", "h::m", "--bwlimit", "0"],
        &["run", "/data", "h::m", "--backend", "magic"],
        &["run", "/data", "h::m", "--max-delete", "101%"],
        &["run", "/data", "h::m"],
        &["run", "--config", "a.toml", "--ca", "ca.pem"],
        &["run", "--config", "a.toml", "/data", "h::m"],
        &["wait", "/x", "--all"],
    ] {
        let (code, error) = fails(arguments);
        assert_eq!(code, 64, "{arguments:?}: {error}");
    }
}

#[test]
fn a_wrong_destination_says_how_to_write_it() {
    let (code, error) = fails(&["run", "/data", "backup:/srv/www"]);
    assert_eq!(code, 64);
    assert!(
        error.contains("rsync over ssh") && error.contains("  -> write two colons"),
        "{error}"
    );
}

#[test]
fn a_wrong_configuration_is_78_and_names_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    let (code, error) = fails(&["run", "--config", text(&file)]);
    assert_eq!(code, 66, "{error}");
    fs::write(&file, "[[source]]\npath = \"/data\"\nsetle_ms = 1\n").unwrap();
    let (code, error) = fails(&["run", "--config", text(&file)]);
    assert_eq!(code, 78, "{error}");
    assert!(
        error.contains(
            "agent.toml: line 3: unknown key `setle_ms` in source; did you mean `settle_ms`?"
        ),
        "{error}"
    );
}

#[test]
fn unusable_certificates_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::create(dir.path().join("pki")).unwrap();
    let agent = ca.issue_agent("web01").unwrap();
    let other = ca.issue_agent("web02").unwrap();
    let (ca_path, cert, key) = (ca.cert_path(), &agent.cert_path, &agent.key_path);
    let modules = |ca: &Path, cert: &Path, key: &Path| {
        fails(&[
            "modules",
            "127.0.0.1",
            "--port",
            "1",
            "--ca",
            text(ca),
            "--cert",
            text(cert),
            "--key",
            text(key),
        ])
    };
    let (code, error) = modules(Path::new("/nonexistent.pem"), cert, key);
    assert_eq!(code, 66);
    assert!(
        error.contains("cannot read CA certificate /nonexistent.pem"),
        "{error}"
    );
    let (code, error) = modules(&ca_path, cert, &other.key_path);
    assert_eq!(code, 78);
    assert!(error.contains("web02.key is not the key"), "{error}");
    let (code, error) = modules(&ca_path, cert, key);
    assert_eq!(code, 3);
    assert!(error.contains("cannot reach 127.0.0.1 port 1"), "{error}");
    assert!(error.contains("start syncd-recv there"), "{error}");
}

#[test]
fn an_agent_that_is_not_there_is_69() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    for command in ["status", "wait", "rescan"] {
        let (code, error) = fails(&[command, "--control", text(&socket)]);
        assert_eq!(code, 69, "{command}");
        assert!(error.contains("no agent answers at"), "{error}");
    }
}

/// Answers one request with this line, and gives the request back.
fn answering(socket: &Path, answer: &'static str) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        (&stream)
            .write_all(format!("{answer}\n").as_bytes())
            .unwrap();
        request
    })
}

#[test]
fn the_verdict_is_the_exit_code() {
    const EMPTY: &str = r#""status":{"version":"1","pid":1,"uptime_ms":1,"sources":[]}"#;
    let answers = [
        (r#"{"reply":"wait","verdict":"in_sync","text":"all"}"#, 0),
        (r#"{"reply":"wait","verdict":"behind","text":"2 paths"}"#, 1),
        (r#"{"reply":"wait","verdict":"degraded","text":"held"}"#, 2),
        (r#"{"reply":"wait","verdict":"failed","text":"refused"}"#, 3),
        (
            r#"{"reply":"error","text":"no such path","hint":"look"}"#,
            3,
        ),
    ];
    for (answer, wanted) in answers {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let agent = answering(&socket, answer);
        let output = run(&["wait", "a/b", "--timeout", "5", "--control", text(&socket)]);
        assert_eq!(output.status.code(), Some(wanted), "{output:?}");
        let request = agent.join().unwrap();
        assert!(request.contains("\"timeout_ms\":5000"), "{request}");
        assert!(request.contains("/a/b\""), "absolute: {request}");
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let answer = format!("{{\"reply\":\"status\",\"verdict\":\"degraded\",{EMPTY}}}");
    let agent = answering(&socket, answer.leak());
    let output = run(&["status", "--json", "--control", text(&socket)]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(agent.join().unwrap(), "{\"cmd\":\"status\"}\n");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"verdict\": \"degraded\""));
}
