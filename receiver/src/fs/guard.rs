//! [`Guard`]: what a module forbids, whoever asks: asked before names go.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};

use syncd_proto::meta::Kind;
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::hidden::Hidden;
use super::meta::{Identity, identity_of, kind_of, statx_at, statx_fd};
use super::own::Own;
use super::recover::names;
use super::refusal::Refusal;
use super::root::{LISTABLE, Root};
use crate::logic::removals::Removals;
use crate::relay::Rules;

/// The rules of a module, for all its sessions.
#[derive(Debug)]
pub struct Guard {
    fake_super: bool,
    refuses_deletes: bool,
    removals: Option<Mutex<Removals>>,
    started: Instant,
    own: Own,
}

impl Guard {
    /// Those of a module.
    #[must_use]
    pub fn new(rules: &Rules) -> Self {
        Self {
            fake_super: rules.fake_super,
            refuses_deletes: rules.refuses_deletes,
            removals: rules.max_delete.map(Removals::new).map(Mutex::new),
            started: Instant::now(),
            own: Own::default(),
        }
    }

    /// Files with several names that may be changed all the same.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Whether owners, special bits and file types are only said.
    #[must_use]
    pub fn fakes(&self) -> bool {
        self.fake_super
    }

    /// Whether what has this name in `dir` may go.
    ///
    /// # Errors
    /// It stays.
    pub fn removal(
        &self,
        root: &Root,
        path: &WirePath,
        (dir, name): (&Arc<OwnedFd>, &[u8]),
    ) -> Result<(), Refusal> {
        if self.refuses_deletes {
            return Err(held(path, "`refuse options` refuses deletes"));
        }
        self.within_limit(root, path, || count(dir, name))
    }

    /// Whether what is below a directory of this name may go with it, since something else takes its place.
    ///
    /// # Errors
    /// It stays.
    pub fn replacement(
        &self,
        root: &Root,
        path: &WirePath,
        (dir, name): (&Arc<OwnedFd>, &[u8]),
    ) -> Result<(), Refusal> {
        self.within_limit(root, path, || count(dir, name).saturating_sub(1))
    }

    fn within_limit(
        &self,
        root: &Root,
        path: &WirePath,
        count: impl FnOnce() -> u64,
    ) -> Result<(), Refusal> {
        let Some(removals) = &self.removals else {
            return Ok(());
        };
        let count = count();
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut removals = removals.lock().unwrap_or_else(PoisonError::into_inner);
        removals
            .ask(count, now, || all_names(root))
            .map_err(|why| held(path, &why))
    }
}

fn held(path: &WirePath, why: &str) -> Refusal {
    let text = format!("cannot remove {path}: {why}");
    Refusal::new(RejectCode::DeleteHeld, text)
}

/// How many names there are below a root.
fn all_names(root: &Root) -> u64 {
    let trash = root.hidden().and_then(Hidden::trash);
    let trash = trash.and_then(|trash| root.open_dir(&trash).and_then(statx_fd).ok());
    match root.open_listable(&WirePath::root()) {
        Ok(dir) => below(Arc::new(dir), trash.as_ref().map(identity_of)),
        Err(_) => 0,
    }
}

/// How many names go with this one; none if it is not there.
fn count(dir: &Arc<OwnedFd>, name: &[u8]) -> u64 {
    match statx_at(dir, name) {
        Ok(None) | Err(_) => 0,
        Ok(Some(stat)) if kind_of(&stat) != Some(Kind::Dir) => 1,
        Ok(Some(_)) => match open(dir, name) {
            // What cannot be looked into cannot be emptied either.
            None => 1,
            Some(opened) => 1 + below(Arc::new(opened), None),
        },
    }
}

/// The names below a directory, without those of staging and of what is skipped.
fn below(dir: Arc<OwnedFd>, skipped: Option<Identity>) -> u64 {
    let mut total = 0_u64;
    let mut pending: Vec<(Arc<OwnedFd>, Option<Vec<u8>>)> = vec![(dir, None)];
    while let Some((parent, name)) = pending.pop() {
        let here = match name {
            None => parent,
            Some(name) => match open(&parent, &name) {
                Some(opened) => Arc::new(opened),
                None => continue,
            },
        };
        for name in names(&*here).unwrap_or_default() {
            if syncd_proto::path::Name::new(&name).is_some_and(|name| name.is_reserved()) {
                continue;
            }
            let stat = statx_at(&here, &name).ok().flatten();
            if skipped.is_some() && stat.as_ref().map(identity_of) == skipped {
                continue;
            }
            total = total.saturating_add(1);
            if stat.is_some_and(|stat| kind_of(&stat) == Some(Kind::Dir)) {
                pending.push((Arc::clone(&here), Some(name)));
            }
        }
    }
    total
}

fn open(dir: impl AsFd, name: &[u8]) -> Option<OwnedFd> {
    let flags = LISTABLE | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::fs::root::HANDLE;
    use crate::logic::removals::MaxDelete;

    #[test]
    fn all_that_goes_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        for made in ["a/b/c", "d", ".syncd/x"] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        for file in ["f", "a/f", "a/b/f", "a/b/c/f", ".syncd/f"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        symlink("a", dir.path().join("l")).unwrap();
        let fd = rustix::fs::open(dir.path(), HANDLE, Mode::empty()).unwrap();
        let root = Root::new(fd, false).unwrap();
        let at = Arc::new(root.open_dir(&WirePath::root()).unwrap());
        for (name, expected) in [("f", 1), ("l", 1), ("d", 1), ("a", 6), ("none", 0)] {
            assert_eq!(count(&at, name.as_bytes()), expected, "{name}");
        }
        assert_eq!(all_names(&root), 9);
        let guard = Guard::new(&Rules {
            max_delete: Some(MaxDelete::Count(5)),
            ..Rules::default()
        });
        let path = WirePath::from_relative("a".as_ref()).unwrap();
        assert!(guard.replacement(&root, &path, (&at, b"a")).is_ok());
        assert!(guard.removal(&root, &path, (&at, b"f")).is_err());
    }
}
