//! One session: its welcome, its threads, and its end.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;

use syncd_proto::chain::{CommitVerifier, first_root};
use syncd_proto::exchange::Counters;
use syncd_proto::exchange::receiver::{ReceiverSession, Verified};
use syncd_proto::frame::{Frame, FrameLimits};
use syncd_proto::message::{
    Draining, Durability, FEATURE_LINKS, FEATURE_SAME, FEATURE_SPARE, FEATURE_TIMES, FEATURE_ZSTD,
    Leftover, Purpose, ReceiverMessage, Refused, Reject, Rejected, Welcome,
};
use syncd_proto::meta::{Compare, Times};
use syncd_proto::reject::RejectCode;

use super::answers::Answerer;
use super::commits::UnderWay;
use super::outbox::{self, Outbox};
use super::reader::{self, End, Question, Queues, WINDOW_BYTES};
use super::registry::Heard;
use super::shared::Shared;
use super::stager::{Lacked, Stager};
use super::{Module, commits};
use crate::fs::area::Area;
use crate::fs::commit::{Anchor, Committer, StagedMap, Totals};
use crate::fs::meta::{Keeper, compare_faked};
use crate::fs::prepare::Preparer;
use crate::fs::recover;
use crate::fs::refusal::{Refusal, describe, shortened};
use crate::fs::root::Root;
use crate::fs::tree::Trees;
use crate::logic::transfer_log;
use crate::relay::{FromWorker, SessionOpen};

/// Serves one session from welcome to end.
pub(super) fn run(
    module: &Module,
    open: &SessionOpen,
    socket: UnixStream,
    heard: Heard,
) -> FromWorker {
    let (totals, text) = match begin(module, open) {
        Ok(ready) => {
            let served = serve(module, open, &socket, ready, heard);
            served.unwrap_or_else(|error| (Totals::default(), format!("cannot serve: {error}")))
        }
        Err(refusal) => {
            let text = format!("refused: {refusal}");
            let _ = refuse(open, &socket, refusal);
            (Totals::default(), text)
        }
    };
    let _ = socket.shutdown(Shutdown::Both);
    syncd_heap::give_back();
    FromWorker::Ended {
        id: open.id,
        content_bytes: totals.content_bytes,
        ops: totals.ops,
        text,
    }
}

/// A session about to be welcomed.
struct Ready {
    session: ReceiverSession,
    root: Arc<Root>,
    /// Where it writes, if it may.
    area: Option<Arc<Area>>,
    instance: [u8; 16],
    leftovers: Vec<Leftover>,
    compare: Compare,
    /// What is held of times, whatever the agent understands of it.
    times: Times,
}

fn begin(module: &Module, open: &SessionOpen) -> Result<Ready, Refusal> {
    let certificate = CertificateDer::from(open.certificate.clone());
    let verifier = CommitVerifier::new(certificate).ok_or_else(|| {
        let text = "the key of the certificate cannot sign commits: use Ed25519 or ECDSA";
        Refusal::new(RejectCode::CertificateDenied, text)
    })?;
    if open.sub_path.is_reserved() {
        let text = format!("{} is a name the receiver keeps for itself", open.sub_path);
        return Err(Refusal::new(RejectCode::ReservedName, text));
    }
    if module.confined.root.hides(&open.sub_path, true) {
        let text = format!("daemon has excluded directory \"{}\"", open.sub_path);
        return Err(Refusal::new(RejectCode::ModuleUnavailable, text));
    }
    module.check_place()?;
    let writes = writes(open);
    let root = &module.confined.root;
    let area = if writes {
        Some(claim(module, open)?)
    } else {
        None
    };
    let session_root = root.beneath(&open.sub_path).map_err(|errno| {
        let text = format!("cannot open {}: {}", open.sub_path, describe(errno));
        Refusal::new(RejectCode::ModuleUnavailable, text)
    })?;
    let (instance, leftovers) = match &area {
        Some(area) => (
            area.instance(),
            recover::leftovers(area).unwrap_or_default(),
        ),
        None => (Area::instance_of(root).unwrap_or_default(), Vec::new()),
    };
    let times = module.times();
    let counters = Counters {
        next_out: open.next_out,
        next_in: open.next_in,
    };
    let name = module.setup.name.clone();
    Ok(Ready {
        session: ReceiverSession::resume(counters, open.session, name, verifier),
        root: Arc::new(session_root),
        area,
        instance,
        leftovers,
        compare: compare(module, open, times),
        times,
    })
}

fn writes(open: &SessionOpen) -> bool {
    open.writable && open.purpose == Purpose::Mirror
}

/// Becomes the writer of its directory, which is made if it is missing.
fn claim(module: &Module, open: &SessionOpen) -> Result<Arc<Area>, Refusal> {
    if !module.setup.shared_writers {
        let claimed = module
            .registry
            .claim(open.id, &open.sub_path, &open.label, SILENCE_MAX);
        claimed.map_err(|first| {
            let text = format!("{first} writes here already; see 'shared writers'");
            Refusal::new(RejectCode::Busy, text)
        })?;
    }
    let area = module.area()?;
    let made = module.confined.root.make_dirs(&open.sub_path);
    made.map_err(|errno| {
        let text = format!("cannot make {}: {}", open.sub_path, describe(errno));
        Refusal::new(RejectCode::ModuleUnavailable, text)
    })?;
    Ok(area)
}

fn serve(
    module: &Module,
    open: &SessionOpen,
    socket: &UnixStream,
    ready: Ready,
    heard: Heard,
) -> io::Result<(Totals, String)> {
    let timeout = silence_max(module.setup.timeout_s);
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    let shared = Shared::new(socket, heard);
    let (outbox, outgoing) = Outbox::new();
    let frames = ready.session.sender();
    outbox.send(welcome(module, open, &ready));
    thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(format!("{name} {}", open.id));
        let writer = spawn("writer").spawn_scoped(scope, || {
            let written = outbox::write(socket, frames, &outgoing);
            // A peer that takes nothing is not waited for by the others.
            drop(outgoing);
            written
        })?;
        let served = converse(module, open, socket, ready, &shared, &outbox, scope);
        let ended = served.map(|(totals, end)| {
            let text = farewell(module, open, &shared, &outbox, end);
            (totals, text)
        });
        drop(outbox);
        let _ = writer.join();
        ended
    })
}

/// Runs the threads of a session until all of them have done what was received.
fn converse<'scope>(
    module: &'scope Module,
    open: &'scope SessionOpen,
    socket: &UnixStream,
    ready: Ready,
    shared: &'scope Shared<'_>,
    outbox: &Outbox,
    scope: &'scope thread::Scope<'scope, '_>,
) -> io::Result<(Totals, End)> {
    let spawn = |name: &str| thread::Builder::new().name(format!("{name} {}", open.id));
    let durability = module.setup.durability;
    let (commit_queue, commit_jobs) = sync_channel(COMMITS_QUEUED_MAX);
    let (stage_queue, stage_messages) = sync_channel(STAGE_QUEUED_MAX);
    let (question_queue, questions) = sync_channel(QUESTIONS_QUEUED_MAX);
    let (content_queue, content_questions) = sync_channel(QUESTIONS_QUEUED_MAX);
    let mut committing: Option<ScopedJoinHandle<'_, Totals>> = None;
    let mut staging = None;
    let mut preparing = None;
    if let Some(area) = &ready.area {
        let complete = Arc::new(StagedMap::new(Arc::clone(&module.known)));
        let stager = Stager {
            area: Arc::clone(area),
            root: Arc::clone(&ready.root),
            complete: Arc::clone(&complete),
            durability,
            shared,
            outbox: outbox.clone(),
            lacked: Lacked::default(),
            consumed: 0,
        };
        staging = Some(spawn("stager").spawn_scoped(scope, move || stager.run(&stage_messages))?);
        let preparer = preparer(module, &ready, area, complete);
        let committer = committer(module, open, &preparer);
        let outbox = outbox.clone();
        let (prepared, groups) = sync_channel(0);
        let begun = Arc::new(UnderWay::default());
        let under_way = Arc::clone(&begun);
        preparing = Some(spawn("preparer").spawn_scoped(scope, move || {
            commits::prepare(&preparer, &commit_jobs, shared, &begun, &prepared);
        })?);
        committing = Some(spawn("committer").spawn_scoped(scope, move || {
            let log = |group: &[_], rejects: &[_]| log_transfers(module, open, group, rejects);
            commits::commit(
                committer, durability, &groups, shared, &under_way, &outbox, log,
            )
        })?);
    }
    let answer = |name: &str, questions: Receiver<Question>| {
        let trees = Trees::new(ready.compare, module.confined.munges);
        let links_all = features(module, open) & FEATURE_LINKS != 0;
        let trees = trees.faked(module.guard.fakes()).linking(links_all);
        let answerer = Answerer {
            root: Arc::clone(&ready.root),
            known: Arc::clone(&module.known),
            trees: trees.knowing(Arc::clone(&module.known)),
            module,
            unsynced: (ready.area.clone()).filter(|_| durability != Durability::None),
            shared,
            outbox: outbox.clone(),
            asked: Instant::now(),
            rested: 0,
        };
        spawn(name).spawn_scoped(scope, move || answerer.run(&questions))
    };
    let answering = answer("answers", questions)?;
    let reading = answer("contents", content_questions)?;
    let queues = Queues {
        commits: commit_queue,
        stages: stage_queue,
        questions: question_queue,
        contents: content_queue,
        outbox: outbox.clone(),
    };
    let writable = ready.area.is_some();
    let limits = match features(module, open) & FEATURE_ZSTD {
        0 => FrameLimits::SESSION,
        _ => FrameLimits::PACKED,
    };
    let end = reader::read(socket, limits, ready.session, shared, queues, writable);
    shared.stop.store(true, Ordering::Relaxed);
    if let Some(preparing) = preparing {
        let _ = preparing.join();
    }
    let totals = committing.and_then(|thread| thread.join().ok());
    if let Some(staging) = staging {
        let _ = staging.join();
    }
    let _ = answering.join();
    let _ = reading.join();
    Ok((totals.unwrap_or_default(), end))
}

/// Tells the front what was done, if the module wants to know.
fn log_transfers(module: &Module, open: &SessionOpen, group: &[Verified], rejects: &[Reject]) {
    let Some(who) = &open.log else {
        return;
    };
    let mut lines = Vec::new();
    for commit in group {
        for (index, (op, _)) in (0..).zip(commit.ops()) {
            let what = Rejected::Op {
                seq: commit.seq(),
                index,
            };
            if !rejects.iter().any(|reject| reject.what == what) {
                lines.extend(transfer_log::line(who, &open.sub_path, op));
            }
        }
    }
    for some in lines.chunks(LINES_PER_MESSAGE) {
        module.tell_front(&FromWorker::Log(some.to_vec()));
    }
}

/// Lines told to the front at once: with the longest they stay below the limit of a message.
const LINES_PER_MESSAGE: usize = 100;

fn preparer(module: &Module, ready: &Ready, area: &Arc<Area>, staged: Arc<StagedMap>) -> Preparer {
    let confined = &module.confined;
    let keeper = Keeper {
        powers: confined.powers,
        attributes: ready.compare.xattrs,
        chmod: module.chmod.clone(),
        umask: confined.umask,
        munges: confined.munges,
        times: ready.times,
        guard: Arc::clone(&module.guard),
    };
    Preparer {
        root: Arc::clone(&ready.root),
        area: Arc::clone(area),
        keeper: Arc::new(keeper),
        durability: module.setup.durability,
        staged,
    }
}

fn committer(module: &Module, open: &SessionOpen, preparer: &Preparer) -> Committer {
    let anchor = Anchor {
        module: Arc::clone(&module.confined.root),
        path: module.confined.path.clone(),
        sub_path: open.sub_path.clone(),
    };
    let spares = features(module, open) & FEATURE_SPARE != 0;
    Committer::new(preparer, anchor, first_root(&open.session), spares)
}

fn compare(module: &Module, open: &SessionOpen, times: Times) -> Compare {
    let times = match features(module, open) & FEATURE_TIMES {
        0 => Times::Nanos,
        _ => times,
    };
    if module.guard.fakes() {
        return compare_faked(module.chmod.is_some(), open.attributes, times);
    }
    let powers = module.confined.powers;
    powers.compare(module.chmod.is_some(), open.attributes, times)
}

/// Features both sides have.
fn features(module: &Module, open: &SessionOpen) -> u64 {
    let ours = FEATURE_SPARE | FEATURE_LINKS | FEATURE_TIMES | FEATURE_SAME;
    let ours = match module.setup.rules.refuses_compression {
        true => ours,
        false => ours | FEATURE_ZSTD,
    };
    open.features & ours
}

fn welcome(module: &Module, open: &SessionOpen, ready: &Ready) -> Welcome {
    Welcome {
        version: syncd_proto::VERSION,
        features: features(module, open),
        receiver: concat!("syncd-recv ", env!("CARGO_PKG_VERSION")).to_owned(),
        proof: open.proof,
        writable: ready.area.is_some(),
        compare: ready.compare,
        maps_names: ready.compare.owner && !module.setup.numeric_ids,
        durability: module.setup.durability,
        window_bytes: WINDOW_BYTES,
        window_commits: WINDOW_COMMITS,
        instance: ready.instance,
        leftovers: ready.leftovers.clone(),
    }
}

/// The last word to the agent, and the one for the log.
fn farewell(
    module: &Module,
    open: &SessionOpen,
    shared: &Shared<'_>,
    outbox: &Outbox,
    end: End,
) -> String {
    let refusal = shared.verdict().or(match &end {
        End::Refused(refusal) => Some(refusal.clone()),
        End::Left(_) => None,
    });
    if let Some(refusal) = refusal {
        let text = format!("ended: {refusal}");
        outbox.reject(Rejected::Session, refusal);
        return text;
    }
    if let Some(text) = module.registry.closing(open.id) {
        outbox.send(Draining {
            text: shortened(text.clone()),
        });
        return text;
    }
    match end {
        End::Left(text) => text,
        End::Refused(refusal) => refusal.text,
    }
}

/// Sends the frame that refuses a session.
fn refuse(open: &SessionOpen, mut socket: &UnixStream, refusal: Refusal) -> io::Result<()> {
    let message = ReceiverMessage::Refused(Refused {
        code: refusal.code,
        text: refusal.text,
    });
    let mut body = Vec::new();
    let encoded = message.encode_body(&mut body);
    encoded.map_err(|error| io::Error::other(error.to_string()))?;
    let frame = Frame {
        seq: open.next_out,
        kind: message.kind(),
        body,
        payload: Vec::new(),
        packed: false,
    };
    let mut bytes = Vec::new();
    frame.write_to(&mut bytes);
    socket.set_write_timeout(Some(TIMEOUT_DEFAULT))?;
    socket.write_all(&bytes)
}

/// An agent says something at least every 15 seconds; one that has been silent for this long makes room for
/// another.
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// Commits an agent may have sent ahead.
const WINDOW_COMMITS: u32 = 256;

/// Commits that wait; their bytes are bounded apart from that.
const COMMITS_QUEUED_MAX: usize = WINDOW_COMMITS as usize;

/// Stage messages that wait; their payload is bounded by the window.
const STAGE_QUEUED_MAX: usize = 256;

/// Questions that wait.
const QUESTIONS_QUEUED_MAX: usize = 64;

/// Silence after which an agent is taken for dead, unless `timeout` is longer. An agent with nothing to do says
/// something every 15 to 30 seconds: less would end sessions that nothing is wrong with.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How long an agent of a module may say nothing, or take nothing.
fn silence_max(timeout_s: u32) -> Duration {
    Duration::from_secs(timeout_s.into()).max(TIMEOUT_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_longer_than_an_agent_is_silent() {
        for (written, seconds) in [(0, 60), (1, 60), (60, 60), (900, 900)] {
            assert_eq!(silence_max(written), Duration::from_secs(seconds));
        }
    }
}
