//! What a test needs from the machine. Where it is missing the test says so and passes, unless
//! `SYNCD_TESTS_REQUIRE=all` is set, as in CI: then it fails, so that nothing is skipped unnoticed.

use std::env;
use std::path::Path;

const VARIABLE: &str = "SYNCD_TESTS_REQUIRE";

/// A thing not every machine has.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The tests run as root.
    Root,
    /// A program on the search path.
    Tool(&'static str),
    /// Anything else, with its name and whether it is there.
    Other(&'static str, bool),
}

/// Whether all of `needs` are there; a test returns early if not.
#[track_caller]
pub fn require(needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter(|need| !is_there(need)).collect();
    if missing.is_empty() {
        return true;
    }
    let required = env::var_os(VARIABLE).is_some_and(|value| value == "all");
    assert!(!required, "{VARIABLE}=all, but missing here: {missing:?}");
    eprintln!("skipped, missing here: {missing:?}");
    false
}

fn is_there(need: &Need) -> bool {
    match need {
        Need::Root => rustix::process::geteuid().is_root(),
        Need::Tool(name) => on_path(name),
        Need::Other(_, there) => *there,
    }
}

fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let places =
        env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).to_owned()));
    places.into_iter().any(|dir| dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_found_by_name() {
        assert!(is_there(&Need::Tool("sh")));
        assert!(!is_there(&Need::Tool("no-such-program-anywhere")));
        assert!(require(&[
            Need::Tool("sh"),
            Need::Other("nothing special", true)
        ]));
    }
}
