//! `trash`: what is replaced or removed is kept, out of the agent's reach, and goes when it is old.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syncd_proto::message::SignatureWant;
use syncd_proto::meta::Kind;
use syncd_proto::op::Op;
use syncd_proto::reject::RejectCode;
use syncd_recv::logic::removals::MaxDelete;
use syncd_recv::logic::trash::{KEEP_DEFAULT_S, Place, Trash};
use syncd_recv::relay::{Chroot, FromWorker, ModuleSetup, RunAs};
use tempfile::TempDir;

use crate::bench::{Bench, dir_meta, meta, path};
use crate::{bare, mkdir, put, remove, rename};

fn within(setup: &mut ModuleSetup) {
    keeping(setup, Place::Within(path("old")));
}

fn keeping(setup: &mut ModuleSetup, place: Place) {
    setup.rules.trash = Some(Box::new(Trash {
        place,
        keep_s: KEEP_DEFAULT_S,
    }));
}

/// Every file in a trash: the path it had and its content, the oldest first.
fn kept(trash: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for slot in slots(trash) {
        let mut here = Vec::new();
        files(&slot, &slot, &mut here);
        here.sort();
        found.extend(here);
    }
    found
}

/// The directories of single seconds, in order.
fn slots(trash: &Path) -> Vec<PathBuf> {
    let mut slots = Vec::new();
    for day in list(trash) {
        slots.extend(list(&day));
    }
    let number = |slot: &PathBuf| {
        let name = slot.file_name().unwrap().to_str().unwrap().to_owned();
        let (second, again) = name.split_once('.').unwrap_or((&name, "0"));
        (second.to_owned(), again.parse::<u32>().unwrap())
    };
    slots.sort_by_key(number);
    slots
}

/// What is in a directory, which may go meanwhile.
fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        entries => entries.unwrap(),
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn files(top: &Path, dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for path in list(dir) {
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
        if kind.is_dir() {
            files(top, &path, found);
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            found.push((name, target.to_str().unwrap().as_bytes().to_vec()));
        } else if kind.is_file() {
            found.push((name, fs::read(&path).unwrap()));
        } else {
            found.push((name, b"special".to_vec()));
        }
    }
}

fn file(name: &str, content: &str) -> (String, Vec<u8>) {
    (name.to_owned(), content.as_bytes().to_vec())
}

#[test]
fn what_is_replaced_or_removed_is_kept_under_its_path() {
    let bench = Bench::start(within);
    let mut agent = bench.open();
    let link = |target: &str| {
        bare(Op::Symlink {
            path: path("l"),
            meta: meta(0o777),
            target: target.into(),
        })
    };
    let made = vec![
        mkdir("d"),
        mkdir("d/e"),
        mkdir("empty"),
        put("d/e/f", b"one"),
        put("d/g", b"gone"),
        put("top", b"moved over"),
        put("new", b"new"),
        link("first"),
    ];
    assert!(agent.commit(made).is_empty());
    assert!(kept(&bench.at("old")).is_empty(), "nothing was lost");
    let inode = fs::metadata(bench.at("d/e/f")).unwrap().ino();
    let changes = vec![
        put("d/e/f", b"two"),
        remove("d/g"),
        remove("empty"),
        remove("missing"),
        rename("new", "top"),
        link("second"),
    ];
    assert!(agent.commit(changes).is_empty());
    let expected = [
        file("d/e/f", "one"),
        file("d/g", "gone"),
        file("l", "first"),
        file("top", "moved over"),
    ];
    let mut found = kept(&bench.at("old"));
    found.sort();
    assert_eq!(found, expected);
    let old = slots(&bench.at("old"))[0].join("d/e/f");
    let old = fs::metadata(old).unwrap();
    assert_eq!((old.ino(), old.nlink(), old.uid()), (inode, 1, 12));
    assert_eq!(fs::read(bench.at("d/e/f")).unwrap(), b"two");
    assert_eq!(fs::read(bench.at("top")).unwrap(), b"new");
    assert!(!bench.at("new").exists() && !bench.at("empty").exists());
    // A whole tree goes in one step, and is whole there.
    assert!(agent.commit(vec![remove("d")]).is_empty());
    assert!(!bench.at("d").exists());
    assert!(kept(&bench.at("old")).contains(&file("d/e/f", "two")));
    // And what is only written anew with the same names of one file keeps nothing.
    let before = kept(&bench.at("old")).len();
    let relink = || {
        bare(Op::Link {
            path: path("hard"),
            to: path("top"),
        })
    };
    assert!(agent.commit(vec![relink(), relink()]).is_empty());
    assert_eq!(kept(&bench.at("old")).len(), before);
    assert_eq!(fs::metadata(bench.at("top")).unwrap().nlink(), 2);
}

#[test]
fn one_kind_of_entry_in_place_of_another_is_kept_too() {
    let bench = Bench::start(within);
    let mut agent = bench.open();
    let made = vec![
        mkdir("d"),
        put("d/f", b"below"),
        put("f", b"flat"),
        mkdir("from"),
        put("from/x", b"x"),
        mkdir("to"),
        put("to/y", b"y"),
        put("deep", b"deep"),
    ];
    assert!(agent.commit(made).is_empty());
    let special = bare(Op::Special {
        path: path("f"),
        meta: meta(0o600),
        kind: Kind::Fifo,
        rdev: (0, 0),
    });
    let swaps = vec![
        put("d", b"a file now"),
        mkdir("f"),
        rename("from", "to"),
        mkdir("deep"),
        rename("to/x", "to"),
    ];
    assert!(agent.commit(swaps).is_empty());
    assert_eq!(fs::read(bench.at("d")).unwrap(), b"a file now");
    assert_eq!(fs::read(bench.at("to")).unwrap(), b"x");
    assert!(bench.at("f").is_dir() && !bench.at("from").exists());
    let found = kept(&bench.at("old"));
    for expected in [
        file("d/f", "below"),
        file("f", "flat"),
        file("to/y", "y"),
        file("deep", "deep"),
    ] {
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
    assert!(agent.commit(vec![put("f/g", b"g"), special]).is_empty());
    assert!(kept(&bench.at("old")).contains(&file("f/g", "g")));
    bench.close(1);
    let staged = list(&bench.at(".syncd/stage"));
    assert!(staged.is_empty(), "{staged:?}");
}

#[test]
fn each_version_of_a_second_has_a_place_of_its_own() {
    let bench = Bench::start(within);
    let mut agent = bench.open();
    assert!(agent.commit(vec![mkdir("d"), mkdir("a")]).is_empty());
    let version = |number: u32| put("d/f", number.to_string().as_bytes());
    assert!(agent.commit((0..60).map(version).collect()).is_empty());
    let found: Vec<_> = kept(&bench.at("old"));
    let expected: Vec<_> = (0..59)
        .map(|number| file("d/f", &number.to_string()))
        .collect();
    assert_eq!(found, expected);
    // A file, then a directory, then a file of one path, all gone within one second.
    let changes = vec![
        put("a", b"file"),
        remove("a"),
        mkdir("a"),
        put("a/b", b"below"),
        remove("a/b"),
        put("a/b", b"again"),
        remove("a"),
        put("a", b"last"),
        remove("a"),
    ];
    assert!(agent.commit(changes).is_empty());
    let found = kept(&bench.at("old"));
    for expected in [
        file("a", "file"),
        file("a/b", "below"),
        file("a/b", "again"),
        file("a", "last"),
    ] {
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
}

#[test]
fn an_agent_neither_sees_nor_touches_the_trash() {
    let bench = Bench::start(|setup| {
        keeping(setup, Place::Within(path("keep/old")));
        setup.rules.max_delete = Some(MaxDelete::Percent(50));
    });
    let mut agent = bench.open();
    let made = vec![mkdir("keep"), put("keep/f", b"1"), put("keep/f", b"2")];
    assert!(agent.commit(made).is_empty());
    let old = kept(&bench.at("keep/old"));
    assert_eq!(old, [file("keep/f", "1")]);
    let day = list(&bench.at("keep/old"))[0].clone();
    let day = day.file_name().unwrap().to_str().unwrap();
    let tries = vec![
        put("keep/old/x", b"x"),
        put(&format!("keep/old/{day}/x"), b"x"),
        mkdir("keep/old"),
        put("keep/old", b"x"),
        rename("keep/old", "mine"),
        rename("keep", "moved"),
        put("keep", b"x"),
    ];
    let rejects = agent.commit(tries);
    assert_eq!(rejects.len(), 7, "{rejects:?}");
    // Not there, for an agent.
    assert!(agent.commit(vec![remove("keep/old")]).is_empty());
    let inside = format!("keep/old/{day}");
    assert_eq!(agent.digest("keep/old"), None);
    assert_eq!(agent.digest(&inside), None);
    let file_inside = kept_path(&bench.at("keep/old"), "keep/f");
    let relative = file_inside.strip_prefix(bench.path()).unwrap();
    let asked = agent.signature(relative.to_str().unwrap(), SignatureWant::Groups);
    assert_eq!(asked, None);
    // What holds it stays, without all the rest.
    assert_eq!(
        agent.commit(vec![remove("keep")]),
        [(0, RejectCode::NotEmpty)]
    );
    assert!(bench.at("keep/old").is_dir() && !bench.at("keep/f").exists());
    let found = kept(&bench.at("keep/old"));
    assert_eq!(found, [file("keep/f", "1"), file("keep/f", "2")]);
    bench.close(1);
    let refused = bench.open_as(2, |open| open.sub_path = path("keep/old"));
    assert!(refused.is_err(), "a session in the trash");
}

fn kept_path(trash: &Path, name: &str) -> PathBuf {
    let found = slots(trash).into_iter().map(|slot| slot.join(name));
    let mut found = found.filter(|path| path.exists());
    found.next().expect("it is kept")
}

/// A directory with and without a trash in it are equal to an agent.
#[test]
fn the_trash_takes_no_part_in_a_comparison() {
    let digests = [false, true].map(|keeps| {
        let bench = Bench::start(|setup| {
            if keeps {
                keeping(setup, Place::Within(path("d/old")));
            }
        });
        fs::create_dir_all(bench.at("d/old/2020-01-01")).unwrap();
        fs::write(bench.at("d/old/2020-01-01/notes"), "x").unwrap();
        if !keeps {
            fs::remove_dir_all(bench.at("d/old")).unwrap();
        }
        let dir = fs::File::open(bench.at("d")).unwrap();
        dir.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        bench.open().digest("d")
    });
    assert!(digests[0].is_some());
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn without_room_for_the_old_version_nothing_changes() {
    let Some(bench) = Bench::on_tmpfs("size=1m,nr_inodes=60", within) else {
        return;
    };
    let mut agent = bench.open();
    let names: Vec<String> = (0..100).map(|n| format!("f{n}")).collect();
    let made = agent.commit(names.iter().map(|name| put(name, b"1")).collect());
    assert!(!made.is_empty(), "there is room for all");
    let there = |name: &&String| bench.at(name).exists();
    let found: Vec<&String> = names.iter().filter(there).collect();
    let removes = found.iter().map(|name| remove(name)).collect();
    let rejects = agent.commit(removes);
    assert_eq!(rejects.len(), found.len(), "{rejects:?}");
    assert!(rejects.iter().all(|(_, code)| *code == RejectCode::NoSpace));
    assert!(found.iter().all(|name| bench.at(name).exists()));
    // Somebody makes room: the same is done then.
    for name in found.iter().take(5) {
        fs::remove_file(bench.at(name)).unwrap();
    }
    let rejects = agent.commit(found.iter().map(|name| remove(name)).collect());
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!(kept(&bench.at("old")).len(), found.len() - 5);
}

#[test]
fn a_trash_beside_the_module_works_behind_all_walls() {
    let id = 65_533;
    let place = TempDir::new().unwrap();
    chown(place.path(), Some(id), Some(id)).unwrap();
    let at = place.path().to_str().unwrap().as_bytes().to_vec();
    let bench = Bench::start(|setup| {
        keeping(setup, Place::At(at));
        setup.chroot = Chroot::Required;
        setup.run_as = Some(RunAs {
            uid: id,
            gid: id,
            groups: vec![id],
        });
    });
    let mut agent = bench.open();
    let read_only = |at: &str| {
        bare(Op::Mkdir {
            path: path(at),
            meta: {
                let mut meta = dir_meta();
                meta.mode = 0o555;
                meta
            },
        })
    };
    let made = vec![
        mkdir("d"),
        put("d/f", b"1"),
        put("d/f", b"2"),
        mkdir("closed"),
        put("closed/f", b"in"),
        read_only("closed"),
    ];
    assert!(agent.commit(made).is_empty());
    let rejects = agent.commit(vec![remove("d"), remove("closed")]);
    assert!(rejects.is_empty(), "{rejects:?}");
    let mut found = kept(place.path());
    found.sort();
    let expected = [file("closed/f", "in"), file("d/f", "1"), file("d/f", "2")];
    assert_eq!(found, expected);
    let closed = kept_path(place.path(), "closed");
    assert_eq!(fs::metadata(closed).unwrap().mode() & 0o7777, 0o555);
    let day = &list(place.path())[0];
    let mode = fs::metadata(day).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "others may not look into it");
}

#[test]
fn a_trash_that_cannot_be_used_stops_the_worker() {
    let fails = |place: Place| match Bench::failing(|setup| keeping(setup, place)) {
        FromWorker::Failed { text, log } => {
            assert_eq!(text, "the module's trash cannot be used");
            log
        }
        other => panic!("{other:?}"),
    };
    assert!(fails(Place::At(b"/proc".to_vec())).contains("another file system"));
    assert!(fails(Place::At(b"/nowhere/at/all".to_vec())).contains("/nowhere/at/all"));
    // In the module, by another name.
    let aside = TempDir::new().unwrap();
    let alias = aside.path().join("alias");
    let at = alias.to_str().unwrap().as_bytes().to_vec();
    let answer = Bench::failing(|setup| {
        let module = PathBuf::from(String::from_utf8(setup.path.clone()).unwrap());
        fs::create_dir(module.join("old")).unwrap();
        symlink(module, &alias).unwrap();
        keeping(setup, Place::At([at, b"/old".to_vec()].concat()));
    });
    let FromWorker::Failed { log, .. } = answer else {
        panic!("{answer:?}");
    };
    assert!(log.contains("by another name"), "{log}");
}

#[test]
fn what_is_old_goes_and_nothing_else() {
    let bench = Bench::start(|setup| {
        let module = PathBuf::from(String::from_utf8(setup.path.clone()).unwrap());
        let old = module.join("old");
        for dir in [
            "2020-01-01/000000/d",
            "2020-01-02/101010.3",
            "notes",
            "2999-12-31/000000",
        ] {
            fs::create_dir_all(old.join(dir)).unwrap();
            fs::write(old.join(dir).join("f"), "x").unwrap();
        }
        fs::write(old.join("2020-01-02/mine"), "x").unwrap();
        within(setup);
    });
    wait("the old days are gone", || {
        list(&bench.at("old")).len() == 2
    });
    let names = ["2999-12-31", "notes"];
    assert_eq!(
        list(&bench.at("old")),
        names.map(|name| bench.at("old").join(name))
    );
    wait("it is deleted", || {
        fs::read_dir(bench.at(".syncd/trash")).unwrap().count() == 0
    });
}

/// While a worker lives it looks again and again.
#[test]
fn versions_expire_while_a_session_goes_on() {
    let bench = Bench::start(|setup| {
        within(setup);
        setup.rules.trash.as_mut().unwrap().keep_s = 1;
    });
    let mut agent = bench.open();
    assert!(
        agent
            .commit(vec![put("f", b"1"), put("f", b"2")])
            .is_empty()
    );
    wait("the old version is gone", || {
        slots(&bench.at("old")).is_empty()
    });
    assert_eq!(fs::read(bench.at("f")).unwrap(), b"2");
}

#[track_caller]
fn wait(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what}: not yet");
        std::thread::yield_now();
    }
}
