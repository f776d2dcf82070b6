//! The process that faces the network: joins `net/`, `logic/` and the workers.
//!
//! It listens, speaks TLS, decides who may do what, and copies a session's frames to the worker of its
//! module. It never touches a module's files.
//!
//! | file | what |
//! |---|---|
//! | [`credentials`] | the TLS files |
//! | [`accounts`] | users, groups, ids |
//! | [`policy`] | the configuration applied to one peer |
//! | [`handshake`] | from an accepted socket to a session |
//! | [`hooks`] | the commands around a session |
//! | [`sessions`] | who is connected, and who was |
//! | [`control`] | the socket where that is asked |
//! | [`threads`] | work that may block |
//! | [`workers`] | the processes that touch files |
//! | [`mod@reload`] | SIGHUP |

pub mod accounts;
pub mod control;
pub mod credentials;
pub mod handshake;
pub mod hooks;
pub mod policy;
pub mod reload;
pub mod sessions;
pub mod threads;
pub mod workers;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::error::Fatal;
use crate::front::control::Control;
use crate::front::reload::Generation;
use crate::front::sessions::Sessions;
use crate::front::threads::apart;
use crate::front::workers::Pool;
use crate::fs::lock_file::LockFiles;
use crate::fs::pid_file::PidFile;
use crate::logging;
use crate::logic::authorize::Slots;
use crate::logic::trash;
use crate::net::listen::{self, Budget};

/// How long sessions may take to end once we are told to.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What agents are told then.
const DRAIN_TEXT: &str = "receiver is going down";

/// What `run` is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: OsString,
    /// Overrides `syncd port`.
    pub port: Option<u16>,
    /// Overrides `address`.
    pub address: Option<String>,
    /// Where it answers questions about itself, if anywhere.
    pub control: Option<PathBuf>,
    /// Arguments with which this program is a worker.
    pub worker_arguments: Vec<String>,
}

/// What all connections share.
#[derive(Debug)]
pub struct Front {
    generation: RwLock<Arc<Generation>>,
    sessions: Arc<Sessions>,
    slots: Slots,
    workers: Pool,
    draining: watch::Sender<bool>,
}

impl Front {
    /// Nobody connected yet.
    #[must_use]
    pub fn new(generation: Generation, worker_arguments: Vec<String>) -> Self {
        Self {
            generation: RwLock::new(Arc::new(generation)),
            sessions: Arc::default(),
            slots: Slots::shared(Arc::new(LockFiles)),
            workers: Pool::new(worker_arguments),
            draining: watch::Sender::new(false),
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        let generation = self.generation.read();
        Arc::clone(&generation.unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, generation: Arc<Generation>) {
        *self
            .generation
            .write()
            .unwrap_or_else(PoisonError::into_inner) = generation;
    }

    /// Whether no new session may begin.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until no new session may begin.
    pub async fn drained(&self) {
        let mut draining = self.draining.subscribe();
        // It cannot be dropped while we are here.
        let _ = draining.wait_for(|draining| *draining).await;
    }
}

/// Serves until told to end.
///
/// # Errors
/// It cannot start.
pub async fn run(options: Options) -> Result<(), Fatal> {
    let generation = blocking_load(&options).await.map_err(Fatal::Config)?;
    logging::also_to(policy::global_log(&generation.config));
    let mut signals = Signals::new()?;
    raise_descriptor_limit();
    // Whoever reads that it listens finds the file.
    let _pid_file = pid_file(&generation)?;
    let control = options.control.as_deref().map(Control::bind).transpose()?;
    let listeners = bind(&options, &generation).await?;
    let front = Arc::new(Front::new(generation, options.worker_arguments.clone()));
    let (alive, all_gone) = mpsc::channel::<()>(1);
    let mut accepting = JoinSet::new();
    if let Some(control) = control {
        accepting.spawn(control.serve(Arc::clone(&front.sessions)));
    }
    let budget = Budget::default();
    for listener in listeners {
        accepting.spawn(accept(
            listener,
            budget.clone(),
            Arc::clone(&front),
            alive.clone(),
        ));
    }
    drop(alive);
    accepting.spawn(tend(Arc::clone(&front)));
    loop {
        match signals.next().await {
            Told::Reload => reload(&front, &options).await,
            Told::End(name) => {
                info!("{name}: ending");
                break;
            }
        }
    }
    accepting.shutdown().await;
    drain(&front, all_gone).await;
    Ok(())
}

async fn accept(listener: TcpListener, budget: Budget, front: Arc<Front>, alive: mpsc::Sender<()>) {
    listen::accept(listener, budget, |socket, peer, permit| {
        let (front, alive) = (Arc::clone(&front), alive.clone());
        tokio::spawn(async move {
            handshake::serve(&front, socket, peer, permit).await;
            drop(alive);
        });
    })
    .await;
}

/// Now and then has modules with a trash look for what has been kept long enough, also while nobody is connected.
async fn tend(front: Arc<Front>) {
    loop {
        let generation = front.generation();
        let found = apart(move || policy::with_trash(&generation.config, generation.me));
        let setups = found.await.unwrap_or_else(|error| {
            warn!("old versions stay in the trash: {error}");
            Vec::new()
        });
        let keeps = setups.iter().filter_map(|setup| setup.rules.trash.as_ref());
        let every_s = keeps.map(|trash| trash::look_every_s(trash.keep_s)).min();
        for setup in &setups {
            if let Err(why) = front.workers.tend(setup).await {
                let module = syncd_proto::path::escaped(&setup.name);
                warn!(%module, "old versions stay in the trash: {}", why.log);
            }
        }
        sleep(Duration::from_secs(every_s.unwrap_or(TEND_EVERY_S))).await;
    }
}

/// Seconds until modules are looked through again for a trash that a reload brought.
const TEND_EVERY_S: u64 = 3_600;

async fn drain(front: &Front, mut all_gone: mpsc::Receiver<()>) {
    front.draining.send_replace(true);
    let ended = async {
        front.workers.drain(DRAIN_TEXT).await;
        let _ = all_gone.recv().await;
    };
    match timeout(DRAIN_MAX, ended).await {
        Ok(()) => info!("ended"),
        Err(_) => warn!("ended; some sessions were cut after {DRAIN_MAX:?}"),
    }
}

async fn blocking_load(options: &Options) -> Result<Generation, String> {
    let config = options.config.clone();
    apart(move || reload::load(&config))
        .await
        .unwrap_or_else(|error| Err(format!("loading the configuration: {error}")))
}

async fn reload(front: &Arc<Front>, options: &Options) {
    match blocking_load(options).await {
        Ok(generation) => {
            let old = front.generation();
            let generation = Arc::new(generation);
            front.replace(Arc::clone(&generation));
            logging::also_to(policy::global_log(&generation.config));
            front.workers.forget_served();
            info!(
                modules = generation.config.modules.len(),
                "configuration reloaded"
            );
            if old.listens_on() != generation.listens_on() {
                warn!("`address` or `syncd port` has changed: takes effect after a restart");
            }
            // Apart from the signals: look-ups may take their time, and so must not an end.
            let front = Arc::clone(front);
            tokio::spawn(async move { reload::review(&front).await });
        }
        Err(text) => error!("not reloaded, the earlier configuration stays in force: {text}"),
    }
}

/// Writes `syncd pid file`, if it is set.
fn pid_file(generation: &Generation) -> Result<Option<PidFile>, Fatal> {
    let config = &generation.config;
    let Some(path) = reload::expanded(config, config.globals.syncd_pid_file.as_ref()) else {
        return Ok(None);
    };
    PidFile::write(&path).map(Some).map_err(|why| {
        let path = syncd_proto::path::escaped(&path);
        Fatal::Config(format!("`syncd pid file` {path}: {why}"))
    })
}

/// The listening sockets, each announced in the log.
async fn bind(options: &Options, generation: &Generation) -> Result<Vec<TcpListener>, Fatal> {
    let (configured, port) = generation.listens_on();
    let port = options.port.unwrap_or(port);
    let address = options.address.clone().or(configured);
    let mut listeners = Vec::new();
    let mut failed = None;
    for address in addresses(address.as_deref(), port).await? {
        match listen::bind(address) {
            Ok(listener) => {
                let bound = listener.local_addr().unwrap_or(address);
                info!("listening on {bound}");
                listeners.push(listener);
            }
            // A machine without IPv6 still serves IPv4.
            Err(source) if is_missing_ipv6(&address, source.raw_os_error()) => {
                failed = Some(Fatal::Listen { address, source });
            }
            Err(source) => return Err(Fatal::Listen { address, source }),
        }
    }
    match failed {
        Some(fatal) if listeners.is_empty() => Err(fatal),
        _ => Ok(listeners),
    }
}

fn is_missing_ipv6(address: &SocketAddr, error: Option<i32>) -> bool {
    use rustix::io::Errno;
    let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error);
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && error.is_some_and(|error| missing.contains(&error))
}

async fn addresses(address: Option<&str>, port: u16) -> Result<Vec<SocketAddr>, Fatal> {
    let Some(address) = address else {
        let everywhere = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Ipv6Addr::UNSPECIFIED.into(),
        ];
        return Ok(everywhere.map(|ip| SocketAddr::new(ip, port)).to_vec());
    };
    let unknown = |why: String| {
        Fatal::Config(format!(
            "`address` {}: {why}: name an address of this machine",
            syncd_proto::path::escaped(address.as_bytes())
        ))
    };
    let found = tokio::net::lookup_host((address, port)).await;
    let mut found: Vec<SocketAddr> = found.map_err(|error| unknown(error.to_string()))?.collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Err(unknown("it has no address".to_owned()));
    }
    Ok(found)
}

/// Each session needs two descriptors; the usual limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

enum Told {
    Reload,
    End(&'static str),
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Fatal> {
        let listen = |kind| {
            signal(kind).map_err(|source| Fatal::System {
                what: "cannot listen for signals",
                source,
            })
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::End("SIGTERM"),
            _ = self.interrupt.recv() => Told::End("SIGINT"),
        }
    }
}

#[cfg(test)]
mod tests;
