//! The planner thread of a target: takes what is due, asks the disk, sends batches.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::meta::{EntryMeta, Kind, Meta};
use syncd_proto::path::WirePath;

use crate::fs::read::Opened;
use crate::fs::root::{Identity, Nearby};
use crate::logic::coalesce::{FEW, Look, Millis, Remote, Rename, SOON_BYTES_MAX, Taken};
use crate::logic::links::{self};
use crate::logic::plan::{Found, Planner};
use crate::net::link::Link;
use crate::pipeline::target::{State, Target};
use crate::pipeline::{bulk, reconcile};
use look::{Outcome, is_name_of, look};
use removal::{may_replace, remove};
use same::{note_rename, or_same};

mod look;
mod removal;
pub(in crate::pipeline) mod same;
#[cfg(test)]
mod tests;

/// Paths taken at once.
const TAKE_MAX: usize = 512;

/// Renames taken at once.
const RENAMES_MAX: usize = 256;

/// How long absence that nobody reported waits for the event that explains it, in milliseconds.
const ABSENCE_MS: Millis = 300;

/// Names linked in the batch that gives their file another content; the others follow.
const RELINKS_MAX: usize = 256;

/// Paths looked at before they are added to a batch.
const LOOKS_MAX: usize = 256;

/// Bytes of files read before they are added to a batch.
const LOOKS_BYTES_MAX: usize = 1 << 20;

/// What is worked on in one go.
struct Work {
    link: Arc<Link>,
    renames: Vec<Rename>,
    ready: Vec<(Taken, Found)>,
    taken: Vec<Taken>,
    /// Names are those that things had when this number was given.
    horizon: u64,
}

/// Runs until the target stops.
pub fn run(target: &Arc<Target>) {
    while let Some(work) = next_work(target) {
        let (link, horizon) = (work.link, work.horizon);
        let mut batch = fresh(&link);
        add_renames(target, &link, &mut batch, work.renames);
        for (taken, mut found) in work.ready {
            if is_overtaken(target, &taken) {
                withdraw(target, &link, taken, &found);
            } else {
                see_names(target, &taken, &mut found);
                add(target, &link, &mut batch, taken, found);
            }
        }
        let mut looks = Looks::default();
        let mut near = Nearby::new(&target.root);
        // What was heard of takes the directories above it along, which may have been found. A few are let through.
        let may_wait = work.taken.len() > FEW && work.taken.iter().all(|taken| taken.mark.late);
        let mut rest = VecDeque::from(work.taken);
        while let Some(taken) = rest.pop_front() {
            if may_wait && target.lock().has_news(target.now()) {
                rest.push_front(taken);
                break;
            }
            let opened = open_seen(&mut near, &taken);
            let there = match &opened {
                Some(file) => Ok(Some(file.stat_links())),
                None => near.stat_links(&taken.path),
            };
            let is_small = matches!(&there, Ok(Some((entry, _))) if is_small(entry));
            if !is_small && let Some(home) = near.home(&taken.path) {
                let linked = there.as_ref().ok().and_then(|there| there.as_ref()?.1);
                same::forget(target, home, linked.map(|linked| linked.inode()));
            }
            // What becomes of another name of a file depends on what became of the first.
            let alone = matches!(there, Ok(Some((_, Some(_)))));
            if alone || looks.is_full() {
                add_looks(target, &link, &mut batch, &mut looks, horizon);
                near.forget();
            }
            if is_small && let Some(until) = behind_until(target, &taken) {
                // Before it is read.
                target.wait_behind(taken, until);
                continue;
            }
            let outcome = look(target, &link, &mut near, (&taken, opened), there);
            looks.push(taken, outcome);
        }
        add_looks(target, &link, &mut batch, &mut looks, horizon);
        send(target, &link, batch, horizon);
        // Something happened meanwhile, and goes first.
        target.defer_each(rest.into_iter());
        link.wait_until_written();
    }
}

/// Opens what was a file a moment ago: then it need not be examined by its name. What is anything else is not to be
/// opened unseen.
fn open_seen(near: &mut Nearby<'_>, taken: &Taken) -> Option<Opened> {
    let fd = taken.mark.saw_file.then(|| near.open_file(&taken.path))?;
    Opened::of(fd.ok()?).ok().filter(Opened::has_name)
}

/// Whether it travels in a commit.
fn is_small(entry: &EntryMeta) -> bool {
    entry.kind == Kind::File && entry.size <= INLINE_FILE_BYTES_MAX
}

/// Waits until there is something to do and room to send it. `None` once the target stops.
fn next_work(target: &Target) -> Option<Work> {
    let mut state = target.lock();
    if state.brake.hold().is_some() && state.dirty.held().next().is_none() {
        // Whatever is held has a mark between two rounds of this thread.
        state.brake.nothing_held();
    }
    if state.dirty.renames_logged() {
        // A comparison may wait for them.
        target.wake_all();
    }
    loop {
        if state.stopping {
            return None;
        }
        let now = target.now();
        state.look_beside(now);
        let mut due = None;
        if let Some(link) = state.link.clone().filter(|link| !link.is_closed())
            && link.welcome().writable
            && state.outbox.has_room()
        {
            match state.resting_until(now) {
                Some(until) => {
                    let work = take_removals(&mut state, link, now);
                    if !work.taken.is_empty() {
                        return Some(work);
                    }
                    due = state.dirty.next_due_after(now).map(|due| due.min(until));
                    due = due.or(Some(until));
                }
                None => {
                    // Whether there is room again is tried with one path, not with all.
                    let most = if state.pause.is_some() { 1 } else { TAKE_MAX };
                    let work = take_work(&mut state, link, now, most);
                    if !(work.renames.is_empty() && work.ready.is_empty() && work.taken.is_empty())
                    {
                        state.tried(now);
                        return Some(work);
                    }
                    due = state.dirty.next_due();
                    due = due.into_iter().chain(state.ready_due(now)).min();
                }
            }
        }
        state = target.wait_as_planner(state, due);
    }
}

/// What makes room rather than needing it: that goes also while everything else rests.
fn take_removals(state: &mut State, link: Arc<Link>, now: Millis) -> Work {
    let first = state.dirty.first_rename();
    let horizon = first.unwrap_or_else(|| state.dirty.horizon());
    let taken = if state.dirty.renames_come_first() {
        Vec::new()
    } else {
        state.dirty.take_gone(now, TAKE_MAX)
    };
    begin(state, link, taken, horizon)
}

/// Work on these paths, and nothing else yet.
fn begin(state: &mut State, link: Arc<Link>, taken: Vec<Taken>, horizon: u64) -> Work {
    for taken in &taken {
        state.dirty.begun(taken);
    }
    Work {
        link,
        renames: Vec::new(),
        ready: Vec::new(),
        taken,
        horizon,
    }
}

fn take_work(state: &mut State, link: Arc<Link>, now: Millis, most: usize) -> Work {
    // Before a rename goes what it goes into, and what was seen before it.
    let mut before = state.dirty.take_new_parents(now);
    if before.is_empty() {
        before = state.dirty.take_before_rename(now, most);
    }
    let mut renames = if before.is_empty() {
        state.dirty.take_renames(now, RENAMES_MAX)
    } else {
        Vec::new()
    };
    if link.spares() {
        for rename in &mut renames {
            state.dirty.await_rename(rename);
        }
    }
    // Names of renamed things are those they had before the later ones.
    let first = match before.is_empty() {
        true => renames.first().map(|rename| rename.seq),
        false => state.dirty.first_rename(),
    };
    let horizon = first.unwrap_or_else(|| state.dirty.horizon());
    let ready = state.take_ready(now);
    // While renames of directories wait, paths already carry names that the target does not know yet.
    let taken = if !before.is_empty() {
        before
    } else if state.dirty.renames_come_first() {
        Vec::new()
    } else {
        state.dirty.take(now, most)
    };
    Work {
        renames,
        ready,
        ..begin(state, link, taken, horizon)
    }
}

fn wait_for_room(target: &Target, link: &Link) {
    let mut state = target.lock();
    while !state.stopping && !link.is_closed() && !state.outbox.has_room() {
        state = target.wait_as_planner(state, None);
    }
    drop(state);
    link.wait_until_written();
}

/// Adds renames as the source did them. A file whose old name is there again is not renamed but looked at,
/// and so is whatever was renamed from there afterwards: it may have been swapped, or an editor is about to
/// put a new version there, and the old one must not vanish until then.
fn add_renames(target: &Target, link: &Link, batch: &mut Planner, renames: Vec<Rename>) {
    let mut doubtful: Vec<WirePath> = Vec::new();
    for rename in renames {
        if !may_replay(target, link, &rename) {
            target.update(|state, now| {
                state.dirty.rename_arrived(&rename);
                state.dirty.give_back_rename(&rename, now);
            });
            continue;
        }
        let is_back = || matches!(target.root.stat(&rename.from), Ok(Some(_)));
        if !rename.dir && !rename.swap && (doubtful.contains(&rename.from) || is_back()) {
            target.update(|state, now| {
                state.dirty.rename_arrived(&rename);
                state.dirty.give_back_rename(&rename, now);
                state.dirty.recent(rename.from.clone(), now);
            });
            doubtful.extend([rename.from, rename.to]);
        } else {
            add_rename(target, batch, rename);
        }
    }
}

/// Whether nothing is lost or taken along that has to stay: a receiver that can leave what is in the way of a rename
/// does so, and says so; in an exchange names would move with what the rules protect.
fn may_replay(target: &Target, link: &Link, rename: &Rename) -> bool {
    !target.selection.may_protect() || (link.spares() && !rename.swap)
}

fn add_rename(target: &Target, batch: &mut Planner, rename: Rename) {
    let there = target.root.stat(&rename.to).ok().flatten();
    let origin = target.root.stat(&rename.from).ok().flatten();
    let both = there.is_some() && origin.is_some();
    note_rename(target, &rename);
    if rename.swap {
        if both {
            target.lock().links.exchanged(&rename.from, &rename.to);
            batch.exchange(rename);
        } else {
            target.update(|state, _| {
                state.dirty.rename_arrived(&rename);
                state.dirty.settle_seq(rename.seq);
            });
        }
        return;
    }
    if rename.dir && origin.is_some() {
        // A name that is there again may be a swap: see what is in it.
        target.update(|state, now| {
            state
                .dirty
                .found(rename.from.clone(), Look::Content, Remote::Unknown, now);
            state.dirty.compare(rename.from.clone(), now);
            state.dirty.compare(rename.to.clone(), now);
        });
    }
    target.lock().links.renamed(&rename.from, &rename.to);
    batch.rename(rename, there.as_ref());
}

/// Whether something else has come to the name of a file since it was read, and may be in the commit log already: of a
/// directory that stands there the file would take everything away. A name that went goes afterwards.
fn is_overtaken(target: &Target, taken: &Taken) -> bool {
    let there = target.root.stat(&taken.path);
    let is_other = matches!(there, Ok(Some(entry)) if entry.kind != Kind::File);
    is_other || target.lock().dirty.is_replaced(&taken.path)
}

/// A file may have got its second name since it was read: what was said of that one depends on this.
fn see_names(target: &Target, taken: &Taken, found: &mut Found) {
    if let Found::Staged { file, linked, .. } = found
        && linked.is_none()
        && is_name_of(target, &taken.path, *file)
    {
        *linked = Some(*file);
    }
}

/// Gives up what was transferred; its name is looked at again.
fn withdraw(target: &Target, link: &Link, taken: Taken, found: &Found) {
    if let Found::Staged { transfer, .. } = found {
        bulk::abort(link, *transfer);
        target.update(|state, _| state.staged = state.staged.saturating_sub(1));
    }
    target.defer(taken, target.now());
}

/// Adds what was found to the batch. Where that gives a file with several names another content, they
/// are linked to it at once.
fn add(target: &Target, link: &Link, batch: &mut Planner, taken: Taken, found: Found) {
    let path = taken.path.clone();
    let incomplete =
        link.terms().attributes.any() && found.meta().is_some_and(|meta| meta.xattrs.is_none());
    if incomplete {
        // The content goes without the attributes, which are looked at by themselves to tell why.
        let path = WirePath::clone(&path);
        target.update(|state, now| state.dirty.found(path, Look::Meta, Remote::Present, now));
    }
    let inode = found.linked();
    let others = links::note(&mut target.lock().links, &taken, &found);
    // What it holds up comes after it in this batch or in the next.
    target.lock().dirty.passed(taken.mark.seq);
    batch.found(taken, found);
    if others.is_empty() {
        return;
    }
    let mut later = Vec::new();
    for (count, name) in others.into_iter().enumerate() {
        let may_link = |inode| {
            let state = target.lock();
            !state.links.is_apart(inode) && !state.dirty.is_pending(&name)
        };
        if count < RELINKS_MAX
            && inode.is_some_and(|inode| may_link(inode) && is_name_of(target, &name, inode))
        {
            target.lock().links.linked(&name, &path);
            batch.relink(&name, &path);
        } else {
            later.push(name);
        }
    }
    target.update(|state, now| state.relink(later, now));
}

/// Paths that were looked at and are in no batch yet.
#[derive(Default)]
struct Looks {
    outcomes: Vec<(Taken, Outcome)>,
    bytes: usize,
}

impl Looks {
    fn is_full(&self) -> bool {
        self.outcomes.len() >= LOOKS_MAX || self.bytes >= LOOKS_BYTES_MAX
    }

    fn push(&mut self, taken: Taken, outcome: Outcome) {
        if let Outcome::Found(Found::Small { bytes, .. }) = &outcome {
            self.bytes += bytes.len();
        }
        self.outcomes.push((taken, outcome));
    }
}

/// Adds what was found once nobody can have begun to write to it unheard: the event that brought us to a
/// file may be old, and those of a new version may have come while it was read.
fn add_looks(
    target: &Arc<Target>,
    link: &Arc<Link>,
    batch: &mut Planner,
    looks: &mut Looks,
    horizon: u64,
) {
    let looks = std::mem::take(looks);
    let heard = looks.outcomes.is_empty() || target.hear();
    for (taken, outcome) in looks.outcomes {
        if may_leave(&outcome) && target.lock().dirty.has_left(&taken.path) {
            target.leave(&taken);
            continue;
        }
        let outcome = match waits_until(target, &taken, &outcome, heard) {
            Some(until) => Outcome::Later(until),
            None => outcome,
        };
        if let Outcome::Found(found) = &outcome
            && !matches!(found, Found::Dir(_))
            && let Some(until) = behind_until(target, &taken)
        {
            target.wait_behind(taken, until);
            continue;
        }
        if batch.ends_before(&taken) {
            send_early(target, link, batch, horizon);
        }
        add_outcome(target, link, batch, taken, outcome, horizon);
        if batch.is_full(link.is_slow()) {
            send_early(target, link, batch, horizon);
        }
    }
}

/// Whether nothing but the name is of interest in what was found, should the target have nothing there: it is a file with
/// one name, or nothing.
fn may_leave(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Found(Found::Small { linked, .. }) => linked.is_none(),
        Outcome::Large(linked, _) => linked.is_none(),
        Outcome::Found(Found::Absent) | Outcome::Later(_) => true,
        Outcome::Found(_) | Outcome::AfterNames(_) | Outcome::Failed(..) => false,
    }
}

/// Until when a path waits for what was seen before it, if it does. A file may have been small when its transfer began, since
/// somebody still wrote to it.
fn behind_until(target: &Target, taken: &Taken) -> Option<Millis> {
    let (until, grows) = {
        let dirty = &target.lock().dirty;
        let until = dirty.behind_until(taken, target.now())?;
        (until, dirty.grows_ahead(taken))
    };
    let is_large = |path: &Arc<WirePath>| {
        let there = target.root.stat(path);
        matches!(there, Ok(Some(entry)) if entry.kind == Kind::File && entry.size > SOON_BYTES_MAX)
    };
    let Some(large) = grows.filter(is_large) else {
        return Some(until);
    };
    target.update(|state, now| {
        state.dirty.takes_long(&large);
        state.dirty.behind_until(taken, now)
    })
}

/// Until when a path waits. A file that somebody was heard to write to meanwhile, also if it is closed again by now:
/// what was read may be half of it. A name that nobody was seen to remove, unless all was `heard`: the rename that took
/// it away may not have been told yet, and there is nothing to rename once it is removed.
fn waits_until(target: &Target, taken: &Taken, outcome: &Outcome, heard: bool) -> Option<Millis> {
    let now = target.now();
    let held_until = taken.mark.held_until(target.settle());
    let again = |unsure: bool| unsure.then_some(now + 1);
    let dirty = &target.lock().dirty;
    let size = match outcome {
        Outcome::Found(Found::Small { bytes, .. }) => bytes.len() as u64,
        Outcome::Large(..) => u64::MAX,
        Outcome::Found(Found::Absent) if !taken.mark.witnessed => {
            return again(!heard).filter(|_| now < held_until);
        }
        _ => return None,
    };
    let until = dirty.waits_until(&taken.path, size);
    let until = until.filter(|until| now < *until);
    let again = again(!heard || dirty.is_rewritten(&taken.path));
    until.or(again).filter(|_| now < held_until)
}

/// Whether it is something that takes the place of whatever stands there.
fn is_no_dir(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Large(..) => true,
        Outcome::Found(found) => matches!(
            found,
            Found::Small { .. }
                | Found::Symlink { .. }
                | Found::Special { .. }
                | Found::Link { .. }
        ),
        Outcome::Later(_) | Outcome::AfterNames(_) | Outcome::Failed(..) => false,
    }
}

fn add_outcome(
    target: &Arc<Target>,
    link: &Arc<Link>,
    batch: &mut Planner,
    mut taken: Taken,
    outcome: Outcome,
    horizon: u64,
) {
    if is_no_dir(&outcome) {
        match may_replace(target, taken) {
            Some(may) => taken = may,
            None => return,
        }
    }
    match outcome {
        Outcome::Found(Found::Absent) if !taken.mark.gone => {
            (taken.mark.gone, taken.mark.went) = (true, true);
            // As for a removal, nothing waits for it.
            target.lock().dirty.passed(taken.mark.seq);
            target.defer(taken, target.now() + ABSENCE_MS);
        }
        Outcome::Found(Found::Absent) if !target.delete => {
            target.leave(&taken);
        }
        Outcome::Found(Found::Absent) => remove(target, link, batch, taken),
        Outcome::Found(found) => {
            if taken.mark.went && matches!(found, Found::Dir(_)) {
                // It went and came again, or a comparison saw it away: what the target has in the old one must go.
                let path = WirePath::clone(&taken.path);
                target.update(|state, now| state.dirty.compare(path, now));
            }
            let found = or_same(target, link, &taken, found);
            if let Found::Small { bytes, .. } = &found
                && !batch.has_room(bytes.len() as u64)
            {
                send_early(target, link, batch, horizon);
            }
            add(target, link, batch, taken, found);
        }
        Outcome::Large(linked, version) => {
            let path = taken.path.clone();
            target.enqueue(taken, version.size(), |state| {
                if let Some(Identity { dev, ino }) = linked {
                    state.links.busy(&path, (dev, ino), version);
                }
            });
        }
        Outcome::Later(due) => target.defer_all_after(taken, due),
        Outcome::AfterNames(due) => target.defer_after_names(taken, due),
        Outcome::Failed(code, text) => target.failed(taken, code, text),
    }
}

/// An empty batch.
fn fresh(link: &Link) -> Planner {
    Planner::with_buffer(link.buffers().take_empty())
}

/// Sends what was gathered so far, and waits until there is room for more.
fn send_early(target: &Target, link: &Arc<Link>, batch: &mut Planner, horizon: u64) {
    let gathered = std::mem::replace(batch, fresh(link));
    send(target, link, gathered, horizon);
    wait_for_room(target, link);
}

fn send(target: &Target, link: &Arc<Link>, batch: Planner, horizon: u64) {
    if batch.is_empty() {
        link.buffers().give(batch.into_buffer());
        return;
    }
    let mut dirs = Vec::new();
    let mut lost = BTreeSet::new();
    for dir in batch.touched() {
        match dir_meta(target, link, &dir) {
            Some(meta) => dirs.push((dir, meta)),
            None => {
                let highest = highest_lost(target, &dir, &lost);
                if highest != dir {
                    let seq = horizon - 1;
                    target.update(|state, now| state.dirty.look_where_it_went(&dir, seq, now));
                }
                lost.insert(highest);
            }
        }
    }
    for dir in lost {
        target.update(|state, now| state.dirty.lost_parent(dir, horizon - 1, now));
    }
    target.send(link, batch.finish(dirs));
}

/// The highest directory above a name that is no directory any more, or that name: what goes with it need not go one by
/// one, each level after the one below it. `lost` are some that were found so.
fn highest_lost(target: &Target, dir: &WirePath, lost: &BTreeSet<WirePath>) -> WirePath {
    if let Some(above) = lost.iter().find(|lost| dir.starts_with(lost)) {
        return above.clone();
    }
    let is_lost = |path: &WirePath| match target.root.stat(path) {
        Ok(there) => there.is_none_or(|entry| entry.kind != Kind::Dir),
        Err(_) => false,
    };
    let above = std::iter::successors(dir.parent(), WirePath::parent);
    let above = above.take_while(|path| !path.is_root() && is_lost(path));
    above.last().unwrap_or_else(|| dir.clone())
}

/// Its attributes are left alone: they do not change with its entries.
fn dir_meta(target: &Target, link: &Link, dir: &WirePath) -> Option<Meta> {
    let entry = target.root.stat(dir).ok().flatten()?;
    (entry.kind == Kind::Dir).then(|| link.terms().entry(entry).meta())
}
