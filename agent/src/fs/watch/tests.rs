//! Both backends on real directories. Nothing sleeps: a barrier says when everything was told.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::RwLock;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use syncd_proto::meta::Kind;
use tempfile::TempDir;

use super::*;
use crate::fs::root::SourceRoot;
use crate::fs::scan::list;

const BACKENDS: [Backend; 2] = [Backend::Notify, Backend::Inotify];

fn path(text: &str) -> WirePath {
    WirePath::from_relative(text.as_ref()).unwrap()
}

/// Does what the agent does: watches, then lists, each directory it hears of.
struct Driver {
    dir: TempDir,
    root: SourceRoot,
    watcher: Box<dyn Watcher>,
    events: Receiver<RawEvent>,
    /// Every path that was reported or listed.
    seen: HashSet<WirePath>,
    /// What was told since the last look, without barriers.
    told: Vec<RawEvent>,
    entered: usize,
    /// What was entered last is settled when this barrier was told: until then, renames that were told
    /// may be older than what was listed.
    settled_by: u64,
    barrier_told: u64,
    /// Everything is to be entered again.
    shaken: bool,
}

/// The length of the kernel's queue, the same for all watchers of a machine.
const QUEUE: &str = "/proc/sys/fs/inotify/max_queued_events";

/// It counts when a watcher starts: who changes it is alone, and nobody starts meanwhile, in this program or in
/// another one that runs tests.
fn queue_limit(operation: FlockOperation) -> File {
    let lock = File::open(QUEUE).unwrap();
    rustix::fs::flock(&lock, operation).unwrap();
    lock
}

fn start_usual(root: &Path, backend: Backend, sink: Box<dyn Sink>) -> Box<dyn Watcher> {
    let _usual = queue_limit(FlockOperation::LockShared);
    start(root, backend, sink).unwrap()
}

/// Until it has become another program, a child has every file open that its parent has: one that is closed
/// meanwhile is closed for others when the child lets go of it. Who starts a child waits for whoever writes.
static WRITERS: RwLock<()> = RwLock::new(());

fn write(at: &Path) {
    let _no_child = WRITERS.read().unwrap();
    fs::write(at, "x").unwrap();
}

fn shell(dir: &Path, command: &str) -> Child {
    let _no_writer = WRITERS.write().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).current_dir(dir);
    shell.spawn().unwrap()
}

impl Driver {
    fn start(backend: Backend) -> Self {
        Self::on(tempfile::tempdir().unwrap(), backend)
    }

    fn on(dir: TempDir, backend: Backend) -> Self {
        let (sender, events) = mpsc::sync_channel(1 << 17);
        let sink = move |event| drop(sender.send(event));
        let watcher = start_usual(dir.path(), backend, Box::new(sink));
        let mut driver = Self {
            root: SourceRoot::open(dir.path()).unwrap(),
            dir,
            watcher,
            events,
            seen: HashSet::new(),
            told: Vec::new(),
            entered: 0,
            settled_by: 0,
            barrier_told: 0,
            shaken: false,
        };
        driver.enter(&WirePath::root());
        driver.settle();
        driver.told.clear();
        driver
    }

    fn at(&self, text: &str) -> PathBuf {
        self.dir.path().join(text)
    }

    fn enter(&mut self, path: &WirePath) {
        let mut left = vec![path.clone()];
        while let Some(path) = left.pop() {
            self.entered += 1;
            match self.watcher.watch(&path) {
                Ok(_) | Err(WatchError::Gone) => {}
                Err(error) => panic!("{path}: {error}"),
            }
            let listing = list(&self.root, &path).unwrap().unwrap_or_default();
            for (below, entry) in listing.entries {
                self.seen.insert(below.clone());
                if entry.kind == Kind::Dir {
                    left.push(below);
                }
            }
        }
        self.settled_by = self.watcher.barrier().unwrap();
    }

    fn take(&mut self, event: RawEvent) {
        match &event {
            RawEvent::Touched { path, touch, dir } => {
                self.seen.insert(path.clone());
                if *dir && matches!(touch, Touch::Created | Touch::MovedIn) {
                    self.enter(path);
                }
            }
            RawEvent::Renamed { from, to, dir } => {
                let moved = |path: &WirePath| to.join_path(&path.strip_prefix(from)?);
                let known = std::mem::take(&mut self.seen).into_iter();
                self.seen = known.map(|path| moved(&path).unwrap_or(path)).collect();
                self.seen.insert(to.clone());
                let is_settled = self.barrier_told >= self.settled_by;
                if *dir && !is_settled {
                    self.enter(from);
                    self.enter(to);
                }
            }
            RawEvent::Barrier(number) => self.barrier_told = *number,
            RawEvent::Overflow | RawEvent::Unheard => self.shaken = true,
            _ => {}
        }
        if !matches!(event, RawEvent::Barrier(_)) {
            self.told.push(event);
        }
    }

    /// Takes everything that happened before now.
    fn pump(&mut self) {
        let number = self.watcher.barrier().unwrap();
        loop {
            let event = self.events.recv_timeout(Duration::from_secs(60)).unwrap();
            let is_last = event == RawEvent::Barrier(number);
            self.take(event);
            if is_last {
                break;
            }
        }
        if std::mem::take(&mut self.shaken) {
            self.watcher.refresh().unwrap();
            self.enter(&WirePath::root());
            self.watcher.tidy();
        }
    }

    /// Until no new directory turns up any more.
    fn settle(&mut self) -> Vec<RawEvent> {
        loop {
            let before = self.entered;
            self.pump();
            if self.entered == before {
                return std::mem::take(&mut self.told);
            }
        }
    }

    /// Takes events while `command` runs, then the rest.
    fn run(&mut self, command: &str) -> Vec<RawEvent> {
        let mut child = shell(self.dir.path(), command);
        loop {
            self.pump();
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{command}");
                return self.settle();
            }
        }
    }

    fn is_told(&self, told: &[RawEvent], at: &str, what: Touch) -> bool {
        let at = path(at);
        told.iter().any(|event| {
            matches!(event, RawEvent::Touched { path, touch, .. } if *path == at && *touch == what)
        })
    }

    /// Every file that is there was reported or listed.
    fn assert_complete(&self) {
        let mut missing = Vec::new();
        let mut left = vec![WirePath::root()];
        while let Some(path) = left.pop() {
            for (below, entry) in list(&self.root, &path).unwrap().unwrap().entries {
                if !self.seen.contains(&below) {
                    missing.push(below.clone());
                }
                if entry.kind == Kind::Dir {
                    left.push(below);
                }
            }
        }
        assert!(
            missing.is_empty(),
            "{} missed: {:?}",
            missing.len(),
            &missing[..1]
        );
    }

    /// A write in `at` is told under that path.
    fn assert_hears(&mut self, at: &str) {
        self.settle();
        write(&self.at(at));
        let told = self.settle();
        assert!(self.is_told(&told, at, Touch::Written), "{at}: {told:?}");
    }
}

fn make_tree(at: &Path, dirs: usize, files: usize) {
    for n in 0..dirs {
        let dir = at.join(format!("d{}/e{}/f{n}", n % 7, n % 31));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..files / dirs {
            write(&dir.join(format!("file{file}")));
        }
    }
}

fn size() -> (usize, usize) {
    if cfg!(debug_assertions) {
        (300, 2_000)
    } else {
        (3_000, 20_000)
    }
}

#[test]
fn nothing_is_missed_when_directories_are_made_and_filled_at_once() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        driver.run("for i in $(seq 200); do mkdir -p a$i/b/c && echo x > a$i/b/c/f; done");
        assert!(driver.seen.contains(&path("a200/b/c/f")));
        driver.assert_complete();
        assert_eq!(driver.watcher.watched(), 601);
    }
}

#[test]
fn nothing_is_missed_of_a_copied_tree() {
    let (dirs, files) = size();
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), dirs, files);
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        driver.run(&format!("cp -r {} copy", source.path().display()));
        driver.assert_complete();
        assert!(driver.seen.len() > files * 9 / 10);
        driver.run(&format!("tar c -C {} . | tar x", source.path().display()));
        driver.assert_complete();
    }
}

#[test]
fn a_renamed_directory_is_told_as_such_and_heard_under_its_new_name() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        driver.run("mkdir -p a/b/c z");
        let told = driver.run("mv a z/new");
        let renamed = RawEvent::Renamed {
            from: path("a"),
            to: path("z/new"),
            dir: true,
        };
        assert!(told.contains(&renamed), "{told:?}");
        assert!(
            !told.iter().any(|event| matches!(
                event,
                RawEvent::Touched {
                    touch: Touch::MovedOut | Touch::Removed,
                    ..
                }
            )),
            "{told:?}"
        );
        driver.assert_hears("z/new/b/c/f");
        driver.run("mv z y");
        driver.assert_hears("y/new/b/c/g");
        assert_eq!(driver.watcher.watched(), 5);
    }
}

#[test]
fn a_renamed_file_is_one_event() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        driver.run("echo x > f; echo y > g");
        let told = driver.run("mv f g");
        let renamed = RawEvent::Renamed {
            from: path("f"),
            to: path("g"),
            dir: false,
        };
        assert_eq!(told, [renamed]);
    }
}

#[test]
fn a_directory_moved_out_goes_silent_and_one_moved_in_is_heard() {
    for backend in BACKENDS {
        let outside = tempfile::tempdir().unwrap();
        let mut driver = Driver::start(backend);
        driver.run("mkdir -p a/b/c");
        let out = outside.path().join("a");
        let told = driver.run(&format!("mv a {}", out.display()));
        assert!(driver.is_told(&told, "a", Touch::MovedOut), "{told:?}");
        assert_eq!(driver.watcher.watched(), 1);
        write(&out.join("b/c/f"));
        assert_eq!(driver.settle(), []);
        let told = driver.run(&format!("mv {} back", out.display()));
        assert!(driver.is_told(&told, "back", Touch::MovedIn), "{told:?}");
        driver.assert_complete();
        driver.assert_hears("back/b/c/g");
        assert_eq!(driver.watcher.watched(), 4);
    }
}

#[test]
fn a_removed_tree_takes_its_watches_along() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        make_tree(&driver.at("tree"), 100, 200);
        driver.settle();
        assert!(driver.watcher.watched() > 100);
        let told = driver.run("rm -rf tree");
        assert!(driver.is_told(&told, "tree", Touch::Removed));
        assert_eq!(driver.watcher.watched(), 1);
        driver.run("mkdir tree");
        driver.assert_hears("tree/again");
    }
}

#[test]
fn what_is_at_a_reused_name_is_heard() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        driver.run("mkdir -p d/e");
        driver.run("for i in $(seq 50); do mv d old$i; mkdir -p d/e; echo x > d/e/f$i; done");
        driver.assert_complete();
        driver.assert_hears("d/e/f");
        driver.assert_hears("old1/e/f");
        driver.assert_hears("old50/e/f");
        driver.run("mkdir -p p/in q; for i in $(seq 50); do rm -rf q; mv p q; mkdir -p p/in; done");
        driver.assert_complete();
        driver.assert_hears("p/in/f");
        driver.assert_hears("q/in/f");
    }
}

#[test]
fn exchanged_directories_are_heard_under_their_new_names() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let mut driver = Driver::start(Backend::Inotify);
    driver.run("mkdir -p a/in-a b/in-b");
    for _ in 0..3 {
        let (a, b) = (driver.at("a"), driver.at("b"));
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
    }
    driver.settle();
    driver.assert_hears("b/in-a/f");
    driver.assert_hears("a/in-b/f");
    assert_eq!(driver.watcher.watched(), 5);
}

#[test]
fn a_watch_set_before_the_rename_was_told_stays() {
    // The caller is ahead of the events: it finds the directories under names not yet told.
    let mut driver = Driver::start(Backend::Inotify);
    driver.run("mkdir -p a/in b");
    for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
        fs::rename(driver.at(from), driver.at(to)).unwrap();
        for at in ["a", "b", "c", "b/in"] {
            let _ = driver.watcher.watch(&path(at));
        }
    }
    driver.settle();
    driver.assert_hears("b/in/f");
    driver.assert_hears("b/f");
    driver.assert_hears("a/f");
    assert_eq!(driver.watcher.watched(), 4);
}

#[test]
fn symlinks_and_files_are_not_watched() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("below")).unwrap();
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        std::os::unix::fs::symlink(outside.path(), driver.at("link")).unwrap();
        driver.run("echo x > file");
        for bad in ["link", "link/below", "file", "absent"] {
            let watched = driver.watcher.watch(&path(bad));
            assert!(
                matches!(watched, Err(WatchError::Gone)),
                "{bad}: {watched:?}"
            );
        }
        write(&outside.path().join("below/f"));
        assert_eq!(driver.settle(), []);
        assert_eq!(driver.watcher.watched(), 1);
    }
}

#[test]
fn what_happens_to_a_file_is_told_by_kind() {
    use std::io::Write;
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        let mut file = File::create(driver.at("log")).unwrap();
        file.write_all(b"one").unwrap();
        let told = driver.settle();
        assert!(driver.is_told(&told, "log", Touch::Created));
        assert!(driver.is_told(&told, "log", Touch::Modified));
        assert!(!driver.is_told(&told, "log", Touch::Written));
        {
            let _no_child = WRITERS.read().unwrap();
            drop(file);
        }
        let told = driver.run("chmod 600 log");
        assert!(driver.is_told(&told, "log", Touch::Written));
        assert!(driver.is_told(&told, "log", Touch::Attrib));
        let told = driver.run("cat log > /dev/null; ls > /dev/null");
        assert_eq!(told, [], "reading is no event");
        let told = driver.run("rm log");
        assert!(driver.is_told(&told, "log", Touch::Removed));
    }
}

#[test]
fn a_forgotten_directory_is_silent_until_it_is_watched_again() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        driver.run("mkdir -p a/b");
        driver.watcher.forget(&path("a"));
        assert_eq!(driver.watcher.watched(), 1);
        driver.run("echo x > a/b/f");
        driver.watcher.forget(&path("a"));
        assert_eq!(driver.watcher.watch(&path("a/b")).unwrap(), Watched::New);
        driver.assert_hears("a/b/g");
        assert_eq!(
            driver.watcher.watch(&path("a/b")).unwrap(),
            Watched::Already
        );
    }
}

#[test]
fn a_root_that_goes_is_told_as_such() {
    for backend in BACKENDS {
        for command in ["mv root away", "rm -r root"] {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("root");
            fs::create_dir(&at).unwrap();
            let (sender, events) = mpsc::sync_channel(1 << 17);
            let sink = move |event| drop(sender.send(event));
            let mut watcher = start_usual(&at, backend, Box::new(sink));
            assert!(shell(dir.path(), command).wait().unwrap().success());
            watcher.barrier().unwrap();
            let first = events.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(first, RawEvent::RootGone, "{backend:?} {command}");
        }
    }
}

#[test]
fn barriers_come_after_everything_before_them_and_in_order() {
    for backend in BACKENDS {
        let mut driver = Driver::start(backend);
        let mut last = 0;
        for n in 0..200 {
            write(&driver.at(&format!("f{n}")));
            last = driver.watcher.barrier().unwrap();
        }
        let (mut files, mut barriers) = (0, 0);
        while barriers < last {
            match driver.events.recv_timeout(Duration::from_secs(60)).unwrap() {
                RawEvent::Touched {
                    touch: Touch::Written,
                    ..
                } => files += 1,
                RawEvent::Barrier(number) => {
                    assert!(number > barriers);
                    barriers = number;
                    assert_eq!(files, 200 - (last - number), "{backend:?}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_dropped_watcher_drops_its_sink() {
    for backend in BACKENDS {
        let driver = Driver::start(backend);
        let Driver {
            watcher, events, ..
        } = driver;
        drop(watcher);
        let started = Instant::now();
        while events.recv_timeout(Duration::from_secs(60)).is_ok() {}
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn the_limit_is_named_with_a_better_value() {
    let WatchError::LimitReached { text } = io::Error::from(rustix::io::Errno::NOSPC).into() else {
        panic!("not the limit");
    };
    assert!(
        text.contains("sysctl fs.inotify.max_user_watches="),
        "{text}"
    );
}

/// Makes more events than the queue holds while nobody reads: the sink is kept busy.
#[test]
fn an_overflow_is_told_and_what_was_lost_is_found_again() {
    for backend in BACKENDS {
        let lock = queue_limit(FlockOperation::LockExclusive);
        let usual = fs::read_to_string(QUEUE).unwrap();
        // The limit counts at the start of an instance; without the right to lower it, make more.
        let lowered = fs::write(QUEUE, "200").is_ok();
        let gate = std::sync::Arc::new(std::sync::Mutex::new(()));
        let (sender, events) = mpsc::sync_channel(1 << 17);
        let sink_gate = std::sync::Arc::clone(&gate);
        let sink = move |event| {
            drop(sink_gate.lock().unwrap());
            drop(sender.send(event));
        };
        let dir = tempfile::tempdir().unwrap();
        let started = start(dir.path(), backend, Box::new(sink));
        fs::write(QUEUE, &usual).unwrap_or_default();
        drop(lock);
        let many = if lowered { 2_000 } else { 100_000 };
        let mut driver = Driver {
            root: SourceRoot::open(dir.path()).unwrap(),
            dir,
            watcher: started.unwrap(),
            events,
            seen: HashSet::new(),
            told: Vec::new(),
            entered: 0,
            settled_by: 0,
            barrier_told: 0,
            shaken: false,
        };
        driver.run("mkdir -p keep/in gone/in lost/in/deep");
        let closed = gate.lock().unwrap();
        for n in 0..many {
            write(&driver.at(&format!("f{n}")));
        }
        fs::rename(driver.at("keep"), driver.at("kept")).unwrap();
        fs::remove_dir_all(driver.at("gone")).unwrap();
        fs::create_dir_all(driver.at("gone/in")).unwrap();
        fs::remove_dir_all(driver.at("lost")).unwrap();
        // The notify backend holds its lock while it tells, so there it cannot be asked now.
        let is_free = backend == Backend::Inotify;
        let lost = is_free.then(|| driver.watcher.barrier().unwrap());
        drop(closed);
        while !driver.told.contains(&RawEvent::Overflow) {
            let event = driver.events.recv_timeout(Duration::from_secs(60)).unwrap();
            let is_early = lost.is_some_and(|lost| event == RawEvent::Barrier(lost));
            assert!(!is_early, "a barrier before the overflow");
            driver.take(event);
        }
        driver.settle();
        driver.assert_complete();
        driver.assert_hears("kept/in/f");
        driver.assert_hears("gone/in/f");
        // The end of their watches was lost too.
        if let Some(backlog) = driver.watcher.backlog() {
            assert!(backlog.hear(Duration::from_secs(60)));
        }
        assert_eq!(driver.watcher.watched(), 5, "{backend:?}");
    }
}

/// Prints what watching costs: `cargo test --release -p syncd-agent --lib measure -- --nocapture`,
/// with `MEASURE_DIRS` for a large tree.
#[test]
fn measure_watching_and_check_its_memory() {
    let dirs: usize = std::env::var("MEASURE_DIRS").map_or(2_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    for n in 0..dirs / 100 {
        for m in 0..99 {
            fs::create_dir_all(dir.path().join(format!("some-dir-{n}/below-{m}"))).unwrap();
        }
    }
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    };
    let (sender, events) = mpsc::sync_channel(1 << 17);
    let sink = move |event| drop(sender.send(event));
    let mut watcher = start_usual(dir.path(), Backend::Inotify, Box::new(sink));
    let root = SourceRoot::open(dir.path()).unwrap();
    let (before, started) = (resident(), Instant::now());
    let mut left = vec![WirePath::root()];
    let mut watch_time = Duration::ZERO;
    while let Some(at) = left.pop() {
        let one = Instant::now();
        watcher.watch(&at).unwrap();
        watch_time += one.elapsed();
        for (below, entry) in list(&root, &at).unwrap().unwrap().entries {
            if entry.kind == Kind::Dir {
                left.push(below);
            }
        }
    }
    let (watched, bytes) = (watcher.watched(), watcher.bytes_estimate());
    println!(
        "{watched} directories: watch+list {:?}, of which watch {watch_time:?}; {} bytes each by our count; resident +{} KiB",
        started.elapsed(),
        bytes / watched,
        resident().saturating_sub(before),
    );
    assert!(bytes / watched < 150, "{bytes} bytes for {watched}");
    let started = Instant::now();
    fs::remove_dir_all(dir.path()).unwrap_or_default();
    let removed = started.elapsed();
    let number = watcher.barrier().unwrap();
    let mut told = 0;
    while events.recv_timeout(Duration::from_secs(60)).unwrap() != RawEvent::Barrier(number) {
        told += 1;
    }
    println!(
        "rm {removed:?}, told {told} events {:?} after it began",
        started.elapsed()
    );
}
