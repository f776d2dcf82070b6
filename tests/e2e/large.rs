//! Large files: what changes of them cost on the wire, in both directions, and what an interruption costs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use syncd_tests::workload::{Rng, rewrite_random_blocks};
use syncd_tests::{Sandbox, wait_until};

use crate::common::{LONG, Mirror, noise, scaled, wait_content};

/// A mirror of one file with this content, which was sent whole; asked for its costs from then on.
#[track_caller]
fn mirror_of(content: &[u8]) -> Mirror {
    let mirror = Mirror::start();
    fs::write(mirror.src("file"), content).expect("write");
    mirror.settle();
    mirror
}

impl Mirror {
    /// What a change costs until it is durable.
    #[track_caller]
    fn cost(&self, change: impl FnOnce(&Path)) -> u64 {
        let before = self.wire();
        change(&self.src("file"));
        self.settle();
        self.wire() - before
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .expect("append");
}

/// What an exchange of a few small messages costs at most.
const TALK: u64 = 4_000;

#[test]
fn what_is_appended_costs_what_it_is_and_no_list_travels() {
    let mirror = mirror_of(&noise(scaled(24 << 20, 1 << 30) + 12_345, 1));
    for round in 0..3 {
        let tail = noise(100_000, round + 10);
        let cost = mirror.cost(|file| append(file, &tail));
        assert!(cost < 100_000 + TALK, "{cost} bytes for 100 000");
    }
    mirror.wait_staging_empty();
}

#[test]
fn blocks_that_change_in_place_cost_little_more_than_they_are() {
    let mirror = mirror_of(&noise(scaled(32 << 20, 1 << 30), 1));
    for round in 0..2 {
        let change = |file: &Path| rewrite_random_blocks(file, 50, 4096, round).expect("rewrite");
        let cost = mirror.cost(change);
        // Searched in blocks of 2 KiB, with sums of 384 bytes for each 64 KiB that changed.
        assert!(cost < 50 * (2 * 4096 + 600) + TALK, "{cost} bytes");
    }
}

#[test]
fn an_agent_that_remembers_nothing_asks_for_the_list_once() {
    let mirror = mirror_of(&noise(scaled(32 << 20, 1 << 30), 1)).restart(|_| ());
    let list = scaled(32 << 20, 1 << 30) as u64 / (64 << 10) * 32;
    let cost = mirror.cost(|file| append(file, b"first"));
    assert!((list..list + 3 * TALK).contains(&cost), "{cost} bytes");
    let cost = mirror.cost(|file| append(file, b"second"));
    assert!(cost < TALK, "{cost} bytes");
}

#[test]
fn what_moved_is_found() {
    let content = noise(scaled(24 << 20, 1 << 30), 1);
    let mirror = mirror_of(&content);
    let sums = 12 * content.len().isqrt() as u64;
    let cost = mirror.cost(|file| {
        let moved = [b"x", &content[..9_000_000], b"yy", &content[9_000_000..]].concat();
        fs::write(file, moved).expect("write");
    });
    assert!(cost < sums * 2 + 60_000 + TALK, "{cost} bytes");
    let cost = mirror.cost(|file| fs::write(file, &content[5_000_000..]).expect("write"));
    assert!(cost < sums * 2 + 60_000 + TALK, "{cost} bytes");
}

#[test]
fn holes_stay_holes_in_what_changed() {
    let mirror = mirror_of(&noise(1 << 20, 1));
    let cost = mirror.cost(|file| {
        let file = OpenOptions::new().write(true).open(file).expect("open");
        file.set_len(64 << 20).expect("longer");
        file.write_all_at(&noise(70_000, 2), 40 << 20)
            .expect("write");
    });
    assert!(cost < 80_000, "{cost} bytes");
    let blocks = fs::metadata(mirror.dst("file")).expect("there").blocks();
    assert!(blocks * 512 < 2 << 20, "{blocks} blocks on the disk");
}

#[test]
fn a_log_that_is_never_closed_costs_what_is_appended() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        let agent = agent.arg("--hold-max-ms").arg("200");
        agent.arg("--settle-ms").arg("100")
    });
    let mut content = noise(scaled(8 << 20, 500 << 20), 1);
    fs::write(mirror.src("file"), &content).expect("write");
    mirror.settle();
    let before = mirror.wire();
    let file = OpenOptions::new().append(true).open(mirror.src("file"));
    let mut file = file.expect("open");
    let rounds = 10;
    for round in 0..rounds {
        // In parts, so that it is seen while it grows.
        for part in noise(64 << 10, 100 + round).chunks(8 << 10) {
            file.write_all(part).expect("append");
            content.extend_from_slice(part);
        }
        wait_content(&mirror.dst("file"), &content);
    }
    let cost = mirror.wire() - before;
    let appended = rounds * (64 << 10);
    assert!(cost < appended * 12 / 10, "{cost} bytes for {appended}");
    drop(file);
    mirror.settle();
}

/// Edits of every kind, one on the other's heels or apart; whatever was searched, copied, held back or believed.
#[test]
fn random_edits_arrive_whole() {
    for seed in 0..scaled(3, 60) as u64 {
        let mut rng = Rng::new(seed + 70);
        let mut content = noise(2 << 20, seed);
        let mirror = mirror_of(&content);
        for round in 0..12 {
            edit(&mut rng, &mut content);
            let save: &dyn Fn() = match rng.below(3) {
                0 => &|| fs::write(mirror.src("file"), &content).expect("write"),
                1 => &|| replace(&mirror, &content),
                _ => &|| write_differences(&mirror.src("file"), &content),
            };
            save();
            if rng.below(3) > 0 {
                mirror.settle();
            }
            if round == 6 {
                mirror.receiver.kill_workers();
            }
        }
        mirror.settle();
        mirror.wait_staging_empty();
    }
}

fn edit(rng: &mut Rng, content: &mut Vec<u8>) {
    let at = rng.below(content.len() as u64 + 1) as usize;
    let size = 1 << rng.below(22);
    let size = size.min(content.len());
    let new = rng.bytes(size);
    match rng.below(6) {
        0 => content.extend_from_slice(&new),
        1 => content.truncate(at.max(200_000)),
        2 if content.len() < 12 << 20 => drop(content.splice(at..at, new)),
        3 if content.len() - size > 200_000 => {
            let at = at.min(content.len() - size);
            drop(content.drain(at..at + size));
        }
        4 => content.resize((content.len() + size).min(12 << 20), 0),
        _ => {
            let at = at.min(content.len() - size);
            content[at..at + size].copy_from_slice(&new);
        }
    }
}

fn replace(mirror: &Mirror, content: &[u8]) {
    let beside = mirror.sandbox.path().join("beside");
    fs::write(&beside, content).expect("write");
    fs::rename(beside, mirror.src("file")).expect("rename");
}

/// In place, and only what differs; zeros at the end become a hole.
fn write_differences(path: &Path, content: &[u8]) {
    let old = fs::read(path).expect("read");
    let file = OpenOptions::new().write(true).open(path).expect("open");
    file.set_len(content.len() as u64).expect("length");
    let parts = content.chunks(4096).enumerate();
    for (index, part) in parts {
        let at = index * 4096;
        let there = old.get(at..at + part.len());
        if there.unwrap_or(&[0; 4096][..part.len()]) != part {
            file.write_all_at(part, at as u64).expect("write");
        }
    }
}

/// A worker that dies in the middle, of a new file and of a delta: what had arrived is not sent again.
#[test]
fn an_interrupted_transfer_goes_on_where_it_was() {
    let size = scaled(96 << 20, 1 << 30) as u64;
    let mirror = Mirror::start();
    let half = size as usize / 2;
    let mut content = noise(size as usize, 1);
    let beside = mirror.sandbox.path().join("beside");
    for changed in [size, half as u64] {
        fs::write(&beside, &content).expect("write");
        let before = mirror.bytes_sent();
        fs::rename(&beside, mirror.src("file")).expect("rename");
        wait_until(LONG, "most of it is sent", || {
            mirror.bytes_sent() - before > changed * 3 / 4
        });
        mirror.receiver.kill_workers();
        mirror.settle();
        let cost = mirror.bytes_sent() - before;
        // What was on its way is lost: the window that the receiver grants, and a little.
        assert!(cost < changed + (20 << 20), "{cost} bytes for {changed}");
        content[half..].copy_from_slice(&noise(half, 2));
    }
    mirror.wait_staging_empty();
}

/// A new file is written over a while, with its beginning there for long.
#[test]
fn a_large_file_that_is_being_written_is_not_sent_over_and_over() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        let agent = agent.arg("--hold-max-ms").arg("300");
        agent.arg("--settle-ms").arg("100")
    });
    let before = mirror.wire();
    let mut file = File::create(mirror.src("file")).expect("create");
    let mut written = 0;
    for round in 0..6 {
        for part in noise(4 << 20, round).chunks(128 << 10) {
            file.write_all(part).expect("write");
            written += part.len() as u64;
        }
        // It goes as it is when it has been held for long enough.
        wait_until(LONG, "what is there is there", || {
            fs::metadata(mirror.dst("file")).is_ok_and(|metadata| metadata.len() == written)
        });
    }
    drop(file);
    mirror.settle();
    let cost = mirror.wire() - before;
    assert!(cost < written * 11 / 10, "{cost} bytes for {written}");
}

/// Most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .expect("VmHWM")
}

/// A file that is four times as large, new and then changed in places, takes no more memory at either side.
#[test]
fn memory_does_not_grow_with_the_file() {
    let peaks = |size: usize| {
        let mirror = mirror_of(&noise(size, 1));
        rewrite_random_blocks(&mirror.src("file"), 200, 4096, 7).expect("rewrite");
        mirror.settle();
        let workers = mirror.receiver.workers();
        assert!(!workers.is_empty(), "the worker has gone");
        let worker = workers.into_iter().map(peak_kib).max();
        let front = peak_kib(mirror.receiver.pid());
        [peak_kib(mirror.agent.pid()), front, worker.unwrap_or(0)]
    };
    let size = scaled(64 << 20, 1 << 30);
    let (small, large) = (peaks(size), peaks(4 * size));
    eprintln!("KiB: {small:?}, {large:?}");
    for (small, large) in small.into_iter().zip(large) {
        // What is kept of a version grows with it: 32 bytes for each 64 KiB. The rest is chance.
        let grows = 3 * size as u64 / 1024 / 500;
        let most = small * 5 / 4 + (16 << 10) + grows;
        assert!(large < most, "{small} KiB, then {large}");
    }
}
