//! The length of the kernel's queue of events: one setting for the whole machine (`fs.inotify.max_queued_events`), which
//! counts for a program from the moment that it begins to watch.
//!
//! So it is short for a moment only, and while one program begins. Whoever begins meanwhile would have a short queue too,
//! and so all tests that start an agent share a lock, and the one that makes the queue short has it alone. It is on the
//! file of the setting itself, so that it counts among all tests of a machine.

use std::fs::{self, File};

use rustix::fs::FlockOperation;

const SETTING: &str = "/proc/sys/fs/inotify/max_queued_events";
/// What the kernel sets at its start; anything far below is left over from a test that was killed in the act.
const USUAL: u32 = 16_384;
const PLAUSIBLE_MIN: u32 = 1_024;

/// Held while a program begins to watch.
#[derive(Debug)]
pub struct QueueLength {
    _lock: Option<File>,
    usual: Option<u32>,
}

impl QueueLength {
    /// Nobody makes the queue short meanwhile.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            _lock: locked(FlockOperation::LockShared),
            usual: None,
        }
    }

    /// The queue has room for so few events, until this is dropped.
    ///
    /// # Panics
    /// If the setting may not be changed: see [`may_change`].
    #[must_use]
    #[track_caller]
    pub fn short(length: u32) -> Self {
        let lock = locked(FlockOperation::LockExclusive);
        assert!(lock.is_some(), "{SETTING}: cannot be locked");
        let usual = read().expect("the length of the queue");
        let usual = if usual < PLAUSIBLE_MIN { USUAL } else { usual };
        let guard = Self {
            _lock: lock,
            usual: Some(usual),
        };
        fs::write(SETTING, length.to_string()).expect("set the length of the queue");
        guard
    }
}

impl Drop for QueueLength {
    fn drop(&mut self) {
        if let Some(usual) = self.usual {
            let set = fs::write(SETTING, usual.to_string());
            assert!(
                set.is_ok() || std::thread::panicking(),
                "{SETTING} is not {usual} again: {set:?}"
            );
        }
    }
}

/// Whether the setting can be changed here: not without being root, nor in most containers.
#[must_use]
pub fn may_change() -> bool {
    let _alone = locked(FlockOperation::LockExclusive);
    read().is_some_and(|length| fs::write(SETTING, length.max(PLAUSIBLE_MIN).to_string()).is_ok())
}

/// Nothing if there is no such setting to be short.
fn locked(how: FlockOperation) -> Option<File> {
    let file = File::open(SETTING).ok()?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, how)).ok()?;
    Some(file)
}

fn read() -> Option<u32> {
    fs::read_to_string(SETTING).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require::{Need, require};

    #[test]
    fn it_is_short_for_a_moment_only() {
        if !require(&[
            Need::Root,
            Need::Other("a queue that can be short", may_change()),
        ]) {
            return;
        }
        let before = {
            let _nobody_changes_it = QueueLength::usual();
            read().unwrap()
        };
        let short = QueueLength::short(77);
        assert_eq!(read(), Some(77));
        drop(short);
        let ended_badly = std::thread::spawn(|| {
            let _short = QueueLength::short(78);
            panic!("as a test that fails");
        });
        assert!(ended_badly.join().is_err());
        let _nobody_changes_it = QueueLength::usual();
        assert_eq!(read(), Some(before));
    }
}
