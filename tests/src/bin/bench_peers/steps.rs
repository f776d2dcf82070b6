//! What scenarios are made of: a first sync, a measured change, and the comparison at the end.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::meter::{Meter, Metrics};
use super::peer::{Goal, Kind, Peer};
use super::place::Place;
use super::scenario::{Outcome, make};

/// How long trees may stay different after a peer has said that it is done; more than nothing is noted.
const EQUAL_TIMEOUT: Duration = Duration::from_secs(20);

/// A peer in its place.
pub(crate) struct Run<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) place: &'a Place,
    pub(crate) peer: Box<dyn Peer>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(kind: &'a Kind, place: &'a Place, peer: Box<dyn Peer>) -> Self {
        Self { kind, place, peer }
    }

    /// Makes the tree and mirrors it, unmeasured.
    pub(crate) fn begin(
        &mut self,
        prepare: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), String> {
        make(prepare(&self.place.source()))?;
        self.peer.start(self.place)?;
        self.peer.settle(self.place)?;
        self.place.rest()
    }

    /// The first sync of what is there.
    pub(crate) fn first_sync(&mut self) -> Result<Outcome, String> {
        let meter = Meter::start(self.peer.receivers());
        self.peer.start(self.place)?;
        self.peer.settle(self.place)?;
        let seconds = meter.started().elapsed().as_secs_f64();
        let mut metrics = meter.stop();
        metrics.insert("s", seconds);
        self.end(metrics)
    }

    /// A change and the time until it is mirrored: `s` counts from its end, `s_with_change` from its start.
    pub(crate) fn step(
        &mut self,
        change: impl FnOnce(&Path) -> io::Result<()>,
        goal: Goal<'_>,
    ) -> Result<Outcome, String> {
        let meter = Meter::start(self.peer.receivers());
        make(change(&self.place.source()))?;
        let changed = Instant::now();
        self.peer.kick(self.place)?;
        self.peer.finish(self.place, goal)?;
        let end = Instant::now();
        let started = meter.started();
        let mut metrics = meter.stop();
        metrics.insert("s", (end - changed).as_secs_f64());
        metrics.insert("s_with_change", (end - started).as_secs_f64());
        self.end(metrics)
    }

    /// Compares strictly. A peer that said too early that it was done gets time, and the time is shown; what rsync
    /// takes for equal (directory times within a second) is counted and shown.
    pub(crate) fn end(&mut self, mut metrics: Metrics) -> Result<Outcome, String> {
        let times = self.peer.times_on_wire();
        for name in ["wire_bytes", "wire_per_appended"] {
            metrics.entry(name).and_modify(|value| *value /= times);
        }
        if !self.peer.mirrors() {
            return Ok(Outcome {
                metrics,
                differences: None,
            });
        }
        let timeout = if self.kind.is_one_shot() {
            Duration::ZERO
        } else {
            EQUAL_TIMEOUT
        };
        let forgiven = |count: usize| count == 0 || self.kind.rounds_times();
        let said = Instant::now();
        loop {
            let late = said.elapsed() >= timeout;
            let asked = Instant::now();
            match self.place.differences() {
                Ok(found) if found.others.is_none() && forgiven(found.dir_times) => {
                    if asked > said + Duration::from_secs(1) {
                        metrics.insert("s_late", (asked - said).as_secs_f64());
                    }
                    metrics.insert("dir_times_off", found.dir_times as f64);
                    return Ok(Outcome {
                        metrics,
                        differences: None,
                    });
                }
                found if late => {
                    let found = found?;
                    let text = found
                        .others
                        .unwrap_or_else(|| format!("{} directory times", found.dir_times));
                    return Ok(Outcome {
                        metrics,
                        differences: Some(text),
                    });
                }
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}
