//! What ends by itself: `sync` until everything is durable, `verify` and `--dry-run` without changing
//! anything.

use std::sync::Arc;

use syncd_proto::message::Purpose;
use syncd_proto::path::{WirePath, escaped};

use crate::error::Fatal;
use crate::logic::coalesce::Failed;
use crate::logic::unread::ATTEMPTS_MAX;
use crate::net::link::{Link, LinkError};
use crate::pipeline::reconcile::{self, CompareError, Difference, Differences};
use crate::pipeline::stop::{Stop, Stopper};
use crate::pipeline::target::{Phase, Target};
use crate::pipeline::{Mirror, Reach, session, work};

/// How a one-shot run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Source and target are identical, and what was sent is durable.
    Identical,
    /// They differ: so many differences (`verify`, `--dry-run`).
    Differences(u64),
    /// Some paths could not be mirrored: each with the reason.
    Incomplete(Vec<String>),
    /// Deletes are held: the reason.
    Held(String),
    /// It was stopped.
    Stopped,
}

/// Mirrors until every target has everything.
///
/// # Errors
/// [`Fatal`].
pub async fn sync(mirrors: &[Mirror], stop: &Stop) -> Result<Outcome, Fatal> {
    let mut outcome = Outcome::Identical;
    for reach in mirrors.iter().flat_map(|mirror| &mirror.reach) {
        match sync_target(reach, stop).await? {
            Outcome::Identical => {}
            other => outcome = other,
        }
    }
    Ok(outcome)
}

async fn sync_target(reach: &Reach, stop: &Stop) -> Result<Outcome, Fatal> {
    // Nobody watches: what changes meanwhile is for the next run.
    reach.target.watched();
    let threads = work(&reach.target)?;
    let (stopper, done) = Stopper::new();
    let result = tokio::select! {
        () = stop.cancelled() => Ok(Outcome::Stopped),
        ended = session::run(&reach.target, &reach.access, Purpose::Mirror, true, &done) => {
            match ended {
                Ok(()) => Ok(Outcome::Stopped),
                Err(error) => Err(Fatal::Connect(error)),
            }
        }
        outcome = settled(&reach.target) => Ok(outcome),
    };
    stopper.stop();
    reach.target.stop();
    let joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            let _ = thread.join();
        }
    });
    let _ = joined.await;
    result
}

/// Waits until nothing more will happen by itself.
async fn settled(target: &Target) -> Outcome {
    let mut versions = target.versions();
    loop {
        if let Some(outcome) = outcome(target) {
            return outcome;
        }
        if versions.changed().await.is_err() {
            return Outcome::Stopped;
        }
    }
}

fn outcome(target: &Target) -> Option<Outcome> {
    if target.is_in_sync() {
        return Some(Outcome::Identical);
    }
    let state = target.lock();
    if let Some(hold) = state.brake.hold() {
        return Some(Outcome::Held(hold.reason.clone()));
    }
    let tired = state
        .dirty
        .failed()
        .filter(|failed| failed.attempts >= ATTEMPTS_MAX && failed.due.is_some());
    let failed: Vec<_> = tired
        .map(|Failed { path, failure, .. }| {
            let text = escaped(failure.text.as_bytes());
            format!("{path}: {}: {text}", failure.code)
        })
        .collect();
    // What waits to be compared is outstanding too, also at the very beginning.
    let only_failed =
        !state.comparing && !failed.is_empty() && failed.len() == state.dirty.outstanding();
    only_failed.then_some(Outcome::Incomplete(failed))
}

/// Compares without changing anything; calls `print` with each difference.
///
/// # Errors
/// [`Fatal`].
pub async fn compare(
    mirrors: &[Mirror],
    content: bool,
    print: fn(&WirePath, &Difference),
    stop: &Stop,
) -> Result<Outcome, Fatal> {
    let mut total = 0;
    for reach in mirrors.iter().flat_map(|mirror| &mirror.reach) {
        match compare_target(reach, content, print, stop).await? {
            Some(count) => total += count,
            None => return Ok(Outcome::Stopped),
        }
    }
    Ok(if total == 0 {
        Outcome::Identical
    } else {
        Outcome::Differences(total)
    })
}

async fn compare_target(
    reach: &Reach,
    content: bool,
    print: fn(&WirePath, &Difference),
    stop: &Stop,
) -> Result<Option<u64>, Fatal> {
    let (stopper, done) = Stopper::new();
    let target = reach.target.clone();
    let comparing = tokio::task::spawn_blocking({
        let target = target.clone();
        move || compare_when_connected(&target, content, print)
    });
    let result = tokio::select! {
        () = stop.cancelled() => Ok(None),
        ended = session::run(&target, &reach.access, Purpose::Compare, true, &done) => {
            match ended {
                Ok(()) => Ok(None),
                Err(error) => Err(Fatal::Connect(error)),
            }
        }
        count = comparing => match count {
            Ok(Ok(count)) => Ok(Some(count)),
            Ok(Err(error)) => Err(Fatal::Compare(error)),
            Err(_) => Ok(None),
        },
    };
    stopper.stop();
    target.stop();
    result
}

fn compare_when_connected(
    target: &Arc<Target>,
    content: bool,
    print: fn(&WirePath, &Difference),
) -> Result<u64, CompareError> {
    let link = wait_for_link(target)?;
    let mut count = 0;
    let mut report = |differences: Differences| {
        for (path, difference) in differences {
            if matches!(difference, Difference::Extra(_)) && !target.delete {
                continue;
            }
            count += 1;
            print(&path, &difference);
        }
        Ok(())
    };
    let compared = reconcile::compare(target, &link, &WirePath::root(), content, &mut report)?;
    match compared.unread.into_iter().next() {
        // Whatever was found: nobody knows whether that is all.
        Some(unread) => Err(CompareError::Unread(unread)),
        None => Ok(count),
    }
}

fn wait_for_link(target: &Target) -> Result<Arc<Link>, CompareError> {
    let mut state = target.lock();
    loop {
        if state.stopping {
            return Err(CompareError::Stopped);
        }
        if let Some(link) = &state.link {
            return Ok(link.clone());
        }
        if let Phase::Disconnected { .. } = state.phase {
            tracing::debug!("{}", LinkError::Closed);
        }
        state = target.wait(state, None);
    }
}
