//! Files as text, and what becomes of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::logic::removals::MaxDelete;

struct Files(BTreeMap<Vec<u8>, Vec<u8>>);

impl ConfigSource for Files {
    fn read(&mut self, path: &[u8]) -> Result<Entry, SourceError> {
        self.0
            .get(path)
            .map(|text| Entry::File(text.clone()))
            .ok_or_else(|| SourceError("no such file".into()))
    }
}

fn read(text: &[u8]) -> Result<Loaded, Unusable> {
    let mut files = Files(BTreeMap::from([(b"r.conf".to_vec(), text.to_vec())]));
    load(&mut files, b"r.conf", &Variables::new(), Reading::Strict)
}

fn error(text: &str) -> String {
    read(text.as_bytes()).expect_err(text).to_string()
}

fn severities(text: &str) -> Vec<Severity> {
    let loaded = read(text.as_bytes()).expect(text);
    loaded.diagnostics.iter().map(|d| d.severity).collect()
}

#[test]
fn values_keep_their_places() {
    let loaded =
        read(b"syncd port = 9000\n[m]\npath = /srv\n  read only =  no\nclient certs = web\n")
            .expect("usable");
    assert_eq!(loaded.config.globals.syncd_port.value, 9000);
    let module = loaded.config.module(b"m").expect("a module");
    let at = |position: &Option<Position>| position.as_ref().map(ToString::to_string);
    assert_eq!(
        at(&module.read_only.position).as_deref(),
        Some("r.conf:4:16")
    );
    assert_eq!(at(&module.name.position).as_deref(), Some("r.conf:2:1"));
    assert_eq!(module.list, Located::built_in(true));
    assert!(module.refusals.is_empty());
}

#[test]
fn each_written_parameter_is_listed() {
    let loaded = read(b"list = no\n[m]\npath = /srv\nlist = maybe\nx = y\n").expect("usable");
    let listed: Vec<_> = loaded
        .written
        .iter()
        .map(|written| {
            (
                written.key,
                written.module.as_deref(),
                written.position.line,
            )
        })
        .collect();
    let m = Some(&b"m"[..]);
    assert_eq!(
        listed,
        [(Key::List, None, 1), (Key::Path, m, 3), (Key::List, m, 4)]
    );
}

#[test]
fn misspelt_protection_is_an_error_that_says_what_was_meant() {
    let message = error("[m]\npath = /srv\nhost allow = 10.0.0.1\n");
    assert!(
        message.starts_with("r.conf:3:1: error: unknown parameter `host allow`"),
        "{message}"
    );
    assert!(
        message.ends_with("did you mean `hosts allow`?"),
        "{message}"
    );
    assert!(error("[m]\nauth users alice\n").contains("no `=`"));
    assert!(error("\u{feff}[m]\n").contains("byte-order mark"));
    assert_eq!(
        severities("[m]\npath = /srv\nfrobnicate = 1\nlost\n"),
        [Severity::Warning; 2]
    );
}

#[test]
fn a_writable_module_needs_a_door() {
    let refused = |text: &str| {
        let loaded = read(text.as_bytes()).expect(text);
        !loaded.config.modules[0].refusals.is_empty()
    };
    assert!(refused("[m]\npath = /srv\nread only = no\n"));
    assert!(refused("[m]\npath = /srv\nread only = no\nauth users =\n"));
    assert!(!refused("[m]\npath = /srv\n"));
    for door in [
        "auth users = a",
        "client certs = web",
        "allow any certificate = yes",
    ] {
        assert!(
            !refused(&format!("[m]\npath = /srv\nread only = no\n{door}\n")),
            "{door}"
        );
    }
}

#[test]
fn what_is_not_supported_refuses_its_module_only() {
    let loaded = read(b"[a]\nname converter = /bin/names\n[b]\npath = /srv\n").expect("usable");
    assert_eq!(loaded.config.modules[0].refusals.len(), 1);
    assert!(loaded.config.modules[1].refusals.is_empty());
    assert!(error("daemon chroot = /srv\n").contains("daemon chroot"));
}

#[test]
fn our_own_values_are_not_guessed() {
    for line in [
        "durability = sometimes",
        "max delete = few",
        "max delete = 101%",
        "trash keep = 7y",
    ] {
        assert!(
            error(&format!("[m]\n{line}\n")).contains("cannot be"),
            "{line}"
        );
    }
    assert!(error("syncd port = 0\n").contains("syncd port"));
    let loaded =
        read(b"[m]\nmax delete = 10%\n[n]\nmax delete = 500\ntrash keep = 7d\n").expect("usable");
    let limits: Vec<_> = loaded
        .config
        .modules
        .iter()
        .map(|m| m.max_delete.as_ref().map(|l| l.value))
        .collect();
    assert_eq!(
        limits,
        [Some(MaxDelete::Percent(10)), Some(MaxDelete::Count(500))]
    );
    assert_eq!(
        loaded.config.modules[1]
            .trash_keep_s
            .as_ref()
            .map(|l| l.value),
        Some(604_800)
    );
}

#[test]
fn bad_booleans_of_security_parameters_are_dangers() {
    assert_eq!(
        severities("[m]\npath = /srv\nstrict modes = off\n"),
        [Severity::Danger]
    );
    assert_eq!(
        severities("[m]\npath = /srv\nlist = off\n"),
        [Severity::Warning]
    );
}

#[test]
fn what_nobody_can_use_is_told() {
    let told = |text: &str, part: &str| {
        let loaded = read(text.as_bytes()).expect(text);
        let mut remarks = loaded.diagnostics.iter().map(ToString::to_string);
        assert!(
            remarks.any(|remark| remark.contains(part)),
            "{text}: {part}"
        );
    };
    told("[m]\n", "no `path`");
    told("[m]\nauth users = a\n", "no `secrets file`");
    told(
        "[m]\npath = /srv # x\n",
        "write `path = /srv`, and the comment",
    );
    told("[m]\nhosts allow = 10.0.0.1 # x\n", "is no comment");
    told("[m]\nhosts allow = a # x\n", "write `hosts allow = a`, and");
    told("[m]\nauth users = a # x\n", "write `auth users = a`, and");
    told("[m]\nread only = no # x\n", "write `read only = no`, and");
    told("[m]\nexclude = *.o # x\n", "write `exclude = *.o`, and");
    told("[m]\nhosts deny = ALL\n", "refuses everybody");
    told("[m]\nauth users = a:dney\n", "it denies");
    told("[m]\nincoming chmod = F644, D755\n", "ignored");
    told("[m]\ndurability = none\n", "power cut");
    told("[m]\ntemp dir = /tmp\n", "r.conf:2:12: warning: `temp dir`");
    told("[m]\nport = 1\n", "global parameter");
}

#[test]
fn globals_of_an_included_file_are_told_to_be_lost() {
    let mut files = Files(BTreeMap::from([
        (b"r.conf".to_vec(), b"&include a.conf\n".to_vec()),
        (b"a.conf".to_vec(), b"tls ca file = /ca.pem\n".to_vec()),
    ]));
    let loaded = load(&mut files, b"r.conf", &Variables::new(), Reading::Strict).expect("usable");
    assert!(loaded.config.globals.tls_ca_file.is_none());
    assert_eq!(loaded.diagnostics[0].severity, Severity::Danger);
}

#[test]
fn links_that_nothing_holds_are_told() {
    let told = |lines: &str| {
        let text = format!("client certs = *\n[m]\npath = /m\nread only = no\n{lines}");
        let loaded = read(text.as_bytes()).expect("usable");
        let mut remarks = loaded.diagnostics.iter();
        remarks.any(|remark| remark.message.contains("targets are stored as they are"))
    };
    assert!(told("munge symlinks = no\nuse chroot = no\n"));
    assert!(!told("munge symlinks = yes\nuse chroot = no\n"));
    assert!(!told("munge symlinks = no\n"));
    assert!(!told("use chroot = no\n"));
}

#[test]
fn remarks_do_not_grow_without_end() {
    let lines = (0..5_000).map(|line| format!("unknown{line} = 1\n"));
    let text: String = lines.chain(["[\n".to_owned()]).collect();
    let unusable = read(text.as_bytes()).expect_err("a bad section");
    assert_eq!(unusable.diagnostics.len(), 1_001);
    assert!(unusable.to_string().contains("without its ]"));
}

#[test]
fn includes_end_somewhere() {
    let circle = error("&include r.conf\n");
    assert!(circle.contains("too deep"), "{circle}");
    assert!(error("&include none.conf\n").contains("no such file"));
    assert!(error("&exclude r.conf\n").contains("no such directive"));
}

#[test]
fn parameters_after_an_include_are_told_to_be_defaults() {
    let mut files = Files(BTreeMap::from([
        (
            b"r.conf".to_vec(),
            b"[m]\n&include a.conf\nread only = no\n".to_vec(),
        ),
        (b"a.conf".to_vec(), Vec::new()),
    ]));
    let loaded = load(&mut files, b"r.conf", &Variables::new(), Reading::Strict).expect("usable");
    assert_eq!(loaded.diagnostics[0].severity, Severity::Danger);
    assert!(loaded.config.modules[0].read_only.value);
}

proptest! {
    #[test]
    fn any_bytes_end_well(text: Vec<u8>) {
        let _ = read(&text);
    }

    #[test]
    fn likely_files_end_well(
        text in r"(\[[a-c ]{0,2}\]|hosts allow|auth users|incoming chmod|client certs|max delete|read only| = |%A%|&merge r.conf|no|[,:#@*\\ \n]){0,40}"
    ) {
        let _ = read(text.as_bytes());
    }
}
