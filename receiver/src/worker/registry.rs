//! [`Registry`]: the sessions of a worker. One writer per directory, and a way to end each.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use syncd_proto::path::WirePath;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<u64, Entry>,
    /// Set once: every session that comes later ends at once too.
    closing: Option<String>,
}

#[derive(Debug)]
struct Entry {
    socket: UnixStream,
    closing: Option<String>,
    writes: Option<(WirePath, String)>,
}

impl Registry {
    /// A session begins.
    pub(super) fn enter(&self, id: u64, socket: UnixStream) {
        let mut state = self.lock();
        let closing = state.closing.clone();
        if closing.is_some() {
            stop_reading(&socket);
        }
        let entry = Entry {
            socket,
            closing,
            writes: None,
        };
        state.sessions.insert(id, entry);
    }

    /// A session is over.
    pub(super) fn leave(&self, id: u64) {
        self.lock().sessions.remove(&id);
    }

    /// A session wants to write below `path`. The label of the one that does so already, if there is
    /// one.
    pub(super) fn claim(&self, id: u64, path: &WirePath, label: &str) -> Result<(), String> {
        let mut state = self.lock();
        let overlaps =
            |(other, _): &&(WirePath, String)| other.starts_with(path) || path.starts_with(other);
        let mut others = state
            .sessions
            .values()
            .filter_map(|entry| entry.writes.as_ref());
        if let Some((_, first)) = others.find(overlaps) {
            return Err(first.clone());
        }
        if let Some(entry) = state.sessions.get_mut(&id) {
            entry.writes = Some((path.clone(), label.to_owned()));
        }
        Ok(())
    }

    /// Ends one session: it reads no more.
    pub(super) fn close(&self, id: u64, text: &str) {
        if let Some(entry) = self.lock().sessions.get_mut(&id) {
            entry.closing.get_or_insert_with(|| text.to_owned());
            stop_reading(&entry.socket);
        }
    }

    /// Ends all sessions, and those that come later.
    pub(super) fn close_all(&self, text: &str) {
        let mut state = self.lock();
        state.closing.get_or_insert_with(|| text.to_owned());
        for entry in state.sessions.values_mut() {
            entry.closing.get_or_insert_with(|| text.to_owned());
            stop_reading(&entry.socket);
        }
    }

    /// Why a session was told to end, if it was.
    pub(super) fn closing(&self, id: u64) -> Option<String> {
        self.lock().sessions.get(&id)?.closing.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has arrived can still be read.
fn stop_reading(socket: &UnixStream) {
    let _ = socket.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    #[test]
    fn one_writer_for_each_directory_and_what_is_below() {
        let registry = Registry::default();
        for id in 1..=4 {
            registry.enter(id, UnixStream::pair().unwrap().0);
        }
        assert_eq!(registry.claim(1, &path("a/b"), "first"), Ok(()));
        for overlapping in ["a/b", "a", "a/b/c", "."] {
            let refused = registry.claim(2, &path(overlapping), "second");
            assert_eq!(refused, Err("first".to_owned()), "{overlapping}");
        }
        assert_eq!(registry.claim(2, &path("a/bb"), "second"), Ok(()));
        registry.leave(1);
        assert_eq!(registry.claim(3, &path("a/b"), "third"), Ok(()));
    }

    #[test]
    fn the_first_reason_to_close_stays() {
        let registry = Registry::default();
        registry.enter(1, UnixStream::pair().unwrap().0);
        assert_eq!(registry.closing(1), None);
        registry.close(1, "one");
        registry.close_all("two");
        assert_eq!(registry.closing(1).as_deref(), Some("one"));
        registry.enter(2, UnixStream::pair().unwrap().0);
        assert_eq!(registry.closing(2).as_deref(), Some("two"));
    }
}
