//! [`Applier`]: one operation at a time. First what it installs is made under a temporary name, with
//! all its metadata ([`Maker::prepare`]); then names change ([`Applier::perform`]).
//!
//! Nothing is ever written into an existing inode, no symlink is followed, and a name that is replaced
//! is never missing in between. What was done is noted in [`Touched`], so that it can be made durable.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Statx, StatxAttributes};
use rustix::io::Errno;

use syncd_proto::meta::{Kind, Meta, Times};
use syncd_proto::op::{Expect, Op};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::area::{Area, Temp};
use super::attic::Keep;
use super::attributes::{Lacking, Place};
use super::fake;
use super::meta::{Keeper, identity_of, kind_of, mtime_of, statx_at, statx_fd};
use super::nameless;
use super::nest::Nest;
use super::recover::names;
use super::refusal::Refusal;
use super::root::{LISTABLE, Root};
use super::touched::Touched;

mod make;
mod replace;
mod rights;
mod set;
#[cfg(test)]
mod tests;

use make::visible;
pub use make::{Maker, Prepared};
pub(super) use replace::discard_dir;
use replace::{Found, Replaced, replace};
pub(super) use rights::grant;

/// Carries out operations below one root.
#[derive(Debug)]
pub struct Applier<'a> {
    /// Where.
    pub root: &'a Root,
    /// Where things are made.
    pub area: &'a Arc<Area>,
    /// Where `root` is in the module.
    pub base: &'a WirePath,
    /// What may be set.
    pub keeper: &'a Keeper,
    /// What has been changed.
    pub touched: &'a mut Touched,
    /// Whether a rename leaves a directory alone that is not empty.
    pub spares: bool,
}

type Done = Result<(), Refusal>;

impl Applier<'_> {
    /// Changes the names.
    ///
    /// # Errors
    /// As [`Maker::prepare`].
    pub fn perform(&mut self, op: &Op, prepared: Prepared) -> Done {
        // These may have begun when they fail, and what is kept must not be tried in the wrong place.
        let is_asked =
            matches!(op, Op::Remove { .. } | Op::Rename { .. }) || self.area.attic().is_some();
        if is_asked && let Some(area) = self.elsewhere(op) {
            return self.there(&area?).again(op, &prepared);
        }
        let done = self.at_home(op, &prepared);
        let is_refused = matches!(&done, Err(refusal) if refusal.code != RejectCode::Attributes);
        if is_refused
            && !is_asked
            && let Some(area) = self.elsewhere(op)
        {
            return self.there(&area?).again(op, &prepared);
        }
        if is_refused {
            return done;
        }
        if let Prepared::Entry(temp, _) = prepared {
            temp.installed();
        }
        done
    }

    /// The area for the directory that is changed, if that is on a file system mounted below the module.
    fn elsewhere(&self, op: &Op) -> Option<Result<Arc<Area>, Refusal>> {
        let (dir, _) = self.root.parent(op.path()).ok()??;
        self.area.elsewhere(&dir).transpose()
    }

    /// The same, with its area on another file system.
    fn there<'b>(&'b mut self, area: &'b Arc<Area>) -> Applier<'b> {
        Applier {
            root: self.root,
            area,
            base: self.base,
            keeper: self.keeper,
            touched: &mut *self.touched,
            spares: self.spares,
        }
    }

    /// What could not be renamed here is made here.
    fn again(&mut self, op: &Op, prepared: &Prepared) -> Done {
        let Prepared::Entry(temp, _) = prepared else {
            return self.at_home(op, prepared);
        };
        let again = self.maker().again(op, temp)?;
        self.at_home(op, &again)?;
        if let Ok((dir, _)) = self.place(op, op.path()) {
            // What cannot be opened is made durable with everything else there.
            self.touched.unopened(&dir);
        }
        Ok(())
    }

    fn at_home(&mut self, op: &Op, prepared: &Prepared) -> Done {
        match (op, prepared) {
            (_, Prepared::Entry(temp, lacking)) => {
                if !temp.is_in_place() {
                    self.install(op, temp)?;
                }
                complete(op, lacking.as_ref())
            }
            (Op::Mkdir { path, meta }, Prepared::Nest(nest)) => {
                self.mkdir(op, path, meta, Some(nest))
            }
            (Op::Mkdir { path, meta }, Prepared::Nothing) => self.mkdir(op, path, meta, None),
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
            (
                Op::Same {
                    path, len, meta, ..
                },
                _,
            ) => self.set_same(op, path, *len, meta),
            (Op::Put { .. } | Op::Symlink { .. } | Op::Special { .. }, _) => {
                Err(Refusal::new(RejectCode::Other, "nothing was prepared"))
            }
        }
    }

    /// A name that is to be moved: seen where it is and where it goes, with all that is below.
    fn movable(
        &self,
        op: &Op,
        (dir, name): (&OwnedFd, &[u8]),
        from: &WirePath,
        to: &WirePath,
    ) -> Done {
        let Some(hidden) = self.root.hidden() else {
            return Ok(());
        };
        let found = statx_at(dir, name).map_err(|errno| self.refusal(op, from, errno))?;
        let Some(found) = found.filter(|found| !hidden.hides_found(from, found)) else {
            return Err(mismatch(op, from, "there is nothing"));
        };
        let is_dir = kind_of(&found) == Some(Kind::Dir);
        visible(self.root, to, is_dir)?;
        if is_dir && hidden.below(dir, name, &[from, to]) {
            return Err(mismatch(op, from, "the module hides names below it"));
        }
        Ok(())
    }

    /// A directory that something else takes the place of holds nothing that is hidden.
    fn replaceable(&self, op: &Op, (dir, name): (&OwnedFd, &[u8]), path: &WirePath) -> Done {
        match self.root.hidden() {
            Some(hidden) if hidden.below(dir, name, &[path]) => Err(holds_hidden(op, path)),
            _ => Ok(()),
        }
    }

    fn maker(&self) -> Maker<'_> {
        Maker {
            root: self.root,
            area: self.area,
            keeper: self.keeper,
            guess: None,
        }
    }

    /// Renames a temporary entry to its place, whatever stands there; a file without a name is linked there if nothing
    /// does.
    fn install(&mut self, op: &Op, temp: &Temp) -> Done {
        let (dir, name) = self.place_to_take(op)?;
        if let Some(file) = temp.unnamed() {
            match self.with_right_to(&dir, || nameless::link(file, &dir, name)) {
                Ok(()) => {
                    self.touched.linked();
                    return Ok(());
                }
                Err(Errno::XDEV) => return Err(self.refusal(op, op.path(), Errno::XDEV)),
                // Something has the name, or the way with names knows what is wrong.
                Err(_) if temp.give_name().is_ok() => {}
                Err(_) => return self.made_again(op, temp),
            }
        }
        self.take_place(op, (temp.dir(), temp.name().as_bytes()), (dir, name))
    }

    /// The place of what an operation installs, where what stands there may be replaced.
    fn place_to_take<'p>(&self, op: &'p Op) -> Result<(Arc<OwnedFd>, &'p [u8]), Refusal> {
        let path = op.path();
        let (dir, name) = self.place(op, path)?;
        self.replaceable(op, (&dir, name), path)?;
        self.keeper
            .guard
            .replacement(self.root, path, (&dir, name))?;
        Ok((dir, name))
    }

    /// Renames a temporary entry to its place, whatever stands there.
    fn take_place(
        &mut self,
        op: &Op,
        from: (&OwnedFd, &[u8]),
        (dir, name): (Arc<OwnedFd>, &[u8]),
    ) -> Done {
        let path = op.path();
        let keep = Keep::of(self.area, self.base);
        let way = Found {
            area: self.area,
            keep: keep.as_ref().map(|keep| (keep, path)),
            is_staged: true,
        };
        let publish = || replace(&way, from, (&*dir, name));
        let replaced = self
            .with_right_to(&dir, || self.with_right_to_move(from, publish))
            .map_err(|errno| self.unkept(keep.as_ref(), self.refusal(op, path, errno)))?;
        self.kept(keep);
        if replaced == Replaced::Directory {
            self.root.forget(path);
        }
        self.touched.dir(path.parent(), dir);
        Ok(())
    }

    /// A file without a name that cannot be linked is copied into one that has a name.
    fn made_again(&mut self, op: &Op, temp: &Temp) -> Done {
        match self.maker().again(op, temp)? {
            Prepared::Entry(named, _) => self.install(op, &named),
            Prepared::Nest(_) | Prepared::Nothing => Ok(()),
        }
    }

    fn mkdir(&mut self, op: &Op, path: &WirePath, meta: &Meta, nest: Option<&Nest>) -> Done {
        if path.is_root() {
            return self.set_dir(op, path, meta);
        }
        let (dir, name) = self.place(op, path)?;
        let found = statx_at(&dir, name).map_err(|errno| self.refusal(op, path, errno))?;
        if found.is_some_and(|stat| kind_of(&stat) == Some(Kind::Dir)) {
            return self.set_dir(op, path, meta);
        }
        let fail = |errno| Refusal::system(op.verb(), path, errno);
        if let Some(nest) = nest.filter(|nest| nest.waits_in(self.area)) {
            let made = rustix::io::fcntl_dupfd_cloexec(nest.dir(), 0).map_err(fail)?;
            let lacking = self.publish_dir(op, nest.place(), made, meta)?;
            nest.published();
            self.touched.linked();
            return complete(op, lacking.as_ref());
        }
        let temp = self.area.temp();
        rustix::fs::mkdirat(temp.dir(), temp.name(), Mode::RWXU).map_err(fail)?;
        let flags = LISTABLE | OFlags::NOFOLLOW;
        let made = rustix::fs::openat(temp.dir(), temp.name(), flags, Mode::empty());
        let place = (temp.dir(), temp.name().as_bytes());
        let published = made
            .map_err(fail)
            .and_then(|made| self.publish_dir(op, place, made, meta));
        if published.is_err() {
            let _ = rustix::fs::unlinkat(temp.dir(), temp.name(), AtFlags::REMOVEDIR);
        }
        temp.installed();
        complete(op, published?.as_ref())
    }

    /// Gives an open directory its metadata, and then its name; what of the metadata it could not be given.
    fn publish_dir(
        &mut self,
        op: &Op,
        from: (&OwnedFd, &[u8]),
        made: OwnedFd,
        meta: &Meta,
    ) -> Result<Option<Lacking>, Refusal> {
        let lacking = self
            .keeper
            .set_fd(made.as_fd(), Kind::Dir, meta)
            .map_err(|errno| metadata_refusal(op, errno))?;
        let place = self.place_to_take(op)?;
        self.take_place(op, from, place)?;
        self.touched.file(made);
        Ok(lacking)
    }

    fn set_dir(&mut self, op: &Op, path: &WirePath, meta: &Meta) -> Done {
        self.set_meta(op, path, (Kind::Dir, 0), meta)
    }

    fn link(&mut self, op: &Op, to: &WirePath) -> Done {
        let (source_dir, source) = self.place(op, to)?;
        let found = statx_at(&source_dir, source).map_err(|errno| self.refusal(op, to, errno))?;
        let Some(found) = found.filter(|stat| kind_of(stat) != Some(Kind::Dir)) else {
            return Err(mismatch(op, to, "there is no file to link to"));
        };
        let temp = self.area.temp();
        let flags = AtFlags::empty();
        rustix::fs::linkat(&source_dir, source, temp.dir(), temp.name(), flags)
            .map_err(|errno| self.refusal(op, to, errno))?;
        if let Ok(Some(linked)) = statx_at(temp.dir(), temp.name().as_bytes()) {
            self.keeper.guard.own().linked(&found, &linked);
        }
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
        let seen = self
            .seen((&from_dir, from_name), &found)
            .map_err(|errno| self.refusal(op, from, errno))?;
        if expect.is_some_and(|expect| !is_expected(&found, seen, expect, self.keeper.times)) {
            return Err(mismatch(op, from, "another version is there"));
        }
        self.movable(op, (&from_dir, from_name), from, to)?;
        if self.spares && holds_any(&to_dir, to_name) {
            let text = format!("cannot rename {from} to {to}: something is in that directory");
            return Err(Refusal::new(RejectCode::NotEmpty, text));
        }
        self.replaceable(op, (&to_dir, to_name), to)?;
        self.keeper
            .guard
            .replacement(self.root, to, (&to_dir, to_name))?;
        let keep = Keep::of(self.area, self.base);
        let way = Found {
            area: self.area,
            keep: keep.as_ref().map(|keep| (keep, to)),
            is_staged: false,
        };
        let publish = || {
            if !from.starts_with(to) {
                return replace(&way, (&*from_dir, from_name), (&*to_dir, to_name));
            }
            // It takes the place of a directory that it is in: it has to leave that first.
            let temp = self.area.temp();
            rustix::fs::renameat(&*from_dir, from_name, temp.dir(), temp.name())?;
            let leaving = (temp.dir(), temp.name().as_bytes());
            replace(&way, leaving, (&*to_dir, to_name))
        };
        let moved = || self.with_right_to_move((&*from_dir, from_name), publish);
        self.with_right_to(&from_dir, || self.with_right_to(&to_dir, moved))
            .map_err(|errno| self.unkept(keep.as_ref(), self.refusal(op, to, errno)))?;
        self.kept(keep);
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
        self.movable(op, (&a_dir, a_name), a, b)?;
        self.movable(op, (&b_dir, b_name), b, a)?;
        let flags = RenameFlags::EXCHANGE;
        let swap = || rustix::fs::renameat_with(&a_dir, a_name, &b_dir, b_name, flags);
        let one = || self.with_right_to_move((&*a_dir, a_name), swap);
        let both = || self.with_right_to_move((&*b_dir, b_name), one);
        self.with_right_to(&a_dir, || self.with_right_to(&b_dir, both))
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
        let found = statx_at(&dir, name).map_err(|errno| self.refusal(op, path, errno))?;
        let hides = |found: &Statx| match self.root.hidden() {
            Some(hidden) => hidden.hides_found(path, found),
            None => false,
        };
        let Some(found) = found.filter(|found| !hides(found)) else {
            // What is hidden does not exist for an agent.
            return Ok(());
        };
        self.keeper.guard.removal(self.root, path, (&dir, name))?;
        if let Some(hidden) = self.root.hidden()
            && kind_of(&found) == Some(Kind::Dir)
            && hidden.below(&*dir, name, &[path])
        {
            if recursive {
                let keep = Keep::of(self.area, self.base);
                let gone = |dir: &OwnedFd, name: &[u8], path: &WirePath| match &keep {
                    Some(keep) => keep.take(path, (dir, name)).map(drop),
                    None => rustix::fs::unlinkat(dir, name, AtFlags::empty()),
                };
                let rest = || hidden.remove_rest(&*dir, name, path, &gone);
                self.with_right_to(&dir, rest)
                    .map_err(|errno| self.unkept(keep.as_ref(), self.refusal(op, path, errno)))?;
                self.kept(keep);
                self.root.forget(path);
                self.touched.dir(path.parent(), dir);
            }
            return Err(holds_hidden(op, path));
        }
        let keep = Keep::of(self.area, self.base);
        let is_dir = kind_of(&found) == Some(Kind::Dir);
        let take_away = || {
            match (&keep, is_dir) {
                (Some(keep), false) => return keep.take(path, (&dir, name)).map(drop),
                _ => match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => {}
                    done => return done,
                },
            }
            // An empty directory leaves nothing to be kept.
            match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => match &keep {
                    Some(keep) => keep.take(path, (&dir, name)).map(drop),
                    None => discard_dir(self.area, &dir, name),
                },
                done => done,
            }
        };
        match self.with_right_to(&dir, take_away) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.unkept(keep.as_ref(), self.refusal(op, path, errno))),
        }
        self.kept(keep);
        self.root.forget(path);
        self.touched.dir(path.parent(), dir);
        Ok(())
    }

    /// The directory that holds `path`, and its name there.
    fn place<'p>(&self, op: &Op, path: &'p WirePath) -> Result<(Arc<OwnedFd>, &'p [u8]), Refusal> {
        match self.root.parent(path) {
            Ok(Some((dir, name))) => Ok((dir, name.as_bytes())),
            Ok(None) => Err(root_refusal(op)),
            // A link that is kept, but leads out.
            Err(Errno::XDEV) => Err(Refusal::system(op.verb(), path, Errno::LOOP)),
            Err(errno) => Err(Refusal::system(op.verb(), path, errno)),
        }
    }

    /// What an agent takes something for.
    fn seen(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        stat: &Statx,
    ) -> rustix::io::Result<Option<Kind>> {
        let kind = kind_of(stat);
        if kind != Some(Kind::File) || !self.keeper.guard.fakes() {
            return Ok(kind);
        }
        let said = fake::read(&Place::named(dir, name)?)?;
        let said = said.filter(|said| said.fits(Kind::File));
        Ok(said.map(|said| said.kind).or(kind))
    }

    /// What was kept has to be durable too.
    fn kept(&mut self, keep: Option<Keep<'_>>) {
        for dir in keep.map(Keep::changed).unwrap_or_default() {
            self.touched.aside(&dir);
        }
    }

    /// Says so where the old version could not be kept: then it stays.
    fn unkept(&self, keep: Option<&Keep<'_>>, mut refusal: Refusal) -> Refusal {
        if keep.is_some_and(Keep::has_failed) {
            refusal
                .text
                .push_str(" (its old version is to be kept in `trash`)");
        }
        refusal
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

/// Whether this is a directory in which something is, or may be.
fn holds_any(dir: &OwnedFd, name: &[u8]) -> bool {
    let flags = LISTABLE | OFlags::NOFOLLOW;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(opened) => names(&opened).map_or(true, |names| !names.is_empty()),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => false,
        Err(_) => true,
    }
}

/// An operation is done whole, or all but an attribute.
fn complete(op: &Op, lacking: Option<&Lacking>) -> Done {
    let Some(lacking) = lacking else {
        return Ok(());
    };
    let text = format!(
        "cannot set an attribute of {}: {lacking}; everything else of it is in place",
        op.path()
    );
    Err(Refusal::new(RejectCode::Attributes, text))
}

fn is_expected(stat: &Statx, seen: Option<Kind>, expect: &Expect, times: Times) -> bool {
    let same_size = expect.kind != Kind::File || stat.stx_size == expect.size;
    let same_time = expect
        .mtime
        .is_none_or(|mtime| times.same(mtime, mtime_of(stat)));
    seen == Some(expect.kind) && same_size && same_time
}

fn root_refusal(op: &Op) -> Refusal {
    let text = format!("cannot {} the root of the mirror itself", op.verb());
    Refusal::new(RejectCode::BadName, text)
}

fn holds_hidden(op: &Op, path: &WirePath) -> Refusal {
    let text = format!("cannot {} {path}: the module hides names in it", op.verb());
    Refusal::new(RejectCode::NotEmpty, text)
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
