//! Changes as they happen: after each, as soon as the agent says so, the mirror is identical.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags};
use syncd_tests::require::Need;
use syncd_tests::workload::{Rng, Workload, many_small, rewrite_random_blocks, sed_i, vim_save};
use syncd_tests::{Sandbox, require};

use crate::common::{LONG, Mirror, noise, patient, scaled, tool, wait_content};

#[test]
fn cp_r() {
    let mirror = Mirror::start();
    let from = tempfile::tempdir().expect("directory");
    many_small(from.path(), scaled(60, 1000), 20, 700).expect("files");
    tool(
        "cp",
        &["-r", from.path().to_str().expect("text"), "copy"],
        &mirror.sandbox.src(),
    );
    mirror.settle();
}

/// A page refers to what was put into a new directory before it: it never appears before that.
#[test]
fn a_page_does_not_come_before_its_pictures() {
    let mirror = Mirror::start();
    for release in 0..scaled(20, 200) {
        let dir = format!("release-{release}");
        let at = |index: usize| format!("{dir}/part/picture-{index}");
        let content = noise(3_000, release as u64);
        fs::create_dir_all(mirror.src(&dir).join("part")).expect("mkdir");
        (0..20).for_each(|index| fs::write(mirror.src(at(index)), &content).expect("picture"));
        fs::write(mirror.src("page"), &dir).expect("page");
        wait_content(&mirror.dst("page"), dir.as_bytes());
        for index in 0..20 {
            let there = fs::read(mirror.dst(at(index))).ok();
            assert!(there.as_ref() == Some(&content), "{} is missing", at(index));
        }
    }
    mirror.settle();
}

#[test]
fn tar_x() {
    let mirror = Mirror::start();
    let from = tempfile::tempdir().expect("directory");
    let tree = from.path().join("tree");
    fs::create_dir(&tree).expect("mkdir");
    many_small(&tree, scaled(40, 1000), 20, 1500).expect("files");
    symlink("d00000/f00001", tree.join("link")).expect("symlink");
    tool("tar", &["cf", "archive.tar", "tree"], from.path());
    let archive = from.path().join("archive.tar");
    tool(
        "tar",
        &["xf", archive.to_str().expect("text")],
        &mirror.sandbox.src(),
    );
    mirror.settle();
}

/// A checkout takes long enough for a comparison to run in the middle of it: smaller ones hid that what it had seen
/// away may be there again.
#[test]
fn git_clone_and_checkout() {
    const REVISIONS: usize = 30;
    if !require(&[Need::Tool("git")]) {
        return;
    }
    let mirror = Mirror::start();
    let from = tempfile::tempdir().expect("directory");
    let git = |args: &[&str]| {
        let identity = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "gc.auto=0",
        ];
        tool("git", &[&identity[..], args].concat(), from.path());
    };
    git(&["init", "-q", "-b", "main", "."]);
    for revision in 0..REVISIONS {
        for file in 0..2_000 {
            if (file + revision) % 4 == 0 {
                let dir = from
                    .path()
                    .join(format!("dir{}/sub{}", (file + revision) % 9, file % 7));
                fs::create_dir_all(&dir).expect("mkdir");
                let text = format!("{file} in {revision}\n").repeat(1 + file % 40);
                fs::write(dir.join(format!("file{file}.txt")), text).expect("write");
            }
        }
        if revision % 2 == 1 {
            let _ = fs::remove_dir_all(from.path().join(format!("dir{}", revision % 9)));
        }
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", "change"]);
        git(&["tag", &format!("v{revision}")]);
    }
    let clone = [
        "clone",
        "-q",
        "--no-hardlinks",
        from.path().to_str().expect("text"),
        "clone",
    ];
    tool("git", &clone, &mirror.sandbox.src());
    mirror.settle();
    let last = format!("v{}", REVISIONS - 1);
    for tag in ["v0", &last, "v1"] {
        tool("git", &["checkout", "-q", tag], &mirror.src("clone"));
        mirror.settle();
    }
}

#[test]
fn editors() {
    let mirror = Mirror::start();
    let path = mirror.src("text");
    fs::write(&path, "first\n".repeat(500)).expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    mirror.settle();
    for number in 0..5 {
        sed_i(&path).expect("sed");
        mirror.settle();
        vim_save(&path, format!("version {number}\n").repeat(700).as_bytes()).expect("vim");
        mirror.settle();
        // As emacs and many others: a backup by copy, and the file rewritten as it lies.
        fs::copy(&path, mirror.src("text~")).expect("copy");
        fs::write(&path, format!("emacs {number}\n")).expect("write");
        // Without waiting: one dance on the other's heels.
        vim_save(&path, b"at once").expect("vim");
        sed_i(&path).expect("sed");
        mirror.settle();
    }
}

#[test]
fn sed_over_many_files() {
    let mirror = Mirror::start();
    many_small(&mirror.sandbox.src(), 10, scaled(20, 1000), 400).expect("files");
    mirror.settle();
    for dir in 0..10 {
        for file in 0..scaled(20, 1000) {
            sed_i(&mirror.src(format!("d{dir:05}/f{file:05}"))).expect("sed");
        }
    }
    mirror.settle();
}

#[test]
fn mv_of_a_large_directory_costs_nothing_on_the_wire() {
    let mirror = Mirror::start();
    fs::create_dir(mirror.src("before")).expect("mkdir");
    let count = many_small(&mirror.src("before"), 20, scaled(50, 500), 200).expect("files");
    mirror.settle();
    let sent = mirror.bytes_sent();
    fs::rename(mirror.src("before"), mirror.src("after")).expect("mv");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(cost < 5_000, "{cost} bytes for a rename of {count} files");
    // And it is watched under its new name.
    fs::write(mirror.src("after/d00007/new"), "new").expect("write");
    fs::create_dir(mirror.src("elsewhere")).expect("mkdir");
    fs::rename(mirror.src("after/d00003"), mirror.src("elsewhere/d3")).expect("mv");
    fs::write(mirror.src("elsewhere/d3/f00001"), "changed").expect("write");
    mirror.settle();
}

#[test]
fn rm_rf() {
    let mirror = Mirror::start();
    many_small(&mirror.sandbox.src(), 20, scaled(50, 500), 100).expect("files");
    mirror.settle();
    let sent = mirror.bytes_sent();
    for dir in 0..19 {
        fs::remove_dir_all(mirror.src(format!("d{dir:05}"))).expect("rm");
    }
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(cost < 200 * 1024, "{cost} bytes");
    mirror.wait_staging_empty();
}

#[test]
fn a_few_blocks_of_a_large_file() {
    let mirror = Mirror::start();
    let size = scaled(16 << 20, 1 << 30);
    let path = mirror.src("image");
    fs::write(&path, noise(size, 1)).expect("write");
    mirror.settle();
    let sent = mirror.bytes_sent();
    rewrite_random_blocks(&path, 100, 4096, 5).expect("rewrite");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(
        cost < 100 * 4096 * 2,
        "{cost} bytes for 100 blocks of 4096 in {size}"
    );
    mirror.wait_staging_empty();
}

#[test]
fn an_insertion_in_a_large_file() {
    let mirror = Mirror::start();
    let path = mirror.src("dump.sql");
    let mut content = noise(scaled(6 << 20, 1 << 28), 1);
    fs::write(&path, &content).expect("write");
    mirror.settle();
    let sent = mirror.bytes_sent();
    content.splice(1_000_000..1_000_000, b"a line more\n".iter().copied());
    let beside = mirror.src("dump.new");
    fs::write(&beside, &content).expect("write");
    fs::rename(beside, &path).expect("rename");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    // The new file may have been sent under its first name before the rename; not more than once.
    assert!(
        cost < content.len() as u64 * 11 / 10,
        "{cost} bytes of {}",
        content.len()
    );
    let sent = mirror.bytes_sent();
    content.splice(3_000_000..3_000_000, b"and another\n".iter().copied());
    fs::write(&path, &content).expect("write");
    mirror.settle();
    let cost = mirror.bytes_sent() - sent;
    assert!(
        cost < content.len() as u64 / 8,
        "{cost} bytes of {}",
        content.len()
    );
}

#[test]
fn a_log_that_is_never_closed() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        agent
            .arg("--hold-max-ms")
            .arg("1000")
            .arg("--settle-ms")
            .arg("200")
    });
    let mut log = File::create(mirror.src("log")).expect("create");
    let mut content = Vec::new();
    for number in 0..5 {
        let line = format!("line {number}\n");
        log.write_all(line.as_bytes()).expect("append");
        content.extend_from_slice(line.as_bytes());
        wait_content(&mirror.dst("log"), &content);
    }
    drop(log);
    mirror.settle();
}

#[test]
fn metadata_only() {
    let mirror = Mirror::start();
    many_small(&mirror.sandbox.src(), 2, 10, 100_000).expect("files");
    symlink("nowhere", mirror.src("link")).expect("symlink");
    mirror.settle();
    let sent = mirror.bytes_sent();
    for (name, mode) in [
        ("d00000", 0o2770),
        ("d00000/f00001", 0o4711),
        ("d00001/f00002", 0o000),
        ("", 0o750),
    ] {
        fs::set_permissions(mirror.src(name), Permissions::from_mode(mode)).expect("chmod");
    }
    mirror.settle();
    for (name, seconds, nanoseconds) in [
        ("d00000/f00003", 1, 1),
        ("d00001", 999_999_999, 999_999_999),
    ] {
        // Both times, as `touch` does: the kernel reports a new mtime alone as written content.
        let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        let times = FileTimes::new().set_modified(time).set_accessed(time);
        File::open(mirror.src(name))
            .and_then(|file| file.set_times(times))
            .expect("utimes");
    }
    mirror.settle();
    if rustix::process::geteuid().is_root() {
        for name in ["d00001/f00004", "d00001", "link"] {
            std::os::unix::fs::lchown(mirror.src(name), Some(4321), Some(54_321)).expect("chown");
        }
        mirror.settle();
    }
    let cost = mirror.bytes_sent() - sent;
    assert!(cost < 20_000, "{cost} bytes");
}

#[test]
fn a_hard_link() {
    let mirror = Mirror::start();
    fs::write(mirror.src("first"), noise(200_000, 1)).expect("write");
    mirror.settle();
    fs::hard_link(mirror.src("first"), mirror.src("second")).expect("link");
    mirror.settle();
    OpenOptions::new()
        .append(true)
        .open(mirror.src("second"))
        .and_then(|mut file| file.write_all(b"through the second name"))
        .expect("append");
    mirror.settle();
    fs::remove_file(mirror.src("first")).expect("remove");
    mirror.settle();
}

#[test]
fn rename_chains_and_swaps() {
    let mirror = Mirror::start();
    for name in ["a", "b", "c", "d"] {
        fs::write(mirror.src(name), name.repeat(100)).expect("write");
    }
    many_small(&mirror.src("one"), 2, 5, 50).expect("files");
    many_small(&mirror.src("two"), 3, 5, 60).expect("files");
    mirror.settle();
    let mv = |from: &str, to: &str| fs::rename(mirror.src(from), mirror.src(to)).expect("mv");
    let swap = |a: &str, b: &str| {
        let (a, b) = (mirror.src(a), mirror.src(b));
        rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("exchange");
    };
    for round in 0..scaled(5, 200) {
        mv("a", "t");
        mv("b", "a");
        mv("t", "b");
        mirror.settle();
        swap("c", "d");
        mirror.settle();
        swap("one", "two");
        fs::write(mirror.src("one/in-between"), format!("{round}")).expect("write");
        mirror.settle();
        mv("one", "three");
        mv("two", "one");
        mv("three", "two");
        fs::write(mirror.src("two/d00000/f00001"), format!("{round}")).expect("write");
        mirror.settle();
        swap("a", "one");
        mirror.settle();
        swap("one", "a");
        mv("d", "e");
        mv("e", "f");
        mv("f", "d");
        mirror.settle();
    }
}

/// Directories go, come, and get other names faster than they are sent: nothing of an older one stays where a newer one
/// has its name.
#[test]
fn a_few_names_for_many_directories() {
    let mirror = Mirror::start();
    fs::write(mirror.src("stays"), "here").expect("write");
    let mut chance = Rng::new(7);
    for _ in 0..scaled(25, 500) {
        for _ in 0..60 {
            let mut name = || format!("d{}", chance.below(12));
            let (one, other) = (mirror.src(name()), mirror.src(name()));
            let file = one.join(format!("f{}", chance.below(100)));
            // Some cannot be done, as it happens.
            let _ = match chance.below(10) {
                0..5 => fs::create_dir_all(&one).and_then(|()| fs::write(&file, "written")),
                5 => fs::remove_file(&file),
                6 => fs::remove_dir_all(&one),
                7 => fs::rename(&one, &other),
                _ => fs::rename(&one, other.join(one.file_name().expect("a name"))),
            };
        }
        mirror.settle();
    }
}

#[test]
fn renames_over_what_is_there() {
    let mirror = Mirror::start();
    for name in ["file", "other"] {
        fs::write(mirror.src(name), name).expect("write");
    }
    for name in ["dir/in", "empty"] {
        fs::create_dir_all(mirror.src(name)).expect("mkdir");
    }
    mirror.settle();
    fs::rename(mirror.src("file"), mirror.src("other")).expect("over a file");
    mirror.settle();
    fs::rename(mirror.src("dir"), mirror.src("empty")).expect("over an empty directory");
    mirror.settle();
    symlink("x", mirror.src("link")).expect("symlink");
    fs::rename(mirror.src("link"), mirror.src("other")).expect("a link over a file");
    mirror.settle();
}

#[test]
fn a_path_changes_its_type() {
    let mirror = Mirror::start();
    // A source that is empty all of a sudden would have its deletes held.
    fs::write(mirror.src("stays"), "here").expect("write");
    for round in 0..4 {
        fs::write(mirror.src("x"), "file").expect("write");
        mirror.settle();
        fs::remove_file(mirror.src("x")).expect("rm");
        fs::create_dir_all(mirror.src("x/y/z")).expect("mkdir");
        fs::write(mirror.src("x/y/f"), format!("{round}")).expect("write");
        mirror.settle();
        fs::remove_dir_all(mirror.src("x")).expect("rm");
        symlink("y", mirror.src("x")).expect("symlink");
        mirror.settle();
        fs::remove_file(mirror.src("x")).expect("rm");
        fs::create_dir(mirror.src("x")).expect("mkdir");
        mirror.settle();
        fs::remove_dir(mirror.src("x")).expect("rmdir");
    }
    mirror.settle();
}

#[test]
fn a_directory_goes_and_a_new_one_comes_after_a_file_of_its_name() {
    let mirror = Mirror::start();
    fs::write(mirror.src("stays"), "here").expect("write");
    for round in 0..scaled(8, 100) {
        many_small(&mirror.src("x"), 2, 5, 100).expect("files");
        mirror.settle();
        fs::remove_dir_all(mirror.src("x")).expect("rm -r");
        fs::write(mirror.src("x"), format!("{round}")).expect("write");
        fs::rename(mirror.src("x"), mirror.src("y")).expect("mv");
        fs::create_dir(mirror.src("x")).expect("mkdir");
        mirror.settle();
    }
}

#[test]
fn mkdir_p_and_write_at_once() {
    let mirror = Mirror::start();
    for number in 0..scaled(30, 1000) {
        let dir = mirror.src(format!("a{number}/b/c/d"));
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join("file"), format!("{number}")).expect("write");
    }
    mirror.settle();
    // And away again while it is still being looked at.
    for number in 0..scaled(30, 1000) {
        let dir = mirror.src(format!("t{number}/b/c"));
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join("file"), "short-lived").expect("write");
        fs::remove_dir_all(mirror.src(format!("t{number}"))).expect("rm");
    }
    mirror.settle();
}

#[test]
fn a_tree_moved_in_and_out() {
    let mirror = Mirror::start();
    fs::write(mirror.src("stays"), "here").expect("write");
    let outside = mirror.sandbox.path().join("outside");
    many_small(&outside, 5, 20, 100).expect("files");
    for _ in 0..3 {
        fs::rename(&outside, mirror.src("in")).expect("in");
        mirror.settle();
        fs::write(mirror.src("in/d00001/new"), "new").expect("write");
        mirror.settle();
        fs::rename(mirror.src("in"), &outside).expect("out");
        fs::write(outside.join("d00001/f00001"), "not seen").expect("write");
        mirror.settle();
    }
}

/// Random changes at full speed, then a look: nothing may be lost, whatever the order was. With second names (`links`) a
/// comparison comes first: events tell nothing of a file that is written through a name made and removed meanwhile.
#[track_caller]
fn random_changes(backend: &str, links: bool, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mirror = Mirror::with(Sandbox::new(), |agent| agent.arg("--backend").arg(backend));
        let work = Workload::new(mirror.sandbox.src(), seed).expect("workload");
        let mut work = match links {
            true => work,
            false => work.without_hard_links(),
        };
        for part in 0..4 {
            work.run(150).expect("work");
            mirror.agent.wait_synced(LONG);
            if links {
                mirror.agent.control().rescan(".").expect("rescan");
                mirror.agent.wait_synced(LONG);
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                mirror.sandbox.assert_equal();
            }));
            if let Err(reason) = result {
                eprintln!("part {part}: {}", work.story());
                std::panic::resume_unwind(reason);
            }
        }
        mirror.wait_staging_empty();
    }
}

/// So many seeds from `first`, or as many as `SYNCD_TESTS_SEEDS` says from there: `1000+60`.
fn seeds(first: u64, count: usize) -> std::ops::Range<u64> {
    let asked = std::env::var("SYNCD_TESTS_SEEDS").ok();
    let asked = asked.as_deref().and_then(|text| text.split_once('+'));
    let asked = asked.and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
    let (first, count) = asked.unwrap_or((first, count as u64));
    first..first + count
}

#[test]
fn random_changes_with_inotify() {
    random_changes("inotify", false, seeds(1, scaled(4, 200)));
}

#[test]
fn random_changes_to_files_with_several_names() {
    random_changes("inotify", true, seeds(5_000, scaled(3, 100)));
}

#[test]
fn random_changes_with_notify() {
    random_changes("notify", false, seeds(1001, scaled(4, 200)));
}

#[test]
fn two_agents_in_two_directories_of_a_module() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.dst().join("one")).expect("mkdir");
    fs::create_dir_all(sandbox.dst().join("two")).expect("mkdir");
    let receiver = sandbox.receiver().start();
    let other = tempfile::tempdir().expect("directory");
    let first = patient(sandbox.agent(&receiver))
        .destination("mirror@localhost::demo/one")
        .start();
    let second = patient(sandbox.agent(&receiver))
        .source(other.path())
        .destination("mirror@localhost::demo/two")
        .start();
    let at = |root, seed| {
        Workload::new(root, seed)
            .expect("workload")
            .without_hard_links()
    };
    let (mut one, mut two) = (at(sandbox.src(), 11), at(other.path().to_owned(), 12));
    for _ in 0..100 {
        one.run(2).expect("work");
        two.run(2).expect("work");
    }
    first.wait_synced(LONG);
    second.wait_synced(LONG);
    for (source, name) in [(sandbox.src(), "one"), (other.path().to_owned(), "two")] {
        crate::common::assert_same(&source, &sandbox.dst().join(name));
    }
    drop((first, second, receiver));
}
