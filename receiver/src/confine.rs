//! Makes a worker what its module asks for, before it reads anything from the network: root directory,
//! identity, no way back. On failure the worker does not serve.
//!
//! To be called while the process has a single thread: identity is set by raw system calls, which
//! change the calling thread, and every later thread inherits it.

mod mounts;
mod sandbox;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;
use syncd_proto::filter::Filter;
use syncd_proto::path::WirePath;

use crate::fs::attic::Attic;
use crate::fs::meta::Powers;
use crate::fs::nameless;
use crate::fs::refusal::describe;
use crate::fs::root::{HANDLE, Root};
use crate::fs::trusted;
use crate::logic::munge;
use crate::logic::trash::Place;
use crate::relay::{Chroot, ModuleSetup, RunAs};

/// A confined process, and what it can do.
#[derive(Debug)]
pub struct Confined {
    /// Root of the module.
    pub root: Arc<Root>,
    /// Its path, if it can still be looked up from here.
    pub path: Option<PathBuf>,
    /// What the process may do.
    pub powers: Powers,
    /// The mask the process was started with: what `incoming chmod` leaves out where it names nobody.
    pub umask: u32,
    /// Whether targets of symlinks are munged.
    pub munges: bool,
    /// Where in it other file systems were mounted at the start.
    pub mounts: Vec<WirePath>,
    /// Its trash, where that is not in the module.
    pub trash: Option<OwnedFd>,
    /// What could not be applied, for the log.
    pub notes: Vec<String>,
}

/// Why a module cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfineError {
    /// rsync's words, for the agent.
    pub text: &'static str,
    /// The whole reason, for the log.
    pub log: String,
}

/// Confines this process to a module, in which `filter` hides names.
///
/// # Errors
/// [`ConfineError`]; the process must not serve then.
pub fn confine(setup: &ModuleSetup, filter: Option<Arc<Filter>>) -> Result<Confined, ConfineError> {
    let mut notes = Vec::new();
    // Its path is one of the whole system.
    let trash = open_trash(setup)?;
    let mounts = mounts::below(&setup.path);
    let (dir, chrooted) = enter(setup, &mut notes)?;
    if let Some(trash) = &trash {
        check_trash(trash, &dir)?;
    }
    let is_root_directory = chrooted && !has_dot(&setup.path);
    let munges = munge::applies(setup.munge_symlinks, is_root_directory);
    if munges {
        no_munged_directory()?;
    }
    if let Some(run_as) = &setup.run_as {
        become_user(run_as)?;
    }
    let umask =
        harden().map_err(|errno| failed("cannot restrict the process", &describe(errno)))?;
    if let Some(trash) = &trash {
        check_rights(trash)?;
    }
    fence(&dir, trash.as_ref(), chrooted, &mut notes)?;
    let mut powers = powers();
    powers.mknod &= setup.devices;
    let root = Root::new(dir, setup.keep_dirlinks)
        .map_err(|errno| failed("chdir failed", &describe(errno)))?;
    let path = (!chrooted).then(|| PathBuf::from(OsStr::from_bytes(&setup.path)));
    Ok(Confined {
        root: Arc::new(root.hiding(filter, trash_within(setup))),
        path,
        powers,
        umask,
        munges,
        mounts,
        trash,
        notes,
    })
}

/// Opens the module's directory, and makes it (or what stands before `/./` in its path) the root
/// directory where that is wanted.
fn enter(setup: &ModuleSetup, notes: &mut Vec<String>) -> Result<(OwnedFd, bool), ConfineError> {
    if setup.chroot == Chroot::Off {
        return Ok((open_trusted(&setup.path)?, false));
    }
    let (outer, inner) = split_at_dot(&setup.path);
    let shown = syncd_proto::path::escaped(&setup.path);
    let no_chroot = |errno| failed("chroot failed", &format!("{shown}: {}", describe(errno)));
    // Where the directory is to be the root, any symlink on the way leads into it and not out.
    let dir = rustix::fs::open(outer, HANDLE, Mode::empty()).map_err(no_chroot)?;
    rustix::process::fchdir(&dir).map_err(no_chroot)?;
    match rustix::process::chroot(".") {
        Ok(()) => {
            let inside = rustix::process::chdir("/");
            inside.map_err(|errno| failed("chdir failed", &describe(errno)))?;
            Ok((open_trusted(inner)?, true))
        }
        // A path with `/./` asks for it as `yes` does.
        Err(Errno::PERM) if setup.chroot == Chroot::Tried && !has_dot(&setup.path) => {
            notes.push("chroot is not permitted here; going on without".to_owned());
            Ok((open_trusted(&setup.path)?, false))
        }
        Err(errno) => Err(no_chroot(errno)),
    }
}

/// Where the directory of munged targets exists, they would lead somewhere after all.
fn no_munged_directory() -> Result<(), ConfineError> {
    match rustix::fs::stat(munge::PREFIX) {
        Err(_) => Ok(()),
        Ok(_) => Err(failed(
            "daemon security issue -- contact admin",
            "symlink munging is unsafe when /rsyncd-munged exists",
        )),
    }
}

/// A directory on whose way nobody but root and this user has put a symlink.
fn open_trusted(path: &[u8]) -> Result<OwnedFd, ConfineError> {
    trusted::open_directory(Path::new(OsStr::from_bytes(path))).map_err(|error| {
        let shown = syncd_proto::path::escaped(path);
        failed("chdir failed", &format!("{shown}: {error}"))
    })
}

/// The trash that is in the module.
fn trash_within(setup: &ModuleSetup) -> Option<WirePath> {
    match &setup.rules.trash.as_ref()?.place {
        Place::Within(path) => Some(path.clone()),
        Place::At(_) => None,
    }
}

/// Opens a trash that is not in the module.
fn open_trash(setup: &ModuleSetup) -> Result<Option<OwnedFd>, ConfineError> {
    let Some(Place::At(path)) = setup.rules.trash.as_ref().map(|trash| &trash.place) else {
        return Ok(None);
    };
    let opened = trusted::open_directory(Path::new(OsStr::from_bytes(path)));
    let why = |error| format!("{}: {error}", syncd_proto::path::escaped(path));
    opened
        .map(Some)
        .map_err(|error| failed(NO_TRASH, &why(error)))
}

/// What is moved there stays on the module's file system, and is not what agents see.
fn check_trash(trash: &OwnedFd, module: &OwnedFd) -> Result<(), ConfineError> {
    let told = |why: &str| Err(failed(NO_TRASH, why));
    match Attic::is_beside(trash, module) {
        Ok(true) => {}
        Ok(false) => return told("`trash` is on another file system, or another mount of it"),
        Err(errno) => return told(&describe(errno)),
    }
    match is_within(trash, module) {
        Ok(false) => Ok(()),
        Ok(true) => {
            told("`trash` is in the module by another name: write it as a name in the module")
        }
        Err(errno) => told(&describe(errno)),
    }
}

/// The module's user may write there.
fn check_rights(trash: &OwnedFd) -> Result<(), ConfineError> {
    let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(trash, ".", rights, AtFlags::EACCESS).map_err(|errno| {
        let why = format!("the module's user cannot write to it: {}", describe(errno));
        failed(NO_TRASH, &why)
    })
}

/// Whether the way up from one directory leads to another.
fn is_within(inner: &OwnedFd, outer: &OwnedFd) -> rustix::io::Result<bool> {
    let identity = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino));
    let wanted = identity(outer)?;
    let mut here = rustix::fs::openat(inner, ".", HANDLE, Mode::empty())?;
    loop {
        let at = identity(&here)?;
        if at == wanted {
            return Ok(true);
        }
        here = rustix::fs::openat(&here, "..", HANDLE, Mode::empty())?;
        if identity(&here)? == at {
            return Ok(false);
        }
    }
}

const NO_TRASH: &str = "the module's trash cannot be used";

fn has_dot(path: &[u8]) -> bool {
    path.windows(3).any(|window| window == b"/./")
}

/// rsync's `/./` in a path: the root directory before it, the module after it.
fn split_at_dot(path: &[u8]) -> (&[u8], &[u8]) {
    match path.windows(3).position(|window| window == b"/./") {
        Some(0) => (b"/", &path[2..]),
        Some(at) => (&path[..at], &path[at + 2..]),
        None => (path, b"/"),
    }
}

fn become_user(run_as: &RunAs) -> Result<(), ConfineError> {
    let ids = [run_as.uid, run_as.gid];
    let all = ids.iter().chain(&run_as.groups);
    if all.copied().any(|id| id == u32::MAX) {
        return Err(failed("setuid failed", "4294967295 is no user or group"));
    }
    let (uid, gid) = (Uid::from_raw(run_as.uid), Gid::from_raw(run_as.gid));
    if is_already(uid, gid) {
        return Ok(());
    }
    let groups: Vec<Gid> = run_as.groups.iter().copied().map(Gid::from_raw).collect();
    let why = |text| move |errno| failed(text, &describe(errno));
    rustix::thread::set_thread_groups(&groups).map_err(why("setgroups failed"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(why("setgid failed"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(why("setuid failed"))?;
    if !is_already(uid, gid) {
        return Err(failed("setuid failed", "the identity did not change"));
    }
    let root = Uid::ROOT;
    if !uid.is_root() && rustix::thread::set_thread_res_uid(root, root, root).is_ok() {
        return Err(failed("setuid failed", "the way back to root is open"));
    }
    Ok(())
}

fn is_already(uid: Uid, gid: Gid) -> bool {
    let users = [rustix::process::getuid(), rustix::process::geteuid()];
    let groups = [rustix::process::getgid(), rustix::process::getegid()];
    users == [uid; 2] && groups == [gid; 2]
}

/// Gives up what is never needed; the umask there was.
fn harden() -> rustix::io::Result<u32> {
    rustix::thread::set_no_new_privs(true)?;
    let umask = rustix::process::umask(Mode::empty()).as_raw_mode();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    // Transfers and directories are held open; what the administrator allows at most is ours to use.
    let mut files = rustix::process::getrlimit(Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(Resource::Nofile, files)?;
    nameless::make_room(std::io::stdin());
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(umask)
}

/// Lets the kernel forbid everything outside of the module, and tries whether it does.
fn fence(
    dir: &OwnedFd,
    trash: Option<&OwnedFd>,
    chrooted: bool,
    notes: &mut Vec<String>,
) -> Result<(), ConfineError> {
    let open: Vec<_> = [Some(dir), trash]
        .into_iter()
        .flatten()
        .map(AsFd::as_fd)
        .collect();
    let told = |why: String| failed("cannot restrict the process", &why);
    if let Some(note) = sandbox::restrict(&open).map_err(told)? {
        notes.push(note);
        return Ok(());
    }
    // In its own root directory, or with `path = /`, the module is all there is to see.
    let seen = rustix::fs::stat("/").ok();
    let own = rustix::fs::fstat(dir).ok();
    let is_all = match (seen, own) {
        (Some(seen), Some(own)) => (seen.st_dev, seen.st_ino) == (own.st_dev, own.st_ino),
        _ => chrooted,
    };
    if !is_all && sandbox::can_list_root() {
        return Err(told("landlock was applied and does not hold".to_owned()));
    }
    Ok(())
}

fn powers() -> Powers {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let has = |capability| {
        effective
            .as_ref()
            .is_ok_and(|held| held.contains(capability))
    };
    Powers {
        chown: has(CapabilitySet::CHOWN),
        any_mode: has(CapabilitySet::FOWNER)
            && has(CapabilitySet::FSETID)
            && has(CapabilitySet::DAC_OVERRIDE),
        mknod: has(CapabilitySet::MKNOD),
        trusted: has(CapabilitySet::SYS_ADMIN),
        capabilities: has(CapabilitySet::SETFCAP),
    }
}

fn failed(text: &'static str, why: &str) -> ConfineError {
    ConfineError {
        text,
        log: format!("{text}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_the_path_divides_root_directory_and_module() {
        assert_eq!(split_at_dot(b"/srv/data"), (&b"/srv/data"[..], &b"/"[..]));
        assert_eq!(split_at_dot(b"/srv/./data"), (&b"/srv"[..], &b"/data"[..]));
        assert_eq!(split_at_dot(b"/./data"), (&b"/"[..], &b"/data"[..]));
    }

    #[test]
    fn a_missing_path_is_told_in_rsync_words() {
        let setup = ModuleSetup {
            name: b"m".to_vec(),
            path: b"/nowhere/at/all".to_vec(),
            run_as: None,
            chroot: Chroot::Off,
            durability: syncd_proto::message::Durability::Batch,
            shared_writers: false,
            keep_dirlinks: false,
            devices: false,
            numeric_ids: true,
            munge_symlinks: Some(false),
            rules: crate::relay::Rules::default(),
            log: Default::default(),
            incoming_chmod: None,
            timeout_s: 0,
        };
        let error = confine(&setup, None).unwrap_err();
        assert_eq!(error.text, "chdir failed");
        assert!(error.log.contains("/nowhere/at/all"), "{}", error.log);
    }
}
