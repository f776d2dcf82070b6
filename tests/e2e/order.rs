//! What goes first: changes made now before what is made up for, pictures before the page that shows them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use syncd_tests::workload::many_small;
use syncd_tests::{Sandbox, wait_until};

use crate::common::{LONG, Mirror, noise, scaled, wait_content};

/// Bytes of all files below a directory, those of our own aside.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let entries = entries.flatten();
    let sizes = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(match meta.is_dir() {
            true if entry.file_name() == ".syncd" => 0,
            true => bytes_below(&entry.path()),
            false => meta.len(),
        })
    });
    sizes.sum()
}

/// While a tree arrives over a slow link, what changes now arrives at once, small or not.
#[test]
fn changes_go_before_a_first_sync() {
    const FILM: usize = 10 << 20;
    let sandbox = Sandbox::new();
    let old = sandbox.src().join("old");
    fs::create_dir(&old).expect("mkdir");
    for number in 0..200 {
        fs::write(old.join(format!("page{number}")), noise(60_000, number)).expect("write");
    }
    for number in 0..8 {
        fs::write(old.join(format!("picture{number}")), noise(1 << 20, number)).expect("write");
    }
    for number in 0..2 {
        fs::write(old.join(format!("film{number}")), noise(FILM, number)).expect("write");
    }
    let all = bytes_below(&sandbox.src());
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).arg("--bwlimit").arg("4M").start();
    wait_until(LONG, "the first file", || bytes_below(&sandbox.dst()) > 0);
    for round in 0..3 {
        let (page, picture) = (noise(4_000, 90 + round), noise(300_000, 95 + round));
        let before = bytes_below(&sandbox.dst());
        fs::write(sandbox.src().join("page"), &page).expect("write");
        fs::write(sandbox.src().join("picture"), &picture).expect("write");
        wait_content(&sandbox.dst().join("page"), &page);
        wait_content(&sandbox.dst().join("picture"), &picture);
        let after = bytes_below(&sandbox.dst());
        assert!(
            after < before + all / 5,
            "{before}, then {after} of {all} bytes in round {round}"
        );
    }
    assert!(bytes_below(&sandbox.dst()) < all * 3 / 4);
    agent.terminate(LONG);
}

/// Where a limit makes the link slow, a small change waits for no more than a moment's worth of a large file.
#[test]
fn a_change_goes_between_parts_of_a_large_file() {
    const RATE: u64 = 256 << 10;
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let agent = sandbox
        .agent(&receiver)
        .arg("--bwlimit")
        .arg("256K")
        .start();
    agent.wait_synced(LONG);
    let mirror = Mirror {
        agent,
        receiver,
        sandbox,
    };
    fs::write(mirror.src("film"), noise(20 << 20, 1)).expect("write");
    for round in 0..3 {
        let begun = mirror.bytes_sent();
        wait_until(LONG, "some of the film", || {
            mirror.bytes_sent() > begun + RATE
        });
        let before = mirror.bytes_sent();
        let page = noise(4_000, round);
        fs::write(mirror.src("page"), &page).expect("write");
        wait_content(&mirror.dst("page"), &page);
        let sent = mirror.bytes_sent() - before;
        assert!(sent < 2 * RATE, "{sent} bytes in round {round}");
    }
    mirror.agent.terminate(LONG);
}

/// Pictures too large to travel with the page are there before it.
#[test]
fn a_page_does_not_come_before_large_pictures() {
    let mirror = Mirror::start();
    let content = |number: usize| noise(200_000 + 100_000 * (number % 4), number as u64);
    for release in 0..scaled(20, 100) {
        let name = |index: usize| format!("picture-{release}-{index}");
        for index in 0..4 {
            fs::write(mirror.src(name(index)), content(release + index)).expect("picture");
        }
        let page = format!("page of {release}");
        // As a new file, in the place of the old one, and by a rename.
        match release % 3 {
            0 => fs::write(mirror.src("page"), &page).expect("page"),
            1 => {
                fs::write(mirror.src("page.new"), &page).expect("page");
                fs::rename(mirror.src("page.new"), mirror.src("page")).expect("rename");
            }
            _ => {
                fs::remove_file(mirror.src("page")).expect("remove");
                fs::write(mirror.src("page"), &page).expect("page");
            }
        }
        wait_content(&mirror.dst("page"), page.as_bytes());
        for index in 0..4 {
            let there = fs::read(mirror.dst(name(index))).ok();
            let is_there = there.as_ref() == Some(&content(release + index));
            assert!(is_there, "{} is missing", name(index));
        }
    }
    mirror.settle();
}

/// What was put into a directory elsewhere, just before that was moved into the source, may be open still for all that
/// the agent knows: it is waited for until that is over, and then until it is there.
#[test]
fn a_page_does_not_come_before_large_pictures_that_were_moved_in() {
    let mirror = Mirror::start();
    for release in 0..scaled(8, 50) {
        let aside = mirror.sandbox.path().join("aside");
        let here = format!("release-{release}");
        fs::create_dir(&aside).expect("mkdir");
        let sizes = [300_000, 2_000, 500_000, 400_000];
        let sizes = &sizes[release % 3..];
        for (index, size) in sizes.iter().enumerate() {
            let content = noise(*size, index as u64);
            fs::write(aside.join(index.to_string()), content).expect("picture");
        }
        fs::rename(&aside, mirror.src(&here)).expect("move in");
        let page = format!("page of {release}");
        fs::write(mirror.src("page.new"), &page).expect("page");
        fs::rename(mirror.src("page.new"), mirror.src("page")).expect("rename");
        wait_content(&mirror.dst("page"), page.as_bytes());
        for (index, size) in sizes.iter().enumerate() {
            let there = mirror.dst(&here).join(index.to_string());
            let len = there.metadata().map(|there| there.len());
            assert_eq!(len.ok(), Some(*size as u64), "{index} of {release}");
        }
    }
    mirror.settle();
}

/// A link tells of no close: a page that is made right after it comes after it all the same.
#[test]
fn a_page_does_not_come_before_a_link() {
    let mirror = Mirror::start();
    for release in 0..scaled(10, 50) {
        let name = format!("release-{release}");
        fs::create_dir(mirror.src(&name)).expect("mkdir");
        let _ = fs::remove_file(mirror.src("page"));
        if release % 2 == 0 {
            symlink(&name, mirror.src("new")).expect("link");
            fs::rename(mirror.src("new"), mirror.src("current")).expect("rename");
        } else {
            let _ = fs::remove_file(mirror.src("current"));
            symlink(&name, mirror.src("current")).expect("link");
        }
        fs::write(mirror.src("page"), &name).expect("page");
        wait_content(&mirror.dst("page"), name.as_bytes());
        let there = fs::read_link(mirror.dst("current")).expect("the link");
        assert_eq!(there, Path::new(&name));
    }
    mirror.settle();
}

/// A page that the mirror has under another name takes its place after what was written before.
#[test]
fn a_page_that_is_renamed_does_not_come_before_its_pictures() {
    let mirror = Mirror::start();
    for release in 0..scaled(10, 50) {
        let page = format!("page of {release}");
        fs::write(mirror.src("page.new"), &page).expect("page");
        wait_content(&mirror.dst("page.new"), page.as_bytes());
        let dir = mirror.src(format!("release-{release}"));
        many_small(&dir, 10, 100, 2_000).expect("pictures");
        let large = noise(300_000, release as u64);
        fs::write(mirror.src("large"), &large).expect("picture");
        fs::rename(mirror.src("page.new"), mirror.src("page")).expect("rename");
        wait_content(&mirror.dst("page"), page.as_bytes());
        assert!(fs::read(mirror.dst("large")).is_ok_and(|there| there == large));
        let is_missing = |name: &String| {
            let there = mirror.dst(format!("release-{release}")).join(name);
            !there.metadata().is_ok_and(|meta| meta.len() == 2_000)
        };
        let pictures = (0..10).flat_map(|d| (0..100).map(move |f| format!("d{d:05}/f{f:05}")));
        let missing: Vec<_> = pictures.filter(is_missing).collect();
        assert!(missing.is_empty(), "release {release} without {missing:?}");
    }
    mirror.settle();
}

/// What was there has arrived at some time, also if something changes all the time.
#[test]
fn a_first_sync_ends_while_changes_go_on() {
    let sandbox = Sandbox::new();
    let old = sandbox.src().join("old");
    many_small(&old, 10, 20, 2_000).expect("files");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).arg("--bwlimit").arg("1M").start();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (stop, src) = (Arc::clone(&stop), sandbox.src());
        move || {
            // Until the mirror is there, or the test is over.
            for number in 0.. {
                let page = src.join(format!("page{}", number % 8));
                if stop.load(Ordering::Relaxed) || fs::write(page, noise(20_000, number)).is_err() {
                    break;
                }
            }
        }
    });
    wait_until(LONG, "the end of the first sync", || {
        let status = agent.control().status().expect("status");
        let first = &status["status"]["sources"][0]["targets"][0]["first_sync"];
        let count = |key: &str| first[key].as_u64().unwrap_or(u64::MAX);
        assert!(count("files_done") <= count("files_total"), "{first}");
        first.is_null()
    });
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("writer");
    let sent = sandbox.dst().join("old");
    assert_eq!(bytes_below(&sent), 10 * 20 * 2_000);
    agent.wait_synced(LONG);
    agent.terminate(LONG);
}

/// A directory that takes the place of a file whose transfer is done, and which waits for what was written before it.
#[test]
fn a_file_does_not_come_after_the_directory_that_took_its_place() {
    const LARGE: u64 = 5 << 20;
    for round in 0..scaled(2, 10) as u64 {
        let sandbox = Sandbox::new();
        many_small(&sandbox.src().join("dir"), 3, 5, 1_000).expect("files");
        let receiver = sandbox.receiver().start();
        let agent = sandbox.agent(&receiver).arg("--bwlimit").arg("2M").start();
        agent.wait_synced(LONG);
        let mirror = Mirror {
            agent,
            receiver,
            sandbox,
        };
        let begun = mirror.bytes_sent();
        fs::write(mirror.src("large"), noise(LARGE as usize, round)).expect("write");
        fs::write(mirror.src("name"), noise(200_000, round + 10)).expect("write");
        // Both share the link: by now the second is done.
        wait_until(LONG, "a part of both", || {
            mirror.bytes_sent() > begun + LARGE / 4
        });
        fs::remove_file(mirror.src("name")).expect("rm");
        fs::rename(mirror.src("dir"), mirror.src("name")).expect("mv");
        mirror.settle();
        mirror.sandbox.assert_equal();
        mirror.wait_staging_empty();
    }
}
