//! Programs that save, and those that never stop writing: each version arrives whole, once, and as one change.

use std::fs::{self, OpenOptions};
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use syncd_tests::workload::{
    atomic_save, emacs_save, libreoffice_save, nano_save, sed_i, vim_save,
};
use syncd_tests::{Sandbox, wait_until};

use crate::common::{LONG, Mirror, noise, scaled, tool, wait_content};

/// Ends what another thread does over and over, also when this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks at a file of the mirror all the time while something else happens; whatever is seen must be `right`.
fn while_watching(path: &Path, right: impl Fn(&[u8]) -> bool + Sync, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut over = false;
            while !over {
                over = stop.load(Ordering::Relaxed);
                let content = fs::read(path).expect("it is never missing");
                assert!(right(&content), "{} bytes that nobody wrote", content.len());
            }
        });
        let _ends = Ends(&stop);
        work();
    });
}

type Save = fn(&Path, &[u8]) -> std::io::Result<()>;

/// The editors, each with how it saves.
const EDITORS: [(&str, Save); 6] = [
    ("vim", vim_save),
    ("emacs", emacs_save),
    ("nano", nano_save),
    ("LibreOffice", libreoffice_save),
    ("careful programs", atomic_save),
    ("sed", |path, _| sed_i(path)),
];

#[test]
fn what_an_editor_saves_arrives_as_one_change() {
    for backend in ["inotify", "notify"] {
        let mirror = Mirror::with(Sandbox::new(), |agent| agent.arg("--backend").arg(backend));
        let path = mirror.src("text");
        let mut last = noise(150_000, 0);
        fs::write(&path, &last).expect("write");
        mirror.settle();
        for (round, (name, save)) in (0..scaled(2, 30)).flat_map(|_| EDITORS).enumerate() {
            eprintln!("{backend}: {name}");
            let next = noise(150_000, round as u64 + 1);
            let before = mirror.bytes_sent();
            let saved = |content: &[u8]| match name {
                "sed" => content.eq_ignore_ascii_case(&last),
                _ => content == last || content == next,
            };
            while_watching(&mirror.dst("text"), saved, || {
                save(&path, &next).expect("save");
                mirror.settle();
            });
            let cost = mirror.bytes_sent() - before;
            // A file that is renamed on its way goes under both names, and emacs keeps the old version under another
            // one; nothing goes three times.
            assert!(cost < 400_000, "{name}: {cost} bytes for a file of 150 000");
            last = fs::read(&path).expect("read");
        }
    }
}

#[test]
fn a_file_that_is_rewritten_all_the_time_is_never_torn() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        // Nothing goes because it has waited for long.
        let agent = agent.arg("--hold-max-ms").arg("600000");
        agent.arg("--settle-ms").arg("2000")
    });
    // One that goes at once with its commit, and one that is transferred.
    for (name, len) in [("small", 60_000), ("large", 900_000)] {
        let path = mirror.src(name);
        fs::write(&path, vec![b'a'; len]).expect("write");
        mirror.settle();
        let whole = |content: &[u8]| {
            content
                .first()
                .is_some_and(|byte| content == vec![*byte; len])
        };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut byte = b'a';
                while !stop.load(Ordering::Relaxed) {
                    let mut file = OpenOptions::new().write(true).open(&path).expect("open");
                    // The kernel tells of a write when it is over: of the first one nobody can know while it lasts.
                    file.write_all(&[byte]).expect("write");
                    file.rewind().expect("rewind");
                    byte = if byte == b'z' { b'a' } else { byte + 1 };
                    // In pieces, so that there is something between one version and the next.
                    for piece in vec![byte; len].chunks(len / 6) {
                        file.write_all(piece).expect("write");
                    }
                }
            });
            let _ends = Ends(&stop);
            while_watching(&mirror.dst(name), whole, || {
                for round in 0..scaled(30, 500) {
                    let beside = format!("beside-{round}");
                    fs::write(mirror.src(&beside), &beside).expect("write");
                    wait_content(&mirror.dst(&beside), beside.as_bytes());
                }
            });
        });
        mirror.settle();
    }
}

/// Processor time that a process has taken, in milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after = stat.rsplit(')').next().expect("a name");
    let numbers = after.split_whitespace().skip(11).take(2);
    let ticks: u64 = numbers
        .map(|text| text.parse::<u64>().expect("ticks"))
        .sum();
    ticks * 10
}

#[test]
fn half_of_very_many_directories_goes_at_once() {
    let dirs = scaled(4_000, 100_000) as u64;
    let sandbox = Sandbox::new();
    for top in 0..dirs / 100 {
        for sub in 0..99 {
            let dir = sandbox.src().join(format!("t{top}/d{sub}"));
            fs::create_dir_all(dir).expect("mkdir");
        }
    }
    let mirror = Mirror::of(sandbox);
    let watched = || {
        mirror.agent.control().status().expect("status")["status"]["sources"][0]["watched_dirs"]
            .as_u64()
    };
    assert_eq!(watched(), Some(dirs + 1));
    let before = cpu_ms(mirror.agent.pid());
    for top in 0..dirs / 200 {
        tool("rm", &["-rf", &format!("t{top}")], &mirror.sandbox.src());
    }
    mirror.settle();
    wait_until(LONG, "their watches are gone", || {
        // The number is looked up whenever there is something to do for the watcher.
        mirror.agent.wait_synced(LONG);
        watched() == Some(dirs / 2 + 1)
    });
    let cost = cpu_ms(mirror.agent.pid()) - before;
    // Of what looks at every watch for each that goes, ten times as many take a hundred times as long.
    let most = 2_000 + dirs;
    assert!(cost < most, "{cost} ms for {} directories", dirs / 2);
}
