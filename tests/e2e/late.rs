//! Events that come late: the agent's reader of events is held up each time it has waited for some, so that what they
//! tell has long been followed by other things.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::Path;

use syncd_tests::binaries::Binaries;
use syncd_tests::require::Need;
use syncd_tests::workload::Workload;
use syncd_tests::{Sandbox, require};

use crate::atomic::{Reader, judge};
use crate::common::{Mirror, scaled};
use crate::faults::failing;

/// Both up, with events told so many milliseconds late. Who writes all the time is waited for, for longer than the test
/// takes, and who makes a pause in between for `settle_ms`.
fn mirror_late(delay_ms: u32, settle_ms: u32) -> Mirror {
    let sandbox = Sandbox::new();
    // Nothing else of the agent waits by these calls.
    let late = format!("poll,ppoll:delay_exit={}", delay_ms * 1_000);
    let program = failing(sandbox.path(), &Binaries::locate().agent, &late);
    Mirror::with(sandbox, |agent| {
        let agent = agent.program(program).arg("--backend").arg("inotify");
        let settle_ms = settle_ms.to_string();
        let agent = agent.arg("--settle-ms").arg(settle_ms);
        agent.arg("--hold-max-ms").arg("600000")
    })
}

#[test]
fn random_changes_are_not_lost() {
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    for seed in 9_000..9_000 + scaled(2, 50) as u64 {
        let mirror = mirror_late(200, 200);
        let work = Workload::new(mirror.sandbox.src(), seed).expect("workload");
        let mut work = work.without_hard_links();
        for _ in 0..2 {
            work.run(150).expect("work");
            mirror.settle();
        }
    }
}

/// Writes a version into the file as it is: nothing of the old one, then one piece after the other.
fn write_over(path: &Path, byte: u8, size: usize) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.set_len(0)?;
    file.rewind()?;
    (0..4).try_for_each(|_| file.write_all(&vec![byte; size / 4]))
}

#[test]
fn a_file_that_is_written_over_and_over_is_never_torn() {
    const SIZE: usize = 64 << 10;
    if !require(&[Need::Tool("strace")]) {
        return;
    }
    // On a busy machine the one who writes has to wait for the processor, at any point.
    let mirror = mirror_late(50, 60_000);
    let path = mirror.src("file");
    fs::write(&path, vec![0; SIZE]).expect("write");
    mirror.settle();
    let reader = Reader::on(mirror.dst("file"), |path| judge(path, SIZE, false));
    for round in 0..scaled(4, 100) {
        for number in 0..2_000 {
            let byte = u8::try_from((round + number) % 251).expect("a byte");
            write_over(&path, byte, SIZE).expect("write");
        }
        mirror.settle();
        reader.wait_reading();
    }
    reader.expect_whole();
}
