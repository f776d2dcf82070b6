//! Commits of one session: grouped, applied, made durable, acknowledged.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use syncd_proto::exchange::receiver::Verified;
use syncd_proto::limits::COMMIT_OPS_MAX;
use syncd_proto::message::{Durability, Reject};
use syncd_proto::op::{Content, Op};

use super::outbox::Outbox;
use super::reader::Job;
use super::shared::Shared;
use crate::fs::commit::{Committer, Totals};
use crate::fs::refusal::Refusal;

/// Applies commits until there are no more, or the disk fails; `log` hears of each group.
pub(super) fn run(
    mut committer: Committer,
    durability: Durability,
    queue: &Receiver<Job>,
    shared: &Shared<'_>,
    outbox: &Outbox,
    log: impl Fn(&[Box<Verified>], &[Reject]),
) -> Totals {
    if let Err(refusal) = work(&mut committer, durability, queue, shared, outbox, log) {
        tracing::error!(%refusal, "a session ends");
        shared.fail(refusal);
    }
    shared.commit_bytes.open();
    committer.totals()
}

fn work(
    committer: &mut Committer,
    durability: Durability,
    queue: &Receiver<Job>,
    shared: &Shared<'_>,
    outbox: &Outbox,
    log: impl Fn(&[Box<Verified>], &[Reject]),
) -> Result<(), Refusal> {
    let mut waiting = queue.recv().ok();
    while let Some(first) = waiting.take() {
        let (group, after) = collect(first, queue);
        waiting = after;
        for job in &group {
            if needs_staged(&job.verified) {
                shared.staged.wait(job.staged_before);
            }
        }
        let cost = group.iter().map(|job| job.cost).sum();
        let group: Vec<Box<Verified>> = group.into_iter().map(|job| job.verified).collect();
        let outcome = committer.apply(&group)?;
        log(&group, &outcome.rejects);
        drop(group);
        shared.commit_bytes.give(cost);
        shared
            .applied
            .store(outcome.committed.applied(), Ordering::Relaxed);
        for reject in outcome.rejects {
            outbox.send(reject);
        }
        outbox.committed(outcome.committed);
        if waiting.is_none() {
            waiting = queue.try_recv().ok();
        }
        // With more to do, the sync of the next group makes this one durable too.
        let leave_to_next = waiting.is_some() && durability != Durability::Files;
        if committer.is_behind() && !leave_to_next {
            outbox.committed(committer.flush()?);
        }
        if waiting.is_none() {
            waiting = queue.recv().ok();
        }
    }
    Ok(())
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
