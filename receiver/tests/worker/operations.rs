//! What operations do to a tree, and what is refused.

use super::*;

#[test]
fn a_rename_spares_what_is_in_a_directory_if_that_was_agreed_on() {
    let bench = Bench::start(|_| {});
    fs::create_dir_all(bench.at("full/d")).unwrap();
    fs::create_dir_all(bench.at("empty")).unwrap();
    for name in ["from", "other"] {
        fs::create_dir(bench.at(name)).unwrap();
        fs::write(bench.at(name).join("f"), "1").unwrap();
    }
    fs::write(bench.at("file"), "2").unwrap();
    let mut agent = bench
        .open_as(1, |open| open.features |= FEATURE_SPARE)
        .unwrap();
    let renames = [("from", "full"), ("file", "full"), ("from", "empty")];
    let rejects = agent.commit(renames.map(|(from, to)| rename(from, to)).into());
    let expected = [(0, RejectCode::NotEmpty), (1, RejectCode::NotEmpty)];
    assert_eq!(rejects, expected);
    assert!(bench.at("full/d").exists() && bench.at("empty/f").exists());
    assert!(bench.at("file").exists() && !bench.at("from").exists());
    drop(agent);
    bench.ended();
    let mut agent = bench.open_as(2, |_| {}).unwrap();
    assert_eq!(agent.commit(vec![rename("other", "full")]), []);
    assert!(bench.at("full/f").exists() && !bench.at("full/d").exists());
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

fn same(at: &str, content: &[u8]) -> (Op, Vec<u8>) {
    same_of(at, content, &[])
}

fn same_of(at: &str, content: &[u8], names: &[&str]) -> (Op, Vec<u8>) {
    bare(Op::Same {
        path: path(at),
        len: content.len() as u32,
        digest: Digest::of(content),
        meta: meta(0o604),
        names: names.iter().map(|name| path(name)).collect(),
    })
}

/// Both where owners are set and where they are only said.
#[test]
fn metadata_is_set_where_the_content_is_what_is_said() {
    for fakes in [false, true] {
        let bench = Bench::start(|setup| setup.rules.fake_super = fakes);
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("f"), "theirs").unwrap();
        let mut agent = bench.open();
        let large = vec![7; 128 << 10];
        let contents: [(&str, &[u8]); 3] = [("empty", b""), ("one", b"1"), ("large", &large)];
        let puts = contents.map(|(name, content)| put(name, content));
        assert_eq!(agent.commit(puts.into()), []);
        assert_eq!(agent.commit(vec![mkdir("d"), put("twice", b"2")]), []);
        let was = contents.map(|(name, _)| fs::metadata(bench.at(name)).unwrap());
        let sames = contents.map(|(name, content)| same(name, content));
        assert_eq!(agent.commit(sames.into()), []);
        for ((name, content), was) in contents.iter().zip(&was) {
            let is = fs::metadata(bench.at(name)).unwrap();
            assert_eq!(fs::read(bench.at(name)).unwrap(), *content);
            assert_eq!(is.ino(), was.ino(), "{name}");
            assert!(fakes || is.mode() & 0o7777 == 0o604, "{name}");
        }
        // Other content of that length, another length, no file, more names, and what is not ours.
        fs::hard_link(bench.at("twice"), bench.at("again")).unwrap();
        symlink("one", bench.at("to-one")).unwrap();
        symlink(outside.path(), bench.at("out")).unwrap();
        let mut longer = large.clone();
        longer.push(7);
        fs::write(bench.at("longer"), &longer).unwrap();
        let before = fs::metadata(bench.at("one")).unwrap();
        let rejects = agent.commit(vec![
            same("one", b"2"),
            same("one", b""),
            same("one", b"11"),
            same("longer", &large),
            same("none", b""),
            same("d", b""),
            same("to-one", b"1"),
            same("twice", b"2"),
            same("out/f", b"theirs"),
            same("none/f", b""),
            same(".syncd/f", b""),
        ]);
        let mut expected = vec![RejectCode::Mismatch; 11];
        expected[10] = RejectCode::ReservedName;
        assert_eq!(codes(&rejects), expected, "{rejects:?}");
        let after = fs::metadata(bench.at("one")).unwrap();
        assert_eq!(
            (after.ctime(), after.ctime_nsec()),
            (before.ctime(), before.ctime_nsec())
        );
        let theirs = fs::metadata(outside.path().join("f")).unwrap();
        assert_ne!(theirs.mtime(), 1_000_000);
        assert_eq!(fs::metadata(bench.at("again")).unwrap().nlink(), 2);
        bench.stays_clean();
    }
}

/// All names get it at once if they are those that are told and no other, whoever linked them.
#[test]
fn metadata_is_set_where_all_names_of_a_file_are_told() {
    for fakes in [false, true] {
        let bench = Bench::start(|setup| setup.rules.fake_super = fakes);
        let outside = tempfile::tempdir().unwrap();
        let mut agent = bench.open();
        let puts = ["ours", "theirs", "alone", "out"].map(|name| put(name, name.as_bytes()));
        let commit = [vec![mkdir("d"), mkdir("e")], puts.into()].concat();
        assert_eq!(agent.commit(commit), []);
        let link = |at: &str, to: &str| {
            bare(Op::Link {
                path: path(at),
                to: path(to),
            })
        };
        assert_eq!(
            agent.commit(vec![link("d/ours", "ours"), link("e/ours", "ours")]),
            []
        );
        fs::hard_link(bench.at("theirs"), bench.at("d/theirs")).unwrap();
        fs::hard_link(bench.at("out"), outside.path().join("kept")).unwrap();
        fs::hard_link(bench.at("out"), bench.at("d/out")).unwrap();
        symlink("ours", bench.at("to-ours")).unwrap();
        symlink("d", bench.at("to-d")).unwrap();
        let times = |name: &str| {
            let is = fs::metadata(bench.at(name)).unwrap();
            (is.ino(), is.nlink(), is.ctime(), is.ctime_nsec())
        };
        let before = ["ours", "out", "alone"].map(times);
        let rejects = agent.commit(vec![
            // One is missing, one is too many.
            same_of("ours", b"ours", &[]),
            same_of("ours", b"ours", &["d/ours"]),
            same_of("ours", b"ours", &["d/ours", "e/ours", "alone"]),
            same_of("ours", b"ours", &["d/ours", "e/ours", "none"]),
            // One that is told twice, or by another way, hides one that is not.
            same_of("ours", b"ours", &["d/ours", "d/ours"]),
            same_of("ours", b"ours", &["d/ours", "ours"]),
            same_of("ours", b"ours", &["d/ours", "to-d/ours"]),
            same_of("ours", b"ours", &["d/ours", "to-ours"]),
            same_of("ours", b"ours", &["d/ours", "d"]),
            same_of("ours", b"ours", &["d/ours", "none/ours"]),
            same_of("alone", b"alone", &["d/ours"]),
            // Content.
            same_of("ours", b"OURS", &["d/ours", "e/ours"]),
            same_of("ours", b"our", &["d/ours", "e/ours"]),
            // Outside of the module.
            same_of("out", b"out", &["d/out"]),
            same_of("ours", b"ours", &["d/ours", ".syncd/ours"]),
        ]);
        let mut expected = vec![RejectCode::Mismatch; 15];
        expected[14] = RejectCode::ReservedName;
        assert_eq!(codes(&rejects), expected, "{rejects:?}");
        assert_eq!(["ours", "out", "alone"].map(times), before);
        let was = ["ours", "theirs"].map(|name| times(name).0);
        assert_eq!(
            agent.commit(vec![
                same_of("ours", b"ours", &["d/ours", "e/ours"]),
                same_of("d/theirs", b"theirs", &["theirs"]),
            ]),
            []
        );
        assert_eq!(["ours", "theirs"].map(|name| times(name).0), was);
        assert_ne!(times("ours"), before[0]);
        for name in ["ours", "d/ours", "e/ours", "theirs", "d/theirs"] {
            let is = fs::metadata(bench.at(name)).unwrap();
            assert!(fakes || is.mode() & 0o7777 == 0o604, "{name}");
            let content = name.trim_start_matches(['d', 'e', '/']);
            assert_eq!(fs::read(bench.at(name)).unwrap(), content.as_bytes());
        }
        bench.stays_clean();
    }
}

/// A file of somebody else is replaced, in a directory of ours, when its content comes.
#[test]
fn a_file_that_is_not_ours_is_told_as_another_version() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root has what belongs to others");
        return;
    }
    let bench = Bench::start(|setup| {
        setup.run_as = Some(RunAs {
            uid: 65_534,
            gid: 65_534,
            groups: Vec::new(),
        });
    });
    for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
        fs::write(bench.at(name), "1").unwrap();
        fs::set_permissions(bench.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut agent = bench.open();
    let rejects = agent.commit(vec![same("open", b"1"), same("closed", b"1")]);
    assert_eq!(codes(&rejects), [RejectCode::Mismatch; 2], "{rejects:?}");
    assert_eq!(
        agent.commit(vec![put("open", b"1"), put("closed", b"1")]),
        []
    );
    assert_eq!(
        agent.commit(vec![same("open", b"1"), same("closed", b"1")]),
        []
    );
}
