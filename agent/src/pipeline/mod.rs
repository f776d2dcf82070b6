//! Joins the rooms: which threads and tasks there are, what they share, and in which order they end.
//!
//! ```text
//! watcher thread --marks--> DirtySet <--marks-- comparison thread --questions--> receiver
//! scanner thread --marks-->     |
//!                               +--> planner thread --batches--> link --> receiver
//!                               +--> transfer threads --chunks-> link --> receiver
//! session task: connects, writes, reads; acknowledgements --> DirtySet, Outbox
//! ```
//!
//! Per source: a watcher and a scanner. Per target: a planner, a comparer, a few transfer
//! threads, a session task, one that checks on a schedule, and one lock that is never held while anything blocks.

pub mod bulk;
mod control;
pub mod delta;
pub mod full_check;
pub mod oneshot;
mod owners;
pub mod planner;
pub mod reconcile;
pub mod selection;
pub mod session;
pub mod source;
mod status;
pub mod stop;
mod sweep;
pub mod target;
pub mod upload;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use syncd_proto::attributes::Attributes;
use syncd_proto::message::Purpose;
use tokio::sync::mpsc;

use crate::commands::load;
use crate::control::{ControlRequest, Events};
use crate::error::Fatal;
use crate::fs::accounts;
use crate::fs::root::SourceRoot;
use crate::fs::watch::Backend;
use crate::logic::brake::{Brake, DeleteLimit};
use crate::logic::coalesce::Settle;
use crate::logic::config::{self, Config, TargetConfig};
use crate::pipeline::bulk::Duty;
use crate::pipeline::selection::Selection;
use crate::pipeline::session::Access;
use crate::pipeline::source::Source;
use crate::pipeline::stop::Stop;
use crate::pipeline::target::Target;

/// Large files transferred to a target at once.
const TRANSFERS: [Duty; 3] = [Duty::All, Duty::All, Duty::Express];

/// Most dirty paths of a target; above, directories are compared instead.
const MARKS_MAX: usize = 200_000;

/// A target with the way to reach it.
#[derive(Debug)]
pub struct Reach {
    /// What it has not got.
    pub target: Arc<Target>,
    /// How to reach it.
    pub access: Arc<Access>,
}

/// A source with everything that is needed to mirror it.
#[derive(Debug)]
pub struct Mirror {
    /// The tree and its targets.
    pub source: Arc<Source>,
    /// The same targets, with the way to reach them.
    pub reach: Vec<Reach>,
    backend: config::Backend,
    checks: full_check::Plan,
}

/// Opens sources and credentials; nothing is connected or watched yet.
///
/// # Errors
/// [`Fatal`].
pub fn prepare(config: &Config) -> Result<Vec<Mirror>, Fatal> {
    let started = Instant::now();
    let all = config.sources.iter().map(|source| source.targets.len());
    let all = all.sum();
    let mut before = 0;
    let mut mirrors = Vec::new();
    for source in &config.sources {
        mirrors.push(prepare_source(source, started, (before, all))?);
        before += source.targets.len();
    }
    Ok(mirrors)
}

/// `numbers`: how many targets come before those of this source, and how many there are of all.
fn prepare_source(
    source: &config::Source,
    started: Instant,
    numbers: (usize, usize),
) -> Result<Mirror, Fatal> {
    let root = SourceRoot::open(&source.path)
        .map_err(|error| Fatal::Source(source.path.clone(), error))?;
    let root = Arc::new(root);
    let attributes = attributes(source, &root)?;
    let selection = Arc::new(Selection::new(&source.rules, root.clone())?);
    let settle = Settle {
        settle_ms: source.settle.as_millis() as u64,
        hold_max_ms: source.hold_max.as_millis() as u64,
        marks_max: MARKS_MAX,
        delete: source.delete,
    };
    let limit = DeleteLimit {
        count_max: source.max_delete.count,
        percent_max: source.max_delete.percent,
        window_ms: source.max_delete.window.as_millis() as u64,
    };
    let mut reach = Vec::new();
    for config in &source.targets {
        let access = Arc::new(prepare_access(config, attributes, selection.may_protect())?);
        let name = config.to.to_string();
        let target = Target::new(
            name,
            root.clone(),
            selection.clone(),
            settle,
            Brake::new(limit).numbered(numbers.0 + reach.len(), numbers.1),
            started,
        );
        reach.push(Reach {
            target: Arc::new(target),
            access,
        });
    }
    let targets = reach.iter().map(|reach| reach.target.clone()).collect();
    Ok(Mirror {
        source: Source::new(root, selection, targets),
        reach,
        backend: source.backend,
        checks: full_check::Plan {
            full: source.full_check.clone(),
            idle: source.idle_check,
        },
    })
}

/// The attributes to mirror that this process can see.
fn attributes(source: &config::Source, root: &SourceRoot) -> Result<Attributes, Fatal> {
    let mut wanted = source.attributes;
    wanted.trusted &= accounts::sees_trusted();
    if wanted.any() {
        root.check_attributes()
            .map_err(|error| match error.kind() {
                // The directory itself may not be entered.
                io::ErrorKind::PermissionDenied => Fatal::Source(source.path.clone(), error),
                _ => Fatal::Attributes(source.path.clone(), error),
            })?;
    }
    Ok(wanted)
}

fn prepare_access(
    config: &TargetConfig,
    attributes: Attributes,
    spare: bool,
) -> Result<Access, Fatal> {
    let (tls, password) = load(&config.access)?;
    Ok(Access {
        config: config.clone(),
        tls,
        password,
        attributes,
        spare,
    })
}

/// Mirrors until `stop`, answering requests on the way.
///
/// # Errors
/// [`Fatal::System`].
pub async fn run(
    mirrors: Vec<Mirror>,
    requests: mpsc::Receiver<ControlRequest>,
    events: Events,
    stop: Stop,
) -> Result<(), Fatal> {
    let started = Instant::now();
    let mut threads = Vec::new();
    let mut sessions = Vec::new();
    for mirror in &mirrors {
        threads.push(watch(mirror)?);
        for reach in &mirror.reach {
            threads.extend(work(&reach.target)?);
            threads.push(check(&reach.target, &mirror.checks)?);
            sessions.push(connect(reach, &stop));
            reach.target.tell(events.clone());
        }
    }
    let sources: Vec<_> = mirrors.iter().map(|mirror| mirror.source.clone()).collect();
    let answering = tokio::spawn(control::answer(sources.clone(), requests, started));
    stop.cancelled().await;
    answering.abort();
    for session in sessions {
        // A session that panicked has nothing more to say.
        let _ = session.await;
    }
    for source in &sources {
        source.stop();
        source.targets.iter().for_each(|target| target.stop());
    }
    let (done, all) = tokio::sync::oneshot::channel();
    let join = move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread had panicked");
            }
        }
        let _ = done.send(());
    };
    thread::Builder::new()
        .name("join".to_owned())
        .spawn(join)
        .map_err(Fatal::System)?;
    if tokio::time::timeout(JOIN_MAX, all).await.is_err() {
        tracing::warn!(
            "work that did not end within {} s is left",
            JOIN_MAX.as_secs()
        );
    }
    Ok(())
}

/// How long the end waits for what is at work: all that is acknowledged is safe, and `notify` may be busy for many minutes with a
/// tree that was removed.
const JOIN_MAX: Duration = Duration::from_secs(5);

fn connect(reach: &Reach, stop: &Stop) -> tokio::task::JoinHandle<()> {
    let (target, access, stop) = (reach.target.clone(), reach.access.clone(), stop.clone());
    tokio::spawn(async move {
        // Only a one-shot run ends with an error.
        let _ = session::run(&target, &access, Purpose::Mirror, false, &stop).await;
    })
}

fn watch(mirror: &Mirror) -> Result<JoinHandle<()>, Fatal> {
    let source = mirror.source.clone();
    let backend = match mirror.backend {
        config::Backend::Notify => Backend::Notify,
        config::Backend::Auto | config::Backend::Inotify => Backend::Inotify,
    };
    spawn("watch", move || source.run(backend))
}

fn check(target: &Arc<Target>, plan: &full_check::Plan) -> Result<JoinHandle<()>, Fatal> {
    let (target, plan) = (target.clone(), plan.clone());
    spawn("check", move || full_check::run(&target, &plan))
}

/// Starts the threads that feed one target.
///
/// # Errors
/// [`Fatal::System`].
pub fn work(target: &Arc<Target>) -> Result<Vec<JoinHandle<()>>, Fatal> {
    let mut threads = Vec::new();
    let shared = target.clone();
    threads.push(spawn("plan", move || planner::run(&shared))?);
    let shared = target.clone();
    threads.push(spawn("compare", move || reconcile::run(&shared))?);
    for duty in TRANSFERS {
        let shared = target.clone();
        threads.push(spawn("transfer", move || bulk::run(&shared, duty))?);
    }
    Ok(threads)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fatal> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(Fatal::System)
}
