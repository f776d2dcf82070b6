//! What a run of `rsync -a --delete` leaves at the target, and what the rules say about it here: rules in
//! directories, above the source and in files that those name, with every modifier, by seed.
//!
//! Needs `rsync`; without it the tests pass with a word, unless `SYNCD_TESTS_REQUIRE=all` is set.
//! `SYNCD_FILTER_CASES=1-5000` asks for more cases.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use syncd_agent::logic::filter::{Filter, Origin, Rules, Scope, Statement};
use syncd_proto::path::WirePath;

use beside::{Rng, rsync_is_here};
use case::{Case, Paths};

#[path = "../beside/mod.rs"]
mod beside;
mod case;
mod texts;

const CASES: u64 = 200;

/// What is sent; here rules about whole paths are told apart by the place of the source.
#[test]
fn the_same_paths_are_sent() {
    if !rsync_is_here() {
        return;
    }
    compare(|seed| {
        let mut rng = Rng(seed);
        let case = Case::make(&mut rng, true);
        fs::remove_dir_all(case.dst()).unwrap();
        case.run_rsync(seed, &[]);
        let filter = case.compile();
        let mut ours = Paths::new();
        case.send(&filter, &mut ours);
        case.difference(&ours, seed)
    });
}

/// What is sent, what is removed and what stays.
#[test]
fn the_same_names_are_left_at_the_target() {
    if !rsync_is_here() {
        return;
    }
    compare(|seed| {
        let mut rng = Rng(seed + 1_000_000);
        let case = Case::make(&mut rng, false);
        let filter = case.compile();
        let mut sent = Paths::new();
        case.send(&filter, &mut sent);
        let mut ours = sent.clone();
        case.stay(&filter, &WirePath::root(), None, &sent, &mut ours);
        case.run_rsync(seed, &["--delete"]);
        case.difference(&ours, seed)
    });
}

/// Wildcards of any shape: a directory for each, with a rule of its own. What is refused here matches nothing there.
#[test]
fn wildcards_match_the_same_names() {
    if !rsync_is_here() {
        return;
    }
    let (first, last) = cases();
    let dir = tempfile::tempdir().unwrap();
    let (src, dst) = (dir.path().join("src"), dir.path().join("dst"));
    let mut patterns = Vec::new();
    for seed in first..=last {
        let pattern = random_wildcards(&mut Rng(seed + 2_000_000));
        let here = src.join(seed.to_string());
        fs::create_dir_all(&here).unwrap();
        for name in ODD_NAMES {
            fs::write(here.join(OsStr::from_bytes(name)), "").unwrap();
        }
        fs::write(here.join(".rules"), [b"- ", &pattern[..], b"\n"].concat()).unwrap();
        patterns.push((seed, pattern));
    }
    let side = |path: &Path| format!("{}/", path.display());
    let mut rsync = Command::new("rsync");
    rsync.args(["-r", "--filter=: .rules", &side(&src), &side(&dst)]);
    assert!(rsync.status().unwrap().success());
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for (seed, pattern) in patterns {
        let mut list = Rules::default();
        list.push(Statement::Exclude(pattern.clone()), Origin::option("x"));
        let compiled = Filter::compile(&list, &mut |_| Err("no file".to_owned()));
        refused += usize::from(compiled.is_err());
        let filter = compiled.unwrap_or_default();
        for name in ODD_NAMES {
            let path = Path::new(&seed.to_string()).join(OsStr::from_bytes(name));
            let path = WirePath::from_relative(&path).unwrap();
            let ours = filter.keeps(&path, false, &Scope::default());
            let there = dst.join(seed.to_string()).join(OsStr::from_bytes(name));
            if ours != there.exists() {
                let (pattern, name) = (pattern.escape_ascii(), name.escape_ascii());
                wrong.push(format!("{pattern} and {name}: ours {ours}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
    let all = usize::try_from(last - first + 1).unwrap();
    assert!(refused * 2 < all, "{refused} of {all} are no patterns");
}

const ODD_NAMES: [&[u8]; 26] = [
    b"a",
    b"b",
    b"ab",
    b"-",
    b"]",
    b"[",
    b"\\",
    b"!",
    b"^",
    b"a-b",
    b"a]",
    b"[a]",
    b"\\a",
    b"a\\b",
    b"*",
    b"?",
    b"aa",
    b"A",
    b"1",
    b":",
    b"[:alpha:]",
    b"\xff",
    b"a\xff",
    b" ",
    b"a b",
    b"aba",
];

fn random_wildcards(rng: &mut Rng) -> Vec<u8> {
    let parts: [&[u8]; 22] = [
        b"a",
        b"b",
        b"a",
        b"*",
        b"*",
        b"?",
        b"[a",
        b"[",
        b"]",
        b"]",
        b"[!",
        b"[^",
        b"-",
        b"\\",
        b"[[:alpha:]]",
        b"[:digit:]",
        b"[[:punct:]b]",
        b":",
        b"\xff",
        b"a-c",
        b"[]",
        b"\\]",
    ];
    let mut pattern = Vec::new();
    for _ in 0..=rng.below(5) {
        pattern.extend_from_slice(parts[rng.below(parts.len() as u64) as usize]);
    }
    pattern
}

/// Goes through the cases; the shortest story of those that differ is told.
#[track_caller]
fn compare(difference: impl Fn(u64) -> Option<String>) {
    let (first, last) = cases();
    let differences: Vec<_> = (first..=last).filter_map(difference).collect();
    let shortest = differences.iter().min_by_key(|text| text.len());
    if let Some(shortest) = shortest {
        panic!("{} of {first}-{last} differ: {shortest}", differences.len());
    }
}

/// The first seed and the last.
fn cases() -> (u64, u64) {
    let asked = std::env::var("SYNCD_FILTER_CASES").ok();
    let asked = asked.as_deref().and_then(|text| {
        let (first, last) = text.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    asked.unwrap_or((1, CASES))
}
