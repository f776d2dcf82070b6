//! Configurations by chance: whom a real `rsync --daemon` lets in, and whom it turns away and why, `syncd-recv` does too.
//!
//! Each is put to both daemons in the same world, one after the other, with several clients. What differs on purpose
//! ([`crate::known`]) is not asked for: no parameter is misspelt, no password empty, no netgroup named.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};
use syncd_tests::require::{Need, require};
use syncd_tests::workload::Rng;

use crate::lab::{Lab, Met};
use crate::vectors::Topic;
use crate::{FIRST_PORT, known, names, ours, theirs, world};

/// Configurations of each kind, and where they start.
const COUNT: &str = "SYNCD_COMPAT_CHANCES";
const SEED: &str = "SYNCD_COMPAT_SEED";

#[test]
fn configurations_by_chance_are_answered_alike() {
    if !require(&[Need::Other("rsync 3.5", is_the_recorded_version())]) {
        return;
    }
    let Some(dir) = world::inside() else {
        if let Some(status) = world::enter("chance::configurations_by_chance_are_answered_alike") {
            assert!(status.success(), "the answers differ: {status}");
        }
        return;
    };
    let number = |name: &str, usual: u64| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    let (count, seed) = (number(COUNT, 12), number(SEED, 1));
    names::serve(Topic::read("hosts").part("resolver").clone());
    let both = Both::new(PathBuf::from(dir));
    let mut tally = Tally::default();
    let kinds: [(&str, Make); 3] = [("hosts", hosts), ("logins", logins), ("files", files)];
    for (kind, make) in kinds {
        for at in 0..count {
            let mut rng = Rng::new(seed.wrapping_mul(1_000_003).wrapping_add(at));
            both.put(
                &format!("{kind} {}", seed + at),
                &make(&mut rng),
                &mut tally,
            );
        }
        println!("{kind}: {count} configurations, seed {seed}");
    }
    println!("{} clients, {} let in", tally.asked, tally.let_in);
    assert!(
        tally.wrong.is_empty(),
        "{} differ:\n{}",
        tally.wrong.len(),
        tally.wrong.join("\n")
    );
    assert!(
        tally.let_in > 0 && tally.let_in < tally.asked,
        "nothing is decided"
    );
}

/// Others answer some of this in another way.
fn is_the_recorded_version() -> bool {
    let output = Command::new("rsync").arg("--version").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"rsync  version 3.5."))
}

/// Makes one kind of configuration.
type Make = fn(&mut Rng) -> Case;

/// A configuration, the secrets file beside it, and clients: source, user and password.
struct Case {
    config: String,
    secrets: (String, &'static str),
    clients: Vec<(&'static str, Option<(String, String)>)>,
}

struct Both {
    dir: PathBuf,
    site: ours::Site,
    accounts: Topic,
    labs: AtomicU16,
}

#[derive(Default)]
struct Tally {
    asked: usize,
    let_in: usize,
    wrong: Vec<String>,
}

impl Both {
    fn new(dir: PathBuf) -> Self {
        Self {
            site: ours::Site::make(&dir.join("certs")),
            dir,
            accounts: Topic::read("hosts"),
            labs: AtomicU16::new(0),
        }
    }

    /// Asks both, and notes where they differ.
    fn put(&self, name: &str, case: &Case, tally: &mut Tally) {
        let vectors = case.vectors();
        let lab = self.lab(&vectors[0]);
        let daemon = theirs::Daemon::start(&lab, &vectors[0]);
        let theirs: Vec<_> = vectors
            .iter()
            .map(|vector| (daemon.ask(&lab, vector), landed(&lab, vector)))
            .collect();
        drop(daemon);
        let _ = fs::remove_dir_all(&lab.root);
        let lab = self.lab(&vectors[0]);
        let daemon = ours::Daemon::start(&self.site, &lab, &vectors[0]);
        for (vector, (theirs, landed_there)) in vectors.iter().zip(theirs) {
            let met = daemon.ask(&lab, vector);
            tally.asked += 1;
            tally.let_in += usize::from(landed_there);
            if is_same(&theirs, &met) && landed(&lab, vector) == landed_there {
                continue;
            }
            tally.wrong.push(format!(
                "{name}: {} ({}), rsync: {} ({})\n{}\n{}\n{:?}",
                met.outcome,
                met.message,
                theirs.outcome,
                theirs.message.trim_end(),
                vector["client"],
                case.config,
                case.secrets
            ));
        }
        drop(daemon);
        let _ = fs::remove_dir_all(&lab.root);
    }

    /// What an rsync daemon leaves behind may hold its port for a moment longer: each has its own.
    fn lab(&self, vector: &Value) -> Lab<'_> {
        let number = self.labs.fetch_add(1, Ordering::Relaxed);
        let root = self.dir.join(format!("chance-{number}"));
        Lab::make(&self.accounts, vector, root, FIRST_PORT + number)
    }
}

/// What a client of rsync cannot tell apart is the same.
fn is_same(theirs: &Met, ours: &Met) -> bool {
    let expected = known::same_here(&theirs.outcome);
    expected == ours.outcome || expected == known::same_there(&ours.outcome)
}

fn landed(lab: &Lab<'_>, vector: &Value) -> bool {
    lab.names_in_module().contains(&Lab::probe(vector))
}

impl Case {
    fn vectors(&self) -> Vec<Value> {
        let (text, mode) = &self.secrets;
        let files = json!([{ "path": "{ROOT}/secrets", "text": text, "mode": mode }]);
        let clients = self.clients.iter().enumerate();
        let vectors = clients.map(|(number, (source, login))| {
            let (user, password) = login.clone().unzip();
            json!({
                "id": format!("chance-{number}"),
                "config": self.config,
                "files": files,
                "client": { "source": source, "user": user, "password": password, "module": "m", "op": "push" },
            })
        });
        vectors.collect()
    }
}

/// Lists of hosts.
fn hosts(rng: &mut Rng) -> Case {
    let mut config = String::from("[m]\npath = {ROOT}/mod\nread only = no\n");
    for (name, chance) in [("hosts allow", 3), ("hosts deny", 3)] {
        if rng.below(4) < chance {
            config += &format!("{name} = {}\n", joined(rng, &PATTERNS, 4));
        }
    }
    for name in ["reverse lookup", "forward lookup"] {
        if rng.below(4) == 0 {
            config += &format!("{name} = no\n");
        }
    }
    let clients = (0..4).map(|_| (one(rng, &SOURCES), None));
    Case {
        clients: clients.collect(),
        config,
        secrets: (String::new(), "0600"),
    }
}

/// Lists of users, secrets and rights.
fn logins(rng: &mut Rng) -> Case {
    let mut config = format!(
        "[m]\npath = {{ROOT}}/mod\nread only = {}\nauth users = {}\nsecrets file = {{ROOT}}/secrets\n",
        one(rng, &["yes", "no"]),
        joined(rng, &USERS, 4)
    );
    if rng.below(4) == 0 {
        config += &format!("strict modes = {}\n", one(rng, &["yes", "no"]));
    }
    if rng.below(6) == 0 {
        config += "write only = yes\n";
    }
    let lines: Vec<_> = (0..1 + rng.below(5)).map(|_| one(rng, &SECRETS)).collect();
    let end = one(rng, &["\n", "", "\r\n"]);
    let mode = one(rng, &["0600", "0600", "0640", "0604", "0400"]);
    let clients = (0..4).map(|_| {
        let (user, password) = one(rng, &LOGINS);
        ("127.0.0.1", Some((user.to_owned(), password.to_owned())))
    });
    Case {
        clients: clients.collect(),
        config,
        secrets: (lines.join("\n") + end, mode),
    }
}

/// Lines as people write them, and as they do not.
fn files(rng: &mut Rng) -> Case {
    let mut config = String::new();
    for _ in 0..rng.below(4) {
        config += &line(rng);
    }
    config += one(
        rng,
        &["[m]\n", "[ m ]\n", "[M]\n", "  [m]\n", "[m] # here\n"],
    );
    config += one(
        rng,
        &[
            "path = {ROOT}/mod\n",
            "path={ROOT}/mod/\n",
            " Path\t=  {ROOT}/mod  \n",
        ],
    );
    for _ in 0..1 + rng.below(5) {
        config += &line(rng);
    }
    if rng.below(3) == 0 {
        config += one(
            rng,
            &[
                "[other]\npath = {ROOT}/mod\n",
                "[m]\n",
                "[ M ]\n",
                "&merge /nowhere\n",
            ],
        );
        config += &line(rng);
    }
    let clients = ["127.0.0.1", "127.0.1.10"].map(|source| (source, None));
    Case {
        clients: clients.to_vec(),
        config,
        secrets: (String::new(), "0600"),
    }
}

fn line(rng: &mut Rng) -> String {
    let name = one(rng, &NAMES);
    let value = one(rng, &VALUES);
    let filler = one(
        rng,
        &[
            "",
            "",
            "",
            "# a remark\n",
            "; another\n",
            "\n",
            "  \t\n",
            "\\\n",
        ],
    );
    match rng.below(8) {
        0 => format!("{filler}hosts deny = {}\n", joined(rng, &PATTERNS, 2)),
        1 => format!(
            "{filler}{name} = {}\\\n{value}\n",
            one(rng, &["", " ", "n", "y"])
        ),
        2 => format!("{filler}\t{name}={value}\r\n"),
        _ => format!("{filler}{name} = {value}\n"),
    }
}

fn one<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    *rng.pick(all).expect("one of them")
}

/// Some of them with anything between that separates them, or nearly.
fn joined(rng: &mut Rng, all: &[&str], most: u64) -> String {
    let mut text = String::new();
    for _ in 0..1 + rng.below(most) {
        text += one(rng, all);
        text += one(rng, &[" ", " ", ",", ", ", "\t", ",,"]);
    }
    text
}

const PATTERNS: [&str; 36] = [
    "*",
    "127.0.0.1",
    "127.0.1.10",
    "127.0.1.0/24",
    "127.0.1.10/31",
    "127.0.0.0/255.255.254.0",
    "127.0.0.0/255.0.255.0",
    "127.0.0.0/33",
    "127.0.0.0/-1",
    "127.0.0.0/",
    "127.0.0.0/0x8",
    "127.0.0.0/08",
    "127.1",
    "127.0.1.",
    "127.0.1.1?",
    "127.*",
    "0.0.0.0/0",
    "0.0.0.0/32",
    "::/0",
    "::1",
    "::1/128",
    "::ffff:127.0.0.1",
    "2001:db8::/32",
    "2001:DB8::10",
    "[::1]",
    "localhost",
    "LOCALHOST",
    "*.corp.example",
    "alpha.corp.example",
    "Alpha.Corp.Example",
    "[ab]*.corp.example",
    "corp.example",
    ".corp.example",
    "fwdonly.corp.example",
    "UNKNOWN",
    "unknown",
];

const SOURCES: [&str; 12] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.0.1.10",
    "127.0.1.11",
    "127.0.1.13",
    "127.0.1.14",
    "127.0.1.15",
    "127.0.1.16",
    "127.0.2.20",
    "::1",
    "2001:db8::10",
    "2001:db8::16",
];

const USERS: [&str; 24] = [
    "alice",
    "bob",
    "carol",
    "al*",
    "*",
    "b?b",
    "[a-c]*",
    "ALICE",
    "alice:ro",
    "alice:rw",
    "alice:deny",
    "bob:ro",
    "*:ro",
    "*:deny",
    "@backup",
    "@backup:ro",
    "@operators:rw",
    "@operators:deny",
    "@empty",
    "@nosuch",
    "alice:",
    "alice:RO",
    "@back*",
    "mallory:rw",
];

const SECRETS: [&str; 16] = [
    "alice:apw",
    "bob:bpw",
    "carol:cpw",
    "mallory:mpw",
    "alice:other",
    " alice:apw",
    "alice: apw",
    "alice:apw ",
    "alice:a:pw",
    "#alice:apw",
    "@backup:gpw",
    "@operators:opw",
    "*:star",
    "alice",
    "",
    "ALICE:apw",
];

const LOGINS: [(&str, &str); 16] = [
    ("alice", "apw"),
    ("alice", "other"),
    ("alice", " apw"),
    ("alice", "apw "),
    ("alice", "a:pw"),
    ("alice", "gpw"),
    ("alice", "wrong"),
    ("bob", "bpw"),
    ("bob", "gpw"),
    ("bob", "opw"),
    ("carol", "cpw"),
    ("carol", "opw"),
    ("mallory", "mpw"),
    ("ALICE", "apw"),
    ("nobody-here", "star"),
    ("*", "star"),
];

const NAMES: [&str; 14] = [
    "read only",
    "Read  Only",
    "READ ONLY",
    "readonly",
    "write only",
    "use chroot",
    "list",
    "strict modes",
    "max connections",
    "timeout",
    "comment",
    "fake super",
    "numeric ids",
    "hosts allow",
];

const VALUES: [&str; 16] = [
    "yes",
    "no",
    "No",
    "TRUE",
    "false",
    "0",
    "1",
    "2",
    "on",
    "",
    "no # remark",
    "\"no\"",
    "unset",
    "-1",
    " no ",
    "127.0.0.1",
];
