//! Refusals: each says why on both sides, with its exit code, and touches nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;
use syncd_proto::reject::RejectCode;
use syncd_tests::require::Need;
use syncd_tests::sandbox::{MODULE, PASSWORD, free_port, write_private};
use syncd_tests::{Sandbox, require, wait_until};

use crate::common::{Disk, LONG, Mirror, Said, code, may_mount, noise, once, run, target_of};
use crate::fake;
use crate::tls::assert_untouched;

/// A receiver whose module is changed, and what a one-shot agent is told and the receiver logs.
#[track_caller]
fn refused(change: impl FnOnce(&mut Sandbox), told: &[&str], logged: &str) {
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.src().join("file"), "content").expect("write");
    change(&mut sandbox);
    let receiver = sandbox.receiver().start();
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::FAILED, told);
    let line = receiver.wait_line(LONG, logged);
    assert!(line.contains("127.0.0.1"), "{line}");
    assert_untouched(&sandbox);
}

#[test]
fn a_certificate_that_is_not_allowed_for_the_module() {
    refused(
        |sandbox| {
            sandbox.conf().module(MODULE).set("client certs", "db01");
        },
        &[
            "certificate not allowed",
            "module demo",
            "-> add this agent's certificate identity",
        ],
        "refused: ",
    );
}

#[test]
fn a_host_that_is_not_allowed() {
    refused(
        |sandbox| {
            sandbox
                .conf()
                .module(MODULE)
                .set("hosts allow", "192.0.2.0/24");
        },
        &[
            "host not allowed",
            "access denied to demo",
            "-> add this machine to the module's `hosts allow`",
        ],
        "refused: ",
    );
}

#[test]
fn a_wrong_password() {
    refused(
        |sandbox| write_private(&sandbox.password_file(), "wrong\n").expect("password"),
        &[
            "auth failed on module demo",
            "-> check user and password file",
        ],
        "password mismatch",
    );
}

#[test]
fn a_password_that_is_put_right_is_used_without_a_restart() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    write_private(&sandbox.password_file(), "wrong\n").expect("password");
    fs::write(sandbox.src().join("f"), "waits").expect("write");
    let agent = sandbox.agent(&receiver).start();
    wait_until(LONG, "it is refused", || {
        target_of(&agent)["state"] == "refused"
    });
    write_private(&sandbox.password_file(), &format!("{PASSWORD}\n")).expect("password");
    agent.wait_synced(LONG);
    sandbox.assert_equal();
}

#[test]
fn a_module_that_is_read_only() {
    refused(
        |sandbox| {
            sandbox.conf().module(MODULE).set("read only", "yes");
        },
        &["refused: module is read only\n", "-> set `read only = no`"],
        "read only",
    );
}

#[test]
fn a_module_whose_path_is_missing() {
    refused(
        |sandbox| {
            let missing = sandbox.path().join("nowhere");
            sandbox.conf().module(MODULE).set("path", missing.display());
        },
        &["module unavailable", "-> check the module's path"],
        "refused: ",
    );
}

#[test]
fn a_module_nobody_knows() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let agent = sandbox
        .agent(&receiver)
        .destination("mirror@localhost::Demo");
    let told = [
        "unknown module",
        "'Demo'",
        "-> check the module's name (case counts)",
    ];
    once(&sandbox, &agent, "sync").expect(code::FAILED, &told);
    receiver.wait_line(LONG, "refused: ");
    assert_untouched(&sandbox);
}

#[test]
fn no_password_where_one_is_wanted() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).destination("localhost::demo");
    once(&sandbox, &agent, "sync").expect(code::USAGE, &["a password file needs a user"]);
    assert_untouched(&sandbox);
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let mirror = Mirror::start();
    let second = mirror
        .sandbox
        .authority()
        .issue_agent("second")
        .expect("certificate");
    let agent = mirror.sandbox.agent(&mirror.receiver).identity(&second);
    // Not its own certificate: the one of who is there already.
    let told = [
        "another writer is connected",
        "agent/agent",
        "-> stop the other writer",
    ];
    once(&mirror.sandbox, &agent, "sync").expect(code::FAILED, &told);
    mirror.receiver.wait_line(LONG, "writes here already");
    // The first one is not disturbed.
    fs::write(mirror.src("after"), "still here").expect("write");
    mirror.settle();
}

#[test]
fn no_receiver() {
    let sandbox = Sandbox::new();
    let agent = sandbox.agent_to(free_port());
    let told = ["cannot reach localhost", "-> start syncd-recv there"];
    once(&sandbox, &agent, "sync").expect(code::FAILED, &told);
    once(&sandbox, &agent, "verify").expect(code::FAILED, &told);
}

#[test]
fn an_agent_of_a_version_to_come() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let refused = fake::hello_in(&sandbox, receiver.port(), (7, 9));
    assert_eq!(refused.code, RejectCode::Version);
    for part in ["version 1", "7 to 9", "upgrade the older side"] {
        assert!(refused.text.contains(part), "{}", refused.text);
    }
    receiver.wait_line(LONG, "7 to 9");
    assert_untouched(&sandbox);
}

#[test]
fn a_receiver_of_a_version_to_come() {
    let sandbox = Sandbox::new();
    let text = "this receiver speaks protocol version 7, the agent 1 to 1";
    let (port, peer) = fake::refusing(&sandbox, RejectCode::Version, text);
    let told = ["version not supported", text, "-> upgrade the older side"];
    once(&sandbox, &sandbox.agent_to(port), "sync").expect(code::FAILED, &told);
    peer.join().expect("the other receiver");
}

#[test]
fn strangers_on_the_port() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    for (words, logged) in [
        (&b"@RSYNCD: 32.0 sha512 sha256\n"[..], "an rsync client"),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "an HTTP client",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "an SSH client"),
        (b"\0\x01\x02 something else", "not TLS"),
    ] {
        let mut stream = TcpStream::connect(receiver.address()).expect("connect");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        stream.write_all(words).expect("write");
        receiver.wait_line(LONG, logged);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        assert!(answer.is_empty(), "{}", answer.escape_ascii());
    }
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &[]);
}

#[test]
fn an_rsync_daemon_on_the_port() {
    let sandbox = Sandbox::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let _ = stream.write_all(b"@RSYNCD: 32.0 sha512 sha256 sha1 md5 md4\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let told = ["what answers there does not speak TLS", "-> check the port"];
    once(&sandbox, &sandbox.agent_to(port), "sync").expect(code::FAILED, &told);
    daemon.join().expect("the daemon");
}

#[test]
fn a_full_disk_is_said_and_waited_for() {
    let there = rustix::process::geteuid().is_root() && may_mount();
    if !require(&[Need::Other("a tmpfs may be mounted", there)]) {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = Disk::on(&sandbox.dst(), 8);
    // In the way, and not the agent's: outside of its sub-path.
    fs::create_dir(sandbox.dst().join("mirror")).expect("mkdir");
    fs::write(sandbox.dst().join("ballast"), noise(6 << 20, 1)).expect("ballast");
    let receiver = sandbox.receiver().start();
    let agent = sandbox
        .agent(&receiver)
        .destination("mirror@localhost::demo/mirror")
        .start();
    fs::write(sandbox.src().join("small"), "fits").expect("write");
    fs::write(sandbox.src().join("large"), noise(4 << 20, 2)).expect("write");
    wait_until(LONG, "the status says what is wrong", || {
        let target = target_of(&agent);
        says_no_space(&target)
    });
    let status = agent.control().status().expect("status");
    assert_eq!(status["verdict"], "degraded", "{status}");
    assert!(!sandbox.dst().join("mirror/large").exists());
    let said = status_command(&sandbox, &agent);
    assert_eq!(said.exit, code::DEGRADED, "{}", said.text);
    fs::remove_file(sandbox.dst().join("ballast")).expect("make room");
    agent.wait_synced(LONG);
    let copy = fs::read(sandbox.dst().join("mirror/large")).expect("read");
    assert!(copy == noise(4 << 20, 2), "not the content");
    let status = agent.control().status().expect("status");
    assert_eq!(status["verdict"], "in_sync", "{status}");
    drop((agent, receiver, disk));
}

#[test]
fn removals_beyond_max_delete_are_refused_and_shown_until_it_is_raised() {
    let mut sandbox = Sandbox::new();
    for name in ["a", "b", "c"] {
        fs::write(sandbox.src().join(name), name).expect("write");
    }
    sandbox.conf().module(MODULE).set("max delete", "2");
    let mut mirror = Mirror::of(sandbox);
    for name in ["a", "b", "c"] {
        fs::remove_file(mirror.src(name)).expect("remove");
    }
    fs::write(mirror.src("new"), "goes on").expect("write");
    wait_until(LONG, "the status says what is held", || {
        mirror.target()["failed"].as_array().is_some_and(|failed| {
            failed
                .iter()
                .any(|failed| failed.to_string().contains("`max delete` allows 2"))
        })
    });
    let said = status_command(&mirror.sandbox, &mirror.agent);
    assert_eq!(said.exit, code::DEGRADED, "{}", said.text);
    wait_until(LONG, "the rest goes on", || mirror.dst("new").exists());
    let left = ["a", "b", "c"].map(|name| mirror.dst(name).exists());
    assert!(left.contains(&true), "{left:?}");
    // Whoever has looked raises it: the session is taken up again by a worker that knows.
    mirror
        .sandbox
        .conf()
        .module(MODULE)
        .set("max delete", "100");
    mirror.sandbox.write_conf();
    mirror.receiver.signal(rustix::process::Signal::HUP);
    mirror.settle();
}

#[test]
fn what_a_rename_takes_the_place_of_counts_for_max_delete() {
    let mut sandbox = Sandbox::new();
    for name in ["new/f", "current/a", "current/b", "current/c"] {
        let path = sandbox.src().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, name).expect("write");
    }
    sandbox.conf().module(MODULE).set("max delete", "2");
    let mut mirror = Mirror::of(sandbox);
    fs::remove_dir_all(mirror.src("current")).expect("remove");
    fs::rename(mirror.src("new"), mirror.src("current")).expect("rename");
    wait_until(LONG, "the status says what is held", || {
        mirror.target()["failed"].as_array().is_some_and(|failed| {
            failed
                .iter()
                .any(|failed| failed.to_string().contains("`max delete`"))
        })
    });
    let left = ["a", "b", "c"].map(|name| mirror.dst("current").join(name).exists());
    let left = left.iter().filter(|left| **left).count();
    assert!(left >= 1, "at most two of three may go");
    mirror
        .sandbox
        .conf()
        .module(MODULE)
        .set("max delete", "100");
    mirror.sandbox.write_conf();
    mirror.receiver.signal(rustix::process::Signal::HUP);
    mirror.settle();
}

#[test]
fn what_the_module_hides_is_refused_shown_and_kept() {
    let mut sandbox = Sandbox::new();
    sandbox.conf().module(MODULE).set("exclude", "*.key /own/");
    fs::create_dir_all(sandbox.dst().join("own/deep")).expect("mkdir");
    fs::write(sandbox.dst().join("own/deep/file"), "the backup's own").expect("write");
    fs::write(sandbox.dst().join("host.key"), "the backup's own").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).start();
    fs::write(sandbox.src().join("plain"), "goes").expect("write");
    fs::write(sandbox.src().join("web.key"), "stays").expect("write");
    wait_until(LONG, "the status says what is refused", || {
        target_of(&agent)["failed"]
            .as_array()
            .is_some_and(|failed| {
                failed.iter().any(|failed| {
                    failed
                        .to_string()
                        .contains("daemon refused to receive file")
                })
            })
    });
    wait_until(LONG, "the rest goes on", || {
        sandbox.dst().join("plain").exists()
    });
    fs::remove_file(sandbox.src().join("web.key")).expect("remove");
    agent.wait_synced(LONG);
    for name in ["own/deep/file", "host.key", "plain"] {
        assert!(sandbox.dst().join(name).exists(), "{name}");
    }
    assert!(!sandbox.dst().join("web.key").exists());
}

fn says_no_space(target: &Value) -> bool {
    let told = |text: &Value| {
        text.as_str()
            .is_some_and(|text| text.to_lowercase().contains("no space"))
    };
    let failed = target["failed"].as_array().is_some_and(|failed| {
        failed
            .iter()
            .any(|failed| told(&failed["code"]) || told(&failed["text"]))
    });
    failed || told(&target["last_error"]["text"])
}

fn status_command(sandbox: &Sandbox, agent: &syncd_tests::Agent) -> Said {
    let mut command = Command::new(&syncd_tests::Binaries::locate().agent);
    command
        .arg("status")
        .arg("--control")
        .arg(agent.control().path());
    run(sandbox, &mut command)
}
