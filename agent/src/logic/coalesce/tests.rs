//! Sequences of events, and what is due after them.

use super::hear::BURST_QUIET_MS;
use super::*;

const SETTLE: Settle = Settle {
    settle_ms: 100,
    hold_max_ms: 1_000,
    marks_max: 1_000,
    delete: true,
};

fn path(text: &str) -> WirePath {
    WirePath::from_relative(text.as_ref()).unwrap()
}

fn taken(set: &mut DirtySet, now: Millis) -> Vec<String> {
    set.take(now, 100)
        .iter()
        .map(|taken| taken.path.to_string())
        .collect()
}

fn renames(set: &mut DirtySet) -> Vec<String> {
    set.take_renames(Millis::MAX, 100)
        .iter()
        .map(|rename| format!("{}->{}", rename.from, rename.to))
        .collect()
}

#[test]
fn a_file_is_sent_when_closed_not_when_created() {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("f"), 0);
    set.modified(path("f"), 1);
    assert!(taken(&mut set, 50).is_empty());
    set.written(path("f"), 60);
    assert_eq!(taken(&mut set, 60), ["f"]);
    assert_eq!(set.outstanding(), 1);
}

#[test]
fn what_is_on_its_way_is_not_looked_at_again_unless_it_is_marked_since() {
    let mut set = DirtySet::new(SETTLE);
    let name = path("f");
    set.written(name.clone(), 0);
    assert!(set.is_looked_at_again(&name));
    let taken = set.take(0, 1).remove(0);
    set.begun(&taken);
    assert!(!set.is_looked_at_again(&name), "worked on");
    set.logged(&taken.path);
    assert!(!set.is_looked_at_again(&name), "in the commit log");
    set.attrib(name.clone(), 1);
    assert!(!set.is_looked_at_again(&name), "only its metadata");
    set.relink(name.clone(), 1);
    assert!(set.is_looked_at_again(&name));
    set.arrived(&taken.path);
    assert!(set.is_looked_at_again(&name));
}

#[test]
fn a_file_that_is_never_closed_goes_when_quiet_and_at_the_latest_after_the_hold() {
    let mut set = DirtySet::new(SETTLE);
    set.modified(path("quiet"), 0);
    assert!(taken(&mut set, 99).is_empty());
    assert_eq!(taken(&mut set, 100), ["quiet"]);
    for now in (0..1_000).step_by(50) {
        set.modified(path("log"), now);
        assert!(taken(&mut set, now).is_empty());
    }
    assert_eq!(taken(&mut set, 1_000), ["log"]);
}

#[test]
fn an_empty_file_waits_for_the_close_of_who_made_it() {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("f"), 0);
    let mark = set.take(hear::BIRTH_MS, 1).remove(0).mark;
    assert_eq!(mark.waits_until(0, SETTLE), Some(1_000));
    assert_eq!(mark.waits_until(1, SETTLE), Some(100));
    set.created(path("g"), 0);
    set.closed(path("g"), 1);
    let mark = set.take(1, 1).remove(0).mark;
    assert_eq!(mark.waits_until(0, SETTLE), None);
}

#[test]
fn who_has_a_file_open_has_it_open_under_its_new_name() {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("tmp"), 0);
    set.modified(path("tmp"), 0);
    set.renamed(path("tmp"), path("f"), false, 1);
    assert!(taken(&mut set, 1).is_empty());
    set.closed(path("f"), 2);
    assert_eq!(taken(&mut set, 2), ["f"]);
}

#[test]
fn a_name_that_was_put_aside_and_made_anew_is_at_the_target() {
    let mut set = DirtySet::new(SETTLE);
    set.renamed(path("f"), path("f~"), false, 0);
    assert!(set.take_renames(9, 9).is_empty());
    set.created(path("f"), 9);
    let rename = set.take_renames(9, 9).remove(0);
    set.give_back_rename(&rename, 9);
    set.closed(path("f"), 9);
    set.renamed(path("f"), path("g"), false, 10);
    assert_eq!(taken(&mut set, 10), ["f~", "f", "g"]);
}

#[test]
fn a_thousand_writes_in_flight_make_one_more_send() {
    let mut set = DirtySet::new(SETTLE);
    set.written(path("f"), 0);
    let first = set.take(0, 1).remove(0);
    set.begun(&first);
    for now in 1..1_000 {
        set.written(path("f"), now);
        assert!(taken(&mut set, now).is_empty());
    }
    set.arrived(&first.path);
    assert_eq!(taken(&mut set, 1_000), ["f"]);
    assert!(set.is_empty());
}

#[test]
fn a_temporary_name_that_came_and_went_is_never_sent() {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("4913"), 0);
    set.written(path("4913"), 1);
    set.gone(path("4913"), 2);
    // The directory's times have changed all the same.
    assert_eq!(taken(&mut set, 2), ["."]);
    assert!(set.is_empty());
}

#[test]
fn what_a_listing_may_have_told_before_is_removed_there_as_well() {
    let mut set = DirtySet::new(SETTLE);
    set.listed(path("d/f"), false, 0);
    let listings = set.listings();
    assert_eq!(taken(&mut set, 0), ["d/f"]);
    // Sent and arrived; only now its event comes, and the next one.
    set.created(path("d/f"), 5_000);
    set.removed(path("d/f"), 5_000);
    assert_eq!(taken(&mut set, 5_000), ["d/f"]);
    set.heard(listings);
    assert!(!set.is_listed_ahead());
    set.created(path("d/g"), 5_001);
    set.removed(path("d/g"), 5_001);
    assert_eq!(taken(&mut set, 5_001), ["d"]);
}

#[test]
fn saving_by_a_temporary_file_is_one_change_of_the_target_name() {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("f.tmp"), 0);
    set.written(path("f.tmp"), 1);
    assert!(set.renamed(path("f.tmp"), path("f"), false, 2));
    assert!(renames(&mut set).is_empty());
    assert_eq!(taken(&mut set, 2), ["f"]);
    assert!(set.is_empty());
}

/// What is being looked at under its temporary name when the rename is told, after what else is heard of that name.
fn renamed_in_work(heard: impl FnOnce(&mut DirtySet)) -> (DirtySet, Taken) {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("f.tmp"), 0);
    set.closed(path("f.tmp"), 1);
    let taken = set.take(1, 9).remove(0);
    set.begun(&taken);
    assert!(!set.has_left(&taken.path));
    heard(&mut set);
    assert!(set.renamed(path("f.tmp"), path("f"), false, 3));
    (set, taken)
}

/// Nothing of it gets into the commit log.
fn given_up(set: &mut DirtySet, taken: &Taken) {
    set.logged(&taken.path);
    set.arrived(&taken.path);
    set.settle_seq(taken.mark.seq);
}

#[test]
fn nothing_is_left_of_a_temporary_name_that_was_looked_at_before_its_rename_was_told() {
    for heard in [
        |_: &mut DirtySet| (),
        |set: &mut DirtySet| {
            set.modified(path("f.tmp"), 2);
            set.closed(path("f.tmp"), 2);
            set.attrib(path("f.tmp"), 2);
        },
    ] {
        let (mut set, first) = renamed_in_work(heard);
        assert!(set.has_left(&first.path));
        given_up(&mut set, &first);
        assert_eq!(taken(&mut set, 3), ["f"]);
        assert!(set.is_empty());
        assert_eq!(set.outstanding(), 1, "the new name");
    }
}

#[test]
fn a_temporary_name_that_was_sent_is_looked_for_again() {
    let (mut set, first) = renamed_in_work(|_| ());
    set.logged(&first.path);
    assert!(!set.has_left(&first.path));
    set.arrived(&first.path);
    let again = set.take(3, 9);
    let again = again.iter().find(|again| again.path == first.path);
    assert!(again.is_some_and(|again| !again.mark.gone && again.mark.went));
}

#[test]
fn a_temporary_name_that_the_target_may_have_is_looked_for_again() {
    type Heard = fn(&mut DirtySet);
    let before: [(&str, Heard); 4] = [
        ("renamed to", |set| {
            set.renamed(path("other"), path("f.tmp"), false, 2);
        }),
        ("unclear", |set| set.unclear(path("f.tmp"), 2)),
        ("found", |set| {
            set.found(path("f.tmp"), Look::Meta, Remote::Present, 2);
        }),
        ("a directory went", |set| {
            set.gone(path("f.tmp"), 2);
            set.was_dir(&path("f.tmp"));
            set.created(path("f.tmp"), 2);
        }),
    ];
    for (what, heard) in before {
        let (mut set, first) = renamed_in_work(heard);
        assert!(!set.has_left(&first.path), "{what}");
    }
    let after: [(&str, Heard); 4] = [
        ("there again", |set| set.created(path("f.tmp"), 4)),
        ("listed", |set| set.listed(path("f.tmp"), true, 4)),
        ("only there", |set| set.only_there(path("f.tmp"), true, 4)),
        ("renamed to", |set| {
            set.renamed(path("other"), path("f.tmp"), false, 4);
        }),
    ];
    for (what, heard) in after {
        let (mut set, first) = renamed_in_work(|_| ());
        heard(&mut set);
        assert!(!set.has_left(&first.path), "{what}");
        given_up(&mut set, &first);
        let dirty = set.take(100, 9);
        let renames = set.take_renames(100, 9);
        let is_again = dirty.iter().any(|again| again.path == first.path);
        assert!(is_again || !renames.is_empty(), "{what}");
    }
}

#[test]
fn a_rename_carries_what_is_dirty_below_it() {
    let mut set = DirtySet::new(SETTLE);
    set.written(path("a/x"), 0);
    set.written(path("b/old"), 0);
    assert!(!set.renamed(path("a"), path("b"), true, 1));
    assert_eq!(renames(&mut set), ["a->b"]);
    assert_eq!(taken(&mut set, 1), ["b/x"]);
}

#[test]
fn a_file_renamed_while_it_is_transferred_is_looked_at_under_both_names() {
    let mut set = DirtySet::new(SETTLE);
    set.written(path("d/big"), 0);
    let big = set.take(0, 1).remove(0);
    set.begun(&big);
    set.renamed(path("d"), path("e"), true, 1);
    assert_eq!(renames(&mut set), ["d->e"]);
    assert_eq!(taken(&mut set, 1), ["e/big"]);
    set.logged(&big.path);
    set.arrived(&big.path);
    assert_eq!(taken(&mut set, 1), ["d/big"]);
}

#[test]
fn a_file_renamed_over_one_that_is_worked_on_is_looked_at_again() {
    let mut set = DirtySet::new(SETTLE);
    set.written(path("f"), 0);
    let old = set.take(0, 1).remove(0);
    set.begun(&old);
    set.renamed(path("g"), path("f"), false, 1);
    assert_eq!(renames(&mut set), ["g->f"]);
    set.logged(&old.path);
    set.arrived(&old.path);
    assert_eq!(taken(&mut set, 1), ["f"]);
}

#[test]
fn renames_keep_their_order() {
    let mut set = DirtySet::new(SETTLE);
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        set.renamed(path(from), path(to), false, 0);
    }
    assert_eq!(renames(&mut set), ["a->t", "b->a", "t->b"]);
}

#[test]
fn swapped_files_are_looked_at_and_swapped_directories_compared() {
    let mut set = DirtySet::new(SETTLE);
    set.renamed(path("a"), path("b"), false, 0);
    set.renamed(path("b"), path("a"), false, 0);
    assert!(renames(&mut set).is_empty());
    assert_eq!(taken(&mut set, 0), [".", "b", "a"]);

    set.renamed(path("here/c"), path("there/d"), true, 0);
    set.renamed(path("there/d"), path("here/c"), true, 0);
    let swap = set.take_renames(Millis::MAX, 9);
    assert!(swap.len() == 1 && swap[0].swap);
    assert!(set.take_comparison(0).is_some() && set.take_comparison(0).is_some());
    // It may have gone there and come back: the times of both have changed.
    assert_eq!(taken(&mut set, 0), ["there", "here"]);

    for dir_first in [true, false] {
        let mut set = DirtySet::new(SETTLE);
        set.renamed(path("a"), path("b"), dir_first, 0);
        set.renamed(path("b"), path("a"), !dir_first, 0);
        let swap = set.take_renames(Millis::MAX, 9);
        assert!(swap.len() == 1 && swap[0].swap && swap[0].dir);
        assert!(set.take_comparison(0).is_some() && set.take_comparison(0).is_some());
    }
}

#[test]
fn without_deletes_a_rename_is_a_copy() {
    let mut set = DirtySet::new(Settle {
        delete: false,
        ..SETTLE
    });
    assert!(set.renamed(path("a"), path("b"), true, 0));
    assert!(renames(&mut set).is_empty());
    assert_eq!(taken(&mut set, 0), ["a", "b"]);
}

#[test]
fn removing_a_directory_with_much_in_it_is_one_change() {
    let mut set = DirtySet::new(SETTLE);
    for index in 0..300 {
        set.removed(path(&format!("d/{index}")), index);
        if index > 20 {
            assert!(taken(&mut set, index).is_empty());
        }
    }
    set.removed(path("d"), 300);
    let gone = set.take(300, 9);
    assert_eq!(gone.len(), 1);
    assert!(gone[0].mark.weight > 200);
}

#[test]
fn a_directory_that_went_and_came_again_is_compared() {
    let mut set = DirtySet::new(SETTLE);
    set.removed(path("d/f"), 0);
    set.removed(path("d"), 0);
    set.created_dir(path("d"), 1);
    assert_eq!(taken(&mut set, 1), ["d"]);
    assert!(
        set.take_comparison(1)
            .is_some_and(|(dir, _)| *dir == path("d"))
    );
    set.created_dir(path("new"), 2);
    assert!(set.take_comparison(2).is_none());
}

#[test]
fn removals_that_are_not_followed_by_their_directory_go_when_they_end() {
    let mut set = DirtySet::new(SETTLE);
    (0..20).for_each(|index| set.removed(path(&format!("d/{index}")), 0));
    assert!(taken(&mut set, BURST_QUIET_MS - 1).is_empty());
    assert_eq!(taken(&mut set, BURST_QUIET_MS).len(), 20);
    set.removed(path("e/one"), 100);
    assert_eq!(taken(&mut set, 100), ["e/one"]);
}

#[test]
fn a_tree_that_is_removed_name_by_name_goes_in_few_operations() {
    let mut set = DirtySet::new(SETTLE);
    let (mut now, mut sent) = (0, 0);
    for dir in 0..100 {
        for file in 0..100 {
            set.removed(path(&format!("old/{dir}/{file}")), now);
            sent += taken(&mut set, now).len();
        }
        set.removed(path(&format!("old/{dir}")), now);
        sent += taken(&mut set, now).len();
        now += 4;
    }
    set.removed(path("old"), now);
    assert!(sent <= 4, "{sent} removals before the last");
    assert_eq!(taken(&mut set, now), ["old"]);
    assert_eq!(set.removals_pending(), 0);
}

#[test]
fn removals_that_wait_are_counted_with_what_went_along() {
    let mut set = DirtySet::new(SETTLE);
    set.removed(path("d/a"), 0);
    set.removed(path("d/b"), 0);
    set.removed(path("d"), 0);
    set.removed(path("e"), 0);
    set.closed(path("f"), 0);
    assert_eq!(set.removals_pending(), 4);
}

#[test]
fn held_removals_go_when_they_have_leave() {
    let mut set = DirtySet::new(SETTLE);
    set.gone(path("f"), 0);
    let mut held = set.take(0, 1).remove(0);
    held.mark.leave = Leave::Held;
    set.give_back(held, 1_000);
    assert_eq!(set.held().count(), 1);
    assert!(taken(&mut set, 1).is_empty());
    set.release_held(1);
    assert_eq!(set.take(1, 1)[0].mark.leave, Leave::Given);
}

#[test]
fn a_directory_that_goes_with_held_removals_in_it_is_held() {
    let mut set = DirtySet::new(SETTLE);
    set.gone(path("d/f"), 0);
    set.gone(path("e/f"), 0);
    let mut held = set.take(0, 1).remove(0);
    held.mark.leave = Leave::Held;
    set.give_back(held, 1_000);
    set.gone(path("d"), 1);
    set.gone(path("e"), 1);
    let held: Vec<_> = set.held().map(|(held, _)| held.clone()).collect();
    assert_eq!(held, [path("d")]);
    // It is looked at now.
    assert_eq!(set.take(1, 9).len(), 2);
}

#[test]
fn a_directory_that_comes_where_a_comparison_saw_nothing_is_compared() {
    let mut set = DirtySet::new(SETTLE);
    set.only_there(path("d"), false, 0);
    set.created_dir(path("d"), 1);
    assert_eq!(*set.take_comparison(1).unwrap().0, path("d"));
    // Once: the mark that is left knows nothing of it any more.
    assert!(!set.take(1, 1)[0].mark.went);
}

#[test]
fn what_went_is_remembered_while_somebody_looks() {
    let mut set = DirtySet::new(SETTLE);
    set.only_there(path("d"), false, 0);
    let looked_at = set.take(0, 1).remove(0);
    set.created_dir(path("d"), 1);
    assert!(set.take_comparison(1).is_none());
    set.give_back(looked_at, 2);
    let again = set.take(2, 1).remove(0);
    assert!(again.mark.went && !again.mark.gone, "{again:?}");
}

#[test]
fn a_delete_absorbs_what_was_queued_below() {
    let mut set = DirtySet::new(SETTLE);
    for name in ["d/a", "d/b/c", "dx"] {
        set.written(path(name), 0);
    }
    set.gone(path("d"), 1);
    assert_eq!(taken(&mut set, 1), ["dx", "d"]);
    assert_eq!(set.outstanding(), 2);
}

#[test]
fn parents_come_along_and_first() {
    let mut set = DirtySet::new(SETTLE);
    set.created_dir(path("new"), 0);
    set.created_dir(path("new/sub"), 0);
    set.written(path("new/sub/f"), 0);
    assert_eq!(taken(&mut set, 0), ["new", "new/sub", "new/sub/f"]);
}

#[test]
fn what_is_in_a_directory_waits_for_the_file_that_is_on_its_way_under_its_name() {
    let mut set = DirtySet::new(SETTLE);
    set.closed(path("name"), 0);
    let file = set.take(0, 10).remove(0);
    set.begun(&file);
    // By now it is a directory: the file that is being read comes first, then the directory, then what is in it.
    set.found(path("name"), Look::Content, Remote::Present, 1);
    set.closed(path("name/sub/f"), 1);
    set.closed(path("other"), 1);
    assert_eq!(taken(&mut set, 2), ["other"]);
    set.closed(path("name/sub/f"), 3);
    assert!(taken(&mut set, 3).is_empty());
    set.logged(&file.path);
    assert!(taken(&mut set, 4).is_empty());
    set.arrived(&file.path);
    assert_eq!(taken(&mut set, 5), ["name", "name/sub/f"]);
    assert!(set.below_in_flight.is_empty());
}

#[test]
fn what_comes_to_a_name_by_a_rename_is_not_followed_by_what_was_read_there() {
    let mut set = DirtySet::new(SETTLE);
    for name in ["name", "other", "d/below"] {
        set.closed(path(name), 0);
    }
    let work = set.take(0, 10);
    work.iter().for_each(|taken| set.begun(taken));
    set.renamed(path("dir"), path("name"), true, 1);
    set.renamed(path("other"), path("another"), false, 1);
    set.renamed(path("dir2"), path("d"), true, 1);
    let replaced = work.iter().filter(|taken| set.is_replaced(&taken.path));
    let replaced: Vec<_> = replaced.map(|taken| taken.path.to_string()).collect();
    assert_eq!(replaced, ["name", "d/below"]);
    for taken in work {
        set.logged(&taken.path);
        assert!(!set.is_replaced(&taken.path));
    }
}

#[test]
fn what_was_read_before_nobody_listened_is_looked_at_again() {
    let mut set = DirtySet::new(SETTLE);
    for name in ["a/read", "b", "sent"] {
        set.closed(path(name), 0);
    }
    let work = set.take(0, 10);
    work.iter().for_each(|taken| set.begun(taken));
    set.logged(&work[2].path);
    set.compare_unheard(&WirePath::root(), 5);
    assert!(set.is_compared(&WirePath::root()));
    work.iter().for_each(|taken| set.arrived(&taken.path));
    assert_eq!(taken(&mut set, 5), ["a/read", "b"]);
}

#[test]
fn metadata_of_a_directory_that_is_on_its_way_holds_nothing_in_it_up() {
    let mut set = DirtySet::new(SETTLE);
    set.created_dir(path("d"), 0);
    let dir = set.take(0, 10).remove(0);
    set.begun(&dir);
    set.attrib(path("d"), 1);
    set.closed(path("d/f"), 1);
    assert_eq!(taken(&mut set, 2), ["d/f"]);
    set.arrived(&dir.path);
    assert_eq!(taken(&mut set, 3), ["d"]);
}

#[test]
fn what_came_first_comes_first() {
    let mut set = DirtySet::new(SETTLE);
    set.closed(path("pictures/b"), 0);
    set.closed(path("pictures/a"), 0);
    set.closed(path("page"), 0);
    set.created_dir(path("late"), 1);
    set.closed(path("late/f"), 0);
    let order = ["pictures/b", "pictures/a", "page", "late", "late/f"];
    assert_eq!(taken(&mut set, 1), order);
}

#[test]
fn too_many_marks_collapse_into_a_comparison() {
    let mut set = DirtySet::new(Settle {
        marks_max: 10,
        ..SETTLE
    });
    for index in 0..11 {
        set.written(path(&format!("d/{index:02}")), 5);
    }
    assert_eq!(set.len(), 0);
    let (dir, comparison) = set.take_comparison(5).unwrap();
    assert_eq!(dir.to_string(), "d");
    assert_eq!(set.oldest(), Some((comparison.seq, 5)));
    set.settle_seq(comparison.seq);
    assert_eq!(set.outstanding(), 0);
}

#[test]
fn a_wider_comparison_covers_narrower_ones() {
    let mut set = DirtySet::new(SETTLE);
    set.compare(path("a/b"), 0);
    set.compare(WirePath::root(), 0);
    set.compare(path("c"), 0);
    assert!(
        set.take_comparison(0)
            .is_some_and(|(path, _)| path.is_root())
    );
    assert_eq!(set.take_comparison(0), None);
    assert_eq!(set.outstanding(), 1);
}

#[test]
fn what_is_given_back_keeps_its_place_and_merges() {
    let mut set = DirtySet::new(SETTLE);
    set.written(path("f"), 0);
    let taken = set.take(0, 1).remove(0);
    let seq = taken.mark.seq;
    set.written(path("f"), 3);
    set.give_back(taken, 500);
    assert_eq!(set.oldest().map(|(seq, _)| seq), Some(seq));
    assert_eq!(set.outstanding(), 1);
    assert_eq!(set.take(3, 1).len(), 1);
}

#[test]
fn a_directory_goes_before_what_is_renamed_into_it() {
    let mut set = DirtySet::new(SETTLE);
    set.created_dir(path("new"), 0);
    set.created_dir(path("new/sub"), 0);
    set.renamed(path("a"), path("b"), true, 0);
    set.renamed(path("old"), path("new/sub/old"), true, 0);
    set.renamed(path("other"), path("new/other"), true, 0);
    assert!(set.take_new_parents(0).is_empty());
    let names = |renames: Vec<Rename>| -> Vec<String> {
        renames.iter().map(|rename| rename.to.to_string()).collect()
    };
    assert_eq!(names(set.take_renames(0, 9)), ["b"]);
    let parents = set.take_new_parents(0);
    let parents: Vec<_> = parents.iter().map(|taken| taken.path.to_string()).collect();
    assert_eq!(parents, ["new", "new/sub"]);
    assert_eq!(names(set.take_renames(0, 9)), ["new/sub/old", "new/other"]);
}

#[test]
fn what_is_to_be_compared_moves_with_its_directory() {
    let mut set = DirtySet::new(SETTLE);
    set.compare(path("a/b"), 0);
    set.renamed(path("a"), path("c"), true, 0);
    let mut compared = Vec::new();
    while let Some((dir, _)) = set.take_comparison(0) {
        compared.push(dir.to_string());
    }
    assert_eq!(compared, ["a/b", "c/b"]);
}

#[test]
fn a_rename_that_was_taken_is_waited_for_until_it_is_logged() {
    let mut set = DirtySet::new(SETTLE);
    assert!(!set.renames_logged());
    set.renamed(path("a"), path("b"), true, 0);
    assert_eq!(renames(&mut set), ["a->b"]);
    // No comparison may ask now: the target may still have it under its old name.
    assert!(set.has_renames());
    assert!(set.renames_logged());
    assert!(!set.has_renames());
    assert!(!set.renames_logged());
}

#[test]
fn what_only_the_target_has_was_sent_whatever_was_heard_of_its_birth() {
    let mut set = DirtySet::new(SETTLE);
    set.created(path("f"), 0);
    set.only_there(path("f"), true, 1);
    assert_eq!(taken(&mut set, 1_000), ["f"]);
}

#[test]
fn a_refused_rename_of_a_directory_is_compared_where_it_is_now() {
    let mut set = DirtySet::new(SETTLE);
    set.renamed(path("a"), path("p/b"), true, 0);
    let refused = set.take_renames(0, 9).remove(0);
    set.renamed(path("p"), path("q"), true, 1);
    set.give_back_rename(&refused, 2);
    let mut compared = Vec::new();
    while let Some((dir, _)) = set.take_comparison(2) {
        compared.push(dir.to_string());
    }
    assert_eq!(compared, ["a", "p/b", "q/b"]);
}

#[test]
fn what_a_refused_rename_left_is_compared_by_content() {
    let mut set = DirtySet::new(SETTLE);
    set.compare(path("a"), 1);
    set.renamed(path("a/x"), path("a/y"), true, 2);
    let rename = set.take_renames(2, 9).remove(0);
    set.give_back_rename(&rename, 3);
    let mut found = Vec::new();
    while let Some((at, comparison)) = set.take_comparison(9) {
        found.push((at.to_string(), comparison.content));
    }
    // The one above knows nothing of content, and those below are not lost in it.
    let expected = [("a", false), ("a/x", true), ("a/y", true)];
    assert_eq!(
        found,
        expected.map(|(at, content)| (at.to_owned(), content))
    );
    set.compare_content(path("b/c"), 10);
    set.compare(path("b/c/d"), 10);
    set.compare(path("b"), 10);
    set.compare_content(path("b"), 10);
    assert_eq!(set.comparisons(), 1);
}

#[test]
fn names_that_went_can_be_taken_alone() {
    let mut set = DirtySet::new(SETTLE);
    set.written(path("full"), 0);
    set.removed(path("gone"), 0);
    set.modified(path("later"), 50_000);
    let now = 10_000;
    let gone = set.take_gone(now, 100);
    let names: Vec<_> = gone.iter().map(|taken| taken.path.to_string()).collect();
    assert_eq!(names, ["gone"]);
    assert!(set.take_gone(now, 100).is_empty());
    // What is due already is not waited for.
    assert_eq!(set.next_due_after(now), Some(50_100));
    assert_eq!(taken(&mut set, now), ["full"]);
}

#[test]
fn a_comparison_that_failed_is_shown_waits_and_is_hastened_by_who_asks_again() {
    let mut set = DirtySet::new(SETTLE);
    let failure = || Failure {
        code: "unreadable".to_owned(),
        text: "no luck".to_owned(),
    };
    set.compare(path("."), 1);
    let (at, comparison) = set.take_comparison(1).unwrap();
    set.compare_later(path("a/b"), true, failure(), 500);
    set.settle_seq(comparison.seq);
    assert_eq!((at.is_root(), set.outstanding()), (true, 1));
    let failed: Vec<_> = set.failed().collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].attempts, failed[0].due), (1, Some(500)));
    assert_eq!(failed[0].path.to_string(), "a/b");
    assert!(!set.is_clean(&path("a/b/c")) && !set.is_settled(&path("a/b/c")));
    assert!(set.take_comparison(499).is_none());
    // What is gone is seen to be gone at once.
    let mut other = DirtySet::new(SETTLE);
    other.compare_later(path("a/b"), false, failure(), 500);
    other.gone(path("a"), 20);
    assert_eq!(other.take_comparison(20).unwrap().0.to_string(), "a/b");
    // What is asked for below does not wait for it, and what is asked for there does not either.
    set.compare(path("a/b/c"), 10);
    assert_eq!(set.take_comparison(10).unwrap().0.to_string(), "a/b/c");
    set.compare(path("a/b"), 20);
    let (at, mut again) = set.take_comparison(20).unwrap();
    assert_eq!((again.attempts, again.content), (1, true));
    assert_eq!(set.failed().count(), 1, "until it is done");
    again.attempts += 1;
    set.give_back_comparison(at, again, 900);
    set.retry_all(30);
    let (_, again) = set.take_comparison(30).unwrap();
    assert_eq!((again.attempts, set.failed().count()), (2, 1));
    set.settle_seq(again.seq);
    assert_eq!(set.failed().count(), 0);
    // All of it covers it.
    set.compare_later(path("a/b"), true, failure(), 500);
    set.compare_content(path("."), 40);
    assert_eq!((set.comparisons(), set.failed().count()), (1, 0));
}

#[test]
fn a_path_that_failed_has_failed_while_it_is_tried_again() {
    let mut set = DirtySet::new(SETTLE);
    let fail = |set: &mut DirtySet, mut taken: Taken, due| {
        taken.mark.attempts += 1;
        taken.mark.failure = Some(Failure {
            code: "no permission".to_owned(),
            text: "no luck".to_owned(),
        });
        set.logged(&taken.path);
        set.arrived(&taken.path);
        set.give_back(taken, due);
    };
    let begin = |set: &mut DirtySet, now| {
        let taken = set.take(now, 1).remove(0);
        set.begun(&taken);
        taken
    };
    set.written(path("f"), 0);
    let taken = begin(&mut set, 0);
    assert_eq!((set.failed().count(), set.tried()), (0, 0));
    fail(&mut set, taken, 50);
    let failed = |set: &DirtySet| {
        let failed = set.failed().map(|failed| (failed.attempts, failed.due));
        failed.collect::<Vec<_>>()
    };
    assert_eq!(failed(&set), [(1, Some(50))]);
    let taken = begin(&mut set, 50);
    assert_eq!(failed(&set), [(1, None)]);
    assert_eq!((set.tried(), set.len()), (1, 0));
    // What is new is another matter.
    set.written(path("f"), 60);
    fail(&mut set, taken, 90);
    assert_eq!(failed(&set), [(2, Some(60))]);
    let taken = begin(&mut set, 90);
    set.logged(&taken.path);
    set.arrived(&taken.path);
    assert_eq!(set.failed().count(), 1, "until it is durable");
    set.settle_seq(taken.mark.seq);
    assert_eq!((set.failed().count(), set.outstanding()), (0, 0));
}

#[test]
fn what_was_written_since_it_was_taken_is_known_after_the_close_too() {
    let mut set = DirtySet::new(SETTLE);
    set.modified(path("f"), 0);
    set.closed(path("f"), 1);
    let mut all = set.take(1, 9);
    set.begun(&all[0]);
    // The close alone changes nothing.
    set.closed(path("f"), 2);
    assert!(!set.is_rewritten(&path("f")));
    set.modified(path("f"), 3);
    set.closed(path("f"), 4);
    assert!(set.waits_until(&path("f"), 1).is_none(), "it is closed");
    assert!(set.is_rewritten(&path("f")));
    let given_back = all.remove(0);
    set.logged(&given_back.path);
    set.arrived(&given_back.path);
    set.give_back(given_back, 5);
    assert_eq!(taken(&mut set, 5), ["f"]);
    assert!(!set.is_rewritten(&path("f")));
}

/// An older directory of this name went, and that is being looked at: the target has it, with all that is in it.
#[test]
fn what_is_made_anew_while_its_name_is_worked_on_was_not_born_there() {
    let mut set = DirtySet::new(SETTLE);
    set.removed(path("d"), 0);
    let at_work = set.take(1_000, 100).remove(0);
    set.begun(&at_work);
    set.created_dir(path("d"), 1_001);
    set.logged(&at_work.path);
    set.arrived(&at_work.path);
    set.only_there(path("d/old"), false, 1_002);
    assert!(!set.renamed(path("d"), path("e"), true, 1_003));
    assert_eq!(renames(&mut set), ["d->e"]);
    assert_eq!(taken(&mut set, 2_000), ["e"]);
    assert!(set.is_pending(&path("e/old")));
    // A file as well: its removal leaves nothing behind.
    set.removed(path("f"), 3_000);
    let at_work = set.take(4_000, 100).remove(0);
    set.begun(&at_work);
    set.created(path("f"), 4_001);
    set.logged(&at_work.path);
    set.arrived(&at_work.path);
    set.removed(path("f"), 4_002);
    assert!(set.is_pending(&path("f")));
}

#[test]
fn what_waits_for_other_things_is_not_sent_while_it_is_written() {
    let mut set = DirtySet::new(SETTLE);
    let settle = SETTLE;
    // Nobody came to look at it for long.
    set.closed(path("a"), 0);
    set.closed(path("b"), 0);
    let now = 10 * settle.hold_max_ms;
    set.modified(path("a"), now);
    let taken = set.take(now, 9);
    assert_eq!(taken.len(), 1, "somebody writes to the other one");
    assert_eq!(taken[0].mark.held_until(settle), now + settle.hold_max_ms);
    assert_eq!(taken[0].mark.first, 0);
    assert_eq!(set.next_due(), Some(now + settle.settle_ms));
    // Who writes all the time is not waited for for ever.
    for later in 1..settle.hold_max_ms {
        set.modified(path("a"), now + later);
        assert!(set.take(now + later, 9).is_empty());
    }
    assert_eq!(set.take(now + settle.hold_max_ms, 9).len(), 1);
}

#[test]
fn names_that_were_written_to_and_went_are_told() {
    let mut set = DirtySet::new(SETTLE);
    let stranded = |set: &mut DirtySet| {
        let paths = set.take_stranded().into_iter();
        paths.map(|path| path.to_string()).collect::<Vec<_>>()
    };
    set.closed(path("dir/written"), 1);
    set.attrib(path("dir/touched"), 1);
    set.found(path("dir/found"), Look::Content, Remote::Present, 1);
    set.gone(path("dir"), 2);
    assert_eq!(stranded(&mut set), ["dir/touched", "dir/written"]);
    // What took the place of one.
    set.closed(path("b"), 3);
    set.renamed(path("a"), path("b"), false, 4);
    assert_eq!(stranded(&mut set), ["b"]);
    // One that is looked at just now.
    set.closed(path("c/d"), 5);
    for taken in set.take(1_000, 9) {
        set.begun(&taken);
    }
    set.gone(path("c"), 6);
    assert_eq!(stranded(&mut set), ["c/d"]);
    assert_eq!(stranded(&mut set), [""; 0]);
    // With another name it is still what was written to.
    set.closed(path("e"), 2_000);
    set.renamed(path("e"), path("f"), false, 2_001);
    let mut wrote = set.take(4_000, 9).into_iter();
    let wrote = wrote.find(|taken| taken.path.to_string() == "f");
    assert!(wrote.is_some_and(|taken| taken.mark.wrote));
}

#[test]
fn a_directory_that_went_is_remembered_when_what_came_to_its_name_is_renamed_away() {
    let mut set = DirtySet::new(SETTLE);
    set.removed(path("d"), 0);
    set.was_dir(&path("d"));
    set.created(path("d"), 1);
    set.closed(path("d"), 1);
    set.renamed(path("d"), path("e"), false, 2);
    let old = &set.marks[&path("d")];
    assert!(old.was_dir && old.went, "the target may have it: {old:?}");
    set.created_dir(path("d"), 3);
    let compared = set.take_comparison(3).map(|(path, _)| path.to_string());
    assert_eq!(compared.as_deref(), Some("d"));
}

#[test]
fn what_comes_out_of_a_directory_that_went_is_not_renamed_at_the_target() {
    let mut set = DirtySet::new(SETTLE);
    set.removed(path("old/dir/f"), 0);
    set.closed(path("old/g"), 0);
    // It went where nobody looks yet; of what is in it is told a moment longer.
    set.gone(path("old"), 1);
    assert!(set.renamed(path("old/dir"), path("dir"), true, 2));
    assert!(set.renamed(path("old/g"), path("g"), false, 2));
    assert!(
        renames(&mut set).is_empty(),
        "the target has the old versions"
    );
    let mut taken = taken(&mut set, 2);
    taken.sort();
    assert_eq!(taken, ["dir", "g", "old", "old/dir", "old/g"]);
}

/// Whether a file that comes and goes here is forgotten, as one that the target never had.
fn is_forgotten(set: &mut DirtySet, at: &str) -> bool {
    set.created(path(at), 9);
    set.gone(path(at), 9);
    let is_forgotten = !set.marks.contains_key(&path(at));
    set.forget(&path(at));
    is_forgotten
}

#[test]
fn what_is_compared_or_on_its_way_may_be_at_the_target() {
    let mut set = DirtySet::new(SETTLE);
    assert!(is_forgotten(&mut set, "d/e/f"));
    set.compare(path("d"), 0);
    assert!(!is_forgotten(&mut set, "d/e/f") && is_forgotten(&mut set, "e"));
    let (at, comparison) = set.take_comparison(0).unwrap();
    assert!(!is_forgotten(&mut set, "d/e/f") && is_forgotten(&mut set, "e"));
    set.give_back_comparison(at, comparison, 0);
    assert!(!is_forgotten(&mut set, "d/e/f"));
    let (_, comparison) = set.take_comparison(0).unwrap();
    set.settle_seq(comparison.seq);
    assert!(is_forgotten(&mut set, "d/e/f"));
    // Its removal is on its way, or is given up because it is there again.
    set.gone(path("d"), 1);
    let taken = set.take(1, 1).remove(0);
    set.begun(&taken);
    assert!(!is_forgotten(&mut set, "d/e/f"));
    set.logged(&taken.path);
    set.arrived(&taken.path);
    assert!(is_forgotten(&mut set, "d/e/f"));
}

#[test]
fn a_new_directory_that_a_rename_goes_into_is_known_to_the_target() {
    for renamed_away in [false, true] {
        let mut set = DirtySet::new(SETTLE);
        set.created_dir(path("new"), 0);
        set.renamed(path("old"), path("new/old"), true, 1);
        if renamed_away {
            set.renamed(path("new"), path("newer"), true, 2);
        } else {
            set.removed(path("new/old"), 2);
            set.removed(path("new"), 2);
        }
        // Made before the rename, which brings what is not there any more.
        set.created_dir(path("new"), 3);
        assert!(
            set.is_compared(&path("new")),
            "renamed away: {renamed_away}"
        );
    }
}

#[test]
fn a_new_directory_in_the_place_of_one_with_something_pending_is_compared() {
    let mut set = DirtySet::new(SETTLE);
    set.removed(path("d/f"), 0);
    set.created_dir(path("new"), 0);
    set.renamed(path("new"), path("d"), true, 1);
    assert!(set.is_compared(&path("d")), "the target has the file still");
    set.created_dir(path("new"), 2);
    set.renamed(path("new"), path("e"), true, 2);
    assert!(!set.is_compared(&path("e")));
}

#[test]
fn room_for_many_paths_is_given_back_when_they_are_at_the_target() {
    let mut set = DirtySet::new(SETTLE);
    for name in 0..500 {
        set.written(path(&name.to_string()), 0);
    }
    let taken = set.take(0, 500);
    taken.iter().for_each(|taken| set.begun(taken));
    assert_eq!(set.in_flight.len(), 500);
    taken.iter().for_each(|taken| set.given_up(&taken.path));
    set.shrink();
    assert!(set.by_seq.capacity() + set.in_flight.capacity() < 100);
}

#[test]
fn what_was_found_is_taken_by_whole_directories_and_what_was_heard_of_in_its_turn() {
    let names = |dir: &str, count: usize| -> Vec<String> {
        let files = (0..count).map(|n| format!("{dir}/{n:02}"));
        [dir.to_owned()].into_iter().chain(files).collect()
    };
    let taken = |set: &mut DirtySet, max| -> Vec<String> {
        let taken = set.take(0, max);
        taken.iter().map(|taken| taken.path.to_string()).collect()
    };
    let found = |set: &mut DirtySet, path_of: &str| {
        set.found(path(path_of), Look::Content, Remote::Absent, 0);
    };
    let mut set = DirtySet::new(SETTLE);
    let all = [
        names("a", 15),
        names("b", 15),
        names("c", 79),
        names("d", 2),
    ];
    all.iter().flatten().for_each(|name| found(&mut set, name));
    // Three quarters of what may be taken are enough where a directory ends, and up to twice as much if it does not.
    assert_eq!(taken(&mut set, 40), all[..2].concat());
    assert_eq!(taken(&mut set, 40), all[2]);
    assert_eq!(taken(&mut set, 40), all[3]);
    let many = names("e", 99);
    many.iter().for_each(|name| found(&mut set, name));
    assert_eq!(taken(&mut set, 40), many[..80]);
    assert_eq!(taken(&mut set, 40), many[80..]);
    let heard = names("g", 99);
    heard.iter().for_each(|name| set.written(path(name), 0));
    assert_eq!(taken(&mut set, 40), heard[..40]);
}

#[test]
fn what_was_seen_as_a_file_is_taken_for_one_until_something_is_heard_of_it() {
    let found = |file: bool| {
        let mut set = DirtySet::new(SETTLE);
        set.found_as(path("f"), file, Look::Content, Remote::Absent, 0);
        set
    };
    let saw_file = |mut set: DirtySet| {
        let taken = set.take(u64::MAX, 9);
        taken.iter().any(|taken| taken.mark.saw_file)
    };
    assert!(saw_file(found(true)));
    assert!(!saw_file(found(false)));
    let heard: [fn(&mut DirtySet); 4] = [
        |set| set.created(path("f"), 1),
        |set| set.attrib(path("f"), 1),
        |set| set.gone(path("f"), 1),
        |set| set.found(path("f"), Look::Content, Remote::Absent, 1),
    ];
    for heard in heard {
        let mut set = found(true);
        heard(&mut set);
        assert!(!saw_file(set));
    }
    let mut set = DirtySet::new(SETTLE);
    set.created(path("f"), 0);
    set.found_as(path("f"), true, Look::Content, Remote::Absent, 1);
    assert!(!saw_file(set), "it may be something else since it was seen");
    let mut set = found(true);
    let taken = set.take(0, 1).remove(0);
    set.attrib(path("f"), 1);
    set.give_back(taken, 2);
    assert!(!saw_file(set), "heard of while it was worked on");
}
