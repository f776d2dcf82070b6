//! A link with delay, a bandwidth and loss, for both peers of a scenario alike.
//!
//! What `tc netem` does in the kernel is done here frame by frame: a pair of virtual Ethernet devices ends in a
//! macvtap, where this program reads every frame, keeps it for as long as the wire would, and puts it back with the
//! two ends exchanged. A program that connects to [`FAR`] so reaches what listens on [`NEAR`]. Both ends are the
//! kernel's own TCP, with real congestion control.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use syncd_tests::workload::Rng;

use super::place::run;

/// The end where receivers listen.
pub(crate) const NEAR: &str = "10.98.0.1";
/// The end where senders find them.
pub(crate) const FAR: &str = "10.98.0.2";
/// The device whose counter is the wire.
pub(crate) const DEVICE: &str = "wan0";

const FAR_ADDRESS: &str = "02:00:00:00:00:62";
/// `struct virtio_net_hdr` in front of every frame.
const PREFIX_BYTES: usize = 10;
const FRAME_MAX_BYTES: usize = 65_536 + 256;
/// The shortest frames that fit on the way.
const FRAMES_MAX: usize = 32_768;
const STOP_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What a link is like, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quality {
    pub(crate) one_way: Duration,
    pub(crate) bits_per_second: u64,
    /// Frames lost of 100 000.
    pub(crate) loss: u64,
}

impl Quality {
    /// Frames that would wait longer are dropped, as by the queue of a router.
    const QUEUE_MAX: Duration = Duration::from_millis(100);

    /// How long this many bytes take, without headers and waiting.
    pub(crate) fn floor(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.bits_per_second as f64
    }
}

/// One direction: when a frame leaves, and when it arrives.
struct Lane {
    quality: Quality,
    free: Option<Instant>,
    rng: Rng,
}

impl Lane {
    fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            free: None,
            rng: Rng::new(seed),
        }
    }

    /// When a frame of this size arrives; never if it is lost.
    fn arrival(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let starts = self.free.map_or(now, |free| free.max(now));
        if starts > now + Quality::QUEUE_MAX {
            return None;
        }
        let leaves = starts + Duration::from_secs_f64(self.quality.floor(bytes as u64));
        self.free = Some(leaves);
        // What is lost has used the wire.
        let lost = self.rng.below(100_000) < self.quality.loss;
        (!lost).then(|| leaves + self.quality.one_way)
    }
}

/// A link that is up; gone when dropped.
pub(crate) struct Link {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Makes the devices and starts to pass frames; the reason why this machine cannot.
    pub(crate) fn up(quality: Quality) -> Result<Self, String> {
        let missing = |error| format!("a link with delay: {error}");
        let tap = devices().map_err(missing)?;
        let stop = Arc::new(AtomicBool::new(false));
        let pump = Pump::start(&tap, quality).map_err(|error| missing(error.to_string()))?;
        let stopped = Arc::clone(&stop);
        Ok(Self {
            stop,
            thread: Some(thread::spawn(move || pump.run(tap, &stopped))),
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = ip(&["link", "del", DEVICE]);
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(words))
}

/// The pair, its addresses, and the open tap at its far end.
fn devices() -> Result<File, String> {
    ip(&[
        "link", "add", DEVICE, "type", "veth", "peer", "name", "wan1",
    ])?;
    // Frames as on a wire: nothing joined for the sake of the processor, nothing but IPv4.
    ip(&["link", "set", DEVICE, "gso_max_segs", "1"])?;
    for device in [DEVICE, "wan1"] {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        let _ = fs::write(path, "1");
    }
    let _ = fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1");
    ip(&[
        "link",
        "add",
        "link",
        "wan1",
        "name",
        "wan2",
        "address",
        FAR_ADDRESS,
        "txqueuelen",
        "4000",
        "type",
        "macvtap",
        "mode",
        "passthru",
    ])?;
    for device in [DEVICE, "wan1", "wan2"] {
        ip(&["link", "set", device, "up"])?;
    }
    ip(&["addr", "add", &format!("{NEAR}/24"), "dev", DEVICE])?;
    ip(&[
        "neigh",
        "replace",
        FAR,
        "lladdr",
        FAR_ADDRESS,
        "dev",
        DEVICE,
        "nud",
        "permanent",
    ])?;
    let output = Command::new("ip")
        .args(["-o", "link", "show", "wan2"])
        .output();
    let text = output.map_err(|error| format!("ip: {error}"))?.stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let path = format!("/dev/tap{}", text.split(':').next().unwrap_or_default());
    let tap = File::options().read(true).write(true).open(&path);
    tap.map_err(|error| format!("{path}: {error}"))
}

/// A frame and when it arrives.
type Due = (Instant, Vec<u8>);

/// Reads frames and hands each to the writer of its direction.
struct Pump {
    lanes: [(Lane, SyncSender<Due>); 2],
    /// Ports that a connection was opened to: what goes there is one direction, what comes from there the other.
    servers: BTreeSet<[u8; 2]>,
}

impl Pump {
    fn start(tap: &File, quality: Quality) -> std::io::Result<Self> {
        let lane = |seed| {
            let (sender, receiver) = sync_channel(FRAMES_MAX);
            let tap = tap.try_clone()?;
            thread::spawn(move || deliver(tap, &receiver));
            Ok::<_, std::io::Error>((Lane::new(quality, seed), sender))
        };
        Ok(Self {
            lanes: [lane(1)?, lane(2)?],
            servers: BTreeSet::new(),
        })
    }

    fn run(mut self, mut tap: File, stop: &AtomicBool) {
        let mut buffer = vec![0; FRAME_MAX_BYTES];
        while !stop.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(&tap, PollFlags::IN)];
            if !poll(&mut ready, Some(&STOP_EVERY)).is_ok_and(|count| count > 0) {
                continue;
            }
            let Ok(read) = tap.read(&mut buffer) else {
                return;
            };
            let now = Instant::now();
            let Some(frame) = buffer.get_mut(..read) else {
                continue;
            };
            if let Some(way) = self.turn(frame) {
                let (lane, writer) = &mut self.lanes[way];
                if let Some(when) = lane.arrival(now, read - PREFIX_BYTES) {
                    let _ = writer.send((when, frame.to_vec()));
                }
            }
        }
    }

    /// Exchanges the two ends of a TCP frame and tells its direction; nothing for other frames. The checksums stay
    /// right: they are sums.
    fn turn(&mut self, frame: &mut [u8]) -> Option<usize> {
        const IP: usize = 14;
        const TCP: u8 = 6;
        const SYN: u8 = 2;
        let frame = frame.get_mut(PREFIX_BYTES..)?;
        let head = usize::from(frame.get(IP)? & 15) * 4 + IP;
        let is_tcp = frame.get(12..14)? == [8, 0] && *frame.get(IP + 9)? == TCP;
        let flags = *frame.get(head + 13).filter(|_| is_tcp)?;
        let from = [frame[head], frame[head + 1]];
        let to = [frame[head + 2], frame[head + 3]];
        if flags & 0x12 == SYN {
            self.servers.insert(to);
        }
        let (source, rest) = frame.split_at_mut(6);
        source.swap_with_slice(&mut rest[..6]);
        let (source, rest) = frame[IP + 12..].split_at_mut(4);
        source.swap_with_slice(&mut rest[..4]);
        Some(usize::from(
            !self.servers.contains(&to) && self.servers.contains(&from),
        ))
    }
}

/// Puts frames back when it is time.
fn deliver(mut tap: File, frames: &Receiver<Due>) {
    while let Ok((when, frame)) = frames.recv() {
        thread::sleep(when.saturating_duration_since(Instant::now()));
        let _ = tap.write(&frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUALITY: Quality = Quality {
        one_way: Duration::from_millis(20),
        bits_per_second: 100_000_000,
        loss: 0,
    };

    #[test]
    fn frames_arrive_one_after_the_other_and_late_ones_are_dropped() {
        let (mut lane, now) = (Lane::new(QUALITY, 1), Instant::now());
        let first = lane.arrival(now, 1250).unwrap();
        let second = lane.arrival(now, 1250).unwrap();
        assert_eq!(first - now, Duration::from_micros(20_100));
        assert_eq!(second - first, Duration::from_micros(100));
        let kept = (0..2_000).filter_map(|_| lane.arrival(now, 1250)).count();
        assert_eq!(kept, 1_000 - 1, "100 ms of the wire");
    }

    #[test]
    fn as_many_frames_are_lost_as_the_link_loses() {
        let mut lane = Lane::new(
            Quality {
                loss: 1_000,
                ..QUALITY
            },
            1,
        );
        let now = Instant::now();
        let times = (0..100_000).map(|index| now + Duration::from_millis(index));
        let lost = times.filter_map(|time| lane.arrival(time, 100)).count();
        assert!((98_700..99_300).contains(&lost), "{lost}");
    }

    #[test]
    fn a_frame_comes_back_from_the_other_end() {
        let mut pump = Pump {
            lanes: [1, 2].map(|seed| (Lane::new(QUALITY, seed), sync_channel(1).0)),
            servers: BTreeSet::new(),
        };
        let frame = |flags: u8, from: u8, to: u8| {
            let mut frame = vec![0; PREFIX_BYTES];
            frame.extend([[1; 6], [2; 6]].concat());
            frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend([10, 98, 0, 1, 10, 98, 0, 2, 0, from, 0, to]);
            frame.extend([0; 9]);
            frame.extend([flags, 0, 0, 0, 0, 0, 0]);
            frame
        };
        let mut opening = frame(2, 7, 9);
        assert_eq!(pump.turn(&mut opening), Some(0));
        assert_eq!(opening[PREFIX_BYTES..][..12], [[2; 6], [1; 6]].concat());
        assert_eq!(
            opening[PREFIX_BYTES..][26..34],
            [10, 98, 0, 2, 10, 98, 0, 1]
        );
        assert_eq!(pump.turn(&mut frame(0x12, 9, 7)), Some(1));
        assert_eq!(pump.turn(&mut frame(0x10, 7, 9)), Some(0));
        let mut other = frame(2, 7, 9);
        other[PREFIX_BYTES + 12] = 9;
        assert_eq!(pump.turn(&mut other), None);
    }
}
