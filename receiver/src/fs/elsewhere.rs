//! [`Elsewhere`]: file systems mounted below a module. Renames do not cross into them, so each has a staging area of
//! its own at its root, opened when something there is first changed, or at the start if there is one already.
//!
//! What was staged in the module is made once more over there and renamed there: names change as atomically as
//! everywhere. Everything on them is made durable at once and by itself.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::fs::{Mode, Timespec, Timestamps};

use syncd_proto::RESERVED_NAME;
use syncd_proto::reject::RejectCode;

use super::area::Area;
use super::meta::{Mount, identity_of, mount_of, statx_at, statx_fd};
use super::recover;
use super::refusal::{Refusal, describe};
use super::root::{HANDLE, LISTABLE, Root};

/// The staging areas of a module beside its own.
#[derive(Debug, Default)]
pub struct Elsewhere(Mutex<HashMap<Mount, Arc<Area>>>);

impl Elsewhere {
    /// The area for names in this directory of the module with the area `home`; `None` if that is the one.
    ///
    /// # Errors
    /// There can be none.
    pub fn area_of(&self, home: &Area, dir: &OwnedFd) -> Result<Option<Arc<Area>>, Refusal> {
        let told = |errno| unusable(&describe(errno));
        let mount = mount_of(dir).map_err(told)?;
        if mount == home.mount() {
            return Ok(None);
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(area) = known.get(&mount) {
            return Ok(Some(Arc::clone(area)));
        }
        let root = top_of(dir, mount).map_err(told)?;
        let area = open(&root, home)?;
        known.insert(mount, Arc::clone(&area));
        Ok(Some(area))
    }

    /// Those opened so far.
    #[must_use]
    pub fn areas(&self) -> Vec<Arc<Area>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().cloned().collect()
    }
}

/// Cleans an area that nobody uses any more, says that it is used, and deletes in it from now on.
///
/// # Errors
/// It cannot be cleaned or locked.
pub fn take_over(area: &Arc<Area>) -> Result<(), Refusal> {
    if area.wait_until_alone() {
        recover::sweep(area).map_err(|errno| Refusal::staging("clean up", errno))?;
    } else {
        tracing::warn!(
            "another worker uses this path: what it has staged is left alone (two modules with one path?)"
        );
    }
    area.share()
        .map_err(|errno| Refusal::staging("lock", errno))?;
    let reaped = Arc::clone(area);
    thread::Builder::new()
        .name("reaper".to_owned())
        .spawn(move || recover::reap(&reaped))
        .map(drop)
        .map_err(|error| Refusal::new(RejectCode::ModuleUnavailable, error.to_string()))
}

/// Whether somebody has staged something at the root of this file system.
#[must_use]
pub fn has_area(root: &OwnedFd) -> bool {
    matches!(statx_at(root, RESERVED_NAME), Ok(Some(_)))
}

fn open(root: &OwnedFd, home: &Area) -> Result<Arc<Area>, Refusal> {
    let told = |errno| unusable(&describe(errno));
    let handle = rustix::fs::openat(root, ".", HANDLE, Mode::empty()).map_err(told)?;
    let before = (!has_area(root)).then(|| statx_fd(root)).transpose();
    let before = before.map_err(told)?;
    let root_again = Root::new(handle, false).map_err(told)?;
    let area = Area::open_elsewhere(&root_again, home).map_err(|refusal| {
        let text = refusal
            .text
            .replace("the module", "a file system below the module");
        Refusal::new(RejectCode::Unsupported, text)
    })?;
    if let Some(before) = before {
        // Its directory is a part of the mirror.
        let time = |tv_sec, tv_nsec: u32| Timespec {
            tv_sec,
            tv_nsec: tv_nsec.into(),
        };
        let times = Timestamps {
            last_access: time(before.stx_atime.tv_sec, before.stx_atime.tv_nsec),
            last_modification: time(before.stx_mtime.tv_sec, before.stx_mtime.tv_nsec),
        };
        let opened = rustix::fs::openat(root, ".", LISTABLE, Mode::empty()).map_err(told)?;
        rustix::fs::futimens(opened, &times).map_err(told)?;
    }
    let area = Arc::new(area);
    take_over(&area)?;
    Ok(area)
}

/// The root directory of what is mounted here, found by going up: the module itself is on another mount.
fn top_of(dir: &OwnedFd, mount: Mount) -> rustix::io::Result<OwnedFd> {
    let mut here = rustix::fs::openat(dir, ".", HANDLE, Mode::empty())?;
    loop {
        let above = rustix::fs::openat(&here, "..", HANDLE, Mode::empty())?;
        let is_top = identity_of(&statx_fd(&above)?) == identity_of(&statx_fd(&here)?);
        if is_top || mount_of(&above)? != mount {
            return Ok(here);
        }
        here = above;
    }
}

fn unusable(why: &str) -> Refusal {
    let text = format!("cannot use a file system mounted below the module: {why}");
    Refusal::new(RejectCode::Unsupported, text)
}
