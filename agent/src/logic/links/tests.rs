//! What is known of names as files are sent, linked, renamed, refused and looked for.

use super::*;

const I: Inode = (1, 7);

fn path(text: &str) -> Arc<WirePath> {
    Arc::new(WirePath::from_relative(text.as_ref()).unwrap())
}

fn entry(size: u64) -> EntryMeta {
    EntryMeta {
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
        size,
        rdev: (0, 0),
        content: None,
        xattrs: None,
    }
}

fn version(size: u64) -> Version {
    Version::of_entry(&entry(size))
}

fn compared(map: &mut LinkMap, names: &[&str], differing: &[&str]) -> Vec<Arc<WirePath>> {
    let group = LinkGroup {
        entry: entry(1),
        paths: names
            .iter()
            .map(|name| WirePath::clone(&path(name)))
            .collect(),
    };
    let differing = differing.iter().map(|name| WirePath::clone(&path(name)));
    map.compared(I, &group, &differing.collect())
}

#[test]
fn names_beside_those_at_and_below_a_path() {
    let mut map = LinkMap::default();
    compared(&mut map, &["a", "dir/b", "dir/c"], &[]);
    assert_eq!(map.beside(&path("dir"), None), [path("a")]);
    assert_eq!(map.beside(&path("a"), None), [path("dir/b"), path("dir/c")]);
    assert!(map.beside(&path("a"), Some(I)).is_empty(), "the same file");
    assert!(map.beside(&WirePath::root(), None).is_empty());
}

#[test]
fn another_name_is_linked_to_the_one_that_was_put() {
    let mut map = LinkMap::default();
    assert_eq!(
        map.known(I, &path("b"), version(1), |_| true),
        Known::Nothing
    );
    assert!(map.put(&path("a"), I, version(1), true).is_empty());
    assert_eq!(
        map.known(I, &path("a"), version(1), |_| true),
        Known::Nothing,
        "itself"
    );
    let names = Known::Names(vec![path("a")]);
    assert_eq!(map.known(I, &path("b"), version(1), |_| true), names);
    let older = Known::Older(vec![path("a")]);
    assert_eq!(map.known(I, &path("b"), version(2), |_| true), older);
}

#[test]
fn a_transfer_under_another_name_is_waited_for_while_it_lasts() {
    let mut map = LinkMap::default();
    map.busy(&path("a"), I, version(1));
    assert_eq!(map.known(I, &path("b"), version(1), |_| true), Known::Busy);
    assert_eq!(
        map.known(I, &path("a"), version(1), |_| true),
        Known::Nothing
    );
    assert_eq!(
        map.known(I, &path("b"), version(1), |_| false),
        Known::Nothing
    );
    map.put(&path("a"), I, version(1), true);
    let names = Known::Names(vec![path("a")]);
    assert_eq!(map.known(I, &path("b"), version(1), |_| true), names);
}

#[test]
fn a_write_to_one_name_asks_for_all_the_others() {
    let mut map = LinkMap::default();
    assert!(compared(&mut map, &["a", "b", "c"], &[]).is_empty());
    assert_eq!(
        map.put(&path("b"), I, version(2), true),
        [path("a"), path("c")]
    );
    map.linked(&path("a"), &path("b"));
    map.linked(&path("c"), &path("b"));
    assert_eq!(map.put(&path("c"), I, version(3), true).len(), 2);
}

#[test]
fn names_found_equal_after_one_was_put_are_linked_to_it() {
    let mut map = LinkMap::default();
    map.put(&path("b"), I, version(1), false);
    assert_eq!(
        compared(&mut map, &["a", "b", "c"], &["b", "c"]),
        [path("a")]
    );
}

#[test]
fn names_move_with_their_directory_and_go_with_it() {
    let mut map = LinkMap::default();
    compared(&mut map, &["d/a", "d/e/b", "x"], &[]);
    map.renamed(&path("d"), &path("n"));
    let known = map.known(I, &path("x"), version(1), |_| true);
    assert_eq!(known, Known::Names(vec![path("n/a"), path("n/e/b")]));
    map.exchanged(&path("n"), &path("m"));
    map.forget_below(&path("m/e"));
    let known = map.known(I, &path("x"), version(1), |_| true);
    assert_eq!(known, Known::Names(vec![path("m/a")]));
    map.forget_below(&path("m"));
    map.forget(&path("x"));
    assert!(map.groups.is_empty() && map.by_path.is_empty());
}

#[test]
fn all_other_names_are_told_of_a_file_that_the_target_has_as_one() {
    let mut map = LinkMap::default();
    compared(&mut map, &["a", "b", "c"], &["c"]);
    assert_eq!(map.others(I, &path("b"), 2), Some(vec![path("a")]));
    assert_eq!(map.others(I, &path("b"), 3), None, "c is not there");
    assert_eq!(map.others(I, &path("c"), 2), None, "it is not there");
    assert_eq!(map.others((1, 8), &path("a"), 2), None);
    map.linked(&path("c"), &path("a"));
    let told = Some(vec![path("a"), path("b")]);
    assert_eq!(map.others(I, &path("c"), 3), told);
    map.busy(&path("a"), I, version(1));
    assert_eq!(map.others(I, &path("c"), 3), None, "it is transferred");
    map.put(&path("a"), I, version(2), true);
    assert_eq!(
        map.others(I, &path("a"), 3),
        None,
        "they are not linked yet"
    );
    map.linked(&path("b"), &path("a"));
    assert_eq!(map.others(I, &path("a"), 2), Some(vec![path("b")]));
    map.link_refused(&path("b"), false);
    map.put(&path("b"), I, version(2), false);
    assert_eq!(map.others(I, &path("a"), 2), None, "each is a file");
    let many: Vec<_> = (0..=SAME_NAMES_MAX).map(|at| format!("n{at}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let mut map = LinkMap::default();
    compared(&mut map, &many, &[]);
    let count = many.len() as u32;
    let told = map.others(I, &path("n0"), count);
    assert_eq!(told.map(|told| told.len()), Some(SAME_NAMES_MAX));
    map.linked(&path("m"), &path("n0"));
    assert_eq!(map.others(I, &path("n0"), count + 1), None, "too many");
}

/// Until the target has said yes it may have what it had.
#[test]
fn a_file_has_the_version_it_was_asked_about_once_the_target_agreed() {
    let older = |names: &[&str]| Known::Older(names.iter().map(|name| path(name)).collect());
    let names = |names: &[&str]| Known::Names(names.iter().map(|name| path(name)).collect());
    let known = |map: &LinkMap, version| map.known(I, &path("n"), version, |_| true);
    let mut map = LinkMap::default();
    compared(&mut map, &["a", "b"], &[]);
    map.ask(&path("a"), I, version(2), 7);
    assert_eq!(known(&map, version(1)), older(&["a", "b"]));
    assert_eq!(known(&map, version(2)), older(&["a", "b"]));
    map.ask(&path("b"), I, version(3), 8);
    map.agreed(&path("a"), 7);
    assert_eq!(known(&map, version(3)), older(&["a", "b"]), "not to all");
    map.agreed(&path("b"), 8);
    assert_eq!(known(&map, version(3)), names(&["a", "b"]));
    assert!(map.told.is_empty());
    // Its names move while it is on its way.
    map.ask(&path("a"), I, version(4), 9);
    map.renamed(&path("a"), &path("c"));
    map.renamed(&path("b"), &path("d"));
    assert_eq!(known(&map, version(4)), older(&["c", "d"]));
    assert_eq!(map.disagreed(9), Some(vec![path("b")]), "as it was told");
    assert_eq!(map.disagreed(9), None);
    map.agreed(&path("c"), 9);
    map.set_meta(&path("c"), version(5));
    assert_eq!(known(&map, version(5)), older(&["c", "d"]));
    map.put(&path("c"), I, version(5), true);
    assert_eq!(known(&map, version(5)), names(&["c"]));
    map.ask(&path("none"), I, version(6), 10);
    assert_eq!(known(&map, version(5)), names(&["c"]));
}

#[test]
fn where_links_are_refused_every_name_gets_the_content_once() {
    let mut map = LinkMap::default();
    map.put(&path("a"), I, version(1), true);
    map.linked(&path("b"), &path("a"));
    assert!(map.link_refused(&path("b"), false).is_empty());
    assert_eq!(
        map.known(I, &path("b"), version(1), |_| true),
        Known::Nothing
    );
    assert!(map.put(&path("b"), I, version(1), false).is_empty());
    assert_eq!(
        map.put(&path("a"), I, version(2), true),
        [path("a"), path("b")][1..]
    );
    assert!(map.put(&path("b"), I, version(2), false).is_empty());
}

#[test]
fn what_was_to_be_linked_to_a_refused_file_is_looked_at_again() {
    let mut map = LinkMap::default();
    map.put(&path("a"), I, version(1), true);
    map.linked(&path("b"), &path("a"));
    assert_eq!(map.put_refused(&path("a")), [path("b")]);
    assert_eq!(
        map.known(I, &path("b"), version(1), |_| true),
        Known::Nothing
    );
}

#[test]
fn unknown_names_are_looked_for_once_for_each_number_of_them() {
    let mut map = LinkMap::default();
    assert!(!map.seek(I, &path("b"), 2, 1), "the comparison will tell");
    map.ready();
    assert!(map.seek(I, &path("b"), 2, 1) && map.is_seeking());
    let sought = map.take_sought();
    assert!(!map.is_seeking());
    compared(&mut map, &["a", "b"], &["b"]);
    map.sought(sought, |_| true);
    assert!(!map.seek(I, &path("b"), 2, 1), "a and b");
    assert!(!map.seek(I, &path("a"), 2, 1), "was looked for");
    assert!(map.seek(I, &path("b"), 3, 1), "one more");
}

#[test]
fn names_of_a_file_that_got_the_number_of_another_are_looked_for() {
    let mut map = LinkMap::default();
    map.ready();
    assert!(map.seek(I, &path("b"), 2, 1));
    let sought = map.take_sought();
    compared(&mut map, &["a", "b"], &[]);
    map.sought(sought, |_| true);
    map.forget(&path("a"));
    map.forget(&path("b"));
    assert!(map.seek(I, &path("d"), 2, 1));
    let sought = map.take_sought();
    map.sought(sought, |_| true);
    assert!(!map.seek(I, &path("d"), 2, 1), "was looked for");
    assert!(map.seek(I, &path("d"), 2, 2), "it may have come again");
}

#[test]
fn nothing_is_remembered_of_names_that_went_before_they_were_sent() {
    let mut map = LinkMap::default();
    map.ready();
    for number in 0..9 {
        assert!(map.seek((1, number), &path(&format!("n{number}")), 2, number));
        let sought = map.take_sought();
        map.sought(sought, |path| path.to_string() == "n8");
    }
    assert_eq!((map.asked.len(), map.searched.len()), (1, 1));
    assert!(!map.seek((1, 8), &path("n8"), 2, 8), "was looked for");
}

#[test]
fn a_name_that_is_one_of_another_file_by_now_is_no_answer_for_that() {
    let mut map = LinkMap::default();
    let other: Inode = (1, 8);
    map.ready();
    for inode in [I, other] {
        assert!(map.seek(inode, &path("b"), 2, 1));
        let sought = map.take_sought();
        map.sought(sought, |_| true);
        assert!(!map.seek(inode, &path("b"), 2, 1));
    }
    assert!(
        map.seek(I, &path("b"), 2, 1),
        "it was asked for the other one"
    );
}

#[test]
fn names_of_what_was_sent_before_the_first_comparison_ended_are_looked_for_then() {
    let mut map = LinkMap::default();
    let other: Inode = (1, 8);
    assert!(!map.seek(I, &path("b"), 2, 1) && !map.seek(other, &path("c"), 2, 1));
    compared(&mut map, &["a", "b"], &[]);
    assert!(!map.is_seeking());
    map.ready();
    let sought = map.take_sought();
    assert_eq!(sought.keys().collect::<Vec<_>>(), [&other]);
}

#[test]
fn names_that_prove_wrong_are_looked_for_again() {
    let mut map = LinkMap::default();
    map.ready();
    assert!(map.seek(I, &path("b"), 2, 1));
    let sought = map.take_sought();
    compared(&mut map, &["a", "b"], &["b"]);
    map.sought(sought, |_| true);
    let Known::Names(names) = map.known(I, &path("b"), version(1), |_| true) else {
        panic!("a is known");
    };
    map.mistaken(&path("b"), &names);
    assert_eq!(
        map.known(I, &path("b"), version(1), |_| true),
        Known::Nothing
    );
    assert!(map.seek(I, &path("b"), 2, 1));
}

#[test]
fn only_one_lone_copy_is_taken_for_the_file() {
    let mut map = LinkMap::default();
    assert!(map.adopt(&path("a"), I, &entry(1)));
    assert!(!map.adopt(&path("b"), I, &entry(1)));
    assert_eq!(
        map.known(I, &path("b"), version(1), |_| true),
        Known::Names(vec![path("a")])
    );
}
