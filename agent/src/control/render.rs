//! [`Status`] as text for people.

use std::fmt::Write;

use crate::control::status::{
    FullCheck, Held, Problem, SourceState, SourceStatus, Status, TargetState, TargetStatus,
};

/// The whole status.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut text = format!(
        "{}  (syncd-agent {}, pid {}, up {})\n",
        status.verdict().name(),
        status.version,
        status.pid,
        span(status.uptime_ms)
    );
    for source in &status.sources {
        write_source(source, &mut text);
    }
    text
}

fn write_source(source: &SourceStatus, text: &mut String) {
    let state = match source.state {
        SourceState::Scanning => "scanning",
        SourceState::Watching => "watching",
        SourceState::Lost => "lost: nothing is mirrored",
    };
    let _ = writeln!(
        text,
        "{}  {state}, {} directories ({})",
        source.path, source.watched_dirs, source.backend
    );
    if source.unwatched_dirs > 0 {
        let _ = writeln!(
            text,
            "  {} directories cannot be watched and are scanned instead",
            source.unwatched_dirs
        );
    }
    if source.overflows > 0 {
        let _ = writeln!(
            text,
            "  the kernel dropped events {} times (fs.inotify.max_queued_events)",
            source.overflows
        );
    }
    for problem in &source.problems {
        write_problem("  ", problem, text);
    }
    let may_approve = source.state != SourceState::Lost;
    if let Some(held) = &source.held {
        write_held("  ", held, may_approve, text);
    }
    for target in &source.targets {
        write_target(target, text);
        let shown = |held: &&Held| source.held.as_ref().is_some_and(|it| it.id == held.id);
        if let Some(held) = target.held.as_ref().filter(|held| !shown(held)) {
            write_held("     ", held, may_approve, text);
        }
    }
}

fn write_held(indent: &str, held: &Held, may_approve: bool, text: &mut String) {
    let since = span(held.since_ms);
    text.push_str(indent);
    if held.deletes == 0 {
        let _ = writeln!(text, "deletes are held for {since}: {}", held.reason);
        return;
    }
    // An empty source has none.
    let among = match held.entries {
        0 => String::new(),
        entries => format!(" of {entries} entries"),
    };
    let _ = writeln!(
        text,
        "held for {since}: {} deletes{among} ({}), such as {}",
        held.deletes,
        held.reason,
        held.examples.join(", ")
    );
    if may_approve {
        let _ = writeln!(
            text,
            "{indent}  let them go: syncd-agent approve {}; keep them: syncd-agent reject {}",
            held.id, held.id
        );
    }
}

fn write_target(target: &TargetStatus, text: &mut String) {
    let state = match target.state {
        TargetState::Connecting => "connecting",
        TargetState::Waiting => "not connected",
        TargetState::Reconciling => "comparing",
        TargetState::Connected => "connected",
        TargetState::Paused => "paused",
        TargetState::Refused => "refused",
    };
    let _ = write!(
        text,
        "  -> {}  {state}, {} dirty, {} in flight, {} behind; {} files, {} sent for {}",
        target.to,
        target.dirty,
        target.in_flight,
        span(target.lag_ms),
        target.files,
        bytes(target.bytes_sent),
        bytes(target.bytes_content)
    );
    if let Some(next) = target.next_try_ms {
        let _ = write!(text, "; next try in {}", span(next));
    }
    text.push('\n');
    if let Some(first) = &target.first_sync {
        let of =
            |total: Option<String>| total.map_or(String::new(), |total| format!(" of {total}"));
        let _ = writeln!(
            text,
            "     first sync: {}{} files, {}{}",
            first.files_done,
            of(first.files_total.map(|total| total.to_string())),
            bytes(first.bytes_done),
            of(first.bytes_total.map(bytes))
        );
    }
    if let (Some(root), Some(at)) = (&target.root_digest, &target.identical_at) {
        let root = root.get(..16).unwrap_or(root);
        let _ = writeln!(text, "     identical at {}, root {root}...", moment(at));
    }
    if let Some(times) = &target.times {
        let _ = writeln!(
            text,
            "     times are kept and compared {times}: the file system there holds no more"
        );
    }
    if target.collapsed > 0 {
        let _ = writeln!(
            text,
            "     more names had changed than are kept, {} times: their directories are compared instead",
            target.collapsed
        );
    }
    if let Some(limit) = target.bwlimit {
        let _ = writeln!(text, "     at most {} are sent per second", bytes(limit));
    }
    write_check(target, text);
    if let Some(problem) = &target.last_error {
        write_problem("     ", problem, text);
    }
    for failed in &target.failed {
        let _ = writeln!(
            text,
            "     failed: {}: {} ({} times, {})",
            failed.path,
            failed.text,
            failed.attempts,
            again(failed.next_try_ms)
        );
    }
    let unlisted = target
        .failed_total
        .saturating_sub(target.failed.len() as u64);
    if unlisted > 0 {
        let _ = writeln!(text, "     and {unlisted} more");
    }
}

fn write_check(target: &TargetStatus, text: &mut String) {
    let Some(check) = &target.full_check else {
        if let Some(next) = &target.next_full_check {
            let _ = writeln!(text, "     full check: the first at {}", moment(next));
        }
        return;
    };
    let how = match (check.content, check.done) {
        (true, true) => "full check of contents",
        (true, false) => "full check of contents, begun",
        (false, true) => "full check",
        (false, false) => "full check, begun",
    };
    let _ = write!(text, "     {how} at {}: ", moment(&check.at));
    write_progress(check, text);
    match check.found {
        0 if !check.done => text.push_str("no differences yet"),
        0 if check.unread > 0 => text.push_str("no differences in what could be read"),
        0 => text.push_str("no differences"),
        found => {
            let examples = check.examples.join(", ");
            let _ = write!(text, "{found} differences, mended, such as {examples}");
        }
    }
    if check.unread > 0 {
        let _ = write!(text, "; {} could not be read", check.unread);
    }
    if check.done {
        let _ = write!(text, "; it took {}", span(check.took_ms));
    }
    if let Some(next) = &target.next_full_check {
        let _ = write!(text, "; the next at {}", moment(next));
    }
    text.push('\n');
}

/// How much was compared; of digests alone nobody knows until it is over.
fn write_progress(check: &FullCheck, text: &mut String) {
    if !check.done {
        let _ = write!(text, "{} so far, ", span(check.took_ms));
    }
    if check.content {
        let of = check.entries_total.map(|total| format!(" of {total}"));
        let of = of.unwrap_or_default();
        let read = bytes(check.bytes);
        let _ = write!(text, "{}{of} entries, {read}, ", check.entries);
    } else if check.done {
        let _ = write!(text, "{} entries, ", check.entries);
    }
}

/// A moment as it is shown to people: without its offset.
fn moment(at: &str) -> String {
    at.get(..19).unwrap_or(at).replacen('T', " ", 1)
}

fn write_problem(indent: &str, problem: &Problem, text: &mut String) {
    let _ = writeln!(text, "{indent}{}", problem.text);
    if let Some(hint) = &problem.hint {
        let _ = writeln!(text, "{indent}  -> {hint}");
    }
}

/// A number of bytes.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut tenths = u128::from(count) * 10 / 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// When something that failed is tried again; it is just now where that is in no time.
#[must_use]
pub fn again(ms: u64) -> String {
    match ms {
        0 => "being tried again".to_owned(),
        _ => format!("again in {}", span(ms)),
    }
}

/// A length of time.
#[must_use]
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::FirstSync;
    use crate::control::status::tests::at_rest;

    #[test]
    fn an_agent_at_rest_takes_three_lines() {
        assert_eq!(
            status(&at_rest()),
            "in sync  (syncd-agent 0.1.0, pid 7, up 61 s)\n\
             /srv/www  watching, 12 directories (inotify)\n  \
             -> u@h::m  connected, 0 dirty, 0 in flight, 0 ms behind; 3 files, 2.0 KiB sent for 4.0 KiB\n"
        );
    }

    #[test]
    fn what_is_wrong_comes_with_its_hint() {
        let mut troubled = at_rest();
        let target = &mut troubled.sources[0].targets[0];
        target.state = TargetState::Refused;
        target.failed_total = 2;
        target.first_sync = Some(FirstSync {
            files_total: Some(9),
            ..FirstSync::default()
        });
        target.last_error = Some(Problem {
            text: "no".into(),
            hint: Some("yes".into()),
        });
        let text = status(&troubled);
        for part in [
            "failed  (",
            "refused",
            "0 of 9 files",
            "no\n       -> yes",
            "and 2 more",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn deletes_that_wait_are_told_with_what_they_are_a_part_of() {
        let said = |entries| {
            let mut waiting = at_rest();
            waiting.sources[0].held = Some(Held {
                id: "1".into(),
                deletes: 3,
                entries,
                reason: "why".into(),
                examples: vec!["a".into()],
                since_ms: 1,
            });
            status(&waiting)
        };
        assert!(said(4).contains(": 3 deletes of 4 entries (why), such as a"));
        assert!(said(0).contains(": 3 deletes (why), such as a"));
    }

    #[test]
    fn proofs_and_limits_are_told() {
        let mut proved = at_rest();
        let target = &mut proved.sources[0].targets[0];
        target.root_digest = Some("9f3c".repeat(16));
        target.identical_at = Some("2026-11-21T12:00:03+01:00".into());
        target.bwlimit = Some(1 << 20);
        target.times = Some("to the second".into());
        target.collapsed = 3;
        target.full_check = Some(FullCheck {
            at: "2026-11-15T03:31:00+01:00".into(),
            done: true,
            content: true,
            took_ms: 60_000,
            entries: 7,
            entries_total: None,
            bytes: 2048,
            found: 1,
            examples: vec!["a/b".into()],
            unread: 2,
        });
        target.next_full_check = Some("2026-11-22T03:30:00+01:00".into());
        let text = status(&proved);
        for part in [
            "identical at 2026-11-21 12:00:03, root 9f3c9f3c9f3c9f3c...",
            "at most 1.0 MiB are sent per second",
            "times are kept and compared to the second: the file",
            "more names had changed than are kept, 3 times: their directories are compared instead",
            "full check of contents at 2026-11-15 03:31:00: 7 entries, 2.0 KiB, 1 differences, mended, such as a/b; \
             2 could not be read; it took 60 s; the next at 2026-11-22 03:30:00",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_check_under_way_shows_how_far_it_is_and_when_the_next_one_begins() {
        let mut checking = at_rest();
        let target = &mut checking.sources[0].targets[0];
        target.next_full_check = Some("2026-11-22T03:30:00+01:00".into());
        target.full_check = Some(FullCheck {
            at: "2026-11-15T03:30:00+01:00".into(),
            content: true,
            took_ms: 12_000,
            entries: 7,
            entries_total: Some(90),
            bytes: 2048,
            ..FullCheck::default()
        });
        let said = status(&checking);
        let part = "full check of contents, begun at 2026-11-15 03:30:00: 12 s so far, 7 of 90 entries, 2.0 KiB, \
             no differences yet; the next at 2026-11-22 03:30:00";
        assert!(said.contains(part), "{said}");
    }

    #[test]
    fn units_follow_size() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(span(1), "1 ms");
        assert_eq!(span(7_199_999), "119 min");
    }
}
