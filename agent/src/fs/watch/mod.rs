//! Change detection: one trait, [`Watcher`], over watches that its caller sets directory by directory.
//!
//! Events are hints that a path may have changed; the disk decides what it is now. A watch says nothing
//! about what was there before it, so the caller watches first and lists afterwards. What was missed is
//! an event too: [`RawEvent::Overflow`], [`RawEvent::DirGone`], [`RawEvent::RootGone`].
//!
//! Who lists is ahead of the events. A directory that was entered (watched, then listed) is settled when
//! a barrier asked for afterwards has been told. A rename told before that may be older than the
//! listing: enter both of its names again.
//!
//! Two backends: `notify` (portable bookkeeping; quadratic when many directories go at once) and
//! `inotify` (own tree, for large sources).

mod barrier;
mod inotify;
mod limits;
mod notify;
mod pace;
mod track;
mod tree;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncd_proto::path::WirePath;

use limits::limit;
pub use limits::{Limit, in_force, value};

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Touch {
    /// It was made. A regular file may not have its content yet.
    Created,
    /// It was closed after it had been open for writing.
    Written,
    /// It was written to and is still open.
    Modified,
    /// Its metadata changed (or its number of hard links).
    Attrib,
    /// It was removed.
    Removed,
    /// It came from outside what is watched; a directory comes with contents that are not reported.
    MovedIn,
    /// It went outside what is watched. A directory takes its watches with it.
    MovedOut,
}

/// What a watcher tells. Paths are those at the time of the event as far as they are known; they may be
/// stale by the time they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawEvent {
    /// Something happened to the entry at `path`.
    Touched {
        /// Where.
        path: WirePath,
        /// What.
        touch: Touch,
        /// Whether it is a directory.
        dir: bool,
    },
    /// An entry has another name now; whatever was at `to` before is gone. If a directory was not
    /// watched yet when it moved, a [`Touch::MovedIn`] for `to` follows: list it.
    Renamed {
        /// Its name before.
        from: WirePath,
        /// Its name now.
        to: WirePath,
        /// Whether it is a directory.
        dir: bool,
    },
    /// Entries of a directory came or went whose names or paths are above the limits of what can be sent.
    Unnamed {
        /// Which directory.
        dir: WirePath,
    },
    /// Events were lost: nothing is known of anything until it has been watched and listed again.
    Overflow,
    /// The watch of a directory ended although nobody removed the directory (unmounted).
    DirGone {
        /// Which.
        path: WirePath,
    },
    /// Directories came or went in a way that may have cost others their watches, or what was told of them
    /// their right names: call [`Watcher::refresh`], watch everything, and compare.
    Unheard,
    /// The root was unmounted, removed or moved. What looks like removals now is none.
    RootGone,
    /// The watcher cannot go on, or lost something it cannot name.
    Failed {
        /// Why.
        text: String,
    },
    /// Everything that happened before the [`Watcher::barrier`] of this number, and of lower ones, has
    /// been told.
    Barrier(u64),
}

/// Takes the events, on the watcher's own thread. It must return at once (mark, wake, done): while it
/// runs nothing is read, and the kernel's queue fills up. It must not call the [`Watcher`], and nobody
/// may call the [`Watcher`] while holding a lock that the sink takes.
pub trait Sink: Send + 'static {
    /// Takes one event.
    fn event(&mut self, event: RawEvent);
}

impl<F: FnMut(RawEvent) + Send + 'static> Sink for F {
    fn event(&mut self, event: RawEvent) {
        self(event);
    }
}

/// Whether a watch is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// It was set now.
    New,
    /// The directory was watched before.
    Already,
    /// It is another directory than the one that was watched under this name last.
    Other,
}

/// Why a directory is not watched.
#[derive(Debug)]
pub enum WatchError {
    /// A limit of the system is used up; the text names it, its value and a better one.
    LimitReached {
        /// What to tell the user.
        text: String,
    },
    /// There is no directory at the path (any more); symlinks are none.
    Gone,
    /// It may not be read.
    Denied(io::Error),
    /// Anything else.
    Other(String),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitReached { text } | Self::Other(text) => f.write_str(text),
            Self::Gone => f.write_str("no directory there"),
            Self::Denied(error) => write!(f, "not readable: {error}"),
        }
    }
}

impl std::error::Error for WatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(error) => Some(error),
            Self::LimitReached { .. } | Self::Gone | Self::Other(_) => None,
        }
    }
}

impl From<io::Error> for WatchError {
    fn from(error: io::Error) -> Self {
        use rustix::io::Errno;
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC) => limit(Limit::Watches),
            Some(Errno::MFILE) => limit(match limits::is_short_of_files() {
                true => Limit::Files,
                false => Limit::Instances,
            }),
            Some(Errno::NFILE) => limit(Limit::FilesOfAll),
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied(error),
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Self::Gone,
            _ => Self::Other(format!("cannot watch: {error}")),
        }
    }
}

/// Watches directories below a root, each one by itself. Watching ends when it is dropped; its sink is
/// dropped then too.
pub trait Watcher: Send {
    /// Watches the directory at `path`, not what is below it, and does not follow symlinks. To miss
    /// nothing: list it afterwards, also when it is [`Watched::Already`] and an event brought you here.
    ///
    /// # Errors
    /// See [`WatchError`].
    fn watch(&mut self, path: &WirePath) -> Result<Watched, WatchError>;

    /// Ends the watches of `path` and everything below it: it is excluded, or known to be gone.
    fn forget(&mut self, path: &WirePath);

    /// To be called after [`RawEvent::Overflow`] and [`RawEvent::Unheard`], before everything is watched
    /// again: forgets watches that are of no use any more.
    ///
    /// # Errors
    /// It has to be tried again.
    fn refresh(&mut self) -> Result<(), WatchError>;

    /// To be called once everything is watched again: forgets the watches of directories that went unheard.
    /// Not before, since a directory that came in the place of such a one is to be told from it.
    fn tidy(&mut self) {}

    /// Asks for a [`RawEvent::Barrier`] of the returned number, once every event before now was told.
    ///
    /// # Errors
    /// The private directory that barriers work by could not be written.
    fn barrier(&mut self) -> io::Result<u64>;

    /// Waits for events that were not told yet, if the backend can know.
    fn backlog(&self) -> Option<Arc<dyn Backlog>>;

    /// Who knows how many directories are watched.
    fn census(&self) -> Arc<dyn Census>;

    /// How many directories are watched.
    fn watched(&self) -> usize {
        self.census().watched()
    }

    /// About how much memory its bookkeeping takes, in bytes (the kernel's is not counted).
    fn bytes_estimate(&self) -> usize;
}

/// What is watched at any moment, whatever the [`Watcher`] is doing.
pub trait Census: fmt::Debug + Send + Sync {
    /// How many directories are watched. Nobody may ask while holding a lock that the sink takes.
    fn watched(&self) -> usize;
}

/// Events that happened and were not told yet.
pub trait Backlog: fmt::Debug + Send + Sync {
    /// Waits until everything that happened before this call has been told, `most` at most. `false` if some may not
    /// have been.
    fn hear(&self, most: Duration) -> bool;
}

/// Which implementation watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The `notify` crate.
    Notify,
    /// inotify with our own tree.
    Inotify,
}

/// Starts a watcher of the directory at `root`, which is watched itself from now on.
///
/// # Errors
/// See [`WatchError`].
pub fn start(
    root: &Path,
    backend: Backend,
    sink: Box<dyn Sink>,
) -> Result<Box<dyn Watcher>, WatchError> {
    Ok(match backend {
        Backend::Notify => Box::new(notify::NotifyWatcher::start(root, sink)?),
        Backend::Inotify => Box::new(inotify::InotifyWatcher::start(root, sink)?),
    })
}

#[cfg(test)]
mod tests;
