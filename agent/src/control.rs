//! The control socket of a running agent: who holds the socket, who may ask, and what becomes of a
//! request. What a request means is the pipeline's business, behind a bounded channel.

pub mod client;
pub mod metrics;
pub mod protocol;
pub mod reasons;
pub mod render;
pub mod status;

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::control::protocol::{Answer, Command, Event, REQUEST_BYTES_MAX, Reply};

/// Requests that may wait for the pipeline.
pub const REQUESTS_MAX: usize = 16;
/// Events a slow reader may be behind before it misses some.
pub const EVENTS_MAX: usize = 4_096;

const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
const CLIENTS_MAX: usize = 32;
const WAIT_GRACE: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const SOCKET_NAME: &str = "syncd-agent.sock";

/// A request on its way to the pipeline. Whoever takes it answers once; if `reply` is closed, nobody
/// waits any more.
#[derive(Debug)]
pub struct ControlRequest {
    /// What is asked; never [`Command::Events`].
    pub command: Command,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// The socket's side of the pipeline.
#[derive(Debug, Clone)]
pub struct Channels {
    /// Requests go here.
    pub requests: mpsc::Sender<ControlRequest>,
    /// Events come from here.
    pub events: Events,
}

impl Channels {
    /// Both channels, and the end that the pipeline reads requests from.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<ControlRequest>) {
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        let events = Events::default();
        (Self { requests, events }, asked)
    }
}

/// Events for whoever follows them. The room for [`EVENTS_MAX`] is taken when somebody first does.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Events {
    /// All from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        let sender = self.0.get_or_init(|| broadcast::Sender::new(EVENTS_MAX));
        sender.subscribe()
    }

    /// Whether anybody follows them: if not, none needs to be told.
    #[must_use]
    pub fn are_followed(&self) -> bool {
        let sender = self.0.get();
        sender.is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Tells one.
    pub fn tell(&self, event: Event) {
        if let Some(sender) = self.0.get() {
            // Whoever followed may have gone.
            let _ = sender.send(event);
        }
    }
}

/// Why there is no control socket, or no answer from it.
#[derive(Debug)]
pub enum ControlError {
    /// Another agent answers there.
    InUse(PathBuf),
    /// Something that is not a socket is there.
    NotASocket(PathBuf),
    /// It cannot be made.
    Bind(PathBuf, io::Error),
    /// No agent answers there.
    NoAgent(PathBuf, io::Error),
    /// It did not answer in time, or not in our language.
    NoAnswer(PathBuf, io::Error),
    /// Nobody said where it is, and there is no usual place for this user.
    NoPath,
}

impl ControlError {
    fn client(socket: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied => Self::NoAgent(socket.to_owned(), source),
            _ => Self::NoAnswer(socket.to_owned(), source),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse(_) => "stop it, or give this agent a socket of its own: --control PATH",
            Self::NotASocket(_) => "remove it, or choose another place: --control PATH",
            Self::Bind(_, source) if source.raw_os_error() == Some(EMFILE) => {
                "raise the limit of open files: ulimit -n 1024, or LimitNOFILE=1024 in the unit"
            }
            Self::Bind(..) => "choose a directory this user may write to: --control PATH",
            Self::NoAgent(_, source) if source.kind() == io::ErrorKind::PermissionDenied => {
                "ask as the user the agent runs as"
            }
            Self::NoAgent(..) => "start it, or say where its socket is: --control PATH",
            Self::NoAnswer(..) => "check that the agent has the same version, and its log",
            Self::NoPath => "set XDG_RUNTIME_DIR, or say where: --control PATH",
        }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(f, "another agent answers at {}", path.display()),
            Self::NotASocket(path) => {
                write!(
                    f,
                    "control socket {}: something else is there",
                    path.display()
                )
            }
            Self::Bind(path, source) => {
                write!(f, "cannot make control socket {}: {source}", path.display())
            }
            Self::NoAgent(path, source) => {
                write!(f, "no agent answers at {}: {source}", path.display())
            }
            Self::NoAnswer(path, source) => {
                write!(
                    f,
                    "no answer from the agent at {}: {source}",
                    path.display()
                )
            }
            Self::NoPath => f.write_str("there is no usual place for this user's control socket"),
        }
    }
}

impl std::error::Error for ControlError {}

/// Where the socket is unless somebody says otherwise.
///
/// # Errors
/// For a user without `XDG_RUNTIME_DIR`.
pub fn default_path() -> Result<PathBuf, ControlError> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/run").join(SOCKET_NAME));
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(&dir).join(SOCKET_NAME))
        .ok_or(ControlError::NoPath)
}

/// A bound socket; removed when dropped, unless somebody else has taken its place.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlServer {
    /// Takes the socket's place; a socket that nobody answers at is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// If another agent answers there, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        check_free(path)?;
        let failed = |source| ControlError::Bind(path.to_owned(), source);
        let (listener, inode) = bind_private(path).map_err(failed)?;
        Ok(Self {
            listener: UnixListener::from_std(listener).map_err(failed)?,
            path: path.to_owned(),
            inode,
        })
    }

    /// Answers until dropped.
    pub async fn serve(self, channels: Channels) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = clients.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() < CLIENTS_MAX => {
                        clients.spawn(serve_client(stream, channels.clone()));
                    }
                    // Dropped: it sees the end of the connection.
                    Ok(_) => tracing::warn!("control socket: {CLIENTS_MAX} clients already"),
                    Err(error) => {
                        tracing::warn!("control socket: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

fn check_free(path: &Path) -> Result<(), ControlError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(ControlError::NotASocket(path.to_owned()));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(ControlError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ControlError::Bind(path.to_owned(), error)),
    }
}

/// Binds in a directory nobody else may enter, and moves the finished socket to its place: it is never
/// open to others, and a stale one is replaced in one step.
fn bind_private(path: &Path) -> io::Result<(StdListener, u64)> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let private = tempfile::Builder::new()
        .prefix(".syncd")
        .tempdir_in(parent)?;
    let made = private.path().join("s");
    let listener = StdListener::bind(&made)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&made, Permissions::from_mode(0o600))?;
    let inode = fs::symlink_metadata(&made)?.ino();
    fs::rename(&made, path)?;
    Ok((listener, inode))
}

async fn serve_client(stream: UnixStream, channels: Channels) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let got = (&mut read)
            .take(REQUEST_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await;
        if !matches!(got, Ok(count) if count > 0) {
            return;
        }
        let whole = line.last() == Some(&b'\n') || (line.len() as u64) < REQUEST_BYTES_MAX;
        let reply = match serde_json::from_slice(&line) {
            _ if !whole => refused("the request is too long".into()),
            Err(error) => refused(format!("not a request: {error}")),
            Ok(Command::Events {}) => {
                let events = channels.events.follow();
                if say(&mut write, &Answer::from(&Reply::Events {}))
                    .await
                    .is_ok()
                {
                    tell(events, &mut write, &mut read).await;
                }
                return;
            }
            Ok(command) => tokio::select! {
                reply = ask(&channels.requests, command) => reply,
                // Nobody reads the answer any more.
                () = ended(&mut read) => return,
            },
        };
        if say(&mut write, &Answer::from(&reply)).await.is_err() || !whole {
            return;
        }
    }
}

async fn ask(requests: &mpsc::Sender<ControlRequest>, command: Command) -> Reply {
    let limit = match &command {
        Command::Wait { timeout_ms, .. } => Some(Duration::from_millis(*timeout_ms) + WAIT_GRACE),
        _ => None,
    };
    let (reply, answer) = oneshot::channel();
    let stopping = || refused("the agent is stopping".into());
    if requests
        .send(ControlRequest { command, reply })
        .await
        .is_err()
    {
        return stopping();
    }
    let Some(limit) = limit else {
        return answer.await.unwrap_or_else(|_| stopping());
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(reply) => reply.unwrap_or_else(|_| stopping()),
        Err(_) => refused("the agent did not answer in time".into()),
    }
}

fn refused(text: String) -> Reply {
    Reply::Error { text, hint: None }
}

/// Passes events on until the client goes.
async fn tell(
    mut events: broadcast::Receiver<Event>,
    write: &mut (impl AsyncWrite + Unpin),
    read: &mut (impl AsyncBufReadExt + Unpin),
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = ended(read) => return,
        };
        let event = match event {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(count)) => Event::Missed { count },
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if say(write, &event).await.is_err() {
            return;
        }
    }
}

/// Resolves when the client has closed its side; input that waits is left alone.
async fn ended(read: &mut (impl AsyncBufReadExt + Unpin)) {
    if read.fill_buf().await.is_ok_and(|input| !input.is_empty()) {
        std::future::pending::<()>().await;
    }
}

async fn say(write: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    write.write_all(&line).await
}
