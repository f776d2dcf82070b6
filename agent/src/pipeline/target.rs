//! [`Target`]: the state that the threads of one target share, and every change of it.
//!
//! One lock, held briefly; nothing blocks while it is held.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use syncd_proto::delta::GroupCache;
use syncd_proto::message::{Ack, Reject, Rejected};
use syncd_proto::meta::Kind;
use syncd_proto::op::{Content, Op};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;
use tokio::sync::{broadcast, watch};

use crate::fs::root::SourceRoot;
use crate::fs::watch::Backlog;
use crate::logic::backoff::Backoff;
use crate::logic::brake::Brake;
use crate::logic::coalesce::{DirtySet, Failure, Look, Millis, Remote, Settle, Taken};
use crate::logic::links::LinkMap;
use crate::logic::outbox::{Note, Outbox, Sent};
use crate::logic::plan::{Batch, Cause, Found};
use crate::net::link::Link;
use crate::pipeline::selection::Selection;

/// Commits and bytes that may be on their way, whatever the receiver allows.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// How long events that wait to be told are waited for, at most.
const HEAR_MAX: Duration = Duration::from_millis(100);

/// How long it is between two questions whether events wait.
const HEAR_STEP: Duration = Duration::from_micros(20);

/// Room for the groups of versions that were sent, in bytes: those of 8 GiB of files.
const KNOWN_BYTES_MAX: usize = 4 << 20;

/// How long everything rests after the receiver had no space, at most.
const PAUSE_MAX_MS: Millis = 30_000;

/// A change that became durable, for whoever follows them.
#[derive(Debug, Clone)]
pub struct Done {
    /// The path.
    pub path: Arc<WirePath>,
    /// What was done.
    pub verb: &'static str,
    /// Content bytes.
    pub bytes: u64,
    /// From the first event seen to the durable acknowledgement.
    pub latency: Duration,
}

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
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Files installed.
    pub files: u64,
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
    pub bulk: VecDeque<Taken>,
    /// Files that occupy a place in the receiver's staging: from the beginning of their transfer until
    /// their commit is applied.
    pub staged: usize,
    /// Staged files waiting for their commit.
    pub ready: Vec<(Taken, Found)>,
    /// The open session.
    pub link: Option<Arc<Link>>,
    /// Where it stands.
    pub phase: Phase,
    /// Rest, if the receiver has no room.
    pub pause: Option<Pause>,
    /// Holds deletes back.
    pub brake: Brake,
    /// Every directory of the source is watched, or never will be: what changes after a comparison is
    /// heard of.
    pub watched: bool,
    /// A comparison is under way.
    pub comparing: bool,
    /// Counts.
    pub counts: Counts,
    /// Root digest both sides had when they were last found equal, and when.
    pub identical: Option<(String, std::time::SystemTime)>,
    /// Last commit of this session that is durable.
    pub durable_seq: u64,
    /// The target had everything once.
    pub first_sync_done: bool,
    /// Until when the planner sleeps, while it does.
    pub planner_sleeps_until: Option<Millis>,
    /// Everything ends.
    pub stopping: bool,
}

/// One target.
#[derive(Debug)]
pub struct Target {
    /// Name for messages: the destination as configured.
    pub name: String,
    /// The source.
    pub root: Arc<SourceRoot>,
    /// Whether names gone here are removed there.
    pub delete: bool,
    /// Which paths of the source take part.
    pub selection: Arc<Selection>,
    /// Groups of versions that were sent: a change of one of them needs no list from the receiver.
    pub known: Mutex<GroupCache<WirePath>>,
    settle: Settle,
    started: Instant,
    backlog: OnceLock<Arc<dyn Backlog>>,
    state: Mutex<State>,
    wake: Condvar,
    wake_planner: Condvar,
    version: watch::Sender<u64>,
    done: broadcast::Sender<Done>,
}

impl Target {
    /// A target of a source.
    #[must_use]
    pub fn new(
        name: String,
        root: Arc<SourceRoot>,
        selection: Arc<Selection>,
        settle: Settle,
        brake: Brake,
        started: Instant,
    ) -> Self {
        Self {
            name,
            root,
            delete: settle.delete,
            selection,
            known: Mutex::new(GroupCache::new(KNOWN_BYTES_MAX)),
            settle,
            started,
            backlog: OnceLock::new(),
            state: Mutex::new(State {
                dirty: DirtySet::new(settle),
                outbox: Outbox::new(1, IN_FLIGHT_BYTES_MAX),
                links: LinkMap::default(),
                bulk: VecDeque::new(),
                staged: 0,
                ready: Vec::new(),
                link: None,
                phase: Phase::Connecting,
                pause: None,
                brake,
                watched: false,
                comparing: false,
                counts: Counts::default(),
                identical: None,
                durable_seq: 0,
                first_sync_done: false,
                planner_sleeps_until: None,
                stopping: false,
            }),
            wake: Condvar::new(),
            wake_planner: Condvar::new(),
            version: watch::Sender::new(0),
            done: broadcast::Sender::new(4_096),
        }
    }

    /// Where to ask whether events wait to be told.
    pub fn listen(&self, backlog: Arc<dyn Backlog>) {
        // Once; a source has one watcher.
        let _ = self.backlog.set(backlog);
    }

    /// Waits until everything that happened before this call has been marked, as far as that can be
    /// known, and not for ever.
    pub fn hear(&self) {
        let Some(backlog) = self.backlog.get() else {
            return;
        };
        let until = Instant::now() + HEAR_MAX;
        while !backlog.is_empty() && Instant::now() < until {
            std::thread::sleep(HEAR_STEP);
        }
    }

    /// Delays and bounds.
    #[must_use]
    pub fn settle(&self) -> Settle {
        self.settle
    }

    /// Milliseconds since the agent started.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    /// The state, locked.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes everybody who waits for a change.
    pub fn update<T>(&self, change: impl FnOnce(&mut State, Millis) -> T) -> T {
        let now = self.now();
        let result = change(&mut self.lock(), now);
        self.wake_all();
        result
    }

    /// Marks paths; wakes the planner only if it would sleep too long now. Called for every event, so
    /// that everything else must be cheap.
    pub fn mark(&self, change: impl FnOnce(&mut DirtySet, Millis)) {
        let now = self.now();
        let mut state = self.lock();
        let comparisons = state.dirty.comparisons();
        change(&mut state.dirty, now);
        let compares = state.dirty.comparisons() > comparisons;
        let due = state.dirty.next_due();
        let oversleeps = match (state.planner_sleeps_until, due) {
            (Some(until), Some(due)) => due < until,
            _ => false,
        };
        drop(state);
        if oversleeps {
            self.wake_planner.notify_one();
        }
        if compares {
            self.wake.notify_all();
        }
    }

    /// Wakes threads and waiters.
    pub fn wake_all(&self) {
        self.wake.notify_all();
        self.wake_planner.notify_all();
        if self.version.receiver_count() > 0 {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// Waits like [`Target::wait`], as the planner: woken by marks too.
    pub fn wait_as_planner<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        due: Option<Millis>,
    ) -> MutexGuard<'a, State> {
        let left = due.map(|due| Duration::from_millis(due.saturating_sub(self.now())));
        state.planner_sleeps_until = Some(due.unwrap_or(Millis::MAX));
        state = match left {
            None => self
                .wake_planner
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                self.wake_planner
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        state.planner_sleeps_until = None;
        state
    }

    /// Waits for a change of the state, at most until `due`.
    pub fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        due: Option<Millis>,
    ) -> MutexGuard<'a, State> {
        match due {
            None => self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let left = Duration::from_millis(due.saturating_sub(self.now()));
                if left.is_zero() {
                    return state;
                }
                self.wake
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Counts changes of the state.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Follows changes as they become durable.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Done> {
        self.done.subscribe()
    }

    /// The source is watched; comparisons may begin.
    pub fn watched(&self) {
        if !self.lock().watched {
            self.update(|state, _| state.watched = true);
        }
    }

    /// A session is open: compare everything, then live.
    pub fn connected(&self, link: Arc<Link>) {
        self.update(|state, now| {
            let commits = link.welcome().window_commits as usize;
            state.outbox = Outbox::new(commits, IN_FLIGHT_BYTES_MAX);
            state.link = Some(link);
            state.phase = Phase::Connected;
            state.pause = None;
            state.dirty.compare(WirePath::root(), now);
        });
    }

    /// The session is over: what was not durable is dirty again.
    pub fn disconnected(&self, phase: Phase) {
        self.update(|state, now| {
            if let Some(link) = state.link.take() {
                let (sent, received) = link.bytes();
                state.counts.bytes_sent += sent;
                state.counts.bytes_received += received;
            }
            state.phase = phase;
            state.staged = 0;
            state.links.clear();
            let (lost, applied) = state.outbox.drain();
            for (index, sent) in lost.into_iter().enumerate() {
                for cause in sent.causes.into_iter().flatten() {
                    state.give_back_cause(cause, index < applied, now);
                }
            }
            for (taken, _) in std::mem::take(&mut state.ready) {
                state.dirty.logged(&taken.path);
                state.dirty.arrived(&taken.path);
                state.dirty.give_back(taken, now);
            }
        });
    }

    /// Signs and sends a batch; false if the session is gone, and then everything is given back.
    pub fn send(&self, link: &Arc<Link>, batch: Batch) -> bool {
        let now = self.now();
        let mut state = self.lock();
        let notes = batch.ops.iter().map(note).collect();
        let current = state
            .link
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(open, link));
        let sent = if current && !link.is_closed() {
            link.commit(batch.ops, &batch.inline)
                .map_err(|error| error.to_string())
        } else {
            Err("connection lost".to_owned())
        };
        let result = match sent {
            Ok((seq, bytes)) => {
                for cause in &batch.causes {
                    if let Cause::Path(taken) = cause {
                        state.dirty.logged(&taken.path);
                    }
                }
                state.outbox.push(Sent {
                    seq,
                    bytes,
                    at: now,
                    causes: batch.causes.into_iter().map(Some).collect(),
                    notes,
                });
                true
            }
            Err(text) => {
                if current {
                    tracing::error!(target = %self.name, "batch not sent: {text}");
                    // It was told of names that the target does not get now.
                    state.links.clear();
                    state.dirty.compare(WirePath::root(), now + 100);
                }
                for cause in batch.causes {
                    state.give_back_cause(cause, false, now + 100);
                }
                false
            }
        };
        drop(state);
        self.wake_all();
        result
    }

    /// An acknowledgement came.
    pub fn acked(&self, ack: &Ack) {
        let now = self.now();
        let mut state = self.lock();
        let State {
            outbox,
            dirty,
            staged,
            ..
        } = &mut *state;
        outbox.applied(ack.applied, |cause, note| {
            if let Cause::Path(taken) = cause {
                dirty.arrived(&taken.path);
            }
            if note.is_some_and(|note| note.staged) {
                *staged = staged.saturating_sub(1);
            }
        });
        let durable = state.outbox.durable(ack.durable);
        for sent in &durable {
            self.settle_sent(&mut state, sent, now);
        }
        state.durable_seq = ack.durable;
        state.first_sync_done |= state.counts.comparisons > 0 && state.dirty.outstanding() == 0;
        drop(state);
        self.wake_all();
    }

    fn settle_sent(&self, state: &mut State, sent: &Sent, now: Millis) {
        let followed = self.done.receiver_count() > 0;
        let mut whole = true;
        for (cause, Note { verb, bytes, .. }) in sent.causes.iter().zip(&sent.notes) {
            let (seq, first, path) = match cause {
                Some(Cause::Path(taken)) => (taken.mark.seq, taken.mark.first, taken.path.clone()),
                Some(Cause::Rename(rename)) => {
                    (rename.seq, rename.first, Arc::new(rename.to.clone()))
                }
                Some(Cause::Follows(_)) => continue,
                None => {
                    whole = false;
                    continue;
                }
            };
            state.dirty.settle_seq(seq);
            state.counts.ops += 1;
            state.counts.content_bytes += bytes;
            state.counts.files += u64::from(*verb == "put");
            if followed {
                let latency = Duration::from_millis(now.saturating_sub(first));
                let verb = *verb;
                let bytes = *bytes;
                let _ = self.done.send(Done {
                    path,
                    verb,
                    bytes,
                    latency,
                });
            }
        }
        if whole {
            state.pause = None;
        }
    }

    /// An operation was refused.
    pub fn rejected(&self, reject: &Reject) {
        let Rejected::Op { seq, index } = reject.what else {
            return;
        };
        let now = self.now();
        let mut state = self.lock();
        let Some((cause, note, arrived)) = state.outbox.reject(seq, index) else {
            return;
        };
        if !arrived && note.is_some_and(|note| note.staged) {
            state.staged = state.staged.saturating_sub(1);
        }
        let cause = match cause {
            Cause::Path(taken) if self.may_hold_protected(&taken, reject.code) => {
                if !arrived {
                    state.dirty.arrived(&taken.path);
                }
                // The comparison removes what may go, and leaves the rest.
                state.dirty.compare(WirePath::clone(&taken.path), now);
                state.dirty.settle_seq(taken.mark.seq);
                drop(state);
                self.wake_all();
                return;
            }
            cause => cause,
        };
        if reject.code.is_stale() {
            // The agent's picture was behind: it looks again, and nobody has to do anything.
            tracing::debug!(target = %self.name, code = %reject.code, "looked at again: {}", reject.text);
        } else {
            tracing::warn!(target = %self.name, code = %reject.code, "refused: {}", reject.text);
        }
        match cause {
            Cause::Path(taken) => {
                if !arrived {
                    state.dirty.arrived(&taken.path);
                }
                let State { dirty, .. } = &mut *state;
                dirty.look_where_it_went(&taken.path, taken.mark.seq, now);
                if reject.code == RejectCode::Attributes {
                    state.attributes_failed(taken, &reject.text, now);
                } else if note.is_some_and(|note| note.verb == LINK) {
                    state.link_failed(taken, reject.code, &reject.text, now);
                } else {
                    let others = state.links.put_refused(&taken.path);
                    state.relink(others, now);
                    state.path_failed(taken, reject.code, &reject.text, now);
                }
            }
            other => {
                match &other {
                    Cause::Rename(rename) => {
                        state.links.forget_below(&rename.from);
                        state.links.forget_below(&rename.to);
                    }
                    Cause::Follows(path) => {
                        state.link_refused(path, reject.code, now);
                    }
                    Cause::Path(_) => {}
                }
                state.give_back_cause(other, arrived, now);
            }
        }
        drop(state);
        self.wake_all();
    }

    /// Whether a directory could not be removed because names may be in it that the rules protect.
    fn may_hold_protected(&self, taken: &Taken, code: RejectCode) -> bool {
        code == RejectCode::NotEmpty
            && taken.mark.gone
            && !taken.mark.cleared
            && self.selection.may_protect()
    }

    /// Nothing is to be done for a path.
    pub fn leave(&self, taken: &Taken) {
        self.update(|state, _| {
            state.dirty.logged(&taken.path);
            state.dirty.arrived(&taken.path);
            state.dirty.settle_seq(taken.mark.seq);
        });
    }

    /// A path could not be read or transferred: it waits, longer each time.
    pub fn failed(&self, taken: Taken, code: &str, text: String) {
        self.update(|state, now| {
            state.dirty.logged(&taken.path);
            state.dirty.arrived(&taken.path);
            state.wait_longer(taken, code.to_owned(), text, now);
        });
    }

    /// A path is put back, to be looked at again soon: that is no failure.
    pub fn defer(&self, taken: Taken, due: Millis) {
        self.update(|state, _| {
            state.dirty.logged(&taken.path);
            state.dirty.arrived(&taken.path);
            state.dirty.give_back(taken, due);
        });
    }

    /// Ends everything.
    pub fn stop(&self) {
        self.update(|state, _| {
            state.stopping = true;
            if let Some(link) = &state.link {
                link.close();
            }
        });
    }

    /// Whether everything seen is durable.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let state = self.lock();
        state.link.is_some() && state.counts.comparisons > 0 && state.dirty.outstanding() == 0
    }
}

impl State {
    fn give_back_cause(&mut self, cause: Cause, arrived: bool, now: Millis) {
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
            Cause::Rename(rename) => self.dirty.give_back_rename(&rename, now),
            Cause::Follows(path) => {
                self.dirty
                    .found(path.clone(), Look::Content, Remote::Unknown, now);
                self.dirty.lost_parent(path, 0, now);
            }
        }
    }

    /// Names that have to be linked to another name of their file.
    pub fn relink(&mut self, names: Vec<Arc<WirePath>>, now: Millis) {
        for name in names {
            self.dirty.relink(WirePath::clone(&name), now);
        }
    }

    /// A link was refused: where another name of the file is not what it should be, all are looked at
    /// again; where there can be no link, every name gets the content.
    fn link_refused(&mut self, path: &WirePath, code: RejectCode, now: Millis) {
        let passing = code.is_stale() || code.pauses_transfers();
        let others = self.links.link_refused(path, passing);
        self.relink(others, now);
    }

    fn link_failed(&mut self, mut taken: Taken, code: RejectCode, text: &str, now: Millis) {
        self.link_refused(&taken.path, code, now);
        if code == RejectCode::NoParent || code.pauses_transfers() {
            self.path_failed(taken, code, text, now);
        } else {
            taken.mark.attempts += 1;
            self.dirty.give_back(taken, now);
        }
    }

    /// A path was refused by the receiver.
    pub fn path_failed(&mut self, mut taken: Taken, code: RejectCode, text: &str, now: Millis) {
        if code.pauses_transfers() {
            let attempts = self.pause.as_ref().map_or(0, |pause| pause.attempts) + 1;
            let rest = path_delay_ms(attempts).min(PAUSE_MAX_MS);
            self.pause = Some(Pause {
                code,
                text: text.to_owned(),
                until: now + rest,
                attempts,
            });
        }
        if code == RejectCode::NoParent {
            let mut above = taken.path.parent();
            while let Some(parent) = above.filter(|parent| !parent.is_root()) {
                self.dirty
                    .found(parent.clone(), Look::Content, Remote::Unknown, now);
                above = parent.parent();
            }
        }
        taken.mark.look = Look::Content;
        taken.mark.remote = Remote::Unknown;
        taken.mark.born = false;
        if code.is_stale() && taken.mark.attempts < 2 {
            taken.mark.attempts += 1;
            self.dirty.give_back(taken, now);
            return;
        }
        self.wait_longer(taken, code.to_string(), text.to_owned(), now);
    }

    /// Everything but the attributes arrived: only metadata is tried again.
    fn attributes_failed(&mut self, mut taken: Taken, text: &str, now: Millis) {
        taken.mark.look = Look::Meta;
        taken.mark.remote = Remote::Present;
        taken.mark.born = false;
        let code = RejectCode::Attributes.to_string();
        self.wait_longer(taken, code, text.to_owned(), now);
    }

    fn wait_longer(&mut self, mut taken: Taken, code: String, text: String, now: Millis) {
        taken.mark.attempts += 1;
        taken.mark.failure = Some(Failure { code, text });
        let due = now + path_delay_ms(taken.mark.attempts);
        self.dirty.give_back(taken, due);
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

/// The word for an operation that links.
const LINK: &str = "link";

fn note(op: &Op) -> Note {
    let verb = match op {
        Op::SetMeta {
            kind: Kind::Dir, ..
        } => "directory metadata",
        Op::Link { .. } => LINK,
        Op::SetMeta { .. } => "metadata",
        other => other.verb(),
    };
    let (bytes, staged) = match op {
        Op::Put { content, .. } => (content.len(), matches!(content, Content::Staged { .. })),
        _ => (0, false),
    };
    Note {
        verb,
        bytes,
        staged,
    }
}

/// Delay before a path that failed so often is tried again: doubles to a minute.
fn path_delay_ms(attempts: u32) -> Millis {
    Backoff::PATH.ceiling(attempts).as_millis() as Millis
}
