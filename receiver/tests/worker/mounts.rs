//! File systems mounted below a module: everything works there too, and only there.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use syncd_proto::digest::Digest;
use syncd_proto::message::{PatchOp, StageBegin, StageChunk, StageEnd};
use syncd_proto::meta::Kind;
use syncd_proto::op::{Content, Op};
use syncd_proto::reject::RejectCode;
use syncd_recv::logic::trash::{KEEP_DEFAULT_S, Place, Trash};
use syncd_recv::relay::ModuleSetup;

use crate::bench::{Bench, meta, path};
use crate::{bare, codes, mkdir, put, remove, rename};

/// A small file system in memory, for as long as this lives.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A worker whose module has another file system at `m`; `None`, with a word, where none can be mounted.
fn bench(change: impl FnOnce(&mut ModuleSetup)) -> Option<(Bench, Disk)> {
    let mut disk = None;
    let bench = Bench::start(|setup| {
        let module = PathBuf::from(String::from_utf8(setup.path.clone()).unwrap());
        let at = module.join("m");
        fs::create_dir(&at).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=755", "syncd-tests"])
            .arg(&at)
            .status();
        if status.is_ok_and(|status| status.success()) {
            disk = Some(Disk(at));
        }
        change(setup);
    });
    if disk.is_none() {
        let required = std::env::var("SYNCD_TESTS_REQUIRE").is_ok_and(|what| what == "all");
        assert!(!required, "cannot mount a tmpfs");
        eprintln!("skipped: cannot mount a tmpfs");
    }
    Some((bench, disk?))
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[track_caller]
fn wait_empty(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while !list(dir).is_empty() {
        assert!(Instant::now() < until, "{dir:?}: {:?}", list(dir));
        std::thread::yield_now();
    }
}

#[test]
fn everything_is_made_replaced_and_removed_there() {
    let Some((bench, _disk)) = bench(|_| {}) else {
        return;
    };
    let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    fs::File::open(bench.at("m"))
        .unwrap()
        .set_modified(early)
        .unwrap();
    let mut agent = bench.open();
    // What is renamed from staging changes the directory; its own staging area does not.
    assert!(agent.commit(vec![remove("m/nothing")]).is_empty());
    assert_eq!(
        fs::metadata(bench.at("m")).unwrap().modified().unwrap(),
        early
    );
    let symlink = bare(Op::Symlink {
        path: path("m/l"),
        meta: meta(0o777),
        target: b"f".to_vec(),
    });
    let fifo = bare(Op::Special {
        path: path("m/fifo"),
        meta: meta(0o600),
        kind: Kind::Fifo,
        rdev: (0, 0),
    });
    let link = bare(Op::Link {
        path: path("m/d/hard"),
        to: path("m/f"),
    });
    let made = vec![
        put("m/f", b"one"),
        mkdir("m/d"),
        put("m/d/g", b"deep"),
        symlink,
        fifo,
        link,
        put("m/f2", b"two"),
        put("m/f2", b"two again"),
    ];
    let rejects = agent.commit(made);
    assert!(rejects.is_empty(), "{rejects:?}");
    let file = fs::metadata(bench.at("m/f")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.nlink()),
        (0o640, 12, 2)
    );
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000, 123_456_789));
    assert_eq!(fs::read(bench.at("m/d/g")).unwrap(), b"deep");
    assert_eq!(fs::read(bench.at("m/f2")).unwrap(), b"two again");
    assert!(
        fs::metadata(bench.at("m/fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(fs::read_link(bench.at("m/l")).unwrap(), Path::new("f"));
    assert_ne!(
        fs::metadata(bench.at("m/f")).unwrap().dev(),
        fs::metadata(bench.path()).unwrap().dev()
    );
    let changes = vec![
        rename("m/f2", "m/d/moved"),
        rename("m/d", "m/e"),
        put("m/e", b"a file in its place"),
        mkdir("m/f"),
        mkdir("m/f/sub"),
        put("m/f/sub/x", b"x"),
        remove("m/f"),
    ];
    let rejects = agent.commit(changes);
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!(fs::read(bench.at("m/e")).unwrap(), b"a file in its place");
    assert!(!bench.at("m/f").exists() && !bench.at("m/d").exists());
    bench.close(1);
    for place in [
        ".syncd/stage",
        "m/.syncd/stage",
        ".syncd/trash",
        "m/.syncd/trash",
    ] {
        wait_empty(&bench.at(place));
    }
}

#[test]
fn a_transfer_ends_there_too() {
    let Some((bench, _disk)) = bench(|_| {}) else {
        return;
    };
    let mut agent = bench.open();
    let mut content = vec![7; 300_000];
    content.extend(vec![0; 1 << 20]);
    content.extend(vec![9; 10]);
    agent.say(StageBegin {
        transfer: 1,
        key: None,
        resume_at: 0,
        len_hint: content.len() as u64,
        basis: None,
    });
    let ops = vec![
        PatchOp::Literal { len: 300_000 },
        PatchOp::Hole { len: 1 << 20 },
        PatchOp::Literal { len: 10 },
    ];
    let literals = [&content[..300_000], &content[content.len() - 10..]].concat();
    agent.say_with(StageChunk { transfer: 1, ops }, literals);
    let digest = Digest::of(&content);
    let len = content.len() as u64;
    agent.say(StageEnd {
        transfer: 1,
        len,
        digest,
    });
    let put = Op::Put {
        path: path("m/large"),
        meta: meta(0o600),
        content: Content::Staged {
            transfer: 1,
            len,
            digest,
        },
    };
    let rejects = agent.commit(vec![bare(put)]);
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!(fs::read(bench.at("m/large")).unwrap(), content);
    let blocks = fs::metadata(bench.at("m/large")).unwrap().blocks();
    assert!(blocks * 512 < 600_000, "{blocks} blocks: the hole is gone");
}

#[test]
fn renames_across_are_refused_and_lose_nothing() {
    let Some((bench, _disk)) = bench(|_| {}) else {
        return;
    };
    let mut agent = bench.open();
    let made = vec![
        mkdir("d"),
        put("d/f", b"here"),
        put("m/g", b"there"),
        put("m/h", b"old"),
    ];
    assert!(agent.commit(made).is_empty());
    let across = vec![
        rename("d/f", "m/f"),
        rename("m/g", "d/g"),
        rename("d/f", "m/h"),
        rename("d", "m/d"),
        bare(Op::Link {
            path: path("m/linked"),
            to: path("d/f"),
        }),
        bare(Op::Exchange {
            a: path("d/f"),
            b: path("m/g"),
        }),
    ];
    let rejects = agent.commit(across);
    assert_eq!(codes(&rejects), [RejectCode::Unsupported; 6]);
    for (name, content) in [("d/f", "here"), ("m/g", "there"), ("m/h", "old")] {
        assert_eq!(fs::read_to_string(bench.at(name)).unwrap(), content);
    }
    // The place where it is mounted stays.
    let rejects = agent.commit(vec![remove("m")]);
    assert_eq!(rejects.len(), 1, "{rejects:?}");
    assert!(bench.at("m/g").exists());
}

#[test]
fn what_a_crash_left_there_goes_at_the_start() {
    let Some((bench, _disk)) = bench(|setup| {
        let module = PathBuf::from(String::from_utf8(setup.path.clone()).unwrap());
        let area = module.join("m/.syncd");
        fs::create_dir_all(area.join("stage/tree")).unwrap();
        fs::create_dir_all(area.join("trash/gone/deep")).unwrap();
        fs::write(area.join("stage/0badcafe.1"), "half a file").unwrap();
        fs::write(area.join("trash/gone/deep/f"), "x").unwrap();
    }) else {
        return;
    };
    let mut agent = bench.open();
    assert!(agent.commit(vec![put("f", b"elsewhere")]).is_empty());
    for place in ["stage", "trash"] {
        wait_empty(&bench.at("m/.syncd").join(place));
    }
}

#[test]
fn versions_are_kept_there() {
    let Some((bench, _disk)) = bench(|setup| {
        setup.rules.trash = Some(Box::new(Trash {
            place: Place::Within(path("old")),
            keep_s: KEEP_DEFAULT_S,
        }));
        let module = PathBuf::from(String::from_utf8(setup.path.clone()).unwrap());
        fs::create_dir_all(module.join("m/.syncd/kept/2020-01-01/000000")).unwrap();
    }) else {
        return;
    };
    let mut agent = bench.open();
    let changes = vec![put("m/f", b"one"), put("m/f", b"two"), remove("m/f")];
    let rejects = agent.commit(changes);
    assert!(rejects.is_empty(), "{rejects:?}");
    let mut found = Vec::new();
    for day in list(&bench.at("m/.syncd/kept")) {
        for slot in list(&day) {
            if slot.join("m/f").exists() {
                found.push(fs::read_to_string(slot.join("m/f")).unwrap());
            }
        }
    }
    found.sort();
    assert_eq!(found, ["one", "two"]);
    assert!(list(&bench.at("old")).is_empty());
}
