//! Accepts TCP connections, each under a [`Permit`]: so many strangers at once, and no more than a
//! share of them from one place.
//!
//! When all permits are out, nothing is accepted until one comes back (they do: a handshake has a
//! deadline); who is over its share is closed at once.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// Most connections that have not been admitted yet.
const STRANGERS_MAX: usize = 256;

/// Most of them from one IPv4 address or IPv6 /64.
const STRANGERS_PER_SOURCE_MAX: usize = 64;

/// Connections the kernel may hold for us.
const BACKLOG: u32 = 1_024;

/// Wait after an accept that failed for lack of descriptors or memory: others must end first.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;

/// A peer that takes nothing of what is sent for so long, in milliseconds, is gone.
const UNREAD_MAX_MS: u32 = 120_000;

/// How many strangers there are, and where they come from.
#[derive(Debug, Clone)]
pub struct Budget {
    total: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            total: Arc::new(Semaphore::new(STRANGERS_MAX)),
            sources: Arc::default(),
        }
    }
}

/// The right to be a stranger; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    source: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _total: OwnedSemaphorePermit,
}

impl Budget {
    fn permit(&self, total: OwnedSemaphorePermit, peer: IpAddr) -> Option<Permit> {
        let source = source_of(peer);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= STRANGERS_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        Some(Permit {
            source,
            sources: Arc::clone(&self.sources),
            _total: total,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// What counts as one place.
fn source_of(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// Those of the system: in use, not ours, not allowed.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // IPv4 has its own socket, so that no peer appears under a mapped address.
            sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until the future is dropped.
pub async fn accept(
    listener: TcpListener,
    budget: Budget,
    mut connected: impl FnMut(TcpStream, SocketAddr, Permit),
) {
    loop {
        let Ok(total) = Arc::clone(&budget.total).acquire_owned().await else {
            return;
        };
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let peer = canonical(peer);
        let Some(permit) = budget.permit(total, peer.ip()) else {
            warn!(%peer, "too many unfinished connections from this address: closed");
            continue;
        };
        if let Err(error) = prepare(&socket) {
            debug!(%peer, %error, "socket options");
        }
        connected(socket, peer, permit);
    }
}

/// An IPv4 client is one on whatever socket it came.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), peer.port()),
        IpAddr::V6(_) => peer,
    }
}

async fn pause_after(error: &io::Error) {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted => {
            debug!(%error, "a connection ended before it was accepted");
        }
        _ => {
            warn!(%error, "cannot accept connections; trying again (raise `ulimit -n` if it says too many open files)");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, UNREAD_MAX_MS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_gets_its_share_and_gets_it_back() {
        let budget = Budget::default();
        let permit = |text: &str| {
            let total = Arc::clone(&budget.total).try_acquire_owned().unwrap();
            budget.permit(total, text.parse().unwrap())
        };
        let mut held: Vec<_> = (0..STRANGERS_PER_SOURCE_MAX)
            .map(|n| permit(&format!("2001:db8::{n:x}")).unwrap())
            .collect();
        assert!(permit("2001:db8::ffff:1").is_none());
        assert!(permit("2001:db8:0:1::1").is_some());
        assert!(permit("192.0.2.1").is_some());
        held.pop();
        assert!(permit("2001:db8::ffff:1").is_some());
        drop(held);
        assert!(budget.sources.lock().unwrap().is_empty());
        assert_eq!(budget.total.available_permits(), STRANGERS_MAX);
    }
}
