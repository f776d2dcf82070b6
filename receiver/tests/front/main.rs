//! The real `syncd-recv run`, strangers, agents with right and wrong certificates, and every refusal.

mod acl;
mod common;
mod hooks;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use certs_dev::{Authority, Request, Role, Validity};
use common::Daemon;
use common::agent::{Agent, Answer, Site, chmod, hello, tls12_hello};
use syncd_proto::frame::Frame;
use syncd_proto::message::{Hello, Ping, Pong, Purpose, ReceiverMessage};
use syncd_proto::reject::RejectCode;

const OPEN: &str = "read only = no\nallow any certificate = yes\n";

fn one_module(lines: &str) -> (Site, Daemon) {
    let site = Site::new();
    let module = format!("[m]\npath = {}\n{lines}", site.module("m"));
    let daemon = Daemon::start(&site, &module);
    (site, daemon)
}

fn refused(answer: Answer) -> (RejectCode, String) {
    match answer {
        Answer::Refused(refused) => (refused.code, refused.text),
        other => panic!("not refused: {other:?}"),
    }
}

/// Each configuration line, and what an agent for module `m` is told.
#[test]
fn modules_refuse_in_the_words_of_rsync() {
    let cases = [
        (
            "read only = no\nclient certs = db01",
            RejectCode::CertificateDenied,
            "certificate not allowed on module m",
        ),
        (
            "read only = no\nallow any certificate = yes\nhosts allow = 192.0.2.1",
            RejectCode::HostDenied,
            "access denied to m from ",
        ),
        (
            "read only = no\nallow any certificate = yes\nhosts allow = 192.0.2.1\nlist = no",
            RejectCode::UnknownModule,
            "Unknown module 'm'",
        ),
        ("", RejectCode::ReadOnly, "module is read only"),
        (
            "read only = no\nallow any certificate = yes\nmax connections = -1",
            RejectCode::TooManyConnections,
            "max connections (-1) reached -- try again later",
        ),
        (
            "read only = no\nallow any certificate = yes\nuid = no-such-user",
            RejectCode::ModuleUnavailable,
            "invalid uid no-such-user",
        ),
    ];
    if !rustix::process::geteuid().is_root() {
        // Only root looks the name up; the other rules are the same for all.
        eprintln!("not root: `uid` is refused with other words");
    }
    for (lines, code, text) in cases {
        let root = rustix::process::geteuid().is_root();
        if lines.contains("uid =") && !root {
            continue;
        }
        let (site, daemon) = one_module(lines);
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        let told = refused(agent.ask(hello("m"), None));
        assert_eq!(told.0, code, "{lines}: {}", told.1);
        assert!(told.1.starts_with(text), "{lines}: {}", told.1);
        let line = daemon.wait_for("refused: ");
        for part in ["web01", "127.0.0.1", "module=\"m\""] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
    }
}

#[test]
fn an_unknown_module_is_named_and_escaped() {
    let (site, daemon) = one_module(OPEN);
    let agent = Agent::connect(&site, daemon.port).expect("TLS");
    let told = refused(agent.ask(hello("no\nsuch\u{1b}[31m"), None));
    assert_eq!(
        told,
        (
            RejectCode::UnknownModule,
            "Unknown module 'no\\x0asuch\\x1b[31m'".to_owned()
        )
    );
    let line = daemon.wait_for("unknown module");
    assert!(!line.contains('\u{1b}'), "{line}");
}

#[test]
fn names_match_exactly() {
    let (site, daemon) = one_module(OPEN);
    let agent = Agent::connect(&site, daemon.port).expect("TLS");
    assert_eq!(
        refused(agent.ask(hello("M"), None)).0,
        RejectCode::UnknownModule
    );
}

#[test]
fn a_version_nobody_speaks_is_told_with_both() {
    let (site, daemon) = one_module(OPEN);
    let agent = Agent::connect(&site, daemon.port).expect("TLS");
    let future = Hello {
        version_min: 7,
        version_max: 9,
        ..hello("m")
    };
    let (code, text) = refused(agent.ask(future, None));
    assert_eq!(code, RejectCode::Version);
    assert!(
        text.contains("version 1") && text.contains("7 to 9"),
        "{text}"
    );
}

#[test]
fn the_right_password_opens_and_all_wrong_ones_look_alike() {
    let site = Site::new();
    let secrets = site.secrets("alice:right\nbob:other\n");
    let module = format!(
        "[m]\npath = {}\nread only = yes\nauth users = alice bob:deny\nsecrets file = {secrets}\n",
        site.module("m")
    );
    let daemon = Daemon::start(&site, &module);
    for (user, password, reason) in [
        ("alice", "wrong", "password mismatch"),
        ("mallory", "right", "no matching rule"),
        ("bob", "other", "denied by rule"),
        ("alice", "no such user has a password", "password mismatch"),
    ] {
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        let told = refused(agent.ask(as_user("m", user), Some(password)));
        assert_eq!(
            told,
            (RejectCode::AuthFailed, "auth failed on module m".to_owned())
        );
        daemon.wait_for(&format!("for {user}: {reason}"));
    }
    // The password is believed: what refuses now comes after the login.
    let agent = Agent::connect(&site, daemon.port).expect("TLS");
    let told = refused(agent.ask(as_user("m", "alice"), Some("right")));
    assert_eq!(told.0, RejectCode::ReadOnly);
    let log = daemon.log();
    assert!(!log.contains("right") && !log.contains("wrong"), "{log}");
}

fn as_user(module: &str, user: &str) -> Hello {
    Hello {
        user: Some(user.as_bytes().to_vec()),
        ..hello(module)
    }
}

#[test]
fn secrets_are_read_anew_and_strictly() {
    let site = Site::new();
    let secrets = site.secrets("alice:first\n");
    let module = format!(
        "[m]\npath = {}\nauth users = alice\nsecrets file = {secrets}\n",
        site.module("m")
    );
    let daemon = Daemon::start(&site, &module);
    let code = |password: &str| {
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        refused(agent.ask(as_user("m", "alice"), Some(password))).0
    };
    assert_eq!(code("first"), RejectCode::ReadOnly);
    site.secrets("alice:second\n");
    assert_eq!(code("first"), RejectCode::AuthFailed);
    assert_eq!(code("second"), RejectCode::ReadOnly);
    chmod(&secrets, 0o644);
    assert_eq!(code("second"), RejectCode::AuthFailed);
    daemon.wait_for("must not be other-accessible");
}

#[test]
fn modules_are_listed_to_those_who_may_know_of_them() {
    let site = Site::new();
    let path = site.module("m");
    let modules = format!(
        "[open]\npath = {path}\ncomment = for all\n\
         [hidden]\npath = {path}\nlist = no\n\
         [elsewhere]\npath = {path}\nhosts allow = 192.0.2.1\n\
         [theirs]\npath = {path}\nclient certs = db01\n\
         [login]\npath = {path}\nauth users = alice\nsecrets file = /nonexistent\n"
    );
    let daemon = Daemon::start(&site, &modules);
    let question = Hello {
        purpose: Purpose::ListModules,
        ..hello("")
    };
    let agent = Agent::connect(&site, daemon.port).expect("TLS");
    let Answer::Modules(list) = agent.ask(question, None) else {
        panic!("no list");
    };
    let names: Vec<_> = list
        .modules
        .iter()
        .map(|line| String::from_utf8_lossy(&line.name).into_owned())
        .collect();
    assert_eq!(names, ["open", "login"]);
    assert_eq!(list.modules[0].comment, b"for all");
}

#[test]
fn certificates_that_are_not_ours_end_in_tls() {
    let (site, daemon) = one_module(OPEN);
    let elsewhere = Authority::create(site.path().join("elsewhere")).expect("authority");
    let stranger = elsewhere.issue_agent("web01").expect("certificate");
    let issue = |request: Request| site.authority.issue(&request).expect("certificate");
    let expired = issue(Request::agent("expired").validity(Validity::Expired));
    let early = issue(Request::agent("early").validity(Validity::NotYet));
    let server = issue(Request::agent("notclient").role(Role::Server));
    for (issued, reason) in [
        (stranger, "does not come from an authority in `tls ca file`"),
        (expired, "has expired"),
        (early, "is not valid yet"),
        (server, "not made for clients"),
    ] {
        let answer =
            Agent::with(&site, daemon.port, Some(&issued)).map(|agent| agent.ask(hello("m"), None));
        assert!(
            matches!(answer, Err(_) | Ok(Answer::Closed)),
            "{reason}: {answer:?}"
        );
        daemon.wait_for(reason);
    }
    let answer = Agent::with(&site, daemon.port, None).map(|agent| agent.ask(hello("m"), None));
    assert!(matches!(answer, Err(_) | Ok(Answer::Closed)), "{answer:?}");
    daemon.wait_for("showed no certificate");
}

#[test]
fn a_revoked_certificate_ends_in_tls() {
    let site = Site::new();
    let lost = site.authority.issue_agent("lost").expect("certificate");
    let list = site.authority.revoke(&[&lost]).expect("list");
    let config = format!(
        "tls crl file = {}\n[m]\npath = {}\n",
        list.display(),
        site.module("m")
    );
    let daemon = Daemon::start(&site, &config);
    let answer =
        Agent::with(&site, daemon.port, Some(&lost)).map(|agent| agent.ask(hello("m"), None));
    assert!(matches!(answer, Err(_) | Ok(Answer::Closed)), "{answer:?}");
    daemon.wait_for("is listed in `tls crl file`");
    let agent = Agent::connect(&site, daemon.port).expect("TLS");
    assert_eq!(refused(agent.ask(hello("m"), None)).0, RejectCode::ReadOnly);
}

#[test]
fn strangers_are_closed_at_once_with_one_line() {
    let (_site, daemon) = one_module(OPEN);
    for (words, line) in [
        (&b"@RSYNCD: 32.0 sha512\n"[..], "an rsync client"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP client"),
        (b"\x00\x01garbage", "not TLS"),
        (b"\x16\x03\x01\x00\x05hello", "TLS: "),
    ] {
        let mut socket = TcpStream::connect(("127.0.0.1", daemon.port)).expect("connect");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        socket.write_all(words).expect("write");
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let end = socket.read_to_end(&mut answer);
        let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{line}: not closed");
        assert!(!answer.starts_with(b"@RSYNCD"), "{line}");
        daemon.wait_for(line);
    }
}

#[test]
fn older_tls_and_other_protocols_are_turned_away() {
    let (site, daemon) = one_module(OPEN);
    let other = Agent::speaking(&site, daemon.port, &[b"h2"]);
    assert!(other.is_err());
    daemon.wait_for("does not ask for syncd/1");
    let none = Agent::speaking(&site, daemon.port, &[]).map(|agent| agent.ask(hello("m"), None));
    assert!(matches!(none, Err(_) | Ok(Answer::Closed)), "{none:?}");
    let mut socket = TcpStream::connect(("127.0.0.1", daemon.port)).expect("connect");
    socket.write_all(&tls12_hello()).expect("write");
    daemon.wait_for("does not speak TLS 1.3");
}

#[test]
fn frames_that_may_not_come_now_are_protocol_errors() {
    let (site, daemon) = one_module(OPEN);
    let frame = |seq: u64, kind: u16, body: usize| Frame {
        seq,
        kind,
        body: vec![0; body],
        payload: Vec::new(),
        packed: false,
    };
    for bad in [
        frame(0, 7, 3),
        frame(1, 1, 3),
        frame(0, 99, 0),
        frame(0, 1, 100_000),
    ] {
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        let told = refused(agent.send(&bad));
        assert_eq!(told.0, RejectCode::Protocol);
    }
    daemon.wait_for("protocol error");
}

/// An rsync daemon locks ranges of its lock file as this test does.
#[test]
fn connections_of_other_processes_take_places() {
    let site = Site::new();
    let lock = site.path().join("lock");
    let module = format!(
        "[m]\npath = {}\n{OPEN}max connections = 2\nlock file = {}\n",
        site.module("m"),
        lock.display()
    );
    let daemon = Daemon::start(&site, &module);
    let ask = || {
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        let hello = Hello {
            purpose: Purpose::Compare,
            ..hello("m")
        };
        agent.ask(hello, None)
    };
    let first = ask();
    assert!(matches!(first, Answer::Open(_)), "{first:?}");
    let file = std::fs::File::options()
        .write(true)
        .open(&lock)
        .expect("the lock file");
    let second = ask();
    assert!(matches!(second, Answer::Open(_)), "{second:?}");
    assert_eq!(refused(ask()).0, RejectCode::TooManyConnections);
    drop((first, second));
    daemon.wait_for_times("session closed", 2);
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&file, exclusive).expect("nobody is left");
    let told = refused(ask());
    assert_eq!(told.1, "max connections (2) reached -- try again later");
    drop(file);
    let again = ask();
    assert!(matches!(again, Answer::Open(_)), "{again:?}");
    drop(again);
    std::fs::remove_file(&lock).expect("remove");
    std::fs::create_dir(&lock).expect("in its place");
    assert_eq!(refused(ask()).1, "failed to open lock file");
    daemon.wait_for("Is a directory");
}

#[test]
fn the_pid_file_is_there_as_long_as_the_process_is() {
    let site = Site::new();
    let pid_file = site.path().join("pid");
    let lines = format!("syncd pid file = {}\n", pid_file.display());
    let daemon = Daemon::start(&site, &lines);
    let pid = std::fs::read_to_string(&pid_file).expect("the pid file");
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid}");
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
        .args(["run", "--port", "0", "--address", "127.0.0.1", "--config"])
        .arg(site.config())
        .output()
        .expect("run");
    assert_eq!(second.status.code(), Some(78));
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(told.contains("another process runs with it"), "{told}");
    assert_eq!(std::fs::read_to_string(&pid_file).expect("kept"), pid);
    assert_eq!(daemon.end(rustix::process::Signal::TERM), Some(0));
    assert!(!pid_file.exists());
}

#[test]
fn sigterm_ends_it_with_zero() {
    let (site, daemon) = one_module(OPEN);
    // One that has not said anything must not hold it up.
    let _silent = Agent::connect(&site, daemon.port).expect("TLS");
    assert_eq!(daemon.end(rustix::process::Signal::TERM), Some(0));
}

/// What the agent of an open session is told when it is closed.
fn closed(mut opened: Box<common::agent::Opened>) -> String {
    let frame = opened.agent.receive().expect("a last word");
    match opened.session.handle(&frame) {
        Ok(ReceiverMessage::Draining(draining)) => draining.text,
        other => panic!("not draining: {other:?}"),
    }
}

#[test]
fn a_reload_closes_what_it_would_not_let_in_with_the_reason() {
    let site = Site::new();
    let path = site.module("m");
    let other = site.module("other");
    let modules =
        |lines: &str| format!("[m]\npath = {path}\n{OPEN}{lines}\n[other]\npath = {other}\n{OPEN}");
    let daemon = Daemon::start(&site, &modules(""));
    let mut reloads = 0;
    let mut reload = |lines: &str| {
        site.configure(&modules(lines));
        daemon.signal(rustix::process::Signal::HUP);
        reloads += 1;
        daemon.wait_for_times("configuration reloaded", reloads);
    };
    let open = |module: &str| {
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        match agent.ask(hello(module), None) {
            Answer::Open(opened) => opened,
            other => panic!("{other:?}"),
        }
    };
    let stays = open("other");
    for (lines, text) in [
        ("hosts allow = 192.0.2.1", "access denied to m from "),
        ("client certs = db01", "certificate not allowed on module m"),
        ("read only = yes", "module is read only"),
        ("max delete = 10", "the settings of the module have changed"),
    ] {
        reload("");
        let session = open("m");
        reload(lines);
        let told = closed(session);
        assert!(told.starts_with(text), "{lines}: {told}");
    }
    daemon.wait_for("closed after a reload: denied on module m");
    // The other one has seen all of it.
    let mut stays = stays;
    let ping = stays.session.frame(&Ping { token: 7 }.into(), Vec::new());
    stays.agent.write(&ping.expect("a frame"));
    let answer = stays.agent.receive().expect("open");
    let answer = stays.session.handle(&answer).expect("in order");
    assert_eq!(answer, Pong { token: 7 }.into());
}

#[test]
fn a_reload_takes_effect_and_a_broken_one_changes_nothing() {
    let site = Site::new();
    let path = site.module("m");
    let daemon = Daemon::start(&site, &format!("[m]\npath = {path}\n"));
    let code = |module: &str| {
        let agent = Agent::connect(&site, daemon.port).expect("TLS");
        refused(agent.ask(hello(module), None)).0
    };
    assert_eq!(code("new"), RejectCode::UnknownModule);
    site.configure(&format!("[m]\npath = {path}\n[new]\npath = {path}\n"));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("configuration reloaded");
    assert_eq!(code("new"), RejectCode::ReadOnly);

    site.configure("= broken\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("not reloaded");
    assert_eq!(code("new"), RejectCode::ReadOnly);

    site.configure(&format!("[m]\npath = {path}\n"));
    std::fs::write(site.path().join("server.pem"), "no certificate").expect("write");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("`tls cert file`");
    assert_eq!(code("new"), RejectCode::ReadOnly);
    assert_eq!(daemon.end(rustix::process::Signal::INT), Some(0));
}
