//! Owners that only a name service knows, as from a directory server, and names that are added while both programs run.
//!
//! `nss-systemd` reads users and groups from files of its own in `/run/userdb`: a module other than that for
//! `/etc/passwd`, which needs no server. Each program runs where these files, and the usual two, are others.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use syncd_tests::require::Need;
use syncd_tests::{Binaries, Sandbox, require, wait_for};

use crate::common::{LONG, code, once, patient};

/// A machine's users and groups.
struct Machine {
    dir: PathBuf,
}

impl Machine {
    /// One with these numbers for the user and the group that only its name service knows.
    fn new(sandbox: &Sandbox, name: &str, uid: u32, gid: u32) -> Self {
        let dir = sandbox.path().join(name);
        let userdb = dir.join("userdb");
        fs::create_dir_all(&userdb).expect("mkdir");
        let file = |name: &str, number: u32, kind: &str, text: String| {
            let named = userdb.join(format!("{name}.{kind}"));
            fs::write(&named, text).expect("write");
            symlink(named, userdb.join(format!("{number}.{kind}"))).expect("ln");
        };
        let user = format!(
            "{{\"userName\":\"faraway\",\"uid\":{uid},\"gid\":{gid},\"disposition\":\"regular\"}}\n"
        );
        file("faraway", uid, "user", user);
        let group = format!("{{\"groupName\":\"farther\",\"gid\":{gid}}}\n");
        file("farther", gid, "group", group);
        for (name, text) in [
            ("passwd", "root:x:0:0::/:\nnobody:x:65534:65534::/:\n"),
            ("group", "root:x:0:\nnogroup:x:65534:\n"),
            ("nsswitch", "passwd: files systemd\ngroup: files systemd\n"),
        ] {
            fs::write(dir.join(name), text).expect("write");
        }
        Self { dir }
    }

    /// Adds a line to `passwd` or `group`, in place: it is mounted on the real one.
    fn add(&self, file: &str, line: &str) {
        let opened = OpenOptions::new().append(true).open(self.dir.join(file));
        let mut opened = opened.expect("open");
        opened.write_all(line.as_bytes()).expect("write");
    }

    /// A program that runs another one on this machine.
    fn program(&self, program: &Path) -> PathBuf {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let text = format!(
            "#!/bin/sh\nexec unshare -m sh -ec 'mount --bind {} /etc/passwd\nmount --bind {} /etc/group\n\
             mount --bind {} /etc/nsswitch.conf\nmount -t tmpfs none /run\nmkdir /run/userdb\n\
             mount --bind {} /run/userdb\nexec {} \"$@\"' sh \"$@\"\n",
            at("passwd"),
            at("group"),
            at("nsswitch"),
            at("userdb"),
            program.display()
        );
        let script = self.dir.join("run");
        fs::write(&script, text).expect("write");
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("chmod");
        script
    }

    /// Whether its name service knows what the files do not.
    fn works(&self) -> bool {
        let output = Command::new(self.program(Path::new("getent")))
            .args(["passwd", "faraway"])
            .output();
        output.is_ok_and(|output| output.stdout.starts_with(b"faraway:"))
    }
}

fn owner(path: &Path) -> Option<(u32, u32)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.uid(), found.gid()))
}

#[track_caller]
fn wait_owner(path: &Path, expected: (u32, u32)) {
    wait_for(LONG, &format!("{} has its owner", path.display()), || {
        let found = owner(path);
        let is_it = found == Some(expected);
        is_it
            .then_some(())
            .ok_or_else(|| format!("{found:?}, not {expected:?}"))
    });
}

/// The machines of the agent and of the receiver; `None`, with a word, where there can be none.
fn machines(sandbox: &Sandbox) -> Option<(Machine, Machine)> {
    let here = Machine::new(sandbox, "here", 5_242, 5_243);
    let there = Machine::new(sandbox, "there", 6_242, 6_243);
    let works = Need::Other("unshare -m, and nss-systemd with /run/userdb", here.works());
    require(&[Need::Root, works]).then_some((here, there))
}

#[test]
fn names_that_only_a_name_service_knows_are_known() {
    let mut sandbox = Sandbox::new();
    let Some((here, there)) = machines(&sandbox) else {
        return;
    };
    sandbox.conf().module("demo").set("numeric ids", "no");
    let src = sandbox.src();
    for (name, uid, gid) in [
        ("both", 5_242, 5_243),
        ("nameless", 7_001, 7_002),
        ("group", 0, 5_243),
    ] {
        fs::write(src.join(name), name).expect("write");
        chown(src.join(name), Some(uid), Some(gid)).expect("chown");
    }
    let receiver = sandbox.receiver();
    let receiver = receiver.program(there.program(&Binaries::locate().receiver));
    let receiver = receiver.start();
    let agent = patient(sandbox.agent(&receiver)).program(here.program(&Binaries::locate().agent));
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
    let dst = |name: &str| sandbox.dst().join(name);
    assert_eq!(owner(&dst("both")), Some((6_242, 6_243)));
    assert_eq!(owner(&dst("nameless")), Some((7_001, 7_002)));
    assert_eq!(owner(&dst("group")), Some((0, 6_243)));
}

#[test]
fn names_that_are_added_while_both_run_are_found() {
    let mut sandbox = Sandbox::new();
    let Some((here, there)) = machines(&sandbox) else {
        return;
    };
    sandbox.conf().module("demo").set("numeric ids", "no");
    let receiver = sandbox.receiver();
    let receiver = receiver.program(there.program(&Binaries::locate().receiver));
    let receiver = receiver.start();
    let agent = patient(sandbox.agent(&receiver)).program(here.program(&Binaries::locate().agent));
    let agent = agent.start();
    fs::write(sandbox.src().join("first"), "first").expect("write");
    agent.wait_synced(LONG);
    // The session is open, and the worker runs: what both read at their start has no such name.
    there.add("passwd", "later:x:6300:6300::/:\n");
    here.add("passwd", "later:x:5300:5300::/:\n");
    there.add("group", "laters:x:6301:\n");
    here.add("group", "laters:x:5301:\n");
    // And nobody becomes the superuser by a name.
    there.add("passwd", "boss:x:0:0::/:\n");
    here.add("passwd", "boss:x:5400:5400::/:\n");
    for (name, uid, gid) in [
        ("later", 5_300, 5_301),
        ("faraway", 5_242, 5_243),
        ("boss", 5_400, 0),
    ] {
        let path = sandbox.src().join(name);
        fs::write(&path, name).expect("write");
        chown(path, Some(uid), Some(gid)).expect("chown");
    }
    agent.wait_synced(LONG);
    wait_owner(&sandbox.dst().join("later"), (6_300, 6_301));
    wait_owner(&sandbox.dst().join("faraway"), (6_242, 6_243));
    wait_owner(&sandbox.dst().join("boss"), (5_400, 0));
    // A directory changes hands.
    fs::create_dir(sandbox.src().join("d")).expect("mkdir");
    agent.wait_synced(LONG);
    chown(sandbox.src().join("d"), Some(5_300), Some(5_243)).expect("chown");
    wait_owner(&sandbox.dst().join("d"), (6_300, 6_243));
    agent.wait_synced(LONG);
    let status = agent.control().status().expect("status");
    assert_eq!(status["verdict"], "in_sync", "{status}");
}
