//! `early exec`, `pre-xfer exec` and `post-xfer exec` around real sessions.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use syncd_proto::message::Hello;
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use crate::common::Daemon;
use crate::common::agent::{Agent, Answer, PATIENCE, Site, chmod, hello};
use crate::refused;

const DOOR: &str = "read only = no\nauth users = *\n";

struct Hooked {
    site: Site,
    daemon: Daemon,
    said: PathBuf,
}

impl Hooked {
    /// A module with these lines; `{SAID}` is a file for what the commands say.
    fn new(lines: &str) -> Self {
        let site = Site::new();
        let said = site.path().join("said");
        fs::write(&said, "").expect("write");
        chmod(&said, 0o666);
        let secrets = site.secrets("alice:pw\na;b:pw\n");
        let lines = lines.replace("{SAID}", &said.display().to_string());
        let module = format!(
            "[m]\npath = {}\n{DOOR}secrets file = {secrets}\n{lines}\n",
            site.module("m")
        );
        let daemon = Daemon::start(&site, &module);
        Self { site, daemon, said }
    }

    fn ask(&self, user: &str) -> Answer {
        let hello = Hello {
            user: Some(user.as_bytes().to_vec()),
            sub_path: WirePath::from_relative(Path::new("sub/dir")).expect("a path"),
            ..hello("m")
        };
        let agent = Agent::connect(&self.site, self.daemon.port).expect("TLS");
        agent.ask(hello, Some("pw"))
    }

    /// What was said, once it is so many lines.
    fn lines(&self, count: usize) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.said).expect("read");
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < until, "{text}\n{}", self.daemon.log());
            std::thread::yield_now();
        }
    }
}

#[test]
fn commands_run_once_for_each_session_and_know_it() {
    let show =
        "echo $RSYNC_MODULE_NAME $RSYNC_REQUEST $RSYNC_USER_NAME $RSYNC_HOST_ADDR $RSYNC_PID";
    let hooked = Hooked::new(&format!(
        "early exec = echo early $RSYNC_MODULE_PATH >> {{SAID}}\npre-xfer exec = ({show}; pwd) >> {{SAID}}\n\
         post-xfer exec = echo post $RSYNC_EXIT_STATUS $RSYNC_RAW_STATUS $RSYNC_PID >> {{SAID}}\n"
    ));
    for round in 1..=2_usize {
        let Answer::Open(opened) = hooked.ask("alice") else {
            panic!("not open:\n{}", hooked.daemon.log());
        };
        let before = hooked.lines(round * 4 - 1);
        let own = &before[(round - 1) * 4..];
        assert_eq!(own[0], format!("early {}", hooked.site.module("m")));
        assert_eq!(own[1], format!("m m/sub/dir alice 127.0.0.1 {round}"));
        assert_eq!(own[2], "/");
        drop(opened);
        let after = hooked.lines(round * 4);
        assert_eq!(after[round * 4 - 1], format!("post 0 0 {round}"));
    }
}

#[test]
fn a_command_that_fails_refuses_with_its_first_line() {
    for (line, text) in [
        ("early exec = exit 3", "early exec failed"),
        ("early exec = /no/such/command", "early exec failed"),
        (
            "pre-xfer exec = echo not now; echo more; exit 3",
            "pre-xfer exec returned failure (768): not now",
        ),
        (
            "pre-xfer exec = printf 'a\\033[31mb'; false",
            "pre-xfer exec returned failure (256): a\\x1b[31mb",
        ),
    ] {
        let hooked = Hooked::new(&format!(
            "{line}\npost-xfer exec = echo $RSYNC_EXIT_STATUS >> {{SAID}}\n"
        ));
        let told = refused(hooked.ask("alice"));
        assert_eq!(
            told,
            (RejectCode::ModuleUnavailable, text.to_owned()),
            "{line}"
        );
        let expected = if line.starts_with("early") { "5" } else { "4" };
        assert_eq!(hooked.lines(1), [expected], "{line}");
    }
}

#[test]
fn what_a_peer_says_is_never_run() {
    let written = Hooked::new("pre-xfer exec = echo %RSYNC_USER_NAME% >> {SAID}\n");
    assert!(matches!(written.ask("alice"), Answer::Open(_)));
    let (code, text) = refused(written.ask("a;b"));
    assert_eq!(code, RejectCode::ModuleUnavailable, "{text}");
    written
        .daemon
        .wait_for("which a shell would not take as one plain word");
    assert_eq!(written.lines(1), ["alice"]);
    let quoted = Hooked::new("pre-xfer exec = echo \"$RSYNC_USER_NAME\" >> {SAID}\n");
    assert!(matches!(quoted.ask("a;b"), Answer::Open(_)));
    assert_eq!(quoted.lines(1), ["a;b"]);
}

#[test]
fn a_login_that_fails_runs_nothing() {
    let hooked =
        Hooked::new("early exec = echo ran >> {SAID}\npost-xfer exec = echo ran >> {SAID}\n");
    assert_eq!(refused(hooked.ask("mallory")).0, RejectCode::AuthFailed);
    assert!(matches!(hooked.ask("alice"), Answer::Open(_)));
    assert_eq!(hooked.lines(2), ["ran", "ran"]);
}
