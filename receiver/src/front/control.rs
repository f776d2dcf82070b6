//! The control socket of a running receiver: who asks gets the [`Report`] as one line of JSON.
//!
//! [`Report`]: crate::logic::ledger::Report

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::error::Fatal;
use crate::front::sessions::Sessions;
use crate::fs::control_socket::ControlSocket;

/// The only question.
pub const QUESTION: &[u8] = b"status\n";

/// Who asks at once.
const CLIENTS_MAX: usize = 16;

/// How long a question and its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, bound.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    _socket: ControlSocket,
}

impl Control {
    /// Takes its place.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn bind(path: &Path) -> Result<Self, Fatal> {
        let failed = |source| Fatal::Control {
            path: path.to_owned(),
            source,
        };
        let (socket, listener) = ControlSocket::bind(path).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        info!("control socket {}", path.display());
        Ok(Self {
            listener,
            _socket: socket,
        })
    }

    /// Answers until dropped.
    pub async fn serve(self, sessions: Arc<Sessions>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = clients.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() < CLIENTS_MAX => {
                        let sessions = Arc::clone(&sessions);
                        clients.spawn(async move {
                            let _ = timeout(PATIENCE, answer(stream, &sessions)).await;
                        });
                    }
                    // Dropped: it sees the end of the connection.
                    Ok(_) => warn!("control socket: {CLIENTS_MAX} clients already"),
                    Err(error) => {
                        warn!("control socket: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn answer(mut stream: UnixStream, sessions: &Sessions) -> std::io::Result<()> {
    let mut question = [0; QUESTION.len()];
    stream.read_exact(&mut question).await?;
    if question == *QUESTION {
        let mut line = serde_json::to_vec(&sessions.report())?;
        line.push(b'\n');
        stream.write_all(&line).await?;
    }
    stream.shutdown().await
}
