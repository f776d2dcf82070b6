//! A [`Report`] as text for people.

use std::fmt::Write;

use super::{Peer, Report};

/// The whole report.
#[must_use]
pub fn report(report: &Report) -> String {
    let here: u64 = report.modules.iter().map(|module| module.open).sum();
    let up = span(report.now_s.saturating_sub(report.started_s));
    let mut text = format!(
        "{here} sessions  (syncd-recv {}, pid {}, up {up})\n",
        report.version, report.pid
    );
    for module in &report.modules {
        let counts = &module.counts;
        let _ = writeln!(
            text,
            "[{}]  {} open, {} since the start; {} received, {} commits durable, {} refused in them",
            module.name,
            module.open,
            counts.sessions,
            bytes(counts.bytes_received),
            counts.commits_durable,
            counts.rejected.values().sum::<u64>()
        );
        let of = report.peers.iter();
        for peer in of.filter(|peer| peer.key.module == module.name) {
            write_peer(peer, report.now_s, &mut text);
        }
    }
    if report.refused > 0 {
        let _ = writeln!(text, "{} connections refused, the last:", report.refused);
    }
    for refusal in &report.refusals {
        let module = refusal.module.as_ref();
        let module = module.map_or(String::new(), |module| format!(" for [{module}]"));
        let _ = writeln!(
            text,
            "  {} ago: {} from {}{module}: {}",
            span(report.now_s.saturating_sub(refusal.at_s)),
            refusal.identity,
            refusal.address,
            refusal.text
        );
    }
    text
}

fn write_peer(peer: &Peer, now_s: u64, text: &mut String) {
    let ago = |at_s: u64| span(now_s.saturating_sub(at_s));
    let user = peer.key.user.as_ref();
    let user = user.map_or(String::new(), |user| format!(" as {user}"));
    let place = match &*peer.key.sub_path {
        "" => String::new(),
        path => format!(" at {path}"),
    };
    let state = match peer.left_s {
        Some(left_s) => format!("gone for {}", ago(left_s)),
        None => format!("here for {}", ago(peer.since_s)),
    };
    let _ = write!(
        text,
        "  {}{user}{place} from {}  {state}; commit {} applied, {} durable",
        peer.key.identity, peer.address, peer.applied_seq, peer.durable_seq
    );
    if let Some(durable_s) = peer.durable_s {
        let _ = write!(text, ", the last {} ago", ago(durable_s));
    }
    let _ = writeln!(
        text,
        "; {} received in {} sessions",
        bytes(peer.counts.bytes_received),
        peer.counts.sessions
    );
    let rejected = peer.counts.rejected.iter();
    let rejected: Vec<_> = rejected
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    if !rejected.is_empty() {
        let _ = writeln!(text, "    refused: {}", rejected.join(", "));
    }
    if let Some(failure) = &peer.last_failure {
        let _ = writeln!(text, "    last: {failure}");
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut unit, mut value) = (0, u128::from(count) * 10);
    while value >= 10_240 && unit + 1 < UNITS.len() {
        value /= 1_024;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{}.{} {}", value / 10, value % 10, UNITS[unit]),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::used;
    use super::*;

    #[test]
    fn who_is_here_how_far_and_what_failed() {
        let text = report(&used().report("0.1.0", 7, 1_000, 2_000));
        assert_eq!(
            text,
            "1 sessions  (syncd-recv 0.1.0, pid 7, up 16 min)\n\
             [db]  0 open, 1 since the start; 0 B received, 0 commits durable, 0 refused in them\n  \
             db01 as mirror from 10.0.0.2  gone for 10 min; commit 0 applied, 0 durable; 0 B received in 1 sessions\n\
             [web]  1 open, 1 since the start; 4.8 KiB received, 7 commits durable, 2 refused in them\n  \
             web01 as mirror from 10.0.0.1  here for 15 min; commit 9 applied, 7 durable, the last 13 min ago; 4.8 KiB received in 1 sessions\n    \
             refused: 1 no space left, 1 parent directory missing\n    \
             last: no space left: d/f: \"full\"\n\
             1 connections refused, the last:\n  \
             8 min ago: stranger from 10.0.0.3 for [web]: not in `client certs`\n"
        );
    }

    #[test]
    fn units_follow_size() {
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
        assert_eq!(span(119), "119 s");
        assert_eq!(span(200_000), "2 days");
    }
}
