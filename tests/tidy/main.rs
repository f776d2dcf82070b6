//! What neither the compiler nor clippy checks about this repository: rooms are respected, no source file is
//! forgotten, no document has a dead link or names a test that is gone, translations are in step, nothing is
//! left to do in code.
//!
//! A failing test lists `file:line: problem`; there is no list of exceptions.

mod documents;
mod modules;
mod rooms;
mod source;
mod translations;

use std::fs;
use std::path::{Path, PathBuf};

const SKIPPED: [&str; 3] = ["target", "artifacts", "corpus"];

#[test]
fn rooms_are_respected() {
    report(each_source(rooms::violations));
}

#[test]
fn nothing_is_left_to_do_in_code() {
    report(each_source(rooms::leftovers));
}

#[test]
fn every_source_file_says_what_it_is() {
    report(each_source(rooms::missing_headline));
}

#[test]
fn every_source_file_is_part_of_a_crate() {
    report(modules::forgotten(&root()));
}

#[test]
fn every_link_in_a_document_leads_somewhere() {
    let root = root();
    report(
        files(&root, "md")
            .iter()
            .flat_map(|path| documents::dead_links(&root, path))
            .collect(),
    );
}

#[test]
fn every_test_named_in_a_document_is_there() {
    let root = root();
    let sources: String = files(&root, "rs").iter().map(|path| read(path)).collect();
    let is_known = |name: &str| sources.contains(&format!("fn {name}("));
    report(
        files(&root, "md")
            .iter()
            .flat_map(|path| documents::unknown_tests(&root, path, is_known))
            .collect(),
    );
}

#[test]
fn every_test_named_with_its_place_is_at_that_place() {
    let root = root();
    report(
        files(&root, "md")
            .iter()
            .flat_map(|path| documents::misplaced_tests(&root, path))
            .collect(),
    );
}

#[test]
fn every_promise_and_every_fault_has_its_tests_or_a_reason() {
    let text = read(&root().join("docs/TESTING.md"));
    let mut problems = documents::unproved_rows(&text, 'P', 1, 9);
    problems.extend(documents::unproved_rows(&text, 'F', 2, 76));
    report(problems);
}

#[test]
fn translations_are_in_step() {
    let read = |name: &str| read(&root().join(name));
    report(translations::differences(
        &read("README.md"),
        &read("README.zh-CN.md"),
    ));
}

fn each_source(check: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let root = root();
    let sources = files(&root, "rs");
    assert!(
        sources.len() > 20,
        "this looks at the wrong place: {}",
        root.display()
    );
    sources
        .iter()
        .flat_map(|path| check(&relative(&root, path), &read(path)))
        .collect()
}

#[track_caller]
fn report(problems: Vec<String>) {
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// All files below `dir` with this extension, in order, without hidden and generated directories.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let entry = entry.expect("directory entry");
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let kind = entry.file_type().expect("type of an entry");
            if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&&*name) {
                pending.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}
