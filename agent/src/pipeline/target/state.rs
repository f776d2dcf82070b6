//! [`State`]: what the threads of a target share, and what it does by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use crate::logic::brake::Brake;
use crate::logic::coalesce::{DirtySet, Look, Millis, Remote, Settle, Taken};
use crate::logic::links::LinkMap;
use crate::logic::outbox::{Note, Outbox};
use crate::logic::plan::{Cause, Found};
use crate::logic::uploads::Uploads;
use crate::net::link::Link;
use crate::pipeline::full_check::Checked;

/// Commits and bytes that may be on their way, whatever the receiver allows.
pub(super) const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// Most directories that are noted as kept; what takes the place of one beyond is not looked at before.
const KEPT_MAX: usize = 1 << 16;

/// How long others wait for a path that tries whether the receiver has room again.
const TRIAL_MS: Millis = 1_000;

/// Where a target stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not connected yet, or again.
    Connecting,
    /// Connected.
    Connected,
    /// The last attempt failed.
    Disconnected {
        /// Why.
        text: String,
        /// What to do about it.
        hint: Option<String>,
        /// Whether trying again cannot help until somebody changes something.
        permanent: bool,
    },
}

/// Transfers rest: the receiver has no room.
#[derive(Debug, Clone)]
pub struct Pause {
    /// Why.
    pub code: RejectCode,
    /// Why, for people.
    pub text: String,
    /// Until when.
    pub until: Millis,
    /// How often in a row.
    pub attempts: u32,
    /// Whether one path is on its way to try it again.
    pub is_tried: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Files installed.
    pub files: u64,
    /// Operations sent.
    pub ops_sent: u64,
    /// Operations that became durable.
    pub ops: u64,
    /// Content bytes that became durable.
    pub content_bytes: u64,
    /// Frame bytes of earlier sessions, sent.
    pub bytes_sent: u64,
    /// Frame bytes of earlier sessions, received.
    pub bytes_received: u64,
    /// Files that comparisons found to differ.
    pub found_files: u64,
    /// Their bytes.
    pub found_bytes: u64,
    /// Files that became durable in the first sync, changes that were seen later left out.
    pub first_files: u64,
    /// Their bytes.
    pub first_bytes: u64,
    /// Comparisons finished.
    pub comparisons: u64,
}

/// What the threads of a target share.
#[derive(Debug)]
pub struct State {
    /// What the target has not got.
    pub dirty: DirtySet,
    /// What is on its way.
    pub outbox: Outbox,
    /// Names of files with several names, as the target has them.
    pub links: LinkMap,
    /// Large files waiting for a transfer.
    pub bulk: Uploads,
    /// Files that occupy a place in the receiver's staging: from the beginning of their transfer until
    /// their commit is applied.
    pub staged: usize,
    /// Staged files waiting for their commit.
    pub ready: Vec<(Taken, Found)>,
    /// The open session.
    pub link: Option<Arc<Link>>,
    /// Where it stands.
    pub phase: Phase,
    /// When it is called again, if it is not there.
    pub next_try: Option<Millis>,
    /// Rest, if the receiver has no room.
    pub pause: Option<Pause>,
    /// Holds deletes back.
    pub brake: Brake,
    /// Directories that only the target has, since names in them are protected: nothing takes their place.
    pub kept: BTreeSet<WirePath>,
    /// Every directory of the source is watched, or never will be: what changes after a comparison is
    /// heard of.
    pub watched: bool,
    /// A comparison is under way.
    pub comparing: bool,
    /// A full check is under way.
    pub checking: bool,
    /// What the last full check came to, or this one so far.
    pub checked: Option<Checked>,
    /// When the next one begins.
    pub next_check: Option<jiff::Zoned>,
    /// Other names of files with several are being looked for.
    pub seeking: bool,
    /// Counts.
    pub counts: Counts,
    /// Operations and comparisons up to the last rest.
    pub(super) rested: (u64, u64),
    /// Root digest both sides had when they were last found equal, and when.
    pub identical: Option<(String, std::time::SystemTime)>,
    /// Last commit of this session that is durable.
    pub durable_seq: u64,
    /// What the first comparison found has lower numbers than this; none until it came to its end.
    pub first_sync_below: Option<u64>,
    /// All of that became durable. Changes that go on all the time do not put it off.
    pub first_sync_done: bool,
    /// Until when the planner sleeps, while it does.
    pub planner_sleeps_until: Option<Millis>,
    /// Everything ends.
    pub stopping: bool,
}

impl State {
    /// A directory of the target may hold names that have to stay.
    pub fn keep(&mut self, path: &WirePath) {
        if self.kept.len() < KEPT_MAX {
            self.kept.insert(path.clone());
        }
    }

    /// That of a target nothing is known of yet.
    pub(super) fn new(settle: Settle, brake: Brake) -> Self {
        Self {
            dirty: DirtySet::new(settle),
            outbox: Outbox::new(1, IN_FLIGHT_BYTES_MAX),
            links: LinkMap::default(),
            bulk: Uploads::default(),
            staged: 0,
            ready: Vec::new(),
            link: None,
            phase: Phase::Connecting,
            next_try: None,
            pause: None,
            brake,
            kept: BTreeSet::new(),
            watched: false,
            comparing: false,
            checking: false,
            checked: None,
            next_check: None,
            seeking: false,
            counts: Counts::default(),
            rested: (0, 0),
            identical: None,
            durable_seq: 0,
            first_sync_below: None,
            first_sync_done: false,
            planner_sleeps_until: None,
            stopping: false,
        }
    }

    /// The first sync is done when nothing that its comparison found is left.
    pub fn look_at_first_sync(&mut self) {
        let Some(below) = self.first_sync_below else {
            return;
        };
        self.first_sync_done |= self.dirty.oldest().is_none_or(|(seq, _)| seq >= below);
    }

    /// Whether what has this number is a part of the first sync.
    pub(super) fn is_first_sync(&self, seq: u64) -> bool {
        !self.first_sync_done && self.first_sync_below.is_none_or(|below| seq < below)
    }

    /// The content that an operation brought for what has this number is durable.
    pub(super) fn count_content(&mut self, seq: u64, note: &Note) {
        let first = self.is_first_sync(seq);
        let files = u64::from(note.verb == "put");
        self.counts.content_bytes += note.bytes;
        self.counts.files += files;
        if first {
            self.counts.first_bytes += note.bytes;
            self.counts.first_files += files;
        }
    }

    /// Staged files whose turn it is: one that was asked for later may have been faster.
    pub fn take_ready(&mut self, now: Millis) -> Vec<(Taken, Found)> {
        let dirty = &self.dirty;
        let is_free = |(taken, _): &mut (Taken, Found)| dirty.behind_until(taken, now).is_none();
        self.ready.extract_if(.., is_free).collect()
    }

    /// Whether something can be sent that was heard of.
    #[must_use]
    pub fn has_news(&self, now: Millis) -> bool {
        let mut heard = self.ready.iter().filter(|(taken, _)| !taken.mark.late);
        self.dirty.has_heard(now)
            || heard.any(|(taken, _)| self.dirty.behind_until(taken, now).is_none())
    }

    /// When the turn of one of them comes at the latest.
    #[must_use]
    pub fn ready_due(&self, now: Millis) -> Option<Millis> {
        let waiting = self.ready.iter();
        let due = waiting.map(|(taken, _)| self.dirty.behind_until(taken, now).unwrap_or(now));
        due.min()
    }

    /// What an operation stood for is dirty again.
    pub(super) fn give_back_cause(&mut self, cause: Cause, arrived: bool, now: Millis) {
        match cause {
            Cause::Path(mut taken) => {
                self.dirty.logged(&taken.path);
                if !arrived {
                    self.dirty.arrived(&taken.path);
                }
                // It may be there although nobody said so: its end must not be forgotten.
                taken.mark.born = false;
                taken.mark.remote = Remote::Unknown;
                self.dirty.give_back(taken, now);
            }
            Cause::Rename(rename) => {
                if !arrived {
                    self.dirty.rename_arrived(&rename);
                }
                self.dirty.give_back_rename(&rename, now);
            }
            Cause::Follows(path) => {
                self.dirty
                    .found(path.clone(), Look::Content, Remote::Unknown, now);
                self.dirty.lost_parent(path, 0, now);
            }
        }
    }

    /// Whether names may have to be linked that nobody has looked at yet.
    #[must_use]
    pub fn looks_for_names(&self) -> bool {
        self.seeking || self.links.is_seeking()
    }

    /// Names, as the target has them, that have to be linked to another name of their file.
    pub fn relink(&mut self, names: Vec<Arc<WirePath>>, now: Millis) {
        for name in names {
            self.dirty.relink(WirePath::clone(&name), now);
            self.dirty.look_at_later_names(&name, now);
        }
    }

    /// Looks at the other names of what was written to under names that are gone.
    pub fn look_beside(&mut self, now: Millis) {
        for path in self.dirty.take_stranded() {
            for name in self.links.beside(&path, None) {
                self.dirty.look_at(&name, now);
            }
        }
    }

    /// Something was taken although the receiver had no room: the others wait for how that goes.
    pub fn tried(&mut self, now: Millis) {
        if let Some(pause) = &mut self.pause {
            pause.until = now + TRIAL_MS;
            pause.is_tried = true;
        }
    }

    /// Until when nothing may be sent, if the receiver has no room.
    #[must_use]
    pub fn resting_until(&self, now: Millis) -> Option<Millis> {
        self.pause
            .as_ref()
            .map(|pause| pause.until)
            .filter(|until| *until > now)
    }
}
