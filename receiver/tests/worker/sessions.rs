//! Sessions: order, writers, users, ends.

use super::*;

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
fn digests_are_forgotten_while_the_agent_rests_and_their_memory_is_given_back() {
    let bench = Bench::start(|_| {});
    for dir in 0..30_000 {
        fs::create_dir_all(bench.at(&format!("{}/{dir}", dir / 100))).unwrap();
    }
    let mut agent = bench.open();
    let before = bench.own_kib();
    let digest = agent.digest(".");
    let read = bench.own_kib();
    assert!(read > before + 2_500, "{before} and {read} KiB");
    // The digests are most of what came; each thread keeps a few pieces for its next use.
    let kept_max = before.midpoint(read);
    // It takes some times as long as to read the tree, and two pings: who answers the second has given back.
    let until = Instant::now() + Duration::from_secs(120);
    for token in 1.. {
        agent.ping(token);
        agent.wait_pong(token);
        let rests = bench.own_kib();
        if rests < kept_max {
            break;
        }
        assert!(Instant::now() < until, "{before}, {read} and {rests} KiB");
    }
    assert_eq!(agent.digest("."), digest);
}

#[test]
fn a_worker_that_was_stopped_for_a_moment_keeps_its_sessions() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    for token in 1..20 {
        agent.ping(token);
        agent.wait_pong(token);
        bench.interrupt();
    }
    agent.ping(20);
    agent.wait_pong(20);
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
    let names = vec![
        name(IdKind::User, 12, "known"),
        name(IdKind::User, 13, "no-such-user"),
        name(IdKind::User, 0, "known"),
        name(IdKind::Group, 14, "root"),
    ];
    let bench = Bench::start(|setup| setup.numeric_ids = false);
    let mut agent = bench.open();
    // The front is asked, every time; what it says is not taken for more than it is.
    for known in [77, 78] {
        agent.ask_ids(names.clone());
        let asked = bench.answer_names(vec![Some(known), None, Some(known), Some(0)]);
        assert_eq!(asked, names);
        assert_eq!(agent.hear_ids(), [known, 13, 0, 14]);
    }
    agent.ask_ids(names.clone());
    bench.answer_names(Vec::new());
    assert_eq!(agent.hear_ids(), [12, 13, 0, 14], "the front knows nothing");
    let bench = Bench::start(|setup| setup.numeric_ids = true);
    let mut agent = bench.open();
    agent.ask_ids(names);
    assert_eq!(agent.hear_ids(), [12, 13, 0, 14]);
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
