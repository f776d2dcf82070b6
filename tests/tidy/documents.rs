//! Links in Markdown documents, as far as they point into the repository, and the tests they name: those are there,
//! and where a place is named, they are at that place.

use std::path::{Path, PathBuf};

use crate::{read, relative};

/// Relative links of one document that lead to nothing, or out of the repository.
pub(crate) fn dead_links(root: &Path, path: &Path) -> Vec<String> {
    let here = path.parent().unwrap_or(root);
    let is_dead = |target: &str| match here.join(target).canonicalize() {
        Ok(found) => !root
            .canonicalize()
            .is_ok_and(|root| found.starts_with(root)),
        Err(_) => true,
    };
    let links = links(&read(path))
        .into_iter()
        .filter(|(_, target)| is_dead(target));
    links
        .map(|(line, target)| format!("{}:{line}: {target}: dead link", relative(root, path)))
        .collect()
}

/// Names of tests in a document's code that no source has. What looks like a sentence is a test: small
/// letters and at least three underscores.
pub(crate) fn unknown_tests(
    root: &Path,
    path: &Path,
    is_known: impl Fn(&str) -> bool,
) -> Vec<String> {
    let text = read(path);
    let lines = text.lines().enumerate();
    let names = lines.flat_map(|(at, line)| {
        let spans = line.split('`').skip(1).step_by(2);
        spans
            .filter(|span| is_test_name(span))
            .map(move |name| (at + 1, name))
    });
    names
        .filter(|(_, name)| !is_known(name))
        .map(|(line, name)| format!("{}:{line}: {name}: no such test", relative(root, path)))
        .collect()
}

/// Tests named with their place (`e2e: kill::during_rm_rf`) that are not in the file this leads to.
pub(crate) fn misplaced_tests(root: &Path, path: &Path) -> Vec<String> {
    let text = read(path);
    let lines = text.lines().enumerate();
    let named = lines.flat_map(|(at, line)| placed_tests(line).map(move |named| (at + 1, named)));
    named
        .filter_map(|(line, (place, test))| {
            let problem = placement(root, place, test)?;
            let document = relative(root, path);
            Some(format!("{document}:{line}: {place}: {test}: {problem}"))
        })
        .collect()
}

/// Rows of a table of faults or promises that are missing, out of order, or name neither a test nor a reason.
pub(crate) fn unproved_rows(text: &str, kind: char, width: usize, count: usize) -> Vec<String> {
    let is_row = |line: &&str| {
        let id = line
            .strip_prefix("| ")
            .and_then(|rest| rest.strip_prefix(kind));
        id.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let rows: Vec<_> = text.lines().filter(is_row).collect();
    let mut problems = Vec::new();
    if rows.len() != count {
        problems.push(format!("{} rows of {kind}, not {count}", rows.len()));
    }
    for (index, row) in rows.into_iter().enumerate() {
        let id = format!("{kind}{:0width$}", index + 1);
        let found = row.split([' ', '|']).find(|word| !word.is_empty());
        if found != Some(&id) {
            problems.push(format!("{id} is expected at: {row}"));
        }
        if placed_tests(row).next().is_none() && !row.contains("No test: ") {
            problems.push(format!(
                "{id}: neither a test nor `No test: ` and the reason"
            ));
        }
    }
    problems
}

/// Place and path of every test in a line's code that is named so.
fn placed_tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_place = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_/-".contains(c);
    let is_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    let spans = line.split('`').skip(1).step_by(2);
    let named = spans.filter_map(|span| span.split_once(": "));
    named.filter(move |(place, test)| {
        let last = test.rsplit("::").next().unwrap_or_default();
        last.contains('_') && place.chars().all(is_place) && test.chars().all(is_path)
    })
}

/// What is wrong with a test that is said to be at a place: a suite of the tests, a crate, or `crate/suite`.
fn placement(root: &Path, place: &str, test: &str) -> Option<&'static str> {
    let bases = match place.rsplit_once('/') {
        Some((name, suite)) => vec![root.join(name).join("tests").join(suite)],
        None => vec![root.join("tests").join(place), root.join(place).join("src")],
    };
    let is_base = |base: &&PathBuf| base.is_dir() || base.with_extension("rs").is_file();
    let Some(base) = bases.iter().find(is_base) else {
        return Some("no such place");
    };
    let (modules, name) = test.rsplit_once("::").unwrap_or(("", test));
    let files = if modules.is_empty() {
        let whole = base.with_extension("rs");
        vec![base.join("main.rs"), base.join("lib.rs"), whole]
    } else {
        let module = base.join(modules.replace("::", "/"));
        vec![module.with_extension("rs"), module.join("mod.rs")]
    };
    let mut files = files.into_iter().filter(|file| file.is_file());
    let is_there = files.any(|file| has_test(&read(&file), name));
    (!is_there).then_some("no such test")
}

/// Whether a function of this name has the attribute of a test.
fn has_test(source: &str, name: &str) -> bool {
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            let function = line.trim_start_matches("async ").strip_prefix("fn ");
            let found = function.and_then(|rest| rest.strip_prefix(name));
            if is_test && found.is_some_and(|rest| rest.starts_with('(')) {
                return true;
            }
            is_test = false;
        }
    }
    false
}

fn is_test_name(span: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    span.matches('_').count() >= 3 && span.chars().all(is_word)
}

/// Line and target of every relative link, without its anchor; code is not looked at.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_fence = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence || line.starts_with("    ") {
            continue;
        }
        let outside_code: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let inline = outside_code
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let defined = outside_code
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .map(|(_, target)| target);
        let targets = inline.chain(defined).filter_map(relative_target);
        found.extend(targets.map(|target| (index + 1, target)));
    }
    found
}

/// A link's path, if it is one into the repository.
fn relative_target(link: &str) -> Option<String> {
    let target = link.split_whitespace().next()?.trim_matches(['<', '>']);
    let path = target.split('#').next()?;
    let elsewhere = path.contains("://") || path.starts_with("mailto:");
    (!path.is_empty() && !elsewhere).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "[a](x.md) and [b](y.md#part \"title\"), [c](https://example.org) [d](#here)\n\
            ```\n[e](no.md)\n```\n`[f](no.md)`\n    [g](no.md)\n[h]: z.md\n";
        let found = links(text);
        let expected = [(1, "x.md"), (1, "y.md"), (7, "z.md")];
        assert_eq!(
            found,
            expected.map(|(line, target)| (line, target.to_owned()))
        );
    }

    #[test]
    fn tests_that_are_named_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.md");
        fs::write(
            &path,
            "`a_test_that_is` `max_user_watches`\n| `a_test_that_was` |\n",
        )
        .unwrap();
        let found = unknown_tests(root.path(), &path, |name| name == "a_test_that_is");
        assert_eq!(found, ["a.md:2: a_test_that_was: no such test"]);
    }

    #[test]
    fn a_test_is_looked_for_where_its_name_leads() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        at(
            "tests/e2e/kill.rs",
            "#[test]\nfn dies_well() {}\nfn helps_it() {}\n",
        );
        at("tests/power/main.rs", "/// x\n#[test]\nfn cut_off() {}\n");
        at(
            "agent/src/fs/read.rs",
            "    #[tokio::test]\n    async fn reads_all() {}\n",
        );
        at("agent/tests/cli.rs", "#[test]\n// y\nfn says_so() {}\n");
        let good = "`e2e: kill::dies_well` `power: cut_off` `agent: fs::read::reads_all` `agent/cli: says_so`";
        at("good.md", &format!("{good} `see: that` `a: B_c`\n"));
        at(
            "bad.md",
            "`e2e: kill::helps_it`\n`e2e: dies_well`\n`agent/cli: says_s`\n`else: a::b_c`\n",
        );
        let found = |name: &str| misplaced_tests(root.path(), &root.path().join(name));
        assert_eq!(found("good.md"), Vec::<String>::new());
        let expected = [
            "bad.md:1: e2e: kill::helps_it: no such test",
            "bad.md:2: e2e: dies_well: no such test",
            "bad.md:3: agent/cli: says_s: no such test",
            "bad.md:4: else: a::b_c: no such place",
        ];
        assert_eq!(found("bad.md"), expected);
    }

    #[test]
    fn each_row_has_a_test_or_a_reason() {
        let good = "| F01 | a | `e2e: kill::b_c` |\n| Fault |\n| F02 | d | No test: e |\n";
        assert_eq!(unproved_rows(good, 'F', 2, 2), Vec::<String>::new());
        assert_eq!(unproved_rows(good, 'F', 2, 3).len(), 1);
        let bad = "| F02 | a | `e2e: kill::b_c` |\n| F02 | d | e |\n";
        assert_eq!(unproved_rows(bad, 'F', 2, 2).len(), 2);
    }

    #[test]
    fn dead_links_and_ways_out_are_reported() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("repository");
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(outer.path().join("outside.md"), "").unwrap();
        fs::write(root.join("README.md"), "").unwrap();
        let path = root.join("docs/a.md");
        fs::write(
            &path,
            "[ok](../README.md) [ok](../docs)\n[dead](b.md) [out](../../outside.md)",
        )
        .unwrap();
        let found = dead_links(&root, &path);
        assert_eq!(
            found,
            [
                "docs/a.md:2: b.md: dead link",
                "docs/a.md:2: ../../outside.md: dead link"
            ]
        );
    }
}
