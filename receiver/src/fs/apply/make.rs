//! [`Maker`]: what an operation installs, made under a temporary name with all its metadata.

use std::sync::Arc;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use syncd_proto::digest::Digest;
use syncd_proto::meta::{Kind, Meta};
use syncd_proto::op::{Content, Op};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::reject::RejectCode;

use super::{Done, metadata_refusal, mismatch};
use crate::fs::area::{Area, OWN, Temp};
use crate::fs::attributes::Lacking;
use crate::fs::meta::Keeper;
use crate::fs::nameless::Guess;
use crate::fs::nest::Nest;
use crate::fs::refusal::Refusal;
use crate::fs::root::Root;
use crate::fs::stage::{Birth, Staged};
use crate::logic::munge;

/// What an operation installs, ready under a temporary name.
#[derive(Debug)]
pub enum Prepared {
    /// An entry to be renamed to its place, and an attribute that it should have and has not.
    Entry(Temp, Option<Lacking>),
    /// A directory in which the files may be already that come into it next.
    Nest(Arc<Nest>),
    /// Nothing: the operation only works on what is there.
    Nothing,
}

/// Makes what operations install; changes no name that an agent can see.
#[derive(Debug)]
pub struct Maker<'a> {
    /// Where it is to go.
    pub root: &'a Root,
    /// Where it is made.
    pub area: &'a Arc<Area>,
    /// What may be set.
    pub keeper: &'a Keeper,
    /// Small files are made without a name where their names are likely free; `None`: never.
    pub guess: Option<&'a Guess>,
}

impl Maker<'_> {
    /// Makes what `op` installs, in its `nest` if it has one. `staged` finds a staged transfer; `sync` makes each file
    /// durable by itself.
    ///
    /// # Errors
    /// The operation is refused; the others of its commit stand.
    pub fn prepare(
        &self,
        op: &Op,
        inline: Option<&[u8]>,
        staged: impl FnOnce(u64) -> Option<Result<Staged, Refusal>>,
        sync: bool,
        nest: Option<&Arc<Nest>>,
    ) -> Result<Prepared, Refusal> {
        check_paths(op)?;
        self.check_visible(op)?;
        let fail = |errno| Refusal::system(op.verb(), op.path(), errno);
        match op {
            Op::Put { meta, content, .. } => {
                let mode = self.mode_at_birth(meta);
                // What is synced by itself has a name by then, as file systems know it best.
                let guess = self.guess.filter(|_| !sync);
                let birth = || self.birth(op.path(), nest, guess);
                let staged = self.content(op, (content, mode), inline, staged, birth)?;
                self.finish(op, meta, staged, sync)
            }
            Op::Symlink { meta, target, .. } if self.keeper.guard.fakes() => {
                let munged = munge::munged(target);
                let content = if self.keeper.munges { &munged } else { target };
                self.make_fake(op, (Kind::Symlink, (0, 0)), content, meta, sync)
            }
            Op::Special {
                meta, kind, rdev, ..
            } if self.keeper.guard.fakes() => self.make_fake(op, (*kind, *rdev), b"", meta, sync),
            Op::Symlink { meta, target, .. } => {
                let munged = munge::munged(target);
                let target = if self.keeper.munges { &munged } else { target };
                self.make_link(target, meta)
                    .map(|(temp, lacking)| Prepared::Entry(temp, lacking))
                    .map_err(fail)
            }
            Op::Special {
                meta, kind, rdev, ..
            } if self.may_make(*kind) => self
                .make_special(*kind, *rdev, meta)
                .map(|(temp, lacking)| Prepared::Entry(temp, lacking))
                .map_err(fail),
            Op::Special { path, kind, .. } => {
                let text = format!(
                    "cannot make {path}: no {} is kept here (`devices = yes` in a module run by root)",
                    kind.word()
                );
                Err(Refusal::new(RejectCode::Unsupported, text))
            }
            Op::Mkdir { .. } => Ok(match nest {
                Some(nest) => Prepared::Nest(Arc::clone(nest)),
                None => Prepared::Nothing,
            }),
            _ => Ok(Prepared::Nothing),
        }
    }

    /// Where a small file is made.
    fn birth<'a>(
        &self,
        path: &'a WirePath,
        nest: Option<&'a Arc<Nest>>,
        guess: Option<&Guess>,
    ) -> Birth<'a> {
        let name = path.file_name().map(Name::as_bytes);
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        if let (Some(nest), Some(name)) = (nest, name) {
            return Birth::Nest(nest, name);
        }
        match guess.filter(|_| self.area.nameless().works()) {
            Some(guess) if !guess.is_taken(self.root, path) => Birth::Nameless,
            _ => Birth::Named,
        }
    }

    /// Makes once more, in this area, what stands ready in another one and cannot be renamed from there.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub(super) fn again(&self, op: &Op, temp: &Temp) -> Result<Prepared, Refusal> {
        let Op::Put { meta, content, .. } = op else {
            return self.prepare(op, None, |_| None, true, None);
        };
        let mode = self.mode_at_birth(meta);
        let staged = Staged::copied(self.area, temp, content, mode)?;
        self.finish(op, meta, staged, true)
    }

    /// Content gets its metadata.
    fn finish(
        &self,
        op: &Op,
        meta: &Meta,
        staged: Staged,
        sync: bool,
    ) -> Result<Prepared, Refusal> {
        let fd = staged.fd();
        let lacking = self
            .keeper
            .set_fd(fd, Kind::File, meta)
            .map_err(|errno| metadata_refusal(op, errno))?;
        if sync {
            rustix::fs::fsync(fd).map_err(|errno| Refusal::system(op.verb(), op.path(), errno))?;
        }
        Ok(Prepared::Entry(staged.into_temp(), lacking))
    }

    /// Nothing is written to names that the module hides.
    fn check_visible(&self, op: &Op) -> Done {
        let (path, is_dir) = match op {
            Op::Put { path, .. } | Op::Symlink { path, .. } | Op::Special { path, .. } => {
                (path, false)
            }
            Op::Same { path, names, .. } => {
                if names.iter().any(|name| self.root.hides(name, false)) {
                    return Err(mismatch(op, path, "the module hides names of it"));
                }
                (path, false)
            }
            Op::Link { to, .. } if self.root.hides(to, false) => {
                return Err(mismatch(op, to, "there is no file to link to"));
            }
            Op::Link { path, .. } => (path, false),
            Op::Mkdir { path, .. } => (path, true),
            Op::SetMeta { path, kind, .. } => (path, *kind == Kind::Dir),
            // These depend on what stands there.
            Op::Rename { .. } | Op::Exchange { .. } | Op::Remove { .. } => return Ok(()),
        };
        visible(self.root, path, is_dir)
    }

    fn content<'o>(
        &self,
        op: &Op,
        (content, mode): (&Content, Mode),
        inline: Option<&[u8]>,
        find: impl FnOnce(u64) -> Option<Result<Staged, Refusal>>,
        birth: impl FnOnce() -> Birth<'o>,
    ) -> Result<Staged, Refusal> {
        let bad = |what: &str| {
            let text = format!("cannot put {}: {what}", op.path());
            Refusal::new(RejectCode::BadContent, text)
        };
        match content {
            Content::Inline { digest, .. } => {
                let bytes = inline.ok_or_else(|| bad("inline content is missing"))?;
                Staged::inline(self.area, bytes, digest, mode, birth()).map_err(|refusal| {
                    let text = format!("cannot {} {}: {refusal}", op.verb(), op.path());
                    Refusal::new(refusal.code, text)
                })
            }
            Content::Staged {
                transfer,
                len,
                digest,
            } => {
                let staged =
                    find(*transfer).ok_or_else(|| bad("its transfer is not complete"))??;
                if staged.len() != *len || staged.digest() != digest {
                    return Err(bad("its transfer has another length or digest"));
                }
                Ok(staged)
            }
        }
    }

    /// The permissions a file is made with: those it is to have, so that they need not be set again, but
    /// for what a change of its owner would take away.
    fn mode_at_birth(&self, meta: &Meta) -> Mode {
        if self.keeper.guard.fakes() {
            return OWN;
        }
        self.keeper.mode(Kind::File, meta) & (Mode::RWXU | Mode::RWXG | Mode::RWXO)
    }

    /// A file that is said to be something else.
    fn make_fake(
        &self,
        op: &Op,
        (kind, rdev): (Kind, (u32, u32)),
        content: &[u8],
        meta: &Meta,
        sync: bool,
    ) -> Result<Prepared, Refusal> {
        let staged = Staged::inline(self.area, content, &Digest::of(content), OWN, Birth::Named)?;
        let lacking = self
            .keeper
            .set_fake(staged.fd(), kind, rdev, meta)
            .map_err(|errno| metadata_refusal(op, errno))?;
        if sync {
            rustix::fs::fsync(staged.fd())
                .map_err(|errno| Refusal::system(op.verb(), op.path(), errno))?;
        }
        Ok(Prepared::Entry(staged.into_temp(), lacking))
    }

    /// Makes a symlink with exactly this target.
    pub(super) fn make_link(
        &self,
        target: &[u8],
        meta: &Meta,
    ) -> rustix::io::Result<(Temp, Option<Lacking>)> {
        let temp = self.area.temp();
        rustix::fs::symlinkat(target, temp.dir(), temp.name())?;
        let name = temp.name().as_bytes();
        let lacking = self.keeper.set_link(temp.dir(), name, meta)?;
        Ok((temp, lacking))
    }

    fn may_make(&self, kind: Kind) -> bool {
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        !is_device || self.keeper.powers.mknod
    }

    /// Makes something that is neither file, directory nor link.
    pub(super) fn make_special(
        &self,
        kind: Kind,
        (major, minor): (u32, u32),
        meta: &Meta,
    ) -> rustix::io::Result<(Temp, Option<Lacking>)> {
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
        let name = temp.name().as_bytes();
        let lacking = self.keeper.set_private(temp.dir(), name, kind, meta)?;
        Ok((temp, lacking))
    }
}

/// Refuses a name that the module hides.
pub(super) fn visible(root: &Root, path: &WirePath, is_dir: bool) -> Done {
    if root.hides(path, is_dir) {
        let text = format!("daemon refused to receive file \"{path}\"");
        return Err(Refusal::new(RejectCode::Permission, text));
    }
    Ok(())
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
