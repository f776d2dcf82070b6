//! Names that the module hides.

use super::*;

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
