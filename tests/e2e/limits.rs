//! Where watching has its limits: the kernel's queue, watches and instances, rights, and mounts. Each is typed and
//! visible in the status, the rest goes on, and it mends itself.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use syncd_tests::programs::AgentBuilder;
use syncd_tests::require::Need;
use syncd_tests::workload::many_small;
use syncd_tests::{Agent, Binaries, Receiver, Sandbox, require, wait_until};

use crate::common::{
    Disk, LONG, Mirror, code, may_mount, patient, run, scaled, tool, wait_content,
};
use crate::disk::limited;

impl Mirror {
    #[track_caller]
    fn source(&self) -> Value {
        source_of(&self.agent)
    }
}

#[track_caller]
fn source_of(agent: &Agent) -> Value {
    let status = agent.control().status().expect("status");
    status["status"]["sources"][0].clone()
}

/// Waits until the status names a problem with these words.
#[track_caller]
fn wait_problem(agent: &Agent, words: &str) {
    wait_until(LONG, words, || {
        let source = source_of(agent);
        let problems = source["problems"].as_array().expect("problems").iter();
        problems
            .filter_map(|problem| problem["text"].as_str())
            .any(|text| text.contains(words))
    });
}

#[track_caller]
fn wait_number(agent: &Agent, name: &str, number: u64) {
    wait_until(LONG, &format!("{name} is {number}"), || {
        source_of(agent)[name].as_u64() == Some(number)
    });
}

fn queue_length() -> Option<usize> {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").ok()?;
    text.trim().parse().ok()
}

#[test]
fn events_that_the_kernel_dropped_are_made_up_for() {
    // Nobody reads while the agent stands still; no sysctl is touched, so that nobody else notices.
    let length = queue_length().filter(|length| *length <= 1 << 17);
    if !require(&[Need::Other("a queue of usual length", length.is_some())]) {
        return;
    }
    for backend in ["inotify", "notify"] {
        let mirror = Mirror::with(Sandbox::new(), |agent| agent.arg("--backend").arg(backend));
        many_small(&mirror.src("moves"), 3, 5, 50).expect("files");
        many_small(&mirror.src("goes/deep"), 3, 5, 50).expect("files");
        mirror.settle();
        for round in 1..=2 {
            mirror.agent.signal(Signal::STOP);
            for number in 0..length.unwrap_or_default() / 2 {
                let path = mirror.src(format!("flood-{number}"));
                File::create(&path).expect("create");
                fs::remove_file(&path).expect("remove");
            }
            fs::rename(mirror.src("moves"), mirror.src("moved")).expect("mv");
            fs::remove_dir_all(mirror.src("goes")).expect("rm");
            many_small(&mirror.src("goes/other"), 2, 5, 60).expect("files");
            fs::write(mirror.src("moved/d00001/f00001"), "unheard").expect("write");
            mirror.agent.signal(Signal::CONT);
            wait_until(LONG, "the overflow is counted", || {
                mirror.source()["overflows"].as_u64() >= Some(round)
            });
            mirror.settle();
            // And everything is heard again.
            fs::write(mirror.src("moved/d00002/f00002"), "heard").expect("write");
            fs::write(mirror.src("goes/other/d00001/f00001"), "heard").expect("write");
            mirror.settle();
            fs::rename(mirror.src("moved"), mirror.src("moves")).expect("mv");
            mirror.settle();
        }
        assert!(mirror.agent.log().contains("the kernel dropped events"));
        wait_until(LONG, "nothing is wrong any more", || {
            mirror.source()["problems"] == Value::Array(Vec::new())
        });
    }
}

/// An agent in a user namespace of its own, in which these limits are set first: the limits of inotify count there.
struct Confined {
    agent: Agent,
    _receiver: Receiver,
    sandbox: Sandbox,
}

impl Confined {
    #[track_caller]
    fn start(
        sandbox: Sandbox,
        limits: &[(&str, u32)],
        change: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Self {
        let receiver = sandbox.receiver().start();
        let set = limits.iter().map(|(name, value)| set(name, *value));
        let set: String = set.map(|set| format!("{set}; ")).collect();
        let agent = Binaries::locate().agent.display().to_string();
        let text = format!(
            "#!/bin/sh\nexec unshare --user --map-root-user sh -ec '{set}exec \"$0\" \"$@\"' {agent} \"$@\"\n"
        );
        let program = script(&sandbox, &text);
        let agent = change(patient(sandbox.agent(&receiver)).program(program)).start();
        Self {
            agent,
            _receiver: receiver,
            sandbox,
        }
    }

    /// Raises a limit while the agent runs.
    #[track_caller]
    fn raise(&self, name: &str, value: u32) {
        let pid = self.agent.pid().to_string();
        let set = set(name, value);
        let args = ["--user", "--target", &pid, "sh", "-ec", &set];
        tool("nsenter", &args, self.sandbox.path());
    }

    fn src(&self, name: &str) -> PathBuf {
        self.sandbox.src().join(name)
    }

    #[track_caller]
    fn settle(&self) {
        self.agent.wait_synced(LONG);
        self.sandbox.assert_equal();
    }
}

fn set(name: &str, value: u32) -> String {
    format!("echo {value} > /proc/sys/user/{name}")
}

/// Written by another process: a descriptor that is open for writing here could be inherited by a child of another
/// test, and then the program could not be executed.
#[track_caller]
fn script(sandbox: &Sandbox, text: &str) -> PathBuf {
    let path = sandbox.path().join("confined");
    let write = r#"printf %s "$1" > "$2" && chmod 755 "$2""#;
    let to = path.to_str().expect("text");
    tool("sh", &["-ec", write, "sh", text, to], sandbox.path());
    path
}

fn may_confine() -> bool {
    let limit = set("max_inotify_watches", 1000);
    let args = ["--user", "--map-root-user", "sh", "-ec", &limit];
    let output = Command::new("unshare").args(args).output();
    let there = output.is_ok_and(|output| output.status.success());
    require(&[
        Need::Root,
        Need::Tool("nsenter"),
        Need::Other("a user namespace with its own limits", there),
    ])
}

#[test]
fn more_directories_than_watches() {
    if !may_confine() {
        return;
    }
    for backend in ["inotify", "notify"] {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src(), 20, 3, 50).expect("files");
        let limits = [("max_inotify_watches", 10)];
        let scene = Confined::start(sandbox, &limits, |agent| {
            agent.arg("--backend").arg(backend)
        });
        scene.settle();
        wait_problem(&scene.agent, "max_inotify_watches is 10");
        assert!(source_of(&scene.agent)["unwatched_dirs"].as_u64() > Some(5));
        // Whoever waits waits for a comparison of what nobody tells of.
        for dir in 0..20 {
            fs::write(scene.src(&format!("d{dir:05}/f00001")), "changed").expect("write");
        }
        fs::create_dir(scene.src("d00019/new")).expect("mkdir");
        fs::remove_file(scene.src("d00018/f00002")).expect("remove");
        scene.settle();
        // Nobody waits: it gets there all the same.
        fs::write(scene.src("d00019/new/late"), "late").expect("write");
        wait_content(&scene.sandbox.dst().join("d00019/new/late"), b"late");
        // The limit is raised, and nobody has to restart anything.
        scene.raise("max_inotify_watches", 10_000);
        wait_number(&scene.agent, "unwatched_dirs", 0);
        wait_until(LONG, "nothing is wrong any more", || {
            source_of(&scene.agent)["problems"] == Value::Array(Vec::new())
        });
        // Its beginning and its end are in the log, once.
        for said in [
            "not watched, compared every",
            "every directory is watched now",
        ] {
            let log = scene.agent.log();
            assert_eq!(log.matches(said).count(), 1, "{said}: {log}");
        }
        fs::write(scene.src("d00019/new/late"), "heard").expect("write");
        scene.settle();
    }
}

#[test]
fn check_knows_the_limits_of_a_user_namespace() {
    if !may_confine() {
        return;
    }
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 20, 1, 50).expect("files");
    let limits = [("max_inotify_watches", 10), ("max_inotify_instances", 0)];
    let set: String = limits.map(|(name, value)| set(name, value) + "; ").concat();
    let receiver = sandbox.receiver().start();
    let check = sandbox.agent(&receiver).once_command("check");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-ec"])
        .arg(format!("{set}exec \"$0\" \"$@\""))
        .arg(check.get_program())
        .args(check.get_args());
    let watches = "user.max_inotify_watches: 10 for 21 to watch: the rest would be unwatched";
    let instances = "user.max_inotify_instances: 0 is less than 1";
    run(&sandbox, &mut command).expect(code::DEGRADED, &[watches, instances]);
}

#[test]
fn too_few_open_files_are_not_taken_for_inotifys_limit() {
    for (backend, files) in [("inotify", 14), ("notify", 15)] {
        let sandbox = Sandbox::new();
        fs::write(sandbox.src().join("f"), "x").expect("write");
        let receiver = sandbox.receiver().start();
        let limit = format!("ulimit -n {files}");
        let program = limited(&sandbox, "agent", &limit, &Binaries::locate().agent);
        let agent = patient(sandbox.agent(&receiver)).program(program);
        // Nobody can ask it either.
        let agent = agent.arg("--backend").arg(backend).spawn();
        let line = agent.wait_line(LONG, "not watched");
        let said =
            format!("no more open files of this agent: its limit is {files}; raise it: ulimit");
        assert!(line.contains(&said), "{backend}: {line}");
    }
}

#[test]
fn no_inotify_instance_at_all() {
    if !may_confine() {
        return;
    }
    for backend in ["inotify", "notify"] {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src(), 3, 3, 50).expect("files");
        let limits = [("max_inotify_instances", 0)];
        let scene = Confined::start(sandbox, &limits, |agent| {
            agent.arg("--backend").arg(backend)
        });
        scene.settle();
        wait_problem(&scene.agent, "max_inotify_instances is 0");
        fs::write(scene.src("d00001/f00001"), "changed").expect("write");
        scene.settle();
        fs::write(scene.src("late"), "late").expect("write");
        wait_content(&scene.sandbox.dst().join("late"), b"late");
        scene.raise("max_inotify_instances", 8);
        wait_number(&scene.agent, "unwatched_dirs", 0);
        wait_number(&scene.agent, "watched_dirs", 4);
        fs::create_dir(scene.src("d00001/new")).expect("mkdir");
        fs::write(scene.src("d00001/new/f"), "heard").expect("write");
        scene.settle();
    }
}

#[test]
fn a_directory_that_may_not_be_read_keeps_its_mirror() {
    if !may_confine() {
        return;
    }
    for backend in ["inotify", "notify"] {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src(), 3, 5, 50).expect("files");
        let scene = Confined::start(sandbox, &[], |agent| agent.arg("--backend").arg(backend));
        scene.settle();
        // Another user's: root in a namespace has no say in that.
        let dir = scene.src("d00001");
        let owner = |id: u32, mode: u32| {
            fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).expect("chmod");
            std::os::unix::fs::chown(&dir, Some(id), Some(id)).expect("chown");
        };
        let names = || {
            let entries = fs::read_dir(scene.sandbox.dst().join("d00001")).expect("the mirror");
            entries.count()
        };
        owner(4321, 0o700);
        scene.agent.control().rescan(".").expect("rescan");
        wait_problem(&scene.agent, "d00001");
        fs::write(dir.join("f00001"), "nobody sees that").expect("write");
        fs::write(dir.join("new"), "nor that").expect("write");
        fs::write(scene.src("d00002/f00001"), "all else flows").expect("write");
        let there = scene.sandbox.dst().join("d00002/f00001");
        wait_content(&there, b"all else flows");
        assert_eq!(names(), 5, "something went or came");
        let told = scene.agent.log().matches("not watched").count();
        assert!(told <= 1, "told {told} times");
        owner(0, 0o755);
        wait_number(&scene.agent, "unwatched_dirs", 0);
        scene.settle();
        assert_eq!(names(), 6);
    }
}

fn mounts() -> bool {
    let there = rustix::process::geteuid().is_root() && may_mount();
    require(&[Need::Other("a tmpfs may be mounted", there)])
}

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    fn new(args: &[&str], at: &Path) -> Self {
        let mut args = args.to_vec();
        args.push(at.to_str().expect("text"));
        tool("mount", &args, Path::new("/"));
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_is_mounted_below_the_source_comes_and_does_not_just_go() {
    if !mounts() {
        return;
    }
    for backend in ["inotify", "notify"] {
        let mirror = Mirror::with(Sandbox::new(), |agent| agent.arg("--backend").arg(backend));
        fs::write(mirror.src("stays"), "here").expect("write");
        for name in ["disk", "bound"] {
            fs::create_dir(mirror.src(name)).expect("mkdir");
        }
        mirror.settle();
        let elsewhere = mirror.sandbox.path().join("elsewhere");
        many_small(&elsewhere, 2, 4, 50).expect("files");
        let image = mirror.sandbox.path().join("kept");
        many_small(&image, 3, 4, 50).expect("files");
        let bind = |from: &Path, name: &str| {
            Mounted::new(&["--bind", from.to_str().expect("text")], &mirror.src(name))
        };
        let bound = bind(&elsewhere, "bound");
        let disk = Disk::on(&mirror.src("disk"), 4);
        many_small(&mirror.src("disk/files"), 2, 4, 50).expect("files");
        let arrived = mirror.dst("disk/files/d00001/f00003");
        wait_until(LONG, "what is mounted arrives", || {
            arrived.exists() && mirror.dst("bound/d00001/f00003").exists()
        });
        mirror.settle();
        // Watched like everything else, also by the other name of what is bound.
        fs::write(mirror.src("disk/files/d00000/f00000"), "changed").expect("write");
        fs::write(elsewhere.join("d00000/f00000"), "changed").expect("write");
        mirror.settle();
        // An unmount removes nothing.
        drop(disk);
        drop(bound);
        wait_until(LONG, "deletes are held", || {
            mirror.source()["held"].is_object()
        });
        let held = mirror.source()["held"]["reason"].to_string();
        assert!(held.contains("is not mounted any more"), "{held}");
        fs::write(mirror.src("stays"), "all else flows").expect("write");
        wait_content(&mirror.dst("stays"), b"all else flows");
        assert!(arrived.exists() && mirror.dst("bound/d00001/f00003").exists());
        // Back again: nothing is held any more, and what changed meanwhile is found.
        let _bound = bind(&elsewhere, "bound");
        let _disk = bind(&image, "disk");
        wait_until(LONG, "nothing is held", || {
            mirror.source()["held"].is_null()
        });
        wait_until(LONG, "the other file system arrives", || {
            mirror.dst("disk/d00002/f00003").exists()
        });
        mirror.settle();
    }
}

/// Whoever waits is told of mounts at once, and of what came only for a moment while it was missing.
#[test]
fn a_mount_that_comes_for_a_moment_leaves_nothing_undecided() {
    if !mounts() {
        return;
    }
    let mirror = Mirror::start();
    fs::write(mirror.src("stays"), "here").expect("write");
    fs::create_dir(mirror.src("bound")).expect("mkdir");
    let elsewhere = mirror.sandbox.path().join("elsewhere");
    many_small(&elsewhere, 2, 4, 50).expect("files");
    let from = elsewhere.to_str().expect("text");
    let bind = || Mounted::new(&["--bind", from], &mirror.src("bound"));
    let held = || mirror.source()["held"]["deletes"].as_u64();
    let a_moment = Duration::from_millis(1);
    for _ in 0..scaled(1, 20) {
        let bound = bind();
        mirror.settle();
        drop(bound);
        assert!(mirror.agent.control().wait(None, a_moment).is_err());
        wait_until(LONG, "deletes are held", || held() > Some(0));
        let bound = bind();
        wait_until(LONG, "it was seen to be there", || {
            held().unwrap_or_default() == 0
        });
        drop(bound);
        assert!(mirror.agent.control().wait(None, a_moment).is_err());
        wait_until(LONG, "deletes are held again", || held() > Some(0));
        assert!(mirror.dst("bound/d00001/f00003").exists());
    }
}

#[test]
fn an_unmount_that_is_meant_can_be_approved() {
    if !mounts() {
        return;
    }
    let mirror = Mirror::start();
    fs::write(mirror.src("stays"), "here").expect("write");
    fs::create_dir(mirror.src("disk")).expect("mkdir");
    let disk = Disk::on(&mirror.src("disk"), 4);
    many_small(&mirror.src("disk/files"), 2, 4, 50).expect("files");
    wait_until(LONG, "it arrives", || {
        mirror.dst("disk/files/d00001/f00003").exists()
    });
    mirror.settle();
    drop(disk);
    wait_until(LONG, "deletes are held", || {
        mirror.source()["held"]["deletes"].as_u64() > Some(0)
    });
    let id = mirror.source()["held"]["id"].as_str().map(str::to_owned);
    let question = serde_json::json!({"cmd": "approve", "id": id});
    mirror.agent.control().request(&question).expect("approved");
    mirror.settle();
}

#[test]
fn a_source_on_an_overlay() {
    if !mounts() {
        return;
    }
    for backend in ["inotify", "notify"] {
        let sandbox = Sandbox::new();
        let place = tempfile::tempdir_in("/dev/shm").expect("directory");
        let at = |name: &str| place.path().join(name);
        many_small(&at("lower"), 4, 6, 80).expect("files");
        for name in ["upper", "work"] {
            fs::create_dir(at(name)).expect("mkdir");
        }
        let dirs =
            ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display()));
        let options = dirs.join(",");
        let args = ["-t", "overlay", "-o", &options, "syncd-tests"];
        let _overlay = Mounted::new(&args, &sandbox.src());
        let mirror = Mirror::with(sandbox, |agent| agent.arg("--backend").arg(backend));
        // Copied up by a write, a rename, a chmod; whited out; an opaque directory.
        fs::write(mirror.src("d00000/f00001"), "copied up").expect("write");
        fs::set_permissions(
            mirror.src("d00001/f00001"),
            PermissionsExt::from_mode(0o600),
        )
        .expect("chmod");
        mirror.settle();
        fs::write(mirror.src("d00000/f00001"), "and again").expect("write");
        fs::rename(mirror.src("d00001/f00002"), mirror.src("d00002/renamed")).expect("mv");
        fs::remove_file(mirror.src("d00002/f00003")).expect("remove");
        fs::remove_dir_all(mirror.src("d00003")).expect("rm");
        fs::create_dir(mirror.src("d00003")).expect("mkdir");
        fs::write(mirror.src("d00003/only"), "new").expect("write");
        mirror.settle();
        for round in 0..scaled(3, 50) {
            many_small(&mirror.src(format!("new-{round}")), 3, 4, 50).expect("files");
            fs::write(mirror.src("d00002/f00001"), format!("{round}")).expect("write");
            mirror.settle();
        }
    }
}
