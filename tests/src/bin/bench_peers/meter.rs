//! What a step costs: seconds, CPU of both sides, bytes on the loopback, peak memory.
//!
//! Everything that runs is a descendant of this process. Those of the receiver's side hang below the process ids the
//! peer names; all the others are the sender's side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::link;

const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// USER_HZ, the same on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The values of one cell by name.
pub(crate) type Metrics = BTreeMap<&'static str, f64>;

/// What one process used: its own time and that of its reaped children.
#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

/// All processes below this one, by side.
#[derive(Debug, Default)]
struct Sides {
    sender: BTreeMap<u32, Stat>,
    receiver: BTreeMap<u32, Stat>,
}

/// CPU seconds of both sides so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) sender_s: f64,
    pub(crate) receiver_s: f64,
}

fn stat_of(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

fn sides(receivers: &[u32]) -> Sides {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: BTreeMap<u32, Stat> = pids.filter_map(|pid| Some((pid, stat_of(pid)?))).collect();
    let mut sides = Sides::default();
    for (&pid, &stat) in &all {
        let mut line = BTreeSet::from([pid]);
        let mut at = stat.parent;
        while let Some(stat) = all.get(&at).filter(|_| at != own && !line.contains(&at)) {
            line.insert(at);
            at = stat.parent;
        }
        if at != own || pid == own {
            continue;
        }
        if receivers.iter().any(|root| line.contains(root)) {
            sides.receiver.insert(pid, stat);
        } else {
            sides.sender.insert(pid, stat);
        }
    }
    sides
}

/// CPU time of both sides; clients that this process has reaped count as the sender's.
pub(crate) fn cpu(receivers: &[u32]) -> Cpu {
    let sides = sides(receivers);
    let sum = |side: &BTreeMap<u32, Stat>| {
        side.values()
            .map(|stat| stat.own + stat.reaped)
            .sum::<u64>()
    };
    let reaped = stat_of(std::process::id()).map_or(0, |stat| stat.reaped);
    Cpu {
        sender_s: (sum(&sides.sender) + reaped) as f64 / TICKS_PER_SECOND,
        receiver_s: sum(&sides.receiver) as f64 / TICKS_PER_SECOND,
    }
}

/// Process ids of the sender's side.
pub(crate) fn sender_pids(receivers: &[u32]) -> Vec<u32> {
    sides(receivers).sender.into_keys().collect()
}

/// Process ids of the receiver's side.
pub(crate) fn receiver_pids(receivers: &[u32]) -> Vec<u32> {
    sides(receivers).receiver.into_keys().collect()
}

/// Proportional set size of both sides in bytes. A child that has not become another program yet is left out: what it has is
/// this program's.
pub(crate) fn pss(receivers: &[u32]) -> (u64, u64) {
    let sides = sides(receivers);
    let words = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = words("self");
    let other = |pid: &&u32| words(&pid.to_string()) != own;
    let sum = |side: &BTreeMap<u32, Stat>| {
        let pids = side.keys().filter(other);
        pids.filter_map(|&pid| pss_of(pid)).sum()
    };
    (sum(&sides.sender), sum(&sides.receiver))
}

fn pss_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Bytes received on the loopback or a link, headers included: what either side sent.
pub(crate) fn wire() -> u64 {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let received = |line: &str| {
        let (device, counters) = line.split_once(':')?;
        let counted = ["lo", link::DEVICE].contains(&device.trim());
        let first = counters.split_whitespace().next().filter(|_| counted)?;
        first.parse::<u64>().ok()
    };
    text.lines().filter_map(received).sum()
}

/// Measures from `start` to `stop`.
pub(crate) struct Meter {
    receivers: Vec<u32>,
    started: Instant,
    cpu: Cpu,
    wire: u64,
    sampler: Sampler,
}

impl Meter {
    /// From now on.
    pub(crate) fn start(receivers: Vec<u32>) -> Self {
        Self {
            sampler: Sampler::start(receivers.clone()),
            cpu: cpu(&receivers),
            wire: wire(),
            receivers,
            started: Instant::now(),
        }
    }

    /// When it started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// What was used up to now.
    pub(crate) fn stop(self) -> Metrics {
        let wire = wire() - self.wire;
        let cpu = cpu(&self.receivers);
        let (sender, receiver) = self.sampler.stop();
        Metrics::from([
            ("wire_bytes", wire as f64),
            ("cpu_src_s", cpu.sender_s - self.cpu.sender_s),
            ("cpu_dst_s", cpu.receiver_s - self.cpu.receiver_s),
            ("pss_peak_src_mib", mib(sender)),
            ("pss_peak_dst_mib", mib(receiver)),
        ])
    }
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Looks at memory now and then.
struct Sampler {
    stop: Arc<AtomicBool>,
    peaks: Arc<[AtomicU64; 2]>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    fn start(receivers: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peaks = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peaks));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let (sender, receiver) = pss(&receivers);
                highest[0].fetch_max(sender, Ordering::Relaxed);
                highest[1].fetch_max(receiver, Ordering::Relaxed);
                thread::park_timeout(SAMPLE_EVERY);
            }
        });
        Self {
            stop,
            peaks,
            thread: Some(thread),
        }
    }

    fn stop(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
        let peak = |index: usize| self.peaks[index].load(Ordering::Relaxed);
        (peak(0), peak(1))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_told_apart_by_side() {
        let sleep = || {
            std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .unwrap()
        };
        let (mut ours, mut theirs) = (sleep(), sleep());
        let sides = sides(&[theirs.id()]);
        assert!(sides.receiver.contains_key(&theirs.id()) && sides.receiver.len() == 1);
        assert!(sides.sender.contains_key(&ours.id()) && !sides.sender.contains_key(&theirs.id()));
        assert!(pss(&[theirs.id()]).1 > 0);
        for child in [&mut ours, &mut theirs] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
