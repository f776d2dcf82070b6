//! [`Proxy`]: stands between two programs, and breaks their connections where a test wants them broken.
//!
//! It counts TLS records (RFC 8446, 5.1) in each direction: the smallest thing that can be seen from outside.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the agent to the receiver.
    Out,
    /// From the receiver to the agent.
    Back,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Everything is passed on.
    Whole,
    /// Both sides are cut off when this many records went one way; if `inside`, in the middle of the next.
    Cut {
        /// The way that is counted.
        way: Way,
        /// Records that still arrive.
        records: u64,
        /// Whether half of the next one arrives too.
        inside: bool,
    },
    /// From then on nothing arrives any more in either direction, and nobody is told.
    Silence {
        /// Records out that still arrive.
        records: u64,
    },
    /// A slow line: each record takes so long, either way.
    Slow {
        /// For one record.
        record_ms: u64,
    },
}

/// A listening proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    /// What becomes of the next connection, given how many there were.
    fate: Mutex<Decide>,
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
    records: [AtomicU64; 2],
    stop: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("upstream", &self.upstream)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// Decides about a connection.
type Decide = Box<dyn FnMut(u64) -> Fate + Send>;

impl Proxy {
    /// Listens on a free port and passes connections on to `upstream`.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("address");
        let shared = Arc::new(Shared {
            upstream,
            fate: Mutex::new(Box::new(|_| Fate::Whole)),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
            records: Default::default(),
            stop: AtomicBool::new(false),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Decides about every connection from now on; it is asked with the number of earlier ones.
    pub fn decide(&self, fate: impl FnMut(u64) -> Fate + Send + 'static) {
        *lock(&self.shared.fate) = Box::new(fate);
    }

    /// Cuts all connections that are open.
    pub fn cut(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Records that went this way so far.
    #[must_use]
    pub fn records(&self, way: Way) -> u64 {
        self.shared.records[way as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((agent, _)) = listener.accept() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            let fate = lock(&self.fate)(number);
            // A receiver that is not there is told by closing.
            if let Ok(receiver) = TcpStream::connect(self.upstream) {
                let _ = self.join(&agent, &receiver, fate);
            }
        }
    }

    fn join(
        self: &Arc<Self>,
        agent: &TcpStream,
        receiver: &TcpStream,
        fate: Fate,
    ) -> io::Result<()> {
        let silent = Arc::new(AtomicBool::new(false));
        for stream in [agent, receiver] {
            stream.set_nodelay(true)?;
            lock(&self.open).push(stream.try_clone()?);
        }
        for (way, from, to) in [(Way::Out, agent, receiver), (Way::Back, receiver, agent)] {
            let pump = Pump {
                shared: Arc::clone(self),
                from: from.try_clone()?,
                to: to.try_clone()?,
                way,
                fate,
                silent: Arc::clone(&silent),
            };
            thread::spawn(move || pump.run());
        }
        Ok(())
    }
}

/// Passes on what comes one way.
struct Pump {
    shared: Arc<Shared>,
    from: TcpStream,
    to: TcpStream,
    way: Way,
    fate: Fate,
    silent: Arc<AtomicBool>,
}

impl Pump {
    fn run(mut self) {
        let mut record = Vec::new();
        let mut count = 0;
        while self.read_record(&mut record) {
            match self.fate {
                Fate::Cut {
                    way,
                    records,
                    inside,
                } if way == self.way && count >= records => {
                    if inside {
                        let _ = self.to.write_all(&record[..record.len() / 2]);
                    }
                    break;
                }
                Fate::Silence { records } if self.way == Way::Out && count >= records => {
                    self.silent.store(true, Ordering::Relaxed);
                }
                Fate::Slow { record_ms } => thread::sleep(Duration::from_millis(record_ms)),
                _ => {}
            }
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            if self.to.write_all(&record).is_err() {
                break;
            }
            count += 1;
            self.shared.records[self.way as usize].fetch_add(1, Ordering::Relaxed);
        }
        if !self.silent.load(Ordering::Relaxed) {
            let _ = self.to.shutdown(Shutdown::Both);
            let _ = self.from.shutdown(Shutdown::Both);
        }
    }

    /// Reads one record with its header; false at the end.
    fn read_record(&mut self, record: &mut Vec<u8>) -> bool {
        record.resize(HEADER_BYTES, 0);
        if self.from.read_exact(record).is_err() {
            return false;
        }
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(HEADER_BYTES + length, 0);
        self.from.read_exact(&mut record[HEADER_BYTES..]).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Type, version and length.
const HEADER_BYTES: usize = 5;
