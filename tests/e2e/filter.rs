//! Filter rules: what they exclude never arrives, and what of that is at the target stays there.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use syncd_tests::require::{Need, require};
use syncd_tests::{Agent, Receiver, Sandbox, wait_until};

use crate::common::{LONG, code, once, patient, run, target_of, wait_content};

/// A mirror whose two sides are not to be equal. Fields go in this order: the agent first.
pub(crate) struct Filtered {
    pub(crate) agent: Agent,
    _receiver: Receiver,
    pub(crate) sandbox: Sandbox,
}

impl Filtered {
    #[track_caller]
    pub(crate) fn start(sandbox: Sandbox, rules: &[&str]) -> Self {
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver));
        let agent = rules
            .iter()
            .fold(agent, |agent, rule| agent.arg(*rule))
            .start();
        agent.wait_synced(LONG);
        Self {
            agent,
            _receiver: receiver,
            sandbox,
        }
    }

    pub(crate) fn src(&self, name: &str) -> PathBuf {
        self.sandbox.src().join(name)
    }

    pub(crate) fn dst(&self, name: &str) -> PathBuf {
        self.sandbox.dst().join(name)
    }

    #[track_caller]
    pub(crate) fn settle(&self) {
        self.agent.wait_synced(LONG);
    }

    #[track_caller]
    pub(crate) fn expect(&self, there: &[&str], not_there: &[&str]) {
        for name in there {
            assert!(exists(&self.dst(name)), "{name} is not at the target");
        }
        for name in not_there {
            assert!(!exists(&self.dst(name)), "{name} is at the target");
        }
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

pub(crate) fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    fs::write(path, text).expect("write");
}

#[test]
fn excluded_names_do_not_arrive_and_stay_where_they_are() {
    let sandbox = Sandbox::new();
    for name in ["a.c", "a.o", "keep.o", "build/x", "sub/build/y", "sub/b.o"] {
        write(sandbox.src().join(name), "here");
    }
    for name in [
        "only.o",
        "build/there",
        "old/gone.c",
        "old/kept.o",
        "stale/gone.c",
    ] {
        write(sandbox.dst().join(name), "there");
    }
    let rules = ["--include=keep.o", "--exclude=*.o", "--exclude=/build/"];
    let mirror = Filtered::start(sandbox, &rules);
    mirror.expect(
        &[
            "a.c",
            "keep.o",
            "sub/build/y",
            "only.o",
            "build/there",
            "old/kept.o",
        ],
        &["a.o", "build/x", "sub/b.o", "old/gone.c", "stale"],
    );
    write(mirror.src("live.o"), "x");
    write(mirror.src("build/deep/x"), "x");
    write(mirror.src("live.c"), "x");
    write(mirror.src("new/build/z"), "x");
    write(mirror.src("new/z.o"), "x");
    mirror.settle();
    mirror.expect(
        &["live.c", "new/build/z"],
        &["live.o", "build/deep", "new/z.o"],
    );
}

#[test]
fn nothing_takes_the_place_of_a_directory_in_which_something_is_protected() {
    let sandbox = Sandbox::new();
    for name in ["one/f", "two/f", "three/e/f", "plain/f", "other"] {
        write(sandbox.src().join(name), "here");
    }
    for name in ["one/a.o", "two/a.o", "three/e/a.o", "cache/theirs"] {
        write(sandbox.dst().join(name), "there");
    }
    let mirror = Filtered::start(sandbox, &["--exclude=*.o", "--exclude=cache/"]);
    // Removed and made anew at once; and when the removal is over.
    fs::remove_dir_all(mirror.src("one")).expect("remove");
    write(mirror.src("one"), "a file");
    fs::remove_dir_all(mirror.src("two")).expect("remove");
    fs::remove_dir_all(mirror.src("three")).expect("remove");
    fs::remove_dir_all(mirror.src("plain")).expect("remove");
    symlink("other", mirror.src("plain")).expect("symlink");
    wait_until(LONG, "they went as far as they may", || {
        !exists(&mirror.dst("two/f")) && !exists(&mirror.dst("three/e/f"))
    });
    symlink("other", mirror.src("two")).expect("symlink");
    write(mirror.src("three"), "a file");
    write(mirror.src("cache"), "a file");
    let target = || target_of(&mirror.agent);
    wait_until(LONG, "each is said to have failed", || {
        target()["failed_total"] == 4 && fs::read_link(mirror.dst("plain")).is_ok()
    });
    let kept = ["one/a.o", "two/a.o", "three/e/a.o", "cache/theirs"];
    mirror.expect(&kept, &[]);
    // What is moved away with what is protected in it is in nobody's way any more.
    write(mirror.src("four/f"), "here");
    mirror
        .agent
        .control()
        .wait(Some("four/f"), LONG)
        .expect("wait");
    write(mirror.dst("four/a.o"), "there");
    fs::remove_file(mirror.src("four/f")).expect("rm");
    fs::rename(mirror.src("four"), mirror.src("five")).expect("mv");
    symlink("five", mirror.src("four")).expect("symlink");
    wait_until(LONG, "both are there", || {
        fs::read_link(mirror.dst("four")).is_ok() && exists(&mirror.dst("five/a.o"))
    });
    // Whatever was in the way may be removed there by hand.
    for name in kept {
        fs::remove_file(mirror.dst(name)).expect("rm");
    }
    assert!(mirror.agent.control().rescan(".").is_ok());
    mirror.settle();
    assert_eq!(fs::read(mirror.dst("one")).expect("read"), b"a file");
    assert_eq!(fs::read(mirror.dst("three")).expect("read"), b"a file");
    assert_eq!(fs::read(mirror.dst("cache")).expect("read"), b"a file");
    assert!(fs::read_link(mirror.dst("two")).is_ok());
    assert_eq!(target()["failed_total"], 0);
}

#[test]
fn rules_that_cannot_be_used_are_shown_and_waited_for() {
    let sandbox = Sandbox::new();
    write(sandbox.src().join("d/f"), "here");
    let mirror = Filtered::start(sandbox, &["--filter=: .rules"]);
    write(mirror.src("d/.rules"), "?? what\n");
    write(mirror.src("d/new"), "here");
    write(mirror.src("other/new"), "here");
    let control = mirror.agent.control();
    let brief = std::time::Duration::from_secs(1);
    wait_until(LONG, "they are shown", || {
        let status = control.status().expect("status");
        let problems = status["status"]["sources"][0]["problems"].to_string();
        problems.contains("nothing in d is mirrored") && problems.contains(".rules line 1")
    });
    assert!(
        control
            .wait(Some("other/new"), LONG)
            .is_ok_and(|reply| reply["verdict"] == "in_sync")
    );
    assert!(
        !control
            .wait(None, brief)
            .is_ok_and(|reply| reply["verdict"] == "in_sync")
    );
    assert!(
        !control
            .wait(Some("d/new"), brief)
            .is_ok_and(|reply| reply["verdict"] == "in_sync")
    );
    write(mirror.src("d/.rules"), "- *.o\n");
    mirror.settle();
    mirror.expect(&["d/new", "d/.rules"], &[]);
}

#[test]
fn a_removed_directory_leaves_what_is_protected_in_it() {
    let sandbox = Sandbox::new();
    for name in ["d/f", "d/e/f", "d/g/f", "plain/f", "other"] {
        write(sandbox.src().join(name), "here");
    }
    write(sandbox.dst().join("d/e/cache.o"), "there");
    let mirror = Filtered::start(sandbox, &["--exclude=*.o"]);
    mirror.expect(&["d/f", "d/e/f", "d/e/cache.o", "plain/f"], &[]);
    fs::remove_dir_all(mirror.src("d")).expect("remove");
    fs::remove_dir_all(mirror.src("plain")).expect("remove");
    mirror.settle();
    mirror.expect(&["d/e/cache.o"], &["d/f", "d/e/f", "d/g", "plain"]);
    // Nothing is tried for ever.
    write(mirror.src("after"), "x");
    mirror.settle();
    mirror.expect(&["after", "d/e/cache.o"], &[]);
}

#[test]
fn names_that_move_between_inside_and_outside_come_and_go() {
    let sandbox = Sandbox::new();
    write(sandbox.src().join("a"), "a");
    write(sandbox.src().join("in.tmp"), "b");
    write(sandbox.src().join("dir/f"), "c");
    write(sandbox.src().join("out.d/f"), "d");
    let mirror = Filtered::start(sandbox, &["--exclude=*.tmp", "--filter=- *.d/"]);
    mirror.expect(&["a", "dir/f"], &["in.tmp", "out.d"]);
    fs::rename(mirror.src("a"), mirror.src("a.tmp")).expect("rename");
    fs::rename(mirror.src("in.tmp"), mirror.src("b")).expect("rename");
    fs::rename(mirror.src("dir"), mirror.src("dir.d")).expect("rename");
    fs::rename(mirror.src("out.d"), mirror.src("out")).expect("rename");
    mirror.settle();
    mirror.expect(
        &["b", "out/f"],
        &["a", "a.tmp", "in.tmp", "dir", "dir.d", "out.d"],
    );
    write(mirror.src("out/g"), "e");
    write(mirror.src("dir.d/g"), "e");
    mirror.settle();
    mirror.expect(&["out/g"], &["dir.d"]);
}

#[test]
fn a_file_of_rules_counts_from_when_it_is_written() {
    let sandbox = Sandbox::new();
    for name in ["a/x", "a/y", "b/x"] {
        write(sandbox.src().join(name), "1");
    }
    write(sandbox.src().join("a/.rsync-filter"), "- x\n");
    let mirror = Filtered::start(sandbox, &["--filter=: .rsync-filter"]);
    mirror.expect(&["a/y", "b/x", "a/.rsync-filter"], &["a/x"]);
    write(mirror.src("b/.rsync-filter"), "- /new\n");
    mirror.settle();
    write(mirror.src("b/new"), "1");
    fs::remove_file(mirror.src("a/.rsync-filter")).expect("remove");
    wait_content(&mirror.dst("a/x"), b"1");
    mirror.settle();
    mirror.expect(&["b/x"], &["b/new", "a/.rsync-filter"]);
    // One that cannot be used stops everything below it, and nothing else.
    write(mirror.src("b/.rsync-filter"), "nonsense\n");
    mirror.agent.wait_line(LONG, "it is no rule");
    write(mirror.src("b/z"), "1");
    fs::remove_file(mirror.src("b/x")).expect("remove");
    write(mirror.src("c"), "1");
    wait_content(&mirror.dst("c"), b"1");
    let waited = mirror.agent.control().wait(Some("c"), LONG);
    assert!(waited.is_ok_and(|reply| reply["verdict"] == "in_sync"));
    mirror.expect(&["b/x"], &["b/z"]);
    write(mirror.src("b/.rsync-filter"), "- nothing\n");
    wait_content(&mirror.dst("b/z"), b"1");
    wait_until(LONG, "b/x is gone", || !exists(&mirror.dst("b/x")));
}

#[test]
fn rules_above_the_source_count_and_are_read_again_with_everything() {
    let sandbox = Sandbox::new();
    let above = sandbox
        .src()
        .parent()
        .expect("a parent")
        .join(".rsync-filter");
    fs::write(&above, "- *.o\n- /src/top\n- /top2\n").expect("write");
    for name in ["a.o", "a.c", "top", "top2", "d/top", "d/keep.o"] {
        write(sandbox.src().join(name), "1");
    }
    assert_eq!(sandbox.src().file_name(), Some("src".as_ref()));
    write(sandbox.src().join("d/.rsync-filter"), "+ keep.o\n");
    let mirror = Filtered::start(sandbox, &["--filter=: /.rsync-filter"]);
    mirror.expect(&["a.c", "top2", "d/top", "d/keep.o"], &["a.o", "top"]);
    // Nobody watches it, and its text stays what it was until everything is compared.
    fs::write(&above, "- *.c\n").expect("write");
    write(mirror.src("e/b.o"), "1");
    write(mirror.src("e/b.c"), "1");
    mirror.settle();
    mirror.expect(&["e/b.c"], &["e/b.o"]);
    assert!(mirror.agent.control().rescan(".").is_ok());
    mirror.settle();
    mirror.expect(&["a.o", "top", "e/b.o", "a.c"], &[]);
    write(mirror.src("new.c"), "1");
    write(mirror.src("new.o"), "1");
    mirror.settle();
    mirror.expect(&["new.o"], &["new.c"]);
}

#[test]
fn files_that_files_of_rules_name_count_from_when_they_are_written() {
    let sandbox = Sandbox::new();
    for name in ["a/x", "a/y", "a/b/z", "b/x"] {
        write(sandbox.src().join(name), "1");
    }
    write(sandbox.src().join("a/.rules"), ". lists/one\n: .more\n");
    write(sandbox.src().join("a/lists/one"), "- x\n");
    write(sandbox.src().join("a/b/.more"), "- z\n");
    let mirror = Filtered::start(sandbox, &["--filter=: .rules"]);
    mirror.expect(&["a/y", "b/x", "a/b/.more"], &["a/x", "a/b/z"]);
    write(mirror.src("a/lists/one"), "- y2\n");
    wait_content(&mirror.dst("a/x"), b"1");
    write(mirror.src("a/b/.more"), "- z2\n");
    wait_content(&mirror.dst("a/b/z"), b"1");
    for name in ["a/y2", "a/b/z2", "a/b/z3", "b/z2"] {
        write(mirror.src(name), "1");
    }
    mirror.settle();
    mirror.expect(&["a/b/z3", "b/z2"], &["a/y2", "a/b/z2"]);
    // A file that is named and missing stops what it is about.
    fs::remove_file(mirror.src("a/lists/one")).expect("remove");
    mirror
        .agent
        .wait_line(LONG, "a/lists/one cannot be read: it is not there");
    write(mirror.src("a/lists/one"), "");
    wait_content(&mirror.dst("a/y2"), b"1");
}

/// The same rules, the same trees, both programs.
#[test]
fn what_rsync_leaves_is_what_is_left_here() {
    if !require(&[Need::Tool("rsync")]) {
        return;
    }
    let rules = [
        "--filter=: /.rsync-filter",
        "--filter=P guarded/",
        "--filter=H hidden*",
        "--filter=-/ src/d/absolute",
        "--filter=:C",
        "--filter=-C",
        "--filter=-p perish*",
    ];
    let sandbox = Sandbox::new();
    let theirs = sandbox.src().parent().expect("a parent").join("theirs/src");
    fs::create_dir_all(&theirs).expect("mkdir");
    for (name, text) in [
        (".rsync-filter", "- /anchored\n: .more\n. common\n"),
        ("common", "- *.tmp\n- /d/two\n"),
        ("d/.more", "+ keep.bak\n- *.bak\n- e/\n"),
        ("d/.cvsignore", "ignored *.class"),
    ] {
        for side in [&sandbox.src(), &sandbox.dst(), &theirs] {
            write(side.join(name), text);
        }
    }
    let names = [
        "a.c",
        "a.o",
        "anchored",
        "d/anchored",
        "x.tmp",
        "d/two",
        "two",
        "d/keep.bak",
        "d/n.bak",
        "n.bak",
        "d/e/f",
        "e/f",
        "d/ignored",
        "d/g/ignored",
        "d/x.class",
        "hidden",
        "hidden.d/f",
        "d/absolute",
        "absolute",
        "guarded/f",
        "perish",
    ];
    for name in names {
        write(sandbox.src().join(name), "1");
    }
    let old = [
        "gone",
        "a.o",
        "old/gone",
        "old/perish",
        "old/x.o",
        "older/x.tmp",
        "older/gone",
        "guarded/gone",
        "d/guarded/f",
        "hidden",
        "hidden.d/f",
        "d/keep.bak",
        "d/gone.bak",
        "d/x.class",
        "core",
        "d/e/gone",
    ];
    for name in old {
        for side in [&sandbox.dst(), &theirs] {
            write(side.join(name), "0");
        }
    }
    let status = std::process::Command::new("rsync")
        .args(["-a", "--delete", "--ignore-times"])
        .args(rules)
        .arg(format!("{}/", sandbox.src().display()))
        .arg(format!("{}/", theirs.display()))
        .env("HOME", "/nonexistent")
        .env_remove("CVSIGNORE")
        .status()
        .expect("rsync");
    assert!(status.success());
    let mirror = Filtered::start(sandbox, &rules);
    assert_eq!(names_below(&mirror.dst(".")), names_below(&theirs));
    // What is removed in a directory that is protected itself and sent goes there too.
    fs::remove_file(mirror.src("guarded/f")).expect("remove");
    mirror.settle();
    mirror.expect(&["guarded", "d/guarded/f"], &["guarded/f", "guarded/gone"]);
}

fn names_below(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(here) = open.pop() {
        for entry in fs::read_dir(&here).expect("list") {
            let path = entry.expect("entry").path();
            if path.ends_with(".syncd") {
                continue;
            }
            let name = path.strip_prefix(dir).expect("below");
            names.push(name.display().to_string());
            open.extend(path.is_dir().then_some(path));
        }
    }
    names.sort();
    names
}

#[test]
fn times_of_directories_follow_although_their_change_is_excluded() {
    let sandbox = Sandbox::new();
    write(sandbox.src().join("d/f"), "1");
    let mirror = Filtered::start(sandbox, &["--preset=editor-temp"]);
    let time = |path: PathBuf| {
        let meta = path.metadata().expect("metadata");
        (meta.mtime(), meta.mtime_nsec())
    };
    write(mirror.src("d/f~"), "1");
    mirror.settle();
    wait_until(LONG, "the time of d arrives", || {
        time(mirror.dst("d")) == time(mirror.src("d"))
    });
    mirror.expect(&["d/f"], &["d/f~"]);
}

#[test]
fn one_shot_commands_know_the_rules() {
    let sandbox = Sandbox::new();
    write(sandbox.src().join("a.o"), "1");
    write(sandbox.src().join("a.c"), "1");
    write(sandbox.dst().join("b.o"), "1");
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).arg("--exclude=*.o");
    once(&sandbox, &agent, "sync").expect(code::DONE, &["identical"]);
    once(&sandbox, &agent, "verify").expect(code::DONE, &["identical"]);
    assert!(exists(&sandbox.dst().join("b.o")) && !exists(&sandbox.dst().join("a.o")));
    let everything = patient(sandbox.agent(&receiver));
    once(&sandbox, &everything, "verify").expect(code::DIFFERENT, &["a.o", "b.o"]);
}

#[test]
fn explain_names_the_rule_and_its_place() {
    let sandbox = Sandbox::new();
    write(sandbox.src().join("build/x"), "1");
    write(sandbox.src().join("sub/.rules"), "# two\n- y\n");
    let src = sandbox.src();
    let explain = |path: &str, rules: &[&str]| {
        let binaries = syncd_tests::Binaries::locate();
        let mut command = std::process::Command::new(&binaries.agent);
        command
            .args(["filter", "explain", path])
            .arg(&src)
            .args(rules);
        run(&sandbox, &mut command)
    };
    let rules = ["--filter=: .rules", "--exclude=build/"];
    explain("build/x", &rules).expect(
        code::DIFFERENT,
        &[
            "excluded: build/x",
            "with its directory build",
            "\"build/\" (--exclude)",
            "never removed",
        ],
    );
    explain("sub/y", &rules).expect(code::DIFFERENT, &["\"- y\" (sub/.rules line 2)"]);
    write(src.join("sub/.rules"), "- y\n. deeper/list\n: .more\n");
    write(src.join("sub/deeper/list"), "- listed\n");
    write(src.join("sub/e/.more"), "\n- more\n");
    write(src.parent().expect("a parent").join(".rules"), "- above\n");
    let rules = ["--filter=: /.rules", "--filter=-C"];
    for (path, by) in [
        ("sub/listed", "\"- listed\" (sub/deeper/list line 1)"),
        ("sub/e/more", "\"- more\" (sub/e/.more line 2)"),
        ("sub/above", "/.rules line 1)"),
        ("a.o", "\"*.o\" (--filter: the list of \"-C\")"),
    ] {
        explain(path, &rules).expect(code::DIFFERENT, &[by]);
    }
    write(src.join("bad/.rules"), "?? what\n");
    explain("bad/x", &rules).expect(
        code::DIFFERENT,
        &[
            "(bad/.rules line 1)",
            "nothing in bad is mirrored until its rules are put right",
        ],
    );
    explain("other", &rules).expect(code::DONE, &["included: other", "no rule matches"]);
    explain("build", &["--filter=build"]).expect(code::CONFIG, &["--filter: rule \"build\"", "->"]);
}
