//! Extended attributes, ACLs and capabilities: set, changed, removed; and what a mirror cannot hold.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use syncd_tests::require::Need;
use syncd_tests::{Sandbox, require, wait_until};

use crate::common::{LONG, Mirror, code, noise, once, patient, target_of};

/// Bytes of a file that travels by itself, not inside a commit.
const LARGE: usize = 700_000;

pub(crate) const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";

pub(crate) fn set(path: &Path, name: &str, value: &[u8]) {
    let set = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
    set.unwrap_or_else(|errno| panic!("{name} of {}: {errno}", path.display()));
}

fn remove(path: &Path, name: &str) {
    rustix::fs::lremovexattr(path, name).expect("removexattr");
}

pub(crate) fn value(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// `cap_net_bind_service=ep`.
const BIND_SERVICE: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The ACL `u::rwx,u:UID:r-x,g::r--,g:GID:rw-,m::rwx,o::---`.
pub(crate) fn acl(uid: u32, gid: u32) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (1_u16, 7_u16, NONE),
        (2, 5, uid),
        (4, 4, NONE),
        (8, 6, gid),
        (16, 7, NONE),
        (32, 0, NONE),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&rights.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

/// Whether the temporary directory holds this.
pub(crate) fn holds(name: &str, value: &[u8]) -> bool {
    let file = tempfile::NamedTempFile::new().expect("a file");
    rustix::fs::lsetxattr(file.path(), name, value, XattrFlags::empty()).is_ok()
}

fn needs_user_attributes() -> Need {
    Need::Other("user attributes", holds("user.x", b"x"))
}

#[test]
fn attributes_of_files_and_directories_follow() {
    if !require(&[needs_user_attributes()]) {
        return;
    }
    let sandbox = Sandbox::new();
    let src = sandbox.src();
    fs::create_dir(src.join("d")).expect("mkdir");
    fs::write(src.join("d/small"), "small").expect("write");
    fs::write(src.join("large"), noise(LARGE, 1)).expect("write");
    for name in ["", "d", "d/small", "large"] {
        set(&src.join(name), "user.note", name.as_bytes());
    }
    set(&src.join("d"), "user.binary", &noise(3_000, 2));
    let mirror = Mirror::of(sandbox);
    assert_eq!(
        value(&mirror.dst("large"), "user.note").as_deref(),
        Some(&b"large"[..])
    );

    // Changed, added and removed, without a change of content.
    let sent = mirror.bytes_sent();
    for name in ["", "d", "d/small", "large"] {
        set(&mirror.src(name), "user.note", b"changed");
        set(&mirror.src(name), "user.more", b"");
    }
    remove(&mirror.src("d"), "user.binary");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(cost < 20_000, "{cost} bytes for attributes alone");
    assert_eq!(value(&mirror.dst("d"), "user.binary"), None);

    // Kept through a new content, a rename and a new name.
    fs::write(mirror.src("d/small"), "new content").expect("write");
    fs::write(mirror.src("large"), noise(LARGE, 3)).expect("write");
    fs::rename(mirror.src("d"), mirror.src("e")).expect("mv");
    fs::hard_link(mirror.src("large"), mirror.src("linked")).expect("ln");
    mirror.settle();
    set(&mirror.src("linked"), "user.note", b"by another name");
    mirror.settle();
    assert_eq!(
        value(&mirror.dst("large"), "user.note").as_deref(),
        Some(&b"by another name"[..])
    );
}

#[test]
fn attributes_changed_while_nobody_watched_are_found_and_so_are_those_changed_at_the_mirror() {
    if !require(&[needs_user_attributes()]) {
        return;
    }
    let sandbox = Sandbox::new();
    let names = ["", "d", "d/f", "gone", "new", "other"];
    fs::create_dir(sandbox.src().join("d")).expect("mkdir");
    for name in &names[2..] {
        fs::write(sandbox.src().join(name), name).expect("write");
        set(&sandbox.src().join(name), "user.note", b"1");
    }
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = Mirror::of(sandbox);
    drop((agent, receiver));
    let (src, dst) = (sandbox.src(), sandbox.dst());
    set(&src.join("d"), "user.note", b"2");
    set(&src.join("d/f"), "user.note", b"2");
    remove(&src.join("gone"), "user.note");
    set(&src.join("new"), "user.more", b"x");
    set(&dst.join("other"), "user.foreign", b"x");
    set(&dst, "user.foreign", b"x");
    set(&dst.join("other"), "user.rsync.%stat", b"100644 0,0 0:0");
    set(&dst.join("other"), "user.syncd.mine", b"x");
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver));
    let verified = once(&sandbox, &agent, "verify");
    verified.expect(
        code::DIFFERENT,
        &["d/f", "gone", "new", "(attributes): other"],
    );
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
    // What a receiver notes for itself is neither compared nor removed.
    for own in ["user.rsync.%stat", "user.syncd.mine"] {
        assert!(value(&dst.join("other"), own).is_some(), "{own}");
        remove(&dst.join("other"), own);
    }
    sandbox.assert_equal();
}

#[test]
fn names_that_a_receiver_keeps_for_itself_are_not_sent() {
    if !require(&[needs_user_attributes()]) {
        return;
    }
    let mirror = Mirror::start();
    fs::write(mirror.src("f"), "x").expect("write");
    mirror.settle();
    for own in ["user.rsync.%stat", "user.syncd.x"] {
        set(&mirror.src("f"), own, b"100644 0,0 0:0");
    }
    set(&mirror.src("f"), "user.seen", b"x");
    wait_until(LONG, "the attribute arrives", || {
        value(&mirror.dst("f"), "user.seen").is_some()
    });
    for own in ["user.rsync.%stat", "user.syncd.x"] {
        assert_eq!(value(&mirror.dst("f"), own), None);
        remove(&mirror.src("f"), own);
    }
    mirror.settle();
}

#[test]
fn what_is_switched_off_is_neither_sent_nor_compared_nor_removed() {
    let there = holds(ACCESS, &acl(1, 2));
    if !require(&[needs_user_attributes(), Need::Other("ACLs", there)]) {
        return;
    }
    let sandbox = Sandbox::new();
    let path = sandbox.src().join("f");
    fs::write(&path, "x").expect("write");
    set(&path, "user.note", b"x");
    set(&path, ACCESS, &acl(1, 2));
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver))
        .arg("--no-xattrs")
        .arg("--no-acls")
        .arg("--no-capabilities");
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    let copy = sandbox.dst().join("f");
    assert_eq!(
        (value(&copy, "user.note"), value(&copy, ACCESS)),
        (None, None)
    );
    set(&copy, "user.own", b"x");
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    assert!(value(&copy, "user.own").is_some());
    // ACLs alone.
    let agent = patient(sandbox.agent(&receiver)).arg("--no-xattrs");
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    assert!(value(&copy, ACCESS).is_some());
    assert_eq!(value(&copy, ACCESS), value(&path, ACCESS));
    assert!(value(&copy, "user.own").is_some() && value(&copy, "user.note").is_none());
}

#[test]
fn acls_and_the_modes_that_come_with_them() {
    let there = holds(ACCESS, &acl(1, 2));
    if !require(&[Need::Other("ACLs", there)]) {
        return;
    }
    let mirror = Mirror::start();
    fs::create_dir(mirror.src("d")).expect("mkdir");
    set(&mirror.src("d"), DEFAULT, &acl(3, 4));
    set(&mirror.src("d"), ACCESS, &acl(5, 6));
    // The file gets an ACL from its directory, and another mode thereby.
    fs::write(mirror.src("d/inherits"), "x").expect("write");
    fs::write(mirror.src("plain"), "x").expect("write");
    mirror.settle();
    assert!(value(&mirror.dst("d/inherits"), ACCESS).is_some());
    set(&mirror.src("plain"), ACCESS, &acl(7, 8));
    mirror.settle();
    // A mode changes the ACL's mask, and an ACL's end brings no mode back.
    fs::set_permissions(mirror.src("plain"), Permissions::from_mode(0o640)).expect("chmod");
    mirror.settle();
    remove(&mirror.src("plain"), ACCESS);
    remove(&mirror.src("d"), DEFAULT);
    mirror.settle();
    assert_eq!(value(&mirror.dst("d"), DEFAULT), None);
    assert_eq!(
        fs::metadata(mirror.dst("plain")).expect("stat").mode() & 0o7777,
        0o640
    );
    // A default ACL at the root of the mirror must not colour what is made below it.
    set(&mirror.src(""), DEFAULT, &acl(9, 10));
    mirror.settle();
    remove(&mirror.src(""), DEFAULT);
    fs::write(mirror.src("later"), "x").expect("write");
    fs::create_dir(mirror.src("later-d")).expect("mkdir");
    mirror.settle();
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = mirror;
    drop(agent);
    let agent = patient(sandbox.agent(&receiver));
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
}

#[test]
fn capabilities_and_trusted_attributes_of_programs_links_and_devices() {
    let there = holds(CAPABILITY, &BIND_SERVICE) && holds("trusted.x", b"x");
    if !require(&[Need::Root, Need::Other("capabilities", there)]) {
        return;
    }
    // In a root directory of its own, where no /proc leads to what cannot be opened.
    let mut sandbox = Sandbox::new();
    let module = sandbox.conf().module(syncd_tests::sandbox::MODULE);
    module.set("use chroot", "yes");
    let mirror = Mirror::of(sandbox);
    for (name, size) in [("small", 100), ("large", LARGE)] {
        let path = mirror.src(name);
        fs::write(&path, noise(size, 4)).expect("write");
        chown(&path, Some(1234), Some(4321)).expect("chown");
        fs::set_permissions(&path, Permissions::from_mode(0o4755)).expect("chmod");
        set(&path, CAPABILITY, &BIND_SERVICE);
    }
    symlink("small", mirror.src("link")).expect("symlink");
    let mode = Mode::from_raw_mode(0o640);
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        rustix::fs::mknodat(CWD, mirror.src(name), kind, mode, 0).expect("mknod");
    }
    let all = ["", "small", "large", "link", "fifo", "socket"];
    for name in all {
        set(&mirror.src(name), "trusted.note", name.as_bytes());
    }
    set(&mirror.src("fifo"), ACCESS, &acl(5, 6));
    mirror.settle();
    // A change of owner takes capabilities away; a time alone does not, not even for a moment.
    let small = mirror.src("small");
    File::open(&small)
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("utimens");
    mirror.settle();
    assert!(value(&mirror.dst("small"), CAPABILITY).is_some());
    chown(&small, Some(1), Some(1)).expect("chown");
    mirror.settle();
    assert_eq!(value(&mirror.dst("small"), CAPABILITY), None);
    set(&small, CAPABILITY, &BIND_SERVICE);
    for name in all {
        set(&mirror.src(name), "trusted.note", b"changed");
    }
    remove(&mirror.src("fifo"), ACCESS);
    mirror.settle();
}

#[test]
fn more_attributes_than_can_be_sent_are_told_and_the_content_arrives() {
    let probe = tempfile::NamedTempFile::new().expect("a file");
    let name = |number: usize| format!("user.number-{number:03}");
    let many = |path: &Path| {
        (0..130).all(|number| {
            rustix::fs::lsetxattr(path, name(number), b"", XattrFlags::empty()).is_ok()
        })
    };
    if !require(&[Need::Other("130 attributes of a file", many(probe.path()))]) {
        return;
    }
    let mirror = Mirror::start();
    for (file, size) in [("small", 100), ("large", LARGE)] {
        let aside = mirror.sandbox.path().join(file);
        fs::write(&aside, noise(size, 7)).expect("write");
        assert!(many(&aside));
        fs::rename(&aside, mirror.src(file)).expect("mv");
    }
    let failed = || mirror.target()["failed"].as_array().map_or(0, Vec::len);
    wait_until(LONG, "both are told", || failed() == 2);
    let told = mirror.target()["failed"].to_string();
    assert!(told.contains("attributes not readable"), "{told}");
    for file in ["small", "large"] {
        let content = fs::read(mirror.src(file)).expect("read");
        crate::common::wait_content(&mirror.dst(file), &content);
        for number in 100..130 {
            remove(&mirror.src(file), &name(number));
        }
    }
    mirror.settle();
}

#[test]
fn a_receiver_that_is_not_root_keeps_what_it_may_and_says_what_it_does_not() {
    const NOBODY: u32 = 65_534;
    let there = holds("user.x", b"x") && holds(CAPABILITY, &BIND_SERVICE);
    if !require(&[Need::Root, Need::Other("attributes", there)]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let module = sandbox.conf().module(syncd_tests::sandbox::MODULE);
    module.set("uid", NOBODY).set("gid", NOBODY);
    chown(sandbox.dst(), Some(NOBODY), Some(NOBODY)).expect("chown");
    fs::set_permissions(sandbox.path(), Permissions::from_mode(0o755)).expect("chmod");
    let at = |name: &str| sandbox.src().join(name);
    fs::create_dir(at("d")).expect("mkdir");
    for name in ["d/read-only", "d/plain"] {
        fs::write(at(name), name).expect("write");
        set(&at(name), "user.note", b"1");
        set(&at(name), "trusted.note", b"1");
        set(&at(name), CAPABILITY, &BIND_SERVICE);
    }
    fs::set_permissions(at("d/read-only"), Permissions::from_mode(0o444)).expect("chmod");
    set(&at("d"), "user.note", b"1");
    let acls = holds(ACCESS, &acl(1, 2));
    if acls {
        set(&at("d/plain"), ACCESS, &acl(1, 2));
    }
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    agent.wait_line(LONG, "may not set them: trusted attributes, capabilities");
    agent.wait_synced(LONG);
    for name in ["d/read-only", "d"] {
        set(&at(name), "user.note", b"2");
    }
    fs::set_permissions(at("d"), Permissions::from_mode(0o555)).expect("chmod");
    set(&at("d"), "user.more", b"x");
    agent.wait_synced(LONG);
    let there = |name: &str, attribute: &str| value(&sandbox.dst().join(name), attribute);
    for name in ["d/read-only", "d"] {
        assert_eq!(
            there(name, "user.note").as_deref(),
            Some(&b"2"[..]),
            "{name}"
        );
    }
    assert!(there("d", "user.more").is_some());
    assert_eq!(there("d/plain", ACCESS), acls.then(|| acl(1, 2)));
    assert_eq!(there("d/plain", CAPABILITY), None);
    drop(agent);
    let agent = patient(sandbox.agent(&receiver));
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
}

/// A mounted file system, gone with this value.
struct Mounted(PathBuf);

impl Mounted {
    fn at(point: PathBuf, kind: &str) -> Option<Self> {
        let mut command = Command::new("mount");
        let done = command.args(["-t", kind, "none"]).arg(&point).output();
        done.is_ok_and(|done| done.status.success())
            .then_some(Self(point))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_the_mirror_cannot_hold_is_told_by_path_and_everything_else_arrives() {
    let sandbox = Sandbox::new();
    // ramfs has no attributes for users.
    let mounted = Mounted::at(sandbox.dst(), "ramfs");
    if !require(&[
        needs_user_attributes(),
        Need::Other("a ramfs may be mounted", mounted.is_some()),
    ]) {
        return;
    }
    let owner = fs::metadata(sandbox.src()).expect("stat");
    chown(sandbox.dst(), Some(owner.uid()), Some(owner.gid())).expect("chown");
    for (name, size) in [("plain", 10), ("small", 100), ("large", LARGE)] {
        fs::write(sandbox.src().join(name), noise(size, 5)).expect("write");
    }
    for name in ["small", "large"] {
        set(&sandbox.src().join(name), "user.note", b"x");
    }
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    let control = agent.control();
    let failed = || {
        let target = target_of(&agent);
        target["failed"].as_array().cloned().unwrap_or_default()
    };
    wait_until(LONG, "both are told", || failed().len() == 2);
    // They are there all the same, and count; without their attributes the first sync is not over.
    let bytes = 10 + 100 + LARGE;
    wait_until(LONG, "three files are counted", || {
        let target = target_of(&agent);
        let first = &target["first_sync"];
        let files = [
            &target["files"],
            &first["files_done"],
            &first["files_total"],
        ];
        let sizes = [
            &target["bytes_content"],
            &first["bytes_done"],
            &first["bytes_total"],
        ];
        files.iter().all(|count| **count == 3) && sizes.iter().all(|size| **size == bytes)
    });
    for path in failed() {
        let text = path.to_string();
        assert!(
            text.contains("user.note") && text.contains("attributes not set"),
            "{text}"
        );
    }
    for name in ["plain", "small", "large"] {
        let [here, there] = [sandbox.src(), sandbox.dst()].map(|root| root.join(name));
        wait_until(LONG, name, || {
            fs::read(&here).ok() == fs::read(&there).ok()
                && fs::metadata(&here).expect("stat").mtime()
                    == fs::metadata(&there).map_or(0, |there| there.mtime())
        });
    }
    // Later attempts send no content again.
    let sent = || {
        let status = control.status().expect("status");
        let sent = &status["status"]["sources"][0]["targets"][0]["bytes_sent"];
        sent.as_u64().expect("bytes")
    };
    let attempts = || {
        let attempts = failed()
            .iter()
            .filter_map(|path| path["attempts"].as_u64())
            .min();
        attempts.unwrap_or(0)
    };
    let before = sent();
    wait_until(LONG, "they are tried again", || attempts() >= 3);
    assert!(sent() - before < 20_000);
    // Without the attribute nothing is left to tell.
    for name in ["small", "large"] {
        remove(&sandbox.src().join(name), "user.note");
    }
    agent.wait_synced(LONG);
    drop((agent, receiver));
    drop(mounted);
}
