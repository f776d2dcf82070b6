//! What an administrator of an rsync daemon relies on: a mirror kept with `fake super` comes back through rsync as it
//! was, and the system's log has what it had.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use syncd_tests::require::{Need, require};
use syncd_tests::sandbox::MODULE;
use syncd_tests::{Process, ReservedPort, Sandbox, wait_for};

use crate::common::{LONG, assert_same, code, once, tool};

/// Who keeps the mirror: not root, so that owners and devices are only attributes there.
const KEEPER: u32 = 65_534;

#[test]
fn rsync_restores_what_fake_super_kept() {
    if !require(&[Need::Root, Need::Tool("rsync")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    fill(&sandbox.src());
    for dir in [sandbox.path().to_owned(), sandbox.dst()] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    chown(sandbox.dst(), Some(KEEPER), Some(KEEPER)).expect("chown");
    sandbox
        .conf()
        .module(MODULE)
        .set("uid", KEEPER)
        .set("gid", KEEPER)
        .set("fake super", "yes")
        .set("devices", "yes")
        .set("numeric ids", "yes");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).arg("--no-acls");
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    drop(receiver);
    let link = fs::symlink_metadata(sandbox.dst().join("link")).expect("the link's file");
    assert!(link.is_file(), "kept as a plain file: {link:?}");

    let restored = sandbox.path().join("restored");
    restore(&sandbox, &restored);
    assert_same(&sandbox.src(), &restored);
}

/// Everything that `fake super` is for.
fn fill(src: &Path) {
    let file = |name: &str, text: &str, mode: u32, owner: (u32, u32)| {
        let path = src.join(name);
        fs::write(&path, text).expect("file");
        chown(&path, Some(owner.0), Some(owner.1)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    file("plain", "plain\n", 0o644, (0, 0));
    file("shut", "shut\n", 0o000, (1_234, 2_345));
    file("setuid", "setuid\n", 0o4755, (1_000, 1_000));
    file("keepers", "keepers\n", 0o640, (KEEPER, KEEPER));
    fs::create_dir(src.join("dir")).expect("dir");
    file("dir/below", "below\n", 0o600, (3, 4));
    fs::set_permissions(src.join("dir"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    chown(src.join("dir"), Some(7), Some(8)).expect("chown");
    fs::hard_link(src.join("plain"), src.join("dir/again")).expect("hard link");
    symlink("/etc/../../target of nobody", src.join("link")).expect("symlink");
    lchown(src.join("link"), Some(5), Some(6)).expect("lchown");
    let node = |name: &str, kind, device| {
        let mode = Mode::from_raw_mode(0o620);
        rustix::fs::mknodat(CWD, src.join(name), kind, mode, device).expect("node");
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(7, 42));
    // rsync leaves a time alone that is within the second of the one it should be.
    let old = ["-exec", "touch", "-h", "-d", "@1700000000.25", "{}", "+"];
    tool("find", &[&["."][..], &old].concat(), src);
}

/// A real rsync daemon gives the mirror back, as root's client wants it.
fn restore(sandbox: &Sandbox, to: &Path) {
    let conf = sandbox.path().join("restore.conf");
    let port = ReservedPort::take();
    let text = format!(
        "uid = {KEEPER}\ngid = {KEEPER}\nuse chroot = no\n[mirror]\npath = {}\nfake super = yes\n",
        sandbox.dst().display()
    );
    fs::write(&conf, text).expect("configuration");
    let mut command = Command::new("rsync");
    command
        .args([
            "--daemon",
            "--no-detach",
            "--address",
            "127.0.0.1",
            "--port",
        ])
        .arg(port.number().to_string())
        .arg("--config")
        .arg(&conf);
    let log = sandbox.path().join("rsyncd.log");
    let _daemon = Process::spawn("rsyncd", &mut command, &log).expect("rsyncd");
    let from = format!("rsync://127.0.0.1:{}/mirror/", port.number());
    wait_for(LONG, "rsync restores", || {
        let output = Command::new("rsync")
            .args(["-aHX", "--numeric-ids", "--exclude=/.syncd", &from])
            .arg(to)
            .output()
            .expect("rsync");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    });
}

#[test]
fn the_system_log_has_sessions_and_transfers() {
    if !require(&[Need::Root, Need::Tool("unshare"), Need::Tool("mount")]) {
        return;
    }
    // Not below /dev, which is another one for the receiver.
    let mut sandbox = Sandbox::in_dir(Path::new("/tmp"));
    let (socket, program) = machine_with_log(&sandbox);
    sandbox
        .conf()
        .globals()
        .set("syslog facility", "local5")
        .set("syslog tag", "mirror");
    sandbox
        .conf()
        .module(MODULE)
        .set("transfer logging", "yes")
        .set("log format", "%o %f %l")
        // Where there is no /dev any more.
        .set("use chroot", "yes");
    fs::write(sandbox.src().join("told"), "told\n").expect("file");
    let receiver = sandbox.receiver().program(program).start();
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &["identical"]);
    receiver.terminate(LONG);
    let messages = messages(&socket);
    // local5 is 21; a level of information is 6.
    let informs = format!("<{}>", 21 << 3 | 6);
    let said = |part: &str| {
        let found = messages.iter().find(|message| message.contains(part));
        found.unwrap_or_else(|| panic!("no {part:?} in {messages:#?}"))
    };
    let session = said("session open");
    assert!(
        session.starts_with(&informs) && session.contains("mirror["),
        "{session}"
    );
    let transfer = said("recv told 5");
    assert!(
        transfer.starts_with(&informs) && transfer.contains("mirror["),
        "{transfer}"
    );
    assert!(
        messages.iter().all(|message| !message.contains('\n')),
        "{messages:#?}"
    );
}

/// A socket where the system's log would be, and the receiver as a program that finds it in its `/dev`.
fn machine_with_log(sandbox: &Sandbox) -> (UnixDatagram, PathBuf) {
    let dev = sandbox.path().join("dev");
    fs::create_dir(&dev).expect("dev");
    for (name, minor) in [("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)] {
        let mode = Mode::from_raw_mode(0o666);
        let device = rustix::fs::makedev(1, minor);
        rustix::fs::mknodat(CWD, dev.join(name), FileType::CharacterDevice, mode, device)
            .expect("device");
    }
    let socket = UnixDatagram::bind(dev.join("log")).expect("socket");
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("timeout");
    let program = sandbox.path().join("receiver-with-log");
    let receiver = &syncd_tests::Binaries::locate().receiver;
    let text = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -ec 'mount --bind \"$0\" /dev; exec \"$@\"' '{}' '{}' \"$@\"\n",
        dev.display(),
        receiver.display()
    );
    write_program(&program, &text);
    (socket, program)
}

/// Another process writes it: a descriptor open for writing here could be inherited by a test's child, and then the
/// program could not be executed.
fn write_program(path: &Path, text: &str) {
    let write = r#"printf %s "$1" > "$2" && chmod 755 "$2""#;
    let written = Command::new("sh")
        .args(["-c", write, "sh", text])
        .arg(path)
        .status()
        .expect("sh");
    assert!(written.success());
}

/// All that has arrived.
fn messages(socket: &UnixDatagram) -> Vec<String> {
    let mut messages = Vec::new();
    let mut bytes = [0; 8_192];
    while let Ok(length) = socket.recv(&mut bytes) {
        messages.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
    }
    messages
}
