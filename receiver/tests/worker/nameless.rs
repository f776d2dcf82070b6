//! Groups of small files: made without a name where that can be, and with one otherwise.

use super::*;

/// Whether a name was made in the staging directory while `work` was done.
fn stages(bench: &Bench, work: impl FnOnce()) -> bool {
    let stage = fs::File::open(bench.at(".syncd/stage")).unwrap();
    // So long ago that any change shows, however coarse the clock of the file system is.
    let before = std::time::UNIX_EPOCH;
    stage.set_modified(before).unwrap();
    work();
    stage.metadata().unwrap().modified().unwrap() != before
}

/// Whether this system lets a process make files that have no name, and name them.
fn can_do_without(bench: &Bench) -> bool {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::TMPFILE;
    let Ok(made) = rustix::fs::open(bench.path(), flags, Mode::RUSR | Mode::WUSR) else {
        return false;
    };
    let name = bench.at("tried");
    let linked = rustix::fs::linkat(&made, "", CWD, &name, AtFlags::EMPTY_PATH);
    fs::remove_file(name).is_ok() && linked.is_ok()
}

fn files(dir: &str, count: usize, content: &[u8]) -> Vec<(Op, Vec<u8>)> {
    let name = |number| format!("{dir}/{number}");
    (0..count)
        .map(|number| put(&name(number), content))
        .collect()
}

fn are_all(bench: &Bench, dir: &str, count: usize, content: &[u8]) {
    for number in 0..count {
        let at = bench.at(dir).join(number.to_string());
        assert_eq!(fs::read(&at).unwrap(), content);
        let found = fs::metadata(&at).unwrap();
        let owner = (found.uid(), found.gid());
        let expected = ((12, 34), 0o640, 1, (1_000_000, 123_456_789));
        let time = (found.mtime(), found.mtime_nsec());
        let mode = found.mode() & 0o7777;
        assert_eq!((owner, mode, found.nlink(), time), expected);
    }
}

#[test]
fn many_new_files_have_no_name_before_their_own() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    assert_eq!(agent.commit(vec![mkdir("d")]), []);
    let named = stages(&bench, || {
        assert_eq!(agent.commit(files("d", 200, b"first")), []);
    });
    assert_eq!(named, !can_do_without(&bench));
    are_all(&bench, "d", 200, b"first");
    // What is there is replaced by a rename.
    let old = fs::File::open(bench.at("d/0")).unwrap();
    let named = stages(&bench, || {
        assert_eq!(agent.commit(files("d", 200, b"second")), []);
    });
    assert!(named);
    are_all(&bench, "d", 200, b"second");
    assert_eq!(std::io::read_to_string(old).unwrap(), "first");
    bench.stays_clean();
}

#[test]
fn a_few_files_are_synced_one_by_one_with_names() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    // The first group of a session: no other one is on its way.
    let named = stages(&bench, || {
        assert_eq!(agent.commit(vec![put("f", b"1"), put("g", b"2")]), []);
    });
    assert!(named);
    bench.stays_clean();
}

#[test]
fn names_that_turn_out_to_be_taken_are_replaced_all_the_same() {
    let bench = Bench::start(|_| {});
    fs::create_dir_all(bench.at("d/3/in/it")).unwrap();
    for number in [0, 1, 2] {
        fs::write(bench.at("d").join(number.to_string()), "old").unwrap();
    }
    fs::hard_link(bench.at("d/0"), bench.at("kept")).unwrap();
    symlink("../kept", bench.at("d/4")).unwrap();
    let mut agent = bench.open();
    let mut ops = vec![put("d/free", b"x")];
    ops.extend(files("d", 12, b"new"));
    assert_eq!(agent.commit(ops), []);
    are_all(&bench, "d", 12, b"new");
    assert_eq!(fs::read(bench.at("kept")).unwrap(), b"old");
    bench.stays_clean();
}

#[test]
fn there_are_no_more_open_than_the_process_may_have() {
    let bench = Bench::start(|_| {});
    let most = rustix::process::Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    bench.limit(rustix::process::Resource::Nofile, most);
    let mut agent = bench.open();
    assert_eq!(agent.commit(vec![mkdir("d")]), []);
    let named = stages(&bench, || {
        assert_eq!(agent.commit(files("d", 300, b"first")), []);
    });
    assert!(named, "16 have none");
    are_all(&bench, "d", 300, b"first");
    bench.stays_clean();
}

#[test]
fn a_worker_without_rights_has_them_too() {
    let bench = Bench::start(|setup| {
        setup.run_as = Some(RunAs {
            uid: 54_321,
            gid: 54_321,
            groups: Vec::new(),
        });
    });
    let mut agent = bench.open();
    assert_eq!(agent.commit(vec![mkdir("d")]), []);
    let rejects = agent.commit(files("d", 100, b"first"));
    assert_eq!(rejects, []);
    for number in 0..100 {
        let at = bench.at("d").join(number.to_string());
        assert_eq!(fs::read(&at).unwrap(), b"first");
        assert_eq!(fs::metadata(&at).unwrap().uid(), 54_321);
    }
    bench.stays_clean();
}

#[test]
fn a_full_disk_keeps_nothing_of_what_has_no_name() {
    let Some(bench) = Bench::on_tmpfs("size=1m,mode=755", |_| {}) else {
        return;
    };
    let mut agent = bench.open();
    assert_eq!(agent.commit(vec![mkdir("d")]), []);
    let rejects = agent.commit(files("d", 30, &[7; 60_000]));
    assert!(!rejects.is_empty() && rejects.len() < 30);
    let full = |code: &RejectCode| *code == RejectCode::NoSpace;
    assert!(codes(&rejects).iter().all(full), "{rejects:?}");
    let there = fs::read_dir(bench.at("d")).unwrap().count();
    assert_eq!(there + rejects.len(), 30);
    for entry in fs::read_dir(bench.at("d")).unwrap() {
        assert_eq!(fs::read(entry.unwrap().path()).unwrap(), [7; 60_000]);
    }
    bench.stays_clean();
    // There is room again, for as much as before.
    fs::remove_dir_all(bench.at("d")).unwrap();
    assert_eq!(agent.commit(vec![mkdir("e")]), []);
    assert_eq!(agent.commit(files("e", there, &[8; 60_000])), []);
}

#[test]
fn a_killed_worker_leaves_nothing_of_them() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    assert_eq!(agent.commit(vec![mkdir("d")]), []);
    agent.send_commit(files("d", 2_000, b"content"));
    bench.kill();
    let left = fs::read_dir(bench.at("d")).unwrap();
    for entry in left {
        assert_eq!(fs::read(entry.unwrap().path()).unwrap(), b"content");
    }
    if can_do_without(&bench) {
        let staged = fs::read_dir(bench.at(".syncd/stage")).unwrap().count();
        assert_eq!(staged, 0);
    }
}
