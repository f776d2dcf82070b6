//! A [`Report`] as numbers for Prometheus.
//!
//! Labels name the control socket, modules, peers and reject codes, never a path of a file: as many samples as there
//! are peers, which are bounded.

use syncd_proto::exposition::{Exposition, Kind, Label};

use super::{Counts, Module, Peer, Report};

/// All numbers of a receiver that answered at this control socket.
#[must_use]
pub fn of_report(report: &Report, socket: &str) -> String {
    let mut text = Exposition::default();
    let here: [Label<'_>; 1] = [("control", socket)];
    up(&mut text, &here, true);
    text.family(
        "syncd_recv_build_info",
        Kind::Gauge,
        "Which program answered; always 1.",
    )
    .number(&[here[0], ("version", &report.version)], 1);
    text.family(
        "syncd_recv_start_timestamp_seconds",
        Kind::Gauge,
        "When the receiver started, in seconds since 1970.",
    )
    .number(&here, report.started_s);
    text.family(
        "syncd_recv_refused_connections_total",
        Kind::Counter,
        "Connections that did not become a session.",
    )
    .number(&here, report.refused);
    of_modules(&mut text, report, socket);
    of_peers(&mut text, report, socket);
    text.end()
}

/// The numbers of a receiver that does not answer.
#[must_use]
pub fn of_nobody(socket: &str) -> String {
    let mut text = Exposition::default();
    up(&mut text, &[("control", socket)], false);
    text.end()
}

fn up(text: &mut Exposition, here: &[Label<'_>], is_up: bool) {
    text.family(
        "syncd_recv_up",
        Kind::Gauge,
        "Whether the receiver answered at its control socket.",
    )
    .number(here, u64::from(is_up));
}

type Row<T> = (&'static str, Kind, &'static str, fn(&T) -> Option<u64>);

const MODULE: [Row<Module>; 6] = [
    (
        "syncd_recv_module_sessions",
        Kind::Gauge,
        "Sessions open.",
        |module| Some(module.open),
    ),
    (
        "syncd_recv_module_sessions_total",
        Kind::Counter,
        "Sessions begun.",
        |module| Some(module.counts.sessions),
    ),
    (
        "syncd_recv_module_received_bytes_total",
        Kind::Counter,
        "Bytes of frames from agents.",
        |module| Some(module.counts.bytes_received),
    ),
    (
        "syncd_recv_module_sent_bytes_total",
        Kind::Counter,
        "Bytes of frames to agents.",
        |module| Some(module.counts.bytes_sent),
    ),
    (
        "syncd_recv_module_applied_commits_total",
        Kind::Counter,
        "Commits that became visible.",
        |module| Some(module.counts.commits_applied),
    ),
    (
        "syncd_recv_module_durable_commits_total",
        Kind::Counter,
        "Commits that became durable.",
        |module| Some(module.counts.commits_durable),
    ),
];

const PEER: [Row<Peer>; 6] = [
    (
        "syncd_recv_peer_sessions",
        Kind::Gauge,
        "Sessions the peer has now; 0 if it is gone.",
        |peer| Some(peer.open),
    ),
    (
        "syncd_recv_peer_left_timestamp_seconds",
        Kind::Gauge,
        "When it went, in seconds since 1970; not there while it is connected.",
        |peer| peer.left_s,
    ),
    (
        "syncd_recv_peer_durable_timestamp_seconds",
        Kind::Gauge,
        "When something of it last became durable, in seconds since 1970.",
        |peer| peer.durable_s,
    ),
    (
        "syncd_recv_peer_received_bytes_total",
        Kind::Counter,
        "Bytes of frames from it.",
        |peer| Some(peer.counts.bytes_received),
    ),
    (
        "syncd_recv_peer_durable_commits_total",
        Kind::Counter,
        "Commits of it that became durable.",
        |peer| Some(peer.counts.commits_durable),
    ),
    (
        "syncd_recv_peer_rejects_total",
        Kind::Counter,
        "What was refused within its sessions.",
        |peer| Some(all(&peer.counts)),
    ),
];

fn all(counts: &Counts) -> u64 {
    counts.rejected.values().sum()
}

fn of_modules(text: &mut Exposition, report: &Report, socket: &str) {
    for (name, kind, help, value) in MODULE {
        let mut family = text.family(name, kind, help);
        for module in &report.modules {
            let labels = [("control", socket), ("module", &*module.name)];
            if let Some(value) = value(module) {
                family.number(&labels, value);
            }
        }
    }
    let help = "What was refused within sessions, by its code.";
    let mut family = text.family("syncd_recv_module_rejects_total", Kind::Counter, help);
    for module in &report.modules {
        for (code, count) in &module.counts.rejected {
            let labels = [
                ("control", socket),
                ("module", &*module.name),
                ("code", &**code),
            ];
            family.number(&labels, *count);
        }
    }
}

fn of_peers(text: &mut Exposition, report: &Report, socket: &str) {
    for (name, kind, help, value) in PEER {
        let mut family = text.family(name, kind, help);
        for peer in &report.peers {
            let labels = [
                ("control", socket),
                ("module", &*peer.key.module),
                ("identity", &*peer.key.identity),
                ("user", peer.key.user.as_deref().unwrap_or_default()),
                ("sub_path", &*peer.key.sub_path),
            ];
            if let Some(value) = value(peer) {
                family.number(&labels, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::exposition::read;

    use super::super::tests::used;
    use super::*;

    #[test]
    fn every_number_is_that_of_the_report() {
        let report = used().report("0.1.0", 7, 1_000, 2_000);
        let samples = read(&of_report(&report, "/run/r.sock")).unwrap();
        let value = |name: &str, module: &str, code: Option<&str>| {
            let found = samples.iter().find(|sample| {
                let label = |name: &str| sample.labels.get(name).map(String::as_str);
                let module_is = label("module").is_none_or(|found| found == module);
                sample.name == format!("syncd_recv_{name}") && module_is && label("code") == code
            });
            found.map(|sample| sample.value)
        };
        for (name, module, expected) in [
            ("up", "", Some(1.0)),
            ("refused_connections_total", "", Some(1.0)),
            ("module_sessions", "web", Some(1.0)),
            ("module_sessions", "db", Some(0.0)),
            ("module_received_bytes_total", "web", Some(5_000.0)),
            ("module_durable_commits_total", "web", Some(7.0)),
            ("peer_sessions", "db", Some(0.0)),
            ("peer_left_timestamp_seconds", "db", Some(1_400.0)),
            ("peer_left_timestamp_seconds", "web", None),
            ("peer_durable_timestamp_seconds", "web", Some(1_200.0)),
            ("peer_rejects_total", "web", Some(2.0)),
        ] {
            assert_eq!(value(name, module, None), expected, "{name} of {module}");
        }
        let code = Some("no space left");
        assert_eq!(value("module_rejects_total", "web", code), Some(1.0));
        let nobody = read(&of_nobody("s")).unwrap();
        assert_eq!((nobody.len(), nobody[0].value), (1, 0.0));
    }
}
