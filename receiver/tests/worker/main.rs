//! The worker as the front starts it: a process with a control socket, sessions on socket pairs, and
//! real files below it.

mod bench;
mod trash;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use bench::{Agent, Bench, dir_meta, meta, path};
use syncd_proto::digest::Digest;
use syncd_proto::message::{
    Basis, DigestQuery, Durability, IdQuery, PatchOp, Ping, Purpose, ReceiverMessage, Rejected,
    SignatureInfo, SignatureQuery, SignatureWant, StageBegin, StageChunk, StageEnd,
};
use syncd_proto::meta::{Kind, Meta};
use syncd_proto::op::{Content, Expect, IdKind, IdName, Op};
use syncd_proto::reject::RejectCode;
use syncd_recv::logic::removals::MaxDelete;
use syncd_recv::relay::{Chroot, Filters, FromWorker, RunAs, ToWorker};

fn put(at: &str, content: &[u8]) -> (Op, Vec<u8>) {
    let op = Op::Put {
        path: path(at),
        meta: meta(0o640),
        content: Content::Inline {
            len: content.len() as u32,
            digest: Digest::of(content),
        },
    };
    (op, content.to_vec())
}

fn mkdir(at: &str) -> (Op, Vec<u8>) {
    let op = Op::Mkdir {
        path: path(at),
        meta: dir_meta(),
    };
    (op, Vec::new())
}

fn bare(op: Op) -> (Op, Vec<u8>) {
    (op, Vec::new())
}

fn remove(at: &str) -> (Op, Vec<u8>) {
    bare(Op::Remove {
        path: path(at),
        recursive: true,
    })
}

fn rename(from: &str, to: &str) -> (Op, Vec<u8>) {
    bare(Op::Rename {
        from: path(from),
        to: path(to),
        expect: None,
    })
}

fn codes(rejects: &[(u32, RejectCode)]) -> Vec<RejectCode> {
    rejects.iter().map(|(_, code)| *code).collect()
}

#[test]
fn a_file_arrives_whole_with_its_metadata_and_is_replaced_by_another_inode() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    assert!(agent.commit(vec![put("f", b"one")]).is_empty());
    let first = fs::metadata(bench.at("f")).unwrap();
    assert_eq!(fs::read(bench.at("f")).unwrap(), b"one");
    assert_eq!(first.mode() & 0o7777, 0o640);
    assert_eq!(
        (first.mtime(), first.mtime_nsec()),
        (1_000_000, 123_456_789)
    );
    assert_eq!((first.uid(), first.gid()), (12, 34));
    assert!(agent.commit(vec![put("f", b"two")]).is_empty());
    assert_eq!(fs::read(bench.at("f")).unwrap(), b"two");
    assert_ne!(first.ino(), fs::metadata(bench.at("f")).unwrap().ino());
}

#[test]
fn every_kind_of_entry_can_be_made_moved_and_removed() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let rejects = agent.commit(vec![
        mkdir("d"),
        mkdir("d/e"),
        put("d/e/f", b"deep"),
        bare(Op::Symlink {
            path: path("d/l"),
            meta: meta(0o777),
            target: b"e/f".to_vec(),
        }),
        bare(Op::Link {
            path: path("d/hard"),
            to: path("d/e/f"),
        }),
        bare(Op::Special {
            path: path("d/fifo"),
            meta: meta(0o4611),
            kind: Kind::Fifo,
            rdev: (0, 0),
        }),
        bare(Op::SetMeta {
            path: path("d"),
            kind: Kind::Dir,
            size: 0,
            meta: dir_meta(),
        }),
    ]);
    assert!(rejects.is_empty(), "{rejects:?}");
    let link = fs::symlink_metadata(bench.at("d/l")).unwrap();
    assert_eq!(
        fs::read_link(bench.at("d/l")).unwrap().to_str(),
        Some("e/f")
    );
    assert_eq!((link.mtime(), link.mtime_nsec()), (1_000_000, 123_456_789));
    assert_eq!(link.uid(), 12);
    let file = fs::metadata(bench.at("d/e/f")).unwrap();
    assert_eq!(file.nlink(), 2);
    assert_eq!(file.ino(), fs::metadata(bench.at("d/hard")).unwrap().ino());
    let fifo = fs::metadata(bench.at("d/fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o4611);
    let dir = fs::metadata(bench.at("d")).unwrap();
    assert_eq!((dir.mtime(), dir.mtime_nsec()), (1_000_000, 123_456_789));

    let inode = fs::metadata(bench.at("d")).unwrap().ino();
    assert!(agent.commit(vec![rename("d", "moved")]).is_empty());
    assert_eq!(fs::metadata(bench.at("moved")).unwrap().ino(), inode);
    assert!(
        agent
            .commit(vec![put("moved/e/g", b"new"), remove("moved")])
            .is_empty()
    );
    assert!(!bench.at("moved").exists());
    assert!(
        agent
            .commit(vec![remove("moved"), remove("no/such")])
            .is_empty()
    );
    bench.stays_clean();
}

#[test]
fn names_change_their_type_and_places() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let ops = vec![
        mkdir("x"),
        put("x/inner", b"1"),
        put("y", b"2"),
        put("z", b"3"),
    ];
    assert!(agent.commit(ops).is_empty());
    let exchange = |a: &str, b: &str| {
        bare(Op::Exchange {
            a: path(a),
            b: path(b),
        })
    };
    assert!(agent.commit(vec![exchange("x", "y")]).is_empty());
    assert_eq!(fs::read(bench.at("x")).unwrap(), b"2");
    assert_eq!(fs::read(bench.at("y/inner")).unwrap(), b"1");
    // A file in the place of a full directory, and the other way round.
    assert!(
        agent
            .commit(vec![put("y", b"file now"), mkdir("x"), put("x/n", b"4")])
            .is_empty()
    );
    assert_eq!(fs::read(bench.at("y")).unwrap(), b"file now");
    assert_eq!(fs::read(bench.at("x/n")).unwrap(), b"4");
    // A directory over a file, a file over a full directory, a child over its parent.
    assert!(
        agent
            .commit(vec![rename("x", "y"), mkdir("x"), put("x/n", b"5")])
            .is_empty()
    );
    assert_eq!(fs::read(bench.at("y/n")).unwrap(), b"4");
    assert!(
        agent
            .commit(vec![rename("z", "x"), rename("y/n", "y")])
            .is_empty()
    );
    assert_eq!(fs::read(bench.at("x")).unwrap(), b"3");
    assert_eq!(fs::read(bench.at("y")).unwrap(), b"4");
    // Two names of one file: renaming one to the other leaves one.
    let link = Op::Link {
        path: path("y2"),
        to: path("y"),
    };
    assert!(agent.commit(vec![bare(link), rename("y", "y2")]).is_empty());
    assert!(!bench.at("y").exists());
    assert_eq!(fs::metadata(bench.at("y2")).unwrap().nlink(), 1);
    bench.stays_clean();
}

#[test]
fn what_is_refused_is_refused_alone_and_says_why() {
    let bench = Bench::start(|_| {});
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), bench.at("link")).unwrap();
    fs::write(bench.at("stale"), "longer than expected").unwrap();
    let mut agent = bench.open();
    let (mut wrong, content) = put("wrong", b"content");
    if let Op::Put { content, .. } = &mut wrong {
        *content = Content::Inline {
            len: 7,
            digest: Digest::of(b"another"),
        };
    }
    let expect = Some(Expect {
        kind: Kind::File,
        size: 1,
        mtime: None,
    });
    let rejects = agent.commit(vec![
        put("first", b"1"),
        put("none/f", b"2"),
        put(".syncd/f", b"3"),
        put("link/f", b"4"),
        (wrong, content),
        bare(Op::SetMeta {
            path: path("stale"),
            kind: Kind::File,
            size: 3,
            meta: meta(0o600),
        }),
        bare(Op::Rename {
            from: path("stale"),
            to: path("fresh"),
            expect,
        }),
        bare(Op::Remove {
            path: path("."),
            recursive: true,
        }),
        bare(Op::SetMeta {
            path: path("link"),
            kind: Kind::Dir,
            size: 0,
            meta: meta(0o700),
        }),
        put("last", b"5"),
    ]);
    let expected = [
        (1, RejectCode::NoParent),
        (2, RejectCode::ReservedName),
        (3, RejectCode::NotADirectory),
        (4, RejectCode::BadContent),
        (5, RejectCode::Mismatch),
        (6, RejectCode::Mismatch),
        (7, RejectCode::BadName),
        (8, RejectCode::Mismatch),
    ];
    assert_eq!(rejects, expected);
    assert!(bench.at("first").exists() && bench.at("last").exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!bench.at("wrong").exists() && bench.at("stale").exists());
    // Through the link nothing is removed either.
    fs::write(outside.path().join("f"), "theirs").unwrap();
    assert!(agent.commit(vec![remove("link/f")]).is_empty());
    assert!(outside.path().join("f").exists());
    bench.stays_clean();
}

#[test]
fn more_removals_than_allowed_are_refused_one_by_one() {
    let bench = Bench::start(|setup| setup.rules.max_delete = Some(MaxDelete::Count(4)));
    let mut agent = bench.open();
    let made = agent.commit(vec![
        mkdir("d"),
        put("d/a", b"a"),
        put("d/b", b"b"),
        put("d/c", b"c"),
        put("e", b"e"),
        put("f", b"f"),
    ]);
    assert_eq!(made, []);
    // The directory and what is in it are four names, a name that is replaced is none.
    let rejects = agent.commit(vec![
        remove("e"),
        remove("d"),
        put("f", b"new"),
        remove("none"),
    ]);
    assert_eq!(rejects, [(1, RejectCode::DeleteHeld)]);
    assert!(!bench.at("e").exists());
    assert!(bench.at("d/c").exists());
    assert_eq!(fs::read(bench.at("f")).unwrap(), b"new");
    // The others wait now, and what takes the place of a directory would remove what is in it.
    let rejects = agent.commit(vec![remove("f"), put("d", b"file"), rename("f", "d")]);
    assert_eq!(codes(&rejects), [RejectCode::DeleteHeld; 3]);
    // A session that comes later is counted with the others.
    drop(agent);
    bench.ended();
    let mut again = bench.open();
    let rejects = again.commit(vec![remove("f"), rename("f", "g")]);
    assert_eq!(rejects, [(0, RejectCode::DeleteHeld)]);
    assert!(bench.at("d/a").exists() && bench.at("g").exists());
}

/// With `fake super` an agent sees what a root's mirror would be, and rsync finds what it would have written.
#[test]
fn what_cannot_be_made_is_said_and_compared_as_if_it_were() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes what is compared with");
        return;
    }
    let real = Bench::start(|_| {});
    let fake = Bench::start(|setup| {
        setup.rules.fake_super = true;
        setup.run_as = Some(RunAs {
            uid: 65_534,
            gid: 65_534,
            groups: Vec::new(),
        });
    });
    let owned = |mode: u16| Meta {
        uid: 1_234,
        gid: 2_345,
        ..meta(mode)
    };
    let special = |at: &str, kind, rdev| {
        bare(Op::Special {
            path: path(at),
            meta: owned(0o640),
            kind,
            rdev,
        })
    };
    let file = |at: &str, mode: u16| {
        let (op, content) = put(at, b"content");
        let Op::Put {
            path,
            content: told,
            ..
        } = op
        else {
            panic!("not a put");
        };
        let meta = owned(mode);
        (
            Op::Put {
                path,
                meta,
                content: told,
            },
            content,
        )
    };
    let set = |at: &str, kind, size| {
        bare(Op::SetMeta {
            path: path(at),
            kind,
            size,
            meta: owned(0o600),
        })
    };
    let moved = |from: &str, to: &str, kind| {
        bare(Op::Rename {
            from: path(from),
            to: path(to),
            expect: Some(Expect {
                kind,
                size: 0,
                mtime: None,
            }),
        })
    };
    let digests = [&real, &fake].map(|bench| {
        let mut agent = bench.open();
        let rejects = agent.commit(vec![
            bare(Op::Mkdir {
                path: path("d"),
                meta: owned(0o2_750),
            }),
            file("d/setuid", 0o4_755),
            file("d/none", 0),
            bare(Op::Symlink {
                path: path("d/link"),
                meta: owned(0o777),
                target: b"../target".to_vec(),
            }),
            special("d/fifo", Kind::Fifo, (0, 0)),
            special("d/null", Kind::CharDevice, (1, 3)),
            moved("d/link", "d/moved", Kind::Symlink),
            moved("d/fifo", "d/pipe", Kind::Fifo),
            set("d/pipe", Kind::Fifo, 0),
            set("d/null", Kind::CharDevice, 0),
            set("d/none", Kind::File, 7),
            set("d/moved", Kind::Symlink, 0),
            set("d", Kind::Dir, 0),
            bare(Op::Link {
                path: path("d/second"),
                to: path("d/setuid"),
            }),
        ]);
        assert_eq!(rejects, []);
        // Neither a kind nor a size that is not there.
        let rejects = agent.commit(vec![
            set("d/moved", Kind::File, 0),
            set("d/setuid", Kind::Symlink, 0),
            set("d/setuid", Kind::File, 8),
            moved("d/pipe", "d/x", Kind::File),
        ]);
        assert_eq!(codes(&rejects), [RejectCode::Mismatch; 4]);
        let settled = agent.commit(vec![set("d", Kind::Dir, 0)]);
        assert_eq!(settled, []);
        agent.digest("d").expect("a digest")
    });
    assert_eq!(digests[0], digests[1]);
    let said = |name: &str| {
        let mut line = [0; 100];
        let length = rustix::fs::lgetxattr(fake.at(name), "user.rsync.%stat", &mut line);
        let length = length.unwrap_or_else(|error| panic!("{name}: {error}"));
        String::from_utf8(line[..length].to_vec()).unwrap()
    };
    for (name, line) in [
        ("d", "40600 0,0 1234:2345"),
        ("d/setuid", "104755 0,0 1234:2345"),
        ("d/moved", "120600 0,0 1234:2345"),
        ("d/pipe", "10600 0,0 1234:2345"),
        ("d/null", "20600 1,3 1234:2345"),
    ] {
        assert_eq!(said(name), line, "{name}");
        assert_eq!(fs::symlink_metadata(fake.at(name)).unwrap().uid(), 65_534);
    }
    assert_eq!(fs::read(fake.at("d/moved")).unwrap(), b"../target");
}

fn hiding(exclude: &str) -> Bench {
    Bench::start(|setup| {
        setup.rules.filters = Some(Box::new(Filters {
            exclude: exclude.into(),
            ..Filters::default()
        }));
    })
}

#[test]
fn what_the_module_hides_is_neither_written_nor_read_nor_removed() {
    let bench = hiding("*.key /private/ /d/odd");
    fs::create_dir_all(bench.at("private/deep")).unwrap();
    fs::create_dir_all(bench.at("d/sub")).unwrap();
    for name in [
        "a.key",
        "private/f",
        "d/b.key",
        "d/sub/c.key",
        "d/f",
        "d/sub/f",
    ] {
        fs::write(bench.at(name), name).unwrap();
    }
    let mut agent = bench.open();
    let link = bare(Op::Link {
        path: path("stolen"),
        to: path("a.key"),
    });
    let rejects = agent.commit(vec![
        put("new.key", b"x"),
        put("a.key", b"x"),
        put("private/new", b"x"),
        mkdir("private"),
        mkdir("ok"),
        link,
        rename("a.key", "seen"),
        rename("d/f", "d/f.key"),
        // Anchored: what is hidden here would be seen there, and the other way round.
        rename("d", "e"),
        rename("ok", "private"),
        put("d", b"a file in its place"),
    ]);
    assert_eq!(
        rejects,
        [
            (0, RejectCode::Permission),
            (1, RejectCode::Permission),
            (2, RejectCode::Permission),
            (3, RejectCode::Permission),
            (5, RejectCode::Mismatch),
            (6, RejectCode::Mismatch),
            (7, RejectCode::Permission),
            (8, RejectCode::Mismatch),
            (9, RejectCode::Permission),
            (10, RejectCode::NotEmpty),
        ]
    );
    assert_eq!(agent.signature("a.key", SignatureWant::Groups), None);
    assert_eq!(agent.digest("private"), None);
    // For an agent they are gone already; a directory that holds one stays, and nothing else in it.
    let rejects = agent.commit(vec![remove("a.key"), remove("private"), remove("d")]);
    assert_eq!(rejects, [(2, RejectCode::NotEmpty)]);
    for name in [
        "a.key",
        "private/f",
        "private/deep",
        "d/b.key",
        "d/sub/c.key",
    ] {
        assert!(bench.at(name).exists(), "{name}");
    }
    for name in ["d/f", "d/sub/f", "stolen", "seen", "new.key"] {
        assert!(!bench.at(name).exists(), "{name}");
    }
}

#[test]
fn hidden_names_take_no_part_in_a_comparison() {
    let plain = Bench::start(|_| {});
    let hiding = hiding("*.key /private/");
    for bench in [&plain, &hiding] {
        fs::create_dir(bench.at("d")).unwrap();
        fs::write(bench.at("d/f"), "same").unwrap();
    }
    fs::create_dir(hiding.at("private")).unwrap();
    fs::write(hiding.at("d/secret.key"), "x").unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH;
    for bench in [&plain, &hiding] {
        for name in ["d/f", "d", "."] {
            fs::File::open(bench.at(name))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
    }
    let [plain, hiding] = [&plain, &hiding].map(|bench| bench.open().digest("d"));
    assert!(plain.is_some());
    assert_eq!(plain, hiding);
}

/// The rules are about names from the module's root, wherever a session begins.
#[test]
fn rules_hold_below_a_sub_path_too() {
    let bench = hiding("/a/x /b/ *.key");
    fs::create_dir_all(bench.at("a")).unwrap();
    let mut agent = bench.open_as(1, |open| open.sub_path = path("a")).unwrap();
    let rejects = agent.commit(vec![put("x", b"x"), put("b", b"b"), put("f.key", b"x")]);
    assert_eq!(
        rejects,
        [(0, RejectCode::Permission), (2, RejectCode::Permission)]
    );
    assert!(bench.at("a/b").exists());
}

#[test]
fn a_delta_copies_from_its_basis_and_only_from_the_version_meant() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let old: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(bench.at("big"), &old).unwrap();
    let info = agent.signature("big", SignatureWant::Groups).unwrap();
    assert_eq!(info.len, 300_000);
    let basis = Basis {
        path: path("big"),
        version: info.version,
        len: info.len,
    };
    let mut new = old[1_000..201_000].to_vec();
    new.extend_from_slice(b"between");
    new.extend_from_slice(&[0; 70_000]);
    new.extend_from_slice(&old[..10]);
    let ops = vec![
        PatchOp::Copy {
            from: 1_000,
            len: 200_000,
        },
        PatchOp::Literal { len: 7 },
        PatchOp::Hole { len: 70_000 },
        PatchOp::Copy { from: 0, len: 10 },
    ];
    agent.begin(1, Some(basis.clone()), None, 0);
    agent.chunk(1, ops.clone(), b"between");
    agent.end(1, &new);
    assert!(agent.commit(vec![bare(staged("big", 1, &new))]).is_empty());
    assert_eq!(fs::read(bench.at("big")).unwrap(), new);

    agent.begin(2, Some(basis), None, 0);
    agent.chunk(2, ops, b"between");
    agent.end(2, &new);
    let refused = agent.rejected();
    assert_eq!(refused, (Rejected::Transfer(2), RejectCode::NoBasis));
    let rejects = agent.commit(vec![bare(staged("big", 2, &new))]);
    assert_eq!(codes(&rejects), [RejectCode::NoBasis]);
    bench.stays_clean();
}

#[test]
fn what_was_verified_before_is_believed_only_while_nobody_touches_it() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let old: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
    let new = [&old[..], b"and more"].concat();
    agent.begin(1, None, None, 0);
    agent.chunk(
        1,
        vec![PatchOp::Literal { len: 1_000_000 }],
        &old[..1_000_000],
    );
    agent.chunk(
        1,
        vec![PatchOp::Literal { len: 600_000 }],
        &old[1_000_000..],
    );
    agent.end(1, &old);
    assert!(agent.commit(vec![bare(staged("log", 1, &old))]).is_empty());
    let info = agent.signature("log", SignatureWant::Version).unwrap();
    assert_eq!(info.content, Some(Digest::of(&old)));

    let grown = |agent: &mut Agent, id: u64, info: &SignatureInfo, meanwhile: &dyn Fn()| {
        let basis = Basis {
            path: path("log"),
            version: info.version,
            len: info.len,
        };
        agent.begin(id, Some(basis), None, 0);
        // Transfers are taken in order: once this one is refused, the other has begun.
        agent.begin(id + 100, None, None, 0);
        agent.end(id + 100, b"nothing of this came");
        assert_eq!(agent.rejected().1, RejectCode::BadContent);
        meanwhile();
        let copy = PatchOp::Copy {
            from: 0,
            len: old.len() as u64,
        };
        agent.chunk(id, vec![copy, PatchOp::Literal { len: 8 }], b"and more");
        agent.end(id, &new);
    };
    grown(&mut agent, 2, &info, &|| {});
    let rejects = agent.commit(vec![bare(staged("grown", 2, &new))]);
    assert!(rejects.is_empty() && fs::read(bench.at("grown")).unwrap() == new);

    // Written to between its verification and the copy: the result is read and found to be wrong.
    let spoil = || {
        let log = bench.at("log");
        let times = fs::metadata(&log).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&log).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"spoilt", 777_777).unwrap();
        file.set_modified(times).unwrap();
    };
    grown(&mut agent, 3, &info, &spoil);
    let refused = agent.rejected();
    assert_eq!(refused, (Rejected::Transfer(3), RejectCode::BadContent));
    let info = agent.signature("log", SignatureWant::Version).unwrap();
    assert_eq!(info.content, None);
    bench.stays_clean();
}

fn staged(at: &str, transfer: u64, content: &[u8]) -> Op {
    Op::Put {
        path: path(at),
        meta: meta(0o644),
        content: Content::Staged {
            transfer,
            len: content.len() as u64,
            digest: Digest::of(content),
        },
    }
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_was() {
    let bench = Bench::start(|_| {});
    let content: Vec<u8> = (0..600_000_u32).map(|n| (n / 7) as u8).collect();
    let key = Digest::of(b"version");
    let mut agent = bench.open();
    agent.begin(1, None, Some(key), 0);
    let first = PatchOp::Literal { len: 400_000 };
    agent.chunk(1, vec![first], &content[..400_000]);
    agent.begin(2, None, None, 0);
    agent.chunk(2, vec![PatchOp::Literal { len: 3 }], b"abc");
    drop(agent);
    bench.ended();

    let mut agent = bench.open();
    let [left] = &agent.welcome.leftovers[..] else {
        panic!("{:?}", agent.welcome.leftovers)
    };
    assert_eq!((left.key, left.bytes), (key, 400_000));
    // The agent may trust less of it than there is.
    agent.begin(7, None, Some(key), 300_000);
    let rest = PatchOp::Literal { len: 300_000 };
    agent.chunk(7, vec![rest], &content[300_000..]);
    agent.end(7, &content);
    assert!(
        agent
            .commit(vec![bare(staged("f", 7, &content))])
            .is_empty()
    );
    assert_eq!(fs::read(bench.at("f")).unwrap(), content);
    drop(agent);
    bench.ended();
    assert!(bench.open().welcome.leftovers.is_empty());
    bench.stays_clean();
}

#[test]
fn content_that_is_not_what_was_announced_is_never_installed() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    agent.begin(1, None, None, 0);
    agent.chunk(1, vec![PatchOp::Literal { len: 3 }], b"abc");
    agent.end(1, b"abd");
    assert_eq!(
        agent.rejected(),
        (Rejected::Transfer(1), RejectCode::BadContent)
    );
    agent.begin(2, None, None, 0);
    agent.chunk(2, vec![PatchOp::Copy { from: 0, len: 3 }], b"");
    assert_eq!(
        agent.rejected(),
        (Rejected::Transfer(2), RejectCode::BadContent)
    );
    bench.stays_clean();
}

#[test]
fn a_reader_sees_whole_versions_only() {
    let bench = Bench::start(|setup| setup.durability = Durability::None);
    let mut agent = bench.open();
    let version = |n: usize| vec![b'a' + (n % 26) as u8; 40_000 + n * 13];
    assert!(agent.commit(vec![put("f", &version(0))]).is_empty());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let found = fs::read(bench.at("f")).expect("the name is always there");
                let first = found[0];
                assert!(found.len() >= 40_000 && found.iter().all(|&byte| byte == first));
                reads += 1;
            }
        });
        for n in 1..200 {
            assert!(agent.commit(vec![put("f", &version(n))]).is_empty());
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    bench.stays_clean();
}

#[test]
fn acknowledgements_come_in_order_and_durable_never_leads() {
    for durability in [Durability::Batch, Durability::Files, Durability::None] {
        let bench = Bench::start(|setup| setup.durability = durability);
        let mut agent = bench.open();
        assert_eq!(agent.welcome.durability, durability);
        let last = (0..100)
            .map(|n| agent.send_commit(vec![put(&format!("f{n}"), b"x"), mkdir(&format!("d{n}"))]))
            .last()
            .unwrap();
        assert!(agent.wait_durable(last).is_empty());
        assert_eq!(agent.session.applied(), last);
        assert_eq!(fs::read_dir(bench.path()).unwrap().count(), 201);
        assert_eq!(bench.close(1).1, 200, "operations");
    }
}

#[test]
fn digests_of_both_sides_agree() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let before = agent.digest(".");
    assert!(agent.commit(vec![mkdir("d"), put("d/f", b"x")]).is_empty());
    let after = agent.digest(".");
    assert_ne!(before, after);
    assert!(agent.digest("d").is_some() && agent.digest("none").is_none());
    fs::write(bench.at("d/g"), "changed by somebody").unwrap();
    assert_ne!(agent.digest("."), after);
}

#[test]
fn one_writer_for_each_directory_and_nobody_writes_who_may_not() {
    let bench = Bench::start(|_| {});
    let first = bench.open();
    let refused = bench.open_as(2, |_| {}).unwrap_err();
    assert_eq!(refused.code, RejectCode::Busy);
    assert!(refused.text.contains("session 1"), "{}", refused.text);
    let mut reading = bench
        .open_as(3, |open| open.purpose = Purpose::Compare)
        .unwrap();
    assert!(!reading.welcome.writable);
    assert_eq!(reading.welcome.instance, first.welcome.instance);
    reading.send_commit(vec![put("f", b"x")]);
    assert_eq!(
        reading.rejected(),
        (Rejected::Session, RejectCode::ReadOnly)
    );
    assert!(!bench.at("f").exists());
}

#[test]
fn a_sub_path_is_made_and_holds_what_is_written() {
    let bench = Bench::start(|_| {});
    let mut agent = bench
        .open_as(1, |open| open.sub_path = path("a/b"))
        .unwrap();
    assert!(agent.commit(vec![put("f", b"x")]).is_empty());
    assert!(bench.at("a/b/f").exists());
    assert!(bench.open_as(2, |open| open.sub_path = path("a/c")).is_ok());
    let below = bench.open_as(3, |open| open.sub_path = path("a"));
    assert_eq!(below.unwrap_err().code, RejectCode::Busy);
    let reserved = bench.open_as(4, |open| open.sub_path = path(".syncd/stage"));
    assert_eq!(reserved.unwrap_err().code, RejectCode::ReservedName);
}

#[test]
fn a_root_that_was_replaced_takes_nothing_any_more() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open_as(1, |open| open.sub_path = path("a")).unwrap();
    assert!(agent.commit(vec![put("f", b"x")]).is_empty());
    fs::rename(bench.at("a"), bench.at("away")).unwrap();
    fs::create_dir(bench.at("a")).unwrap();
    agent.send_commit(vec![put("g", b"y")]);
    let gone = (Rejected::Session, RejectCode::ModuleUnavailable);
    assert_eq!(agent.rejected(), gone);
    assert!(!bench.at("a/g").exists() && !bench.at("away/g").exists());
}

#[test]
fn kept_directory_links_lead_inside_only() {
    let outside = tempfile::tempdir().unwrap();
    let bench = Bench::start(|setup| setup.keep_dirlinks = true);
    fs::create_dir(bench.at("real")).unwrap();
    symlink("real", bench.at("inside")).unwrap();
    symlink(outside.path(), bench.at("out")).unwrap();
    let mut agent = bench.open();
    let rejects = agent.commit(vec![put("inside/f", b"x"), put("out/f", b"y")]);
    assert_eq!(rejects, [(1, RejectCode::NotADirectory)]);
    assert!(bench.at("real/f").exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn incoming_chmod_decides_modes_and_is_not_compared() {
    let bench = Bench::start(|setup| setup.incoming_chmod = Some(b"D2775,F664".to_vec()));
    let mut agent = bench.open();
    assert_eq!(agent.welcome.compare.mode_mask, 0);
    assert!(agent.commit(vec![mkdir("d"), put("d/f", b"x")]).is_empty());
    let mode = |at| fs::metadata(bench.at(at)).unwrap().mode() & 0o7777;
    assert_eq!((mode("d"), mode("d/f")), (0o2775, 0o664));
}

#[test]
fn a_close_finishes_what_came_and_says_why() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let seq = agent.send_commit(vec![put("f", b"x")]);
    agent.ping(5);
    agent.wait_pong(5);
    bench.send(&ToWorker::Drain {
        text: "maintenance".to_owned(),
    });
    assert!(agent.wait_durable(seq).is_empty());
    let text = loop {
        match agent.receive() {
            Some(ReceiverMessage::Draining(draining)) => break draining.text,
            Some(_) => {}
            None => panic!("it closed without a word"),
        }
    };
    assert_eq!(text, "maintenance");
    assert!(agent.receive().is_none());
    assert!(bench.at("f").exists());
    assert!(bench.exit().success());
}

#[test]
fn a_forged_commit_changes_nothing() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    agent.forge(vec![put("f", b"x")]);
    assert_eq!(agent.rejected(), (Rejected::Session, RejectCode::Protocol));
    assert!(!bench.at("f").exists());
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_goes_on() {
    let Some(bench) = Bench::on_tmpfs("size=1m,nr_inodes=200", |_| {}) else {
        return;
    };
    let mut agent = bench.open();
    let large = vec![1; 100_000];
    let ops = (0..15).map(|n| put(&format!("f{n}"), &large)).collect();
    let rejects = agent.commit(ops);
    assert!(!rejects.is_empty() && rejects.len() < 15, "{rejects:?}");
    assert!(
        codes(&rejects)
            .iter()
            .all(|code| *code == RejectCode::NoSpace)
    );
    for n in 0..15 - rejects.len() {
        assert_eq!(fs::read(bench.at(&format!("f{n}"))).unwrap(), large);
    }
    let removes = (0..15).map(|n| remove(&format!("f{n}"))).collect();
    assert!(agent.commit(removes).is_empty());
    assert!(agent.commit(vec![put("again", &large)]).is_empty());
    bench.stays_clean();
}

#[test]
fn an_ordinary_user_serves_what_is_its_own() {
    let id = 65_533;
    let bench = Bench::start(|setup| {
        setup.run_as = Some(RunAs {
            uid: id,
            gid: id,
            groups: vec![id],
        });
        setup.chroot = Chroot::Required;
    });
    let mut agent = bench.open();
    assert!(!agent.welcome.compare.owner);
    assert_eq!(agent.welcome.compare.mode_mask, 0o777);
    let closed = Meta {
        mode: 0o500,
        ..meta(0)
    };
    let rejects = agent.commit(vec![
        bare(Op::Mkdir {
            path: path("closed"),
            meta: closed.clone(),
        }),
        put("closed/f", b"x"),
        bare(Op::Mkdir {
            path: path("closed/deeper"),
            meta: closed,
        }),
        put("closed/deeper/g", b"y"),
        rename("closed/f", "closed/deeper/f"),
    ]);
    assert!(rejects.is_empty(), "{rejects:?}");
    let found = fs::metadata(bench.at("closed/deeper/f")).unwrap();
    assert_eq!((found.uid(), found.gid()), (id, id));
    let mode = fs::metadata(bench.at("closed"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o500);
    assert!(agent.commit(vec![remove("closed")]).is_empty());
    let device = bare(Op::Special {
        path: path("null"),
        meta: meta(0o666),
        kind: Kind::CharDevice,
        rdev: (1, 3),
    });
    assert_eq!(
        codes(&agent.commit(vec![device])),
        [RejectCode::Unsupported]
    );
    let fifo = bare(Op::Special {
        path: path("fifo"),
        meta: meta(0o640),
        kind: Kind::Fifo,
        rdev: (0, 0),
    });
    assert!(agent.commit(vec![fifo]).is_empty());
    bench.stays_clean();
}

#[test]
fn owners_are_known_by_name_unless_ids_are_numbers() {
    let name = |kind, id, name: &str| IdName {
        kind,
        id,
        name: name.into(),
    };
    let own = |kind, id| {
        let own = name(kind, id, "nobody");
        let bytes = fs::read("/etc/passwd").unwrap();
        let found = syncd_proto::accounts::accounts(&bytes);
        let found: Vec<_> = found.filter(|(known, _)| *known == own.name).collect();
        (own, found[0].1)
    };
    let (nobody, number) = own(IdKind::User, 12);
    let names = vec![
        nobody,
        name(IdKind::User, 13, "no-such-user"),
        name(IdKind::User, 0, "nobody"),
        name(IdKind::User, 14, "root"),
    ];
    for (numeric, first) in [(false, number), (true, 12)] {
        let bench = Bench::start(|setup| setup.numeric_ids = numeric);
        let mut agent = bench.open();
        let ids = agent.ids(names.clone());
        assert_eq!(ids, [first, 13, 0, 14], "numeric ids: {numeric}");
    }
}

#[test]
fn a_module_that_cannot_be_served_says_so_in_rsyncs_words() {
    let failed = Bench::failing(|setup| setup.path = b"/no/such/module".to_vec());
    assert!(matches!(failed, FromWorker::Failed { text, .. } if text == "chdir failed"));
}

#[test]
fn a_crash_leaves_nothing_that_stays() {
    let bench = Bench::start(|_| {});
    fs::create_dir_all(bench.at(".syncd/stage/dir/below")).unwrap();
    fs::set_permissions(bench.at(".syncd"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(bench.at(".syncd/stage/temp"), "half").unwrap();
    let mut agent = bench.open();
    assert!(agent.commit(vec![put("f", b"x")]).is_empty());
    bench.stays_clean();
}

impl Agent {
    fn ids(&mut self, names: Vec<IdName>) -> Vec<u32> {
        self.say(IdQuery { id: 1, names });
        self.find(|message| match message {
            ReceiverMessage::Ids(ids) => Some(ids.numbers.clone()),
            _ => None,
        })
    }

    fn begin(&mut self, transfer: u64, basis: Option<Basis>, key: Option<Digest>, resume_at: u64) {
        self.say(StageBegin {
            transfer,
            len_hint: 0,
            basis,
            key,
            resume_at,
        });
    }

    fn chunk(&mut self, transfer: u64, ops: Vec<PatchOp>, payload: &[u8]) {
        let chunk = StageChunk {
            transfer,
            ops,
            zstd_len: None,
        };
        self.say_with(chunk, payload.to_vec());
    }

    fn end(&mut self, transfer: u64, content: &[u8]) {
        self.say(StageEnd {
            transfer,
            len: content.len() as u64,
            digest: Digest::of(content),
        });
    }

    fn ping(&mut self, token: u64) {
        self.say(Ping { token });
    }

    fn wait_pong(&mut self, token: u64) {
        self.find(|message| match message {
            ReceiverMessage::Pong(pong) => (pong.token == token).then_some(()),
            _ => None,
        });
    }

    fn digest(&mut self, at: &str) -> Option<Digest> {
        self.say(DigestQuery {
            id: 1,
            paths: vec![path(at)],
            content: false,
        });
        self.find(|message| match message {
            ReceiverMessage::Digests(answer) => Some(answer.digests[0]),
            _ => None,
        })
    }

    fn signature(&mut self, at: &str, want: SignatureWant) -> Option<SignatureInfo> {
        self.say(SignatureQuery {
            id: 2,
            path: path(at),
            want,
        });
        self.find(|message| match message {
            ReceiverMessage::Signature(signature) => Some(signature.info.clone()),
            _ => None,
        })
    }

    fn rejected(&mut self) -> (Rejected, RejectCode) {
        self.find(|message| match message {
            ReceiverMessage::Reject(reject) => Some((reject.what, reject.code)),
            _ => None,
        })
    }
}
