//! [`Area`]: `.syncd` at the root of a module. Temporary names, interrupted transfers, and what is
//! being deleted; private to the worker, never listed, refused as a name from a peer.
//!
//! ```text
//! .syncd/            0700, ours
//!   instance         16 random bytes: the name of this copy of the module
//!   stage/           content and entries on their way to their names; emptied at start
//!   partial/KEY      transfers that can be continued
//!   trash/           trees that are gone already and take a while to delete
//!   kept/            on a file system below the module: its part of the module's `trash`
//! ```

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use syncd_proto::RESERVED_NAME;
use syncd_proto::digest::Digest;
use syncd_proto::meta::{Mtime, Times};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::attic::Attic;
use super::elsewhere::Elsewhere;
use super::meta::{Mount, mount_of, mtime_of, statx_at, statx_fd, times};
use super::nameless::{self, Nameless, Room};
use super::nest::Nest;
use super::refusal::{Refusal, describe};
use super::root::{LISTABLE, READABLE, Root};

/// The staging area of a module, open.
#[derive(Debug)]
pub struct Area {
    stage: OwnedFd,
    partial: OwnedFd,
    trash: OwnedFd,
    instance: [u8; 16],
    mount: Mount,
    attic: Option<Attic>,
    elsewhere: Elsewhere,
    nameless: Nameless,
    nests: Room,
    /// Makes names of this process unlike those of the one before.
    tag: u32,
    next: AtomicU64,
    claimed: Mutex<HashSet<Digest>>,
    to_delete: Mutex<bool>,
    wake: Condvar,
    /// Temporary names that are to be removed when the file system allows it again.
    stranded: Mutex<Vec<String>>,
}

impl Area {
    /// Opens the area of the module at `root`, making it if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or what stands there is not ours.
    pub fn open(root: &Root) -> Result<Self, Refusal> {
        let dir = own_dir(root)?;
        let area = Self::open_in(&dir)?;
        // What a crash leaves of it there is deleted like everything else in it.
        let nameless = Nameless::tried(&area.stage, &area.trash, &area.fresh_name());
        Ok(Self { nameless, ..area })
    }

    /// The same, where every file has a name.
    #[cfg(test)]
    #[must_use]
    pub fn naming_all(self) -> Self {
        let nameless = Nameless::none();
        Self { nameless, ..self }
    }

    /// Opens the area at the `root` of a file system below the module with the area `home`. Versions are kept in it if
    /// they are at home.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_elsewhere(root: &Root, home: &Self) -> Result<Self, Refusal> {
        let dir = own_dir(root)?;
        let attic = match home.attic() {
            None => None,
            Some(attic) => {
                let kept = private_dir(dir.as_fd(), b"kept").map_err(broken)?;
                Some(Attic::new(kept, attic.keep_s()))
            }
        };
        Ok(Self::open_in(&dir)?.keeping(attic))
    }

    fn open_in(dir: &OwnedFd) -> Result<Self, Refusal> {
        let place = |name: &str| private_dir(dir.as_fd(), name.as_bytes()).map_err(broken);
        let (stage, partial, trash) = (place("stage")?, place("partial")?, place("trash")?);
        let mount = mount_of(&stage).map_err(broken)?;
        let instance = match read_instance(dir).map_err(broken)? {
            Some(instance) => instance,
            None => make_instance(dir, &stage).map_err(broken)?,
        };
        // Whoever asks what is held of times looks at what became of this one; nothing else depends on it.
        let tried = times(TRIED);
        let _ = rustix::fs::utimensat(dir, INSTANCE, &tried, AtFlags::SYMLINK_NOFOLLOW);
        Ok(Self {
            stage,
            partial,
            trash,
            instance,
            mount,
            attic: None,
            elsewhere: Elsewhere::default(),
            nameless: Nameless::none(),
            nests: Room::for_nests(),
            tag: u32::from_le_bytes(random::<4>().map_err(broken)?),
            next: AtomicU64::new(0),
            claimed: Mutex::default(),
            to_delete: Mutex::new(true),
            wake: Condvar::new(),
            stranded: Mutex::default(),
        })
    }

    /// The same, where versions that are replaced or removed are kept.
    #[must_use]
    pub fn keeping(self, attic: Option<Attic>) -> Self {
        Self { attic, ..self }
    }

    /// The mount it is on.
    #[must_use]
    pub fn mount(&self) -> Mount {
        self.mount
    }

    /// The area for names in this directory, if that is another one: on a file system mounted below the module.
    ///
    /// # Errors
    /// There can be none.
    pub fn elsewhere(&self, dir: &OwnedFd) -> Result<Option<Arc<Self>>, Refusal> {
        self.elsewhere.area_of(self, dir)
    }

    /// The other areas that were opened so far.
    #[must_use]
    pub fn others(&self) -> Vec<Arc<Self>> {
        self.elsewhere.areas()
    }

    /// Where versions are kept, if they are.
    #[must_use]
    pub fn attic(&self) -> Option<&Attic> {
        self.attic.as_ref()
    }

    /// Waits a while for other processes to leave the area: a worker whose front was killed may be about
    /// to end. Whether they have.
    #[must_use]
    pub fn wait_until_alone(&self) -> bool {
        let deadline = Instant::now() + ALONE_WAIT;
        loop {
            match rustix::fs::flock(&self.stage, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return true,
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(ALONE_POLL);
                }
                Err(_) => return false,
            }
        }
    }

    /// From now on until this process ends others are told that they are not alone.
    ///
    /// # Errors
    /// Those of `flock`.
    pub fn share(&self) -> rustix::io::Result<()> {
        rustix::fs::flock(&self.stage, FlockOperation::LockShared)
    }

    /// The name of this copy of the module, if it has one yet; changes nothing.
    #[must_use]
    pub fn instance_of(root: &Root) -> Option<[u8; 16]> {
        let dir = root.open_dir(&reserved()?).ok()?;
        read_instance(&dir).ok()?
    }

    /// What the file system with the area of this directory of the module holds of times, if an area was opened there
    /// ever; changes nothing.
    #[must_use]
    pub fn times_of(root: &Root, at: &WirePath) -> Option<Times> {
        let dir = root.open_dir(&at.join_path(&reserved()?)?).ok()?;
        let stat = statx_at(dir, INSTANCE.as_bytes()).ok()??;
        Some(Times::found(TRIED, mtime_of(&stat)))
    }

    /// The name of this copy of the module.
    #[must_use]
    pub fn instance(&self) -> [u8; 16] {
        self.instance
    }

    /// The directory of things on their way.
    #[must_use]
    pub fn stage(&self) -> &OwnedFd {
        &self.stage
    }

    /// The directory of interrupted transfers.
    #[must_use]
    pub fn partial(&self) -> &OwnedFd {
        &self.partial
    }

    /// The directory of what is being deleted.
    #[must_use]
    pub fn trash(&self) -> &OwnedFd {
        &self.trash
    }

    /// A name never used before in this area.
    #[must_use]
    pub fn fresh_name(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}.{number:x}", self.tag)
    }

    /// A new, empty temporary file. Nobody else reaches it, whatever its permissions are.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn create(self: &Arc<Self>, mode: Mode) -> rustix::io::Result<(Temp, OwnedFd)> {
        let temp = self.temp();
        let file = create_at(&self.stage, &temp.name, mode)?;
        self.tidy();
        Ok((temp, file))
    }

    /// A new, empty file that has no name yet, where there can be one and not too many are open.
    #[must_use]
    pub fn create_nameless(self: &Arc<Self>, mode: Mode) -> Option<(Temp, OwnedFd)> {
        if !self.nameless.take() {
            return None;
        }
        let mut temp = self.temp();
        temp.unnamed = Some(Unnamed::default());
        // What is wrong is told by the other way.
        let file = nameless::create(&self.stage, mode).ok()?;
        Some((temp, file))
    }

    /// A new, empty file of this name in a nest, if it can be made there.
    #[must_use]
    pub fn create_in(
        self: &Arc<Self>,
        nest: &Arc<Nest>,
        name: &str,
        mode: Mode,
    ) -> Option<(Temp, OwnedFd)> {
        // What is wrong is told by the other way.
        let file = create_at(nest.dir(), name, mode).ok()?;
        let mut temp = self.named(name.to_owned());
        temp.nest = Some(Arc::clone(nest));
        Some((temp, file))
    }

    /// Room for nests.
    #[must_use]
    pub fn nests(&self) -> &Room {
        &self.nests
    }

    /// Whether files are made without a name.
    #[must_use]
    pub fn nameless(&self) -> &Nameless {
        &self.nameless
    }

    /// A temporary name, for something about to be made under it.
    #[must_use]
    pub fn temp(self: &Arc<Self>) -> Temp {
        self.named(self.fresh_name())
    }

    fn named(self: &Arc<Self>, name: String) -> Temp {
        Temp {
            area: Arc::clone(self),
            name,
            claim: None,
            left: false,
            nest: None,
            unnamed: None,
        }
    }

    /// The file of an interruptible transfer: a new one, or with `resume` the one that is there.
    /// `None` if another transfer of this key is under way.
    ///
    /// # Errors
    /// Those of the system; `ENOENT` if there is nothing to resume.
    pub fn keyed(
        self: &Arc<Self>,
        key: Digest,
        resume: bool,
    ) -> rustix::io::Result<Option<(Temp, OwnedFd)>> {
        if !self.claims().insert(key) {
            return Ok(None);
        }
        let mut temp = self.named(key.to_string());
        temp.claim = Some(key);
        let file = if resume {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&self.partial, &temp.name, flags, Mode::empty())?
        } else {
            remove_if_there(&self.partial, &temp.name)?;
            create_at(&self.partial, &temp.name, OWN)?
        };
        Ok(Some((temp, file)))
    }

    /// Moves `name` in `dir`, whatever it is, to where it will be deleted in the background: it is
    /// gone at once.
    ///
    /// # Errors
    /// Those of `rename`.
    pub fn discard(&self, dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::renameat(dir, name, &self.trash, self.fresh_name())?;
        self.wake_reaper();
        Ok(())
    }

    /// Waits until there is something to delete.
    pub fn wait_for_trash(&self) {
        let guard = self
            .to_delete
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_while(guard, |wanted| !*wanted);
        *waited.unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Has somebody look for things to delete.
    pub fn wake_reaper(&self) {
        *self
            .to_delete
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    /// A temporary name could not be removed, as on a file system that has become read only.
    fn strand(&self, name: String) {
        let mut stranded = self.stranded.lock().unwrap_or_else(PoisonError::into_inner);
        if stranded.len() < STRANDED_MAX {
            stranded.push(name);
        }
    }

    /// Tries again to remove what was left.
    fn tidy(&self) {
        let mut stranded = self.stranded.lock().unwrap_or_else(PoisonError::into_inner);
        stranded.retain(|name| {
            let done = self.discard(&self.stage, name.as_bytes());
            !matches!(done, Ok(()) | Err(Errno::NOENT))
        });
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A temporary name; removed when it is dropped, unless it was installed, or is that of a transfer
/// that may be continued.
#[derive(Debug)]
pub struct Temp {
    area: Arc<Area>,
    name: String,
    /// The transfer's key, for a file that is kept.
    claim: Option<Digest>,
    /// Nothing has this name any more.
    left: bool,
    /// The directory that it was made in, if that is not the staging directory.
    nest: Option<Arc<Nest>>,
    /// The file of it may have no name yet.
    unnamed: Option<Unnamed>,
}

/// A file made without a name; it counts until it is dropped.
#[derive(Debug, Default)]
struct Unnamed {
    file: Option<OwnedFd>,
    /// It has got its temporary name after all.
    named: Cell<bool>,
}

impl Temp {
    /// Directory it is in.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        match (&self.nest, &self.claim) {
            (Some(nest), _) => nest.dir(),
            (None, Some(_)) => &self.area.partial,
            (None, None) => &self.area.stage,
        }
    }

    /// Whether it was made in a nest.
    #[must_use]
    pub fn is_in_nest(&self) -> bool {
        self.nest.is_some()
    }

    /// Whether the directory that it was made in has got its name since: then this is its own.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.nest.as_ref().is_some_and(|nest| nest.is_published())
    }

    /// Its name there.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with its file, which is closed where it has a name.
    #[must_use]
    pub fn holding(mut self, file: OwnedFd) -> Self {
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.file = Some(file);
        }
        self
    }

    /// The file, as long as it has no name.
    #[must_use]
    pub fn unnamed(&self) -> Option<&OwnedFd> {
        let unnamed = self.unnamed.as_ref()?;
        unnamed.file.as_ref().filter(|_| !unnamed.named.get())
    }

    /// Gives a file that has no name its temporary one.
    ///
    /// # Errors
    /// Those of `link`: it has none then, and files have names from now on.
    pub fn give_name(&self) -> rustix::io::Result<()> {
        let Some(unnamed) = &self.unnamed else {
            return Ok(());
        };
        if let Some(file) = self.unnamed() {
            let linked = nameless::link(file, &self.area.stage, self.name.as_bytes());
            linked.inspect_err(|errno| self.area.nameless.failed(*errno))?;
            unnamed.named.set(true);
        }
        Ok(())
    }

    /// Opens its file to be read.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(&self) -> rustix::io::Result<OwnedFd> {
        match self.unnamed() {
            Some(file) => rustix::io::fcntl_dupfd_cloexec(file, 0),
            None => rustix::fs::openat(self.dir(), self.name(), READABLE, Mode::empty()),
        }
    }

    /// It has left its temporary name, which is not looked for again.
    pub fn installed(mut self) {
        self.left = true;
    }

    /// Removes the file even if it could be continued.
    pub fn remove(self) {
        let _ = remove_if_there(self.dir(), &self.name);
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(unnamed) = self.unnamed.take() {
            self.left |= !unnamed.named.get();
            drop(unnamed);
            self.area.nameless.give();
        }
        match (&self.claim, &self.nest) {
            (Some(key), _) => {
                self.area.claims().remove(key);
            }
            (None, _) if self.left || self.is_in_place() => {}
            (None, Some(nest)) => drop(remove_if_there(nest.dir(), &self.name)),
            (None, None) => {
                if remove_if_there(&self.area.stage, &self.name).is_err() {
                    self.area.strand(std::mem::take(&mut self.name));
                }
            }
        }
    }
}

/// The path of the area in its module.
fn reserved() -> Option<WirePath> {
    WirePath::from_relative(std::path::Path::new(
        std::str::from_utf8(RESERVED_NAME).ok()?,
    ))
}

fn own_dir(root: &Root) -> Result<OwnedFd, Refusal> {
    let made = rustix::fs::mkdirat(root.fd(), RESERVED_NAME, Mode::RWXU);
    match made {
        Ok(()) => sync_root(root).map_err(broken)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(broken(error)),
    }
    let flags = LISTABLE | OFlags::NOFOLLOW;
    let dir = rustix::fs::openat(root.fd(), RESERVED_NAME, flags, Mode::empty());
    let dir = dir.map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => not_ours("it is not a directory"),
        other => broken(other),
    })?;
    let stat = statx_fd(&dir).map_err(broken)?;
    if stat.stx_uid != rustix::process::geteuid().as_raw() {
        return Err(not_ours(&format!("user {} owns it", stat.stx_uid)));
    }
    if stat.stx_mode & 0o022 != 0 {
        return Err(not_ours("others may write to it"));
    }
    Ok(dir)
}

fn sync_root(root: &Root) -> rustix::io::Result<()> {
    rustix::fs::fsync(root.open_listable(&WirePath::root())?)
}

fn not_ours(why: &str) -> Refusal {
    let text = format!(
        "the module has a '.syncd' that is not this receiver's staging area ({why}): move it away"
    );
    Refusal::new(RejectCode::ModuleUnavailable, text)
}

fn broken(error: Errno) -> Refusal {
    let text = format!(
        "cannot use the staging area '.syncd' of the module: {}",
        describe(error)
    );
    Refusal::new(RejectCode::ModuleUnavailable, text)
}

fn private_dir(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(dir, name, LISTABLE | OFlags::NOFOLLOW, Mode::empty())
}

fn create_at(dir: &OwnedFd, name: &str, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, mode)
}

fn remove_if_there(dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Permissions of what is not finished.
pub const OWN: Mode = Mode::RUSR.union(Mode::WUSR);

/// Most names that are remembered to be removed later; a new worker removes the others.
const STRANDED_MAX: usize = 4_096;

/// A time that every file system has room for, and of which less is left wherever less is held: the second is odd.
const TRIED: Mtime = Mtime::said(1_000_000_001, 987_654_321);

/// How long a new worker waits for one before it to leave, and how often it looks.
const ALONE_WAIT: Duration = Duration::from_secs(3);
const ALONE_POLL: Duration = Duration::from_millis(5);

const INSTANCE: &str = "instance";

fn read_instance(dir: &OwnedFd) -> rustix::io::Result<Option<[u8; 16]>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, INSTANCE, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; 17];
    let length = rustix::io::read(&file, &mut bytes[..])?;
    // One of another length was never whole: it is made anew.
    Ok(bytes[..length].try_into().ok())
}

fn make_instance(dir: &OwnedFd, stage: &OwnedFd) -> rustix::io::Result<[u8; 16]> {
    let instance = random::<16>()?;
    remove_if_there(stage, INSTANCE)?;
    let file = create_at(stage, INSTANCE, OWN)?;
    if rustix::io::write(&file, &instance)? != instance.len() {
        return Err(Errno::NOSPC);
    }
    rustix::fs::fsync(&file)?;
    rustix::fs::renameat(stage, INSTANCE, dir, INSTANCE)?;
    rustix::fs::fsync(dir)?;
    Ok(instance)
}

fn random<const N: usize>() -> rustix::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Errno::IO)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::super::root::HANDLE;
    use super::*;

    fn root(dir: &Path) -> Root {
        let fd = rustix::fs::open(dir, HANDLE, Mode::empty()).unwrap();
        Root::new(fd, false).unwrap()
    }

    #[test]
    fn it_is_private_and_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Area::instance_of(&root(dir.path())), None);
        let first = Area::open(&root(dir.path())).unwrap();
        let mode = fs::metadata(dir.path().join(".syncd")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o7777, 0o700);
        let second = Area::open(&root(dir.path())).unwrap();
        assert_eq!(first.instance(), second.instance());
        assert_eq!(Area::instance_of(&root(dir.path())), Some(first.instance()));
        assert_ne!(first.instance(), [0; 16]);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join(".syncd");
        fs::write(&at, "a file").unwrap();
        assert!(Area::open(&root(dir.path())).is_err());
        fs::remove_file(&at).unwrap();
        symlink("/tmp", &at).unwrap();
        assert!(Area::open(&root(dir.path())).is_err());
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o777)).unwrap();
        let refusal = Area::open(&root(dir.path())).unwrap_err();
        assert_eq!(refusal.code, RejectCode::ModuleUnavailable);
        assert!(refusal.text.contains("others may write"), "{refusal}");
    }

    #[test]
    fn a_temporary_file_goes_with_its_name_and_a_keyed_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let area = Arc::new(Area::open(&root(dir.path())).unwrap());
        let count = |place: &str| fs::read_dir(dir.path().join(place)).unwrap().count();
        let temp = area.create(OWN).unwrap();
        assert_eq!(count(".syncd/stage"), 1);
        drop(temp);
        assert_eq!(count(".syncd/stage"), 0);
        let key = Digest::of(b"k");
        let keyed = area.keyed(key, false).unwrap().unwrap();
        assert!(area.keyed(key, false).unwrap().is_none(), "taken");
        drop(keyed);
        assert_eq!(count(".syncd/partial"), 1);
        let (temp, _) = area.keyed(key, true).unwrap().unwrap();
        temp.remove();
        assert_eq!(count(".syncd/partial"), 0);
        assert_eq!(area.keyed(key, true).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn a_temporary_name_that_cannot_be_removed_goes_later() {
        let dir = tempfile::tempdir().unwrap();
        let area = Arc::new(Area::open(&root(dir.path())).unwrap());
        let count = |place: &str| fs::read_dir(dir.path().join(place)).unwrap().count();
        let temp = area.temp();
        // A directory is not removed as a file is: so it fails, as everything does on a read-only disk.
        fs::create_dir(dir.path().join(".syncd/stage").join(temp.name())).unwrap();
        drop(temp);
        assert_eq!((count(".syncd/stage"), count(".syncd/trash")), (1, 0));
        drop(area.create(Mode::RUSR | Mode::WUSR).unwrap());
        assert_eq!((count(".syncd/stage"), count(".syncd/trash")), (0, 1));
    }
}
