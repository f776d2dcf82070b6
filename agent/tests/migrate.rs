//! `syncd-agent migrate` on settings as guides have them (`tests/fixtures/migrate`): what comes out stands beside each.
//! With `SYNCD_BLESS=1` the expectations are written anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use syncd_agent::logic::config::Config;
use syncd_agent::logic::filter::Filter;
use syncd_agent::logic::migrate::{self, Draft};

const BLESS: &str = "SYNCD_BLESS";

/// Program, file and exit code.
const CASES: [(&str, &str, i32); 7] = [
    ("sersync", "stock.xml", 0),
    ("sersync", "many.xml", 1),
    ("lsyncd", "plain.lua", 1),
    ("lsyncd", "loop.lua", 1),
    ("script", "tree.sh", 0),
    ("script", "files.sh", 1),
    ("script", "hosts.sh", 1),
];

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncd-agent"))
        .args(arguments)
        .output()
        .expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/migrate")
        .join(name)
}

fn migrate(program: &str, file: &Path) -> Output {
    agent(&["migrate", program, file.to_str().expect("a name")])
}

#[test]
fn what_guides_have_becomes_a_configuration_with_reasons() {
    let mut wrong = Vec::new();
    for (program, name, code) in CASES {
        let output = migrate(program, &fixture(name));
        let found = text(&output.stdout);
        let expected = fixture(&format!("{name}.expected"));
        if std::env::var_os(BLESS).is_some() {
            fs::write(&expected, &found).expect("write");
        }
        let recorded = fs::read_to_string(&expected).expect("the expectation");
        if found != recorded {
            wrong.push(format!("{name}:\n{found}--- expected\n{recorded}"));
        }
        if output.status.code() != Some(code) {
            wrong.push(format!("{name}: {output:?}, expected {code}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_agent_takes_what_comes_out() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("agent.toml");
    for (program, name, _) in CASES {
        let output = migrate(program, &fixture(name));
        fs::write(&file, &output.stdout).expect("write");
        let name_of = file.to_str().expect("a name");
        let checked = agent(&["check", "--syntax", "--config", name_of]);
        assert!(checked.status.success(), "{name}: {checked:?}");
    }
}

/// Lines with nothing said of them: what they belong to is off, or told as a whole.
const SILENT: [(&str, &[usize]); 3] = [
    ("stock.xml", &[2, 6, 34, 35, 41, 42, 43, 47, 48]),
    ("many.xml", &[1, 19, 27]),
    ("loop.lua", &[2, 3, 18, 19, 24]),
];

/// No element, key, option or command goes without a word about it.
#[test]
fn every_line_with_a_setting_is_accounted_for() {
    for (_, name, _) in CASES {
        let written = fs::read_to_string(fixture(name)).expect("the fixture");
        let told = text(&migrate(program_of(name), &fixture(name)).stdout);
        let silent = SILENT.iter().find(|(of, _)| *of == name);
        let silent = silent.map_or(&[][..], |(_, lines)| lines);
        for (number, line) in (1..).zip(written.lines()) {
            let is_setting = match name.rsplit_once('.') {
                Some((_, "xml")) => line.contains("=\"") && !line.contains("<!--<") && number > 1,
                Some((_, "lua")) => line.contains(" = ") && !line.ends_with("= {"),
                _ => line.contains("rsync ") || line.contains("inotifywait -"),
            };
            let at = format!(" {name}:{number}: ");
            let is_told = told.contains(&at);
            let expected = is_setting && !silent.contains(&number) && !line.contains("echo");
            assert!(is_told || !expected, "{at}{line}\n{told}");
        }
    }
}

fn program_of(name: &str) -> &'static str {
    let case = CASES.iter().find(|(_, file, _)| *file == name);
    case.expect("a case").0
}

#[test]
fn several_files_of_sersync_are_one_configuration() {
    let (one, other) = (fixture("stock.xml"), fixture("many.xml"));
    let names = [&one, &other].map(|file| file.to_str().expect("a name"));
    let output = agent(&["migrate", "sersync", names[0], names[1]]);
    let found = text(&output.stdout);
    assert_eq!(found.matches("\n[[source]]\n").count(), 2, "{found}");
    assert_eq!(output.status.code(), Some(1));
    // The same file twice would be two writers of one place.
    let output = agent(&["migrate", "sersync", names[0], names[0]]);
    let found = text(&output.stdout);
    assert_eq!(found.matches("\n[[source]]\n").count(), 1, "{found}");
    assert!(found.contains("two writers of one place"), "{found}");
}

#[test]
fn what_holds_nothing_is_told() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("settings");
    for (program, written, part) in [
        ("sersync", "<head/>", "there is no <sersync>"),
        ("lsyncd", "print('x')", "no sync { ... } was found"),
        ("script", "echo", "no rsync that pushes"),
        ("script", "rsync -a h::m/ /data/", "it pulls"),
        ("script", "rsync -a data/ h::m", "where the script runs"),
        (
            "lsyncd",
            "sync { default.rsync, source = '/d', target = t() }",
            "could not be read",
        ),
        (
            "lsyncd",
            "sync { default.rsync, source = '/d', target = 'bad host::m' }",
            "neither a DNS name",
        ),
    ] {
        fs::write(&file, written).expect("write");
        let output = migrate(program, &file);
        assert_eq!(output.status.code(), Some(2), "{written}: {output:?}");
        assert!(text(&output.stdout).contains(part), "{written}: {output:?}");
    }
    fs::write(&file, "<head>").expect("write");
    let output = migrate("sersync", &file);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let output = migrate("sersync", &dir.path().join("none"));
    assert_eq!(output.status.code(), Some(66), "{output:?}");
}

/// A file name, a value or a comment must not become a line of the configuration.
#[test]
fn nothing_in_the_settings_can_write_the_configuration() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("settings");
    let odd = "<head><sersync><localpath watch=\"/d&#10;[[source]]&#10;x\"><remote ip=\"h\" name=\"m\"/></localpath>\
               <rsync><commonParams params='-a --exclude &quot;a&#10;delete = false&quot;'/></rsync></sersync></head>";
    fs::write(&file, odd).expect("write");
    let output = migrate("sersync", &file);
    let found = text(&output.stdout);
    assert_eq!(found.matches("\n[[source]]\n").count(), 1, "{found}");
    assert!(
        found.contains(r#"path = "/d\U0000000A[[source]]"#),
        "{found}"
    );
    assert!(!found.contains("\ndelete = false\n\""), "{found}");
}

/// Whatever is read: it ends, and what claims to be usable is taken by an agent.
fn ends_well(draft: &Draft) -> Result<(), TestCaseError> {
    let toml = draft.to_string();
    let read = Config::parse(&toml, Path::new("/etc/syncd"));
    prop_assert_eq!(read.is_ok(), draft.is_usable(), "{:?}\n{}", read, toml);
    for source in read.into_iter().flat_map(|config| config.sources) {
        let compiled = Filter::compile(&source.rules, &mut |_| Ok(Vec::new()));
        prop_assert!(compiled.is_ok(), "{:?}\n{}", compiled, toml);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_ends_well(text in any::<String>()) {
        ends_well(&migrate::lsyncd("f", &text))?;
        ends_well(&migrate::script("f", &text))?;
        if let Ok(draft) = migrate::sersync("f", &text) {
            ends_well(&draft)?;
        }
    }

    #[test]
    fn likely_lua_ends_well(
        text in r"(sync|settings|default.rsync|source|target|exclude|rsync|for|in|ipairs|do|end|function|=|\{|\}|\(|\)|,|\.\.|/d|'/d'|'h::m'|'u@h::m/x'|\[\[|\]\]|--|[ \n]){0,40}"
    ) {
        ends_well(&migrate::lsyncd("f", &text))?;
    }

    #[test]
    fn likely_scripts_end_well(
        text in r"(rsync|inotifywait|for|in|do|done|cd|-az|-e|--delete|--exclude=x|--password-file=/p|h::m|u@h::m/x|/d/|/d|x=|\$x|\$\(|\)|`|'|\x22|\\|\||;|<<E|E|\{|\}|[ \n]){0,40}"
    ) {
        ends_well(&migrate::script("f", &text))?;
    }

    #[test]
    fn likely_settings_of_sersync_end_well(
        watch in ".{0,8}", ip in ".{0,8}", name in ".{0,8}", params in ".{0,20}", user in ".{0,8}"
    ) {
        let quoted = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let text = format!(
            "<head><sersync><localpath watch=\"/{}\"><remote ip=\"{}\" name=\"{}\"/></localpath><rsync>\
             <commonParams params=\"{}\"/><auth start=\"true\" users=\"{}\" passwordfile=\"/p\"/></rsync></sersync></head>",
            quoted(&watch), quoted(&ip), quoted(&name), quoted(&params), quoted(&user)
        );
        if let Ok(draft) = migrate::sersync("f", &text) {
            ends_well(&draft)?;
        }
    }
}
