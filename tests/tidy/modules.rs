//! Source files that no crate contains: the compiler never looks at a file that no `mod` names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::source::code;
use crate::{files, read, relative};

const CRATES: [&str; 6] = [
    "proto",
    "proto/heap",
    "agent",
    "receiver",
    "tests",
    "certs-dev",
];
const SUITES: [&str; 4] = ["e2e", "compat", "power", "tidy"];

/// Every `.rs` below the crates' source directories and the test suites that no crate root leads to.
pub(crate) fn forgotten(root: &Path) -> Vec<String> {
    let mut all = BTreeSet::new();
    let mut reached = BTreeSet::new();
    let places = CRATES.iter().flat_map(|name| {
        ["src", "tests", "examples", "benches"].map(|part| root.join(name).join(part))
    });
    for place in places
        .chain(SUITES.map(|suite| root.join("tests").join(suite)))
        .filter(|place| place.is_dir())
    {
        all.extend(files(&place, "rs"));
        for start in crate_roots(&place) {
            follow(start, &mut reached);
        }
    }
    all.difference(&reached)
        .map(|path| format!("{}:1: no mod leads to this file", relative(root, path)))
        .collect()
}

/// The files cargo starts from in a directory.
fn crate_roots(place: &Path) -> Vec<PathBuf> {
    let starts = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(place);
        let whole = !place.ends_with("src") && !SUITES.iter().any(|suite| place.ends_with(suite));
        let own = parent == place && (whole || name == "lib.rs" || name == "main.rs");
        let suite = whole && name == "main.rs" && parent.parent() == Some(place);
        own || suite || parent == place.join("bin")
    };
    files(place, "rs").into_iter().filter(starts).collect()
}

/// Goes through every `mod name;` from a crate root on.
fn follow(start: PathBuf, reached: &mut BTreeSet<PathBuf>) {
    let mut pending = vec![(start, true)];
    while let Some((path, is_root)) = pending.pop() {
        if !path.is_file() || !reached.insert(path.clone()) {
            continue;
        }
        let same_directory = is_root || path.file_name().is_some_and(|name| name == "mod.rs");
        let dir = if same_directory {
            path.with_file_name("")
        } else {
            path.with_extension("")
        };
        for name in named(&code(&read(&path))) {
            pending.push((dir.join(&name).with_extension("rs"), false));
            pending.push((dir.join(name).join("mod.rs"), false));
        }
    }
}

/// Where the modules in files of their own are, below the directory of this one: an inline module adds
/// its name.
fn named(code: &str) -> Vec<PathBuf> {
    let spaced = code
        .replace(';', " ; ")
        .replace('{', " { ")
        .replace('}', " } ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut found = Vec::new();
    let mut open: Vec<Option<&str>> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let before = |back| {
            index
                .checked_sub(back)
                .and_then(|at| words.get(at))
                .copied()
        };
        let module = before(1).filter(|_| before(2) == Some("mod"));
        match *word {
            "{" => open.push(module),
            "}" => {
                open.pop();
            }
            ";" => {
                let inline: PathBuf = open.iter().copied().flatten().collect();
                found.extend(module.map(|name| inline.join(name)));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_no_mod_names_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "proto/src/lib.rs",
            "pub mod a;\nmod b { }\n// mod commented;\n",
        );
        write("proto/src/a.rs", "mod deep;");
        write("proto/src/a/deep.rs", "");
        write("proto/src/commented.rs", "");
        write("agent/src/main.rs", "mod cli;");
        write("agent/src/cli/mod.rs", "mod part;");
        write("agent/src/cli/part.rs", "");
        write("agent/src/bin/tool.rs", "");
        write("agent/tests/cli.rs", "mod common;");
        write("agent/tests/common/mod.rs", "");
        write("tests/src/lib.rs", "");
        write("tests/e2e/main.rs", "mod sync;");
        write("tests/e2e/sync.rs", "");
        assert_eq!(
            forgotten(dir.path()),
            ["proto/src/commented.rs:1: no mod leads to this file"]
        );
        write("tests/e2e/lost.rs", "");
        write("agent/src/a/deep.rs", "");
        assert_eq!(forgotten(dir.path()).len(), 3);
    }
}
