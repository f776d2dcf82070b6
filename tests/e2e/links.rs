//! Hard links: names of one symlink, fifo, socket or device stay names of one, and what was written through one name
//! of a file is in all of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use rustix::process::Signal;
use syncd_tests::require::Need;
use syncd_tests::workload::Rng;
use syncd_tests::{Sandbox, require};

use crate::common::{LONG, Mirror, code, noise, once, patient, scaled};

/// What is given several names.
const KINDS: [&str; 4] = ["symlink", "fifo", "socket", "device"];

/// Makes one of each kind, with a second name in a directory below.
fn make_all(root: &Path) {
    symlink("nowhere/to be found", root.join("symlink")).expect("symlink");
    let mode = Mode::from_raw_mode(0o640);
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        (
            "device",
            FileType::CharacterDevice,
            rustix::fs::makedev(1, 3),
        ),
    ] {
        rustix::fs::mknodat(CWD, root.join(name), kind, mode, device).expect("mknod");
    }
    fs::create_dir(root.join("d")).expect("mkdir");
    for name in KINDS {
        fs::hard_link(root.join(name), root.join("d").join(name)).expect("ln");
    }
}

fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.conf().module("demo").set("devices", "yes");
    sandbox
}

/// Gives it another time, and nothing else.
fn touch(path: &Path, secs: i64) {
    let time = Timespec {
        tv_sec: secs,
        tv_nsec: 5,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimens");
}

#[track_caller]
fn assert_one(paths: &[PathBuf]) {
    let inode = |path: &PathBuf| fs::symlink_metadata(path).expect("stat").ino();
    for path in paths {
        assert_eq!(inode(path), inode(&paths[0]), "{}", path.display());
    }
    let names = fs::symlink_metadata(&paths[0]).expect("stat").nlink();
    assert_eq!(names, paths.len() as u64, "of {}", paths[0].display());
}

#[test]
fn names_of_one_symlink_fifo_socket_or_device_are_copied_as_one() {
    if !require(&[Need::Root]) {
        return;
    }
    let sandbox = sandbox();
    make_all(&sandbox.src());
    let mirror = Mirror::of(sandbox);
    mirror.settle();
    for name in KINDS {
        assert_one(&[mirror.dst(name), mirror.dst("d").join(name)]);
    }
}

#[test]
fn such_names_come_and_go_and_change_together_while_it_runs() {
    if !require(&[Need::Root]) {
        return;
    }
    let mirror = Mirror::of(sandbox());
    make_all(&mirror.src(""));
    mirror.settle();
    for name in KINDS {
        let third = format!("{name}-3");
        fs::hard_link(mirror.src(name), mirror.src(&third)).expect("ln");
    }
    mirror.settle();
    for (name, id) in KINDS.iter().zip(7..) {
        // Heard of by one of the three names.
        lchown(mirror.src(name), Some(id), None).expect("chown");
        touch(&mirror.src("d").join(name), i64::from(id));
    }
    mirror.settle();
    for name in KINDS {
        let third = mirror.dst(format!("{name}-3"));
        assert_one(&[mirror.dst(name), mirror.dst("d").join(name), third]);
        // One is replaced by another thing of its kind, one moves over it, one goes.
        fs::remove_file(mirror.src(name)).expect("rm");
        fs::rename(mirror.src(format!("{name}-3")), mirror.src(name)).expect("mv");
    }
    fs::rename(mirror.src("d"), mirror.src("e")).expect("mv");
    mirror.settle();
    for name in KINDS {
        assert_one(&[mirror.dst(name), mirror.dst("e").join(name)]);
        fs::remove_file(mirror.src(name)).expect("rm");
    }
    symlink("elsewhere", mirror.src("symlink")).expect("symlink");
    mirror.settle();
    for name in KINDS {
        assert_one(&[mirror.dst("e").join(name)]);
    }
}

#[test]
fn changed_while_nobody_watched() {
    if !require(&[Need::Root]) {
        return;
    }
    let sandbox = sandbox();
    make_all(&sandbox.src());
    let mirror = Mirror::of(sandbox);
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = mirror;
    drop((agent, receiver));
    let src = sandbox.src();
    for name in KINDS {
        touch(&src.join(name), 77);
        fs::hard_link(src.join(name), src.join(format!("{name}-3"))).expect("ln");
    }
    fs::remove_file(src.join("d/fifo")).expect("rm");
    let mirror = Mirror::of(sandbox);
    mirror.settle();
    let third = |name: &str| mirror.dst(format!("{name}-3"));
    assert_one(&[mirror.dst("fifo"), third("fifo")]);
    for name in ["symlink", "socket", "device"] {
        assert_one(&[mirror.dst(name), mirror.dst("d").join(name), third(name)]);
    }
}

#[test]
fn a_comparison_finds_and_mends_such_names_that_fell_apart_or_changed() {
    if !require(&[Need::Root]) {
        return;
    }
    let mirror = Mirror::of(sandbox());
    make_all(&mirror.src(""));
    mirror.settle();
    let time = fs::metadata(mirror.dst("")).expect("stat");
    let copy = mirror.dst("copy");
    symlink("nowhere/to be found", &copy).expect("symlink");
    let was = fs::symlink_metadata(mirror.dst("symlink")).expect("stat");
    let stamp = |stat: &fs::Metadata| Timespec {
        tv_sec: stat.mtime(),
        tv_nsec: stat.mtime_nsec(),
    };
    let set = |path: &Path, stat: &fs::Metadata| {
        let times = Timestamps {
            last_access: stamp(stat),
            last_modification: stamp(stat),
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimens");
    };
    set(&copy, &was);
    fs::rename(&copy, mirror.dst("symlink")).expect("mv");
    // The same inode, under both its names.
    touch(&mirror.dst("fifo"), 99);
    set(&mirror.dst(""), &time);
    let sandbox = &mirror.sandbox;
    let agent = patient(sandbox.agent(&mirror.receiver));
    let verified = once(sandbox, &agent, "verify");
    let said = ["differs (hard links): symlink", "fifo", "d/fifo"];
    verified.expect(code::DIFFERENT, &said);
    mirror.agent.control().rescan(".").expect("rescan");
    mirror.settle();
    for name in KINDS {
        assert_one(&[mirror.dst(name), mirror.dst("d").join(name)]);
    }
    once(sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
}

#[test]
fn where_files_stand_for_them_too() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = sandbox();
    sandbox.conf().module("demo").set("fake super", "yes");
    make_all(&sandbox.src());
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver));
    let same = |names: &[&str]| {
        once(&sandbox, &agent, "sync").expect(code::DONE, &[]);
        once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
        for name in names {
            assert_one(&[sandbox.dst().join(name), sandbox.dst().join("d").join(name)]);
        }
    };
    same(&KINDS);
    for name in KINDS {
        touch(&sandbox.src().join(name), 5);
    }
    same(&KINDS);
}

/// Events tell of a file by the name that was used. What was written through a name that is gone before it was looked at
/// is in its other names all the same.
#[test]
fn what_was_written_through_a_name_that_went_is_in_the_others() {
    for round in 0..scaled(2, 20) {
        let mirror = Mirror::start();
        let size = [10, 200_000][round % 2];
        for name in ["a", "b", "c", "d", "e"] {
            fs::write(mirror.src(name), noise(size, 1)).expect("write");
        }
        fs::create_dir(mirror.src("dir")).expect("mkdir");
        for (name, second) in [("a", "a2"), ("b", "b2"), ("c", "dir/c2"), ("d", "dir/d2")] {
            fs::hard_link(mirror.src(name), mirror.src(second)).expect("ln");
        }
        mirror.settle();
        mirror.agent.signal(Signal::STOP);
        for (number, second) in ["a2", "b2", "dir/c2", "dir/d2"].iter().enumerate() {
            fs::write(mirror.src(second), noise(size / 2, 7 + number as u64)).expect("write");
        }
        // Made in the same moment, and written to.
        fs::hard_link(mirror.src("e"), mirror.src("e2")).expect("ln");
        fs::write(mirror.src("e2"), noise(size / 2, 6)).expect("write");
        fs::remove_file(mirror.src("a2")).expect("rm");
        fs::rename(mirror.src("b2"), mirror.src("b3")).expect("mv");
        fs::rename(mirror.src("e2"), mirror.src("e3")).expect("mv");
        fs::rename(mirror.src("dir/d2"), mirror.src("d3")).expect("mv");
        fs::remove_dir_all(mirror.src("dir")).expect("rm");
        mirror.agent.signal(Signal::CONT);
        mirror.settle();
        assert_one(&["b", "b3"].map(|name| mirror.dst(name)));
        assert_one(&["e", "e3"].map(|name| mirror.dst(name)));
    }
}

/// A number that was used before says nothing of the file that has it now, under other names or the same.
#[test]
fn a_file_that_got_the_number_of_another_is_linked_as_well() {
    let mirror = Mirror::start();
    for round in 0..8 {
        let names = match round % 2 {
            0 => ["one", "two"].map(str::to_owned),
            _ => ["one", "two"].map(|name| format!("{name}-{round}")),
        };
        let [one, two] = names.each_ref().map(|name| mirror.src(name));
        fs::write(&one, noise(100, round)).expect("write");
        mirror.settle();
        fs::hard_link(&one, &two).expect("ln");
        mirror.settle();
        for name in [one, two] {
            fs::remove_file(name).expect("rm");
        }
        if round < 4 {
            mirror.settle();
        }
    }
}

/// A directory is looked into once it is watched: nobody heard who wrote to what is in it, under names elsewhere too.
#[test]
fn what_was_written_in_a_new_directory_is_in_names_elsewhere() {
    let mirror = Mirror::start();
    let count = 20;
    for number in 0..count {
        fs::write(mirror.src(format!("f{number}")), noise(1_000, number)).expect("write");
    }
    let large = noise(300_000, 99);
    fs::write(mirror.src("large"), &large).expect("write");
    mirror.settle();
    let sent = mirror.target()["bytes_sent"].as_u64();
    mirror.agent.signal(Signal::STOP);
    fs::create_dir(mirror.src("new")).expect("mkdir");
    for number in 0..count {
        let name = format!("f{number}");
        let second = mirror.src("new").join(&name);
        fs::hard_link(mirror.src(name), &second).expect("ln");
        if number % 2 == 0 {
            fs::write(second, noise(800, 50 + number)).expect("write");
        }
    }
    fs::hard_link(mirror.src("large"), mirror.src("new/large")).expect("ln");
    mirror.agent.signal(Signal::CONT);
    mirror.settle();
    assert_one(&["large", "new/large"].map(|name| mirror.dst(name)));
    // What was not written to is linked, and not sent again.
    let sent = mirror.target()["bytes_sent"].as_u64().zip(sent);
    assert!(
        sent.is_some_and(|(now, before)| now - before < 200_000),
        "{sent:?}"
    );
}

/// What replaces one name of a file, as the file is, leaves the other name alone.
#[test]
fn one_of_two_names_becomes_a_file_of_its_own() {
    let mirror = Mirror::start();
    for (round, size) in (0..).zip([5, 100_000, 1 << 20]) {
        let (one, two) = (format!("one-{round}"), format!("two-{round}"));
        fs::write(mirror.src(&one), noise(size, 1)).expect("write");
        mirror.settle();
        fs::hard_link(mirror.src(&one), mirror.src(&two)).expect("link");
        mirror.settle();
        for name in [&one, &two, &one] {
            let beside = mirror.sandbox.path().join("beside");
            fs::copy(mirror.src(name), &beside).expect("copy");
            fs::rename(&beside, mirror.src(name)).expect("rename");
            mirror.settle();
        }
    }
}

/// What happens to files with several names, at random. What was written through a name keeps that name until it is
/// looked at: one that goes again within a moment tells nobody.
struct Names<'a> {
    rng: Rng,
    src: &'a Path,
    written: BTreeSet<PathBuf>,
    story: Vec<String>,
}

impl Names<'_> {
    const DIRS: u64 = 4;
    const NAMES: u64 = 60;

    fn any(&mut self) -> PathBuf {
        let (dir, name) = (self.rng.below(Self::DIRS), self.rng.below(Self::NAMES));
        self.src.join(format!("d{dir}/n{name}"))
    }

    /// One that exists.
    fn one(&mut self) -> Option<PathBuf> {
        let mut found = Vec::new();
        for dir in 0..Self::DIRS {
            let entries = fs::read_dir(self.src.join(format!("d{dir}"))).expect("list");
            found.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        found.sort();
        self.rng.pick(&found).cloned()
    }

    fn content(&mut self) -> Vec<u8> {
        let size = *self
            .rng
            .pick(&[0, 10, 3_000, 150_000, 300_000])
            .expect("one");
        noise(size, self.rng.next())
    }

    fn change(&mut self) {
        let (to, content) = (self.any(), self.content());
        let choice = self.rng.below(100);
        let Some(from) = self.one().filter(|_| choice >= 25) else {
            if !to.exists() {
                self.story.push(format!("new {}", to.display()));
                fs::write(to, content).expect("write");
            }
            return;
        };
        let may_go = !self.written.contains(&from);
        let story = format!("{choice} {} {}", from.display(), to.display());
        match choice {
            25..55 if !to.exists() => fs::hard_link(&from, &to).expect("ln"),
            55..70 if may_go => fs::remove_file(&from).expect("rm"),
            70..80 if may_go && !self.written.contains(&to) => {
                fs::rename(&from, &to).expect("mv");
            }
            80..87 if may_go => {
                let temporary = from.with_extension("t");
                fs::write(&temporary, content).expect("write");
                fs::rename(&temporary, &from).expect("mv");
            }
            87.. => {
                let mut options = fs::OpenOptions::new();
                options.write(true).append(choice.is_multiple_of(2));
                let mut file = options.open(&from).expect("open");
                let some = content.len().min(5_000);
                file.write_all(&content[..some]).expect("write");
                self.written.insert(from);
            }
            _ => return,
        }
        self.story.push(story);
    }
}

/// Without a comparison: what events tell is enough. Inode numbers come again where the file system gives them again.
#[test]
fn random_changes_to_several_names_without_a_comparison() {
    for seed in 0..scaled(2, 100) as u64 {
        let mirror = Mirror::start();
        let src = mirror.src("");
        for dir in 0..Names::DIRS {
            fs::create_dir(src.join(format!("d{dir}"))).expect("mkdir");
        }
        let mut names = Names {
            rng: Rng::new(7_000 + seed),
            src: &src,
            written: BTreeSet::new(),
            story: Vec::new(),
        };
        for round in 0..10 {
            for _ in 0..*names.rng.pick(&[3, 10, 40, 120]).expect("one") {
                names.change();
            }
            mirror.agent.wait_synced(LONG);
            let settled = catch_unwind(AssertUnwindSafe(|| mirror.sandbox.assert_equal()));
            if let Err(reason) = settled {
                eprintln!("seed {seed}, round {round}:\n{}", names.story.join("\n"));
                resume_unwind(reason);
            }
            names.written.clear();
            names.story.clear();
        }
    }
}
