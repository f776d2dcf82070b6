//! Links in Markdown documents, as far as they point into the repository.

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
