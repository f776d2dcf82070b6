//! The first sync of real trees, one-shot commands, and restarts.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::Signal;
use syncd_tests::sandbox::MODULE;
use syncd_tests::tree::set_mtime;
use syncd_tests::tree::{Options, Tree, diff};
use syncd_tests::workload::{Workload, many_small};
use syncd_tests::{Sandbox, wait_until};

use crate::common::{
    LONG, Mirror, code, noise, once, patient, scaled, target_of, tool, wait_staging_empty,
};

/// Everything a file system can hold that a careless program trips over.
fn odd_tree(root: &Path) {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    for name in [
        &b"new\nline"[..],
        b"invalid-\xff\xfe-utf8",
        b" leading and trailing ",
        b"-rf",
        b"*",
        b"back\\slash",
        b"\x01\x7f",
        "\u{fc}n\u{ef}c\u{f6}de \u{1f980}".as_bytes(),
        b"...",
        b".syncd-not-reserved",
        &[b'n'; 255],
        &[0xc3; 255],
    ] {
        fs::write(at(name), name).expect("odd name");
    }
    let mut deep = root.join("deep");
    for _ in 0..60 {
        deep.push("a directory with a name that is not short");
    }
    fs::create_dir_all(&deep).expect("deep");
    fs::write(deep.join("bottom"), "down here").expect("bottom");
    fs::create_dir_all(root.join("empty/of/everything")).expect("empty");
    for (name, target) in [
        ("dangling", "nowhere/at/all"),
        ("absolute", "/etc/passwd"),
        ("outside", "../../../../.."),
        ("loop", "loop"),
        ("to-a-directory", "empty"),
    ] {
        symlink(target, root.join(name)).expect("symlink");
    }
    sizes(root);
    for (name, mode) in [
        ("setuid", 0o4755),
        ("setgid", 0o2755),
        ("sticky", 0o1644),
        ("private", 0o600),
        ("read-only", 0o444),
        ("none", 0o000),
    ] {
        fs::write(root.join(name), name).expect("mode");
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).expect("chmod");
    }
    let shut = root.join("read-only-directory");
    fs::create_dir(&shut).expect("mkdir");
    fs::write(shut.join("inside"), "inside").expect("write");
    fs::set_permissions(&shut, Permissions::from_mode(0o555)).expect("chmod");
    if rustix::process::geteuid().is_root() {
        as_root(root);
    }
    for (name, seconds, nanoseconds) in [
        ("private", 0, 0),
        ("sticky", -1_000_000, 999_999_999),
        ("setgid", 4_000_000_000, 1),
        ("dangling", 1_000_000_000, 123_456_789),
        ("empty/of", 1_000_000_001, 987_654_321),
        (".", 1_234_567_890, 42),
    ] {
        set_mtime(&root.join(name), seconds, nanoseconds);
    }
}

fn sizes(root: &Path) {
    for size in [
        0,
        1,
        4095,
        4096,
        4097,
        65_536,
        131_071,
        131_072,
        131_073,
        300_000,
        9 << 20,
    ] {
        fs::write(root.join(format!("size-{size}")), noise(size, size as u64)).expect("size");
    }
    fs::write(root.join("zeros"), vec![0; 1 << 20]).expect("zeros");
    let sparse = File::create(root.join("sparse")).expect("sparse");
    sparse.write_all_at(b"start", 0).expect("write");
    sparse.write_all_at(b"middle", 40 << 20).expect("write");
    sparse.set_len(64 << 20).expect("length");
    File::create(root.join("only-a-hole"))
        .and_then(|file| file.set_len(5 << 20))
        .expect("hole");
}

/// Special files and other people's.
fn as_root(root: &Path) {
    let fifo = root.join("fifo");
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).expect("fifo");
    for (name, uid, gid) in [
        ("setuid", 1234, 2345),
        ("dangling", 65_534, 1),
        ("empty", 7, 8),
    ] {
        std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).expect("chown");
    }
    // A change of owner takes these bits away.
    fs::set_permissions(root.join("setuid"), Permissions::from_mode(0o4755)).expect("chmod");
}

/// A part of a tree that every machine has.
fn copy_of_real_files(root: &Path) {
    let found = ["/usr/include", "/usr/lib/python3", "/etc"]
        .into_iter()
        .find(|dir| Path::new(dir).is_dir());
    let from = found.expect("a real tree");
    let parts = fs::read_dir(from).expect("list");
    let mut parts: Vec<PathBuf> = parts.map(|entry| entry.expect("entry").path()).collect();
    parts.sort();
    parts.truncate(scaled(150, usize::MAX));
    let mut args: Vec<&str> = vec!["-a", "--"];
    args.extend(parts.iter().filter_map(|path| path.to_str()));
    args.push(root.to_str().expect("text"));
    tool("cp", &args, root);
}

#[test]
fn a_first_sync_comes_to_the_same_whatever_the_target_has() {
    let write = |path: PathBuf| fs::write(path, "what was there").expect("write");
    let made: [&dyn Fn(&Path); 4] = [
        &|_| {},
        &|dst| write(dst.join("other")),
        &|dst| write(dst.join("d")),
        &|dst| {
            fs::create_dir(dst.join("d")).expect("mkdir");
            write(dst.join("d/g"));
        },
    ];
    for make in made {
        let sandbox = Sandbox::new();
        let at = |name: &str| sandbox.src().join(name);
        fs::create_dir_all(at("d/e")).expect("mkdir");
        fs::write(at("d/e/f"), "f").expect("write");
        fs::hard_link(at("d/e/f"), at("d/g")).expect("link");
        fs::hard_link(at("d/e/f"), at("h")).expect("link");
        symlink("d/g", at("to")).expect("symlink");
        make(&sandbox.dst());
        let receiver = sandbox.receiver().start();
        let agent = sandbox.agent(&receiver).start();
        agent.wait_synced(LONG);
        sandbox.assert_equal();
        let same = |a: &str, b: &str| {
            let inode = |name: &str| fs::metadata(sandbox.dst().join(name)).expect(name).ino();
            inode(a) == inode(b)
        };
        assert!(same("d/e/f", "d/g") && same("d/g", "h"));
    }
}

#[test]
fn an_odd_tree_arrives_as_it_is() {
    let sandbox = Sandbox::new();
    odd_tree(&sandbox.src());
    let receiver = sandbox.receiver().start();
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &["identical"]);
    sandbox.assert_equal();
    wait_staging_empty(&sandbox);
    use std::os::unix::fs::MetadataExt;
    for name in ["sparse", "only-a-hole"] {
        let blocks = fs::metadata(sandbox.dst().join(name))
            .expect("stat")
            .blocks();
        assert!(
            blocks * 512 < 2 << 20,
            "{name} is not sparse: {blocks} blocks"
        );
    }
    once(&sandbox, &sandbox.agent(&receiver), "verify").expect(code::DONE, &["identical"]);
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    fs::create_dir_all(sandbox.src().join("dir")).expect("mkdir");
    for (name, content) in [("small", noise(100, 1)), ("large", noise(3 << 20, 2))] {
        fs::write(sandbox.src().join(name), content).expect("write");
        for other in [format!("{name}-too"), format!("dir/{name}")] {
            fs::hard_link(sandbox.src().join(name), sandbox.src().join(other)).expect("link");
        }
    }
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    sandbox.assert_equal();
    // The same files, once shared and once not.
    fs::remove_file(sandbox.src().join("dir/small")).expect("remove");
    fs::copy(sandbox.src().join("small"), sandbox.src().join("dir/small")).expect("copy");
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    sandbox.assert_equal();
}

#[test]
fn a_real_tree_arrives_as_it_is() {
    let sandbox = Sandbox::new();
    copy_of_real_files(&sandbox.src());
    let receiver = sandbox.receiver().start();
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &["identical"]);
    sandbox.assert_equal();
    wait_staging_empty(&sandbox);
}

#[test]
fn a_running_agent_begins_with_what_is_there_and_what_is_not() {
    let sandbox = Sandbox::new();
    for (root, seed) in [(sandbox.src(), 1), (sandbox.dst(), 2)] {
        let work = Workload::new(root, seed).expect("workload");
        work.without_hard_links().run(300).expect("work");
    }
    let mirror = Mirror::of(sandbox);
    mirror.wait_staging_empty();
}

#[test]
fn nothing_changed_costs_little() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), scaled(50, 1000), 20, 300).expect("files");
    fs::write(sandbox.src().join("large"), noise(4 << 20, 1)).expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    let before = Tree::scan(sandbox.dst(), &Options::default()).expect("tree");
    for _ in 0..2 {
        let running = agent.start();
        running.wait_synced(LONG);
        let sent = target_of(&running)["bytes_sent"]
            .as_u64()
            .expect("bytes_sent");
        assert!(sent < 10_000, "{sent} bytes for nothing");
        running.terminate(LONG);
    }
    let after = Tree::scan(sandbox.dst(), &Options::default()).expect("tree");
    assert_eq!(diff(&before, &after), []);
}

#[test]
fn changes_made_while_nobody_looked_are_found() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let builder = patient(sandbox.agent(&receiver));
    let work = Workload::new(sandbox.src(), 3).expect("workload");
    let mut work = work.without_hard_links();
    for _ in 0..4 {
        work.run(150).expect("work");
        let agent = builder.start();
        agent.wait_synced(LONG);
        sandbox.assert_equal();
        agent.terminate(LONG);
    }
    drop(receiver);
}

#[test]
fn a_dry_run_lists_and_changes_nothing() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.src().join("same"), "same").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    fs::write(sandbox.src().join("new"), "new").expect("write");
    fs::create_dir(sandbox.src().join("dir")).expect("mkdir");
    fs::write(sandbox.src().join("same"), "other").expect("write");
    fs::write(sandbox.dst().join("extra"), "extra").expect("write");
    let before = Tree::scan(sandbox.dst(), &Options::default()).expect("tree");
    let dry = agent.clone().arg("--dry-run");
    let told = [
        "create file new\n",
        "create directory dir\n",
        "update same (",
        "remove file extra\n",
    ];
    once(&sandbox, &dry, "sync").expect(code::DIFFERENT, &told);
    let after = Tree::scan(sandbox.dst(), &Options::default()).expect("tree");
    assert_eq!(diff(&before, &after), []);
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    sandbox.assert_equal();
    once(&sandbox, &dry, "sync").expect(code::DONE, &["identical"]);
}

#[test]
fn verify_finds_a_byte_that_changed_silently() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 3, 10, 500).expect("files");
    fs::write(sandbox.src().join("large"), noise(3 << 20, 1)).expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    for name in ["large", "d00001/f00003"] {
        let path = sandbox.dst().join(name);
        let times = Tree::scan(sandbox.dst(), &Options::default()).expect("tree");
        let (seconds, nanoseconds) = times.entry(name).expect("entry").mtime;
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("open");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 200).expect("read");
        file.write_all_at(&[byte[0] ^ 1], 200).expect("write");
        drop(file);
        set_mtime(&path, seconds, i64::from(nanoseconds));
    }
    // Nothing to be seen without reading the content.
    once(&sandbox, &agent.clone().arg("--dry-run"), "sync").expect(code::DONE, &["identical"]);
    let told = ["large\n", "d00001/f00003\n", "2 differences\n"];
    once(&sandbox, &agent, "verify").expect(code::DIFFERENT, &told);
}

#[test]
fn without_delete_what_is_extra_stays() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.dst().join("extra"), "extra").expect("write");
    fs::create_dir_all(sandbox.dst().join("old/dir")).expect("mkdir");
    fs::write(sandbox.src().join("file"), "file").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).arg("--no-delete");
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    let running = agent.start();
    fs::remove_file(sandbox.src().join("file")).expect("remove");
    fs::write(sandbox.src().join("next"), "next").expect("write");
    running.wait_synced(LONG);
    for name in ["extra", "old/dir", "file", "next"] {
        assert!(sandbox.dst().join(name).exists(), "{name} is gone");
    }
    running.terminate(LONG);
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &["identical"]);
    sandbox.assert_equal();
}

#[test]
fn a_directory_of_the_module_is_a_place_of_its_own() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.dst().join("hosts/web01")).expect("mkdir");
    fs::write(sandbox.dst().join("hosts/other"), "not ours").expect("write");
    odd_tree(&sandbox.src());
    let receiver = sandbox.receiver().start();
    let agent = sandbox
        .agent(&receiver)
        .destination("mirror@localhost::demo/hosts/web01");
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    syncd_tests::sandbox::wait_equal(
        &sandbox.src(),
        &sandbox.dst().join("hosts/web01"),
        &Options::default(),
        std::time::Duration::ZERO,
    );
    assert_eq!(
        fs::read(sandbox.dst().join("hosts/other")).expect("read"),
        b"not ours"
    );
}

/// A first sync lists names ahead of their events. Once those were told, a name that comes and becomes another one is
/// never sent, and nothing is removed that was never there.
#[test]
fn temporary_names_after_a_first_sync_are_not_sent() {
    let mut sandbox = Sandbox::new();
    let log = sandbox.path().join("transfers.log");
    sandbox
        .conf()
        .module(MODULE)
        .set("log file", log.display())
        .set("transfer logging", "yes")
        .set("log format", "%o %f");
    let file = |index: usize| sandbox.src().join(format!("f{index}"));
    (0..50).for_each(|index| fs::write(file(index), "old").expect("write"));
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    // Without a `wait`, which would have it look whether events wait.
    sandbox.wait_equal(LONG);
    wait_until(LONG, "the first sync is over", || {
        let target = target_of(&agent);
        target["first_sync"].is_null() && target["dirty"] == 0 && target["in_flight"] == 0
    });
    // All that follows is in the queue before any of it is heard.
    agent.signal(Signal::STOP);
    for index in 0..50 {
        let new = file(index).with_extension("new");
        fs::write(&new, "newer").expect("write");
        fs::rename(&new, file(index)).expect("rename");
    }
    agent.signal(Signal::CONT);
    sandbox.wait_equal(LONG);
    agent.wait_synced(LONG);
    agent.terminate(LONG);
    receiver.terminate(LONG);
    let text = fs::read_to_string(&log).expect("log");
    let lines = |start: &str| text.lines().filter(|line| line.contains(start)).count();
    assert_eq!(lines("recv f"), 100, "{text}");
    // One that is looked at before its rename is told is taken for sent.
    assert!(lines(".new") < 10, "{text}");
}

/// rsync's log, for those whose tools read it: connections in one file, transfers in the module's own.
#[test]
fn transfers_are_logged_as_the_module_wants_it() {
    let mut sandbox = Sandbox::new();
    let everything = sandbox.path().join("all.log");
    let transfers = sandbox.path().join("transfers.log");
    sandbox
        .conf()
        .globals()
        .set("log file", everything.display());
    sandbox
        .conf()
        .module(syncd_tests::sandbox::MODULE)
        .set("log file", transfers.display())
        .set("transfer logging", "yes")
        .set("log format", "%o [%a] %m (%u) %f %l%L");
    fs::create_dir(sandbox.src().join("d")).expect("mkdir");
    fs::write(sandbox.src().join("d/new\nline"), "seven b").expect("write");
    std::os::unix::fs::symlink("target", sandbox.src().join("l")).expect("symlink");
    let receiver = sandbox.receiver().start();
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &[]);
    fs::remove_file(sandbox.src().join("l")).expect("remove");
    once(&sandbox, &sandbox.agent(&receiver), "sync").expect(code::DONE, &[]);
    let holds = |file: &Path, part: &str| {
        syncd_tests::wait_for(crate::common::LONG, part, || {
            let text = fs::read_to_string(file).unwrap_or_default();
            if text.contains(part) {
                Ok(())
            } else {
                Err(text)
            }
        });
    };
    for part in [
        "recv [127.0.0.1] demo (mirror) d/new\\x0aline 7\n",
        "recv [127.0.0.1] demo (mirror) l 0 -> target\n",
        "del. [127.0.0.1] demo (mirror) l 0\n",
    ] {
        holds(&transfers, part);
    }
    holds(&everything, "session open");
    let text = fs::read_to_string(&everything).expect("read");
    assert!(!text.contains("recv ["), "{text}");
    let line = text.lines().next().expect("a line");
    let (date, rest) = line.split_once(' ').expect("a date");
    assert_eq!(date.len(), "2026/11/21".len(), "{line}");
    assert!(rest.contains(" ["), "{line}");
}
