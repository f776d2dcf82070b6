//! What an agent says of itself: one truth for `status`, exit codes and whatever else asks.
//!
//! Paths are text here, escaped as in logs ([`syncd_proto::path::escaped`]).

use serde::{Deserialize, Serialize};

/// Most failed paths that are listed per target; [`TargetStatus::failed_total`] counts all.
pub const FAILED_LISTED_MAX: usize = 100;

/// The state of everything in one word, and in one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// What rests here is there, and durable.
    InSync,
    /// It is on its way.
    Behind,
    /// Something is held, cannot be watched, or fails again and again.
    Degraded,
    /// A source or target does not work until somebody acts.
    Failed,
}

impl Verdict {
    /// 0 to 3.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::InSync => 0,
            Self::Behind => 1,
            Self::Degraded => 2,
            Self::Failed => 3,
        }
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InSync => "in sync",
            Self::Behind => "behind",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// A whole agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// What it mirrors.
    pub sources: Vec<SourceStatus>,
}

/// What a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Looking at everything for the first time, or again.
    Scanning,
    /// Waiting for changes.
    Watching,
    /// Its root is unmounted, replaced or cannot be read: nothing is mirrored.
    Lost,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Where it is.
    pub path: String,
    /// What it is doing.
    pub state: SourceState,
    /// How changes are noticed.
    pub backend: String,
    /// Directories that are watched.
    pub watched_dirs: u64,
    /// Directories that cannot be watched and are scanned on a timer instead.
    pub unwatched_dirs: u64,
    /// How often the kernel dropped events; everything was compared after each.
    #[serde(default)]
    pub overflows: u64,
    /// How often it, or a part of it, was looked at again as a whole: asked for, or because something was missed.
    #[serde(default)]
    pub rescans: u64,
    /// What is wrong, and what would help.
    pub problems: Vec<Problem>,
    /// Deletes that wait for approval.
    pub held: Option<Held>,
    /// Where it goes.
    pub targets: Vec<TargetStatus>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What.
    pub text: String,
    /// What would help.
    pub hint: Option<String>,
}

/// Deletes that wait for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// For `approve` and `reject`.
    pub id: String,
    /// How many.
    pub deletes: u64,
    /// Of how many entries.
    pub entries: u64,
    /// Why they are held.
    pub reason: String,
    /// Some of the paths.
    pub examples: Vec<String>,
    /// For how long.
    pub since_ms: u64,
}

/// What a target is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Calling.
    Connecting,
    /// Waiting before it calls again.
    Waiting,
    /// Comparing the two trees.
    Reconciling,
    /// Open, and changes go as they come.
    Connected,
    /// Open, but the receiver has no room or its disk fails.
    Paused,
    /// The receiver, or our own setup, does not let us in until somebody acts.
    Refused,
}

/// A target of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Where.
    pub to: String,
    /// What it is doing.
    pub state: TargetState,
    /// Paths to look at.
    pub dirty: u64,
    /// Paths sent and not acknowledged.
    pub in_flight: u64,
    /// Paths that failed, the first [`FAILED_LISTED_MAX`].
    pub failed: Vec<FailedPath>,
    /// All of them.
    pub failed_total: u64,
    /// Last commit that is durable there.
    pub last_durable_seq: u64,
    /// Age of the oldest change that is not durable there.
    pub lag_ms: u64,
    /// Bytes on the wire, to the target.
    pub bytes_sent: u64,
    /// Bytes on the wire, from there.
    pub bytes_received: u64,
    /// Bytes of content they stand for.
    pub bytes_content: u64,
    /// Files sent.
    pub files: u64,
    /// Operations sent, those sent again included.
    #[serde(default)]
    pub ops_sent: u64,
    /// Operations that became durable there.
    #[serde(default)]
    pub ops_durable: u64,
    /// Comparisons that came to their end.
    #[serde(default)]
    pub comparisons: u64,
    /// How often a directory was put down to be compared in the place of what had changed in it, since more names had
    /// changed than are kept.
    #[serde(default)]
    pub collapsed: u64,
    /// How far the first comparison is, until it is done.
    pub first_sync: Option<FirstSync>,
    /// Digest of the tree when it was last compared equal.
    pub root_digest: Option<String>,
    /// When that was, in local time with its offset.
    #[serde(default)]
    pub identical_at: Option<String>,
    /// The same in seconds since 1970.
    #[serde(default)]
    pub identical_at_s: Option<u64>,
    /// How exactly times are compared, where the receiver's file systems do not hold them to the nanosecond.
    #[serde(default)]
    pub times: Option<String>,
    /// Most bytes sent per second now, if that is limited.
    #[serde(default)]
    pub bwlimit: Option<u64>,
    /// The last full check, or the one under way.
    #[serde(default)]
    pub full_check: Option<FullCheck>,
    /// When the next one begins, in local time with its offset.
    #[serde(default)]
    pub next_full_check: Option<String>,
    /// Why it last failed.
    pub last_error: Option<Problem>,
    /// Deletes that wait for approval there.
    #[serde(default)]
    pub held: Option<Held>,
    /// Time until the next call.
    pub next_try_ms: Option<u64>,
}

/// A path that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedPath {
    /// Which.
    pub path: String,
    /// Why, for programs.
    pub code: String,
    /// Why, for people.
    pub text: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Time until the next try; 0 while it is tried.
    pub next_try_ms: u64,
}

/// What a full check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullCheck {
    /// When it ended, or began if it is under way; in local time with its offset.
    pub at: String,
    /// Whether it is over.
    pub done: bool,
    /// Whether contents were compared.
    pub content: bool,
    /// How long it took, or has taken so far.
    pub took_ms: u64,
    /// Entries compared so far; of digests alone those of the source, once it is over.
    pub entries: u64,
    /// About how many there are, while it is under way.
    #[serde(default)]
    pub entries_total: Option<u64>,
    /// Bytes of contents read here.
    pub bytes: u64,
    /// What differed although nobody said so; it is mended.
    pub found: u64,
    /// Some of that.
    pub examples: Vec<String>,
    /// What could not be read on either side, and is compared by itself later.
    #[serde(default)]
    pub unread: u64,
}

/// How far the first comparison is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSync {
    /// Files to send, once that is known.
    pub files_total: Option<u64>,
    /// Files that are durable there.
    pub files_done: u64,
    /// Bytes to send, once that is known.
    pub bytes_total: Option<u64>,
    /// Bytes sent.
    pub bytes_done: u64,
}

impl Status {
    /// The worst of its parts.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let parts = self.sources.iter().map(SourceStatus::verdict);
        parts.max().unwrap_or(Verdict::InSync)
    }
}

impl SourceStatus {
    /// The worst of its own state and its targets.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let troubled = self.held.is_some() || !self.problems.is_empty() || self.unwatched_dirs > 0;
        let own = match self.state {
            SourceState::Lost => Verdict::Failed,
            _ if troubled => Verdict::Degraded,
            SourceState::Scanning => Verdict::Behind,
            SourceState::Watching => Verdict::InSync,
        };
        let targets = self.targets.iter().map(TargetStatus::verdict);
        targets.fold(own, Verdict::max)
    }
}

impl TargetStatus {
    /// Whether there is a session.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(
            self.state,
            TargetState::Reconciling | TargetState::Connected | TargetState::Paused
        )
    }

    /// Its state in one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let open = self.state == TargetState::Connected;
        let idle = self.dirty == 0 && self.in_flight == 0 && self.first_sync.is_none();
        match self.state {
            TargetState::Refused => Verdict::Failed,
            TargetState::Paused => Verdict::Degraded,
            _ if self.failed_total > 0 => Verdict::Degraded,
            _ if open && idle => Verdict::InSync,
            _ => Verdict::Behind,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An agent at rest.
    pub(crate) fn at_rest() -> Status {
        Status {
            version: "0.1.0".into(),
            pid: 7,
            uptime_ms: 61_000,
            sources: vec![SourceStatus {
                path: "/srv/www".into(),
                state: SourceState::Watching,
                backend: "inotify".into(),
                watched_dirs: 12,
                unwatched_dirs: 0,
                overflows: 0,
                rescans: 0,
                problems: Vec::new(),
                held: None,
                targets: vec![TargetStatus {
                    to: "u@h::m".into(),
                    state: TargetState::Connected,
                    dirty: 0,
                    in_flight: 0,
                    failed: Vec::new(),
                    failed_total: 0,
                    last_durable_seq: 9,
                    lag_ms: 0,
                    bytes_sent: 2048,
                    bytes_received: 512,
                    bytes_content: 4096,
                    files: 3,
                    ops_sent: 5,
                    ops_durable: 4,
                    comparisons: 1,
                    collapsed: 0,
                    first_sync: None,
                    root_digest: None,
                    identical_at: None,
                    identical_at_s: None,
                    times: None,
                    bwlimit: None,
                    full_check: None,
                    next_full_check: None,
                    last_error: None,
                    held: None,
                    next_try_ms: None,
                }],
            }],
        }
    }

    #[test]
    fn the_verdict_is_the_worst_of_all_parts() {
        let after = |change: fn(&mut SourceStatus)| {
            let mut status = at_rest();
            change(&mut status.sources[0]);
            status.verdict()
        };
        assert_eq!(after(|_| {}), Verdict::InSync);
        assert_eq!(after(|source| source.targets[0].dirty = 1), Verdict::Behind);
        assert_eq!(
            after(|source| source.targets[0].in_flight = 1),
            Verdict::Behind
        );
        let first = |source: &mut SourceStatus| {
            source.targets[0].first_sync = Some(FirstSync::default());
        };
        assert_eq!(after(first), Verdict::Behind);
        let waiting = |source: &mut SourceStatus| source.targets[0].state = TargetState::Waiting;
        assert_eq!(after(waiting), Verdict::Behind);
        assert_eq!(
            after(|source| source.targets[0].failed_total = 1),
            Verdict::Degraded
        );
        assert_eq!(after(|source| source.unwatched_dirs = 1), Verdict::Degraded);
        let refused = |source: &mut SourceStatus| source.targets[0].state = TargetState::Refused;
        assert_eq!(after(refused), Verdict::Failed);
        assert_eq!(
            after(|source| source.state = SourceState::Lost),
            Verdict::Failed
        );
        assert_eq!(
            after(|source| source.state = SourceState::Scanning),
            Verdict::Behind
        );
    }
}
