//! Certificates: whoever is refused because of one is told why, on both sides.

use certs_dev::{Authority, Issued, Request, Role, Validity};
use syncd_tests::{Process, Receiver, Sandbox};

use crate::common::{LONG, code, once};
use crate::fake;

/// A receiver as it should be, and what an agent with this certificate is told.
#[track_caller]
fn refused_agent(issued: impl FnOnce(&Sandbox) -> Issued, told: &[&str], logged: &str) {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.src().join("file"), "content").expect("write");
    let receiver = sandbox.receiver().start();
    let issued = issued(&sandbox);
    let agent = sandbox.agent(&receiver).identity(&issued);
    once(&sandbox, &agent, "sync").expect(code::FAILED, told);
    receiver.wait_line(LONG, logged);
    assert_untouched(&sandbox);
}

/// A receiver with this certificate, and what an agent as it should be says of it.
#[track_caller]
fn refused_receiver(request: Request, told: &[&str], logged: &str) {
    let mut sandbox = Sandbox::new();
    let request = request.file_stem("odd");
    sandbox.authority().issue(&request).expect("certificate");
    let at = |end: &str| {
        sandbox
            .certs()
            .join(format!("odd.{end}"))
            .display()
            .to_string()
    };
    let (cert, key) = (at("pem"), at("key"));
    let globals = sandbox.conf().globals();
    globals.set("tls cert file", cert).set("tls key file", key);
    let receiver = sandbox.receiver().start();
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::FAILED, told);
    receiver.wait_line(LONG, logged);
}

fn issue(sandbox: &Sandbox, request: &Request) -> Issued {
    sandbox.authority().issue(request).expect("certificate")
}

fn other_authority(sandbox: &Sandbox) -> Authority {
    Authority::create(sandbox.path().join("elsewhere")).expect("authority")
}

/// Not one byte of a module is touched before everybody has said yes.
#[track_caller]
pub(crate) fn assert_untouched(sandbox: &Sandbox) {
    let entries: Vec<_> = std::fs::read_dir(sandbox.dst())
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert!(entries.is_empty(), "in the module: {entries:?}");
}

#[test]
fn an_agent_of_another_authority() {
    let issued = |sandbox: &Sandbox| {
        let other = other_authority(sandbox);
        other.issue_agent("agent").expect("certificate")
    };
    let told = [
        "the receiver refused our certificate",
        "-> use a certificate issued by the receiver's `tls ca file`",
    ];
    refused_agent(issued, &told, "closed: ");
}

/// What an agent sees wrong with its own certificate it says before it calls anybody: a matter of configuration.
#[test]
fn an_agent_certificate_that_nobody_would_accept() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    for (request, told, hint) in [
        (
            Request::agent("late").validity(Validity::Expired),
            "late.pem expired on 2",
            "-> have a new certificate issued",
        ),
        (
            Request::agent("early").validity(Validity::NotYet),
            "early.pem is not valid before 2",
            "-> check the clock of this machine",
        ),
        (
            Request::agent("server-like").role(Role::Server),
            "server-like.pem",
            "-> have it issued for client authentication",
        ),
    ] {
        let issued = issue(&sandbox, &request);
        let agent = sandbox.agent(&receiver).identity(&issued);
        once(&sandbox, &agent, "sync").expect(code::CONFIG, &[told, hint]);
    }
    assert_untouched(&sandbox);
}

/// The receiver's own judgement of the same, of an agent that does not look.
#[test]
fn a_client_certificate_that_has_expired_or_is_for_servers() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    for (request, logged) in [
        (Request::agent("late").validity(Validity::Expired), "xpired"),
        (Request::agent("early").validity(Validity::NotYet), "alid"),
        (
            Request::agent("server-like").role(Role::Server),
            "key usage",
        ),
    ] {
        let issued = issue(&sandbox, &request);
        fake::expect_no_session(&sandbox, receiver.port(), &issued);
        let line = receiver.wait_line(LONG, logged);
        assert!(line.contains("closed: "), "{line}");
    }
    assert_untouched(&sandbox);
}

#[test]
fn a_revoked_agent_certificate() {
    let mut sandbox = Sandbox::new();
    let issued = issue(&sandbox, &Request::agent("lost"));
    let list = sandbox.authority().revoke(&[&issued]).expect("list");
    sandbox.conf().globals().set("tls crl file", list.display());
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).identity(&issued);
    let told = [
        "the receiver refused our certificate as revoked",
        "-> have a new",
    ];
    once(&sandbox, &agent, "sync").expect(code::FAILED, &told);
    receiver.wait_line(LONG, "evoked");
    assert_untouched(&sandbox);
    // The others come in as before.
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &[]);
}

#[test]
fn an_agent_that_trusts_another_authority() {
    let sandbox = Sandbox::new();
    let other = other_authority(&sandbox);
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).ca(other.cert_path());
    let told = [
        "the receiver's certificate does not come from our authority",
        "-> check that --ca is the authority",
    ];
    once(&sandbox, &agent, "sync").expect(code::FAILED, &told);
    receiver.wait_line(LONG, "closed: ");
    assert_untouched(&sandbox);
}

#[test]
fn an_expired_receiver_certificate() {
    let request = Request::server(&[""; 0]).validity(Validity::Expired);
    let told = [
        "the receiver's certificate expired on 2",
        "-> have the receiver's certificate renewed",
    ];
    refused_receiver(request, &told, "closed: ");
}

#[test]
fn a_receiver_certificate_of_another_host() {
    let request = Request::server(&[""; 0]).names(&["backup.example"]);
    let told = [
        "is for ",
        "backup.example, not for ",
        "-> use a name that is in it",
    ];
    refused_receiver(request, &told, "closed: ");
}

#[test]
fn a_receiver_with_a_certificate_for_agents() {
    let request = Request::server(&[""; 0]).role(Role::Agent);
    let told = [
        "the receiver's certificate is not for servers",
        "-> have it issued for server",
    ];
    refused_receiver(request, &told, "closed: ");
}

/// A daemon does not give up: it says so, and its status does too, and it gets in once it may.
#[test]
fn a_running_agent_says_failed_until_somebody_acts() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.src().join("file"), "content").expect("write");
    let receiver = sandbox.receiver().start();
    let issued = other_authority(&sandbox)
        .issue_agent("agent")
        .expect("certificate");
    let agent = sandbox.agent(&receiver).identity(&issued).start();
    syncd_tests::wait_until(LONG, "the status says refused", || {
        let target = crate::common::target_of(&agent);
        target["state"] == "refused"
            && target["last_error"]["text"]
                .as_str()
                .is_some_and(|text| text.contains("the receiver refused our certificate"))
    });
    let status = agent.control().status().expect("status");
    assert_eq!(status["verdict"], "failed");
    assert_refusal_logged(&agent, &receiver);
    assert_untouched(&sandbox);
}

fn assert_refusal_logged(agent: &Process, receiver: &Receiver) {
    agent.wait_line(LONG, "not connected: the receiver refused our certificate");
    receiver.wait_line(LONG, "closed: ");
}

/// As the operations guide has it: first both authorities are trusted, then the certificates are replaced one after the
/// other, then the old authority is not trusted any more. Nobody is ever shut out but who has an old certificate.
#[test]
fn certificates_and_their_authority_are_replaced() {
    use rustix::process::Signal;
    let sandbox = Sandbox::new();
    let certs = sandbox.certs();
    let receiver = sandbox.receiver().start();
    let builder = sandbox.agent(&receiver);
    let old = sandbox.authority().issue_agent("old").expect("certificate");
    let other = other_authority(&sandbox);
    let write = |name: &str, text: &str| std::fs::write(certs.join(name), text).expect("write");
    let take = |issued: &Issued, name: &str| {
        for (from, end) in [(&issued.cert_path, "pem"), (&issued.key_path, "key")] {
            std::fs::copy(from, certs.join(format!("{name}.{end}"))).expect("copy");
        }
    };
    let mut reloads = 0;
    let mut reload = || {
        receiver.signal(Signal::HUP);
        reloads += 1;
        syncd_tests::wait_until(LONG, "it is reloaded", || {
            receiver.log().matches("configuration reloaded").count() == reloads
        });
    };
    let mut agent = builder.start();
    let mut number = 0;
    let mut goes_on = |agent: &syncd_tests::Agent| {
        number += 1;
        let path = sandbox.src().join(format!("file-{number}"));
        std::fs::write(path, "content").expect("write");
        agent.wait_synced(LONG);
        sandbox.assert_equal();
    };
    goes_on(&agent);
    let both = [sandbox.authority().cert_pem(), other.cert_pem()].concat();
    write("ca.pem", &both);
    reload();
    goes_on(&agent);
    drop(agent);
    agent = builder.start();
    goes_on(&agent);
    take(
        &other.issue_server(&[""; 0]).expect("certificate"),
        "server",
    );
    reload();
    // The session that is there goes on, and a new one is made with the new certificate.
    goes_on(&agent);
    receiver.kill_workers();
    goes_on(&agent);
    take(&other.issue_agent("agent").expect("certificate"), "agent");
    drop(agent);
    agent = builder.start();
    goes_on(&agent);
    write("ca.pem", other.cert_pem());
    reload();
    goes_on(&agent);
    drop(agent);
    agent = builder.start();
    goes_on(&agent);
    // Who still has an old one is refused.
    let late = once(&sandbox, &builder.clone().identity(&old), "verify");
    late.expect(code::FAILED, &["the receiver refused our certificate"]);
}
