//! Where the two programs are. `cargo test` does not build another crate's binaries, so this does, once per test
//! process and in the profile of the tests; or `SYNCD_BIN_DIR` names a directory that has them.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const PROGRAMS: [&str; 2] = ["syncd-agent", "syncd-recv"];
const VARIABLE: &str = "SYNCD_BIN_DIR";
/// What cargo tells the tests about themselves; build scripts that look at it would run again.
const INNER_VARIABLES: [&str; 5] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_",
    "CARGO_PRIMARY_PACKAGE",
];

/// The paths of both programs.
#[derive(Debug)]
pub struct Binaries {
    /// `syncd-agent`.
    pub agent: PathBuf,
    /// `syncd-recv`.
    pub receiver: PathBuf,
}

impl Binaries {
    /// Builds or finds them at the first call; panics with cargo's own words if they do not build.
    #[track_caller]
    pub fn locate() -> &'static Self {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| match env::var_os(VARIABLE) {
            Some(dir) => find(Path::new(&dir)),
            None => build(),
        });
        match found {
            Ok(binaries) => binaries,
            Err(reason) => panic!("no programs to test: {reason}"),
        }
    }
}

fn find(dir: &Path) -> Result<Binaries, String> {
    let [agent, receiver] = PROGRAMS.map(|name| dir.join(name));
    for path in [&agent, &receiver] {
        if !path.is_file() {
            return Err(format!("{VARIABLE}: {}: no such file", path.display()));
        }
    }
    Ok(Binaries { agent, receiver })
}

fn build() -> Result<Binaries, String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--message-format=json-render-diagnostics",
        "--bins",
    ]);
    cargo.args(PROGRAMS.iter().flat_map(|name| ["-p", name]));
    cargo
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    let own = env::current_exe().map_err(|error| format!("own path: {error}"))?;
    cargo.args(["--profile", &profile_of(&own)]);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if INNER_VARIABLES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            cargo.env_remove(&*name);
        }
    }
    let output = cargo
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo build: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let mut built = executables(&output.stdout);
    let mut take = |name: &str| {
        built
            .remove(name)
            .ok_or_else(|| format!("cargo built no {name}"))
    };
    Ok(Binaries {
        agent: take(PROGRAMS[0])?,
        receiver: take(PROGRAMS[1])?,
    })
}

/// The profile a test binary was built in, from where it lies: `.../PROFILE/deps/NAME-HASH`.
fn profile_of(exe: &Path) -> String {
    let mut dirs = exe.ancestors().skip(1).filter_map(Path::file_name);
    let name = dirs.find(|name| !["deps", "examples"].iter().any(|part| name == part));
    match name.map(|name| name.to_string_lossy().into_owned()) {
        None => "dev".to_owned(),
        Some(name) if name == "debug" => "dev".to_owned(),
        Some(name) => name,
    }
}

/// Name and path of every executable in cargo's messages, one JSON object a line.
fn executables(messages: &[u8]) -> BTreeMap<String, PathBuf> {
    let lines = messages.split(|&byte| byte == b'\n');
    let parsed = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    parsed
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_that_of_the_tests() {
        for (path, profile) in [
            ("/t/debug/deps/e2e-01", "dev"),
            ("/t/release/deps/e2e-01", "release"),
            ("/t/x86_64-unknown-linux-gnu/debug/deps/e2e-01", "dev"),
            ("/t/fast/demo", "fast"),
        ] {
            assert_eq!(profile_of(Path::new(path)), profile, "{path}");
        }
    }

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"lib"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"syncd-recv"},"executable":"/t/debug/syncd-recv"}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found["syncd-recv"], Path::new("/t/debug/syncd-recv"));
    }

    #[test]
    fn a_directory_without_the_programs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let reason = find(dir.path()).unwrap_err();
        assert!(
            reason.contains("syncd-agent") && reason.contains(VARIABLE),
            "{reason}"
        );
    }
}
