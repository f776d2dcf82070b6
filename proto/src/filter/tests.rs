//! What a whole list of rules decides.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> WirePath {
    WirePath::from_relative(text.as_ref()).unwrap()
}

fn try_filter(rules: &[&str], files: &[(&str, &str)]) -> Result<Filter, FilterError> {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    let mut list = Rules::default().of_source(Path::new("/home/me/src"));
    for rule in rules {
        let statement = Statement::Filter(rule.as_bytes().to_vec());
        list.push(statement, Origin::option("--filter"));
    }
    Filter::compile(&list, &mut |file| match files.get(file.to_str().unwrap()) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err("no such file".to_owned()),
    })
}

fn filter(rules: &[&str]) -> Filter {
    try_filter(rules, &[]).unwrap()
}

/// Scopes from texts by path.
fn scopes<'a>(
    filter: &'a Filter,
    texts: &'a [(&str, &str)],
) -> impl FnMut(&WirePath) -> Scope + 'a {
    move |dir| {
        let mut scope = Scope::default();
        for depth in 0..=dir.names().len() {
            let here = prefix(dir, depth).unwrap();
            scope = filter.with_dir(&scope, &here, &mut |file| {
                let at = match file {
                    RulesFile::Within(path) => path.to_path_buf(),
                    RulesFile::Outside(path) => path.clone(),
                };
                let found = texts.iter().find(|(path, _)| Path::new(path) == at);
                match found {
                    Some((_, "unreadable")) => Err("permission denied".to_owned()),
                    Some((_, text)) => Ok(Some(text.as_bytes().to_vec())),
                    None => Ok(None),
                }
            });
        }
        scope
    }
}

fn sent(filter: &Filter, texts: &[(&str, &str)], name: &str) -> bool {
    let (name, is_dir) = match name.strip_suffix('/') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let verdict = filter.verdict(&path(name), is_dir, &mut scopes(filter, texts));
    verdict.is_included()
}

fn kept(filter: &Filter, name: &str) -> bool {
    filter.protects(
        &path(name),
        false,
        None,
        &mut |_| Scope::default(),
        &mut |_| false,
    )
}

#[test]
fn the_first_rule_that_matches_decides_and_silence_includes() {
    let filter = filter(&["+ *.c", "- /build/", "- *.o", "+ keep.o"]);
    for (name, included) in [
        ("a.c", true),
        ("a.o", false),
        ("keep.o", false),
        ("build/", false),
        ("build", true),
        ("build/a.c", false),
        ("src/build/", true),
        ("other", true),
    ] {
        assert_eq!(sent(&filter, &[], name), included, "{name}");
    }
}

#[test]
fn a_verdict_names_rule_and_place_and_directory() {
    let texts = [("list", "# ours\n\n- *.log\n")];
    let filter = try_filter(&["merge list", "- cache/"], &texts).unwrap();
    let verdict = filter.verdict(&path("a/x.log"), false, &mut |_| Scope::default());
    let Verdict::Excluded { by, above: None } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(by.to_string(), "\"- *.log\" (list line 3)");
    let verdict = filter.verdict(&path("a/cache/b/c"), false, &mut |_| Scope::default());
    let Verdict::Excluded { by, above } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(by.to_string(), "\"- cache/\" (--filter)");
    assert_eq!(above, Some(path("a/cache")));
    let root = filter.verdict(&WirePath::root(), true, &mut |_| Scope::default());
    assert_eq!(root, Verdict::Included(None));
}

#[test]
fn excluded_names_are_protected_unless_the_side_says_otherwise() {
    let filter = filter(&["H hidden", "P guarded", "R risked", "- risked", "- both"]);
    for (name, included, protected) in [
        ("hidden", false, false),
        ("guarded", true, true),
        ("risked", false, false),
        ("both", false, true),
        ("both/x", false, true),
        ("other", true, false),
    ] {
        assert_eq!(sent(&filter, &[], name), included, "{name}");
        assert_eq!(kept(&filter, name), protected, "{name}");
    }
    assert!(filter.may_protect());
    assert!(!filter.depends_on_place());
    assert!(!super::tests::filter(&["H a", "+ b"]).may_protect());
    assert!(super::tests::filter(&["- /a"]).depends_on_place());
}

#[test]
fn a_protected_directory_that_is_sent_protects_itself_alone() {
    let filter = filter(&["P guarded/", "P *.o"]);
    let asked = |name: &str, removed: Option<&str>, sent: bool| {
        let removed = removed.map(path);
        let mut root = |_: &WirePath| Scope::default();
        filter.protects(&path(name), false, removed.as_ref(), &mut root, &mut |_| {
            sent
        })
    };
    assert!(asked("guarded/x", None, false));
    assert!(!asked("guarded/x", None, true));
    assert!(asked("guarded/x.o", None, true));
    assert!(asked("a/guarded/x", Some("a"), true));
}

#[test]
fn perishable_rules_do_not_protect_what_is_in_a_removed_directory() {
    let filter = filter(&["-p *.o"]);
    let mut root = |_: &WirePath| Scope::default();
    assert!(filter.protects(&path("a/b.o"), false, None, &mut root, &mut |_| false));
    assert!(!filter.protects(
        &path("a/b.o"),
        false,
        Some(&path("a")),
        &mut root,
        &mut |_| false
    ));
}

#[test]
fn a_clear_forgets_what_was_before() {
    let cleared = filter(&["- a", ": .rules", "!", "- b"]);
    assert!(sent(&cleared, &[], "a"));
    assert!(!sent(&cleared, &[], "b"));
    assert_eq!(cleared.per_dir_names().count(), 0);
}

#[test]
fn rules_of_directories_come_first_and_are_inherited() {
    let filter = filter(&[": .rules", "- *.o"]);
    let texts = [
        (".rules", "- /top\n- x\n"),
        ("a/.rules", "+ x\n- /deep\n"),
        ("a/b/.rules", "!\n- y\n"),
    ];
    for (name, included) in [
        ("top", false),
        ("a/top", true),
        ("x", false),
        ("a/x", true),
        ("a/deep", false),
        ("a/c/deep", true),
        ("a/b/x", true),
        ("a/b/y", false),
        ("a/b/y.o", false),
        ("c/x", false),
        (".rules", true),
    ] {
        assert_eq!(sent(&filter, &texts, name), included, "{name}");
    }
}

#[test]
fn modifiers_of_directory_rules() {
    let own = filter(&[":en .rules"]);
    let texts = [(".rules", "- x\n")];
    assert!(!sent(&own, &texts, "x"));
    assert!(sent(&own, &texts, "a/x"));
    assert!(!sent(&own, &texts, "a/.rules"));
    let plain = filter(&[":w- .skip"]);
    let texts = [(".skip", "a b\n#c")];
    for (name, included) in [("a", false), ("b", false), ("#c", false), ("c", true)] {
        assert_eq!(sent(&plain, &texts, name), included, "{name}");
    }
}

#[test]
fn directories_above_are_looked_into_where_the_rule_says_so() {
    let texts = [
        ("/.rules", "- top\n- deep\n- /home/me/src/one\n"),
        ("/home/me/.rules", "+ deep\n- /src/two\n- /two\n- a/x\n"),
        (".rules", "- three\n"),
    ];
    for (rule, excluded) in [
        (": /.rules", "top one two a/x three"),
        (": /home/.rules", "two a/x three"),
        (": ../.rules", "two a/x three"),
        (": ../../../.rules", "top one two a/x three"),
        (": /etc/.rules", "three"),
        (": sub/.rules", "three"),
        (": .rules", "three"),
        (":n /.rules", "three"),
    ] {
        let filter = filter(&[rule]);
        for name in ["top", "one", "two", "a/x", "three", "deep", "b/two", "x"] {
            let expected = !excluded.split(' ').any(|excluded| excluded == name);
            assert_eq!(sent(&filter, &texts, name), expected, "{rule}: {name}");
        }
    }
    let all = filter(&[": /.rules"]);
    let verdict = all.verdict(&path("a/top"), false, &mut scopes(&all, &texts));
    let Verdict::Excluded { by, .. } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(by.to_string(), "\"- top\" (/.rules line 1)");
    // What cannot be read stops everything, and a file there may name any other.
    let broken = [("/home/.rules", "unreadable")];
    assert!(!sent(&all, &broken, "x"));
    let merging = [("/home/.rules", ". more"), ("/home/more", "- x\n- /y")];
    assert!(!sent(&all, &merging, "a/x"));
    assert!(!sent(&all, &merging, "y"));
}

#[test]
fn files_in_directories_name_further_files() {
    let filter = filter(&[": .rules", "- z"]);
    let texts = [
        ("a/.rules", "- one\n. sub/list\n: .more\n. list\n"),
        ("a/sub/list", "- two\n- /a/three\n- /four\n"),
        ("list", "- five\n"),
        ("a/list", "- six\n"),
        ("a/.more", "+ z\n- seven\n"),
        ("a/b/.more", "- /eight\n- five\n"),
        ("a/c/.rules", "!\n"),
        ("a/c/.more", "- nine\n"),
        (".more", "- ten\n"),
    ];
    for (name, included) in [
        ("a/one", false),
        ("a/two", false),
        ("two", true),
        ("a/three", false),
        ("a/four", true),
        ("four", true),
        ("a/five", false),
        ("a/six", true),
        ("a/seven", false),
        ("a/b/seven", false),
        ("seven", true),
        ("a/z", true),
        ("z", false),
        ("a/b/eight", false),
        ("a/eight", true),
        ("a/c/seven", true),
        ("a/c/nine", true),
        ("a/c/z", false),
        ("ten", true),
        ("a/ten", true),
    ] {
        assert_eq!(sent(&filter, &texts, name), included, "{name}");
    }
    let verdict = filter.verdict(&path("a/two"), false, &mut scopes(&filter, &texts));
    let Verdict::Excluded { by, .. } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(by.to_string(), "\"- two\" (a/sub/list line 1)");
    let scope = scopes(&filter, &texts)(&path("a/b"));
    let names: Vec<_> = scope.names().collect();
    assert_eq!(names, [&b".rules"[..], b".more"]);
}

#[test]
fn what_cvs_ignores_can_be_left_out() {
    let filter = filter(&["+ keep.o", ":C", "-C"]);
    let texts = [
        (".cvsignore", "one two\n- three"),
        ("a/.cvsignore", "x ! y"),
    ];
    for (name, included) in [
        ("one", false),
        ("two", false),
        ("-", false),
        ("three", false),
        ("a/one", true),
        ("a/x", true),
        ("a/y", false),
        ("b/c.o", false),
        ("keep.o", true),
        (".git/", false),
        (".git", true),
        (".cvsignore", true),
    ] {
        assert_eq!(sent(&filter, &texts, name), included, "{name}");
    }
    assert!(kept(&filter, "a/b.o"));
    let mut root = |_: &WirePath| Scope::default();
    assert!(!filter.protects(
        &path("a/b.o"),
        false,
        Some(&path("a")),
        &mut root,
        &mut |_| false
    ));
}

#[test]
fn a_directory_whose_rules_cannot_be_used_is_left_alone() {
    let filter = filter(&[": .rules"]);
    for text in [
        "nonsense",
        "unreadable",
        ": ..",
        ". other",
        ". /etc/passwd",
        ". .rules",
    ] {
        let texts = [("a/.rules", text)];
        assert!(!sent(&filter, &texts, "a/x"), "{text}");
        assert!(!sent(&filter, &texts, "a/b/x"), "{text}");
        assert!(sent(&filter, &texts, "a/"), "{text}");
        assert!(sent(&filter, &texts, "b/x"), "{text}");
        let mut scope_of = scopes(&filter, &texts);
        assert!(filter.protects(
            &path("a/x"),
            false,
            Some(&path("a")),
            &mut scope_of,
            &mut |_| false
        ));
        let scope = scope_of(&path("a"));
        let error = scope.broken().unwrap();
        assert!(error.to_string().starts_with("a/.rules"), "{error}");
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    for (rules, part) in [
        (&["merge nowhere"][..], "cannot read nowhere"),
        (&["merge loop"], "deep"),
        (&["merge bad"], "bad line 2: rule \"oops\""),
        (&[": /etc/"], "not a name"),
        (&[": .."], "not a name"),
    ] {
        let files = [("loop", ". loop"), ("bad", "- a\noops\n")];
        let error = try_filter(rules, &files).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.hint.is_empty());
    }
    let many = vec!["- a"; RULES_MAX + 1];
    let error = try_filter(&many, &[]).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn patterns_come_from_files_and_presets() {
    let mut rules = Rules::default();
    let origin = || Origin::option("x");
    rules.push(Statement::Include(b"keep~".to_vec()), origin());
    rules.push(Statement::ExcludeFrom("list".into()), origin());
    rules.push(Statement::Preset(Preset::EditorTemp), origin());
    rules.push(Statement::Exclude(Vec::new()), origin());
    let text = b"*.o\n+ a.log\n*.log\n";
    let filter = Filter::compile(&rules, &mut |_| Ok(text.to_vec())).unwrap();
    for (name, included) in [
        ("a.o", false),
        ("a.log", true),
        ("b.log", false),
        ("keep~", true),
        ("a~", false),
        (".a.swp", false),
        (".a.swx", false),
        (".a.txt", true),
        ("4913", false),
        (".#a", false),
        ("#a#", false),
        ("a.tmp", true),
        ("a.swp", true),
    ] {
        assert_eq!(sent(&filter, &[], name), included, "{name}");
    }
}

proptest! {
    #[test]
    fn any_text_is_decided_or_refused(rules: Vec<Vec<u8>>, name in "[a-z/.]{1,20}", dir: bool) {
        let mut list = Rules::default();
        for rule in rules {
            list.push(Statement::Filter(rule.clone()), Origin::option("x"));
            list.push(Statement::Exclude(rule), Origin::option("x"));
        }
        let compiled = Filter::compile(&list, &mut |_| Err(String::new()));
        if let (Ok(filter), Some(path)) = (compiled, WirePath::from_relative(name.as_ref())) {
            let _ = filter.verdict(&path, dir, &mut |_| Scope::default());
        }
    }

    #[test]
    fn what_is_in_an_excluded_directory_is_excluded(
        rules in prop::collection::vec("[-+] /?[ab*]{1,2}(/[ab*]{1,2}){0,2}/?", 0..4),
        names in prop::collection::vec("[ab]{1,2}", 2..5),
    ) {
        let rules: Vec<_> = rules.iter().map(String::as_str).collect();
        let filter = filter(&rules);
        let mut above = true;
        for depth in 1..=names.len() {
            let included = sent(&filter, &[], &format!("{}/", names[..depth].join("/")));
            prop_assert!(above || !included);
            above = included;
        }
    }
}
