//! `docs/RSYNCD_CONF.md` says of each parameter what the program does with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syncd_recv::logic::rsyncd_conf::{PARAMETERS, Standing};

#[test]
fn the_document_says_what_becomes_of_each_parameter() {
    let text = fs::read_to_string(root().join("docs/RSYNCD_CONF.md")).expect("the document");
    let rows: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert_eq!(rows.len(), PARAMETERS.len(), "one row for each parameter");
    let mut wrong = Vec::new();
    for parameter in PARAMETERS {
        let standing = match parameter.standing {
            Standing::Honoured => "same",
            Standing::Accepted => "ignored",
            Standing::Warned => "differs",
            Standing::Refused => "refused",
        };
        let start = format!(
            "| `{}` | {standing} | {} | ",
            parameter.name, parameter.remark
        );
        if !rows.iter().any(|row| row.starts_with(&start)) {
            wrong.push(start);
        }
    }
    assert!(wrong.is_empty(), "no such rows:\n{}", wrong.join("\n"));
}

#[test]
fn each_row_names_what_shows_it() {
    let text = fs::read_to_string(root().join("docs/RSYNCD_CONF.md")).expect("the document");
    let mut sources = String::new();
    for dir in [
        "proto/src",
        "receiver/src",
        "receiver/tests",
        "tests/e2e",
        "tests/compat",
    ] {
        collect(&root().join(dir), &mut sources);
    }
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let proof = row
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .expect("a column");
        let names: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let vectors = root().join(format!("tests/vectors/conformance/{name}.json"));
            let test = format!("fn {name}()");
            assert!(vectors.exists() || sources.contains(&test), "{name}: {row}");
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn collect(dir: &Path, sources: &mut String) {
    for entry in fs::read_dir(dir).expect("sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if let Ok(text) = fs::read_to_string(&path) {
            sources.push_str(&text);
        }
    }
}
