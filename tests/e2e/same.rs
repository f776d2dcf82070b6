//! Small files that are written again as they were: their metadata goes, and their content stays at home.

use std::fs::{self, FileTimes, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::common::{Mirror, noise};

/// Bytes of files that travel in a commit.
const SIZES: [usize; 5] = [0, 1, 4 << 10, 64 << 10, 128 << 10];

/// What a commit and its acknowledgement cost at most, with what they bring along.
const TALK: u64 = 2_000;

type Way = (&'static str, fn(&Mirror, &Path));

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
    fn refusals(&self) -> usize {
        self.agent.log().matches("looked at again").count()
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
    assert_eq!(mirror.refusals(), 0);
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
    assert_eq!(mirror.refusals(), 0);
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
    assert!(mirror.refusals() > 0);
}

/// An agent that knows nothing asks where a comparison found another time, or where nobody was heard to write.
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
    let mirror = mirror.restart(|_| {});
    let (what, touch) = WAYS[3];
    for name in names() {
        mirror.expect_cheap(what, &name, || touch(&mirror, &mirror.src(&name)));
    }
    assert_eq!(mirror.refusals(), 0);
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
    assert_eq!(mirror.refusals(), 0);
}
