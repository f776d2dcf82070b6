//! `syncd-recv acl explain`: the way to a decision, and that it is the one the running receiver takes.

use std::process::Command;

use crate::common::Daemon;
use crate::common::agent::{Agent, Answer, Site, hello};

/// Exit code and what was printed.
fn explain(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
        .args(["acl", "explain"])
        .args(arguments)
        .arg("--config")
        .arg(site.config())
        .output()
        .expect("run");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn certificate(site: &Site) -> String {
    site.path().join("web01.pem").display().to_string()
}

/// The first line with this text: everything before it is not there.
fn line<'a>(text: &'a str, part: &str) -> &'a str {
    let found = text.lines().find(|line| line.contains(part));
    found.unwrap_or_else(|| panic!("no {part:?} in:\n{text}"))
}

#[test]
fn each_step_is_told_with_its_line() {
    let site = Site::new();
    let secrets = site.secrets("alice:pw\n");
    site.configure(&format!(
        "reverse lookup = no\nhosts allow = 10.0.0.0/8\n[m]\npath = {}\nread only = no\nhosts deny = 10.6.6.6, 192.0.2.1\nclient certs = web01:rw\nauth users = alice:ro bob\nsecrets file = {secrets}\n",
        site.module("m"),
    ));
    let cert = certificate(&site);
    let (code, text) = explain(&site, &["10.1.1.1", "m", "--user", "bob", "--cert", &cert]);
    assert_eq!(code, Some(1), "{text}");
    let at = format!("{}:", site.config().display());
    for (part, number) in [
        ("reverse lookup: no name is looked up", "5:"),
        ("hosts allow: \"10.0.0.0/8\" hits: its address", "6:"),
        ("web01, to read and write", "11:"),
        ("secrets file: secret not found: bob", "13:"),
    ] {
        let line = line(&text, part);
        assert!(line.contains(&format!("{at}{number}")), "{line}\n{text}");
    }
    assert!(line(&text, "agent/web01: accepted by TLS").starts_with("ok"));
    assert!(line(&text, "secret not found").starts_with("NO"));
    let end = line(&text, "refused: ");
    assert!(end.contains("auth failed on module m"), "{end}");
    let (code, text) = explain(
        &site,
        &["10.1.1.1", "m", "--user", "alice", "--cert", &cert],
    );
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "a rule matches alice, read only").starts_with("ok"));
    assert!(line(&text, "read only: a rule").starts_with("NO"));
    let compare = [
        "10.1.1.1",
        "m",
        "--user",
        "alice",
        "--cert",
        &cert,
        "--compare",
    ];
    let (code, text) = explain(&site, &compare);
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "admitted, if the password of alice is right").contains("may compare"));
    let (code, text) = explain(&site, &["192.0.2.1", "m"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "\"10.0.0.0/8\" is not it").contains("hosts allow"));
    assert!(line(&text, "\"10.6.6.6\" is not it").contains("hosts deny"));
    assert!(line(&text, "\"192.0.2.1\" hits: its address").contains(&format!("{at}10:")));
}

#[test]
fn what_cannot_be_asked_has_its_own_code() {
    let site = Site::new();
    site.configure("[m]\npath = /\n");
    assert_eq!(explain(&site, &["nowhere", "m"]).0, Some(64));
    assert_eq!(explain(&site, &["10.0.0.1"]).0, Some(64));
    assert_eq!(
        explain(&site, &["10.0.0.1", "m", "--cert", "/no/file"]).0,
        Some(66)
    );
    let (code, text) = explain(&site, &["10.0.0.1", "other"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("Unknown module 'other'"), "{text}");
    site.configure("host allow = 10.0.0.1\n[m]\npath = /\n");
    assert_eq!(explain(&site, &["10.0.0.1", "m"]).0, Some(78));
}

#[test]
fn a_certificate_that_tls_refuses_is_the_end() {
    let site = Site::new();
    site.configure("[m]\npath = /\nread only = no\nallow any certificate = yes\n");
    let other = Site::new();
    let (code, text) = explain(&site, &["10.0.0.1", "m", "--cert", &certificate(&other)]);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "agent/web01").starts_with("NO"), "{text}");
}

/// The same peer asks the running receiver: both say the same.
#[test]
fn the_receiver_decides_as_explained() {
    const OPEN: &str = "read only = no\nallow any certificate = yes\n";
    let site = Site::new();
    let cert = certificate(&site);
    for lines in [
        OPEN.to_owned(),
        String::new(),
        format!("{OPEN}hosts allow = 192.0.2.1"),
        format!("{OPEN}hosts allow = 192.0.2.1\nlist = no"),
        format!("{OPEN}hosts deny = 127.0.0.0/8"),
        format!("{OPEN}hosts deny = no-such-name.invalid"),
        format!("{OPEN}hosts allow = 127.0.0.1/32\nhosts deny = *"),
        format!("{OPEN}hosts allow = localhost"),
        "read only = no\nclient certs = db01".to_owned(),
        "read only = no\nclient certs = web*:ro".to_owned(),
        "read only = yes\nclient certs = web*:rw".to_owned(),
        "read only = no\nauth users = alice".to_owned(),
        format!("{OPEN}uid = no-such-user"),
        format!("{OPEN}max connections = -1"),
    ] {
        let daemon = Daemon::start(
            &site,
            &format!("[m]\npath = {}\n{lines}\n", site.module("m")),
        );
        let (code, text) = explain(&site, &["127.0.0.1", "m", "--cert", &cert]);
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        match agent.ask(hello("m"), Some("wrong")) {
            Answer::Open(_) => assert_eq!(code, Some(0), "{lines}\n{text}"),
            Answer::Refused(refused) => {
                assert_eq!(code, Some(1), "{lines}\n{text}");
                let told = format!("the agent is told \"{}\"", refused.text);
                assert!(text.contains(&told), "{lines}\n{told}\n{text}");
            }
            other => panic!("{lines}: {other:?}"),
        }
    }
}
