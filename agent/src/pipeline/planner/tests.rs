//! When the content of a small file stays here, what waits for a name at which nothing is found, and what is looked for
//! where directories went.

use std::fs;
use std::path::Path;

use syncd_proto::digest::Digest;
use syncd_proto::message::{FEATURE_SAME, Reject, Rejected};
use syncd_proto::meta::Mtime;
use syncd_proto::path::Name;
use syncd_proto::reject::RejectCode;

use super::same::place;
use super::*;
use crate::logic::coalesce::Remote;
use crate::logic::links::Inode;
use crate::logic::outbox::{Note, Sent};
use crate::logic::plan::Cause;
use crate::pipeline::reconcile::tests::{link_with, target};

/// What was found at a name, and is to be sent.
fn small(target: &Target, path: &WirePath, bytes: &[u8]) -> Found {
    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime::new(0, 0).unwrap(),
        xattrs: None,
    };
    let home = target.root.home(path);
    Found::Small {
        meta,
        bytes: bytes.to_vec(),
        digest: Digest::of(bytes),
        linked: None,
        place: home.map(|home| place(target, home)),
    }
}

#[test]
fn content_stays_where_the_target_is_believed_to_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let path = WirePath::from_relative("f".as_ref()).unwrap();
    let taken = |look, remote| {
        let mut state = target.lock();
        state.dirty.found(path.clone(), look, remote, 0);
        state.dirty.take(0, 1).remove(0)
    };
    let (link, older) = (link_with(FEATURE_SAME), link_with(0));
    let stays = |link: &Arc<Link>, taken: &Taken, bytes: &[u8]| {
        let found = or_same(&target, link, taken, small(&target, &path, bytes));
        let len = bytes.len() as u32;
        match found {
            Found::Same {
                len: told, digest, ..
            } => {
                assert_eq!((told, digest), (len, Digest::of(bytes)));
                true
            }
            Found::Small { .. } => false,
            other => panic!("{other:?}"),
        }
    };
    let changed = taken(Look::Content, Remote::Unknown);
    assert!(!stays(&link, &changed, b"one"), "nothing is known");
    assert!(stays(&link, &changed, b"one"));
    assert!(!stays(&link, &changed, b"two"), "it has another one");
    assert!(stays(&link, &changed, b"two"));
    assert!(!stays(&older, &changed, b"two"), "it cannot be asked");
    let absent = taken(Look::Content, Remote::Absent);
    assert!(!stays(&link, &absent, b"two"), "it has nothing");
    let mut refused = changed.clone();
    refused.mark.attempts = 1;
    assert!(!stays(&link, &refused, b"two"), "it said no");
    target.held().clear();
    let doubtful = taken(Look::Doubt, Remote::Present);
    assert!(stays(&link, &doubtful, b"two"), "that is likely");
    assert!(!stays(&link, &doubtful, b"three"), "it has another one");
}

/// What a comparison has seen of a file is its length.
#[test]
fn content_that_is_as_long_as_what_was_compared_is_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let link = link_with(FEATURE_SAME);
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    for name in ["same", "longer", "larger", "known"] {
        fs::write(dir.path().join(name), "one").unwrap();
    }
    let entries: Vec<_> = ["same", "longer", "larger", "known"]
        .iter()
        .map(|name| {
            let entry = target.root.stat(&path(name)).unwrap().unwrap();
            (Name::new(name.as_bytes()).unwrap(), entry)
        })
        .collect();
    let home = target.root.home(&path("same")).unwrap().0;
    same::seen(&target, home, &entries);
    let stays = |name: &str, bytes: &[u8]| {
        let taken = {
            let mut state = target.lock();
            state
                .dirty
                .found(path(name), Look::Content, Remote::Unknown, 0);
            state.dirty.take(0, 1).remove(0)
        };
        let found = or_same(&target, &link, &taken, small(&target, &path(name), bytes));
        matches!(found, Found::Same { .. })
    };
    assert!(stays("same", b"one"));
    assert!(!stays("same", b"two"), "it was asked about");
    assert!(!stays("longer", b"three"));
    same::differs(&target, &path("larger"));
    assert!(!stays("larger", b"one"), "a comparison found a difference");
    assert!(stays("known", b"two"), "it may be");
    same::seen(&target, home, &entries);
    assert!(!stays("known", b"one"), "what was sent is known");
    target.held().clear();
    same::seen(&target, home, &entries);
    target.update(|state, _| state.comparing = true);
    assert!(!stays("same", b"one"), "it may be missing there");
    target.update(|state, _| (state.comparing, state.checking) = (false, true));
    assert!(!stays("longer", b"one"), "the same");
    target.update(|state, _| state.checking = false);
    assert!(stays("larger", b"one"));
}

/// Two names of a file at the source, which the target has as one, and a mark on each.
fn linked_names(target: &Target, source: &Path) -> (Inode, [Taken; 2]) {
    fs::write(source.join("a"), "one").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    let linked = target.root.stat_links(&path("a")).unwrap().unwrap().1;
    let inode = linked.unwrap().inode();
    let mut state = target.lock();
    state.dirty.closed(path("a"), 0);
    state.dirty.modified(path("a"), 0);
    state.dirty.closed(path("b"), 0);
    state.dirty.modified(path("b"), 0);
    let mut taken = state.dirty.take(u64::MAX, 9);
    let second = taken.remove(1);
    (inode, [taken.remove(0), second])
}

/// A file that is found under one of its names, and what is known of it afterwards: its content was sent and its other
/// name linked to it, or the target was asked about both.
fn go(target: &Target, link: &Link, taken: &Taken, inode: Inode, bytes: &[u8]) -> Found {
    let mut found = small(target, &taken.path, bytes);
    if let Found::Small { linked, .. } = &mut found {
        *linked = Some(inode);
    }
    let found = or_same(target, link, taken, found);
    let mut state = target.lock();
    for name in links::note(&mut state.links, taken, &found) {
        state.links.linked(&name, &taken.path);
    }
    found
}

/// The first commit is for this path.
fn sent(target: &Target, taken: &Taken) {
    let note = Note {
        verb: "",
        bytes: 0,
        staged: false,
        but_attributes: None,
    };
    target.lock().outbox.push(Sent {
        seq: 1,
        bytes: 1,
        at: 0,
        causes: vec![Some(Cause::Path(taken.clone()))],
        notes: vec![note],
    });
}

fn refuse(target: &Target, code: RejectCode) {
    target.rejected(&Reject {
        what: Rejected::Op { seq: 1, index: 0 },
        code,
        text: String::new(),
    });
}

/// No name is linked to what was refused, whatever it is called by then.
#[test]
fn a_file_that_was_refused_is_not_known_by_the_name_that_it_got_meanwhile() {
    let source = tempfile::tempdir().unwrap();
    let target = target(source.path());
    let (inode, [a, _]) = linked_names(&target, source.path());
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    {
        let mut state = target.lock();
        let there = target.root.stat(&a.path).unwrap().unwrap();
        let version = links::Version::of_entry(&there);
        state.links.put(&a.path, inode, version, true);
        state.links.linked(&Arc::new(path("b")), &a.path);
    }
    sent(&target, &a);
    {
        let mut state = target.lock();
        state.dirty.renamed(path("a"), path("c"), false, 1);
        state.links.renamed(&a.path, &path("c"));
        assert!(state.links.has(inode));
    }
    refuse(&target, RejectCode::NoSpace);
    let state = target.lock();
    assert!(!state.links.has(inode), "nothing is linked to it");
    for name in ["b", "c"] {
        assert!(state.dirty.is_pending(&path(name)), "{name}");
    }
}

#[test]
fn content_of_a_file_with_several_names_stays_where_all_are_known_and_right() {
    let source = tempfile::tempdir().unwrap();
    let target = target(source.path());
    let (inode, [a, b]) = linked_names(&target, source.path());
    let link = link_with(FEATURE_SAME);
    let stays = |taken: &Taken, bytes: &[u8]| match go(&target, &link, taken, inode, bytes) {
        Found::Same { names, linked, .. } => {
            let other = if taken.path == a.path { &b } else { &a };
            assert_eq!(names, [WirePath::clone(&other.path)]);
            assert_eq!(linked, Some(inode));
            true
        }
        Found::Small { .. } => false,
        other => panic!("{other:?}"),
    };
    assert!(!stays(&a, b"one"), "nothing is known");
    assert!(!stays(&b, b"one"), "it is not known that b is there");
    assert!(stays(&a, b"one") && stays(&b, b"one"), "by both names");
    assert!(!stays(&a, b"two") && stays(&b, b"two"), "another one");
    let mut refused = a.clone();
    refused.mark.attempts = 1;
    assert!(!stays(&refused, b"two"), "it said no");
    // A name that is not known, one that is another file, one that went.
    fs::hard_link(source.path().join("a"), source.path().join("c")).unwrap();
    assert!(!stays(&a, b"two"), "there is one more");
    fs::remove_file(source.path().join("c")).unwrap();
    assert!(stays(&a, b"two"));
    fs::remove_file(source.path().join("b")).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("c")).unwrap();
    assert!(!stays(&a, b"two"), "b is not there");
    fs::write(source.path().join("b"), "two").unwrap();
    assert!(!stays(&a, b"two"), "b is another file");
}

#[test]
fn names_of_a_file_that_the_target_says_no_to_are_looked_at_where_they_are() {
    let source = tempfile::tempdir().unwrap();
    let target = target(source.path());
    let (inode, [a, b]) = linked_names(&target, source.path());
    let link = link_with(FEATURE_SAME);
    for taken in [&a, &b] {
        go(&target, &link, taken, inode, b"one");
    }
    let found = go(&target, &link, &a, inode, b"one");
    assert!(matches!(found, Found::Same { .. }), "{found:?}");
    sent(&target, &a);
    // Meanwhile both went, one elsewhere.
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    {
        let mut state = target.lock();
        state.dirty.renamed(path("b"), path("c"), false, 1);
        state.links.renamed(&b.path, &path("c"));
        state.links.forget(&a.path);
    }
    refuse(&target, RejectCode::Mismatch);
    let state = target.lock();
    for name in ["a", "b", "c"] {
        assert!(state.dirty.is_pending(&path(name)), "{name}");
    }
}

#[test]
fn a_name_in_a_new_directory_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let path = |text: &str| WirePath::from_relative(text.as_ref()).unwrap();
    let place_of = |text: &str| place(&target, target.root.home(&path(text)).unwrap());
    fs::create_dir(dir.path().join("d")).unwrap();
    let first = place_of("d/f");
    assert_eq!(place_of("d/f"), first);
    let mut near = Nearby::new(&target.root);
    let (there, top) = (path("d/f"), path("d"));
    assert_eq!(
        near.home(&there).map(|home| place(&target, home)),
        Some(first)
    );
    assert_eq!(
        near.home(&top).map(|home| place(&target, home)),
        Some(place_of("d"))
    );
    fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
    assert_eq!(place_of("e/f"), first, "it moved");
    fs::create_dir(dir.path().join("d")).unwrap();
    assert_ne!(place_of("d/f"), first);
    near.forget();
    assert_eq!(
        near.home(&there).map(|home| place(&target, home)),
        Some(place_of("d/f"))
    );
    assert!(target.root.home(&path("none/f")).is_none());
}

/// Two names that were closed one after the other and are looked at; the first has been put off once, so that the second
/// waits for it.
fn one_behind_the_other(target: &Target) -> (Taken, Taken) {
    let path = |text: &str| WirePath::from_relative(text.as_ref()).unwrap();
    let dirty = &mut target.lock().dirty;
    for (name, now) in [("f.tmp", 0), ("page", 1)] {
        dirty.created(path(name), now);
        dirty.closed(path(name), now);
    }
    let mut taken = dirty.take(1, 9);
    assert_eq!(taken.len(), 2);
    taken.iter().for_each(|taken| dirty.begun(taken));
    dirty.holds_up(&taken[0], 1);
    assert!(dirty.behind_until(&taken[1], 1).is_some());
    let page = taken.remove(1);
    (taken.remove(0), page)
}

/// Nothing was found at a name.
fn add_absent(target: &Arc<Target>, taken: Taken) {
    let mut looks = Looks::default();
    looks.push(taken, Outcome::Found(Found::Absent));
    let mut batch = Planner::new();
    add_looks(target, &link_with(0), &mut batch, &mut looks, u64::MAX);
    assert!(batch.is_empty(), "nothing is removed at the first look");
}

#[test]
fn an_absent_name_holds_nothing_up_while_it_is_looked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (first, page) = one_behind_the_other(&target);
    add_absent(&target, first.clone());
    let dirty = &mut target.lock().dirty;
    assert_eq!(dirty.behind_until(&page, 1), None);
    let again = dirty.take(u64::MAX, 9);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].path, first.path);
    assert!(again[0].mark.gone && again[0].mark.went);
}

#[test]
fn a_name_that_was_left_unsent_holds_nothing_up_and_is_not_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (first, page) = one_behind_the_other(&target);
    let new = WirePath::from_relative("f".as_ref()).unwrap();
    let from = WirePath::clone(&first.path);
    target.lock().dirty.renamed(from, new.clone(), false, 2);
    add_absent(&target, first);
    let dirty = &mut target.lock().dirty;
    assert_eq!(dirty.behind_until(&page, 1), None);
    let left = dirty.take(u64::MAX, 9);
    assert_eq!(left.len(), 1);
    assert_eq!(*left[0].path, new);
}

#[test]
fn of_directories_that_are_gone_the_highest_stands_for_all() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir_all(source.path().join("a/b")).unwrap();
    fs::write(source.path().join("a/file"), "").unwrap();
    let target = target(source.path());
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    let highest = |dir: &str, lost: &[&str]| {
        let lost = lost.iter().map(|name| path(name)).collect();
        highest_lost(&target, &path(dir), &lost).to_string()
    };
    assert_eq!(highest("a/x/y/z", &[]), "a/x");
    assert_eq!(highest("x/y", &[]), "x");
    assert_eq!(highest("a/b/x", &[]), "a/b/x");
    assert_eq!(highest("a/file/x/y", &[]), "a/file");
    assert_eq!(highest("a/x/y/z", &["a/x/y", "b"]), "a/x/y");
}

#[test]
fn a_name_that_a_file_got_since_it_was_read_is_seen() {
    let source = tempfile::tempdir().unwrap();
    for name in ["alone", "a"] {
        fs::write(source.path().join(name), name).unwrap();
    }
    fs::hard_link(source.path().join("a"), source.path().join("b")).unwrap();
    let target = target(source.path());
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    let linked = target.root.stat_links(&path("b")).unwrap().unwrap().1;
    let file = linked.unwrap().inode();
    let seen = |name: &str, file| {
        let taken = {
            let mut state = target.lock();
            state.dirty.written(path(name), 0);
            state.dirty.take(0, 1).remove(0)
        };
        let Found::Small { meta, digest, .. } = small(&target, &taken.path, b"a") else {
            unreachable!()
        };
        let mut found = Found::Staged {
            meta,
            transfer: 1,
            len: 1,
            digest,
            file,
            linked: None,
        };
        see_names(&target, &taken, &mut found);
        found.linked()
    };
    assert_eq!(seen("a", file), Some(file));
    assert_eq!(seen("a", (file.0, file.1 + 1)), None, "another file by now");
    assert_eq!(seen("alone", file), None);
}

#[test]
fn what_a_comparison_found_and_is_staged_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let path = |text: &str| WirePath::from_relative(text.as_ref()).unwrap();
    let stage = |state: &mut State, name: &str| {
        let taken = state.dirty.take(99, 9).remove(0);
        assert_eq!(*taken.path, path(name));
        state.ready.push((taken, Found::Absent));
    };
    let mut state = target.lock();
    state
        .dirty
        .found(path("old"), Look::Content, Remote::Absent, 0);
    stage(&mut state, "old");
    assert!(!state.has_news(99));
    state.dirty.modified(path("new"), 0);
    state.dirty.closed(path("new"), 0);
    stage(&mut state, "new");
    assert!(state.has_news(99));
}

#[test]
fn only_what_was_seen_as_a_file_and_still_is_one_is_opened_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    fs::write(dir.path().join("file"), "12345").unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
    let mut near = Nearby::new(&target.root);
    let mut opened = |name: &str, file: bool| {
        let path = WirePath::from_relative(name.as_ref()).unwrap();
        let dirty = &mut target.lock().dirty;
        dirty.found_as(path.clone(), file, Look::Content, Remote::Absent, 0);
        let by_name = near.stat_links(&path).unwrap();
        let opened = open_seen(&mut near, &dirty.take(0, 1)[0])?;
        assert_eq!(Some(opened.stat_links()), by_name, "{name}");
        Some(opened)
    };
    assert!(opened("file", true).is_some());
    assert!(opened("file", false).is_none());
    for other in ["dir", "link", "gone"] {
        assert!(opened(other, true).is_none(), "{other}");
    }
    let opened = opened("file", true).unwrap();
    fs::remove_file(dir.path().join("file")).unwrap();
    assert!(opened.has_name(), "as it was when it was opened");
    let unlinked = fs::File::create(dir.path().join("unlinked")).unwrap();
    fs::remove_file(dir.path().join("unlinked")).unwrap();
    assert!(!Opened::of(unlinked.into()).unwrap().has_name());
}
