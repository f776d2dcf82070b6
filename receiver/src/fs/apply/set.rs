//! Setting metadata of what is there, by descriptor wherever it can be opened.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Statx};
use rustix::io::Errno;

use syncd_proto::digest::Hasher;
use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::meta::{Kind, Meta};
use syncd_proto::op::Op;
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::rights::grant;
use super::{Applier, Done, complete, metadata_refusal, mismatch};
use crate::fs::area::Temp;
use crate::fs::attributes::Place;
use crate::fs::fake;
use crate::fs::meta::{identity_of, kind_of, link_target, mtime_of, statx_at, statx_fd, times};
use crate::fs::refusal::Refusal;
use crate::fs::root::READABLE;

impl Applier<'_> {
    /// Sets metadata of what must be of this kind (and, for a file, of this size).
    pub(super) fn set_meta(
        &mut self,
        op: &Op,
        path: &WirePath,
        (kind, size): (Kind, u64),
        meta: &Meta,
    ) -> Done {
        match kind {
            _ if kind != Kind::Dir && self.keeper.guard.fakes() => {
                self.set_faked(op, path, (kind, size), meta)
            }
            Kind::File | Kind::Dir => self.set_opened(op, path, (kind, size), meta),
            // By its name it cannot be held while it is changed, and another may be put there; one like it takes its
            // place.
            Kind::Symlink => {
                let (dir, name) = self.place(op, path)?;
                let target = link_target(&dir, name)
                    .map_err(|errno| self.refusal(op, path, errno))?
                    .ok_or_else(|| {
                        mismatch(op, path, "another kind of file, or nothing, is there")
                    })?;
                let (temp, lacking) = self
                    .maker()
                    .make_link(&target, meta)
                    .map_err(|errno| self.refusal(op, path, errno))?;
                self.put_like(op, path, &temp)?;
                temp.installed();
                complete(op, lacking.as_ref())
            }
            // Such a file is not opened; one like it takes its place.
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                let (dir, name) = self.place(op, path)?;
                let stat = self.expect_kind(op, &dir, name, kind)?;
                let rdev = (stat.stx_rdev_major, stat.stx_rdev_minor);
                let (temp, lacking) = self
                    .maker()
                    .make_special(kind, rdev, meta)
                    .map_err(|errno| self.refusal(op, path, errno))?;
                self.put_like(op, path, &temp)?;
                temp.installed();
                complete(op, lacking.as_ref())
            }
        }
    }

    /// Sets metadata of a file that must have this content. One that is not ours to change can be replaced, as far as is
    /// known, by the same file with its content.
    pub(super) fn set_same(&mut self, op: &Op, path: &WirePath, len: u32, meta: &Meta) -> Done {
        let done = self.set_meta(op, path, (Kind::File, u64::from(len)), meta);
        done.map_err(|mut refusal| {
            if refusal.code == RejectCode::Permission {
                refusal.code = RejectCode::Mismatch;
            }
            refusal
        })
    }

    /// Puts something in the place of what it is like: its directory does not change, for all that an agent knows.
    fn put_like(&mut self, op: &Op, path: &WirePath, temp: &Temp) -> Done {
        let (dir, _) = self.place(op, path)?;
        let fail = |errno| Refusal::system(op.verb(), path, errno);
        let before = statx_fd(&*dir).map_err(fail)?;
        self.install(op, temp)?;
        let kept = times(mtime_of(&before));
        // Where the directory is not ours its times are not either.
        let _ = rustix::fs::utimensat(&*dir, ".", &kept, AtFlags::empty());
        self.touched.dir(path.parent(), dir);
        Ok(())
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
        self.expect_own(op, path, &stat)?;
        self.expect_same(op, path, &file)?;
        let lacking =
            self.keeper
                .set_fd(file.as_fd(), kind, meta)
                .map_err(|errno| match errno {
                    Errno::PERM | Errno::ACCESS => self.refusal(op, path, errno),
                    errno => metadata_refusal(op, errno),
                })?;
        self.expect_same(op, path, &file)?;
        self.touched.file(file);
        complete(op, lacking.as_ref())
    }

    /// The same of a file that is said to be of this kind.
    fn set_faked(
        &mut self,
        op: &Op,
        path: &WirePath,
        (kind, size): (Kind, u64),
        meta: &Meta,
    ) -> Done {
        let other = || mismatch(op, path, "another kind of file, or nothing, is there");
        let file = match self.root.open_file(path) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ISDIR) => {
                return Err(other());
            }
            opened => opened.map_err(|errno| self.refusal(op, path, errno))?,
        };
        let stat = statx_fd(&file).map_err(|errno| self.refusal(op, path, errno))?;
        let said = fake::read(&Place::Opened(file.as_fd()))
            .map_err(|errno| self.refusal(op, path, errno))?
            .filter(|said| said.fits(Kind::File));
        if kind_of(&stat) != Some(Kind::File) || said.map_or(Kind::File, |said| said.kind) != kind {
            return Err(other());
        }
        if kind == Kind::File && stat.stx_size != size {
            return Err(mismatch(op, path, "another version is there"));
        }
        self.expect_own(op, path, &stat)?;
        self.expect_same(op, path, &file)?;
        let rdev = said.map_or((0, 0), |said| said.rdev);
        let lacking = self
            .keeper
            .set_fake(file.as_fd(), kind, rdev, meta)
            .map_err(|errno| metadata_refusal(op, errno))?;
        self.expect_same(op, path, &file)?;
        self.touched.file(file);
        complete(op, lacking.as_ref())
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
        let stat = statx_fd(&handle)?;
        if kind_of(&stat) != Some(Kind::File) || !self.keeper.guard.own().may_change(&stat) {
            return Err(Errno::ACCESS);
        }
        grant(&handle, Mode::RUSR)?;
        rustix::fs::openat(&dir, name.as_bytes(), READABLE, Mode::empty())
    }

    /// A file that has names we know nothing of is left as it is: one of them may be outside of the module. The agent
    /// sends the file anew then. Where it has told all of them they are looked at.
    fn expect_own(&self, op: &Op, path: &WirePath, stat: &Statx) -> Done {
        let is_told = matches!(op, Op::Same { .. });
        if is_told || kind_of(stat) == Some(Kind::Dir) || self.keeper.guard.own().may_change(stat) {
            return Ok(());
        }
        Err(mismatch(
            op,
            path,
            "it has other names, perhaps not in the module",
        ))
    }

    /// Where the content must be known, it is this one, and the file has the names that are told and no other: that one
    /// may be another file at the agent, or not be in the module. Asked again when all is set: what is written to the file
    /// after that gives it a later time.
    fn expect_same(&self, op: &Op, path: &WirePath, file: &OwnedFd) -> Done {
        let Op::Same {
            len, digest, names, ..
        } = op
        else {
            return Ok(());
        };
        let fail = |errno| self.refusal(op, path, errno);
        let stat = statx_fd(file).map_err(fail)?;
        let told = match names.as_slice() {
            [] => Some(1),
            _ => self.count_names(op, &stat),
        };
        if told.is_none_or(|told| stat.stx_nlink > told) {
            return Err(mismatch(op, path, "it has other names"));
        }
        let mut buffer = [0; READ_BYTES];
        let (mut hasher, mut read) = (Hasher::new(), 0);
        while read <= INLINE_FILE_BYTES_MAX {
            match rustix::io::pread(file, &mut buffer, read).map_err(fail)? {
                0 => break,
                count => {
                    hasher.update(&buffer[..count]);
                    read += count as u64;
                }
            }
        }
        match read == u64::from(*len) && hasher.finish() == *digest {
            true => Ok(()),
            false => Err(mismatch(op, path, "another version is there")),
        }
    }

    /// How many of the names that are told are names of this file; `None` if one is not. What is one entry of one directory
    /// counts once, whatever leads there.
    fn count_names(&self, op: &Op, file: &Statx) -> Option<u32> {
        let mut found = HashSet::new();
        for path in op.paths() {
            let (dir, name) = self.place(op, path).ok()?;
            let there = statx_at(&dir, name).ok().flatten()?;
            if identity_of(&there) != identity_of(file) {
                return None;
            }
            found.insert((identity_of(&statx_fd(&*dir).ok()?), name));
        }
        u32::try_from(found.len()).ok()
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
}

/// Content is read in pieces of so many bytes.
const READ_BYTES: usize = 16 << 10;
