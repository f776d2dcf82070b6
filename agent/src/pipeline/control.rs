//! Answers requests that came over the control socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use syncd_proto::path::WirePath;
use tokio::sync::mpsc;

use crate::control::ControlRequest;
use crate::control::protocol::{Change, Command, Event, Reply};
use crate::control::reasons::reasons;
use crate::control::status::Verdict;
use crate::logic::coalesce::Millis;
use crate::logic::outbox::Note;
use crate::pipeline::source::Source;
use crate::pipeline::status;
use crate::pipeline::target::{State, Target};
use asked::Wanted;

mod asked;

/// The least time to find out whether everything is durable.
const LOOK: Duration = Duration::from_millis(250);

/// How often a source that is lost is looked at by who waits for it.
const LOST_LOOK: Duration = Duration::from_millis(100);

/// Answers until nobody can ask any more.
pub(super) async fn answer(
    sources: Vec<Arc<Source>>,
    mut requests: mpsc::Receiver<ControlRequest>,
    started: Instant,
) {
    let sources = Arc::new(sources);
    while let Some(ControlRequest { command, mut reply }) = requests.recv().await {
        let sources = sources.clone();
        tokio::spawn(async move {
            tokio::select! {
                // Nobody waits for the answer any more.
                () = reply.closed() => {}
                answer = answer_one(&sources, command, started) => {
                    let _ = reply.send(answer);
                }
            }
        });
    }
}

async fn answer_one(sources: &[Arc<Source>], command: Command, started: Instant) -> Reply {
    match command {
        Command::Status {} | Command::Events {} => {
            let status = status::gather(sources, started);
            Reply::Status {
                verdict: status.verdict(),
                status,
            }
        }
        Command::Wait { path, timeout_ms } => {
            let wanted = match asked::mirrored(sources, path) {
                Ok(wanted) => wanted,
                Err(reply) => return reply,
            };
            // Whether anything is on its way is not known at once either.
            let timeout = Duration::from_millis(timeout_ms).max(LOOK);
            let waited = tokio::time::timeout(timeout, wait(&wanted)).await;
            match waited {
                Ok(()) => Reply::Wait {
                    verdict: Verdict::InSync,
                    text: "durable at every target".to_owned(),
                },
                Err(_) => not_done(&wanted, timeout_ms, started),
            }
        }
        Command::Rescan { path } => match asked::select(sources, path) {
            Ok(wanted) => {
                for (source, path) in &wanted {
                    source.rescan(path.as_ref().unwrap_or(&WirePath::root()));
                }
                let text = "comparing again".to_owned();
                Reply::Done { text }
            }
            Err(reply) => reply,
        },
        Command::Approve { id } => decide(sources, &id, |target, id| {
            target.update(|state, now| {
                let done = state.brake.approve(id);
                if done {
                    state.dirty.release_held(now);
                }
                done
            })
        }),
        Command::Reject { id } => decide(sources, &id, |target, id| {
            target.update(|state, _| state.brake.reject(id))
        }),
    }
}

/// The time is over: says why.
fn not_done(wanted: &Wanted, timeout_ms: u64, started: Instant) -> Reply {
    let sources: Vec<_> = wanted.iter().map(|(source, _)| source.clone()).collect();
    let status = status::gather(&sources, started);
    let below = wanted.first().and_then(|(_, path)| path.as_ref());
    let below = below.map(ToString::to_string);
    let mut text = format!("not done within {timeout_ms} ms");
    for reason in reasons(&status, below.as_deref()) {
        text.push_str("\n  ");
        text.push_str(&reason);
    }
    Reply::Wait {
        verdict: status.verdict().max(Verdict::Behind),
        text,
    }
}

fn decide(sources: &[Arc<Source>], id: &str, act: impl Fn(&Target, u64) -> bool) -> Reply {
    let Ok(number) = id.parse() else {
        return unknown_id(id);
    };
    let targets = sources.iter().flat_map(|source| &source.targets);
    let known = targets.filter(|target| act(target, number)).count() > 0;
    if known {
        Reply::Done {
            text: format!("done: {id}"),
        }
    } else {
        unknown_id(id)
    }
}

fn unknown_id(id: &str) -> Reply {
    Reply::Error {
        text: format!("nothing is held as {id}, or its source is lost"),
        hint: Some("syncd-agent status shows what is held".to_owned()),
    }
}

/// Waits until what was seen up to now (or the path's current version) is durable at every target.
async fn wait(wanted: &Wanted) {
    for (source, path) in wanted {
        // What is there now is not known then, and nothing can be said of it.
        while source.is_root_lost() {
            tokio::time::sleep(LOST_LOOK).await;
        }
        source.barrier().await;
        while is_left_out(source, path.as_ref()) {
            tokio::time::sleep(LOST_LOOK).await;
        }
        for target in &source.targets {
            match path {
                None => wait_for_all(target).await,
                Some(path) => wait_for_path(target, path).await,
            }
        }
    }
}

/// Whether something that is asked about is not mirrored, since the rules for it cannot be used.
fn is_left_out(source: &Source, path: Option<&WirePath>) -> bool {
    let problem = source.rules_problem();
    problem.is_some_and(|(dir, _)| {
        path.is_none_or(|path| path.starts_with(&dir) || dir.starts_with(path))
    })
}

async fn wait_for_all(target: &Target) {
    wait_for(target, |state| state.dirty.outstanding() == 0).await;
}

async fn wait_for_path(target: &Target, path: &WirePath) {
    wait_for(target, |state| {
        state.dirty.is_clean(path) && state.outbox.is_clean(path)
    })
    .await;
}

/// Waits until `is_done`, or until all that was known at the start is durable. What a comparison finds was
/// there before it, but is known only afterwards; and what is refused or was in doubt becomes new work: that
/// is waited for as well.
async fn wait_for(target: &Target, is_done: impl Fn(&State) -> bool) {
    let mut versions = target.versions();
    let known = |state: &State| {
        let news = (state.counts.comparisons, state.dirty.respawned());
        (state.dirty.horizon(), news)
    };
    let (mut horizon, mut news) = known(&target.lock());
    loop {
        {
            let state = target.lock();
            let connected =
                state.counts.comparisons > 0 && state.link.is_some() && !state.looks_for_names();
            let oldest = state.dirty.oldest().map(|(seq, _)| seq);
            if connected && is_done(&state) {
                return;
            }
            if connected && oldest.is_none_or(|seq| seq >= horizon) {
                let (next_horizon, next_news) = known(&state);
                if next_news == news {
                    return;
                }
                (horizon, news) = (next_horizon, next_news);
                continue;
            }
        }
        if versions.changed().await.is_err() {
            return;
        }
    }
}

/// What is told of a change that became durable.
pub(super) fn durable(target: &str, path: &WirePath, note: &Note, latency: Millis) -> Event {
    Event::Durable {
        target: target.to_owned(),
        path: path.to_string(),
        op: change_of(note.verb),
        bytes: note.bytes,
        latency_ms: latency,
    }
}

fn change_of(verb: &str) -> Change {
    match verb {
        "put" => Change::Put,
        "mkdir" => Change::Mkdir,
        "symlink" => Change::Symlink,
        "link" => Change::Link,
        "mknod" => Change::Special,
        "rename" | "exchange" => Change::Rename,
        "remove" => Change::Remove,
        _ => Change::Meta,
    }
}
