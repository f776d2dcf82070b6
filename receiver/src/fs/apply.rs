//! [`Applier`]: one operation at a time. First what it installs is made under a temporary name, with
//! all its metadata ([`Applier::prepare`]); then names change ([`Applier::perform`]).
//!
//! Nothing is ever written into an existing inode, no symlink is followed, and a name that is replaced
//! is never missing in between. What was done is noted in [`Touched`], so that it can be made durable.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx, StatxAttributes};
use rustix::io::Errno;

use syncd_proto::meta::{Kind, Meta};
use syncd_proto::op::{Content, Expect, Op};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::area::{Area, Temp};
use super::meta::{Keeper, identity_of, kind_of, mtime_of, statx_at, statx_fd};
use super::refusal::Refusal;
use super::root::{LISTABLE, READABLE, Root};
use super::stage::Staged;
use super::touched::Touched;

/// What an operation installs, ready under a temporary name.
#[derive(Debug)]
pub enum Prepared {
    /// An entry to be renamed to its place.
    Entry(Temp),
    /// Nothing: the operation only works on what is there.
    Nothing,
}

/// Carries out operations below one root.
#[derive(Debug)]
pub struct Applier<'a> {
    /// Where.
    pub root: &'a Root,
    /// Where things are made.
    pub area: &'a Arc<Area>,
    /// What may be set.
    pub keeper: &'a Keeper,
    /// What has been changed.
    pub touched: &'a mut Touched,
}

type Done = Result<(), Refusal>;

impl Applier<'_> {
    /// Makes what `op` installs. `staged` finds a staged transfer; `sync` makes each file durable by
    /// itself.
    ///
    /// # Errors
    /// The operation is refused; the others of its commit stand.
    pub fn prepare(
        &self,
        op: &Op,
        inline: Option<&[u8]>,
        staged: impl FnOnce(u64) -> Option<Staged>,
        sync: bool,
    ) -> Result<Prepared, Refusal> {
        check_paths(op)?;
        let fail = |errno| Refusal::system(op.verb(), op.path(), errno);
        match op {
            Op::Put { meta, content, .. } => {
                let staged = self.content(op, content, inline, staged)?;
                let fd = staged.fd();
                self.keeper
                    .set_fd(fd, Kind::File, meta)
                    .map_err(|errno| metadata_refusal(op, errno))?;
                if sync {
                    rustix::fs::fsync(fd).map_err(fail)?;
                }
                Ok(Prepared::Entry(staged.into_temp()))
            }
            Op::Symlink { meta, target, .. } => {
                let temp = self.area.temp();
                self.make_symlink(&temp, target, meta).map_err(fail)?;
                Ok(Prepared::Entry(temp))
            }
            Op::Special {
                meta, kind, rdev, ..
            } => self
                .make_special(*kind, *rdev, meta)
                .map(Prepared::Entry)
                .map_err(fail),
            _ => Ok(Prepared::Nothing),
        }
    }

    /// Changes the names.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn perform(&mut self, op: &Op, prepared: Prepared) -> Done {
        match (op, prepared) {
            (_, Prepared::Entry(temp)) => self.install(op, &temp),
            (Op::Mkdir { path, meta }, _) => self.mkdir(op, path, meta),
            (Op::Link { to, .. }, _) => self.link(op, to),
            (Op::Rename { from, to, expect }, _) => self.rename(op, from, to, expect.as_ref()),
            (Op::Exchange { a, b }, _) => self.exchange(op, a, b),
            (Op::Remove { path, recursive }, _) => self.remove(op, path, *recursive),
            (
                Op::SetMeta {
                    path,
                    kind,
                    size,
                    meta,
                },
                _,
            ) => self.set_meta(op, path, (*kind, *size), meta),
            (Op::Put { .. } | Op::Symlink { .. } | Op::Special { .. }, Prepared::Nothing) => {
                Err(Refusal::new(RejectCode::Other, "nothing was prepared"))
            }
        }
    }

    fn content(
        &self,
        op: &Op,
        content: &Content,
        inline: Option<&[u8]>,
        find: impl FnOnce(u64) -> Option<Staged>,
    ) -> Result<Staged, Refusal> {
        let bad = |what: &str| {
            let text = format!("cannot put {}: {what}", op.path());
            Refusal::new(RejectCode::BadContent, text)
        };
        match content {
            Content::Inline { digest, .. } => {
                let bytes = inline.ok_or_else(|| bad("inline content is missing"))?;
                Staged::inline(self.area, bytes, digest)
            }
            Content::Staged {
                transfer,
                len,
                digest,
            } => {
                let staged = find(*transfer).ok_or_else(|| bad("its transfer is not complete"))?;
                if staged.len() != *len || staged.digest() != digest {
                    return Err(bad("its transfer has another length or digest"));
                }
                Ok(staged)
            }
        }
    }

    fn make_symlink(&self, temp: &Temp, target: &[u8], meta: &Meta) -> rustix::io::Result<()> {
        rustix::fs::symlinkat(target, temp.dir(), temp.name())?;
        self.keeper
            .set_link(temp.dir(), temp.name().as_bytes(), meta)
    }

    fn make_special(
        &self,
        kind: Kind,
        (major, minor): (u32, u32),
        meta: &Meta,
    ) -> rustix::io::Result<Temp> {
        let file_type = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::File | Kind::Dir | Kind::Symlink => return Err(Errno::INVAL),
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = if is_device {
            rustix::fs::makedev(major, minor)
        } else {
            0
        };
        let temp = self.area.temp();
        let mode = self.keeper.mode(kind, meta);
        rustix::fs::mknodat(temp.dir(), temp.name(), file_type, mode, device)?;
        self.keeper
            .set_link(temp.dir(), temp.name().as_bytes(), meta)?;
        // Giving it away may have cleared bits; nobody else can reach the name here.
        rustix::fs::chmodat(temp.dir(), temp.name(), mode, AtFlags::empty())?;
        self.keeper
            .set_link(temp.dir(), temp.name().as_bytes(), meta)?;
        Ok(temp)
    }

    /// Renames a temporary entry to its place, whatever stands there.
    fn install(&mut self, op: &Op, temp: &Temp) -> Done {
        let path = op.path();
        let (dir, name) = self.place(op, path)?;
        let publish = || {
            replace(
                self.area,
                (temp.dir(), temp.name().as_bytes()),
                (&*dir, name),
            )
        };
        let replaced = self
            .with_right_to(&dir, publish)
            .map_err(|errno| self.refusal(op, path, errno))?;
        if replaced == Replaced::Directory {
            self.root.forget(path);
        }
        self.touched.dir(path.parent(), dir);
        Ok(())
    }

    fn mkdir(&mut self, op: &Op, path: &WirePath, meta: &Meta) -> Done {
        if path.is_root() {
            return self.set_dir(op, path, meta);
        }
        let (dir, name) = self.place(op, path)?;
        let found = statx_at(&dir, name).map_err(|errno| self.refusal(op, path, errno))?;
        if found.is_some_and(|stat| kind_of(&stat) == Some(Kind::Dir)) {
            return self.set_dir(op, path, meta);
        }
        let fail = |errno| Refusal::system(op.verb(), path, errno);
        let temp = self.area.temp();
        rustix::fs::mkdirat(temp.dir(), temp.name(), Mode::RWXU).map_err(fail)?;
        let result = self.publish_dir(op, &temp, meta);
        if result.is_err() {
            let _ = rustix::fs::unlinkat(temp.dir(), temp.name(), AtFlags::REMOVEDIR);
        }
        result
    }

    fn publish_dir(&mut self, op: &Op, temp: &Temp, meta: &Meta) -> Done {
        let flags = LISTABLE | OFlags::NOFOLLOW;
        let made = rustix::fs::openat(temp.dir(), temp.name(), flags, Mode::empty());
        let made = made.map_err(|errno| Refusal::system(op.verb(), op.path(), errno))?;
        self.keeper
            .set_fd(made.as_fd(), Kind::Dir, meta)
            .map_err(|errno| metadata_refusal(op, errno))?;
        self.install(op, temp)?;
        self.touched.file(made);
        Ok(())
    }

    fn set_dir(&mut self, op: &Op, path: &WirePath, meta: &Meta) -> Done {
        self.set_meta(op, path, (Kind::Dir, 0), meta)
    }

    fn link(&mut self, op: &Op, to: &WirePath) -> Done {
        let (source_dir, source) = self.place(op, to)?;
        let found = statx_at(&source_dir, source).map_err(|errno| self.refusal(op, to, errno))?;
        if !found.is_some_and(|stat| kind_of(&stat) != Some(Kind::Dir)) {
            return Err(mismatch(op, to, "there is no file to link to"));
        }
        let temp = self.area.temp();
        let flags = AtFlags::empty();
        rustix::fs::linkat(&source_dir, source, temp.dir(), temp.name(), flags)
            .map_err(|errno| self.refusal(op, to, errno))?;
        // If the path is another name of it already, the rename does nothing and the temporary name
        // goes as it always does.
        self.install(op, &temp)
    }

    fn rename(&mut self, op: &Op, from: &WirePath, to: &WirePath, expect: Option<&Expect>) -> Done {
        let (from_dir, from_name) = self.place(op, from)?;
        let (to_dir, to_name) = self.place(op, to)?;
        let found =
            statx_at(&from_dir, from_name).map_err(|errno| self.refusal(op, from, errno))?;
        let Some(found) = found else {
            return Err(mismatch(op, from, "there is nothing"));
        };
        if expect.is_some_and(|expect| !is_expected(&found, expect)) {
            return Err(mismatch(op, from, "another version is there"));
        }
        let publish = || {
            if !from.starts_with(to) {
                return replace(self.area, (&*from_dir, from_name), (&*to_dir, to_name));
            }
            // It takes the place of a directory that it is in: it has to leave that first.
            let temp = self.area.temp();
            rustix::fs::renameat(&*from_dir, from_name, temp.dir(), temp.name())?;
            replace(
                self.area,
                (temp.dir(), temp.name().as_bytes()),
                (&*to_dir, to_name),
            )
        };
        self.with_right_to(&from_dir, || self.with_right_to(&to_dir, publish))
            .map_err(|errno| self.refusal(op, to, errno))?;
        self.drop_old_name(&from_dir, from_name, &found)
            .map_err(|errno| self.refusal(op, from, errno))?;
        self.root.forget(from);
        self.root.forget(to);
        self.touched.dir(from.parent(), from_dir);
        self.touched.dir(to.parent(), to_dir);
        Ok(())
    }

    /// Renaming one name of a file to another name of it does nothing; the old one has to go.
    fn drop_old_name(&self, dir: &OwnedFd, name: &[u8], was: &Statx) -> rustix::io::Result<()> {
        if was.stx_nlink < 2 || kind_of(was) == Some(Kind::Dir) {
            return Ok(());
        }
        match statx_at(dir, name)? {
            Some(now) if identity_of(&now) == identity_of(was) => {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())
            }
            _ => Ok(()),
        }
    }

    fn exchange(&mut self, op: &Op, a: &WirePath, b: &WirePath) -> Done {
        let (a_dir, a_name) = self.place(op, a)?;
        let (b_dir, b_name) = self.place(op, b)?;
        let flags = RenameFlags::EXCHANGE;
        let swap = || rustix::fs::renameat_with(&a_dir, a_name, &b_dir, b_name, flags);
        self.with_right_to(&a_dir, || self.with_right_to(&b_dir, swap))
            .map_err(|errno| match errno {
                Errno::NOENT => mismatch(op, a, "one of the two is not there"),
                other => self.refusal(op, a, other),
            })?;
        self.root.forget(a);
        self.root.forget(b);
        self.touched.dir(a.parent(), a_dir);
        self.touched.dir(b.parent(), b_dir);
        Ok(())
    }

    fn remove(&mut self, op: &Op, path: &WirePath, recursive: bool) -> Done {
        let (dir, name) = match self.root.parent(path) {
            Ok(Some((dir, name))) => (dir, name.as_bytes()),
            Ok(None) => return Err(root_refusal(op)),
            // Where there is no parent, or only a symlink of its name, there is nothing below it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(self.refusal(op, path, errno)),
        };
        let take_away = || {
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                done => return done,
            }
            match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => {
                    discard_dir(self.area, &dir, name)
                }
                done => done,
            }
        };
        match self.with_right_to(&dir, take_away) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.refusal(op, path, errno)),
        }
        self.root.forget(path);
        self.touched.dir(path.parent(), dir);
        Ok(())
    }

    fn set_meta(
        &mut self,
        op: &Op,
        path: &WirePath,
        (kind, size): (Kind, u64),
        meta: &Meta,
    ) -> Done {
        match kind {
            Kind::File | Kind::Dir => self.set_opened(op, path, (kind, size), meta),
            Kind::Symlink => {
                let (dir, name) = self.place(op, path)?;
                self.expect_kind(op, &dir, name, kind)?;
                self.keeper
                    .set_link(&dir, name, meta)
                    .map_err(|errno| self.refusal(op, path, errno))?;
                self.touched.unnamed();
                Ok(())
            }
            // Such a file is not opened; one like it takes its place.
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                let (dir, name) = self.place(op, path)?;
                let stat = self.expect_kind(op, &dir, name, kind)?;
                let rdev = (stat.stx_rdev_major, stat.stx_rdev_minor);
                let temp = self
                    .make_special(kind, rdev, meta)
                    .map_err(|errno| self.refusal(op, path, errno))?;
                self.install(op, &temp)
            }
        }
    }

    fn set_opened(
        &mut self,
        op: &Op,
        path: &WirePath,
        (kind, size): (Kind, u64),
        meta: &Meta,
    ) -> Done {
        let opened = if kind == Kind::Dir {
            self.open_dir_to_set(path)
        } else {
            self.root.open_file(path).or_else(|errno| {
                // Our own file, but not even we may read it.
                if errno == Errno::ACCESS {
                    self.open_unreadable(path)
                } else {
                    Err(errno)
                }
            })
        };
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ISDIR) => {
                return Err(mismatch(
                    op,
                    path,
                    "another kind of file, or nothing, is there",
                ));
            }
            Err(errno) => return Err(self.refusal(op, path, errno)),
        };
        let stat = statx_fd(&file).map_err(|errno| self.refusal(op, path, errno))?;
        let size_differs = kind == Kind::File && stat.stx_size != size;
        if kind_of(&stat) != Some(kind) || size_differs {
            return Err(mismatch(op, path, "another version is there"));
        }
        self.keeper
            .set_fd(file.as_fd(), kind, meta)
            .map_err(|errno| metadata_refusal(op, errno))?;
        self.touched.file(file);
        Ok(())
    }

    fn open_dir_to_set(&self, path: &WirePath) -> rustix::io::Result<OwnedFd> {
        match self.root.open_listable(path) {
            Err(Errno::ACCESS) => {}
            opened => return opened,
        }
        let dir = self.root.open_dir(path)?;
        grant(&dir, Mode::RWXU)?;
        self.root.open_listable(path)
    }

    fn open_unreadable(&self, path: &WirePath) -> rustix::io::Result<OwnedFd> {
        let Some((dir, name)) = self.root.parent(path)? else {
            return Err(Errno::ACCESS);
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&dir, name.as_bytes(), flags, Mode::empty())?;
        if kind_of(&statx_fd(&handle)?) != Some(Kind::File) {
            return Err(Errno::ACCESS);
        }
        grant(&handle, Mode::RUSR)?;
        rustix::fs::openat(&dir, name.as_bytes(), READABLE, Mode::empty())
    }

    fn expect_kind(
        &self,
        op: &Op,
        dir: &OwnedFd,
        name: &[u8],
        kind: Kind,
    ) -> Result<Statx, Refusal> {
        let found = statx_at(dir, name).map_err(|errno| self.refusal(op, op.path(), errno))?;
        found
            .filter(|stat| kind_of(stat) == Some(kind))
            .ok_or_else(|| mismatch(op, op.path(), "another kind of file, or nothing, is there"))
    }

    /// The directory that holds `path`, and its name there.
    fn place<'p>(&self, op: &Op, path: &'p WirePath) -> Result<(Arc<OwnedFd>, &'p [u8]), Refusal> {
        match self.root.parent(path) {
            Ok(Some((dir, name))) => Ok((dir, name.as_bytes())),
            Ok(None) => Err(root_refusal(op)),
            Err(errno) => Err(Refusal::system(op.verb(), path, errno)),
        }
    }

    /// Tries `change`; if a directory of ours forbids it by its own mode, that is lifted meanwhile.
    /// Only needed, and only tried, where we are not root.
    fn with_right_to<T>(
        &self,
        dir: &OwnedFd,
        change: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match change() {
            Err(Errno::ACCESS) if !self.keeper.powers.any_mode => {}
            done => return done,
        }
        let stat = statx_fd(dir)?;
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode & 0o7777));
        if mode.contains(Mode::WUSR | Mode::XUSR) || grant(dir, mode | Mode::RWXU).is_err() {
            return Err(Errno::ACCESS);
        }
        let done = change();
        grant(dir, mode)?;
        done
    }

    /// What is told, with a look at why something was not permitted.
    fn refusal(&self, op: &Op, path: &WirePath, errno: Errno) -> Refusal {
        let mut refusal = Refusal::system(op.verb(), path, errno);
        if matches!(errno, Errno::PERM | Errno::ACCESS) && self.is_immutable(path) {
            refusal.code = RejectCode::Immutable;
            refusal.text.push_str(" (immutable or append-only)");
        }
        refusal
    }

    fn is_immutable(&self, path: &WirePath) -> bool {
        let Ok(Some((dir, name))) = self.root.parent(path) else {
            return false;
        };
        let marked = |stat: &Statx| {
            let marks = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
            stat.stx_attributes.intersects(marks)
        };
        let own = statx_at(&dir, name.as_bytes());
        own.ok().flatten().as_ref().is_some_and(marked)
            || statx_fd(&*dir).as_ref().is_ok_and(marked)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaced {
    Directory,
    AtMostAFile,
}

/// Renames `from` to `to`, whatever stands there; a directory in the way, or below a file's name, is
/// swapped out and thrown away, so that the name is never missing.
fn replace(
    area: &Area,
    (from_dir, from): (&OwnedFd, &[u8]),
    (to_dir, to): (&OwnedFd, &[u8]),
) -> rustix::io::Result<Replaced> {
    for _ in 0..RACES_MAX {
        match rustix::fs::renameat(from_dir, from, to_dir, to) {
            Ok(()) => return Ok(Replaced::AtMostAFile),
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        match rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::EXCHANGE) {
            Ok(()) => {
                discard_dir(area, from_dir, from)?;
                return Ok(Replaced::Directory);
            }
            // A file system without exchange: the name is missing for a moment.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => discard_dir(area, to_dir, to)?,
            // It went away meanwhile.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY)
}

/// Throws an entry away; a directory of ours that forbids to be moved by its own mode is made to.
fn discard_dir(area: &Area, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match area.discard(dir, name) {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    grant(&handle, Mode::RWXU)?;
    area.discard(dir, name)
}

/// Sets the mode of what a descriptor names, even if it cannot be opened.
fn grant(handle: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    if let Ok(opened) = rustix::fs::openat(handle, ".", LISTABLE, Mode::empty()) {
        return rustix::fs::fchmod(opened, mode);
    }
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(handle));
    rustix::fs::chmod(path, mode)
}

fn is_expected(stat: &Statx, expect: &Expect) -> bool {
    let same_size = expect.kind != Kind::File || stat.stx_size == expect.size;
    let same_time = expect.mtime.is_none_or(|mtime| mtime == mtime_of(stat));
    kind_of(stat) == Some(expect.kind) && same_size && same_time
}

fn check_paths(op: &Op) -> Done {
    match op.paths().find(|path| path.is_reserved()) {
        None => Ok(()),
        Some(path) => {
            let text = format!("cannot {} {path}: the name is reserved", op.verb());
            Err(Refusal::new(RejectCode::ReservedName, text))
        }
    }
}

fn root_refusal(op: &Op) -> Refusal {
    let text = format!("cannot {} the root of the mirror itself", op.verb());
    Refusal::new(RejectCode::BadName, text)
}

fn mismatch(op: &Op, path: &WirePath, what: &str) -> Refusal {
    let text = format!("cannot {} {path}: {what}", op.verb());
    Refusal::new(RejectCode::Mismatch, text)
}

fn metadata_refusal(op: &Op, errno: Errno) -> Refusal {
    let mut refusal = Refusal::system("set metadata of", op.path(), errno);
    if matches!(errno, Errno::INVAL | Errno::OPNOTSUPP) {
        refusal.code = RejectCode::Unsupported;
    }
    refusal
}

/// How often a lost race is tried again.
const RACES_MAX: usize = 16;
