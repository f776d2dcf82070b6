//! The filter rules against rsync's own: trees and rules by seed, and both must choose the same paths.
//!
//! Needs `rsync`; without it the tests pass with a word, unless `SYNCD_TESTS_REQUIRE=all` is set.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use syncd_agent::logic::filter::{Filter, Origin, Rules, RulesFile, Scope, Statement};
use syncd_proto::path::WirePath;

use beside::{Rng, entries, rsync_is_here};

mod beside;

const CASES: u64 = 300;

/// Directories end with `/`.
type Paths = BTreeSet<String>;

#[test]
fn the_same_paths_are_sent() {
    if !rsync_is_here() {
        return;
    }
    let tree = Tree::make(&mut Rng(7), true);
    for seed in 1..=CASES {
        let rules = random_rules(&mut Rng(seed), true);
        let theirs = tree.sent_by_rsync(&rules);
        let ours = sent_by_us(&tree, &rules);
        assert_same(&ours, &theirs, seed, &rules);
    }
}

#[test]
fn the_same_names_are_protected() {
    if !rsync_is_here() {
        return;
    }
    for seed in 1..=CASES {
        let mut rng = Rng(seed + 10_000);
        let tree = Tree::make(&mut rng, false);
        let rules = random_rules(&mut rng, false);
        let ours = left_by_us(&tree, &rules);
        let theirs = tree.left_by_rsync(&rules);
        assert_same(&ours, &theirs, seed, &rules);
    }
}

/// Changed per-directory files too: one tree for each case.
#[test]
fn the_same_paths_are_sent_with_rules_in_directories() {
    if !rsync_is_here() {
        return;
    }
    for seed in 1..=CASES / 4 {
        let mut rng = Rng(seed + 20_000);
        let tree = Tree::make(&mut rng, true);
        let mut rules = random_rules(&mut rng, true);
        rules.push((
            "filter",
            rng.pick(&[": .rules", ":e .rules", ":n .rules"]).to_owned(),
        ));
        let theirs = tree.sent_by_rsync(&rules);
        let ours = sent_by_us(&tree, &rules);
        assert_same(&ours, &theirs, seed, &rules);
    }
}

#[track_caller]
fn assert_same(ours: &Paths, theirs: &Paths, seed: u64, rules: &[(&str, String)]) {
    let only_ours: Vec<_> = ours.difference(theirs).collect();
    let only_theirs: Vec<_> = theirs.difference(ours).collect();
    assert!(
        only_ours.is_empty() && only_theirs.is_empty(),
        "seed {seed}: {rules:?}\nonly ours: {only_ours:?}\nonly rsync's: {only_theirs:?}"
    );
}

struct Tree(tempfile::TempDir);

impl Tree {
    fn make(rng: &mut Rng, rules: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        fill(&dir.path().join("src"), rng, rules, 0);
        Self(dir)
    }

    fn src(&self) -> std::path::PathBuf {
        self.0.path().join("src")
    }

    fn sent_by_rsync(&self, rules: &[(&str, String)]) -> Paths {
        let lines = self.rsync(rules, &["-rln", "--out-format=%n"], "src/", "nowhere/");
        lines
            .into_iter()
            .filter(|line| line != "./" && line != "created directory nowhere")
            .collect()
    }

    /// What is left of the tree, which is gone then: a dry run does not see that a directory stays.
    fn left_by_rsync(&self, rules: &[(&str, String)]) -> Paths {
        self.rsync(rules, &["-rl", "--delete"], "empty/", "src/");
        let mut left = Paths::new();
        let mut open = vec![WirePath::root()];
        while let Some(dir) = open.pop() {
            for (path, is_dir) in entries(&self.src(), &dir) {
                left.insert(text(&path, is_dir));
                open.extend(is_dir.then_some(path));
            }
        }
        left
    }

    fn rsync(
        &self,
        rules: &[(&str, String)],
        options: &[&str],
        from: &str,
        to: &str,
    ) -> Vec<String> {
        let output = Command::new("rsync")
            .current_dir(self.0.path())
            .args(options)
            .args(rules.iter().map(|(kind, text)| format!("--{kind}={text}")))
            .args([from, to])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{rules:?}: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn sent_by_us(tree: &Tree, rules: &[(&str, String)]) -> Paths {
    let filter = compile(rules);
    let mut sent = Paths::new();
    let mut open = vec![(WirePath::root(), Scope::default())];
    while let Some((dir, parent)) = open.pop() {
        let mut read = |file: &RulesFile| match file {
            RulesFile::Within(path) => Ok(fs::read(tree.src().join(path.to_path_buf())).ok()),
            RulesFile::Outside(path) => Err(format!("{path:?} was asked for")),
        };
        let scope = filter.with_dir(&parent, &dir, &mut read);
        assert_eq!(scope.broken(), None);
        for (path, is_dir) in entries(&tree.src(), &dir) {
            if !filter.keeps(&path, is_dir, &scope) {
                continue;
            }
            sent.insert(text(&path, is_dir));
            if is_dir {
                open.push((path, scope.clone()));
            }
        }
    }
    sent
}

fn left_by_us(tree: &Tree, rules: &[(&str, String)]) -> Paths {
    let filter = compile(rules);
    let mut left = Paths::new();
    leave_below(tree, &filter, &WirePath::root(), &mut left);
    left
}

/// Whether anything is left.
fn leave_below(tree: &Tree, filter: &Filter, dir: &WirePath, left: &mut Paths) -> bool {
    let mut any = false;
    for (path, is_dir) in entries(&tree.src(), dir) {
        let top = WirePath::from_names(path.names()[..1].to_vec());
        let removed = top.filter(|top| *top != path);
        let mut scope_of = |_: &WirePath| Scope::default();
        let protected =
            filter.protects(&path, is_dir, removed.as_ref(), &mut scope_of, &mut |_| {
                false
            });
        // What is in a protected directory is protected with it.
        let below = is_dir && leave_below(tree, filter, &path, left);
        if protected || below {
            left.insert(text(&path, is_dir));
            any = true;
        }
    }
    any
}

fn text(path: &WirePath, is_dir: bool) -> String {
    format!("{path}{}", if is_dir { "/" } else { "" })
}

fn compile(rules: &[(&str, String)]) -> Filter {
    let mut list = Rules::default();
    for (kind, text) in rules {
        let text = text.clone().into_bytes();
        let statement = match *kind {
            "exclude" => Statement::Exclude(text),
            "include" => Statement::Include(text),
            _ => Statement::Filter(text),
        };
        list.push(statement, Origin::option(kind));
    }
    Filter::compile(&list, &mut |_| Err("no file".to_owned())).unwrap()
}

const NAMES: [&str; 10] = ["a", "b", "ab", "a.o", "b.o", "x", "foo", "ba", "[x]", "fo~"];

fn fill(dir: &Path, rng: &mut Rng, rules: bool, depth: usize) {
    for name in NAMES {
        let path = dir.join(name);
        match rng.below(8) {
            // rsync takes a directory's name for a pattern where a rule in it is anchored; we do not.
            0 | 1 if depth < 2 && !(rules && name == "[x]") => {
                fs::create_dir(&path).unwrap();
                fill(&path, rng, rules, depth + 1);
            }
            0..=3 => fs::write(&path, "x").unwrap(),
            4 if depth > 0 => std::os::unix::fs::symlink("foo", &path).unwrap(),
            _ => {}
        }
    }
    if rules && rng.below(3) == 0 {
        let lines: Vec<_> = (0..=rng.below(2)).map(|_| random_rule(rng)).collect();
        let clear = if rng.below(6) == 0 { "!\n" } else { "" };
        fs::write(
            dir.join(".rules"),
            format!("# rules\n{clear}{}\n", lines.join("\n")),
        )
        .unwrap();
    }
}

fn random_rules(rng: &mut Rng, clears: bool) -> Vec<(&'static str, String)> {
    (0..=rng.below(4))
        .map(|_| match rng.below(4) {
            0 => ("exclude", random_pattern(rng)),
            1 => ("include", random_pattern(rng)),
            2 if clears && rng.below(8) == 0 => ("filter", "!".to_owned()),
            _ => ("filter", random_rule(rng)),
        })
        .collect()
}

fn random_rule(rng: &mut Rng) -> String {
    let kinds = [
        "-", "-", "-", "-", "+", "+", "exclude", "include", "H", "S", "P", "R", "protect", "hide",
        "-!", "+!", "-s", "-r", "+s", "-p",
    ];
    format!("{} {}", rng.pick(&kinds), random_pattern(rng))
}

fn random_pattern(rng: &mut Rng) -> String {
    let names = [
        "a",
        "b",
        "ab",
        "foo",
        "*",
        "*.o",
        "a*",
        "?",
        "f?o",
        "[ab]",
        "[!a]",
        "**",
        "**o",
        "x",
        "\\[x]",
        "[x]",
        "*~",
        "[[:alpha:]]",
        "***",
    ];
    let mut pattern = String::from(rng.pick(&["", "", "/"]));
    for part in 0..=rng.below(3) {
        if part > 0 {
            pattern.push('/');
        }
        pattern.push_str(rng.pick(&names));
    }
    pattern.push_str(rng.pick(&["", "", "", "/", "/***", "/**"]));
    pattern
}
