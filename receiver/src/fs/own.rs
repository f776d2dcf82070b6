//! [`Own`]: files with several names that got them here. A file with one name lies in the module, where we found it; one
//! with more may have been linked into it by somebody, and then it is not ours to change.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Statx, StatxFlags};

/// Files that are remembered; beyond that all are forgotten, and replaced where they would be changed.
const FILES_MAX: usize = 100_000;

/// Files of this process with several names; memory only.
#[derive(Debug, Default)]
pub struct Own(Mutex<HashSet<Inode>>);

/// An inode, and when it was born: its number may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inode {
    dev: (u32, u32),
    ino: u64,
    born: (i64, u32),
}

impl Own {
    /// Whether what was found by a name of the module is not known by a name outside.
    #[must_use]
    pub fn may_change(&self, stat: &Statx) -> bool {
        stat.stx_nlink <= 1 || inode(stat).is_some_and(|inode| self.lock().contains(&inode))
    }

    /// A file gets another name: `before` is what was found, `after` what has the new name.
    pub fn linked(&self, before: &Statx, after: &Statx) {
        let (Some(inode), same) = (inode(before), inode(after)) else {
            return;
        };
        if same != Some(inode) || !self.may_change(before) {
            return;
        }
        let mut files = self.lock();
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(inode);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Inode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` where the file system does not tell when a file was made.
fn inode(stat: &Statx) -> Option<Inode> {
    let told = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    told.then_some(Inode {
        dev: (stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fs::meta::statx_fd;

    #[test]
    fn what_somebody_linked_into_the_module_is_not_ours() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let stat = |name: &str| statx_fd(fs::File::open(path(name)).expect("open")).expect("stat");
        let own = Own::default();
        fs::write(path("alone"), "a").expect("file");
        assert!(own.may_change(&stat("alone")));
        // Linked by us: known from its one name on.
        let before = stat("alone");
        fs::hard_link(path("alone"), path("again")).expect("link");
        own.linked(&before, &stat("again"));
        assert!(own.may_change(&stat("again")) && own.may_change(&stat("alone")));
        // Linked by others, and then by us too.
        fs::write(path("outside"), "b").expect("file");
        fs::hard_link(path("outside"), path("planted")).expect("link");
        let before = stat("planted");
        fs::hard_link(path("planted"), path("third")).expect("link");
        own.linked(&before, &stat("third"));
        assert!(!own.may_change(&stat("planted")));
        // Another file took the name in between.
        own.linked(&stat("alone"), &stat("outside"));
        assert!(!own.may_change(&stat("outside")));
    }
}
