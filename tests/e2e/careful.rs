//! A source that is unmounted, replaced or suddenly empty never empties the mirror: deletes are held, the status says
//! why and what to do, and a person decides.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use syncd_tests::programs::AgentBuilder;
use syncd_tests::require::Need;
use syncd_tests::sandbox::wait_equal;
use syncd_tests::tree::{Options, Tree, diff};
use syncd_tests::workload::many_small;
use syncd_tests::{Agent, Binaries, Receiver, Sandbox, require, wait_for, wait_until};

use crate::common::{Disk, LONG, Said, code, may_mount, once, run, tool};
use crate::targets::other_receiver;

/// A mirror with the limits that an operator has who set none.
struct Scene {
    agent: Option<Agent>,
    builder: AgentBuilder,
    _receiver: Receiver,
    sandbox: Sandbox,
}

impl Scene {
    #[track_caller]
    fn start(sandbox: Sandbox) -> Self {
        let receiver = sandbox.receiver().start();
        let builder = sandbox.agent(&receiver);
        Self::with(sandbox, receiver, builder)
    }

    #[track_caller]
    fn with(sandbox: Sandbox, receiver: Receiver, builder: AgentBuilder) -> Self {
        let scene = Self {
            agent: Some(builder.start()),
            builder,
            _receiver: receiver,
            sandbox,
        };
        scene.agent().wait_synced(LONG);
        scene.sandbox.assert_equal();
        scene
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("an agent")
    }

    fn source(&self) -> Value {
        let status = self.agent().control().status().expect("status");
        status["status"]["sources"][0].clone()
    }

    /// Waits until deletes are held, and gives what the status says of that.
    #[track_caller]
    fn wait_held(&self) -> Value {
        wait_until(LONG, "deletes are held", || {
            self.source()["held"].is_object()
        });
        self.source()["held"].clone()
    }

    #[track_caller]
    fn command(&self, name: &str, args: &[&str]) -> Said {
        let mut command = Command::new(&Binaries::locate().agent);
        command
            .arg(name)
            .args(args)
            .arg("--control")
            .arg(self.agent().control().path());
        run(&self.sandbox, &mut command)
    }

    /// What is there; what went before deletes were held may still be going.
    #[track_caller]
    fn mirror(&self) -> Tree {
        wait_for(LONG, "the mirror can be read whole", || {
            let scanned = Tree::scan(self.sandbox.dst(), &Options::default());
            scanned.map_err(|error| error.to_string())
        })
    }

    /// The mirror is what it was; asked for after the agent has looked at everything once more.
    #[track_caller]
    fn expect_untouched(&self, before: &Tree) {
        let asked = self.agent().control().rescan(".");
        assert!(asked.is_ok(), "{asked:?}");
        let timeout = std::time::Duration::from_secs(2);
        // What is held is never done: the time has to run out, or the agent says so at once.
        let waited = self.agent().control().wait(None, timeout);
        assert!(
            !waited.is_ok_and(|reply| reply["verdict"] == "in_sync"),
            "in sync with deletes held"
        );
        self.expect_same(before);
    }

    /// Everything in the mirror is what it was; the root itself has the times of the source's.
    #[track_caller]
    fn expect_same(&self, before: &Tree) {
        let mut differences = diff(before, &self.mirror());
        differences.retain(|difference| !difference.path.is_empty());
        assert!(differences.is_empty(), "{differences:?}");
    }
}

fn mounts() -> bool {
    let there = rustix::process::geteuid().is_root() && may_mount();
    require(&[Need::Other("a tmpfs may be mounted", there)])
}

#[test]
fn an_unmounted_source_empties_nothing() {
    if !mounts() {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = Disk::on(&sandbox.src(), 8);
    many_small(&sandbox.src(), 3, 10, 100).expect("files");
    let scene = Scene::start(sandbox);
    let before = scene.mirror();
    drop(disk);
    let held = scene.wait_held();
    let reason = held["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("gone") || reason.contains("unmounted"),
        "{reason}"
    );
    scene.expect_untouched(&before);
    let said = scene.command("status", &[]);
    said.expect(code::FAILED, &["deletes are held", "mount or restore it"]);
    // Nobody can approve that away.
    let id = held["id"].as_str().expect("an id");
    let said = scene.command("approve", &[id]);
    assert_ne!(said.exit, code::DONE, "{}", said.text);
    scene.expect_untouched(&before);
}

/// Also where the kernel says of the mount only that a directory above it was renamed.
#[test]
fn a_mount_that_moved_with_a_directory_above_it_does_not_just_go() {
    if !mounts() {
        return;
    }
    let sandbox = Sandbox::new();
    let (old, new) = (sandbox.src().join("old"), sandbox.src().join("new"));
    many_small(&sandbox.src().join("stays"), 2, 10, 100).expect("files");
    fs::create_dir_all(old.join("disk")).expect("mkdir");
    let _moves = Disk::on(&old.join("disk"), 4);
    many_small(&old.join("disk/files"), 2, 4, 50).expect("files");
    let scene = Scene::start(sandbox);
    fs::rename(&old, &new).expect("mv");
    scene.agent().wait_synced(LONG);
    let place = new.join("disk");
    tool(
        "umount",
        &["-l", place.to_str().expect("text")],
        Path::new("/"),
    );
    let held = scene.wait_held();
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains("new/disk is not mounted"), "{reason}");
    let last = scene.sandbox.dst().join("new/disk/files/d00001/f00003");
    assert!(last.exists());
    // It ends when something is mounted there again.
    let _disk = Disk::on(&place, 4);
    many_small(&place.join("files"), 2, 4, 50).expect("files");
    scene.agent().wait_synced(LONG);
    assert!(scene.source()["held"].is_null() && last.exists());
}

#[test]
fn a_mount_that_is_missing_at_the_start_empties_nothing() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 2, 10, 100).expect("files");
    let mut scene = Scene::start(sandbox);
    let before = scene.mirror();
    scene.agent = None;
    let aside = scene.sandbox.path().join("elsewhere");
    fs::rename(scene.sandbox.src(), aside).expect("mv");
    fs::create_dir(scene.sandbox.src()).expect("mkdir");
    scene.agent = Some(scene.builder.start());
    let held = scene.wait_held();
    let reason = held["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("is empty, and the target is not"),
        "{reason}"
    );
    scene.expect_untouched(&before);
    // One shot: the same, and it says what it did not do.
    let said = once(&scene.sandbox, &scene.builder, "sync");
    assert_ne!(said.exit, code::DONE, "{}", said.text);
    scene.expect_same(&before);
}

#[test]
fn a_source_that_is_replaced_empties_nothing() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 2, 10, 100).expect("files");
    let scene = Scene::start(sandbox);
    let before = scene.mirror();
    let (src, aside) = (scene.sandbox.src(), scene.sandbox.path().join("elsewhere"));
    fs::rename(&src, &aside).expect("mv");
    fs::create_dir(&src).expect("mkdir");
    fs::write(src.join("something"), "else").expect("write");
    let held = scene.wait_held();
    let reason = held["reason"].as_str().expect("a reason");
    // As it was at that moment; what is there by now is told as well.
    let other = "is another directory (device ";
    assert!(
        reason.contains("is gone") || reason.contains(other),
        "{reason}"
    );
    wait_until(LONG, "what is there is told", || {
        scene.source()["problems"].to_string().contains(other)
    });
    scene.expect_untouched(&before);
}

#[test]
fn removing_nearly_everything_waits_for_a_person() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 6, 50, 50).expect("files");
    fs::write(sandbox.src().join("stays"), "here").expect("write");
    let scene = Scene::start(sandbox);
    let before = scene.mirror();
    for number in 0..6 {
        let dir = scene.sandbox.src().join(format!("d{number:05}"));
        fs::remove_dir_all(dir).expect("rm");
    }
    let held = scene.wait_held();
    assert!(held["deletes"].as_u64() > Some(100), "{held}");
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains("max_delete allows 50 %"), "{reason}");
    // What is not a delete goes on.
    fs::write(scene.sandbox.src().join("stays"), "and changes").expect("write");
    wait_until(LONG, "the change is there", || {
        fs::read(scene.sandbox.dst().join("stays")).is_ok_and(|read| read == b"and changes")
    });
    assert!(scene.mirror().len() > before.len() / 2);
    let id = held["id"].as_str().expect("an id").to_owned();
    scene.command("reject", &[&id]).expect(code::DONE, &[]);
    scene
        .command("status", &[])
        .expect(code::DEGRADED, &["held"]);
    scene.command("approve", &["77"]);
    assert!(scene.source()["held"].is_object());
    scene.command("approve", &[&id]).expect(code::DONE, &[]);
    scene.agent().wait_synced(LONG);
    scene.sandbox.assert_equal();
    scene
        .command("status", &[])
        .expect(code::DONE, &["in sync"]);
}

#[test]
fn a_source_that_lost_all_of_some_names_is_asked_about_and_goes_on_when_they_are_back() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 6, 10, 50).expect("files");
    let scene = Scene::start(sandbox);
    let (src, aside) = (scene.sandbox.src(), scene.sandbox.path().join("elsewhere"));
    tool("cp", &["-a", "src", "elsewhere"], scene.sandbox.path());
    for entry in fs::read_dir(&src).expect("list") {
        fs::remove_dir_all(entry.expect("entry").path()).expect("rm");
    }
    let held = scene.wait_held();
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains("is empty"), "{reason}");
    assert!(scene.mirror().len() > 1);
    tool("cp", &["-a", "elsewhere/.", "src"], scene.sandbox.path());
    scene.agent().wait_synced(LONG);
    scene.sandbox.assert_equal();
    // Nothing is held any more, so a removal of a few names waits for nobody.
    fs::remove_dir_all(src.join("d00003")).expect("rm");
    scene.agent().wait_synced(LONG);
    scene.sandbox.assert_equal();
    fs::remove_dir_all(aside).expect("rm");
}

/// What the rules leave out is nothing that is mirrored: a source with nothing else is as empty as one without it.
#[test]
fn a_source_that_has_only_what_is_left_out_is_empty() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 6, 10, 50).expect("files");
    let receiver = sandbox.receiver().start();
    let builder = sandbox.agent(&receiver).arg("--exclude=/.git/");
    let scene = Scene::with(sandbox, receiver, builder);
    let src = scene.sandbox.src();
    fs::create_dir(src.join(".git")).expect("mkdir");
    for directory in 0..6 {
        fs::remove_dir_all(src.join(format!("d{directory:05}"))).expect("rm");
    }
    let held = scene.wait_held();
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains("is empty"), "{reason}");
    assert!(scene.mirror().len() > 1);
}

#[test]
fn a_directory_that_goes_as_a_whole_counts_with_all_that_is_in_it() {
    let scene = || {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src(), 8, 100, 5).expect("files");
        Scene::start(sandbox)
    };
    let dirs = || (0..7).map(|number| format!("d{number:05}"));
    let expect_held = |scene: &Scene, before: &Tree| {
        let held = scene.wait_held();
        let reason = held["reason"].as_str().expect("a reason").to_owned();
        assert!(reason.contains("max_delete allows 50 %"), "{reason}");
        let left = scene.mirror().len();
        assert!(left > before.len() / 2, "{left} of {}", before.len());
    };
    // Moved away: no event tells of what is in them.
    let moved = scene();
    let before = moved.mirror();
    let aside = moved.sandbox.path().join("elsewhere");
    fs::create_dir(&aside).expect("mkdir");
    for name in dirs() {
        fs::rename(moved.sandbox.src().join(&name), aside.join(&name)).expect("mv");
    }
    expect_held(&moved, &before);
    for name in dirs() {
        fs::rename(aside.join(&name), moved.sandbox.src().join(&name)).expect("mv");
    }
    moved.agent().wait_synced(LONG);
    moved.sandbox.assert_equal();
    // Another thing in their place.
    for name in dirs() {
        let there = aside.join(&name);
        fs::rename(moved.sandbox.src().join(&name), &there).expect("mv");
        std::os::unix::fs::symlink(there, moved.sandbox.src().join(&name)).expect("symlink");
    }
    expect_held(&moved, &before);
    // While nobody watched.
    let mut unseen = scene();
    let before = unseen.mirror();
    unseen.agent = None;
    for name in dirs() {
        fs::remove_dir_all(unseen.sandbox.src().join(&name)).expect("rm");
    }
    unseen.agent = Some(unseen.builder.start());
    expect_held(&unseen, &before);
    let held = unseen.wait_held();
    let id = held["id"].as_str().expect("an id").to_owned();
    unseen.command("approve", &[&id]).expect(code::DONE, &[]);
    unseen.agent().wait_synced(LONG);
    unseen.sandbox.assert_equal();
}

#[test]
fn the_last_of_a_few_names_may_go() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 1, 10, 50).expect("files");
    let scene = Scene::start(sandbox);
    fs::remove_dir_all(scene.sandbox.src().join("d00000")).expect("rm");
    scene.agent().wait_synced(LONG);
    scene.sandbox.assert_equal();
}

#[test]
fn a_source_that_went_and_came_back_is_mirrored_again() {
    for backend in ["inotify", "notify"] {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src(), 3, 10, 50).expect("files");
        let receiver = sandbox.receiver().start();
        let builder = sandbox.agent(&receiver).arg("--backend").arg(backend);
        let scene = Scene::with(sandbox, receiver, builder);
        let (src, aside) = (scene.sandbox.src(), scene.sandbox.path().join("elsewhere"));
        fs::rename(&src, &aside).expect("mv");
        fs::create_dir(&src).expect("mkdir");
        scene
            .command("wait", &["--all", "--timeout", "1"])
            .expect(code::FAILED, &[]);
        scene.wait_held();
        fs::remove_dir(&src).expect("rmdir");
        fs::rename(&aside, &src).expect("mv");
        fs::create_dir_all(src.join("new/below")).expect("mkdir");
        fs::remove_dir_all(src.join("d00001")).expect("rm");
        wait_until(LONG, "it is watched again", || {
            scene.source()["state"] == "watching" && scene.source()["held"].is_null()
        });
        scene.agent().wait_synced(LONG);
        scene.sandbox.assert_equal();
        fs::write(src.join("new/below/file"), "later").expect("write");
        scene.agent().wait_synced(LONG);
        scene.sandbox.assert_equal();
        scene
            .command("status", &[])
            .expect(code::DONE, &["in sync"]);
        scene
            .command("wait", &["--all", "--timeout", "0"])
            .expect(code::DONE, &[]);
    }
}

#[test]
fn who_approves_deletes_at_one_target_approves_them_there_only() {
    let mut sandbox = Sandbox::new();
    many_small(&sandbox.src(), 1, 5, 50).expect("files");
    let first = sandbox.receiver().start();
    let other = sandbox.path().join("other");
    let second = other_receiver(&mut sandbox, &other, 0).start();
    let builder = sandbox
        .agent(&first)
        .also_to(second.port())
        .in_file("max_delete = 0", "");
    let scene = Scene::with(sandbox, first, builder);
    wait_equal(&scene.sandbox.src(), &other, &Options::default(), LONG);
    fs::remove_dir_all(scene.sandbox.src().join("d00000")).expect("rm");
    let held = || {
        let targets = scene.source()["targets"].clone();
        [0, 1].map(|at| targets[at]["held"]["id"].as_str().map(str::to_owned))
    };
    wait_until(LONG, "deletes are held at both", || {
        held().iter().all(Option::is_some)
    });
    let [Some(one), Some(two)] = held() else {
        panic!("{:?}", held());
    };
    assert_ne!(one, two);
    let lines = [format!("approve {one};"), format!("approve {two};")];
    scene
        .command("status", &[])
        .expect(code::DEGRADED, &[&lines[0], &lines[1]]);
    scene.command("approve", &[&one]).expect(code::DONE, &[]);
    wait_until(LONG, "they are gone at the first", || {
        !scene.sandbox.dst().join("d00000").exists()
    });
    assert_eq!(held(), [None, Some(two.clone())]);
    assert!(other.join("d00000").exists());
    scene.command("approve", &[&two]).expect(code::DONE, &[]);
    scene.agent().wait_synced(LONG);
    assert!(!other.join("d00000").exists());
}

#[test]
fn removing_a_third_in_one_go_waits_for_nobody() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 9, 50, 50).expect("files");
    let scene = Scene::start(sandbox);
    for number in 0..3 {
        let dir = scene.sandbox.src().join(format!("d{number:05}"));
        fs::remove_dir_all(dir).expect("rm");
    }
    scene.agent().wait_synced(LONG);
    scene.sandbox.assert_equal();
    assert!(scene.source()["held"].is_null());
}
