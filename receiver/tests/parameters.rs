//! Every parameter of rsync, written alone: it is known, treated as a receiver may treat it, and accounted for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use syncd_recv::logic::rsyncd_conf::{PARAMETERS, Parameter, Scope, Standing};
use tempfile::TempDir;

/// Parameters that rsync does not have.
const OURS: [&str; 15] = [
    "syncd port",
    "syncd pid file",
    "tls cert file",
    "tls key file",
    "tls ca file",
    "tls crl file",
    "client certs",
    "allow any certificate",
    "durability",
    "max delete",
    "shared writers",
    "keep dirlinks",
    "devices",
    "trash",
    "trash keep",
];

struct Row {
    scope: Scope,
    name: String,
    allowed: String,
    value: String,
}

#[test]
fn every_parameter_of_rsync_is_known_and_told() {
    let rows = rows();
    let mut wrong = Vec::new();
    for row in &rows {
        let Some(parameter) = PARAMETERS
            .iter()
            .find(|parameter| parameter.name == row.name)
        else {
            wrong.push(format!("{}: not known", row.name));
            continue;
        };
        if parameter.scope != row.scope {
            wrong.push(format!("{}: {:?}", row.name, parameter.scope));
        }
        if !row.allowed.contains(letter(parameter.standing)) {
            wrong.push(format!("{}: {:?}", row.name, parameter.standing));
        }
        wrong.extend(told(row, parameter));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_parameter_is_forgotten_in_the_list() {
    let rows = rows();
    let listed: BTreeSet<&str> = rows.iter().map(|row| &row.name[..]).chain(OURS).collect();
    let known: BTreeSet<&str> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
    assert_eq!(known, listed);
    assert_eq!(rows.len() + OURS.len(), PARAMETERS.len());
}

/// `check` lists it with its line and what becomes of it; where that is not what rsync does, it says so.
fn told(row: &Row, parameter: &Parameter) -> Vec<String> {
    let report = check(row);
    let line = if row.scope == Scope::Global { 1 } else { 2 };
    let standing = match parameter.standing {
        Standing::Honoured => "honoured",
        Standing::Accepted => "ignored",
        Standing::Warned => "differs",
        Standing::Refused => "refused",
    };
    let listed = array(&report["parameters"]);
    let mut wrong = Vec::new();
    // A configuration that is not used has no parameters; the reason names the one.
    let is_used = (parameter.scope, parameter.standing) != (Scope::Global, Standing::Refused);
    let is_listed = listed.iter().any(|found| {
        found["name"] == row.name && found["line"] == line && found["standing"] == standing
    });
    if is_used && !is_listed {
        wrong.push(format!("{}: not listed: {listed:?}", row.name));
    }
    let said = array(&report["diagnostics"]).iter().any(|remark| {
        let message = remark["message"].as_str().unwrap_or_default();
        remark["line"] == line
            && message.starts_with(&format!("`{}`: {}", row.name, parameter.remark))
    });
    let differs = matches!(parameter.standing, Standing::Warned | Standing::Refused);
    if said != differs {
        wrong.push(format!("{}: said: {said}", row.name));
    }
    wrong
}

fn check(row: &Row) -> Value {
    let dir = TempDir::new().expect("directory");
    let config = dir.path().join("rsyncd.conf");
    let line = format!("{} = {}\n", row.name, row.value);
    let text = match row.scope {
        Scope::Global => line + "[m]\n",
        Scope::Module => format!("[m]\n{line}"),
    };
    fs::write(&config, text).expect("configuration");
    let output = Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
        .args(["check", "--json", "--config"])
        .arg(&config)
        .output()
        .expect("run");
    serde_json::from_slice(&output.stdout).expect("json")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn letter(standing: Standing) -> char {
    match standing {
        Standing::Honoured => 'H',
        Standing::Accepted => 'A',
        Standing::Warned => 'W',
        Standing::Refused => 'R',
    }
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("tests/fixtures/rsyncd_parameters.txt"));
    let text = text.expect("the list");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let parts: Vec<&str> = line.split('\t').collect();
            let [scope, name, allowed, value] = parts[..] else {
                panic!("{line}");
            };
            Row {
                scope: match scope {
                    "global" => Scope::Global,
                    _ => Scope::Module,
                },
                name: name.to_owned(),
                allowed: allowed.to_owned(),
                value: value.to_owned(),
            }
        })
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
