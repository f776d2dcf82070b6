//! [`Status`] as numbers for Prometheus: the same truth as `status`, and nothing that `status` does not know.
//!
//! Labels name the control socket, the source, the target and states, never a path below a source. The control
//! socket tells several agents of one machine apart, whose texts a collector reads together.

use syncd_proto::exposition::{Exposition, Kind, Label};

use crate::control::status::{SourceState, SourceStatus, Status, TargetState, TargetStatus};

/// All numbers of an agent that answered at this control socket.
#[must_use]
pub fn of_status(status: &Status, socket: &str) -> String {
    let mut text = Exposition::default();
    let here: [Label<'_>; 1] = [("control", socket)];
    up(&mut text, &here, true);
    text.family(
        "syncd_agent_build_info",
        Kind::Gauge,
        "Which program answered; always 1.",
    )
    .number(&[here[0], ("version", &status.version)], 1);
    text.family(
        "syncd_agent_uptime_seconds",
        Kind::Gauge,
        "How long the agent has been running.",
    )
    .seconds(&here, status.uptime_ms);
    text.family(
        "syncd_agent_verdict",
        Kind::Gauge,
        "Exit code of `status`: 0 in sync, 1 behind, 2 degraded or held, 3 failed.",
    )
    .number(&here, u64::from(status.verdict().exit_code()));
    of_sources(&mut text, status, socket);
    of_targets(&mut text, status, socket);
    text.end()
}

/// The numbers of an agent that does not answer.
#[must_use]
pub fn of_nobody(socket: &str) -> String {
    let mut text = Exposition::default();
    up(&mut text, &[("control", socket)], false);
    text.end()
}

fn up(text: &mut Exposition, here: &[Label<'_>], is_up: bool) {
    text.family(
        "syncd_agent_up",
        Kind::Gauge,
        "Whether the agent answered at its control socket.",
    )
    .number(here, u64::from(is_up));
}

/// What a number is read from, and how it is written.
enum Value<T> {
    /// As it is.
    Number(fn(&T) -> Option<u64>),
    /// Milliseconds, written as seconds.
    Ms(fn(&T) -> Option<u64>),
}

type Row<T> = (&'static str, Kind, &'static str, Value<T>);

const SOURCE_STATES: [(SourceState, &str); 3] = [
    (SourceState::Scanning, "scanning"),
    (SourceState::Watching, "watching"),
    (SourceState::Lost, "lost"),
];

const TARGET_STATES: [(TargetState, &str); 6] = [
    (TargetState::Connecting, "connecting"),
    (TargetState::Waiting, "waiting"),
    (TargetState::Reconciling, "reconciling"),
    (TargetState::Connected, "connected"),
    (TargetState::Paused, "paused"),
    (TargetState::Refused, "refused"),
];

#[rustfmt::skip]
const SOURCE: [Row<SourceStatus>; 6] = [
    ("syncd_agent_source_verdict", Kind::Gauge, "Exit code of `status`, for this source and its targets.",
        Value::Number(|source| Some(source.verdict().exit_code().into()))),
    ("syncd_agent_source_watched_directories", Kind::Gauge, "Directories watched, one inotify watch each.",
        Value::Number(|source| Some(source.watched_dirs))),
    ("syncd_agent_source_unwatched_directories", Kind::Gauge, "Directories that cannot be watched and are compared on a timer.",
        Value::Number(|source| Some(source.unwatched_dirs))),
    ("syncd_agent_source_overflows_total", Kind::Counter, "How often the kernel dropped events.",
        Value::Number(|source| Some(source.overflows))),
    ("syncd_agent_source_rescans_total", Kind::Counter, "How often a part of the source or all of it was watched and compared again.",
        Value::Number(|source| Some(source.rescans))),
    ("syncd_agent_source_problems", Kind::Gauge, "Things that are wrong with the source.",
        Value::Number(|source| Some(source.problems.len() as u64))),
];

#[rustfmt::skip]
const TARGET: [Row<TargetStatus>; 23] = [
    ("syncd_agent_target_verdict", Kind::Gauge, "Exit code of `status`, for this target.",
        Value::Number(|target| Some(target.verdict().exit_code().into()))),
    ("syncd_agent_target_connected", Kind::Gauge, "Whether a session is open.",
        Value::Number(|target| Some(target.is_open().into()))),
    ("syncd_agent_target_lag_seconds", Kind::Gauge, "Age of the oldest change that is not durable there.",
        Value::Ms(|target| Some(target.lag_ms))),
    ("syncd_agent_target_dirty_paths", Kind::Gauge, "Paths to look at, the failed and held ones included.",
        Value::Number(|target| Some(target.dirty))),
    ("syncd_agent_target_in_flight_paths", Kind::Gauge, "Paths sent and not acknowledged.",
        Value::Number(|target| Some(target.in_flight))),
    ("syncd_agent_target_failed_paths", Kind::Gauge, "Paths that failed and wait for their next try.",
        Value::Number(|target| Some(target.failed_total))),
    ("syncd_agent_target_brake_engaged", Kind::Gauge, "Whether deletes are held until somebody decides.",
        Value::Number(|target| Some(target.held.is_some().into()))),
    ("syncd_agent_target_held_deletes", Kind::Gauge, "Deletes that are held.",
        Value::Number(|target| Some(target.held.as_ref().map_or(0, |held| held.deletes)))),
    ("syncd_agent_target_held_seconds", Kind::Gauge, "How long deletes have been held.",
        Value::Ms(|target| Some(target.held.as_ref().map_or(0, |held| held.since_ms)))),
    ("syncd_agent_target_sent_bytes_total", Kind::Counter, "Bytes on the wire to the target.",
        Value::Number(|target| Some(target.bytes_sent))),
    ("syncd_agent_target_received_bytes_total", Kind::Counter, "Bytes on the wire from the target.",
        Value::Number(|target| Some(target.bytes_received))),
    ("syncd_agent_target_durable_content_bytes_total", Kind::Counter, "Bytes of content in files that became durable there.",
        Value::Number(|target| Some(target.bytes_content))),
    ("syncd_agent_target_durable_files_total", Kind::Counter, "Files that became durable there.",
        Value::Number(|target| Some(target.files))),
    ("syncd_agent_target_sent_operations_total", Kind::Counter, "Operations sent, those sent again included.",
        Value::Number(|target| Some(target.ops_sent))),
    ("syncd_agent_target_durable_operations_total", Kind::Counter, "Operations that became durable there.",
        Value::Number(|target| Some(target.ops_durable))),
    ("syncd_agent_target_comparisons_total", Kind::Counter, "Comparisons of both trees that came to their end.",
        Value::Number(|target| Some(target.comparisons))),
    ("syncd_agent_target_collapsed_total", Kind::Counter, "How often a directory was put down to be compared since more names had changed than are kept.",
        Value::Number(|target| Some(target.collapsed))),
    ("syncd_agent_target_first_sync_done", Kind::Gauge, "Whether the target has had everything once.",
        Value::Number(|target| Some(target.first_sync.is_none().into()))),
    ("syncd_agent_target_identical_timestamp_seconds", Kind::Gauge, "When both trees were last found equal, in seconds since 1970.",
        Value::Number(|target| target.identical_at_s)),
    ("syncd_agent_target_next_try_seconds", Kind::Gauge, "Time until the next call, while there is no session.",
        Value::Ms(|target| target.next_try_ms)),
    ("syncd_agent_target_bwlimit_bytes", Kind::Gauge, "Most bytes sent per second now, if that is limited.",
        Value::Number(|target| target.bwlimit)),
    ("syncd_agent_target_full_check_differences", Kind::Gauge, "What the last full check found to differ although nobody had said so.",
        Value::Number(|target| target.full_check.as_ref().map(|check| check.found))),
    ("syncd_agent_target_full_check_unread", Kind::Gauge, "What the last full check could not read.",
        Value::Number(|target| target.full_check.as_ref().map(|check| check.unread))),
];

fn of_sources(text: &mut Exposition, status: &Status, socket: &str) {
    let mut states = text.family(
        "syncd_agent_source_state",
        Kind::Gauge,
        "What the source is doing: 1 for that state, 0 for the others.",
    );
    let names = names(&status.sources);
    for (source, name) in status.sources.iter().zip(&names) {
        for (state, word) in SOURCE_STATES {
            let labels = [("control", socket), ("source", &**name), ("state", word)];
            states.number(&labels, u64::from(source.state == state));
        }
    }
    for row in SOURCE {
        let samples = status.sources.iter().zip(&names).map(|(source, name)| {
            let labels = vec![("control", socket), ("source", &**name)];
            (labels, source)
        });
        write(text, row, samples);
    }
}

fn of_targets(text: &mut Exposition, status: &Status, socket: &str) {
    let names = names(&status.sources);
    let mut targets: Vec<([Label<'_>; 3], &TargetStatus)> = Vec::new();
    for (source, name) in status.sources.iter().zip(&names) {
        targets.extend(source.targets.iter().map(|target| {
            let labels = [
                ("control", socket),
                ("source", &**name),
                ("target", &*target.to),
            ];
            (labels, target)
        }));
    }
    let mut states = text.family(
        "syncd_agent_target_state",
        Kind::Gauge,
        "What the target is doing: 1 for that state, 0 for the others.",
    );
    for (labels, target) in &targets {
        for (state, name) in TARGET_STATES {
            let labels = [labels[0], labels[1], labels[2], ("state", name)];
            states.number(&labels, u64::from(target.state == state));
        }
    }
    for row in TARGET {
        let samples = targets.iter();
        write(
            text,
            row,
            samples.map(|(labels, target)| (labels.to_vec(), *target)),
        );
    }
}

/// What the sources are called: by their paths, with a number where one path is mirrored as several sources.
fn names(sources: &[SourceStatus]) -> Vec<String> {
    let earlier = |index: usize, path: &str| {
        let earlier = sources.iter().take(index);
        earlier.filter(|source| source.path == path).count()
    };
    let named = |(index, source): (usize, &SourceStatus)| match earlier(index, &source.path) {
        0 => source.path.clone(),
        count => format!("{} ({})", source.path, count + 1),
    };
    sources.iter().enumerate().map(named).collect()
}

fn write<'a, T: 'a>(
    text: &mut Exposition,
    (name, kind, help, value): Row<T>,
    samples: impl Iterator<Item = (Vec<Label<'a>>, &'a T)>,
) {
    let mut family = text.family(name, kind, help);
    for (labels, of) in samples {
        match value {
            Value::Number(number) => {
                if let Some(number) = number(of) {
                    family.number(&labels, number);
                }
            }
            Value::Ms(ms) => {
                if let Some(ms) = ms(of) {
                    family.seconds(&labels, ms);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::exposition::{Sample, read};

    use super::*;
    use crate::control::status::tests::at_rest;
    use crate::control::status::{Held, Problem, Verdict};

    fn value(samples: &[Sample], name: &str) -> Option<f64> {
        let found: Vec<_> = samples
            .iter()
            .filter(|sample| sample.name == name)
            .collect();
        assert!(found.len() < 2, "{name} is there more than once");
        found.first().map(|sample| sample.value)
    }

    fn state(samples: &[Sample], name: &str) -> Vec<String> {
        let of = samples.iter().filter(|sample| sample.name == name);
        let set = of.filter(|sample| sample.value == 1.0);
        set.map(|sample| sample.labels["state"].clone()).collect()
    }

    #[test]
    fn every_number_is_that_of_the_status() {
        let mut status = at_rest();
        let source = &mut status.sources[0];
        source.overflows = 3;
        source.rescans = 4;
        source.problems = vec![Problem {
            text: "secret/problem".into(),
            hint: None,
        }];
        let target = &mut source.targets[0];
        target.state = TargetState::Waiting;
        target.dirty = 7;
        target.held = Some(Held {
            id: "1".into(),
            deletes: 40,
            entries: 90,
            reason: "many".into(),
            examples: vec!["secret/name".into()],
            since_ms: 61_500,
        });
        source.held.clone_from(&source.targets[0].held);
        let target = &mut source.targets[0];
        target.in_flight = 2;
        target.lag_ms = 1_250;
        target.failed_total = 5;
        target.identical_at_s = Some(1_795_000_000);
        target.next_try_ms = Some(30_000);
        let text = of_status(&status, "/run/a.sock");
        assert!(!text.contains("secret"), "no path below a source: {text}");
        let samples = read(&text).unwrap();
        for (name, expected) in [
            ("syncd_agent_up", 1.0),
            ("syncd_agent_build_info", 1.0),
            ("syncd_agent_uptime_seconds", 61.0),
            ("syncd_agent_verdict", 2.0),
            ("syncd_agent_source_verdict", 2.0),
            ("syncd_agent_source_watched_directories", 12.0),
            ("syncd_agent_source_overflows_total", 3.0),
            ("syncd_agent_source_rescans_total", 4.0),
            ("syncd_agent_source_problems", 1.0),
            ("syncd_agent_target_brake_engaged", 1.0),
            ("syncd_agent_target_held_deletes", 40.0),
            ("syncd_agent_target_held_seconds", 61.5),
            ("syncd_agent_target_verdict", 2.0),
            ("syncd_agent_target_connected", 0.0),
            ("syncd_agent_target_lag_seconds", 1.25),
            ("syncd_agent_target_dirty_paths", 7.0),
            ("syncd_agent_target_in_flight_paths", 2.0),
            ("syncd_agent_target_failed_paths", 5.0),
            ("syncd_agent_target_sent_bytes_total", 2_048.0),
            ("syncd_agent_target_durable_content_bytes_total", 4_096.0),
            ("syncd_agent_target_sent_operations_total", 5.0),
            ("syncd_agent_target_durable_operations_total", 4.0),
            (
                "syncd_agent_target_identical_timestamp_seconds",
                1_795_000_000.0,
            ),
            ("syncd_agent_target_next_try_seconds", 30.0),
        ] {
            assert_eq!(value(&samples, name), Some(expected), "{name}");
        }
        assert_eq!(value(&samples, "syncd_agent_target_bwlimit_bytes"), None);
        assert_eq!(state(&samples, "syncd_agent_target_state"), ["waiting"]);
        assert_eq!(state(&samples, "syncd_agent_source_state"), ["watching"]);
    }

    #[test]
    fn each_state_has_a_name_and_the_verdict_is_the_exit_code() {
        for (state_now, name) in TARGET_STATES {
            let mut status = at_rest();
            status.sources[0].targets[0].state = state_now;
            let samples = read(&of_status(&status, "s")).unwrap();
            assert_eq!(state(&samples, "syncd_agent_target_state"), [name]);
            let verdict = f64::from(status.verdict().exit_code());
            assert_eq!(value(&samples, "syncd_agent_verdict"), Some(verdict));
        }
        for (state_now, name) in SOURCE_STATES {
            let mut status = at_rest();
            status.sources[0].state = state_now;
            let samples = read(&of_status(&status, "s")).unwrap();
            assert_eq!(state(&samples, "syncd_agent_source_state"), [name]);
        }
        assert_eq!(Verdict::InSync.exit_code(), 0);
    }

    #[test]
    fn names_of_any_kind_and_several_sources_make_a_good_text() {
        let mut status = at_rest();
        let mut other = status.sources[0].clone();
        other.path = "/a \"quoted\" \\x0a, }".into();
        other.targets.push(other.targets[0].clone());
        other.targets[1].to = "other::m".into();
        status.sources.push(other.clone());
        status.sources.push(status.sources[0].clone());
        let samples = read(&of_status(&status, "/run/\n")).unwrap();
        let paths = samples
            .iter()
            .filter_map(|sample| sample.labels.get("source"));
        assert!(paths.clone().any(|path| *path == other.path));
        let lags = samples.iter();
        let lags = lags.filter(|sample| sample.name == "syncd_agent_target_lag_seconds");
        assert_eq!(lags.count(), 4);
        let none = Status {
            sources: Vec::new(),
            ..at_rest()
        };
        assert_eq!(read(&of_status(&none, "s")).unwrap().len(), 4);
    }

    #[test]
    fn nobody_is_a_number_too() {
        let samples = read(&of_nobody("/run/x")).unwrap();
        assert_eq!(value(&samples, "syncd_agent_up"), Some(0.0));
        assert_eq!(samples[0].labels["control"], "/run/x");
    }
}
