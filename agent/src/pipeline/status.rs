//! What the agent says of itself, gathered from what its threads share.

use std::num::NonZeroU64;
use std::time::{Instant, SystemTime};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;

use crate::control::protocol::path_text;
use crate::control::status::{
    FAILED_LISTED_MAX, FailedPath, FirstSync, FullCheck, Held, Problem, SourceState, SourceStatus,
    Status, TargetState, TargetStatus,
};
use crate::logic::coalesce::Millis;
use crate::pipeline::full_check::Checked;
use crate::pipeline::source::Source;
use crate::pipeline::target::{Phase, State, Target};

/// Held paths that are shown.
const EXAMPLES_MAX: usize = 5;

/// Everything.
pub(super) fn gather(sources: &[std::sync::Arc<Source>], started: Instant) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ms: started.elapsed().as_millis() as u64,
        sources: sources.iter().map(|source| of_source(source)).collect(),
    }
}

fn of_source(source: &Source) -> SourceStatus {
    let watching = source.watch_state();
    let state = if watching.root_gone.is_some() {
        SourceState::Lost
    } else if watching.initial_done && watching.pending == 0 {
        SourceState::Watching
    } else {
        SourceState::Scanning
    };
    let problems = watching
        .root_gone
        .iter()
        .map(|text| {
            (
                text.clone(),
                Some(
                    "mount or restore it: it goes on by itself; if another directory is meant to be mirrored from now on, restart the agent",
                ),
            )
        })
        .chain(
            watching
                .unwatched
                .first()
                .map(|(path, text)| (format!("{path}: {text}"), None)),
        )
        .chain(watching.shaken.iter().map(|text| (text.clone(), None)))
        .chain(source.rules_problem().map(|(_, text)| (text, None)))
        .map(|(text, hint)| Problem {
            text,
            hint: hint.map(str::to_owned),
        })
        .collect();
    let targets = source.targets.iter();
    let targets: Vec<_> = targets.map(|target| of_target(target)).collect();
    SourceStatus {
        path: path_text(source.root.path()),
        state,
        backend: watching.backend.to_owned(),
        watched_dirs: watching.watched as u64,
        unwatched_dirs: watching.unwatched.len() as u64,
        overflows: watching.overflows,
        rescans: watching.rescans,
        problems,
        held: targets.iter().find_map(|target| target.held.clone()),
        targets,
    }
}

fn held(state: &State, now: Millis) -> Option<Held> {
    let hold = state.brake.hold()?;
    let names = state.dirty.held();
    Some(Held {
        id: hold.id.to_string(),
        deletes: names.map(|(_, mark)| mark.weight).sum(),
        entries: state.brake.entries(),
        reason: hold.reason.clone(),
        examples: state
            .dirty
            .held()
            .take(EXAMPLES_MAX)
            .map(|(path, _)| path.to_string())
            .collect(),
        since_ms: now.saturating_sub(hold.since),
    })
}

fn of_target(target: &Target) -> TargetStatus {
    let now = target.now();
    let state = target.lock();
    let (sent, received) = state.link.as_ref().map_or((0, 0), |link| link.bytes());
    let failed_total = state.dirty.failed().count() as u64;
    let dirty = &state.dirty;
    let waiting = (dirty.len() + dirty.comparisons() + dirty.tried()) as u64;
    let outstanding = state.dirty.outstanding() as u64;
    TargetStatus {
        to: target.name.clone(),
        state: state_of(&state, now),
        dirty: waiting,
        in_flight: outstanding.saturating_sub(waiting),
        failed: failed(&state, now),
        failed_total,
        last_durable_seq: state.durable_seq,
        lag_ms: state
            .dirty
            .oldest()
            .map_or(0, |(_, first)| now.saturating_sub(first)),
        bytes_sent: state.counts.bytes_sent + sent,
        bytes_received: state.counts.bytes_received + received,
        bytes_content: state.counts.content_bytes,
        files: state.counts.files,
        ops_sent: state.counts.ops_sent,
        ops_durable: state.counts.ops,
        comparisons: state.counts.comparisons,
        collapsed: state.dirty.collapsed(),
        first_sync: first_sync(&state),
        root_digest: state.identical.as_ref().map(|(root, _)| root.clone()),
        identical_at: state.identical.as_ref().and_then(|(_, at)| local(*at)),
        identical_at_s: state.identical.as_ref().and_then(|(_, at)| since_1970(*at)),
        times: (state.link.as_ref())
            .and_then(|link| link.welcome().compare.mtime.words())
            .map(str::to_owned),
        bwlimit: state
            .link
            .as_ref()
            .and_then(|link| link.limit())
            .map(NonZeroU64::get),
        full_check: state
            .checked
            .as_ref()
            .map(|checked| full_check(checked, &state, now)),
        next_full_check: state.next_check.as_ref().map(shown),
        last_error: last_error(&state),
        held: held(&state, now),
        next_try_ms: state.next_try.map(|at| at.saturating_sub(now)),
    }
}

fn state_of(state: &State, now: Millis) -> TargetState {
    if state.phase == Phase::Connected && state.resting_until(now).is_some() {
        return TargetState::Paused;
    }
    match &state.phase {
        Phase::Connecting => TargetState::Connecting,
        Phase::Disconnected {
            permanent: true, ..
        } => TargetState::Refused,
        Phase::Disconnected { .. } => TargetState::Waiting,
        Phase::Connected if state.comparing || state.counts.comparisons == 0 => {
            TargetState::Reconciling
        }
        Phase::Connected => TargetState::Connected,
    }
}

fn failed(state: &State, now: Millis) -> Vec<FailedPath> {
    let failed = state.dirty.failed().map(|failed| FailedPath {
        path: failed.path.to_string(),
        code: failed.failure.code.clone(),
        text: escaped(failed.failure.text.as_bytes()),
        attempts: failed.attempts,
        next_try_ms: failed.due.unwrap_or(now).saturating_sub(now),
    });
    failed.take(FAILED_LISTED_MAX).collect()
}

fn first_sync(state: &State) -> Option<FirstSync> {
    let known = state.counts.comparisons > 0;
    if known && state.first_sync_done {
        return None;
    }
    let counts = &state.counts;
    // Of a file that changes meanwhile more than one version may be sent.
    let most = |total: u64| if known { total } else { u64::MAX };
    Some(FirstSync {
        files_total: known.then_some(counts.found_files),
        files_done: counts.first_files.min(most(counts.found_files)),
        bytes_total: known.then_some(counts.found_bytes),
        bytes_done: counts.first_bytes.min(most(counts.found_bytes)),
    })
}

/// A moment as people of this place write it, with the offset of its time zone.
fn local(at: SystemTime) -> Option<String> {
    let at = Timestamp::try_from(at).ok()?;
    Some(shown(&at.to_zoned(TimeZone::system())))
}

fn since_1970(at: SystemTime) -> Option<u64> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn shown(at: &Zoned) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn full_check(checked: &Checked, state: &State, now: Millis) -> FullCheck {
    let took_ms = match checked.done {
        true => checked.took.as_millis() as u64,
        false => now.saturating_sub(checked.begun),
    };
    FullCheck {
        at: checked.at.as_ref().map(shown).unwrap_or_default(),
        done: checked.done,
        content: checked.content,
        took_ms,
        entries: checked.entries,
        entries_total: (!checked.done).then(|| state.brake.entries()),
        bytes: checked.bytes,
        found: checked.found,
        examples: checked.examples.clone(),
        unread: checked.unread,
    }
}

/// What helps when the receiver's disk takes nothing.
pub(super) const fn remedy(code: RejectCode) -> &'static str {
    match code {
        RejectCode::Quota => {
            "raise the quota at the receiver, or make room within it; it goes on by itself"
        }
        RejectCode::ReadOnlyFilesystem => {
            "look there why the file system is read only (dmesg) and remount it; it goes on by itself"
        }
        RejectCode::Io => "look at the disk there (dmesg, smartctl); it goes on by itself",
        _ => {
            "make room at the receiver, of bytes or of inodes (df -h, df -i); it goes on by itself"
        }
    }
}

fn last_error(state: &State) -> Option<Problem> {
    if let Some(pause) = &state.pause {
        return Some(Problem {
            text: format!("{}: {}", pause.code, escaped(pause.text.as_bytes())),
            hint: Some(remedy(pause.code).to_owned()),
        });
    }
    match &state.phase {
        Phase::Disconnected { text, hint, .. } => Some(Problem {
            text: text.clone(),
            hint: hint.clone(),
        }),
        Phase::Connecting | Phase::Connected => None,
    }
}
