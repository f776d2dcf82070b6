//! [`Target`]: the state that the threads of one target share, and every change of it.
//!
//! One lock, held briefly; nothing blocks while it is held.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use syncd_proto::delta::GroupCache;
use syncd_proto::message::Ack;
use syncd_proto::meta::Kind;
use syncd_proto::op::{Content, Op};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;
use tokio::sync::watch;

use crate::control::Events;
use crate::fs::root::SourceRoot;
use crate::fs::scan::Hashes;
use crate::fs::watch::Backlog;
use crate::logic::brake::Brake;
use crate::logic::coalesce::{DirtySet, Millis, Settle, Taken};
use crate::logic::held::Held;
use crate::logic::outbox::{Note, Outbox, Sent};
use crate::logic::plan::{Batch, Cause};
use crate::net::link::Link;
use crate::pipeline::control;
use crate::pipeline::selection::Selection;

mod refusals;
mod state;

pub use refusals::path_delay_ms;
use state::IN_FLIGHT_BYTES_MAX;
pub use state::{Counts, Pause, Phase, State};

/// How long events that wait to be told are waited for, at most.
const HEAR_MAX: Duration = Duration::from_secs(1);

/// Room for the groups of versions that were sent, in bytes: those of 8 GiB of files.
const KNOWN_BYTES_MAX: usize = 4 << 20;

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
    /// Digests of contents that `verify` has read.
    pub hashes: Hashes,
    held: Mutex<Held>,
    settle: Settle,
    started: Instant,
    backlog: OnceLock<Arc<dyn Backlog>>,
    state: Mutex<State>,
    wake: Condvar,
    wake_planner: Condvar,
    wake_transfers: Condvar,
    wake_checker: Condvar,
    version: watch::Sender<u64>,
    events: OnceLock<Events>,
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
            hashes: Hashes::default(),
            held: Mutex::default(),
            settle,
            started,
            backlog: OnceLock::new(),
            state: Mutex::new(State::new(settle, brake)),
            wake: Condvar::new(),
            wake_planner: Condvar::new(),
            wake_transfers: Condvar::new(),
            wake_checker: Condvar::new(),
            version: watch::Sender::new(0),
            events: OnceLock::new(),
        }
    }

    /// Where to ask whether events wait to be told.
    pub fn listen(&self, backlog: Arc<dyn Backlog>) {
        // Once; a source has one watcher.
        let _ = self.backlog.set(backlog);
    }

    /// Waits until everything that happened before this call has been marked, as far as that can be
    /// known, and not for ever. `false` if the time was over first.
    pub fn hear(&self) -> bool {
        let Some(backlog) = self.backlog.get() else {
            return true;
        };
        let listings = self.lock().dirty.listings();
        let heard = backlog.hear(HEAR_MAX);
        if heard {
            // Listings made before are not ahead of events any more.
            self.lock().dirty.heard(listings);
        }
        heard
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

    /// Which small files the target is believed to have, by their content; locked. The planner keeps it in step with the
    /// commit log.
    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.mark_state(|state, now| change(&mut state.dirty, now));
    }

    /// [`Target::mark`], for what needs more of the state than its marks.
    pub fn mark_state(&self, change: impl FnOnce(&mut State, Millis)) {
        let now = self.now();
        let mut state = self.lock();
        let comparisons = state.dirty.comparisons();
        change(&mut state, now);
        state.look_beside(now);
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

    /// Waits until then, or until the target stops; changes of the state wake nobody here.
    pub fn rest<'a>(&self, state: MutexGuard<'a, State>, until: Millis) -> MutexGuard<'a, State> {
        let left = Duration::from_millis(until.saturating_sub(self.now()));
        if left.is_zero() || state.stopping {
            return state;
        }
        let (state, _) = self
            .wake_checker
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner);
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

    /// A large file of this size waits for a transfer.
    pub fn enqueue(&self, taken: Taken, size: u64, note: impl FnOnce(&mut State)) {
        self.update(|state, now| {
            note(state);
            state.dirty.is_staged(&taken, size, now);
            state.bulk.push(taken, size, now);
        });
        self.wake_transfers.notify_all();
    }

    /// Waits like [`Target::wait`], as a transfer. While there is no file for it, nothing but another file wakes it.
    pub fn wait_as_transfer<'a>(
        &self,
        state: MutexGuard<'a, State>,
        due: Option<Millis>,
        has_file: bool,
    ) -> MutexGuard<'a, State> {
        if has_file {
            return self.wait(state, due);
        }
        let waited = self.wake_transfers.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts changes of the state.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Where to tell of changes as they become durable.
    pub fn tell(&self, events: Events) {
        // Once; an agent has one place for them.
        let _ = self.events.set(events);
    }

    /// The source is watched; comparisons may begin.
    pub fn watched(&self) {
        if !self.lock().watched {
            self.update(|state, _| state.watched = true);
        }
    }

    /// Gives back the memory that work took, if there was any since the last time and it is over; whether that is so.
    pub fn give_back(&self) -> bool {
        let mut state = self.lock();
        let done = (state.counts.ops, state.counts.comparisons);
        if state.rested == done || state.comparing || !state.outbox.is_empty() {
            return false;
        }
        state.rested = done;
        state.dirty.shrink();
        if let Some(link) = &state.link {
            link.buffers().clear();
        }
        drop(state);
        syncd_heap::give_back();
        true
    }

    /// A session is open: compare everything, then live.
    pub fn connected(&self, link: Arc<Link>) {
        self.update(|state, now| {
            let commits = link.welcome().window_commits as usize;
            state.outbox = Outbox::new(commits, IN_FLIGHT_BYTES_MAX);
            state.link = Some(link);
            state.phase = Phase::Connected;
            state.next_try = None;
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
            // Whether there is room is not known any more.
            state.pause = None;
            state.staged = 0;
            state.links.clear();
            let (lost, applied) = state.outbox.drain();
            if !lost.is_empty() {
                self.held().clear();
            }
            for (index, sent) in lost.into_iter().enumerate() {
                for cause in sent.causes.into_iter().flatten() {
                    state.give_back_cause(cause, index < applied, now);
                }
            }
            for (taken, _) in std::mem::take(&mut state.ready) {
                state.dirty.given_up(&taken.path);
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
            link.commit(batch.ops, batch.inline)
                .map_err(|error| error.to_string())
        } else {
            Err("connection lost".to_owned())
        };
        let result = match sent {
            Ok((seq, bytes)) => {
                for cause in &batch.causes {
                    if let Cause::Path(taken) = cause {
                        state.dirty.logged(&taken.path);
                        state.dirty.passed(taken.mark.seq);
                    }
                }
                state.counts.ops_sent += batch.causes.len() as u64;
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
                self.held().clear();
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
            links,
            staged,
            ..
        } = &mut *state;
        outbox.applied(ack.applied, |cause, note| {
            match cause {
                Cause::Path(taken) => {
                    dirty.arrived(&taken.path);
                    links.agreed(&taken.path, taken.mark.seq);
                }
                Cause::Rename(rename) => dirty.rename_arrived(rename),
                Cause::Follows(_) => {}
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
        state.look_at_first_sync();
        drop(state);
        self.wake_all();
    }

    fn settle_sent(&self, state: &mut State, sent: &Sent, now: Millis) {
        let events = self.events.get().filter(|events| events.are_followed());
        let mut whole = true;
        for (cause, note) in sent.causes.iter().zip(&sent.notes) {
            let (seq, first, path) = match cause {
                Some(Cause::Path(taken)) => (taken.mark.seq, taken.mark.first, taken.path.clone()),
                Some(Cause::Rename(rename)) => {
                    (rename.seq, rename.first, Arc::new(rename.to.clone()))
                }
                Some(Cause::Follows(_)) => continue,
                None => {
                    if let Some(seq) = note.but_attributes {
                        state.count_content(seq, note);
                    }
                    whole = false;
                    continue;
                }
            };
            state.dirty.settle_seq(seq);
            state.counts.ops += 1;
            state.count_content(seq, note);
            if let Some(events) = events {
                let latency = now.saturating_sub(first);
                events.tell(control::durable(&self.name, &path, note, latency));
            }
        }
        let makes = |note: &Note| ![REMOVE, "metadata", "directory metadata"].contains(&note.verb);
        let idle = state.dirty.outstanding() == 0;
        let shows_room = |pause: &mut Pause| {
            let needs_room = matches!(pause.code, RejectCode::NoSpace | RejectCode::Quota);
            idle || whole && (!needs_room || sent.notes.iter().any(makes))
        };
        state.pause.take_if(shows_room);
    }

    /// Nothing is to be done for a path.
    pub fn leave(&self, taken: &Taken) {
        self.update(|state, _| {
            state.dirty.given_up(&taken.path);
            state.dirty.settle_seq(taken.mark.seq);
            state.look_at_first_sync();
            if state.dirty.outstanding() == 0 {
                state.pause = None;
            }
        });
    }

    /// A path is put back, to be looked at again soon: that is no failure.
    pub fn defer(&self, taken: Taken, due: Millis) {
        self.put_back(taken, due, |_, _, _| ());
    }

    /// The same of something that what was seen after it waits for.
    pub fn defer_all_after(&self, taken: Taken, due: Millis) {
        self.put_back(taken, due, DirtySet::holds_up);
    }

    /// The same of what has other names, which are to be known first.
    pub fn defer_after_names(&self, taken: Taken, due: Millis) {
        self.put_back(taken, due, DirtySet::comes_soon);
    }

    /// Paths are put back that nobody has looked at.
    pub fn defer_each(&self, taken: impl ExactSizeIterator<Item = Taken>) {
        if taken.len() == 0 {
            return;
        }
        self.update(|state, now| {
            for taken in taken {
                state.dirty.given_up(&taken.path);
                state.dirty.give_back(taken, now);
            }
        });
    }

    fn put_back(
        &self,
        taken: Taken,
        due: Millis,
        note: impl FnOnce(&mut DirtySet, &Taken, Millis),
    ) {
        self.update(|state, now| {
            state.dirty.given_up(&taken.path);
            note(&mut state.dirty, &taken, now);
            state.dirty.give_back(taken, due);
        });
    }

    /// A path is put back until what was seen before it has gone.
    pub fn wait_behind(&self, taken: Taken, until: Millis) {
        self.update(|state, _| {
            state.dirty.given_up(&taken.path);
            state.dirty.wait_behind(taken, until);
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
        self.wake_transfers.notify_all();
        self.wake_checker.notify_all();
    }

    /// Whether everything seen is durable.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let state = self.lock();
        state.link.is_some()
            && state.counts.comparisons > 0
            && state.dirty.outstanding() == 0
            && !state.looks_for_names()
    }
}

/// The word for an operation that links.
const LINK: &str = "link";

/// The word for an operation that removes.
const REMOVE: &str = "remove";

fn note(op: &Op) -> Note {
    let verb = match op {
        Op::SetMeta {
            kind: Kind::Dir, ..
        } => "directory metadata",
        Op::Link { .. } => LINK,
        Op::Remove { .. } => REMOVE,
        Op::SetMeta { .. } | Op::Same { .. } => "metadata",
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
        but_attributes: None,
    }
}
