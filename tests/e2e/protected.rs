//! Renames and what they would take along or throw away at the target: names that the filter rules protect stay where
//! they are, versions go to the trash, and what goes counts for `max delete`.

use std::fs;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use syncd_tests::{Sandbox, wait_until};

use crate::common::{LONG, target_of};
use crate::filter::{Filtered, exists, write};

/// A mirror of these files that has others too which the rules protect.
#[track_caller]
fn mirror(here: &[&str], there: &[&str], rules: &[&str]) -> Filtered {
    let sandbox = Sandbox::new();
    for name in here {
        match name.strip_suffix('/') {
            Some(dir) => fs::create_dir_all(sandbox.src().join(dir)).expect("mkdir"),
            None => write(sandbox.src().join(name), name),
        }
    }
    for name in there {
        write(sandbox.dst().join(name), "there");
    }
    let mirror = Filtered::start(sandbox, rules);
    mirror.expect(there, &[]);
    mirror
}

impl Filtered {
    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.src(from), self.src(to)).expect("rename");
    }

    fn swap(&self, a: &str, b: &str) {
        let (a, b) = (self.src(a), self.src(b));
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("swap");
    }

    #[track_caller]
    fn has(&self, name: &str, text: &str) {
        let found = fs::read_to_string(self.dst(name));
        assert_eq!(found.ok().as_deref(), Some(text), "{name}");
    }
}

#[test]
fn a_directory_on_an_empty_one_leaves_what_is_protected_there() {
    let mirror = mirror(
        &["a/f", "a/sub/g", "b/", "c/h"],
        &["b/x.o", "b/deep/y.o", "a/z.o"],
        &["--exclude=*.o", "--exclude=deep/"],
    );
    mirror.rename("a", "b");
    mirror.settle();
    mirror.has("b/f", "a/f");
    mirror.has("b/sub/g", "a/sub/g");
    mirror.expect(&["b/x.o", "b/deep/y.o", "a/z.o", "c/h"], &["a/f", "a/sub"]);
    // Where nothing is in the way it is a rename, and no content.
    let before = target_of(&mirror.agent)["files"].clone();
    mirror.rename("c", "d");
    mirror.settle();
    mirror.expect(&["d/h"], &["c"]);
    assert_eq!(target_of(&mirror.agent)["files"], before);
}

#[test]
fn a_directory_in_the_place_of_a_removed_one_leaves_what_is_protected_there() {
    let mirror = mirror(
        &["new/f", "new/g", "current/f", "current/old"],
        &["current/x.o"],
        &["--exclude=*.o"],
    );
    for round in ["first", "second"] {
        write(mirror.src("next/f"), round);
        write(mirror.src("next/g"), round);
        mirror.settle();
        fs::remove_dir_all(mirror.src("current")).expect("remove");
        mirror.rename("next", "current");
        mirror.settle();
        mirror.has("current/f", round);
        mirror.has("current/g", round);
        mirror.expect(&["current/x.o"], &["current/old", "next"]);
    }
}

#[test]
fn a_file_does_not_take_the_place_of_a_directory_that_is_kept() {
    let mirror = mirror(
        &["one", "two", "gone/f", "other/f"],
        &["cache/theirs", "gone/x.o"],
        &["--exclude=*.o", "--exclude=cache/"],
    );
    fs::remove_dir_all(mirror.src("gone")).expect("remove");
    mirror.settle();
    mirror.expect(&["gone/x.o"], &["gone/f"]);
    mirror.rename("one", "cache");
    mirror.rename("two", "gone");
    wait_until(LONG, "both are said to have failed", || {
        target_of(&mirror.agent)["failed_total"] == 2
    });
    mirror.expect(&["cache/theirs", "gone/x.o"], &[]);
    // At once, while the removal is on its way.
    write(mirror.dst("other/x.o"), "there");
    write(mirror.src("three"), "three");
    mirror
        .agent
        .control()
        .wait(Some("three"), LONG)
        .expect("wait");
    fs::remove_dir_all(mirror.src("other")).expect("remove");
    mirror.rename("three", "other");
    wait_until(LONG, "all three are said to have failed", || {
        target_of(&mirror.agent)["failed_total"] == 3 && !exists(&mirror.dst("other/f"))
    });
    mirror.expect(&["other/x.o"], &[]);
}

#[test]
fn directories_that_are_swapped_leave_what_is_protected_where_it_is() {
    let mirror = mirror(
        &["a/f", "a/only", "b/f", "p/cache/in", "p/f", "q/f"],
        &["a/x.o", "b/y.o", "p/cache/there"],
        &["--exclude=*.o", "--exclude=/p/cache/"],
    );
    mirror.swap("a", "b");
    mirror.swap("p", "q");
    mirror.settle();
    mirror.has("a/f", "b/f");
    mirror.has("b/f", "a/f");
    mirror.has("p/f", "q/f");
    mirror.has("q/f", "p/f");
    mirror.has("q/cache/in", "p/cache/in");
    mirror.expect(
        &["a/x.o", "b/y.o", "b/only", "p/cache/there"],
        &["a/only", "a/y.o", "b/x.o", "q/cache/there", "p/cache/in"],
    );
}

#[test]
fn what_is_protected_only_under_its_old_path_is_not_moved_away() {
    let mirror = mirror(
        &["a/f", "a/cache/in", "c/cache/f", "e/f"],
        &["a/cache/there", "c/cache/there"],
        &["--exclude=/a/cache/", "--exclude=c/cache/there"],
    );
    mirror.expect(&["a/f"], &["a/cache/in"]);
    mirror.rename("a", "b");
    mirror.rename("c", "d");
    mirror.settle();
    mirror.has("b/f", "a/f");
    mirror.has("b/cache/in", "a/cache/in");
    mirror.expect(
        &["a/cache/there", "c/cache/there", "d/cache/f"],
        &["a/f", "c/cache/f"],
    );
    // The rules say nothing about what is in this one, under either name.
    let before = target_of(&mirror.agent)["files"].clone();
    mirror.rename("e", "g");
    mirror.settle();
    mirror.expect(&["g/f"], &["e"]);
    assert_eq!(target_of(&mirror.agent)["files"], before);
}

#[test]
fn a_file_does_not_take_the_place_of_a_directory_that_could_not_be_renamed() {
    let names = ["1", "2", "3", "4"];
    let all = |make: fn(&str) -> [String; 2]| names.map(make).concat();
    let (here, there) = (
        all(|it| [format!("a{it}/f"), format!("b{it}/")]),
        all(|it| [format!("a{it}/z.o"), format!("b{it}/x.o")]),
    );
    let [here, there] = [&here, &there].map(|it| it.iter().map(String::as_str).collect::<Vec<_>>());
    let mirror = mirror(&here, &there, &["--exclude=*.o"]);
    for it in names {
        mirror.rename(&format!("a{it}"), &format!("b{it}"));
        write(mirror.src(&format!("a{it}")), "a file now");
    }
    let moved = |it: &str| fs::read(mirror.dst(&format!("b{it}/f"))).ok();
    wait_until(LONG, "the files are said to have failed", || {
        let are_moved = names
            .iter()
            .all(|it| moved(it) == Some(format!("a{it}/f").into_bytes()));
        target_of(&mirror.agent)["failed_total"] == names.len() && are_moved
    });
    mirror.expect(&there, &[]);
}
