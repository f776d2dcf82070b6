//! Scenarios that measure something else than the time of one change: single changes, restarts, rest, logs, and faults.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use syncd_tests::workload::Rng;

use super::data;
use super::meter::{self, Meter, Metrics};
use super::peer::PATIENCE;
use super::scenario::{Outcome, length, make};
use super::steps::Run;

const POLL: Duration = Duration::from_micros(200);
const APPEND_BYTES: usize = 64 * 1024;
const APPEND_EVERY: Duration = Duration::from_millis(50);

/// S1: changes of one file each; seen by reading the mirror.
pub(crate) fn latency(
    run: &mut Run<'_>,
    files: usize,
    per_dir: usize,
    changes: usize,
) -> Result<Outcome, String> {
    run.begin(|source| data::tree(source, files, per_dir, 1))?;
    let mut rng = Rng::new(9);
    let (mut seen, mut durable) = (Vec::new(), Vec::new());
    let meter = Meter::start(run.peer.receivers());
    for change in 0..changes {
        // Another file every time, so that rsync sees a new second.
        let index = change * (files / changes);
        let source = data::path_of(&run.place.source(), index, per_dir);
        let mirror = data::path_of(&run.place.mirror(), index, per_dir);
        let content = rng.bytes(data::SMALL);
        let start = Instant::now();
        make(fs::write(&source, &content))?;
        run.peer.kick(run.place)?;
        while fs::read(&mirror).ok().as_ref() != Some(&content) {
            if start.elapsed() > PATIENCE {
                return Err(format!("{}: never mirrored", mirror.display()));
            }
            thread::sleep(POLL);
        }
        seen.push(start.elapsed());
        if run.peer.durable(run.place, &source)? {
            durable.push(start.elapsed());
        }
        thread::sleep(Duration::from_millis(rng.below(20)));
    }
    let mut metrics = meter.stop();
    for name in ["wire_bytes", "cpu_src_s", "cpu_dst_s"] {
        metrics
            .entry(name)
            .and_modify(|value| *value /= changes as f64);
    }
    metrics.insert("p50_ms", percentile(&mut seen, 50));
    metrics.insert("p99_ms", percentile(&mut seen, 99));
    if !durable.is_empty() {
        metrics.insert("durable_p50_ms", percentile(&mut durable, 50));
    }
    run.end(metrics)
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times
        .get(index)
        .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

/// S7: the sender's side is started again and nothing has changed.
pub(crate) fn restart(
    run: &mut Run<'_>,
    prepare: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<Outcome, String> {
    run.begin(prepare)?;
    run.peer.stop();
    run.place.rest()?;
    run.first_sync()
}

/// After so long without a change all programs are at rest: syncd gives memory back within 45 seconds.
const AT_REST: Duration = Duration::from_secs(48);

/// S9: nothing happens. What an entry takes is the difference to the same programs with an empty tree.
pub(crate) fn idle(
    run: &mut Run<'_>,
    entries: usize,
    seconds: u64,
    prepare: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<Outcome, String> {
    run.begin(|_| Ok(()))?;
    let receivers = run.peer.receivers();
    let (empty_sender, empty_receiver) = meter::pss(&receivers);
    run.peer.stop();
    run.begin(prepare)?;
    run.peer.stop();
    let start = Instant::now();
    run.peer.start(run.place)?;
    run.peer.settle(run.place)?;
    let live = start.elapsed().as_secs_f64();
    thread::sleep(AT_REST);
    let before = meter::cpu(&receivers);
    thread::sleep(Duration::from_secs(seconds));
    let after = meter::cpu(&receivers);
    let (sender, receiver) = meter::pss(&receivers);
    let per_entry = |full: u64, empty: u64| (full as f64 - empty as f64) / entries as f64;
    let metrics = Metrics::from([
        ("live_s", live),
        ("pss_empty_src_mib", meter::mib(empty_sender)),
        ("pss_empty_dst_mib", meter::mib(empty_receiver)),
        ("per_entry_src_bytes", per_entry(sender, empty_sender)),
        ("per_entry_dst_bytes", per_entry(receiver, empty_receiver)),
        ("pss_src_mib", meter::mib(sender)),
        ("pss_dst_mib", meter::mib(receiver)),
        ("cpu_src_s", after.sender_s - before.sender_s),
        ("cpu_dst_s", after.receiver_s - before.receiver_s),
    ]);
    run.end(metrics)
}

/// S10: a file that grows and stays open; how far behind the mirror is.
pub(crate) fn log_lag(run: &mut Run<'_>, size: u64, seconds: u64) -> Result<Outcome, String> {
    run.begin(|source| data::large(&source.join("app.log"), size, 1))?;
    let meter = Meter::start(run.peer.receivers());
    let (path, mirror) = (
        run.place.source().join("app.log"),
        run.place.mirror().join("app.log"),
    );
    let mut file = make(File::options().append(true).open(&path))?;
    let mut rng = Rng::new(5);
    let (start, mut written) = (Instant::now(), Vec::<(Instant, u64)>::new());
    let (mut arrived, mut lags, mut total) = (0, Vec::new(), size);
    let end = start + Duration::from_secs(seconds);
    let mut next = start;
    loop {
        let now = Instant::now();
        if now < end && now >= next {
            // Never the same twice, or a delta would find it in the file.
            make(file.write_all(&rng.bytes(APPEND_BYTES)))?;
            total += APPEND_BYTES as u64;
            written.push((now, total));
            next += APPEND_EVERY;
        }
        if run.kind.is_one_shot() && run.peer.is_idle() {
            run.peer.kick(run.place)?;
        }
        let there = length(&mirror).unwrap_or(0);
        while written.get(arrived).is_some_and(|&(_, size)| size <= there) {
            lags.push(written[arrived].0.elapsed());
            arrived += 1;
        }
        let caught_up = now >= end && arrived == written.len();
        if caught_up || now > end + Duration::from_secs(30) {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    lags.extend(written[arrived..].iter().map(|(when, _)| when.elapsed()));
    let mut metrics = meter.stop();
    let appended = (total - size) as f64;
    metrics.insert("wire_per_appended", metrics["wire_bytes"] / appended);
    metrics.insert("lag_p50_ms", percentile(&mut lags, 50));
    metrics.insert("lag_max_ms", percentile(&mut lags, 100));
    drop(file);
    if run.kind.is_one_shot() {
        run.peer.finish(run.place, &|_| true)?;
        run.peer.finish(run.place, &|_| true)?;
    }
    run.end(metrics)
}

/// F2: the receiver's side is killed in the middle of a large file and started again.
pub(crate) fn killed(run: &mut Run<'_>, size: u64) -> Result<Outcome, String> {
    run.begin(|source| data::tree(source, 100, 100, 1))?;
    let outside = run.place.source().with_file_name("new.bin");
    make(data::large(&outside, size, 2))?;
    run.place.rest()?;
    let file = run.place.source().join("file.bin");
    let (meter, wire) = (Meter::start(run.peer.receivers()), meter::wire());
    make(fs::rename(&outside, &file))?;
    run.peer.kick(run.place)?;
    let times = run.peer.times_on_wire();
    let sent = || (meter::wire() - wire) as f64 / times;
    while sent() < size as f64 / 2.0 {
        if meter.started().elapsed() > PATIENCE {
            return Err("the transfer never got to its middle".to_owned());
        }
        thread::sleep(POLL);
    }
    run.peer.crash_receiver(run.place)?;
    let at_kill = sent();
    let mirror = run.place.mirror().join("file.bin");
    run.peer
        .finish(run.place, &|_| length(&mirror) == Some(size))?;
    let seconds = meter.started().elapsed().as_secs_f64();
    let mut metrics = meter.stop();
    metrics.remove("cpu_dst_s");
    metrics.insert("s", seconds);
    metrics.insert("killed_at_percent", at_kill * 100.0 / size as f64);
    let more = metrics["wire_bytes"] / times - size as f64;
    metrics.insert("resent_percent", more * 100.0 / size as f64);
    run.end(metrics)
}

/// F3: more events than the kernel keeps, because the sender's side does not run for a while; beside it the same burst
/// while it does.
pub(crate) fn short_queue(run: &mut Run<'_>, files: usize) -> Result<Outcome, String> {
    run.begin(|source| data::tree(source, 100, 100, 1))?;
    let there = |name: &'static str| move |mirror: &Path| data::count(&mirror.join(name)) == files;
    let undisturbed = run.step(
        |source| data::tree(&source.join("heard"), files, files, 3),
        &there("heard"),
    )?;
    if undisturbed.differences.is_some() {
        return Ok(undisturbed);
    }
    run.place.rest()?;
    let receivers = run.peer.receivers();
    let signal = |signal: Signal| {
        let pids = meter::sender_pids(&receivers).into_iter();
        for pid in pids.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = kill_process(pid, signal);
        }
    };
    signal(Signal::STOP);
    let made = data::tree(&run.place.source().join("burst"), files, files, 2);
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    let rested = run.place.rest();
    signal(Signal::CONT);
    make(made)?;
    rested?;
    let mut outcome = run.step(|_| Ok(()), &there("burst"))?;
    let metrics = &mut outcome.metrics;
    metrics.insert("kernel_queue", queue.trim().parse().unwrap_or(0.0));
    let heard = undisturbed.metrics["s_with_change"];
    metrics.insert("s_undisturbed", heard);
    metrics.insert("times_undisturbed", metrics["s"] / heard);
    Ok(outcome)
}
