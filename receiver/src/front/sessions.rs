//! Who is connected: the live sessions a reload looks through.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncd_proto::message::Purpose;

use crate::front::workers::Worker;
use crate::logic::hosts::PeerAddr;
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
}

/// All live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    last: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Live>>>,
}

impl Sessions {
    /// The number of a new session.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Registers a session until the value is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, live: Live) -> Entered {
        let live = Arc::new(live);
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

impl Drop for Entered {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.live.id);
    }
}
