//! Links in Markdown documents, as far as they point into the repository, and the tests they name.

use std::path::Path;

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
