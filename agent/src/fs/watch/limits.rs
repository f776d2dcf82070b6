//! Which limit of the system ran out, with its value and a better one.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::WatchError;

/// A limit of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Watches of a user.
    Watches,
    /// inotify instances of a user.
    Instances,
    /// Open files of this process.
    Files,
    /// Open files of all processes.
    FilesOfAll,
}

/// Free descriptors below which it is this process that has too many: starting to watch takes a few, which are closed
/// again when one of them cannot be had.
const FREE_MIN: u64 = 8;

/// A better limit of open files than any that is too low.
const FILES_BETTER: u64 = 1_024;

/// Whether this process has about as many open files as it may. The system says the same when a user has too many
/// inotify instances.
pub(super) fn is_short_of_files() -> bool {
    let Some(most) = getrlimit(Resource::Nofile).current else {
        return false;
    };
    match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => open.count() as u64 + FREE_MIN > most,
        Err(error) => Errno::from_io_error(&error) == Some(Errno::MFILE),
    }
}

/// The error that names a limit.
pub(super) fn limit(what: Limit) -> WatchError {
    let text = match what {
        Limit::Watches => "directories to watch",
        Limit::Instances => "programs that watch",
        Limit::FilesOfAll => "open files of all programs",
        Limit::Files => return open_files(),
    };
    let (name, now) = in_force(what);
    let text = match now {
        Some(now) => {
            let better = now.saturating_mul(4).next_power_of_two().max(1_024);
            format!("no more {text}: the limit {name} is {now}; raise it: sysctl {name}={better}")
        }
        None => format!("no more {text}: the limit {name} is reached"),
    };
    WatchError::LimitReached { text }
}

/// The name of a limit, and its value if it can be read. That of a user namespace counts as well, and is the one that runs
/// out if it is lower.
#[must_use]
pub fn in_force(what: Limit) -> (&'static str, Option<u64>) {
    let (usual, namespaced) = match what {
        Limit::Watches => ("fs.inotify.max_user_watches", "user.max_inotify_watches"),
        Limit::Instances => (
            "fs.inotify.max_user_instances",
            "user.max_inotify_instances",
        ),
        Limit::FilesOfAll => ("fs.file-max", "fs.file-max"),
        Limit::Files => return ("ulimit -n", getrlimit(Resource::Nofile).current),
    };
    match (value(usual), value(namespaced)) {
        (Some(all), Some(own)) if own < all => (namespaced, Some(own)),
        (all, _) => (usual, all),
    }
}

/// The value of a sysctl that is a number.
#[must_use]
pub fn value(name: &str) -> Option<u64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn open_files() -> WatchError {
    let now = getrlimit(Resource::Nofile).current.unwrap_or_default();
    let better = now.saturating_mul(4).max(FILES_BETTER);
    let text = format!(
        "no more open files of this agent: its limit is {now}; raise it: ulimit -n {better}, or LimitNOFILE={better} in the unit"
    );
    WatchError::LimitReached { text }
}
