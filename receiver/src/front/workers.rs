//! The workers: at most one process per module, started when a session needs it, gone after idling.
//!
//! There are never two workers of one module, since each believes itself alone in the module's staging
//! area. A worker whose settings are out of date is therefore drained, and awaited, before the next
//! session of its module gets a new one.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use syncd_proto::limits::ID_NAMES_MAX;
use syncd_proto::op::IdName;
use syncd_proto::path::escaped;

use crate::front::threads::apart;
use crate::fs::ids::Directory;
use crate::fs::logbook::{Grave, Logbook, harmless};
use crate::logic::removals;
use crate::net::relay_io::{self, Receiver};
use crate::relay::{FromWorker, ModuleSetup, SessionOpen, ToWorker, Whereabouts};

/// Orders to a worker that have not been sent yet.
const ORDERS_MAX: usize = 64;

/// A worker without sessions ends after this long.
const IDLE: Duration = Duration::from_secs(60);

/// One that counts removals lives as long as they count.
const IDLE_COUNTING: Duration = Duration::from_millis(removals::WINDOW_MS);

/// How long a worker may take to set itself up.
const SETUP_MAX: Duration = Duration::from_secs(15);

/// How long names may be looked up for one question; what is not known then has no name here.
const NAMES_MAX: Duration = Duration::from_secs(10);

/// How long a worker may take to end after it was told to; then it is killed.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Variables that a worker inherits; all others stay here.
const ENVIRONMENT: [&str; 3] = ["RUST_BACKTRACE", "TZ", "RSYNC_NO_XFER_EXEC"];

/// Why a module cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// For the agent.
    pub text: String,
    /// For the log.
    pub log: String,
}

impl Unavailable {
    fn broken(log: String) -> Self {
        Self {
            text: "the module cannot be served now; the receiver's log says why".to_owned(),
            log,
        }
    }
}

/// All workers.
#[derive(Debug)]
pub struct Pool {
    arguments: Vec<String>,
    shared: Shared,
    /// `None` once all is going down.
    places: Mutex<Option<Places>>,
}

/// What the tasks of all workers share.
#[derive(Debug, Clone, Default)]
struct Shared {
    served: Arc<Served>,
    /// Users and groups; one question at a time, however long that takes.
    directory: Arc<AsyncMutex<Directory>>,
}

/// By module and path: the path of one module may depend on the user.
type Places = HashMap<Key, Place>;

/// Name and path of a module.
type Key = (Vec<u8>, Vec<u8>);

/// Which copy of each module was written to, since the start or the last reload.
type Served = Mutex<HashMap<Key, Whereabouts>>;

/// One module's place; held while its worker is being started or replaced.
type Place = Arc<AsyncMutex<Option<Worker>>>;

/// A running worker.
#[derive(Debug, Clone)]
pub struct Worker {
    setup: Arc<ModuleSetup>,
    orders: mpsc::Sender<Order>,
    gone: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Order {
    Open(Box<SessionOpen>, OwnedFd, oneshot::Sender<()>),
    Say(Box<ToWorker>),
}

impl Order {
    /// Whether there is nothing to order after it.
    fn is_last(&self) -> bool {
        matches!(self, Self::Say(message) if matches!(**message, ToWorker::Drain { .. }))
    }
}

impl Pool {
    /// A pool whose processes are this program with these arguments.
    #[must_use]
    pub fn new(arguments: Vec<String>) -> Self {
        Self {
            arguments,
            shared: Shared::default(),
            places: Mutex::new(Some(HashMap::new())),
        }
    }

    /// From now on any copy of a module may be served.
    pub fn forget_served(&self) {
        lock(&self.shared.served).clear();
    }

    /// Has the module's worker ready.
    ///
    /// # Errors
    /// The worker cannot be started, or cannot serve the module.
    pub async fn prepare(&self, setup: &ModuleSetup) -> Result<(), Unavailable> {
        self.worker(setup).await.map(drop)
    }

    /// Has a worker of the module run, whatever its settings, so that it clears up there; it ends after idling.
    ///
    /// # Errors
    /// The worker cannot be started, or cannot serve the module.
    pub async fn tend(&self, setup: &ModuleSetup) -> Result<(), Unavailable> {
        let place = self.place(setup)?;
        let mut place = place.lock().await;
        match place.as_ref() {
            Some(worker) if worker.is_here() => return Ok(()),
            Some(worker) => worker.ended().await,
            None => {}
        }
        *place = Some(start(setup.clone(), &self.arguments, &self.shared).await?);
        Ok(())
    }

    /// Hands a session to the module's worker, and gives back our end of its frames.
    ///
    /// # Errors
    /// The worker cannot be started, or cannot serve the module.
    pub async fn open(
        &self,
        setup: &ModuleSetup,
        session: SessionOpen,
    ) -> Result<(Worker, UnixStream), Unavailable> {
        // A worker may be leaving just now, after idling; its successor takes the session.
        for _ in 0..2 {
            let worker = self.worker(setup).await?;
            if let Some(stream) = worker.open(session.clone()).await? {
                return Ok((worker, stream));
            }
        }
        let log = "the worker ended twice before it took the session".to_owned();
        Err(Unavailable::broken(log))
    }

    /// Tells all workers to end their sessions and themselves, and waits until they have.
    pub async fn drain(&self, text: &str) {
        let places = self.lock().take().unwrap_or_default();
        let mut ending = Vec::new();
        for place in places.into_values() {
            if let Some(worker) = place.lock().await.take() {
                worker.say(ToWorker::Drain {
                    text: text.to_owned(),
                });
                ending.push(worker);
            }
        }
        for worker in ending {
            worker.ended().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Places>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, setup: &ModuleSetup) -> Result<Place, Unavailable> {
        let mut places = self.lock();
        let Some(places) = places.as_mut() else {
            return Err(Unavailable {
                text: "receiver is going down".to_owned(),
                log: "going down".to_owned(),
            });
        };
        let key = key_of(setup);
        // Places of workers that have gone, with nobody waiting for another.
        places
            .retain(|other, place| *other == key || Arc::strong_count(place) > 1 || is_used(place));
        Ok(Arc::clone(places.entry(key).or_default()))
    }

    async fn worker(&self, setup: &ModuleSetup) -> Result<Worker, Unavailable> {
        let place = self.place(setup)?;
        let mut place = place.lock().await;
        if let Some(worker) = place.as_ref() {
            if worker.is_here() && worker.serves(setup) {
                return Ok(worker.clone());
            }
            worker.say(ToWorker::Drain {
                text: "the settings of the module have changed; reconnect".to_owned(),
            });
            worker.ended().await;
            *place = None;
        }
        let worker = start(setup.clone(), &self.arguments, &self.shared).await?;
        *place = Some(worker.clone());
        Ok(worker)
    }
}

impl Worker {
    /// Ends one session: its agent is told why.
    pub fn close(&self, id: u64, text: String) {
        self.say(ToWorker::Close { id, text });
    }

    /// Whether it was set up like this.
    #[must_use]
    pub fn serves(&self, setup: &ModuleSetup) -> bool {
        *self.setup == *setup
    }

    fn is_here(&self) -> bool {
        !self.orders.is_closed() && !*self.gone.borrow()
    }

    fn say(&self, message: ToWorker) {
        if self.orders.try_send(Order::Say(Box::new(message))).is_err() {
            debug!("a worker takes no more orders");
        }
    }

    async fn ended(&self) {
        let mut gone = self.gone.clone();
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// `None` if the worker was about to leave.
    async fn open(&self, session: SessionOpen) -> Result<Option<UnixStream>, Unavailable> {
        let (ours, theirs) = pair()
            .map_err(|error| Unavailable::broken(format!("cannot make a socket pair: {error}")))?;
        let (taken, answer) = oneshot::channel();
        let order = Order::Open(Box::new(session), OwnedFd::from(theirs), taken);
        if self.orders.send(order).await.is_err() {
            return Ok(None);
        }
        Ok(answer.await.is_ok().then_some(ours))
    }
}

/// Answers a worker's question about names.
async fn look_up(
    directory: Arc<AsyncMutex<Directory>>,
    ticket: u64,
    mut names: Vec<IdName>,
    answers: mpsc::WeakSender<Order>,
) {
    names.truncate(ID_NAMES_MAX);
    let looked = async {
        let mut directory = directory.lock_owned().await;
        // It goes on with the lock held if nobody waits any more: never more than one thread does.
        let looked = apart(move || directory.numbers(&names));
        looked.await.unwrap_or_else(|error| {
            warn!("owners keep the agent's numbers, names of users and groups were not looked up: {error}");
            Vec::new()
        })
    };
    let numbers = timeout(NAMES_MAX, looked).await.unwrap_or_else(|_| {
        warn!("names of users and groups were not found within {NAMES_MAX:?}: owners keep the agent's numbers");
        Vec::new()
    });
    if let Some(orders) = answers.upgrade() {
        let answer = ToWorker::Numbers { ticket, numbers };
        // Nobody is there to be told.
        let _ = orders.send(Order::Say(Box::new(answer))).await;
    }
}

fn is_used(place: &Place) -> bool {
    match place.try_lock() {
        Ok(worker) => worker.as_ref().is_some_and(|worker| !*worker.gone.borrow()),
        Err(_) => true,
    }
}

/// A pair whose first end is ours; the worker's blocks.
fn pair() -> std::io::Result<(UnixStream, StdStream)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

fn key_of(setup: &ModuleSetup) -> Key {
    (setup.name.clone(), setup.path.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start(
    setup: ModuleSetup,
    arguments: &[String],
    shared: &Shared,
) -> Result<Worker, Unavailable> {
    let name = escaped(&setup.name);
    let (control, child) = spawn(arguments)
        .map_err(|error| Unavailable::broken(format!("cannot start a worker: {error}")))?;
    let pid = child.id();
    let mut process = Process {
        name: name.clone(),
        control,
        child,
        receiver: Receiver::default(),
        sessions: 0,
        idle: match setup.rules.max_delete {
            Some(_) => IDLE_COUNTING,
            None => IDLE,
        },
        book: Arc::new(Logbook::new(setup.log.clone())),
        key: key_of(&setup),
        shared: shared.clone(),
    };
    let ready = timeout(SETUP_MAX, process.set_up(&setup)).await;
    match ready {
        Ok(Ok(())) => {}
        Ok(Err(unavailable)) => {
            process.reap(DRAIN_MAX).await;
            return Err(unavailable);
        }
        Err(_) => {
            process.reap(Duration::ZERO).await;
            let log = format!("the worker did not set itself up within {SETUP_MAX:?}");
            return Err(Unavailable::broken(log));
        }
    }
    info!(module = %name, pid, "worker started");
    let (orders, queue) = mpsc::channel(ORDERS_MAX);
    let (leaving, gone) = watch::channel(false);
    let answers = orders.downgrade();
    tokio::spawn(async move {
        process.serve(queue, answers).await;
        let _ = leaving.send(true);
    });
    Ok(Worker {
        setup: Arc::new(setup),
        orders,
        gone,
    })
}

fn spawn(arguments: &[String]) -> std::io::Result<(UnixStream, Child)> {
    let (ours, theirs) = pair()?;
    // The link names the running program even after its file was replaced by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("syncd-recv")
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        // Ctrl-C in a terminal is for the front; it ends the workers in order.
        .process_group(0);
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    Ok((ours, command.spawn()?))
}

/// A worker as its task sees it.
struct Process {
    name: String,
    control: UnixStream,
    child: Child,
    receiver: Receiver,
    sessions: usize,
    idle: Duration,
    /// Where the lines of its transfers go.
    book: Arc<Logbook>,
    key: Key,
    shared: Shared,
}

impl Process {
    async fn set_up(&mut self, setup: &ModuleSetup) -> Result<(), Unavailable> {
        let setup = ToWorker::Setup(setup.clone());
        if let Err(error) = relay_io::send_async(&self.control, &setup, None).await {
            debug!(%error, "setup not taken");
        }
        match self.receiver.receive(&self.control).await {
            Ok(Some((FromWorker::Ready, _))) => {
                let expected = lock(&self.shared.served).get(&self.key).copied();
                if let Some(expected) = expected {
                    self.carry_out(Order::Say(Box::new(ToWorker::Expect(expected))))
                        .await;
                }
                Ok(())
            }
            Ok(Some((FromWorker::Failed { text, log }, _))) => Err(Unavailable { text, log }),
            Ok(Some(_)) => Err(Unavailable::broken(
                "the worker spoke out of turn".to_owned(),
            )),
            Ok(None) => Err(Unavailable::broken(
                "the worker ended while setting itself up".to_owned(),
            )),
            Err(error) => Err(Unavailable::broken(format!(
                "the worker is unreadable: {error}"
            ))),
        }
    }

    async fn serve(mut self, mut orders: mpsc::Receiver<Order>, answers: mpsc::WeakSender<Order>) {
        let mut idle_until = Instant::now() + self.idle;
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some(order) = order else { break };
                    if order.is_last() {
                        orders.close();
                    }
                    if !self.carry_out(order).await {
                        break;
                    }
                }
                message = self.receiver.receive::<FromWorker>(&self.control) => {
                    match message {
                        Ok(Some((FromWorker::Misplaced, _))) => {
                            orders.close();
                            self.send_away().await;
                            break;
                        }
                        Ok(Some((FromWorker::Names { ticket, names }, _))) => {
                            let directory = Arc::clone(&self.shared.directory);
                            tokio::spawn(look_up(directory, ticket, names, answers.clone()));
                        }
                        Ok(Some((message, _))) => self.take(message),
                        Ok(None) => break,
                        Err(error) => {
                            error!(module = %self.name, %error, "the worker is unreadable");
                            break;
                        }
                    }
                    idle_until = Instant::now() + self.idle;
                }
                () = sleep_until(idle_until), if self.sessions == 0 => {
                    debug!(module = %self.name, "worker idle");
                    break;
                }
            }
            if orders.is_closed() && orders.is_empty() {
                break;
            }
        }
        // Whoever still waits for an answer is told by the closed channel.
        drop(orders);
        self.leave().await;
    }

    /// It holds what is not the module any more.
    async fn send_away(&mut self) {
        warn!(module = %self.name, "the module is not there, but something else: another worker will look again");
        let text = "the module was unmounted, moved or replaced; reconnect".to_owned();
        let drain = ToWorker::Drain { text };
        self.carry_out(Order::Say(Box::new(drain))).await;
    }

    /// False once the worker cannot be reached.
    async fn carry_out(&mut self, order: Order) -> bool {
        let sent = match order {
            Order::Say(message) => relay_io::send_async(&self.control, &*message, None).await,
            Order::Open(session, descriptor, taken) => {
                use std::os::fd::AsFd;
                let message = ToWorker::Open(*session);
                let descriptor = Some(descriptor.as_fd());
                let sent = relay_io::send_async(&self.control, &message, descriptor).await;
                if sent.is_ok() {
                    self.sessions += 1;
                    let _ = taken.send(());
                }
                sent
            }
        };
        if let Err(error) = &sent {
            warn!(module = %self.name, %error, "the worker takes no orders");
        }
        sent.is_ok()
    }

    fn take(&mut self, message: FromWorker) {
        match message {
            FromWorker::Ready | FromWorker::Misplaced | FromWorker::Names { .. } => {}
            FromWorker::Serving(here) => {
                lock(&self.shared.served).insert(self.key.clone(), here);
            }
            FromWorker::Log(lines) => self.log(&lines),
            FromWorker::Failed { log, .. } => error!(module = %self.name, "worker failed: {log}"),
            FromWorker::Ended {
                id,
                content_bytes,
                ops,
                text,
            } => {
                self.sessions = self.sessions.saturating_sub(1);
                let text = escaped(text.as_bytes());
                info!(module = %self.name, session = id, content_bytes, ops, "session over: {text}");
            }
        }
    }

    /// Lines of transfers: to the module's log if it has one, else where all messages go. What a worker says
    /// is not believed to be harmless.
    fn log(&self, lines: &[String]) {
        let lines: Vec<String> = lines.iter().map(|line| harmless(line)).collect();
        if self.book.is_nowhere() {
            for line in &lines {
                info!(module = %self.name, "{line}");
            }
        } else {
            self.book.write(Grave::Info, &lines);
        }
    }

    /// Waits for what a draining worker still says, then for its end.
    async fn leave(mut self) {
        // Half closed: the worker reads the end of its orders, and may still report.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Write);
        let reports = async {
            while let Ok(Some((message, _))) = self.receiver.receive(&self.control).await {
                match message {
                    FromWorker::Ended { id, text, .. } => {
                        let text = escaped(text.as_bytes());
                        info!(module = %self.name, session = id, "session over: {text}");
                    }
                    FromWorker::Failed { log, .. } => {
                        error!(module = %self.name, "worker failed: {log}");
                    }
                    FromWorker::Log(lines) => self.log(&lines),
                    FromWorker::Ready
                    | FromWorker::Misplaced
                    | FromWorker::Serving(_)
                    | FromWorker::Names { .. } => {}
                }
            }
        };
        let started = Instant::now();
        let _ = timeout(DRAIN_MAX, reports).await;
        self.reap(DRAIN_MAX.saturating_sub(started.elapsed())).await;
    }

    async fn reap(&mut self, patience: Duration) {
        let name = &self.name;
        match timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => debug!(module = %name, "worker ended"),
            Ok(Ok(status)) => warn!(module = %name, %status, "worker ended"),
            Ok(Err(error)) => error!(module = %name, %error, "worker not reaped"),
            Err(_) => {
                warn!(module = %name, "worker does not end: killed");
                let _ = self.child.kill().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
