//! Local users who race with links, at the receiver and at the agent: whatever they swap, and however often, nothing
//! outside is created, changed, removed or read, and nothing from outside is sent.
//!
//! A directory (or file) of the tree is exchanged with a symlink to the outside and back, as fast as it goes, while the
//! agent mirrors changes below it. The kernel itself watches the outside: opened, read, changed or made there, and the
//! test fails. That both the attack and the watch work is shown with a writer that takes no care.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use syncd_tests::{Agent, Sandbox, wait_for};

use crate::common::{LONG, Mirror, patient, scaled};

/// How long each race goes on, in seconds.
fn budget() -> Duration {
    Duration::from_secs(scaled(3, 60) as u64)
}

/// Without so many of each there was no race.
const SWAPS_MIN: usize = 100;
const TURNS_MIN: usize = 50;

const SECRET: &str = "a secret of somebody else";

/// A directory that nobody has business with, watched by the kernel.
struct Outside {
    dir: PathBuf,
    watch: OwnedFd,
}

impl Outside {
    /// Names as in the tree, so that whoever is led here finds what he looks for.
    fn new(dir: PathBuf, names: &[&str]) -> Self {
        fs::create_dir_all(dir.join("deep")).expect("outside");
        for name in names {
            fs::write(dir.join(name), format!("{SECRET}: {name}\n")).expect("file");
            fs::write(dir.join("deep").join(name), SECRET).expect("file");
        }
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        let all = WatchFlags::ACCESS
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::OPEN;
        for place in [dir.clone(), dir.join("deep")] {
            inotify::add_watch(&watch, &place, all).expect("watch");
        }
        Self { dir, watch }
    }

    /// What has happened there.
    fn events(&self) -> Vec<String> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4_096];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        let mut found = Vec::new();
        while let Ok(event) = reader.next() {
            let flags: ReadFlags = event.events();
            found.push(format!("{flags:?} {:?}", event.file_name()));
        }
        found
    }

    #[track_caller]
    fn expect_untouched(&self) {
        let events = self.events();
        assert!(
            events.is_empty(),
            "{} events outside, the first: {:#?}",
            events.len(),
            &events[..events.len().min(10)]
        );
    }
}

/// Exchanges two names until it is dropped; what was there in the beginning is there in the end.
struct Swap {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Swap {
    fn between(inside: PathBuf, trap: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let (told, counted) = (stop.clone(), count.clone());
        let thread = thread::spawn(move || {
            let exchange = || {
                rustix::fs::renameat_with(CWD, &inside, CWD, &trap, RenameFlags::EXCHANGE).is_ok()
            };
            while !told.load(Ordering::Relaxed) {
                // Where the name is gone for a moment, there is nothing to exchange.
                if exchange() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                    while !exchange() {
                        if told.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                }
            }
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }

    /// Changes something again and again beside the exchanges, then ends them. On a busy machine it goes on until
    /// there was a race.
    fn race(mut self, mut change: impl FnMut(usize)) {
        let begun = Instant::now();
        let mut turn = 0;
        while self.goes_on(begun, turn) {
            change(turn);
            turn += 1;
            // Changes at a pace, so that each has exchanges around it; nothing is waited for.
            thread::sleep(Duration::from_millis(5));
        }
        self.stop();
        let swaps = self.count.load(Ordering::Relaxed);
        assert!(
            swaps > SWAPS_MIN && turn > TURNS_MIN,
            "{swaps} swaps in {turn} turns"
        );
    }

    fn goes_on(&self, begun: Instant, turn: usize) -> bool {
        let few = self.count.load(Ordering::Relaxed) <= SWAPS_MIN || turn <= TURNS_MIN;
        begun.elapsed() < budget() || few && begun.elapsed() < LONG
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.stop();
    }
}

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("deep")).expect("directory");
    for name in NAMES {
        fs::write(dir.join(name), format!("ours: {name}\n")).expect("file");
        fs::write(dir.join("deep").join(name), "ours\n").expect("file");
    }
}

/// Everything that is done with names below a directory, again and again.
fn change(dir: &Path, turn: usize) {
    let name = NAMES[turn % NAMES.len()];
    let other = NAMES[(turn + 1) % NAMES.len()];
    for dir in [dir.to_owned(), dir.join("deep")] {
        let at = |name: &str| dir.join(name);
        let text = format!("turn {turn} of {name}\n").repeat(1 + turn % 50);
        // What is in the way at the source is the source's business: nothing here must fail.
        let _ = fs::write(at(name), text);
        let _ = fs::set_permissions(
            at(other),
            fs::Permissions::from_mode(0o600 | (turn as u32 & 0o77)),
        );
        let _ = match turn % 6 {
            0 => fs::rename(at(other), at("renamed")),
            1 => fs::rename(at("renamed"), at(other)),
            2 => fs::remove_file(at(other)),
            3 => symlink(name, at("link")),
            4 => fs::remove_file(at("link")),
            _ => fs::hard_link(at(name), at("linked")).or_else(|_| fs::remove_file(at("linked"))),
        };
        let _ = fs::create_dir(at("made")).or_else(|_| fs::remove_dir(at("made")));
    }
}

/// Has both sides compared again.
#[track_caller]
fn rescan(agent: &Agent) {
    agent.control().rescan(".").expect("rescan");
}

/// A trap of this name beside the trees: a symlink to the outside.
fn trap(sandbox: &Sandbox, target: &Path) -> PathBuf {
    let trap = sandbox.path().join("trap");
    symlink(target, &trap).expect("the trap");
    trap
}

#[test]
fn a_writer_that_takes_no_care_is_caught() {
    let sandbox = Sandbox::new();
    let outside = Outside::new(sandbox.path().join("outside"), &NAMES);
    let dir = sandbox.dst().join("d");
    fill(&dir);
    outside.expect_untouched();
    let swap = Swap::between(dir.clone(), trap(&sandbox, &outside.dir));
    let events = wait_for(LONG, "the careless writer is led outside", || {
        let _ = fs::write(dir.join("one"), "careless\n");
        match outside.events() {
            events if events.is_empty() => Err("not yet".to_owned()),
            events => Ok(events),
        }
    });
    drop(swap);
    assert!(!events.is_empty());
}

/// Races at the receiver: `inside` is what is exchanged, from the module; `target` where the trap leads, from the
/// outside.
#[track_caller]
fn race_at_the_receiver(inside: &str, target: &str) {
    let sandbox = Sandbox::new();
    fill(&sandbox.src().join("d"));
    let outside = Outside::new(sandbox.path().join("outside"), &NAMES);
    let mirror = Mirror::of(sandbox);
    outside.expect_untouched();
    let trap = trap(&mirror.sandbox, &outside.dir.join(target));
    let swap = Swap::between(mirror.dst(inside), trap);
    swap.race(|turn| change(&mirror.src("d"), turn));
    outside.expect_untouched();
    // Left alone, it becomes equal; what the race left behind at the receiver is told by a comparison.
    let _ = fs::remove_file(mirror.sandbox.path().join("trap"));
    rescan(&mirror.agent);
    mirror.agent.wait_synced(LONG);
    mirror.sandbox.wait_equal(LONG);
    outside.expect_untouched();
}

#[test]
fn a_directory_of_the_module_becomes_a_link() {
    race_at_the_receiver("d", "");
}

#[test]
fn a_directory_further_down_becomes_a_link() {
    race_at_the_receiver("d/deep", "deep");
}

#[test]
fn a_file_of_the_module_becomes_a_link() {
    race_at_the_receiver("d/one", "one");
}

#[test]
fn the_receivers_own_directory_becomes_a_link() {
    race_at_the_receiver(".syncd", "");
}

/// Races at the agent: nothing of the outside is read, or ever seen at the target.
#[track_caller]
fn race_at_the_agent(inside: &str, target: &str) {
    let sandbox = Sandbox::new();
    fill(&sandbox.src().join("d"));
    let outside = Outside::new(sandbox.path().join("outside"), &NAMES);
    let receiver = sandbox.receiver().start();
    let trap = trap(&sandbox, &outside.dir.join(target));
    let swap = Swap::between(sandbox.src().join(inside), trap.clone());
    // From the very first comparison on.
    let agent = patient(sandbox.agent(&receiver)).start();
    swap.race(|turn| {
        // Beside what is exchanged, so that the test itself is not led outside.
        change(&sandbox.src(), turn);
        if turn % 20 == 0 {
            rescan(&agent);
        }
        expect_no_secret(&sandbox.dst());
    });
    outside.expect_untouched();
    let _ = fs::remove_file(trap);
    rescan(&agent);
    agent.wait_synced(LONG);
    sandbox.wait_equal(LONG);
    expect_no_secret(&sandbox.dst());
    outside.expect_untouched();
}

/// Looks at every file that is not a link, the receiver's own directory too. What the agent saw is mirrored, links
/// included: by path, this would be led outside itself.
#[track_caller]
fn expect_no_secret(dir: &Path) {
    let dir = rustix::fs::open(dir, UNFOLLOWED | OFlags::DIRECTORY, Mode::empty());
    if let Some(path) = place_of_secret(&dir.expect("the mirror")) {
        panic!("{path} has the secret");
    }
}

fn place_of_secret(dir: &OwnedFd) -> Option<String> {
    for entry in Dir::read_from(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Ok(opened) = rustix::fs::openat(dir, name, UNFOLLOWED, Mode::empty()) else {
            continue;
        };
        let mut content = Vec::new();
        let found =
            match rustix::fs::fstat(&opened).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                Ok(FileType::Directory) if !matches!(name.to_bytes(), b"." | b"..") => {
                    place_of_secret(&opened)
                }
                Ok(FileType::RegularFile) => {
                    let _ = fs::File::from(opened).read_to_end(&mut content);
                    let secret = SECRET.as_bytes();
                    let has = content.windows(secret.len()).any(|part| part == secret);
                    has.then(String::new)
                }
                _ => None,
            };
        if let Some(below) = found {
            return Some(format!("{}/{below}", name.to_string_lossy()));
        }
    }
    None
}

const UNFOLLOWED: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

#[test]
fn a_directory_of_the_source_becomes_a_link() {
    race_at_the_agent("d", "");
}

#[test]
fn a_directory_of_the_source_further_down_becomes_a_link() {
    race_at_the_agent("d/deep", "deep");
}

#[test]
fn a_file_of_the_source_becomes_a_link() {
    race_at_the_agent("d/one", "one");
}

/// What can be changed of a file without another name.
fn state(path: &Path) -> (Vec<u8>, u32, u32, u32, i64, i64) {
    let found = fs::symlink_metadata(path).expect("metadata");
    let content = match found.is_symlink() {
        true => fs::read_link(path)
            .expect("target")
            .as_os_str()
            .as_bytes()
            .to_vec(),
        false => fs::read(path).expect("content"),
    };
    (
        content,
        found.mode(),
        found.uid(),
        found.gid(),
        found.mtime(),
        found.mtime_nsec(),
    )
}

/// Puts a hard link to `outside` in the place of a name of the module.
fn plant(outside: &Path, place: &Path) {
    let beside = outside.with_extension("planted");
    fs::hard_link(outside, &beside).expect("hard link");
    fs::rename(&beside, place).expect("rename");
}

#[test]
fn a_file_linked_into_the_module_is_replaced_and_never_changed() {
    let mirror = Mirror::start();
    let outside = mirror.sandbox.path().join("outside");
    for (name, restart) in [("live", false), ("later", true)] {
        let text = "the same content in both\n";
        fs::write(mirror.src(name), text).expect("file");
        mirror.settle();
        fs::write(&outside, text).expect("outside");
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o640)).expect("chmod");
        let before = state(&outside);
        plant(&outside, &mirror.dst(name));
        if restart {
            // A worker that remembers nothing, and a comparison that finds metadata to be set.
            mirror.receiver.kill_workers();
        }
        fs::set_permissions(mirror.src(name), fs::Permissions::from_mode(0o777)).expect("chmod");
        rescan(&mirror.agent);
        mirror.settle();
        assert_eq!(state(&outside), before, "{name}");
        // New content goes to a file of our own in any case.
        plant(&outside, &mirror.dst(name));
        fs::write(mirror.src(name), "new content, longer than before\n").expect("file");
        mirror.settle();
        assert_eq!(state(&outside), before, "{name}");
    }
}

#[test]
fn a_link_linked_into_the_module_is_replaced_and_never_changed() {
    let mirror = Mirror::start();
    let outside = mirror.sandbox.path().join("outside");
    symlink("target", mirror.src("link")).expect("symlink");
    mirror.settle();
    symlink("target", &outside).expect("outside");
    let before = state(&outside);
    plant(&outside, &mirror.dst("link"));
    rescan(&mirror.agent);
    mirror.settle();
    assert_eq!(state(&outside), before);
}

#[test]
fn names_that_are_one_file_at_the_source_stay_one_when_it_changes() {
    let mirror = Mirror::start();
    fs::write(mirror.src("a"), "one file\n").expect("file");
    fs::hard_link(mirror.src("a"), mirror.src("b")).expect("link");
    mirror.settle();
    for (mode, restart) in [(0o640, false), (0o600, true), (0o644, false)] {
        if restart {
            mirror.receiver.kill_workers();
        }
        fs::set_permissions(mirror.src("a"), fs::Permissions::from_mode(mode)).expect("chmod");
        mirror.settle();
        let inode = |name: &str| fs::metadata(mirror.dst(name)).expect("metadata").ino();
        assert_eq!(inode("a"), inode("b"), "{mode:o}");
    }
}
