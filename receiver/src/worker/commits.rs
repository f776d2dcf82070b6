//! Commits of one session: grouped, prepared, applied, made durable, acknowledged.
//!
//! Two threads: one makes what a group installs, the other makes it safe and gives it its names. So one
//! group is written while the one before it waits for the disk.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::thread;

use syncd_proto::exchange::receiver::Verified;
use syncd_proto::limits::COMMIT_OPS_MAX;
use syncd_proto::message::{Durability, Reject};
use syncd_proto::op::{Content, Op};

use super::outbox::Outbox;
use super::reader::Job;
use super::shared::Shared;
use crate::fs::commit::{Committer, Totals};
use crate::fs::prepare::{PreparedGroup, Preparer};
use crate::fs::refusal::Refusal;

/// A group on its way from one thread to the other.
#[derive(Debug)]
pub(super) struct Ready {
    group: PreparedGroup,
    /// Bytes to be given back.
    cost: u64,
}

/// Groups that have been begun and are not durable.
pub(super) type UnderWay = AtomicUsize;

/// Prepares commits until there are no more, or nobody takes them.
pub(super) fn prepare(
    preparer: &Preparer,
    queue: &Receiver<Job>,
    shared: &Shared<'_>,
    under_way: &UnderWay,
    ready: &SyncSender<Ready>,
) {
    let mut waiting = queue.recv().ok();
    while let Some(first) = waiting.take() {
        let (jobs, after) = collect(first, queue);
        waiting = after;
        for job in &jobs {
            if needs_staged(&job.verified) {
                shared.staged.wait(job.staged_before);
            }
        }
        let cost = jobs.iter().map(|job| job.cost).sum();
        let commits = jobs.into_iter().map(|job| *job.verified).collect();
        let alone = under_way.fetch_add(1, Ordering::AcqRel) == 0;
        let group = preparer.prepare(commits, alone);
        if ready.send(Ready { group, cost }).is_err() {
            break;
        }
        if waiting.is_none() {
            waiting = queue.recv().ok();
        }
    }
    shared.commit_bytes.open();
}

/// Commits what was prepared until there is no more, or the disk fails; `log` hears of each group.
pub(super) fn commit(
    mut committer: Committer,
    durability: Durability,
    ready: &Receiver<Ready>,
    shared: &Shared<'_>,
    under_way: &UnderWay,
    outbox: &Outbox,
    log: impl Fn(&[Verified], &[Reject]),
) -> Totals {
    let work = || -> Result<(), Refusal> {
        let mut unsynced = 0;
        while let Ok(Ready { group, cost }) = ready.recv() {
            let outcome = committer.apply(group)?;
            log(&outcome.commits, &outcome.rejects);
            let commits = outcome.commits.into_iter();
            commits.for_each(|commit| shared.commit_spares.give(commit.into_payload()));
            shared.commit_bytes.give(cost);
            shared
                .applied
                .store(outcome.committed.applied(), Ordering::Relaxed);
            for reject in outcome.rejects {
                outbox.send(reject);
            }
            outbox.committed(outcome.committed);
            unsynced += 1;
            // With more to do, the sync of the next group makes this one durable too.
            let more = under_way.load(Ordering::Acquire) > unsynced;
            let leave_to_next = more && durability != Durability::Files;
            if !leave_to_next {
                if committer.is_behind() {
                    outbox.committed(committer.flush()?);
                }
                under_way.fetch_sub(unsynced, Ordering::AcqRel);
                unsynced = 0;
                close_aside(committer.replaced());
            }
        }
        Ok(())
    };
    if let Err(refusal) = { work }() {
        tracing::error!(%refusal, "a session ends");
        shared.fail(refusal);
    }
    shared.commit_bytes.open();
    committer.totals()
}

/// Closes handles of what was replaced, which may take seconds, where no commit waits for it.
fn close_aside(handles: Vec<OwnedFd>) {
    if !handles.is_empty() {
        // Without a thread they are closed here.
        let _ = thread::Builder::new()
            .name("replaced".to_owned())
            .spawn(|| drop(handles));
    }
}

/// As many commits as are there, within bounds; and the one that was too many.
fn collect(first: Job, queue: &Receiver<Job>) -> (Vec<Job>, Option<Job>) {
    let mut ops = first.verified.commit().ops.len();
    let mut bytes = first.cost;
    let mut group = vec![first];
    loop {
        let job = match queue.try_recv() {
            Ok(job) => job,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return (group, None),
        };
        ops += job.verified.commit().ops.len();
        bytes += job.cost;
        if ops > COMMIT_OPS_MAX || bytes > GROUP_BYTES_MAX {
            return (group, Some(job));
        }
        group.push(job);
    }
}

fn needs_staged(commit: &Verified) -> bool {
    let staged = |op: &Op| {
        matches!(
            op,
            Op::Put {
                content: Content::Staged { .. },
                ..
            }
        )
    };
    commit.commit().ops.iter().any(staged)
}

/// Most bytes of one group: what is visible late because of what came before it.
const GROUP_BYTES_MAX: u64 = 8 << 20;
