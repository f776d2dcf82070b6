//! The same cases against `rsync --daemon` and `syncd-recv`: their answers must agree.
//!
//! The cases are the recorded vectors of `tests/vectors/conformance`. Each is put to the built `syncd-recv`
//! over TLS, on a machine of its own ([`world`]), and what the agent meets and finds on the disk is compared
//! with the record. With `SYNCD_COMPAT_DAEMON=rsync` the same vectors are put to the installed rsync instead,
//! to check the records themselves. What differs stands in [`known`], each with its reason; a vector that is
//! not listed there and differs fails, and so does one that is listed and does not.

mod chance;
mod known;
mod lab;
mod names;
mod ours;
mod theirs;
mod vectors;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use known::{Known, Standing};
use lab::{Lab, Met};
use vectors::{TOPICS, Topic, id};

/// Daemons at a time.
const LANES: usize = 2;

/// Ports of the lanes: nothing else is in this network.
const FIRST_PORT: u16 = 8_730;

const SELECT: &str = "SYNCD_COMPAT_DAEMON";
const ONLY: &str = "SYNCD_COMPAT_TOPICS";

#[test]
fn every_vector_is_answered_as_recorded() {
    let Some(dir) = world::inside() else {
        if let Some(status) = world::enter("every_vector_is_answered_as_recorded") {
            assert!(status.success(), "the answers differ: {status}");
        }
        return;
    };
    let rsync = std::env::var(SELECT).is_ok_and(|name| name == "rsync");
    names::serve(Topic::read("hosts").part("resolver").clone());
    let judge = Judge::new(PathBuf::from(dir), rsync);
    let only = std::env::var(ONLY).unwrap_or_default();
    let chosen = |name: &str| only.is_empty() || only.split(',').any(|one| one == name);
    let mut wrong = Vec::new();
    for (name, count) in TOPICS.iter().filter(|(name, _)| chosen(name)) {
        wrong.extend(judge.topic(name, *count));
    }
    if only.is_empty() {
        wrong.extend(judge.known.unknown_ids());
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What is pushed: different for each vector.
fn content(vector: &Value) -> Vec<u8> {
    format!("content of {}\n", id(vector)).into_bytes()
}

struct Judge {
    dir: PathBuf,
    rsync: bool,
    site: ours::Site,
    known: Known,
    places: AtomicUsize,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    /// Reason and how many.
    different: BTreeMap<&'static str, usize>,
    elsewhere: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl Judge {
    fn new(dir: PathBuf, rsync: bool) -> Self {
        let site = ours::Site::make(&dir.join("certs"));
        let known = if rsync {
            Known::of_rsync()
        } else {
            Known::of_ours()
        };
        Self {
            dir,
            rsync,
            site,
            known,
            places: AtomicUsize::new(0),
        }
    }

    /// Puts all vectors of a topic; what is wrong.
    fn topic(&self, name: &str, count: usize) -> Vec<String> {
        let started = Instant::now();
        let topic = Topic::read(name);
        assert_eq!(topic.vectors().len(), count, "{name}: vectors are missing");
        let groups = Mutex::new(topic.groups().into_iter());
        let tally = Mutex::new(Tally::default());
        let lanes = if self.rsync { 1 } else { LANES };
        thread::scope(|scope| {
            for lane in 0..lanes {
                let (groups, tally, topic) = (&groups, &tally, &topic);
                scope.spawn(move || {
                    let port = FIRST_PORT + u16::try_from(lane).expect("few lanes");
                    loop {
                        let Some(group) = groups.lock().expect("groups").next() else {
                            break;
                        };
                        self.group(topic, &group, port, tally);
                    }
                });
            }
        });
        let tally = tally.into_inner().expect("tally");
        tally.print(name, count, started);
        tally.wrong
    }

    fn group(&self, topic: &Topic, group: &[&Value], port: u16, tally: &Mutex<Tally>) {
        let asked: Vec<_> = group
            .iter()
            .filter(|vector| {
                let Some(reason) = self.known.not_applicable(id(vector), vector) else {
                    return true;
                };
                *tally
                    .lock()
                    .expect("tally")
                    .elsewhere
                    .entry(reason)
                    .or_default() += 1;
                false
            })
            .collect();
        let Some(first) = asked.first() else {
            return;
        };
        let number = self.places.fetch_add(1, Ordering::Relaxed);
        let root = self.dir.join(format!("lab-{number}"));
        // What an rsync daemon leaves behind may hold its port for a moment longer.
        let port = if self.rsync {
            FIRST_PORT + u16::try_from(number).expect("fewer than ports")
        } else {
            port
        };
        let lab = Lab::make(topic, first, root, port);
        if self.rsync {
            let daemon = theirs::Daemon::start(&lab, first);
            for vector in asked {
                let met = daemon.ask(&lab, vector);
                self.judge(&lab, vector, &met, &daemon.log(&lab), tally);
            }
        } else {
            let daemon = ours::Daemon::start(&self.site, &lab, first);
            for vector in asked {
                let met = daemon.ask(&lab, vector);
                self.judge(&lab, vector, &met, &daemon.log(&lab), tally);
            }
        }
        let _ = std::fs::remove_dir_all(&lab.root);
    }

    fn judge(&self, lab: &Lab<'_>, vector: &Value, met: &Met, log: &str, tally: &Mutex<Tally>) {
        let recorded = vector["expect"]["outcome"].as_str().expect("an outcome");
        let mut differences = lab.differences(vector, met);
        let same = if self.rsync {
            known::same_there(recorded)
        } else {
            known::same_here(recorded)
        };
        if met.outcome != same {
            differences.insert(
                0,
                format!("{} ({}), recorded {recorded}", met.outcome, met.message),
            );
        }
        let mut tally = tally.lock().expect("tally");
        let id = id(vector);
        match self.known.different(id) {
            Some((standing, reason)) if !differences.is_empty() => {
                *tally.different.entry(reason).or_default() += 1;
                let let_in = ["accepted", "listed"].contains(&&met.outcome[..]);
                if standing == Standing::Refuses && let_in {
                    let what = differences.join("; ");
                    tally
                        .wrong
                        .push(format!("{id}: lets in what it should refuse: {what}"));
                }
            }
            Some(_) => tally
                .wrong
                .push(format!("{id}: listed as different, but is not")),
            None if differences.is_empty() => tally.passed += 1,
            None => {
                let log: Vec<_> = log.lines().rev().take(3).collect();
                let what = differences.join("; ");
                tally
                    .wrong
                    .push(format!("{id}: {what}\n    {}", log.join("\n    ")));
            }
        }
    }
}

impl Tally {
    fn print(&self, name: &str, count: usize, started: Instant) {
        let sum = |map: &BTreeMap<_, usize>| map.values().sum::<usize>();
        println!(
            "{name}: {count} vectors: {} passed, {} deliberately different, {} not applicable, {} wrong ({:.1} s)",
            self.passed,
            sum(&self.different),
            sum(&self.elsewhere),
            self.wrong.len(),
            started.elapsed().as_secs_f32(),
        );
        for (kind, map) in [
            ("different", &self.different),
            ("not applicable", &self.elsewhere),
        ] {
            for (reason, count) in map {
                println!("    {count} {kind}: {reason}");
            }
        }
    }
}
