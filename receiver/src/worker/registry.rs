//! [`Registry`]: the sessions of a worker. One writer per directory, and a way to end each.
//!
//! An agent whose machine or network went away without a word comes back before its old session has timed out.
//! A writer that has been silent for longer than an agent ever is makes room for the next.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// When something was last heard of a session.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    since: Instant,
    /// Milliseconds after that.
    last: Arc<AtomicU64>,
}

impl Heard {
    /// Just now.
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            last: Arc::default(),
        }
    }

    /// Something came.
    pub(super) fn note(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(last)
    }
}

#[derive(Debug)]
struct Entry {
    socket: UnixStream,
    heard: Heard,
    closing: Option<String>,
    writes: Option<(WirePath, String)>,
}

impl Registry {
    /// A session begins.
    pub(super) fn enter(&self, id: u64, socket: UnixStream, heard: Heard) {
        let mut state = self.lock();
        let closing = state.closing.clone();
        if closing.is_some() {
            stop_reading(&socket);
        }
        let entry = Entry {
            socket,
            heard,
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
    /// one; if that has been silent for `silence_max`, it is told to end, and the next to ask may find its place
    /// free.
    pub(super) fn claim(
        &self,
        id: u64,
        path: &WirePath,
        label: &str,
        silence_max: Duration,
    ) -> Result<(), String> {
        let mut state = self.lock();
        let first = state.sessions.values_mut().find_map(|entry| {
            let (other, first) = entry.writes.as_ref()?;
            let overlaps = other.starts_with(path) || path.starts_with(other);
            let first = overlaps.then(|| first.clone())?;
            Some((entry, first))
        });
        if let Some((entry, first)) = first {
            let silence = entry.heard.silence();
            if silence >= silence_max {
                let text = format!(
                    "nothing was heard of it for {} s, and {label} wants to write there",
                    silence.as_secs()
                );
                entry.end(&text);
            }
            return Err(first);
        }
        if let Some(entry) = state.sessions.get_mut(&id) {
            entry.writes = Some((path.clone(), label.to_owned()));
        }
        Ok(())
    }

    /// Ends one session: it reads no more.
    pub(super) fn close(&self, id: u64, text: &str) {
        if let Some(entry) = self.lock().sessions.get_mut(&id) {
            entry.end(text);
        }
    }

    /// Ends all sessions, and those that come later.
    pub(super) fn close_all(&self, text: &str) {
        let mut state = self.lock();
        state.closing.get_or_insert_with(|| text.to_owned());
        for entry in state.sessions.values_mut() {
            entry.end(text);
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

impl Entry {
    fn end(&mut self, text: &str) {
        self.closing.get_or_insert_with(|| text.to_owned());
        stop_reading(&self.socket);
    }
}

/// What has arrived can still be read.
fn stop_reading(socket: &UnixStream) {
    let _ = socket.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    #[test]
    fn one_writer_for_each_directory_and_what_is_below() {
        let registry = Registry::default();
        for id in 1..=4 {
            registry.enter(id, UnixStream::pair().unwrap().0, Heard::new());
        }
        assert_eq!(registry.claim(1, &path("a/b"), "first", LONG), Ok(()));
        for overlapping in ["a/b", "a", "a/b/c", "."] {
            let refused = registry.claim(2, &path(overlapping), "second", LONG);
            assert_eq!(refused, Err("first".to_owned()), "{overlapping}");
        }
        assert_eq!(registry.claim(2, &path("a/bb"), "second", LONG), Ok(()));
        registry.leave(1);
        assert_eq!(registry.claim(3, &path("a/b"), "third", LONG), Ok(()));
    }

    #[test]
    fn a_silent_writer_is_told_to_end_and_one_that_speaks_is_not() {
        let registry = Registry::default();
        let heard = Heard::new();
        registry.enter(1, UnixStream::pair().unwrap().0, heard.clone());
        registry.enter(2, UnixStream::pair().unwrap().0, Heard::new());
        assert_eq!(registry.claim(1, &path("a"), "first", LONG), Ok(()));
        heard.note();
        let refused = registry.claim(2, &path("a"), "second", LONG);
        assert_eq!(refused, Err("first".to_owned()));
        assert_eq!(registry.closing(1), None);
        let refused = registry.claim(2, &path("a"), "second", Duration::ZERO);
        assert_eq!(refused, Err("first".to_owned()), "not before it has ended");
        assert!(
            registry
                .closing(1)
                .is_some_and(|text| text.contains("second"))
        );
        registry.leave(1);
        assert_eq!(registry.claim(2, &path("a"), "second", LONG), Ok(()));
    }

    #[test]
    fn the_first_reason_to_close_stays() {
        let registry = Registry::default();
        registry.enter(1, UnixStream::pair().unwrap().0, Heard::new());
        assert_eq!(registry.closing(1), None);
        registry.close(1, "one");
        registry.close_all("two");
        assert_eq!(registry.closing(1).as_deref(), Some("one"));
        registry.enter(2, UnixStream::pair().unwrap().0, Heard::new());
        assert_eq!(registry.closing(2).as_deref(), Some("two"));
    }
}
