//! [`Ledger`]: who was here since the start, how far they came, and what failed; bounded, and kept by the front, so
//! that a worker's end forgets nothing. [`Report`] is what is told of it.
//!
//! Texts come escaped; times are seconds since 1970.

pub mod metrics;
pub mod render;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use syncd_proto::reject::RejectCode;

/// Most peers that are remembered; beyond it the one that has been gone longest is forgotten.
pub const PEERS_MAX: usize = 4_096;

/// Most refusals that are told one by one.
pub const REFUSALS_MAX: usize = 20;

/// Longest text of a failure that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Who it is that has sessions, whatever its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Its module.
    pub module: String,
    /// Where in the module; empty is its root.
    pub sub_path: String,
    /// Name in its certificate.
    pub identity: String,
    /// Whose password it proved.
    pub user: Option<String>,
}

/// What is counted, and only grows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sessions begun.
    pub sessions: u64,
    /// Bytes of frames from agents.
    pub bytes_received: u64,
    /// Bytes of frames to them.
    pub bytes_sent: u64,
    /// Commits that became visible.
    pub commits_applied: u64,
    /// Commits that became durable.
    pub commits_durable: u64,
    /// What was refused within sessions, by its code.
    pub rejected: BTreeMap<String, u64>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.commits_applied += other.commits_applied;
        self.commits_durable += other.commits_durable;
        for (code, count) in &other.rejected {
            *self.rejected.entry(code.clone()).or_default() += count;
        }
    }
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    #[serde(flatten)]
    pub key: Key,
    /// Where it came from last.
    pub address: String,
    /// Its program.
    pub agent: String,
    /// Sessions it has now.
    pub open: u64,
    /// When the last session began.
    pub since_s: u64,
    /// When the last session ended, if none is open.
    pub left_s: Option<u64>,
    /// Last commit of the last session that is visible.
    pub applied_seq: u64,
    /// Last commit of the last session that is durable.
    pub durable_seq: u64,
    /// When something last became durable.
    pub durable_s: Option<u64>,
    /// What failed last, with its code; what agents mend by themselves is not counted as that.
    pub last_failure: Option<String>,
    /// What was counted.
    pub counts: Counts,
}

/// A module's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Sessions open.
    pub open: u64,
    /// What was counted, for peers forgotten meanwhile too.
    pub counts: Counts,
}

/// A connection that did not become a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When.
    pub at_s: u64,
    /// From where.
    pub address: String,
    /// Whose certificate.
    pub identity: String,
    /// For which module, if it came so far.
    pub module: Option<String>,
    /// Why, as in the log.
    pub text: String,
}

/// What a receiver says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_s: u64,
    /// When this was said.
    pub now_s: u64,
    /// Modules that were used.
    pub modules: Vec<Module>,
    /// Peers that were here.
    pub peers: Vec<Peer>,
    /// Connections refused before their session.
    pub refused: u64,
    /// The last of them.
    pub refusals: Vec<Refusal>,
}

/// The book that is kept.
#[derive(Debug, Default)]
pub struct Ledger {
    peers: BTreeMap<Key, Peer>,
    /// By module, what forgotten peers had counted.
    forgotten: BTreeMap<String, Counts>,
    refused: u64,
    refusals: VecDeque<Refusal>,
}

impl Ledger {
    /// A session begins.
    pub fn open(&mut self, key: &Key, address: String, agent: String, now_s: u64) {
        if !self.peers.contains_key(key) {
            self.make_room();
        }
        let peer = self.peers.entry(key.clone()).or_insert_with(|| Peer {
            key: key.clone(),
            address: String::new(),
            agent: String::new(),
            open: 0,
            since_s: now_s,
            left_s: None,
            applied_seq: 0,
            durable_seq: 0,
            durable_s: None,
            last_failure: None,
            counts: Counts::default(),
        });
        (peer.address, peer.agent) = (address, agent);
        peer.open += 1;
        (peer.since_s, peer.left_s) = (now_s, None);
        (peer.applied_seq, peer.durable_seq) = (0, 0);
        peer.counts.sessions += 1;
    }

    /// A session has ended.
    pub fn close(&mut self, key: &Key, now_s: u64) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.open = peer.open.saturating_sub(1);
            peer.left_s = (peer.open == 0).then_some(now_s);
        }
    }

    /// Bytes came from an agent.
    pub fn received(&mut self, key: &Key, bytes: u64) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.counts.bytes_received += bytes;
        }
    }

    /// Bytes went to it.
    pub fn sent(&mut self, key: &Key, bytes: u64) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.counts.bytes_sent += bytes;
        }
    }

    /// A session's log has come from `before` to `after`, as applied and durable numbers.
    pub fn acked(&mut self, key: &Key, before: (u64, u64), after: (u64, u64), now_s: u64) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        (peer.applied_seq, peer.durable_seq) = after;
        peer.counts.commits_applied += after.0.saturating_sub(before.0);
        let durable = after.1.saturating_sub(before.1);
        peer.counts.commits_durable += durable;
        if durable > 0 {
            peer.durable_s = Some(now_s);
        }
    }

    /// Something of a session was refused.
    pub fn rejected(&mut self, key: &Key, code: RejectCode, text: &str) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let name = code.to_string();
        if !code.is_stale() {
            peer.last_failure = Some(shortened(format!("{name}: {text}")));
        }
        *peer.counts.rejected.entry(name).or_default() += 1;
    }

    /// A connection did not become a session.
    pub fn refused(&mut self, mut refusal: Refusal) {
        refusal.text = shortened(refusal.text);
        self.refused += 1;
        self.refusals.push_back(refusal);
        if self.refusals.len() > REFUSALS_MAX {
            self.refusals.pop_front();
        }
    }

    /// Everything, with who and when told by whoever knows.
    #[must_use]
    pub fn report(&self, version: &str, pid: u32, started_s: u64, now_s: u64) -> Report {
        let mut modules: BTreeMap<&str, Module> = BTreeMap::new();
        let module = |name: &str| Module {
            name: name.to_owned(),
            open: 0,
            counts: Counts::default(),
        };
        for (name, counts) in &self.forgotten {
            let entry = modules.entry(name).or_insert_with(|| module(name));
            entry.counts.add(counts);
        }
        for peer in self.peers.values() {
            let name = &*peer.key.module;
            let entry = modules.entry(name).or_insert_with(|| module(name));
            entry.open += peer.open;
            entry.counts.add(&peer.counts);
        }
        Report {
            version: version.to_owned(),
            pid,
            started_s,
            now_s,
            modules: modules.into_values().collect(),
            peers: self.peers.values().cloned().collect(),
            refused: self.refused,
            refusals: self.refusals.iter().cloned().collect(),
        }
    }

    /// Forgets whoever has been gone longest, if there are too many. Those who are here are bounded by the
    /// connections there may be.
    fn make_room(&mut self) {
        if self.peers.len() < PEERS_MAX {
            return;
        }
        let gone = self.peers.values().filter(|peer| peer.open == 0);
        let longest = gone
            .min_by_key(|peer| peer.left_s)
            .map(|peer| peer.key.clone());
        if let Some(peer) = longest.and_then(|key| self.peers.remove(&key)) {
            let counts = self.forgotten.entry(peer.key.module).or_default();
            counts.add(&peer.counts);
        }
    }
}

fn shortened(mut text: String) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(module: &str, identity: &str) -> Key {
        Key {
            module: module.into(),
            sub_path: String::new(),
            identity: identity.into(),
            user: Some("mirror".into()),
        }
    }

    fn told(ledger: &Ledger) -> Report {
        ledger.report("0.1.0", 7, 1_000, 2_000)
    }

    pub(crate) fn used() -> Ledger {
        let mut ledger = Ledger::default();
        let (web, db) = (key("web", "web01"), key("db", "db01"));
        ledger.open(&web, "10.0.0.1".into(), "syncd-agent 0.1.0".into(), 1_100);
        ledger.received(&web, 5_000);
        ledger.sent(&web, 70);
        ledger.acked(&web, (0, 0), (9, 7), 1_200);
        ledger.rejected(&web, RejectCode::NoSpace, "d/f: \"full\"");
        ledger.rejected(&web, RejectCode::NoParent, "d/g");
        ledger.open(&db, "10.0.0.2".into(), "syncd-agent 0.1.0".into(), 1_300);
        ledger.close(&db, 1_400);
        ledger.refused(Refusal {
            at_s: 1_500,
            address: "10.0.0.3".into(),
            identity: "stranger".into(),
            module: Some("web".into()),
            text: "not in `client certs`".into(),
        });
        ledger
    }

    #[test]
    fn a_peer_is_one_entry_over_all_its_sessions() {
        let mut ledger = used();
        let web = key("web", "web01");
        ledger.close(&web, 1_600);
        assert_eq!(told(&ledger).peers[1].left_s, Some(1_600));
        ledger.open(&web, "10.0.0.9".into(), "syncd-agent 0.1.1".into(), 1_700);
        ledger.acked(&web, (0, 0), (2, 2), 1_800);
        let report = told(&ledger);
        assert_eq!(report.peers.len(), 2);
        let peer = &report.peers[1];
        assert_eq!((peer.open, peer.left_s), (1, None));
        assert_eq!((&*peer.address, peer.since_s), ("10.0.0.9", 1_700));
        assert_eq!((peer.applied_seq, peer.durable_seq), (2, 2));
        assert_eq!(peer.durable_s, Some(1_800));
        let counts = &peer.counts;
        assert_eq!((counts.sessions, counts.bytes_received), (2, 5_000));
        assert_eq!((counts.commits_applied, counts.commits_durable), (11, 9));
        assert_eq!(counts.rejected["no space left"], 1);
        assert_eq!(
            peer.last_failure.as_deref(),
            Some("no space left: d/f: \"full\""),
            "what agents mend by themselves is no failure"
        );
    }

    #[test]
    fn an_acknowledgement_without_news_is_none() {
        let mut ledger = used();
        let web = key("web", "web01");
        ledger.acked(&web, (9, 7), (9, 7), 1_900);
        let peer = &told(&ledger).peers[1];
        assert_eq!(
            (peer.durable_s, peer.counts.commits_durable),
            (Some(1_200), 7)
        );
    }

    #[test]
    fn there_are_never_too_many_and_what_was_counted_stays() {
        let mut ledger = used();
        let web = key("web", "web01");
        for number in 0..PEERS_MAX as u64 + 50 {
            let other = key("web", &format!("other-{number}"));
            ledger.open(&other, String::new(), String::new(), 2_000 + number);
            ledger.received(&other, 1);
            ledger.close(&other, 2_000 + number);
        }
        let report = told(&ledger);
        assert_eq!(report.peers.len(), PEERS_MAX);
        assert!(
            report.peers.iter().any(|peer| peer.key == web),
            "it is here"
        );
        let module = report.modules.iter().find(|module| module.name == "web");
        let module = module.unwrap();
        assert_eq!(module.open, 1);
        assert_eq!(module.counts.bytes_received, 5_000 + PEERS_MAX as u64 + 50);
        assert_eq!(module.counts.sessions, 1 + PEERS_MAX as u64 + 50);
        let db = report.modules.iter().find(|module| module.name == "db");
        assert_eq!(db.map(|db| db.counts.sessions), Some(1), "forgotten first");
        for number in 0..100 {
            ledger.refused(Refusal {
                at_s: number,
                address: String::new(),
                identity: String::new(),
                module: None,
                text: "é".repeat(TEXT_BYTES_MAX),
            });
        }
        let report = told(&ledger);
        assert_eq!((report.refused, report.refusals.len()), (101, REFUSALS_MAX));
        assert_eq!(report.refusals[0].at_s, 80);
        assert!(report.refusals[0].text.len() <= TEXT_BYTES_MAX);
    }
}
