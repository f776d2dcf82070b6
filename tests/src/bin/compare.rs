//! `cargo run -p syncd-tests --bin compare -- A B`: are two trees equal? 0 yes, 1 no, 3 could not tell.

use std::path::PathBuf;
use std::process::ExitCode;

use syncd_tests::tree::{Options, Tree, TreeError, diff};

const SHOWN_MAX: usize = 50;
const USAGE: &str = "usage: compare [--no-xattrs] A B";
const EXIT_DIFFERENT: u8 = 1;
const EXIT_FAILED: u8 = 3;
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut options = Options::default();
    let mut roots = Vec::new();
    for arg in std::env::args_os().skip(1) {
        if arg == "--no-xattrs" {
            options.xattrs = false;
        } else {
            roots.push(PathBuf::from(arg));
        }
    }
    let [a, b] = &roots[..] else {
        eprintln!("{USAGE}");
        return ExitCode::from(EXIT_USAGE);
    };
    match compare(a, b, &options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_DIFFERENT),
        Err((root, error)) => {
            eprintln!("compare: {}: {error}", root.display());
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Prints the differences and gives their number.
fn compare<'a>(
    a: &'a PathBuf,
    b: &'a PathBuf,
    options: &Options,
) -> Result<usize, (&'a PathBuf, TreeError)> {
    let scan = |root: &'a PathBuf| Tree::scan(root, options).map_err(|error| (root, error));
    let (left, right) = (scan(a)?, scan(b)?);
    let differences = diff(&left, &right);
    for difference in differences.iter().take(SHOWN_MAX) {
        println!("{difference}");
    }
    let hidden = differences.len().saturating_sub(SHOWN_MAX);
    if hidden > 0 {
        println!("... and {hidden} more");
    }
    println!(
        "{} differences, {} and {} entries",
        differences.len(),
        left.len(),
        right.len()
    );
    Ok(differences.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_counted_beyond_those_shown() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for root in [&a, &b] {
            std::fs::create_dir(root).unwrap();
        }
        let options = Options {
            root: false,
            ..Options::default()
        };
        assert!(matches!(compare(&a, &b, &options), Ok(0)));
        for index in 0..SHOWN_MAX + 3 {
            std::fs::write(b.join(index.to_string()), "").unwrap();
        }
        assert!(matches!(compare(&a, &b, &options), Ok(count) if count == SHOWN_MAX + 3));
        assert!(compare(&a, &dir.path().join("absent"), &options).is_err());
    }
}
