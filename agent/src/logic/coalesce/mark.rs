//! What is pending for one path.

use std::sync::Arc;

use syncd_proto::path::WirePath;

use super::Millis;

/// How thoroughly a path is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Only its metadata changed.
    Meta,
    /// Its content may have changed, and most likely has not: somebody had it open for writing and was not heard to
    /// write, or a file of its length is at the target.
    Doubt,
    /// Its content may have changed.
    Content,
}

/// What is known of the path at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Nothing.
    Unknown,
    /// It was not there when the trees were compared.
    Absent,
    /// Something is there.
    Present,
}

/// What a person has to say about a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Nothing so far.
    NotAsked,
    /// It is held.
    Held,
    /// It may go.
    Given,
}

/// Why a path failed last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A word for programs.
    pub code: String,
    /// What, where and why.
    pub text: String,
}

/// A path that failed, or a directory that could not be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed<'a> {
    /// The path.
    pub path: &'a WirePath,
    /// Why it failed last.
    pub failure: &'a Failure,
    /// How often it failed in a row.
    pub attempts: u32,
    /// When it is tried again; `None` while it is.
    pub due: Option<Millis>,
}

/// What is pending for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its place in the order of everything seen; the oldest of what merged into it.
    pub seq: u64,
    /// When the oldest change was seen.
    pub first: Millis,
    /// When the newest change was seen.
    pub last: Millis,
    /// A number that it got with its newest change: the order of changes seen in the same millisecond.
    pub turn: u64,
    /// When it may be looked at.
    pub due: Millis,
    /// Since when it waits for whoever writes to it, at most for `hold_max_ms`; what it waits for other things is not
    /// counted.
    pub hold_from: Millis,
    /// How to look.
    pub look: Look,
    /// Written, and not closed since.
    pub open: bool,
    /// An event told that it is open, so that another one will tell of its close.
    pub heard_open: bool,
    /// An event told of new content or metadata, not only of a name.
    pub wrote: bool,
    /// An event told of new content: what was read before that event may be half of it.
    pub rewritten: bool,
    /// It came into being here and was never sent.
    pub born: bool,
    /// It was seen to be gone; absence without that is looked at twice, since a rename may be on its
    /// way to us.
    pub gone: bool,
    /// It was not here at some time since the target had it: in a directory of this name the target may have what
    /// was in an older one.
    pub went: bool,
    /// A comparison found that nothing there is protected: it may go with all that is in it.
    pub cleared: bool,
    /// A directory went from here: the target may still have it, with all that is in it.
    pub was_dir: bool,
    /// Until when a regular file that is open waits, at least.
    pub quiet_at: Millis,
    /// How many names were seen to go with it.
    pub weight: u64,
    /// An event told that it went, so that its absence is no accident of a mount.
    pub witnessed: bool,
    /// Its removal waits for a person, or has one's leave.
    pub leave: Leave,
    /// A comparison found it: it goes after what was heard of.
    pub late: bool,
    /// That comparison saw a regular file, and nothing was heard of the name meanwhile.
    pub saw_file: bool,
    /// What the target has there.
    pub remote: Remote,
    /// How often it failed in a row.
    pub attempts: u32,
    /// Why it failed last.
    pub failure: Option<Failure>,
}

/// A path and what was pending for it, taken out of the set to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The path.
    pub path: Arc<WirePath>,
    /// What was pending.
    pub mark: Mark,
}

/// When something changed last, the number of that change, and its own: its place in the order of everything seen.
pub(super) type Place = (Millis, u64, u64);

/// Delays and bounds of a [`DirtySet`](super::DirtySet).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// Quiet time after which a file that was not closed is sent, in milliseconds.
    pub settle_ms: Millis,
    /// Longest time a file that is written all the time waits, in milliseconds.
    pub hold_max_ms: Millis,
    /// Most marks; above, directories collapse.
    pub marks_max: usize,
    /// Whether names that are gone here are removed there; without it renames become copies.
    pub delete: bool,
}

/// How long an empty file waits that a listing found and that was written just now, in milliseconds.
const EMPTY_MS: Millis = 500;

impl Mark {
    pub(super) fn new(seq: u64, now: Millis) -> Self {
        Self {
            seq,
            first: now,
            last: now,
            turn: seq,
            due: now,
            hold_from: now,
            look: Look::Meta,
            open: false,
            heard_open: false,
            wrote: false,
            rewritten: false,
            born: false,
            gone: false,
            cleared: false,
            was_dir: false,
            went: false,
            quiet_at: now,
            weight: 1,
            witnessed: false,
            leave: Leave::NotAsked,
            late: false,
            saw_file: false,
            remote: Remote::Unknown,
            attempts: 0,
            failure: None,
        }
    }

    /// Until when a regular file of this size waits for its close, if it does.
    #[must_use]
    pub fn waits_until(&self, size: u64, settle: Settle) -> Option<Millis> {
        if !self.open {
            return None;
        }
        Some(match (size, self.heard_open) {
            // Made or cut to nothing just now: what it is to hold is still to be written.
            (0, true) => self.held_until(settle),
            (0, false) => self.quiet_at.max(self.hold_from + EMPTY_MS),
            _ => self.quiet_at,
        })
    }

    /// Whether what is under a directory of this name is concerned as well: it may be removed with it, or come with it.
    #[must_use]
    pub fn concerns_below(&self) -> bool {
        let went = self.gone || self.went || self.was_dir || self.leave != Leave::NotAsked;
        went || self.is_absent_there()
    }

    /// From when on it is sent even if somebody writes to it.
    #[must_use]
    pub const fn held_until(&self, settle: Settle) -> Millis {
        self.hold_from + settle.hold_max_ms
    }

    /// It waited since it was due, and not for who writes to it.
    pub(super) fn was_overdue(&mut self, now: Millis) {
        let overdue = now.saturating_sub(self.due);
        self.hold_from = (self.hold_from + overdue).min(now);
        self.due += overdue;
    }

    /// Whether the target never had anything under this name, as far as is known.
    pub(super) fn never_sent(&self) -> bool {
        self.born && self.remote != Remote::Present
    }

    /// Whether the target has nothing under this name, as far as is known.
    #[must_use]
    pub fn is_absent_there(&self) -> bool {
        self.born || self.remote == Remote::Absent
    }

    /// Whether the target cannot have what is under this name.
    pub(super) fn is_unsent(&self, dir: bool) -> bool {
        self.is_absent_there() || (!dir && self.look != Look::Meta)
    }

    pub(super) const fn place(&self) -> Place {
        (self.last, self.turn, self.seq)
    }

    pub(super) fn due_if_open(&mut self, settle: Settle, now: Millis) -> Millis {
        if !self.open {
            return now;
        }
        self.quiet_at = (now + settle.settle_ms).min(self.held_until(settle));
        self.quiet_at
    }
}
