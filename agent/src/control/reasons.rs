//! Why something is not in sync, with the command or remedy that helps: what `wait` says when its time is over.

use crate::control::render::{again, span};
use crate::control::status::{
    FailedPath, Held, Problem, SourceState, SourceStatus, Status, TargetState, TargetStatus,
};

/// Failed paths that are named per target.
const FAILED_NAMED_MAX: usize = 3;

/// One line for each reason; `below` is the path of a source that was asked about, escaped. There is at least one.
#[must_use]
pub fn reasons(status: &Status, below: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    for source in &status.sources {
        of_source(source, &mut lines);
        for target in &source.targets {
            of_target(target, &source.path, below, &mut lines);
            let shown = |held: &&Held| source.held.as_ref().is_some_and(|it| it.id == held.id);
            let held = target.held.as_ref().filter(|it| !shown(it));
            lines.extend(held.map(|held| of_held(held, source.state)));
        }
    }
    if lines.is_empty() {
        lines.push("everything is durable by now: ask again".to_owned());
    }
    lines
}

fn of_source(source: &SourceStatus, lines: &mut Vec<String>) {
    let path = &source.path;
    lines.extend(source.problems.iter().map(|it| problem(path, it)));
    if source.state == SourceState::Scanning {
        lines.push(format!("{path}: is being looked through"));
    }
    let held = source.held.as_ref();
    lines.extend(held.map(|held| of_held(held, source.state)));
}

fn of_held(held: &Held, source: SourceState) -> String {
    if held.deletes == 0 {
        return format!("deletes are held: {}", held.reason);
    }
    if source == SourceState::Lost {
        // Nobody can approve that; what helps is said of the source.
        return format!("{} deletes are held: {}", held.deletes, held.reason);
    }
    let Held {
        id,
        deletes,
        reason,
        ..
    } = held;
    format!(
        "{deletes} deletes are held ({reason}); let them go: syncd-agent approve {id}; keep them: syncd-agent reject {id}"
    )
}

fn of_target(target: &TargetStatus, source: &str, below: Option<&str>, lines: &mut Vec<String>) {
    let to = &target.to;
    let state = match target.state {
        TargetState::Connecting => Some("is being called"),
        TargetState::Waiting => Some("is not connected"),
        TargetState::Refused => Some("does not let us in"),
        TargetState::Paused => Some("takes nothing for now"),
        TargetState::Reconciling => Some("is being compared"),
        TargetState::Connected => None,
    };
    let next = target.next_try_ms;
    let next = next.map_or(String::new(), |ms| format!(", next try in {}", span(ms)));
    match (&target.last_error, state) {
        (Some(error), state) => {
            let state = state.unwrap_or("is in trouble");
            lines.push(problem(&format!("{to} {state}{next}"), error));
        }
        (None, Some(state)) => lines.push(format!("{to} {state}{next}")),
        (None, None) => {}
    }
    failed(target, source, below, lines);
    let pending = target.dirty.saturating_sub(target.failed_total);
    if pending + target.in_flight > 0 {
        lines.push(format!(
            "{to}: {pending} paths are to be sent, {} are sent and not durable yet, the oldest since {}",
            target.in_flight,
            span(target.lag_ms)
        ));
    }
}

/// Those that were asked about, and what they are in, come first.
fn failed(target: &TargetStatus, source: &str, below: Option<&str>, lines: &mut Vec<String>) {
    // A relative one would be taken from wherever it is typed.
    let whole = |path: &str| match path {
        "." => source.to_owned(),
        path => format!("{source}/{path}"),
    };
    let concerned = |path: &str| {
        let is_in = |path: &str, dir: &str| {
            let tail = path.strip_prefix(dir);
            dir == "." || tail.is_some_and(|tail| tail.is_empty() || tail.starts_with('/'))
        };
        below.is_none_or(|below| is_in(path, below) || is_in(below, path))
    };
    let mut named: Vec<&FailedPath> = target.failed.iter().collect();
    named.sort_by_key(|failed| !concerned(&failed.path));
    named.truncate(FAILED_NAMED_MAX);
    for failed in &named {
        lines.push(format!(
            "{}: {} failed: {} ({} times, {}); at once: syncd-agent rescan {}",
            target.to,
            failed.path,
            failed.text,
            failed.attempts,
            again(failed.next_try_ms),
            whole(&failed.path)
        ));
    }
    let more = target.failed_total.saturating_sub(named.len() as u64);
    if more > 0 && !named.is_empty() {
        lines.push(format!("{}: {more} more failed", target.to));
    }
}

fn problem(who: &str, problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{who}: {} -> {hint}", problem.text),
        None => format!("{who}: {}", problem.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::tests::at_rest;

    fn said(change: impl FnOnce(&mut SourceStatus)) -> String {
        let mut status = at_rest();
        change(&mut status.sources[0]);
        reasons(&status, None).join("\n")
    }

    fn failed(path: &str) -> FailedPath {
        FailedPath {
            path: path.into(),
            code: "c".into(),
            text: "why".into(),
            attempts: 4,
            next_try_ms: 3_000,
        }
    }

    #[test]
    fn each_reason_has_its_way_out() {
        let refused = said(|source| {
            source.targets[0].state = TargetState::Refused;
            source.targets[0].next_try_ms = Some(2_000);
            source.targets[0].last_error = Some(Problem {
                text: "no".into(),
                hint: Some("yes".into()),
            });
        });
        assert_eq!(
            refused,
            "u@h::m does not let us in, next try in 2 s: no -> yes"
        );
        let held = said(|source| {
            source.held = Some(Held {
                id: "7".into(),
                deletes: 3,
                entries: 4,
                reason: "too many".into(),
                examples: Vec::new(),
                since_ms: 1,
            });
        });
        assert!(held.contains("syncd-agent approve 7"), "{held}");
        let lost = said(|source| {
            source.state = SourceState::Lost;
            source.held = Some(Held {
                id: "7".into(),
                deletes: 3,
                entries: 4,
                reason: "another directory".into(),
                examples: Vec::new(),
                since_ms: 1,
            });
        });
        assert_eq!(lost, "3 deletes are held: another directory");
        let sending = said(|source| {
            source.targets[0].dirty = 5;
            source.targets[0].in_flight = 2;
        });
        assert!(
            sending.contains("5 paths are to be sent, 2 are"),
            "{sending}"
        );
        assert!(said(|_| {}).contains("by now"));
    }

    #[test]
    fn failures_are_named_and_what_was_asked_about_comes_first() {
        let mut status = at_rest();
        let target = &mut status.sources[0].targets[0];
        target.failed = ["a", "b", "c", "d/e"].map(failed).to_vec();
        target.failed_total = 4;
        target.dirty = 4;
        let lines = reasons(&status, Some("d"));
        assert_eq!(
            lines[0],
            "u@h::m: d/e failed: why (4 times, again in 3 s); at once: syncd-agent rescan /srv/www/d/e"
        );
        assert_eq!(
            lines.last().map(String::as_str),
            Some("u@h::m: 1 more failed")
        );
        assert!(!lines.iter().any(|line| line.contains("to be sent")));
    }
}
