//! Small files that are written again as they were: their metadata goes, and their content stays at home.

use std::fs::{self, FileTimes, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::json;

use crate::common::{Mirror, noise};

/// Bytes of files that travel in a commit.
const SIZES: [usize; 5] = [0, 1, 4 << 10, 64 << 10, 128 << 10];

/// What a commit and its acknowledgement cost at most, with what they bring along.
const TALK: u64 = 2_000;

type Way = (&'static str, fn(&Mirror, &Path));

/// What somebody does to a file.
type Change<'a> = (&'static str, &'a dyn Fn(&Path));

/// How a file can get the content that it has.
const WAYS: [Way; 4] = [
    ("written", |_, file| {
        fs::write(file, fs::read(file).expect("read")).expect("write");
    }),
    ("copied over", |mirror, file| {
        let beside = mirror.sandbox.path().join("beside");
        fs::copy(file, &beside).expect("copy");
        fs::copy(&beside, file).expect("copy");
    }),
    // A new name that is in the source for long enough may be sent before it is renamed.
    ("replaced", |mirror, file| {
        let beside = mirror.sandbox.path().join("beside");
        fs::copy(file, &beside).expect("copy");
        fs::rename(&beside, file).expect("rename");
    }),
    ("touched", |_, file| touch(file, SystemTime::now())),
];

/// Sets both times, as `touch` does: of the one alone the kernel tells as of a change of content.
fn touch(path: &Path, time: SystemTime) {
    let file = OpenOptions::new().write(true).open(path).expect("open");
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    file.set_times(times).expect("touch");
}

fn names() -> impl Iterator<Item = String> {
    SIZES.iter().map(|size| format!("file-{size}"))
}

/// One file of each size.
#[track_caller]
fn fill(mirror: &Mirror) {
    for (name, size) in names().zip(SIZES) {
        fs::write(mirror.src(name), noise(size, 1)).expect("write");
    }
    mirror.settle();
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("there").ino()
}

/// Another name of each file in each of these directories.
#[track_caller]
fn link(mirror: &Mirror, dirs: &[&str]) {
    for dir in dirs {
        fs::create_dir(mirror.src(dir)).expect("mkdir");
        for name in names() {
            let second = mirror.src(dir).join(&name);
            fs::hard_link(mirror.src(name), second).expect("ln");
        }
    }
    mirror.settle();
}

impl Mirror {
    /// A change after which the mirror has the same file still, for the price of its metadata.
    #[track_caller]
    fn expect_cheap(&self, what: &str, name: &str, change: impl FnOnce()) {
        let (before, was) = (self.wire(), inode(&self.dst(name)));
        change();
        self.settle();
        let cost = self.wire() - before;
        assert!(cost < TALK, "{cost} bytes for {name}, {what}");
        assert_eq!(inode(&self.dst(name)), was, "{name}, {what}");
    }

    /// What the receiver said no to.
    fn refusals(&self) -> Vec<String> {
        let log = self.agent.log();
        let refused = log.lines().filter(|line| line.contains("looked at again"));
        refused.map(str::to_owned).collect()
    }
}

#[test]
fn what_is_written_as_it_was_costs_its_metadata() {
    let mirror = Mirror::start();
    fill(&mirror);
    for (what, way) in WAYS {
        for name in names() {
            let file = mirror.src(&name);
            let before = file.metadata().expect("there").modified().expect("a time");
            mirror.expect_cheap(what, &name, || way(&mirror, &file));
            let after = file.metadata().expect("there").modified().expect("a time");
            assert!(after > before, "{name}, {what}");
        }
    }
    assert_eq!(mirror.refusals(), [""; 0]);
}

/// A change is not asked about first, and what it was before is no reason to believe that it is there.
#[test]
fn what_is_written_otherwise_goes_at_once() {
    let mirror = Mirror::start();
    fill(&mirror);
    for round in [2, 1, 2] {
        for (name, size) in names().zip(SIZES) {
            fs::write(mirror.src(name), noise(size, round)).expect("write");
        }
        mirror.settle();
    }
    assert_eq!(mirror.refusals(), [""; 0]);
}

/// The mirror's own content was changed behind our back, and looks as it did.
#[test]
fn damage_is_mended_by_what_is_written_as_it_was() {
    let mirror = Mirror::start();
    fill(&mirror);
    for (what, way) in WAYS {
        for name in names().skip(1) {
            let (file, there) = (mirror.src(&name), mirror.dst(&name));
            let time = there.metadata().expect("there").modified().expect("a time");
            let mut content = fs::read(&there).expect("read");
            content[0] ^= 1;
            fs::write(&there, content).expect("damage");
            touch(&there, time);
            way(&mirror, &file);
            mirror.agent.wait_synced(crate::common::LONG);
            let (here, there) = (fs::read(&file), fs::read(&there));
            assert_eq!(here.expect("here"), there.expect("there"), "{name}, {what}");
            mirror.settle();
        }
    }
    assert_eq!(mirror.target()["failed"], json!([]));
    assert!(!mirror.refusals().is_empty());
}

/// An agent that knows nothing asks where a comparison found another time, and where what is written is as long as what was
/// there.
#[test]
fn an_agent_that_remembers_nothing_asks_first() {
    let mirror = Mirror::start();
    fill(&mirror);
    let was: Vec<_> = names().map(|name| inode(&mirror.dst(name))).collect();
    let later = SystemTime::now() + Duration::from_secs(7);
    let mirror = mirror.restart(|src| {
        for name in names() {
            fs::write(src.join(&name), fs::read(src.join(&name)).expect("read")).expect("write");
            touch(&src.join(name), later);
        }
    });
    let sent = mirror.bytes_sent();
    assert!(sent < 20_000, "{sent} bytes");
    for (name, was) in names().zip(was) {
        assert_eq!(inode(&mirror.dst(&name)), was, "{name}");
    }
    let mut mirror = mirror;
    for (what, way) in WAYS {
        mirror = mirror.restart(|_| {});
        for name in names() {
            mirror.expect_cheap(what, &name, || way(&mirror, &mirror.src(&name)));
        }
        assert_eq!(mirror.refusals(), [""; 0]);
    }
    let mirror = mirror.restart(|_| {});
    for (name, size) in names().zip(SIZES) {
        fs::write(mirror.src(name), noise(size + 1, 3)).expect("write");
    }
    mirror.settle();
    assert_eq!(mirror.refusals(), [""; 0], "of another length");
    let mirror = mirror.restart(|src| fs::write(src.join("file-1"), noise(9, 3)).expect("write"));
    assert_eq!(mirror.refusals(), [""; 0], "found to be of another length");
    fs::write(mirror.src("file-1"), noise(9, 4)).expect("write");
    mirror.settle();
    assert_eq!(mirror.refusals(), [""; 0], "it was sent");
    fs::write(mirror.src("file-4096"), noise(4097, 4)).expect("write");
    mirror.settle();
    assert_eq!(mirror.refusals().len(), 1, "as long as it was");
    // What has other content, and the length that it had.
    let mirror = mirror.restart(|src| {
        for (name, size) in names().zip(SIZES) {
            fs::write(src.join(name), noise(size, 9)).expect("write");
        }
    });
    assert_eq!(mirror.target()["failed"], json!([]));
}

/// Where the name went or belongs to another thing, the target is not asked for what it cannot have.
#[test]
fn what_is_new_under_an_old_name_goes_at_once() {
    let mirror = Mirror::start();
    let fill = |dir: &str| {
        fs::create_dir(mirror.src(dir)).expect("mkdir");
        for (name, size) in names().zip(SIZES) {
            fs::write(mirror.src(dir).join(name), noise(size, 1)).expect("write");
        }
    };
    fill("d");
    mirror.settle();
    fs::rename(mirror.src("d"), mirror.src("e")).expect("rename");
    mirror.settle();
    fill("d");
    mirror.settle();
    fs::remove_dir_all(mirror.src("d")).expect("remove");
    mirror.settle();
    fill("d");
    mirror.settle();
    for name in names() {
        let (file, other) = (mirror.src("d").join(&name), mirror.src("d").join("other"));
        fs::rename(&file, &other).expect("rename");
        mirror.settle();
        fs::copy(&other, &file).expect("copy");
        mirror.settle();
        fs::remove_file(&file).expect("remove");
        mirror.settle();
        fs::rename(&other, &file).expect("rename");
        mirror.settle();
        // It is known by its new name.
        let (what, write) = WAYS[0];
        mirror.expect_cheap(what, &format!("d/{name}"), || write(&mirror, &file));
        let renamed = format!("e/{name}");
        let file = mirror.src(&renamed);
        mirror.expect_cheap(what, &renamed, || write(&mirror, &file));
    }
    assert_eq!(mirror.refusals(), [""; 0]);
}

/// Whatever name it is written through, and whatever it was called when it was sent.
#[test]
fn what_is_written_as_it_was_through_any_name_costs_its_metadata() {
    let mirror = Mirror::start();
    fill(&mirror);
    link(&mirror, &["d", "e"]);
    for round in 0..2 {
        for (what, way) in [WAYS[0], WAYS[1], WAYS[3]] {
            for name in names() {
                for dir in ["d", "", "e"] {
                    let name = format!("{dir}/{name}").trim_start_matches('/').to_owned();
                    mirror.expect_cheap(what, &name, || way(&mirror, &mirror.src(&name)));
                    let names = fs::metadata(mirror.dst(&name)).expect("there").nlink();
                    assert_eq!(names, 3, "{name}, {what}");
                }
            }
        }
        // Its names are others, and it has another content.
        if round == 0 {
            fs::rename(mirror.src("d"), mirror.src("f")).expect("mv");
            fs::create_dir(mirror.src("d")).expect("mkdir");
            for name in names() {
                fs::rename(mirror.src("f").join(&name), mirror.src("d").join(name)).expect("mv");
            }
            mirror.settle();
            for (name, size) in names().zip(SIZES) {
                fs::write(mirror.src("e").join(name), noise(size, 2)).expect("write");
            }
            mirror.settle();
        }
    }
    // A further name after it was asked about is a name of what it is.
    for name in names() {
        let (file, third) = (mirror.src(&name), mirror.src(format!("{name}-3")));
        fs::write(&file, fs::read(&file).expect("read")).expect("write");
        fs::hard_link(&file, third).expect("ln");
    }
    mirror.settle();
    assert_eq!(mirror.refusals(), [""; 0]);
}

/// The target is not asked for what it cannot have.
#[test]
fn what_is_written_otherwise_through_any_name_goes_at_once() {
    let mirror = Mirror::start();
    fill(&mirror);
    link(&mirror, &["d"]);
    for (dir, round) in [("d", 2), ("", 1), ("d", 2), ("d", 1), ("", 2)] {
        for (name, size) in names().zip(SIZES) {
            fs::write(mirror.src(dir).join(name), noise(size, round)).expect("write");
        }
        mirror.settle();
    }
    assert_eq!(mirror.refusals(), [""; 0]);
}

/// Another file has one of the names, or one is where nobody looks: that one is left alone.
#[test]
fn names_that_are_not_of_the_file_any_more_or_elsewhere() {
    let mirror = Mirror::start();
    fill(&mirror);
    link(&mirror, &["d"]);
    let write = |file: &Path| fs::write(file, fs::read(file).expect("read")).expect("write");
    for at_once in [false, true] {
        for (name, size) in names().zip(SIZES) {
            let (file, other) = (mirror.src(&name), mirror.src("d").join(&name));
            let beside = mirror.sandbox.path().join("beside");
            if at_once {
                mirror.agent.signal(Signal::STOP);
            }
            // Once the same, once not.
            fs::write(&beside, noise(size, 1 + u64::from(at_once))).expect("write");
            fs::rename(&beside, &other).expect("mv");
            if at_once {
                write(&file);
                mirror.agent.signal(Signal::CONT);
            }
            mirror.settle();
            write(&file);
            mirror.settle();
            assert_ne!(
                inode(&mirror.dst(&name)),
                inode(&mirror.dst("d").join(&name))
            );
            fs::remove_file(&other).expect("rm");
            fs::hard_link(&file, &other).expect("ln");
            mirror.settle();
        }
    }
    let outside = mirror.sandbox.path().join("outside");
    for name in names() {
        fs::hard_link(mirror.src(&name), &outside).expect("ln");
        for name in [&name, &format!("d/{name}")] {
            write(&mirror.src(name));
            mirror.settle();
        }
        write(&outside);
        fs::remove_file(&outside).expect("rm");
        write(&mirror.src(&name));
        mirror.settle();
    }
    assert_eq!(mirror.target()["failed"], json!([]));
    assert_eq!(mirror.refusals(), [""; 0]);
}

/// Somebody changed the mirror: the content of a file, what one of its names is, how many it has. What they have elsewhere
/// is left alone, and the mirror is mended.
#[test]
fn names_that_were_changed_at_the_mirror_are_mended() {
    let mirror = Mirror::start();
    fill(&mirror);
    link(&mirror, &["d"]);
    let outside = mirror.sandbox.path().join("outside");
    let changes: [Change<'_>; 4] = [
        ("damaged", &|file| {
            let time = file.metadata().expect("there").modified().expect("a time");
            let mut content = fs::read(file).expect("read");
            content.iter_mut().take(1).for_each(|byte| *byte ^= 1);
            fs::write(file, content).expect("damage");
            touch(file, time);
        }),
        ("another file", &|file| {
            let content = fs::read(file).expect("read");
            fs::remove_file(file).expect("rm");
            fs::write(file, content).expect("write");
        }),
        ("nothing", &|file| fs::remove_file(file).expect("rm")),
        ("one more", &|file| {
            fs::hard_link(file, &outside).expect("ln");
        }),
    ];
    for (what, change) in changes {
        for (number, name) in names().enumerate() {
            for written in [&name, &format!("d/{name}")] {
                let (here, there) = (mirror.src(written), mirror.dst(&name));
                change(&there);
                let kept = fs::metadata(&outside)
                    .ok()
                    .map(|file| file.modified().expect("time"));
                let before = mirror.refusals().len();
                fs::write(&here, fs::read(&here).expect("read")).expect("write");
                mirror.settle();
                // What is empty cannot be damaged.
                let refused = mirror.refusals().len() > before;
                assert_eq!(
                    refused,
                    number > 0 || what != "damaged",
                    "{written}, {what}"
                );
                assert_eq!(inode(&there), inode(&mirror.dst("d").join(&name)));
                assert_eq!(fs::metadata(&there).expect("there").nlink(), 2);
                if kept.is_some() {
                    let file = fs::metadata(&outside).expect("outside");
                    assert_eq!(kept, file.modified().ok(), "{written}, {what}");
                    fs::remove_file(&outside).expect("rm");
                }
            }
        }
    }
    assert_eq!(mirror.target()["failed"], json!([]));
}
