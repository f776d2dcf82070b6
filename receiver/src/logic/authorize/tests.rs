//! Requests against small configurations.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::super::rsyncd_conf::{ConfigSource, Entry as ConfigEntry, Reading, SourceError, load};
use super::login::{DECOY, combined};
use super::*;
use crate::logic::secrets::Secrets;

struct Text1<'a>(&'a str);

impl ConfigSource for Text1<'_> {
    fn read(&mut self, _: &[u8]) -> Result<ConfigEntry, SourceError> {
        Ok(ConfigEntry::File(self.0.as_bytes().to_vec()))
    }
}

struct Nothing;

impl Resolver for Nothing {
    fn reverse(&self, _: IpAddr) -> Option<Vec<u8>> {
        None
    }
    fn forward(&self, _: &[u8]) -> Vec<IpAddr> {
        Vec::new()
    }
    fn netgroup_holds(&self, _: &[u8], _: &[u8]) -> Option<bool> {
        None
    }
    fn interface(&self, _: &[u8]) -> Option<u32> {
        None
    }
}

impl Accounts for Nothing {
    fn groups_of(&self, _: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

fn config(text: &str) -> Config {
    load(
        &mut Text1(text),
        b"r.conf",
        &Variables::new(),
        Reading::Strict,
    )
    .expect(text)
    .config
}

fn ask(config: &Config, slots: &Slots, names: &[&str], purpose: Purpose) -> Admission {
    let identities: Vec<_> = names
        .iter()
        .map(|name| CertIdentity::Dns((*name).to_owned()))
        .collect();
    let request = Request {
        peer: PeerAddr::new(IpAddr::from([10, 0, 0, 9]), 0),
        identities: &identities,
        module: b"m",
        user: Some(b"alice"),
        purpose,
    };
    let world = World {
        resolver: &Nothing,
        accounts: &Nothing,
        slots,
        journal: &Journal::default(),
    };
    admit(config, &request, &world)
}

fn refusal(admission: Admission) -> Refusal {
    match admission {
        Admission::Decided(Authorization::Refusal(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn log_in(admission: Admission, secrets: &str, password: &[u8]) -> (Authorization, usize) {
    let Admission::Challenge(pending) = admission else {
        panic!("no challenge: {admission:?}");
    };
    let secrets = Secrets::new(Zeroizing::new(secrets.as_bytes().to_vec()));
    let mut tries = 0;
    let decided = pending.finish(Ok(&secrets), |candidate| {
        tries += 1;
        candidate == password
    });
    (decided, tries)
}

const OPEN: &str = "[m]\npath = /srv/m/\nread only = no\nallow any certificate = yes\n";

#[test]
fn refusals_speak_as_rsync_does() {
    let slots = Slots::default();
    let mirror = |lines: &str| {
        refusal(ask(
            &config(&format!("{OPEN}{lines}")),
            &slots,
            &[],
            Purpose::Mirror,
        ))
    };
    let denied = mirror("hosts allow = 10.0.0.1\n");
    assert_eq!(denied.code, RejectCode::HostDenied);
    assert_eq!(denied.text, "access denied to m from UNKNOWN (10.0.0.9)");
    let hidden = mirror("hosts allow = 10.0.0.1\nlist = no\n");
    assert_eq!(hidden.text, "Unknown module 'm'");
    assert!(hidden.log.starts_with("denied on module m"));
    assert_eq!(
        mirror("max connections = -1\n").text,
        "max connections (-1) reached -- try again later"
    );
    assert_eq!(mirror("read only = yes\n").text, "module is read only");
    assert_eq!(mirror("path =\n").text, "no path setting.");
}

#[test]
fn a_refused_module_is_not_served_and_hosts_come_first() {
    let slots = Slots::default();
    let open = config("[m]\npath = /srv\nread only = no\nmax connections = -1\n");
    let refused = refusal(ask(&open, &slots, &["web"], Purpose::Mirror));
    assert_eq!(refused.code, RejectCode::ModuleUnavailable);
    assert_eq!(refused.text, "module m is not available");
    assert!(
        refused.log.contains("r.conf:1:1: refused: [m] is writable"),
        "{}",
        refused.log
    );
    let hooked = config("[m]\npath = /srv\npre-xfer exec = /bin/check\nhosts deny = *\n");
    let denied = refusal(ask(&hooked, &slots, &["web"], Purpose::Compare));
    assert_eq!(denied.code, RejectCode::HostDenied);
}

#[test]
fn certificates_come_after_hosts_and_before_the_limit() {
    let slots = Slots::default();
    let certs = config(&format!(
        "{OPEN}client certs = web:ro db\nmax connections = 1\n"
    ));
    assert_eq!(
        refusal(ask(&certs, &slots, &["mail"], Purpose::Mirror)).code,
        RejectCode::CertificateDenied
    );
    assert_eq!(
        refusal(ask(&certs, &slots, &["web"], Purpose::Mirror)).code,
        RejectCode::ReadOnly
    );
    let held = ask(&certs, &slots, &["db"], Purpose::Mirror);
    assert!(
        matches!(&held, Admission::Decided(Authorization::Grant(grant)) if grant.root == b"/srv/m")
    );
    assert_eq!(
        refusal(ask(&certs, &slots, &["db"], Purpose::Mirror)).code,
        RejectCode::TooManyConnections
    );
    drop(held);
    assert!(matches!(
        ask(&certs, &slots, &["db"], Purpose::Mirror),
        Admission::Decided(Authorization::Grant(_))
    ));
}

#[test]
fn the_strictest_of_certificate_and_user_counts() {
    let rw = Some(Access::ReadWrite);
    let ro = Some(Access::ReadOnly);
    assert_eq!(combined(true, None, None), Access::ReadOnly);
    assert_eq!(combined(false, None, None), Access::ReadWrite);
    assert_eq!(combined(true, rw, None), Access::ReadWrite);
    assert_eq!(combined(true, None, rw), Access::ReadWrite);
    assert_eq!(combined(false, ro, rw), Access::ReadOnly);
    assert_eq!(combined(false, rw, ro), Access::ReadOnly);
}

#[test]
fn each_login_takes_two_tries_whoever_it_is() {
    let slots = Slots::default();
    for (users, secrets, granted) in [
        ("alice", "alice:pw\n", true),
        ("alice", "alice:other\n", false),
        ("alice", "", false),
        ("alice", "alice:\n", false),
        ("bob", "alice:pw\n", false),
        ("alice:deny", "alice:pw\n", false),
    ] {
        let text = format!("{OPEN}auth users = {users}\nsecrets file = /s\n");
        let admission = ask(&config(&text), &slots, &[], Purpose::Mirror);
        let (decided, tries) = log_in(admission, secrets, b"pw");
        assert_eq!(
            matches!(decided, Authorization::Grant(_)),
            granted,
            "{users} {secrets}"
        );
        assert_eq!(tries, 2);
        if let Authorization::Refusal(refusal) = decided {
            assert_eq!(refusal.text, "auth failed on module m");
        }
    }
}

#[test]
fn the_decoy_opens_nothing() {
    let slots = Slots::default();
    for (users, secrets) in [("bob", ""), ("alice", ""), ("alice", "alice:pw\n")] {
        let text = format!("{OPEN}auth users = {users}\nsecrets file = /s\n");
        let admission = ask(&config(&text), &slots, &[], Purpose::Mirror);
        let (decided, _) = log_in(admission, secrets, DECOY);
        assert!(
            matches!(decided, Authorization::Refusal(_)),
            "{users} {secrets}"
        );
    }
}

#[test]
fn a_list_that_comes_to_nothing_refuses() {
    let slots = Slots::default();
    let variables = Variables::new().with(b"WHO", b"");
    let text = format!("{OPEN}auth users = %WHO%\n");
    let config = load(&mut Text1(&text), b"r.conf", &variables, Reading::Strict)
        .expect("usable")
        .config;
    let refused = refusal(ask(&config, &slots, &[], Purpose::Mirror));
    assert_eq!(refused.code, RejectCode::ModuleUnavailable);
}

#[test]
fn modules_with_one_lock_file_share_its_first_slots() {
    let slots = Slots::default();
    let first = slots.take(b"l", 2).expect("free").expect("a slot");
    assert_eq!(slots.take(b"l", 1).map(|_| ()), Err(NoSlot::Full));
    let second = slots.take(b"l", 2).expect("free").expect("a slot");
    drop(first);
    assert_eq!(second.number, 1);
    let again = slots.take(b"l", 1).expect("free").expect("a slot");
    assert_eq!(again.number, 0);
    assert!(slots.take(b"other", 1).is_ok());
    assert!(matches!(slots.take(b"l", 0), Ok(None)));
    assert_eq!(slots.take(b"l", -1).map(|_| ()), Err(NoSlot::Full));
}

#[test]
fn a_variable_cannot_lead_up() {
    let slots = Slots::default();
    let text =
        OPEN.replace("/srv/m/", "/srv/%RSYNC_USER_NAME%") + "auth users = **\nsecrets file = /s\n";
    let config = config(&text);
    for (user, root) in [
        ("alice", Some("/srv/alice")),
        ("..", None),
        ("a/../../etc", None),
    ] {
        let request = Request {
            peer: PeerAddr::new(IpAddr::from([10, 0, 0, 9]), 0),
            identities: &[],
            module: b"m",
            user: Some(user.as_bytes()),
            purpose: Purpose::Mirror,
        };
        let world = World {
            resolver: &Nothing,
            accounts: &Nothing,
            slots: &slots,
            journal: &Journal::default(),
        };
        let secrets = format!("{user}:pw\n");
        let (decided, _) = log_in(admit(&config, &request, &world), &secrets, b"pw");
        let found = match &decided {
            Authorization::Grant(grant) => std::str::from_utf8(&grant.root).ok(),
            Authorization::Refusal(_) => None,
        };
        assert_eq!(found, root, "{user}");
    }
}

#[test]
fn texts_fit_into_a_message() {
    let slots = Slots::default();
    let config = config(OPEN);
    let request = Request {
        peer: PeerAddr::new(IpAddr::from([10, 0, 0, 9]), 0),
        identities: &[],
        module: &[0xff; 4_000],
        user: None,
        purpose: Purpose::Mirror,
    };
    let world = World {
        resolver: &Nothing,
        accounts: &Nothing,
        slots: &slots,
        journal: &Journal::default(),
    };
    let refused = refusal(admit(&config, &request, &world));
    assert!(refused.text.len() <= TEXT_BYTES_MAX);
}
