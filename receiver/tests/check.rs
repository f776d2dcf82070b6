//! `syncd-recv check` on configurations as guides write them (`tests/fixtures/rsyncd_conf`): what it says of each
//! stands beside it. With `SYNCD_BLESS=1` the expectations are written anew.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use certs_dev::Authority;
use serde_json::Value;
use tempfile::TempDir;

const BLESS: &str = "SYNCD_BLESS";

const NOBODY: u32 = 65_534;

/// Fixture and exit code.
const CASES: [(&str, i32); 6] = [
    ("remarks", 2),
    ("one_address", 1),
    ("strict_modes", 2),
    ("whole_machine", 1),
    ("root_many", 2),
    ("misspelt", 2),
];

/// What is said of users and owners is said to root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_guides_get_wrong_is_told_with_file_and_line() {
    if !is_root() {
        return;
    }
    let mut wrong = Vec::new();
    for (name, code) in CASES {
        let place = Place::new(name);
        let (text, found_code) = place.check(&[]);
        let expected = fixture(name, "expected");
        if std::env::var_os(BLESS).is_some() {
            fs::write(&expected, &text).expect("write");
        }
        let recorded = fs::read_to_string(&expected).expect("the expectation");
        if text != recorded {
            wrong.push(format!("{name}:\n{text}--- expected\n{recorded}"));
        }
        if found_code != Some(code) {
            wrong.push(format!("{name}: ends with {found_code:?}, expected {code}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_same_is_told_as_json() {
    if !is_root() {
        return;
    }
    for (name, code) in CASES {
        let place = Place::new(name);
        let (text, found_code) = place.check(&["--json"]);
        assert_eq!(found_code, Some(code), "{name}");
        let report: Value = serde_json::from_str(&text).expect("json");
        let recorded = fs::read_to_string(fixture(name, "expected")).expect("the expectation");
        let dangers = report["diagnostics"].as_array().expect("a list").iter();
        let dangers = dangers.filter(|remark| remark["severity"] == "danger");
        assert_eq!(
            dangers.count(),
            recorded.matches(": DANGER: ").count(),
            "{name}"
        );
        for module in report["modules"].as_array().expect("a list") {
            let path = &module["parameters"]["path"];
            let line = path["line"].as_u64().expect("a line");
            assert!(
                recorded.contains(&format!("/rsyncd.conf:{line}:8)")),
                "{name}: {path}"
            );
        }
        let not_served = report["modules"].as_array().expect("a list").iter();
        let not_served = not_served.filter(|module| module["served"] == false);
        assert_eq!(
            not_served.count() > 0,
            recorded.contains(": refused: ["),
            "{name}"
        );
    }
}

#[test]
fn every_fixture_is_a_case() {
    let dir = fixture("x", "conf");
    let mut names: Vec<_> = fs::read_dir(dir.parent().expect("its directory"))
        .expect("fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    let mut cases = CASES.map(|(name, _)| name);
    cases.sort_unstable();
    assert_eq!(names, cases);
}

fn fixture(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/rsyncd_conf")
        .join(format!("{name}.{extension}"))
}

/// A machine on which the fixture's directories and certificates are there.
struct Place {
    dir: TempDir,
    config: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = TempDir::new().expect("directory");
        let authority = Authority::create(dir.path()).expect("authority");
        authority.issue_server::<&str>(&[]).expect("certificate");
        let at = dir.path().display().to_string();
        let tls = format!(
            "tls cert file = {at}/server.pem\ntls key file = {at}/server.key\ntls ca file = {at}/ca.pem\n"
        );
        fs::write(dir.path().join("tls.inc"), tls).expect("tls");
        for module in ["docs", "media", "first", "second", "backup", "files"] {
            let module = dir.path().join(module);
            fs::create_dir(&module).expect("module");
            // Who modules are served as unless they say otherwise.
            chown(&module, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        for (name, text, mode) in [
            ("open.secrets", "sync:secret\n", 0o644),
            ("docs.secrets", "writer:secret\n", 0o600),
            ("media.secrets", "other:secret\n", 0o600),
            // As guides have it on the client's side.
            ("rsync.password", "secret\n", 0o600),
        ] {
            let file = dir.path().join(name);
            fs::write(&file, text).expect("secrets");
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("chmod");
        }
        // The first line is a comment: what every configuration needs here stands in its place.
        let text = fs::read_to_string(fixture(name, "conf")).expect("the fixture");
        let (first, rest) = text.split_once('\n').expect("lines");
        assert!(first.starts_with('#'), "{name}");
        let text = format!("&merge {at}/tls.inc\n{}", rest.replace("{DIR}", &at));
        let config = dir.path().join("rsyncd.conf");
        fs::write(&config, text).expect("configuration");
        Self { dir, config }
    }

    fn check(&self, more: &[&str]) -> (String, Option<i32>) {
        let output = Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
            .arg("check")
            .arg("--config")
            .arg(&self.config)
            .args(more)
            .output()
            .expect("run");
        let text = String::from_utf8(output.stdout).expect("text");
        let at = self.dir.path().display().to_string();
        (text.replace(&at, "{DIR}"), output.status.code())
    }
}
