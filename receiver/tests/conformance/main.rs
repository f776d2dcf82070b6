//! The verdicts of a real rsync daemon (`tests/vectors/conformance`) against ours, without sockets.
//!
//! Each vector's configuration is read as rsync reads it; names, accounts and files are those of the
//! vector. What differs must stand in [`STRICTER`], with the reason, and must be a refusal of ours
//! where rsync lets somebody in. Vectors about rsync's own login dialogue are counted apart.

mod lab;

use std::collections::BTreeSet;

use serde_json::Value;
use syncd_recv::logic::chmod::Chmod;
use syncd_recv::logic::rsyncd_conf::Reading;

use lab::{Lab, Topic, list, octal, text};

/// Vectors where rsync lets somebody in and we do not, and why.
const STRICTER: &[(&str, &str)] = &[
    ("auth-sf-empty-password-1", EMPTY_PASSWORD),
    ("auth-sf-empty-password-2", EMPTY_PASSWORD),
];

const EMPTY_PASSWORD: &str = "a line with an empty password lets nobody in";

/// Vectors on the bytes of rsync's login, which is not spoken here: the password is proved with one
/// fixed keyed hash, so there is no digest to negotiate and no answer in text.
const OTHER_DIALOGUE: &[&str] = include!("../../../tests/vectors/other_dialogue.in");

/// Vectors that are refused for another of two reasons, and which.
const OTHER_REASON: &[(&str, &str)] = &[(
    "syntax-tail-of-line",
    "read only is told before the directory is looked for",
)];

/// Vectors whose file the strict reading refuses although rsync lets the client in: what it is for.
const STRICTLY_REFUSED: &[(&str, &str)] = &[
    ("auth-typo-auth-user", "`auth user` is a near miss"),
    ("auth-typo-underscore", "`auth_users` is a near miss"),
    (
        "hosts-name-like-typo-param-127.0.0.9",
        "`host allow` is a near miss",
    ),
    (
        "hosts-underscore-param-127.0.0.9",
        "`hosts_allow` is a near miss",
    ),
    ("syntax-upload-only-typo", "`read olny` is a near miss"),
    ("syntax-bom-list", "a byte-order mark"),
    ("syntax-bom-comment", "a byte-order mark"),
];

#[test]
fn hosts_are_decided_as_rsync_does() {
    run("hosts", 284);
}

#[test]
fn logins_are_decided_as_rsync_does() {
    run("auth", 236);
}

#[test]
fn strict_modes_are_decided_as_rsync_does() {
    run("strict", 49);
}

#[test]
fn access_is_decided_as_rsync_does() {
    run("access", 67);
}

#[test]
fn files_are_read_as_rsync_does() {
    run("syntax", 284);
}

#[test]
fn modes_are_changed_as_rsync_does() {
    let topic = Topic::read("chmod");
    for vector in topic.vectors() {
        let lab = Lab::new(&topic, vector);
        let loaded = lab.load(Reading::AsRsync).expect("usable");
        let text = loaded.config.modules[0].incoming_chmod.as_ref();
        let chmod = text.and_then(|text| {
            let text = text.value.expand(&loaded.config.variables);
            Chmod::parse(&text).ok()
        });
        let client = &vector["client"];
        let keeps_modes = list(&client["options"]).contains(&b"-p".to_vec());
        let arrives = |mode: &Value, is_directory| {
            let mode = octal(mode) & if keeps_modes { 0o7777 } else { 0o7755 };
            let changed = chmod
                .as_ref()
                .map(|chmod| chmod.apply(mode, is_directory, 0o022));
            format!("{:04o}", changed.unwrap_or(mode))
        };
        let expect = &vector["expect"];
        let directory = arrives(&client["dir_mode"], true);
        let file = arrives(&client["file_mode"], false);
        assert_eq!(expect["result"]["mode"], directory, "{}", vector["id"]);
        assert_eq!(expect["result_inside"]["mode"], file, "{}", vector["id"]);
    }
    println!("chmod: {} vectors, all equal", topic.vectors().len());
}

/// Read strictly, and with any certificate allowed, everything else stays as it is.
#[test]
fn the_strict_reading_refuses_only_what_fails_open() {
    let mut refused = BTreeSet::new();
    let mut total = 0;
    for name in ["hosts", "auth", "strict", "access", "syntax"] {
        let topic = Topic::read(name);
        for vector in topic.vectors() {
            let lab = Lab::new(&topic, vector);
            let loose = lab.outcome(Reading::AsRsync);
            let strict = lab.outcome(Reading::Strict);
            total += 1;
            if loose.is_let_in() && !strict.is_let_in() {
                refused.insert(text(&vector["id"]));
            } else {
                assert_eq!(loose.is_let_in(), strict.is_let_in(), "{}", vector["id"]);
            }
        }
    }
    let listed: BTreeSet<_> = STRICTLY_REFUSED
        .iter()
        .map(|(id, _)| (*id).to_owned())
        .collect();
    assert_eq!(refused, listed);
    println!(
        "strict reading: refuses {} of {total} that would fail open",
        refused.len()
    );
}

fn run(name: &str, vectors: usize) {
    let topic = Topic::read(name);
    assert_eq!(
        topic.vectors().len(),
        vectors,
        "{name}: vectors are missing"
    );
    let (mut equal, mut stricter, mut other_reason, mut elsewhere) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for vector in topic.vectors() {
        let id = text(&vector["id"]);
        if OTHER_DIALOGUE.contains(&id.as_str()) {
            elsewhere += 1;
            continue;
        }
        let lab = Lab::new(&topic, vector);
        let expected = text(&vector["expect"]["outcome"]);
        let outcome = lab.outcome(Reading::AsRsync);
        let found = &outcome.kind;
        let listed = |list: &[(&str, &str)]| list.iter().any(|(listed, _)| *listed == id);
        if listed(STRICTER) && expected == "accepted" && !outcome.is_let_in() {
            println!("{id}: {found}, rsync: {expected}");
            stricter += 1;
        } else if listed(OTHER_REASON) && expected != "accepted" && !outcome.is_let_in() {
            println!("{id}: {found}, rsync: {expected}");
            other_reason += 1;
        } else if found != same_here(&expected) || listed(STRICTER) || listed(OTHER_REASON) {
            wrong.push(format!("{id}: {found}, rsync: {expected}"));
        } else {
            equal += 1;
            let words = outcome.words.filter(|words| !lab.says_the_same(words));
            wrong.extend(words.map(|words| format!("{id}: says \"{words}\"")));
        }
        wrong.extend(lab.differences());
    }
    println!(
        "{name}: {vectors} vectors, {equal} equal, {stricter} stricter, {other_reason} refused for another reason, \
         {elsewhere} on rsync's own dialogue"
    );
    assert!(
        wrong.is_empty(),
        "{name}: {} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Outcomes that have another name here.
fn same_here(outcome: &str) -> &str {
    match outcome {
        // A daemon that does not start and one that closes each connection serve as little.
        "daemon-start-failed" => "config-error",
        // Module names that begin with # are commands there, and no modules here.
        "unknown-command" => "unknown-module",
        other => other,
    }
}
