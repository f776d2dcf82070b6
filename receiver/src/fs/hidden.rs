//! What a module's filter rules hide: names that do not exist for an agent, whatever it asks.
//!
//! The module's own trash is hidden in the same way.
//!
//! They are in no listing and no digest, nothing is written to them, and they are never removed: a directory that
//! holds one stays, and one that would change its name under other rules is not moved.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Statx};
use syncd_proto::filter::{Filter, Scope};
use syncd_proto::meta::Kind;
use syncd_proto::path::{Name, WirePath};

use super::meta::{kind_of, statx_at};
use super::recover::names;
use super::root::LISTABLE;

/// Takes a name out of a directory; its path says which it is.
pub type Gone<'a> = dyn Fn(&OwnedFd, &[u8], &WirePath) -> rustix::io::Result<()> + 'a;

/// The rules, as they apply below some directory of the module.
#[derive(Debug, Clone)]
pub struct Hidden {
    filter: Option<Arc<Filter>>,
    trash: Option<WirePath>,
    base: WirePath,
}

impl Hidden {
    /// The rules of a module, at its root, and the directory in it that is its trash.
    #[must_use]
    pub fn new(filter: Option<Arc<Filter>>, trash: Option<WirePath>) -> Self {
        Self {
            filter,
            trash,
            base: WirePath::root(),
        }
    }

    /// The same below `path`. What cannot be named any more is hidden all the same.
    #[must_use]
    pub fn beneath(&self, path: &WirePath) -> Self {
        Self {
            filter: self.filter.clone(),
            trash: self.trash.clone(),
            base: self.whole(path).unwrap_or_else(|| self.base.clone()),
        }
    }

    /// Whether this name is hidden, or a directory above it.
    #[must_use]
    pub fn hides(&self, path: &WirePath, is_dir: bool) -> bool {
        let Some(whole) = self.whole(path) else {
            return true;
        };
        if whole.is_root() {
            return false;
        }
        if self
            .trash
            .as_ref()
            .is_some_and(|trash| whole.starts_with(trash))
        {
            return true;
        }
        let Some(filter) = &self.filter else {
            return false;
        };
        let mut no_scope = |_: &WirePath| Scope::default();
        let verdict = filter.verdict(&whole, is_dir, &mut no_scope);
        !verdict.is_included()
            || filter.protects(&whole, is_dir, None, &mut no_scope, &mut |_| false)
    }

    /// The same of something that is there.
    #[must_use]
    pub fn hides_found(&self, path: &WirePath, stat: &Statx) -> bool {
        self.hides(path, is_dir(stat))
    }

    /// Whether anything below this directory is hidden by any of its names.
    #[must_use]
    pub fn below(&self, dir: impl AsFd, name: &[u8], as_paths: &[&WirePath]) -> bool {
        if self.filter.is_none() && !as_paths.iter().any(|path| self.holds_trash(path)) {
            return false;
        }
        let Some(opened) = open(dir, name) else {
            return false;
        };
        for name in names(&opened).unwrap_or_default() {
            let Some(child) = Name::new(&name) else {
                return true;
            };
            let Ok(Some(stat)) = statx_at(&opened, &name) else {
                continue;
            };
            let Some(paths) = joined(as_paths, &child) else {
                return true;
            };
            let paths: Vec<&WirePath> = paths.iter().collect();
            if paths.iter().any(|path| self.hides_found(path, &stat))
                || is_dir(&stat) && self.below(&opened, &name, &paths)
            {
                return true;
            }
        }
        false
    }

    /// Where the module's trash is, seen from here; `None` if it is not below.
    #[must_use]
    pub fn trash(&self) -> Option<WirePath> {
        self.trash.as_ref()?.strip_prefix(&self.base)
    }

    /// Whether the module's trash is, or would be, below this name.
    fn holds_trash(&self, path: &WirePath) -> bool {
        let holds = |whole: WirePath| {
            let trash = self.trash.as_ref();
            trash.is_some_and(|trash| trash.starts_with(&whole))
        };
        self.whole(path).is_none_or(holds)
    }

    /// Removes what is not hidden in a directory that holds something that is; `gone` takes what is no directory.
    ///
    /// # Errors
    /// Those of the system.
    pub fn remove_rest(
        &self,
        dir: impl AsFd,
        name: &[u8],
        path: &WirePath,
        gone: &Gone<'_>,
    ) -> rustix::io::Result<()> {
        let flags = LISTABLE | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
        for name in names(&opened)? {
            let child = Name::new(&name).and_then(|name| path.join(&name));
            let (Some(child), Some(stat)) = (child, statx_at(&opened, &name)?) else {
                continue;
            };
            if self.hides_found(&child, &stat) {
                continue;
            }
            if !is_dir(&stat) {
                gone(&opened, &name, &child)?;
            } else if self.below(&opened, &name, &[&child]) {
                self.remove_rest(&opened, &name, &child, gone)?;
            } else {
                self.remove_rest(&opened, &name, &child, gone)?;
                rustix::fs::unlinkat(&opened, &name[..], AtFlags::REMOVEDIR)?;
            }
        }
        Ok(())
    }

    /// The path from the module's root; `None` if that is too long.
    fn whole(&self, path: &WirePath) -> Option<WirePath> {
        let names = self.base.names().iter().chain(path.names());
        WirePath::from_names(names.cloned().collect())
    }
}

fn joined(paths: &[&WirePath], name: &Name) -> Option<Vec<WirePath>> {
    paths.iter().map(|path| path.join(name)).collect()
}

fn is_dir(stat: &Statx) -> bool {
    kind_of(stat) == Some(Kind::Dir)
}

fn open(dir: impl AsFd, name: &[u8]) -> Option<OwnedFd> {
    let flags = LISTABLE | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::empty()).ok()
}
