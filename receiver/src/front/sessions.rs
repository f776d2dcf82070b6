//! Who is connected: the live sessions a reload looks through, and the book of all that were here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use syncd_proto::message::Purpose;

use crate::front::workers::Worker;
use crate::logic::hosts::PeerAddr;
use crate::logic::ledger::{Key, Ledger, Refusal, Report};
use crate::logic::overhear::{Heard, Listener};
use crate::net::tls::Identity;

/// A session as a reload must judge it again.
#[derive(Debug)]
pub struct Live {
    /// Its number.
    pub id: u64,
    /// Its module.
    pub module: Vec<u8>,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it comes from.
    pub peer: PeerAddr,
    /// Whose certificate it showed.
    pub identity: Identity,
    /// Whose password it proved.
    pub user: Option<Vec<u8>>,
    /// Who serves it.
    pub worker: Worker,
    /// Whose it is in the book.
    pub key: Key,
    /// From where, for people.
    pub address: String,
    /// The agent's program, escaped.
    pub agent: String,
}

/// All live sessions.
#[derive(Debug)]
pub struct Sessions {
    started_s: u64,
    book: Mutex<Ledger>,
    last: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Live>>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            started_s: now_s(),
            book: Mutex::default(),
            last: AtomicU64::default(),
            live: Mutex::default(),
        }
    }
}

impl Sessions {
    /// What there is to tell of all of them.
    #[must_use]
    pub fn report(&self) -> Report {
        let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
        self.book().report(version, pid, self.started_s, now_s())
    }

    /// A connection did not become a session.
    pub fn refused(&self, address: String, identity: String, module: Option<String>, text: &str) {
        self.book().refused(Refusal {
            at_s: now_s(),
            address,
            identity,
            module,
            text: text.to_owned(),
        });
    }

    fn book(&self) -> MutexGuard<'_, Ledger> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new session.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Registers a session until the value is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, live: Live) -> Entered {
        let live = Arc::new(live);
        self.book()
            .open(&live.key, live.address.clone(), live.agent.clone(), now_s());
        self.lock().insert(live.id, Arc::clone(&live));
        Entered {
            sessions: Arc::clone(self),
            live,
        }
    }

    /// All that are live now.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Live>> {
        self.lock().values().map(Arc::clone).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered session.
#[derive(Debug)]
pub struct Entered {
    sessions: Arc<Sessions>,
    live: Arc<Live>,
}

impl Entered {
    /// What it was registered with.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }
}

impl Entered {
    /// Notes what an agent sent.
    pub fn note_received(&self) -> impl FnMut(usize) {
        let (sessions, live) = (Arc::clone(&self.sessions), self.live());
        move |bytes| sessions.book().received(&live.key, bytes as u64)
    }

    /// Notes what its worker answers, and how far the session is by that.
    pub fn note_sent(&self) -> impl FnMut(&[u8]) {
        let (sessions, live) = (Arc::clone(&self.sessions), self.live());
        let mut listener = Listener::default();
        let mut known = (0, 0);
        move |bytes| {
            let mut book = sessions.book();
            book.sent(&live.key, bytes.len() as u64);
            listener.hear(bytes, |heard| match heard {
                Heard::Ack(ack) => {
                    let now = (ack.applied, ack.durable);
                    book.acked(&live.key, known, now, now_s());
                    known = now;
                }
                Heard::Refused(code, text) => {
                    let text = syncd_proto::path::escaped(text.as_bytes());
                    book.rejected(&live.key, code, &text);
                }
            });
        }
    }
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.live.id);
        self.sessions.book().close(&self.live.key, now_s());
    }
}
