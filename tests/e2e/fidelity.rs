//! What a mirror holds besides content: which names are one file, attributes, odd times, modes and sizes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use syncd_tests::binaries::Binaries;
use syncd_tests::isolate::{isolated, loop_devices};
use syncd_tests::require::Need;
use syncd_tests::sandbox::wait_equal;
use syncd_tests::tree::{Options, set_mtime};
use syncd_tests::volume::Kind;
use syncd_tests::{Sandbox, require, wait_until};

use crate::attributes::{ACCESS, acl, holds, set, value};
use crate::common::{Immutable, LONG, Mirror, code, noise, once, patient, scaled, target_of};
use crate::times::with_small_inodes;

/// Bytes of a file that travels by itself, not inside a commit.
const LARGE: usize = 700_000;

fn link(mirror: &Mirror, from: &str, to: &str) {
    fs::hard_link(mirror.src(from), mirror.src(to)).expect("ln");
}

#[track_caller]
fn assert_links(path: &Path, count: u64) {
    let found = fs::symlink_metadata(path).expect("stat").nlink();
    assert_eq!(found, count, "names of {}", path.display());
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(text.as_bytes()).expect("write");
}

#[test]
fn a_new_name_of_a_file_costs_no_content() {
    let mirror = Mirror::start();
    fs::write(mirror.src("big"), noise(LARGE, 1)).expect("write");
    fs::write(mirror.src("small"), "small").expect("write");
    mirror.settle();
    let sent = mirror.bytes_sent();
    fs::create_dir(mirror.src("d")).expect("mkdir");
    link(&mirror, "big", "big2");
    link(&mirror, "big", "d/big3");
    link(&mirror, "small", "small2");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(cost < 10_000, "{cost} bytes for three names");
    assert_links(&mirror.dst("big"), 3);
}

#[test]
fn a_tree_of_links_is_copied_as_one() {
    let sandbox = Sandbox::new();
    let src = sandbox.src();
    for number in 0..60 {
        let dir = src.join(format!("d{}", number % 7));
        fs::create_dir_all(&dir).expect("mkdir");
        let size = if number % 10 == 0 {
            LARGE
        } else {
            100 + number
        };
        let file = dir.join(format!("f{number}"));
        fs::write(&file, noise(size, number as u64)).expect("write");
        for other in 0..number % 4 {
            let dir = src.join(format!("e{other}"));
            fs::create_dir_all(&dir).expect("mkdir");
            fs::hard_link(&file, dir.join(format!("l{number}"))).expect("ln");
        }
    }
    let mirror = Mirror::of(sandbox);
    let cost = mirror.bytes_sent();
    assert!(
        cost < 6 * LARGE as u64 * 5 / 4,
        "{cost} bytes: more than one copy of each"
    );
}

#[test]
fn a_write_to_one_name_reaches_all() {
    let mirror = Mirror::start();
    fs::write(mirror.src("a"), "one").expect("write");
    link(&mirror, "a", "b");
    link(&mirror, "a", "c");
    fs::write(mirror.src("x"), noise(LARGE, 2)).expect("write");
    link(&mirror, "x", "y");
    mirror.settle();
    append(&mirror.src("b"), " and two");
    append(&mirror.src("y"), "more");
    mirror.settle();
    assert_eq!(fs::read(mirror.dst("c")).expect("read"), b"one and two");
    assert_links(&mirror.dst("a"), 3);
    fs::set_permissions(mirror.src("c"), Permissions::from_mode(0o600)).expect("chmod");
    mirror.settle();
    assert_links(&mirror.dst("x"), 2);
}

#[test]
fn a_name_that_is_replaced_leaves_the_others() {
    let mirror = Mirror::start();
    fs::write(mirror.src("a"), "shared").expect("write");
    for name in ["b", "c", "d"] {
        link(&mirror, "a", name);
    }
    mirror.settle();
    fs::write(mirror.src("tmp"), "its own").expect("write");
    fs::rename(mirror.src("tmp"), mirror.src("b")).expect("mv");
    mirror.settle();
    assert_links(&mirror.dst("b"), 1);
    fs::remove_file(mirror.src("c")).expect("rm");
    fs::rename(mirror.src("d"), mirror.src("e")).expect("mv");
    mirror.settle();
    assert_links(&mirror.dst("a"), 2);
    // A name of the file that was made elsewhere and moved over another one.
    link(&mirror, "a", "new");
    fs::rename(mirror.src("new"), mirror.src("b")).expect("mv");
    mirror.settle();
    assert_links(&mirror.dst("a"), 3);
}

#[test]
fn links_survive_a_rename_of_their_directory() {
    let mirror = Mirror::start();
    fs::create_dir(mirror.src("d")).expect("mkdir");
    fs::write(mirror.src("d/a"), "one").expect("write");
    link(&mirror, "d/a", "b");
    mirror.settle();
    fs::rename(mirror.src("d"), mirror.src("moved")).expect("mv");
    append(&mirror.src("b"), " two");
    mirror.settle();
    append(&mirror.src("moved/a"), " three");
    mirror.settle();
    assert_eq!(fs::read(mirror.dst("b")).expect("read"), b"one two three");
}

/// A change of the mirror that nobody else may make, with the times that would hide it.
fn behind_its_back(mirror: &Mirror, change: impl FnOnce(&Mirror)) {
    let before = fs::metadata(mirror.dst("")).expect("stat");
    change(mirror);
    let times = File::open(mirror.dst("")).expect("open");
    times
        .set_modified(before.modified().expect("time"))
        .expect("utimens");
}

#[test]
fn a_comparison_finds_and_mends_names_that_fell_apart_or_together() {
    let mirror = Mirror::start();
    fs::write(mirror.src("a"), noise(LARGE, 3)).expect("write");
    link(&mirror, "a", "b");
    link(&mirror, "a", "c");
    for name in ["p", "q"] {
        fs::write(mirror.src(name), "equal").expect("write");
    }
    let time = fs::metadata(mirror.src("p"))
        .expect("stat")
        .modified()
        .expect("time");
    File::open(mirror.src("q"))
        .expect("open")
        .set_modified(time)
        .expect("utimens");
    mirror.settle();
    behind_its_back(&mirror, |mirror| {
        let copy = mirror.dst("copy");
        let time = fs::metadata(mirror.dst("b"))
            .expect("stat")
            .modified()
            .expect("time");
        fs::copy(mirror.dst("b"), &copy).expect("cp");
        File::open(&copy)
            .expect("open")
            .set_modified(time)
            .expect("utimens");
        fs::rename(&copy, mirror.dst("b")).expect("mv");
        fs::remove_file(mirror.dst("q")).expect("rm");
        fs::hard_link(mirror.dst("p"), mirror.dst("q")).expect("ln");
    });
    let sandbox = &mirror.sandbox;
    let agent = patient(sandbox.agent(&mirror.receiver));
    let verified = once(sandbox, &agent, "verify");
    verified.expect(
        code::DIFFERENT,
        &["differs (hard links): b", "differs (hard links): q"],
    );
    mirror.agent.control().rescan(".").expect("rescan");
    mirror.settle();
    assert_links(&mirror.dst("a"), 3);
    assert_links(&mirror.dst("p"), 1);
    once(sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
}

#[test]
fn copies_that_should_be_one_file_are_linked_without_their_content() {
    let sandbox = Sandbox::new();
    for name in ["a", "b", "c"] {
        for root in [sandbox.src(), sandbox.dst()] {
            let path = root.join(name);
            if name == "a" || root == sandbox.dst() {
                fs::write(&path, noise(LARGE, 4)).expect("write");
            } else {
                fs::hard_link(root.join("a"), &path).expect("ln");
            }
            let file = File::open(&path).expect("open");
            file.set_modified(std::time::UNIX_EPOCH).expect("utimens");
        }
    }
    let mirror = Mirror::of(sandbox);
    assert_links(&mirror.dst("a"), 3);
    let cost = mirror.bytes_sent();
    assert!(cost < 20_000, "{cost} bytes");
}

#[test]
fn links_that_changed_while_nobody_watched() {
    let mirror = Mirror::start();
    fs::write(mirror.src("a"), "one").expect("write");
    link(&mirror, "a", "b");
    link(&mirror, "a", "c");
    mirror.settle();
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = mirror;
    drop(agent);
    append(&sandbox.src().join("c"), " two");
    fs::remove_file(sandbox.src().join("b")).expect("rm");
    fs::write(sandbox.src().join("b"), "alone").expect("write");
    fs::hard_link(sandbox.src().join("b"), sandbox.src().join("d")).expect("ln");
    drop(receiver);
    let mirror = Mirror::of(sandbox);
    assert_links(&mirror.dst("a"), 2);
    assert_links(&mirror.dst("d"), 2);
}

#[test]
fn a_sparse_file_above_4_gib_stays_sparse() {
    let mirror = Mirror::start();
    let size = (4 << 30) + 12_345;
    let file = File::create(mirror.src("sparse")).expect("create");
    file.set_len(size).expect("truncate");
    for at in [0, 1 << 30, (4 << 30) + 1] {
        file.write_all_at(&noise(10_000, at), at).expect("write");
    }
    drop(file);
    mirror.agent.wait_synced(crate::common::LONG);
    let [here, there] = ["src", "dst"].map(|side| {
        let root = if side == "src" {
            mirror.sandbox.src()
        } else {
            mirror.sandbox.dst()
        };
        fs::metadata(root.join("sparse")).expect("stat")
    });
    assert_eq!(there.size(), size);
    assert_eq!(
        (here.mtime(), here.mtime_nsec()),
        (there.mtime(), there.mtime_nsec())
    );
    let (here, there) = (here.blocks(), there.blocks());
    assert!(there <= here * 5 / 4 + 16, "{there} blocks for {here}");
    let copy = File::open(mirror.dst("sparse")).expect("open");
    for at in [0, 1 << 30, (4 << 30) + 1] {
        let mut found = vec![0; 10_000];
        copy.read_exact_at(&mut found, at).expect("read");
        assert_eq!(found, noise(10_000, at));
    }
}

#[test]
fn odd_times_of_everything_as_they_are_set() {
    let mirror = Mirror::start();
    for name in ["f", "d/f"] {
        fs::create_dir_all(mirror.src("d")).expect("mkdir");
        fs::write(mirror.src(name), name).expect("write");
    }
    std::os::unix::fs::symlink("f", mirror.src("l")).expect("symlink");
    mirror.settle();
    // What ext4 holds: from 1901 to 2446.
    for (seconds, nanoseconds) in [
        (-1, 999_999_999),
        (-2_000_000_000, 1),
        (15_000_000_000, 7),
        (0, 0),
    ] {
        for name in ["f", "d/f", "d", "l", ""] {
            set_mtime(&mirror.src(name), seconds, nanoseconds);
        }
        mirror.settle();
        let found = fs::metadata(mirror.dst("d/f")).expect("stat");
        assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, nanoseconds));
    }
}

#[test]
fn a_time_that_the_mirror_cannot_hold_is_told_and_everything_else_arrives() {
    let [tool, kernel] = Kind::Ext4.needs();
    let needs = [loop_devices(), tool, kernel];
    let name = "fidelity::a_time_that_the_mirror_cannot_hold_is_told_and_everything_else_arrives";
    isolated(name, &needs, || {
        let sandbox = Sandbox::new();
        // Small inodes hold seconds from 1901 to 2038.
        let disk = with_small_inodes(&sandbox, &sandbox.dst());
        let (src, dst) = (sandbox.src(), sandbox.dst());
        for (name, size) in [("small", 10), ("large", LARGE), ("plain", 10)] {
            fs::write(src.join(name), noise(size, 1)).expect("write");
        }
        fs::create_dir(src.join("d")).expect("mkdir");
        std::os::unix::fs::symlink("small", src.join("l")).expect("symlink");
        let odd = ["d", "l", "large", "small"];
        for name in odd {
            set_mtime(&src.join(name), 5_000_000_000, 0);
        }
        set_mtime(&src.join("plain"), 2_147_000_000, 0);
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver)).start();
        let failed = || {
            let paths = target_of(&agent)["failed"].as_array().cloned();
            let mut paths: Vec<_> = paths.unwrap_or_default();
            paths.retain(|path| path.to_string().contains("mtime"));
            let names = paths.iter().filter_map(|path| path["path"].as_str());
            let mut names: Vec<_> = names.map(str::to_owned).collect();
            names.sort();
            names
        };
        wait_until(LONG, "all four are told, and nothing else", || {
            failed() == odd
        });
        for name in ["small", "large", "plain"] {
            let [here, there] = [&src, &dst].map(|root| fs::read(root.join(name)).expect("read"));
            assert!(here == there, "{name}");
        }
        for name in odd {
            set_mtime(&src.join(name), 2_000_000_000, 0);
        }
        agent.wait_synced(LONG);
        drop((agent, receiver, disk));
    });
}

#[test]
fn special_bits_survive_a_change_of_owner() {
    if !require(&[Need::Root]) {
        return;
    }
    let mirror = Mirror::start();
    fs::create_dir(mirror.src("d")).expect("mkdir");
    for name in ["f", "large"] {
        let size = if name == "f" { 10 } else { LARGE };
        fs::write(mirror.src(name), noise(size, 9)).expect("write");
    }
    mirror.settle();
    for (name, mode) in [("f", 0o6755), ("large", 0o4711), ("d", 0o3770)] {
        chown(mirror.src(name), Some(1234), Some(4321)).expect("chown");
        fs::set_permissions(mirror.src(name), Permissions::from_mode(mode)).expect("chmod");
    }
    mirror.settle();
    let found = fs::metadata(mirror.dst("f")).expect("stat");
    assert_eq!(
        (found.mode() & 0o7777, found.uid(), found.gid()),
        (0o6755, 1234, 4321)
    );
    // A write clears them at the source; they are set again afterwards, as an installation does.
    append(&mirror.src("large"), "more");
    fs::set_permissions(mirror.src("large"), Permissions::from_mode(0o4711)).expect("chmod");
    mirror.settle();
    assert_eq!(
        fs::metadata(mirror.dst("large")).expect("stat").mode() & 0o7777,
        0o4711
    );
}

#[test]
fn special_files_as_they_come_and_go() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.conf().module("demo").set("devices", "yes");
    let mirror = Mirror::of(sandbox);
    let mode = Mode::from_raw_mode(0o640);
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("loop", FileType::BlockDevice, rustix::fs::makedev(7, 200)),
    ] {
        rustix::fs::mknodat(CWD, mirror.src(name), kind, mode, device).expect("mknod");
    }
    mirror.settle();
    fs::set_permissions(mirror.src("fifo"), Permissions::from_mode(0o600)).expect("chmod");
    chown(mirror.src("null"), Some(7), None).expect("chown");
    fs::remove_file(mirror.src("socket")).expect("rm");
    fs::write(mirror.src("socket"), "a file now").expect("write");
    mirror.settle();
    // By itself: the directory that it is in has not changed.
    fs::set_permissions(mirror.src("fifo"), Permissions::from_mode(0o620)).expect("chmod");
    mirror.settle();
}

#[test]
fn devices_are_left_out_where_the_module_does_not_take_them() {
    if !require(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new();
    let mode = Mode::from_raw_mode(0o640);
    let null = |name: &str| {
        let (kind, device) = (FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        rustix::fs::mknodat(CWD, sandbox.src().join(name), kind, mode, device).expect("mknod");
    };
    fs::create_dir(sandbox.src().join("d")).expect("mkdir");
    rustix::fs::mknodat(CWD, sandbox.src().join("fifo"), FileType::Fifo, mode, 0).expect("mknod");
    null("d/early");
    fs::write(sandbox.src().join("was-a-file"), "x").expect("write");
    fs::write(sandbox.src().join("was-a-file-too"), "x").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    let mut options = Options::default();
    for name in ["d/early", "late", "was-a-file", "was-a-file-too"] {
        options.ignore.push(name.as_bytes().to_vec());
    }
    let equal = || {
        agent.wait_synced(crate::common::LONG);
        let (src, dst) = (sandbox.src(), sandbox.dst());
        wait_equal(&src, &dst, &options, std::time::Duration::ZERO);
    };
    equal();
    null("late");
    fs::remove_file(sandbox.src().join("was-a-file")).expect("rm");
    null("was-a-file");
    equal();
    for name in ["d/early", "late", "was-a-file"] {
        assert!(!sandbox.dst().join(name).exists(), "{name}");
        let line = agent.wait_line(crate::common::LONG, name);
        assert!(line.contains("keeps no character device"), "{line}");
    }
    drop(agent);
    fs::remove_file(sandbox.src().join("was-a-file-too")).expect("rm");
    null("was-a-file-too");
    let agent = patient(sandbox.agent(&receiver));
    once(&sandbox, &agent, "sync").expect(code::DONE, &["keeps no character device"]);
    assert!(!sandbox.dst().join("was-a-file-too").exists());
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
}

#[test]
fn the_longest_names_and_paths() {
    let mirror = Mirror::start();
    let name = "n".repeat(255);
    let mut dir = rustix::fs::open(mirror.src(""), OFlags::DIRECTORY, Mode::empty()).expect("open");
    for _ in 0..24 {
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).expect("mkdir");
        dir = rustix::fs::openat(&dir, &name, OFlags::DIRECTORY, Mode::empty()).expect("open");
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&dir, &name, flags, Mode::RUSR).expect("create");
    File::from(file).write_all(b"at the bottom").expect("write");
    mirror.settle();
}

#[test]
fn the_name_the_receiver_keeps_for_itself_is_left_out_and_nothing_else_is() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.src().join("d/.syncd/below")).expect("mkdir");
    fs::write(sandbox.src().join("d/.syncd/below/f"), "x").expect("write");
    fs::write(sandbox.src().join("d/.syncd-not"), "x").expect("write");
    fs::create_dir(sandbox.src().join("moves")).expect("mkdir");
    fs::write(sandbox.src().join("moves/f"), "x").expect("write");
    fs::write(sandbox.src().join("file"), "x").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    let equal = |reserved: &[&str]| {
        agent.wait_synced(crate::common::LONG);
        let mut options = Options::default();
        let reserved = reserved.iter().map(|path| path.as_bytes().to_vec());
        options.ignore.extend(reserved);
        let (src, dst) = (sandbox.src(), sandbox.dst());
        wait_equal(&src, &dst, &options, std::time::Duration::ZERO);
        assert!(!dst.join("d/.syncd").exists() && !dst.join("e/.syncd").exists());
    };
    equal(&["d/.syncd"]);
    // Live: made, written, moved there and back again.
    fs::create_dir_all(sandbox.src().join("e/.syncd")).expect("mkdir");
    fs::write(sandbox.src().join("e/.syncd/f"), "x").expect("write");
    fs::write(sandbox.src().join("d/.syncd/below/g"), "x").expect("write");
    fs::write(sandbox.src().join("e/f"), "x").expect("write");
    equal(&["d/.syncd", "e/.syncd"]);
    // Said once of each; the lines of comparisons, which name the target, are others.
    let told = |path: &str| {
        let line = format!(" {path}: not mirrored: the receiver keeps this name for itself");
        let log = agent.log();
        let lines = log.lines().filter(|it| it.contains(&line));
        lines.filter(|it| it.contains("source=")).count()
    };
    assert_eq!(told("e/.syncd"), 1, "{}", agent.log());
    fs::rename(sandbox.src().join("e/.syncd"), sandbox.src().join("e/back")).expect("mv");
    fs::rename(sandbox.src().join("file"), sandbox.src().join("e/.syncd")).expect("mv");
    equal(&["d/.syncd", "e/.syncd"]);
    fs::remove_file(sandbox.src().join("e/.syncd")).expect("rm");
    fs::rename(sandbox.src().join("moves"), sandbox.src().join("e/.syncd")).expect("mv");
    equal(&["d/.syncd", "e/.syncd"]);
    assert!(!sandbox.dst().join("moves").exists());
    assert_eq!(told("e/.syncd"), 1);
    // What comes in with a directory is met in its listing.
    let outside = sandbox.path().join("outside");
    fs::create_dir_all(outside.join("in/.syncd")).expect("mkdir");
    fs::rename(&outside, sandbox.src().join("h")).expect("mv");
    equal(&["d/.syncd", "e/.syncd", "h/in/.syncd"]);
    assert_eq!(told("h/in/.syncd"), 1);
    fs::remove_dir_all(sandbox.src().join("h")).expect("rm");
    fs::rename(sandbox.src().join("e"), sandbox.src().join("g")).expect("mv");
    equal(&["d/.syncd", "g/.syncd"]);
    fs::rename(sandbox.src().join("g/.syncd"), sandbox.src().join("moves")).expect("mv");
    fs::remove_dir_all(sandbox.src().join("d/.syncd")).expect("rm");
    equal(&[]);
}

#[test]
fn what_is_immutable_at_the_mirror_fails_with_its_reason_and_all_else_flows() {
    let probe = tempfile::NamedTempFile::new().expect("a file");
    let there = Immutable::make(&[probe.path().to_owned()]).is_some();
    if !require(&[Need::Root, Need::Other("chattr +i", there)]) {
        return;
    }
    let mirror = Mirror::start();
    fs::create_dir(mirror.src("d")).expect("mkdir");
    let names = ["content", "mode", "gone", "large", "renamed", "d/f"];
    for name in names {
        fs::write(mirror.src(name), name).expect("write");
    }
    mirror.settle();
    let paths = ["content", "mode", "gone", "large", "renamed", "d"].map(|name| mirror.dst(name));
    let immutable = Immutable::make(&paths).expect("chattr");
    fs::write(mirror.src("content"), "changed").expect("write");
    fs::set_permissions(mirror.src("mode"), Permissions::from_mode(0o600)).expect("chmod");
    fs::remove_file(mirror.src("gone")).expect("rm");
    fs::write(mirror.src("large"), noise(LARGE, 6)).expect("write");
    fs::rename(mirror.src("renamed"), mirror.src("new-name")).expect("mv");
    fs::write(mirror.src("d/f"), "changed").expect("write");
    fs::write(mirror.src("other"), "flows").expect("write");
    crate::common::wait_content(&mirror.dst("other"), b"flows");
    let failed = || {
        let failed = mirror.target()["failed"].as_array().cloned();
        failed.unwrap_or_default()
    };
    let told = |name: &str| {
        failed().iter().any(|path| {
            path["path"] == name
                && path["code"] == "file is immutable or append-only"
                && path["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("immutable"))
                && path["attempts"].as_u64() > Some(0)
        })
    };
    for name in ["content", "mode", "gone", "large", "d/f"] {
        wait_until(crate::common::LONG, &format!("{name} is told"), || {
            told(name)
        });
    }
    let waited = mirror.agent.control().wait(Some("content"), Duration::ZERO);
    let text = waited.expect_err("it cannot be durable").to_string();
    let command = format!("syncd-agent rescan {}", mirror.src("content").display());
    for part in ["content failed: ", "immutable", "again in ", &command] {
        assert!(text.contains(part), "{part}: {text}");
    }
    crate::common::wait_content(&mirror.dst("new-name"), b"renamed");
    fs::write(mirror.src("other"), "still flows").expect("write");
    crate::common::wait_content(&mirror.dst("other"), b"still flows");
    drop(immutable);
    mirror.agent.control().rescan(".").expect("rescan");
    mirror.settle();
}

#[test]
fn what_may_only_grow_at_the_mirror_is_told() {
    let probe = tempfile::NamedTempFile::new().expect("a file");
    let there = Immutable(&[probe.path().to_owned()]).chattr("+a");
    if !require(&[Need::Root, Need::Other("chattr +a", there)]) {
        return;
    }
    let mirror = Mirror::start();
    for name in ["log", "gone"] {
        fs::write(mirror.src(name), name).expect("write");
    }
    mirror.settle();
    let paths = ["log", "gone"].map(|name| mirror.dst(name));
    let append_only = Immutable(&paths);
    assert!(append_only.chattr("+a"), "chattr");
    append(&mirror.src("log"), " and more");
    fs::remove_file(mirror.src("gone")).expect("rm");
    fs::write(mirror.src("other"), "flows").expect("write");
    crate::common::wait_content(&mirror.dst("other"), b"flows");
    for name in ["log", "gone"] {
        wait_until(crate::common::LONG, &format!("{name} is told"), || {
            let failed = mirror.target()["failed"].as_array().cloned();
            let mut failed = failed.unwrap_or_default().into_iter();
            failed.any(|path| {
                path["path"] == name && path["code"] == "file is immutable or append-only"
            })
        });
    }
    assert_eq!(fs::read(mirror.dst("log")).expect("read"), b"log");
    drop(append_only);
    mirror.agent.control().rescan(".").expect("rescan");
    mirror.settle();
}

/// A program that runs the agent where users and groups have other numbers.
fn agent_elsewhere(sandbox: &Sandbox, passwd: &str, group: &str) -> std::path::PathBuf {
    let at = |name: &str| sandbox.path().join(name);
    fs::write(at("passwd"), passwd).expect("write");
    fs::write(at("group"), group).expect("write");
    let program = Binaries::locate().agent.display();
    let (passwd, group) = (at("passwd"), at("group"));
    let (passwd, group) = (passwd.display(), group.display());
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -ec 'mount --bind \"$0\" /etc/passwd\nmount --bind \"$1\" /etc/group\n\
         shift\nexec \"{program}\" \"$@\"' '{passwd}' '{group}' \"$@\"\n"
    );
    let script = at("agent-elsewhere");
    fs::write(&script, text).expect("write");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("chmod");
    script
}

#[test]
fn owners_are_known_by_name_where_both_have_it() {
    let here = fs::read("/etc/passwd").expect("passwd");
    let daemon = |text: &[u8]| {
        let mut lines = text.split(|byte| *byte == b'\n');
        lines.any(|line| line.starts_with(b"daemon:x:1:"))
    };
    let mut command = std::process::Command::new("unshare");
    let unshares = command.args(["-m", "true"]).status();
    if !require(&[
        Need::Root,
        Need::Other("the user daemon with number 1", daemon(&here)),
        Need::Other("unshare -m", unshares.is_ok_and(|status| status.success())),
    ]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let src = sandbox.src();
    for (name, uid, gid) in [
        ("mapped", 5_001, 6_001),
        ("unknown", 7_777, 7_778),
        ("root", 0, 0),
        ("number", 1, 1),
    ] {
        fs::write(
            src.join(name),
            noise(LARGE * usize::from(name == "mapped"), 8),
        )
        .expect("write");
        chown(src.join(name), Some(uid), Some(gid)).expect("chown");
        fs::create_dir(src.join(format!("{name}-d"))).expect("mkdir");
        chown(src.join(format!("{name}-d")), Some(uid), Some(gid)).expect("chown");
    }
    fs::hard_link(src.join("mapped"), src.join("mapped-2")).expect("ln");
    let acls = holds(ACCESS, &acl(5_001, 6_001));
    if acls {
        set(&src.join("mapped"), ACCESS, &acl(5_001, 6_001));
    }
    let text = "root:x:0:0::/:\ndaemon:x:5001:6001::/:\nelsewhere:x:1:1::/:\nnobody:x:0:0::/:\n";
    let program = agent_elsewhere(&sandbox, text, "root:x:0:\ndaemon:x:6001:\nnobody:x:1:\n");
    let owner = |path: &Path| {
        let found = fs::symlink_metadata(path).expect("stat");
        (found.uid(), found.gid())
    };
    let nogroup = owner_of_group("nobody");
    for numeric in ["no", "yes"] {
        sandbox.conf().module("demo").set("numeric ids", numeric);
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver)).program(&program);
        once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
        once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
        let mapped = if numeric == "no" {
            (1, 1)
        } else {
            (5_001, 6_001)
        };
        let number = if numeric == "no" {
            (1, nogroup.unwrap_or(1))
        } else {
            (1, 1)
        };
        for (name, expected) in [
            ("mapped", mapped),
            ("mapped-2", mapped),
            ("unknown", (7_777, 7_778)),
            ("root", (0, 0)),
            ("number", number),
        ] {
            assert_eq!(
                owner(&sandbox.dst().join(name)),
                expected,
                "{name}, {numeric}"
            );
        }
        assert_eq!(owner(&sandbox.dst().join("mapped-d")), mapped);
        if acls {
            let found = value(&sandbox.dst().join("mapped"), ACCESS);
            assert_eq!(found, Some(acl(mapped.0, mapped.1)));
        }
        assert_links(&sandbox.dst().join("mapped"), 2);
        // Live: nothing differs, and a change of owner is one.
        let running = agent.start();
        running.wait_synced(crate::common::LONG);
        chown(src.join("unknown"), Some(5_001), Some(0)).expect("chown");
        wait_until(crate::common::LONG, "the owner follows", || {
            owner(&sandbox.dst().join("unknown")) == (mapped.0, 0)
        });
        running.wait_synced(crate::common::LONG);
        chown(src.join("unknown"), Some(7_777), Some(7_778)).expect("chown");
    }
}

/// Number of a group of this machine.
fn owner_of_group(name: &str) -> Option<u32> {
    let text = fs::read_to_string("/etc/group").expect("group");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The receiver gives nothing away and makes no symlink, and the comparison sees what there would be.
#[test]
fn fake_super_keeps_what_only_root_could_make() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox
        .conf()
        .module(syncd_tests::sandbox::MODULE)
        .set("fake super", "yes");
    let at = |name: &str| sandbox.src().join(name);
    fs::create_dir(at("d")).expect("mkdir");
    fs::write(at("d/tool"), "content").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(at("d/tool"), mode(0o4_755)).expect("chmod");
    fs::write(at("d/unreadable"), "content").expect("write");
    fs::set_permissions(at("d/unreadable"), mode(0o000)).expect("chmod");
    std::os::unix::fs::symlink("tool", at("d/link")).expect("symlink");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    once(&sandbox, &agent, "verify").expect(code::DONE, &[]);
    let link = sandbox.dst().join("d/link");
    assert!(fs::symlink_metadata(&link).expect("there").is_file());
    assert!(fs::read_to_string(&link).expect("read").ends_with("tool"));
    fs::set_permissions(sandbox.dst().join("d/tool"), mode(0o700)).expect("chmod");
    let name = "user.rsync.%stat";
    rustix::fs::removexattr(sandbox.dst().join("d/tool"), name).expect("an attribute");
    once(&sandbox, &agent, "verify").expect(code::DIFFERENT, &[]);
    once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
    once(&sandbox, &agent, "verify").expect(code::DONE, &[]);
}

#[test]
fn thousands_of_names_of_one_file() {
    let sandbox = Sandbox::new();
    let src = sandbox.src();
    fs::write(src.join("first"), noise(LARGE, 11)).expect("write");
    let count = scaled(3_000, 60_000);
    for number in 0..count {
        let dir = src.join(format!("d{}", number % 50));
        if number < 50 {
            fs::create_dir(&dir).expect("mkdir");
        }
        let name = format!("name-{number}");
        fs::hard_link(src.join("first"), dir.join(name)).expect("ln");
    }
    let mirror = Mirror::of(sandbox);
    assert_links(&mirror.dst("first"), count as u64 + 1);
    let cost = mirror.bytes_sent();
    let most = LARGE as u64 * 5 / 4 + count as u64 * 200;
    assert!(cost < most, "{cost} bytes");
    // All of them are the file that is written to through one of them.
    append(&mirror.src("d7/name-7"), "more");
    mirror.settle();
    assert_links(&mirror.dst("d7/name-7"), count as u64 + 1);
}

#[test]
fn owners_that_nobody_has() {
    if !require(&[Need::Root]) {
        return;
    }
    let mirror = Mirror::start();
    for (name, id) in [("a", 4_294_967_294), ("b", 2_147_483_648), ("c", 65_534)] {
        fs::write(mirror.src(name), name).expect("write");
        chown(mirror.src(name), Some(id), Some(id - 1)).expect("chown");
        fs::create_dir(mirror.src(format!("{name}-d"))).expect("mkdir");
        chown(mirror.src(format!("{name}-d")), Some(id - 2), Some(id)).expect("chown");
    }
    mirror.settle();
    let found = fs::metadata(mirror.dst("a")).expect("stat");
    assert_eq!((found.uid(), found.gid()), (4_294_967_294, 4_294_967_293));
}

/// A chain of directories, each with a file, without a path that would be too long for the kernel.
fn chain(root: &Path, name: &str, depth: usize) {
    let mut dir = rustix::fs::open(root, OFlags::DIRECTORY, Mode::empty()).expect("open");
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, name, Mode::RWXU).expect("mkdir");
        dir = rustix::fs::openat(&dir, name, OFlags::DIRECTORY, Mode::empty()).expect("open");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&dir, "f", flags, Mode::RUSR).expect("create");
        File::from(file).write_all(b"x").expect("write");
    }
}

#[test]
fn many_directories_in_one_another() {
    let mirror = Mirror::start();
    let name = "n".repeat(255);
    chain(&mirror.src(""), &name, 64);
    mirror.settle();
    let sent = mirror.bytes_sent();
    fs::rename(mirror.src(&name), mirror.src("another")).expect("mv");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(cost < 50_000, "{cost} bytes for a rename");
    fs::write(mirror.src("another/f"), "heard under the new name").expect("write");
    mirror.settle();
}
