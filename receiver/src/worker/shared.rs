//! [`Shared`]: what the threads of one session tell each other outside of their queues.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use syncd_proto::message::{Commit, StageChunk};
use syncd_proto::spares::Spares;

use super::registry::Heard;
use crate::fs::refusal::Refusal;

/// State of a session between its threads.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    socket: &'a UnixStream,
    /// When something was last heard of the agent.
    pub(super) heard: Heard,
    verdict: Mutex<Option<Refusal>>,
    /// Commits applied.
    pub(super) applied: AtomicU64,
    /// Set when nobody wants answers any more.
    pub(super) stop: AtomicBool,
    /// Chunk bytes received and not given back.
    pub(super) window: AtomicU64,
    /// Buffers of chunks that were worked off.
    pub(super) chunk_spares: Spares,
    /// The same of commits.
    pub(super) commit_spares: Spares,
    /// Stage messages worked off.
    pub(super) staged: Progress,
    /// Bytes of commits that wait.
    pub(super) commit_bytes: Budget,
}

impl<'a> Shared<'a> {
    /// A session on this socket.
    pub(super) fn new(socket: &'a UnixStream, heard: Heard) -> Self {
        Self {
            socket,
            heard,
            verdict: Mutex::default(),
            applied: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            window: AtomicU64::new(0),
            chunk_spares: Spares::new(CHUNK_SPARES_MAX),
            commit_spares: Spares::new(COMMIT_SPARES_MAX),
            staged: Progress::default(),
            commit_bytes: Budget::default(),
        }
    }

    /// Where buffers of payloads of this kind come from, if they come back.
    pub(super) fn spares(&self, kind: u16) -> Option<&Spares> {
        match kind {
            StageChunk::KIND => Some(&self.chunk_spares),
            Commit::KIND => Some(&self.commit_spares),
            _ => None,
        }
    }

    /// Ends the session, for this reason unless there is one already.
    pub(super) fn fail(&self, refusal: Refusal) {
        lock(&self.verdict).get_or_insert(refusal);
        self.stop.store(true, Ordering::Relaxed);
        self.commit_bytes.open();
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Why the session cannot go on, if it cannot.
    pub(super) fn verdict(&self) -> Option<Refusal> {
        lock(&self.verdict).clone()
    }
}

/// Most buffers of chunks that wait: they come and go one by one.
const CHUNK_SPARES_MAX: usize = 4;

/// Most buffers of commits that wait: a group of them comes and goes together.
const COMMIT_SPARES_MAX: usize = 8;

/// A count that others wait for.
#[derive(Debug, Default)]
pub(super) struct Progress {
    count: Mutex<u64>,
    moved: Condvar,
}

impl Progress {
    /// One more.
    pub(super) fn step(&self) {
        let mut count = lock(&self.count);
        *count = count.saturating_add(1);
        self.moved.notify_all();
    }

    /// No more will come: nobody needs to wait.
    pub(super) fn finish(&self) {
        *lock(&self.count) = u64::MAX;
        self.moved.notify_all();
    }

    /// Waits for this many.
    pub(super) fn wait(&self, target: u64) {
        let waited = self
            .moved
            .wait_while(lock(&self.count), |count| *count < target);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Bytes held at once, bounded. A single item may be larger than the bound.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    open: bool,
}

impl Budget {
    /// Takes some, when there is room.
    pub(super) fn take(&self, bytes: u64, most: u64) {
        let full = |used: &mut Used| !used.open && used.bytes > 0 && used.bytes + bytes > most;
        let waited = self.freed.wait_while(lock(&self.used), full);
        waited.unwrap_or_else(PoisonError::into_inner).bytes += bytes;
    }

    /// Gives some back.
    pub(super) fn give(&self, bytes: u64) {
        let mut used = lock(&self.used);
        used.bytes = used.bytes.saturating_sub(bytes);
        self.freed.notify_all();
    }

    /// Nobody will give anything back any more.
    pub(super) fn open(&self) {
        lock(&self.used).open = true;
        self.freed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lets_one_large_item_through_and_opens_at_the_end() {
        let budget = Budget::default();
        budget.take(100, 10);
        budget.give(100);
        budget.take(6, 10);
        budget.take(4, 10);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(1, 10));
            budget.give(1);
            waiting.join().unwrap();
            let waiting = scope.spawn(|| budget.take(1, 10));
            budget.open();
            waiting.join().unwrap();
        });
    }
}
