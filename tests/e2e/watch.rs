//! Change detection under what real programs do: nothing is missed, and nothing is sent twice. With both backends
//! where they could differ.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};
use rustix::process::Signal;
use syncd_tests::require::Need;
use syncd_tests::workload::many_small;
use syncd_tests::{Exit, Sandbox, require, wait_until};

use crate::common::{LONG, Mirror, noise, scaled, tool, wait_content};

/// A mirror over each backend in turn.
#[track_caller]
fn with_both(test: impl Fn(&Mirror)) {
    for backend in ["inotify", "notify"] {
        eprintln!("backend {backend}");
        test(&Mirror::with(Sandbox::new(), |agent| {
            agent.arg("--backend").arg(backend)
        }));
    }
}

impl Mirror {
    /// Bytes on the wire that a change costs.
    #[track_caller]
    fn price(&self, change: impl FnOnce()) -> u64 {
        let before = self.bytes_sent();
        change();
        self.settle();
        self.bytes_sent() - before
    }

    #[track_caller]
    fn count(&self, name: &str) -> u64 {
        self.target()[name].as_u64().expect("a number")
    }

    #[track_caller]
    fn mv(&self, from: &str, to: &str) {
        fs::rename(self.src(from), self.src(to)).expect("mv");
    }

    #[track_caller]
    fn swap(&self, one: &str, other: &str) {
        let (one, other) = (self.src(one), self.src(other));
        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchange");
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) {
        fs::write(self.src(name), text).expect("write");
    }

    /// Waits until the mirror has this much; what happened before was noticed too.
    #[track_caller]
    fn overtake(&self, name: &str) {
        self.write(name, name);
        wait_content(&self.dst(name), name.as_bytes());
    }
}

/// Does something over and over in a thread while `meanwhile` runs.
fn during(work: impl Fn(u64) + Sync, meanwhile: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                work(round);
                round += 1;
            }
        });
        meanwhile();
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn directories_made_and_filled_at_once() {
    with_both(|mirror| {
        let script = format!(
            "for i in $(seq {}); do mkdir -p a$i/b/c && echo $i > a$i/b/c/f; done",
            scaled(200, 1000)
        );
        tool("sh", &["-ec", &script], &mirror.sandbox.src());
        mirror.settle();
    });
}

#[test]
fn copied_and_unpacked_trees() {
    let from = tempfile::tempdir().expect("directory");
    let dirs = scaled(60, 3000);
    for dir in 0..dirs {
        let at = from
            .path()
            .join(format!("tree/d{}/e{}/f{dir}", dir % 7, dir % 31));
        fs::create_dir_all(&at).expect("mkdir");
        for file in 0..7 {
            fs::write(at.join(format!("file{file}")), format!("{dir} {file}")).expect("write");
        }
    }
    tool("tar", &["cf", "archive.tar", "tree"], from.path());
    let text = |name: &str| from.path().join(name).to_str().expect("text").to_owned();
    let (tree, archive) = (text("tree"), text("archive.tar"));
    with_both(|mirror| {
        tool("cp", &["-r", &tree, "copy"], &mirror.sandbox.src());
        mirror.settle();
        tool("tar", &["xf", &archive], &mirror.sandbox.src());
        mirror.settle();
        tool("rm", &["-rf", "copy"], &mirror.sandbox.src());
        tool("tar", &["xf", &archive], &mirror.sandbox.src());
        mirror.settle();
    });
}

#[test]
fn swaps_and_chains_on_each_others_heels() {
    with_both(|mirror| {
        for name in ["a", "b", "c"] {
            mirror.write(name, &name.repeat(50));
            many_small(&mirror.src(format!("dir-{name}")), 2, 4, 60).expect("files");
            mirror.write(&format!("dir-{name}/who"), name);
        }
        mirror.settle();
        for round in 0..scaled(10, 300) {
            mirror.swap("a", "b");
            mirror.swap("dir-a", "dir-b");
            mirror.write("dir-a/who", &format!("{round}"));
            for dir in ["", "dir-"] {
                let name = |letter: &str| format!("{dir}{letter}");
                // a -> b -> c -> a, round the corner.
                mirror.mv(&name("a"), &name("t"));
                mirror.mv(&name("c"), &name("a"));
                mirror.mv(&name("b"), &name("c"));
                mirror.mv(&name("t"), &name("b"));
                // Only the case differs.
                mirror.mv(&name("a"), &name("A"));
                mirror.mv(&name("A"), &name("a"));
            }
            mirror.swap("c", "dir-c");
            mirror.swap("dir-c", "c");
            if round % 3 == 0 {
                mirror.settle();
            }
        }
        mirror.settle();
    });
}

#[test]
fn a_directory_is_swapped_with_anything() {
    with_both(|mirror| {
        many_small(&mirror.src("dir"), 2, 4, 60).expect("files");
        mirror.write("file", "no directory");
        symlink("dir", mirror.src("link")).expect("link");
        mirror.settle();
        for other in ["file", "link"] {
            // What has the first name is told of first: the directory, and then the other one.
            for _ in 0..2 {
                mirror.swap("dir", other);
                mirror.settle();
            }
        }
    });
}

#[test]
fn case_only_renames() {
    with_both(|mirror| {
        many_small(&mirror.src("readme"), 2, 5, 100).expect("files");
        mirror.write("Makefile", "all:");
        mirror.settle();
        let cost = mirror.price(|| mirror.mv("readme", "README"));
        assert!(cost < 4_000, "{cost} bytes");
        mirror.mv("Makefile", "makefile");
        mirror.settle();
        mirror.write("README/d00000/f00001", "heard under the new name");
        mirror.settle();
    });
}

#[test]
fn trees_and_files_come_from_outside_and_go_there() {
    with_both(|mirror| {
        mirror.write("stays", "here");
        // A source that is empty for a moment would have its deletes held.
        mirror.write("too", "here");
        let outside = mirror.sandbox.path().join("outside");
        many_small(&outside.join("tree"), 5, 10, 80).expect("files");
        fs::write(outside.join("file"), "from outside").expect("write");
        for round in 0..scaled(6, 100) {
            for name in ["tree", "file"] {
                fs::rename(outside.join(name), mirror.src(name)).expect("in");
            }
            mirror.write("tree/d00001/f00001", &format!("{round}"));
            if round % 2 == 0 {
                mirror.settle();
            }
            // Over what is there, and over an empty directory.
            mirror.mv("file", "stays");
            fs::create_dir(mirror.src("empty")).expect("mkdir");
            mirror.mv("tree", "empty");
            mirror.write("empty/d00002/f00002", &format!("{round}"));
            mirror.settle();
            fs::rename(mirror.src("empty"), outside.join("tree")).expect("out");
            fs::rename(mirror.src("stays"), outside.join("file")).expect("out");
            fs::write(outside.join("tree/d00001/f00003"), "not seen").expect("write");
            mirror.write("stays", "again");
            mirror.settle();
        }
    });
}

#[test]
fn a_directory_that_moves_while_its_files_change() {
    with_both(|mirror| {
        many_small(&mirror.src("here/tree"), scaled(20, 250), 20, 120).expect("files");
        fs::create_dir(mirror.src("there")).expect("mkdir");
        mirror.settle();
        for name in ["here", "there"] {
            // Whoever writes has the directory open, as a program with a working directory has.
            let tree = File::open(mirror.src("here/tree")).expect("the tree");
            let write = |round: u64| {
                let name = format!("d{:05}/f{:05}", round % 5, round % 20);
                let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC;
                let file = rustix::fs::openat(&tree, name, flags, rustix::fs::Mode::empty());
                let text = format!("round {round}");
                File::from(file.expect("open"))
                    .write_all(text.as_bytes())
                    .expect("write");
                thread::yield_now();
            };
            during(write, || {
                for _ in 0..scaled(15, 300) {
                    mirror.mv("here/tree", "there/tree");
                    mirror.overtake("stays");
                    mirror.mv("there/tree", "here/tree");
                }
            });
            mirror.write(&format!("{name}/last"), "one");
            mirror.settle();
        }
    });
}

#[test]
fn what_lives_for_a_millisecond_leaves_nothing() {
    with_both(|mirror| {
        mirror.write("stays", "here");
        for number in 0..scaled(300, 10_000) {
            let path = mirror.src(format!("short-{number}"));
            fs::write(&path, "lived").expect("write");
            fs::remove_file(&path).expect("remove");
            let path = mirror.src(format!("dir-{number}"));
            fs::create_dir(&path).expect("mkdir");
            fs::remove_dir(&path).expect("rmdir");
        }
        mirror.settle();
        assert_eq!(mirror.count("failed_total"), 0);
        mirror.wait_staging_empty();
    });
}

#[test]
fn a_new_directory_has_the_time_of_what_came_and_went_in_it() {
    with_both(|mirror| {
        for number in 0..scaled(300, 3_000) {
            let dir = mirror.src(format!("d{number}"));
            fs::create_dir(&dir).expect("mkdir");
            // Now before it is looked at, now before it is watched, now after that.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(10 * (number as u64 % 300)) {
                std::hint::spin_loop();
            }
            fs::write(dir.join("f"), "").expect("write");
            fs::remove_file(dir.join("f")).expect("remove");
        }
        mirror.settle();
    });
}

#[test]
fn a_path_changes_its_type_all_the_time() {
    with_both(|mirror| {
        mirror.write("stays", "here");
        for round in 0..scaled(60, 10_000) {
            mirror.write("x", &format!("{round}"));
            fs::remove_file(mirror.src("x")).expect("rm");
            fs::create_dir_all(mirror.src("x/y")).expect("mkdir");
            mirror.write("x/y/f", &format!("{round}"));
            fs::remove_dir_all(mirror.src("x")).expect("rm");
            symlink("stays", mirror.src("x")).expect("symlink");
            if round % 20 == 0 {
                mirror.settle();
            }
            fs::remove_file(mirror.src("x")).expect("rm");
            make_fifo(&mirror.src("x"));
            fs::remove_file(mirror.src("x")).expect("rm");
        }
        mirror.write("x", "a file in the end");
        mirror.settle();
    });
}

/// A fifo: nobody may ever open it for reading, or it waits for ever.
fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, mode, 0).expect("mkfifo");
}

#[test]
fn a_created_file_is_not_sent_before_it_is_written() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        agent.arg("--hold-max-ms").arg("60000")
    });
    let mut file = File::create(mirror.src("made")).expect("create");
    mirror.overtake("one");
    mirror.overtake("two");
    assert!(!mirror.dst("made").exists(), "sent when it was made");
    file.write_all(b"content").expect("write");
    drop(file);
    mirror.settle();
    assert_eq!(mirror.count("files"), 3, "made, one, two");
}

#[test]
fn a_thousand_writes_to_a_file_in_flight_are_one_more_send() {
    with_both(|mirror| {
        mirror.write("hot", "first");
        mirror.settle();
        let before = mirror.count("files");
        // Nothing is acknowledged while the receiver and its worker stand still.
        let stopped = mirror.receiver.workers();
        let signal = |signal: Signal| {
            for pid in &stopped {
                let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).expect("pid"));
                rustix::process::kill_process(pid.expect("pid"), signal).expect("signal");
            }
        };
        signal(Signal::STOP);
        mirror.write("hot", "on its way");
        wait_until(LONG, "it is on its way", || mirror.count("in_flight") > 0);
        wait_until(LONG, "it left the queue", || mirror.count("dirty") == 0);
        for round in 0..1_000 {
            mirror.write("hot", &format!("write {round}"));
        }
        signal(Signal::CONT);
        mirror.settle();
        let sent = mirror.count("files") - before;
        assert!(sent <= 2, "sent {sent} times");
    });
}

#[test]
fn touches_and_rewrites_of_the_same_cost_no_content() {
    let mirror = Mirror::start();
    let content = noise(3 << 20, 7);
    fs::write(mirror.src("large"), &content).expect("write");
    mirror.settle();
    let cost = mirror.price(|| tool("touch", &["large"], &mirror.sandbox.src()));
    assert!(cost < 3_000, "{cost} bytes for a touch");
    let cost = mirror.price(|| fs::write(mirror.src("large"), &content).expect("write"));
    assert!(cost < 8_000, "{cost} bytes for a rewrite");
}

#[test]
fn logs_that_grow_and_are_rotated() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        agent
            .arg("--hold-max-ms")
            .arg("300")
            .arg("--settle-ms")
            .arg("50")
    });
    let log = mirror.src("app.log");
    let open = || {
        let file = OpenOptions::new().append(true).create(true).open(&log);
        file.expect("open")
    };
    let mut file = open();
    for round in 0..scaled(4, 40) {
        for line in 0..200 {
            writeln!(file, "round {round} line {line}").expect("append");
        }
        // copytruncate: the writer goes on in the same file.
        fs::copy(&log, mirror.src("app.log.1")).expect("copy");
        file.set_len(0).expect("truncate");
        writeln!(file, "after the truncation").expect("append");
        let content = fs::read(&log).expect("read");
        wait_content(&mirror.dst("app.log"), &content);
        // Rename: the writer goes on in the old file for a while.
        mirror.mv("app.log", "app.log.2");
        writeln!(file, "late {round}").expect("append");
        let mut next = open();
        writeln!(next, "new {round}").expect("append");
        writeln!(file, "very late").expect("append");
        file = next;
        let old = fs::read(mirror.src("app.log.2")).expect("read");
        wait_content(&mirror.dst("app.log.2"), &old);
        let new = fs::read(&log).expect("read");
        wait_content(&mirror.dst("app.log"), &new);
    }
    drop(file);
    mirror.settle();
}

#[test]
fn a_growing_log_costs_what_it_grows() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        agent
            .arg("--hold-max-ms")
            .arg("200")
            .arg("--settle-ms")
            .arg("20")
    });
    let first = noise(4 << 20, 3);
    fs::write(mirror.src("log"), &first).expect("write");
    mirror.settle();
    let before = mirror.bytes_sent();
    let mut log = OpenOptions::new().append(true).open(mirror.src("log"));
    let log = log.as_mut().expect("open");
    let mut appended = 0;
    for seed in 0..scaled(400, 20_000) as u64 {
        let part = noise(1_000, seed);
        log.write_all(&part).expect("append");
        appended += part.len() as u64;
        if seed % 100 == 0 {
            mirror.overtake("beside");
        }
    }
    let whole = fs::read(mirror.src("log")).expect("read");
    wait_content(&mirror.dst("log"), &whole);
    mirror.settle();
    let cost = mirror.bytes_sent() - before;
    // Each version ends in a block that is not whole yet and is sent again.
    let most = 2 * appended + (2 << 20);
    assert!(cost < most, "{cost} bytes for {appended} appended");
}

#[test]
fn what_a_mapping_writes_arrives_with_its_close() {
    if !require(&[Need::Tool("python3")]) {
        return;
    }
    with_both(|mirror| {
        fs::write(mirror.src("mapped"), noise(200_000, 5)).expect("write");
        mirror.settle();
        let script = "import mmap
with open('mapped', 'r+b') as file:
    mapped = mmap.mmap(file.fileno(), 0)
mapped[100:107] = b'written'
mapped.flush()
mapped.close()";
        tool("python3", &["-c", script], &mirror.sandbox.src());
        mirror.settle();
        let found = fs::read(mirror.dst("mapped")).expect("read");
        assert_eq!(&found[100..107], b"written");
    });
}

#[test]
fn a_file_that_shrinks_and_grows_while_it_is_read() {
    let mirror = Mirror::start();
    let path = mirror.src("restless");
    fs::write(&path, noise(1 << 20, 1)).expect("write");
    let change = |round: u64| {
        let mut file = OpenOptions::new().write(true).open(&path).expect("open");
        file.set_len(1_000 + round % 7 * 100_000).expect("truncate");
        file.seek(SeekFrom::Start(round % 5 * 70_000))
            .expect("seek");
        file.write_all(&noise(50_000, round)).expect("write");
    };
    during(change, || {
        for round in 0..scaled(20, 500) {
            mirror.overtake(&format!("beside-{}", round % 3));
        }
    });
    mirror.settle();
    assert_eq!(mirror.count("failed_total"), 0);
}

/// `notify` looks through all watches for each directory that goes: 20,000 of them keep it busy for minutes.
#[test]
fn an_agent_whose_watcher_is_busy_ends_when_it_is_told_to() {
    let sandbox = Sandbox::new();
    for number in 0..20_000 {
        let dir = format!("{}/{number}", number / 200);
        fs::create_dir_all(sandbox.src().join(dir)).expect("mkdir");
    }
    let mirror = Mirror::with(sandbox, |agent| agent.arg("--backend").arg("notify"));
    mirror.settle();
    for number in 0..100 {
        fs::remove_dir_all(mirror.src(number.to_string())).expect("remove");
    }
    let told = Instant::now();
    assert_eq!(mirror.agent.terminate(LONG), Exit::Code(0));
    assert!(told.elapsed() < Duration::from_secs(20));
}
