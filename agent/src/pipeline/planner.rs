//! The planner thread of a target: takes what is due, asks the disk, sends batches.

use std::sync::Arc;

use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::meta::{EntryMeta, Kind, Meta};
use syncd_proto::path::WirePath;

use crate::fs::read::{self, ReadError, Stability};
use crate::fs::root::{Identity, Linked, is_gone};
use crate::fs::scan;
use crate::logic::brake::Verdict;
use crate::logic::coalesce::{Leave, Look, Millis, Remote, Rename, Taken};
use crate::logic::links::{self, Inode, Known, Version};
use crate::logic::plan::{Found, Planner, meta_of};
use crate::logic::terms::Terms;
use crate::net::link::Link;
use crate::pipeline::reconcile;
use crate::pipeline::target::{State, Target};

/// Paths taken at once.
const TAKE_MAX: usize = 512;

/// Renames taken at once.
const RENAMES_MAX: usize = 256;

/// How long absence that nobody reported waits for the event that explains it, in milliseconds.
const ABSENCE_MS: Millis = 300;

/// Names linked in the batch that gives their file another content; the others follow.
const RELINKS_MAX: usize = 256;

/// Paths looked at before they are added to a batch.
const LOOKS_MAX: usize = 64;

/// Bytes of files read before they are added to a batch.
const LOOKS_BYTES_MAX: usize = 1 << 20;

/// How long a name waits while its file is sent under another name, in milliseconds.
const LINK_MS: Millis = 50;

/// How long removes wait for a held brake before they are looked at again, in milliseconds.
const HELD_MS: Millis = 1_000;

/// What one look at a path led to.
enum Outcome {
    /// It can be sent.
    Found(Found),
    /// It is a large file: to be transferred.
    Large(Option<Identity>, Version),
    /// Not now.
    Later(Millis),
    /// It cannot be read.
    Failed(&'static str, String),
}

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
        let mut batch = Planner::new();
        let (link, horizon) = (work.link, work.horizon);
        add_renames(target, &mut batch, work.renames);
        for (taken, found) in work.ready {
            add(target, &link, &mut batch, taken, found);
        }
        let mut looks = Looks::default();
        for taken in work.taken {
            let there = target.root.stat_links(&taken.path);
            // What becomes of another name of a file depends on what became of the first.
            let alone = matches!(there, Ok(Some((_, Some(_)))));
            if alone || looks.is_full() {
                add_looks(target, &link, &mut batch, &mut looks, horizon);
            }
            let outcome = look(target, &link, &taken, there);
            looks.push(taken, outcome);
        }
        add_looks(target, &link, &mut batch, &mut looks, horizon);
        send(target, &link, batch, horizon);
    }
}

/// Waits until there is something to do and room to send it. `None` once the target stops.
fn next_work(target: &Target) -> Option<Work> {
    let mut state = target.lock();
    if state.dirty.renames_logged() {
        // A comparison may wait for them.
        target.wake_all();
    }
    loop {
        if state.stopping {
            return None;
        }
        let now = target.now();
        let mut due = None;
        if let Some(link) = state.link.clone().filter(|link| !link.is_closed())
            && link.welcome().writable
            && state.outbox.has_room()
        {
            match state.resting_until(now) {
                Some(until) => due = Some(until),
                None => {
                    let work = take_work(&mut state, link, now);
                    if !(work.renames.is_empty() && work.ready.is_empty() && work.taken.is_empty())
                    {
                        return Some(work);
                    }
                    due = state.dirty.next_due();
                }
            }
        }
        state = target.wait_as_planner(state, due);
    }
}

fn take_work(state: &mut State, link: Arc<Link>, now: Millis) -> Work {
    let parents = state.dirty.take_new_parents(now);
    let renames = if parents.is_empty() {
        state.dirty.take_renames(now, RENAMES_MAX)
    } else {
        Vec::new()
    };
    // Names of renamed things are those they had before the later ones.
    let first = match parents.is_empty() {
        true => renames.first().map(|rename| rename.seq),
        false => state.dirty.first_rename(),
    };
    let horizon = first.unwrap_or_else(|| state.dirty.horizon());
    let ready = std::mem::take(&mut state.ready);
    // While renames of directories wait, paths already carry names that the target does not know yet.
    let taken = if !parents.is_empty() {
        parents
    } else if state.dirty.renames_come_first() {
        Vec::new()
    } else {
        state.dirty.take(now, TAKE_MAX)
    };
    for taken in &taken {
        state.dirty.begun(&taken.path);
    }
    Work {
        link,
        renames,
        ready,
        taken,
        horizon,
    }
}

fn wait_for_room(target: &Target, link: &Link) {
    let mut state = target.lock();
    while !state.stopping && !link.is_closed() && !state.outbox.has_room() {
        state = target.wait_as_planner(state, None);
    }
}

/// Adds renames as the source did them. A file whose old name is there again is not renamed but looked at,
/// and so is whatever was renamed from there afterwards: it may have been swapped, or an editor is about to
/// put a new version there, and the old one must not vanish until then.
fn add_renames(target: &Target, batch: &mut Planner, renames: Vec<Rename>) {
    let mut doubtful: Vec<WirePath> = Vec::new();
    for rename in renames {
        let is_back = || matches!(target.root.stat(&rename.from), Ok(Some(_)));
        if !rename.dir && !rename.swap && (doubtful.contains(&rename.from) || is_back()) {
            target.update(|state, now| {
                state.dirty.give_back_rename(&rename, now);
                state.dirty.recent(rename.from.clone(), now);
            });
            doubtful.extend([rename.from, rename.to]);
        } else {
            add_rename(target, batch, rename);
        }
    }
}

fn add_rename(target: &Target, batch: &mut Planner, rename: Rename) {
    let there = target.root.stat(&rename.to).ok().flatten();
    let origin = target.root.stat(&rename.from).ok().flatten();
    let both = there.is_some() && origin.is_some();
    if rename.swap {
        if both {
            target.lock().links.exchanged(&rename.from, &rename.to);
            batch.exchange(rename);
        } else {
            target.update(|state, _| state.dirty.settle_seq(rename.seq));
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
    batch.found(taken, found);
    let Some(inode) = inode.filter(|_| !others.is_empty()) else {
        return;
    };
    let mut later = Vec::new();
    for (count, name) in others.into_iter().enumerate() {
        let may_link = {
            let state = target.lock();
            !state.links.is_apart(inode) && !state.dirty.is_pending(&name)
        };
        if may_link && count < RELINKS_MAX && is_name_of(target, &name, inode) {
            target.lock().links.linked(&name, &path);
            batch.relink(&name, &path);
        } else {
            later.push(name);
        }
    }
    target.update(|state, now| state.relink(later, now));
}

fn is_name_of(target: &Target, name: &WirePath, inode: Inode) -> bool {
    let there = target.root.stat_links(name).ok().flatten();
    let there = there.and_then(|(_, linked)| linked);
    there.is_some_and(|linked| (linked.file.dev, linked.file.ino) == inode)
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
    if !looks.outcomes.is_empty() {
        target.hear();
    }
    for (taken, outcome) in looks.outcomes {
        let outcome = match is_written_to(target, &taken, &outcome) {
            Some(until) => Outcome::Later(until),
            None => outcome,
        };
        add_outcome(target, link, batch, taken, outcome, horizon);
        if batch.is_full() {
            send(target, link, std::mem::take(batch), horizon);
            wait_for_room(target, link);
        }
    }
}

/// Until when a file waits that somebody was heard to write to meanwhile.
fn is_written_to(target: &Target, taken: &Taken, outcome: &Outcome) -> Option<Millis> {
    let size = match outcome {
        Outcome::Found(Found::Small { bytes, .. }) => bytes.len() as u64,
        Outcome::Large(..) => u64::MAX,
        _ => return None,
    };
    let now = target.now();
    let until = target.lock().dirty.waits_until(&taken.path, size);
    let held_until = taken.mark.first + target.settle().hold_max_ms;
    until.filter(|until| now < *until && now < held_until)
}

fn add_outcome(
    target: &Arc<Target>,
    link: &Arc<Link>,
    batch: &mut Planner,
    mut taken: Taken,
    outcome: Outcome,
    horizon: u64,
) {
    match outcome {
        Outcome::Found(Found::Absent) if !taken.mark.gone => {
            taken.mark.gone = true;
            target.defer(taken, target.now() + ABSENCE_MS);
        }
        Outcome::Found(Found::Absent) if !target.delete => {
            target.leave(&taken);
        }
        Outcome::Found(Found::Absent) => remove(target, link, batch, taken),
        Outcome::Found(found) => {
            if taken.mark.gone && matches!(found, Found::Dir(_)) {
                // It went and came again before we looked: what the target has in the old one must go.
                let path = WirePath::clone(&taken.path);
                target.update(|state, now| state.dirty.compare(path, now));
            }
            if let Found::Small { bytes, .. } = &found
                && !batch.has_room(bytes.len() as u64)
            {
                send(target, link, std::mem::take(batch), horizon);
                wait_for_room(target, link);
            }
            add(target, link, batch, taken, found);
        }
        Outcome::Large(linked, version) => target.update(|state, _| {
            if let Some(Identity { dev, ino }) = linked {
                state.links.busy(&taken.path, (dev, ino), version);
            }
            state.bulk.push_back(taken);
        }),
        Outcome::Later(due) => target.defer(taken, due),
        Outcome::Failed(code, text) => target.failed(taken, code, text),
    }
}

fn remove(target: &Target, link: &Link, batch: &mut Planner, mut taken: Taken) {
    let found = match what_may_go(target, &taken) {
        MayGo::All => Found::Absent,
        MayGo::Name => Found::AbsentName,
        MayGo::Nothing => return target.leave(&taken),
        MayGo::Unknown => {
            let parent = taken.path.parent().unwrap_or_default();
            target.update(|state, now| state.dirty.compare(parent, now));
            return target.leave(&taken);
        }
    };
    let lost = !matches!(target.root.check_identity(), Ok(true));
    let emptied = !taken.mark.witnessed && is_emptied(target, &taken.path);
    let weight = taken.mark.weight;
    let pending = target.update(|state, now| {
        // Those that wait were there as well when it all began. Counted first: what goes meanwhile must
        // not count twice.
        let pending = || state.dirty.removals_pending();
        state.brake.would_hold(weight, now).then(pending)
    });
    if let Some(pending) = pending
        && let Some(entries) = reconcile::count_entries(target)
    {
        target.update(|state, _| state.brake.recounted(entries, weight + pending));
    }
    let verdict = target.update(|state, now| {
        if lost {
            state.brake.root_lost(lost_root(target), now);
            return Verdict::Held;
        }
        state.brake.root_back();
        if taken.mark.leave == Leave::Given {
            return Verdict::Go;
        }
        if emptied {
            let root = target.root.path().display();
            let reason = format!("{root} is empty, and the target is not");
            return state.brake.doubt(reason, now);
        }
        state.brake.check(weight, now)
    });
    match verdict {
        Verdict::Go => add(target, link, batch, taken, found),
        Verdict::Held => {
            taken.mark.leave = Leave::Held;
            target.defer(taken, target.now() + HELD_MS);
        }
    }
}

fn lost_root(target: &Target) -> String {
    format!(
        "{} is not the directory that was there at the start (unmounted, moved or replaced)",
        target.root.path().display()
    )
}

/// Whether the source has nothing at all, so that absence may mean that something is not mounted.
fn is_emptied(target: &Target, path: &WirePath) -> bool {
    path.parent().is_some_and(|parent| parent.is_root())
        && scan::list(&target.root, &WirePath::root())
            .is_ok_and(|entries| entries.is_none_or(|entries| entries.is_empty()))
}

/// What may be removed of a name that the source has not got.
enum MayGo {
    /// With all that is in it.
    All,
    /// Only if nothing is in it: what is protected there is not known.
    Name,
    /// It is protected.
    Nothing,
    /// That depends on what it is.
    Unknown,
}

fn what_may_go(target: &Target, taken: &Taken) -> MayGo {
    let rules = &target.selection;
    if taken.mark.cleared || !rules.may_protect() {
        return MayGo::All;
    }
    let protects = |is_dir| rules.protects(&taken.path, is_dir, None);
    match (protects(false), protects(true)) {
        (false, false) => MayGo::Name,
        (true, true) => MayGo::Nothing,
        _ => MayGo::Unknown,
    }
}

fn look(
    target: &Target,
    link: &Link,
    taken: &Taken,
    there: std::io::Result<Option<(EntryMeta, Option<Linked>)>>,
) -> Outcome {
    let terms = link.terms();
    let (entry, linked) = match there {
        Ok(Some((entry, linked))) => (terms.entry(entry), linked),
        Ok(None) => return Outcome::Found(Found::Absent),
        Err(error) => return Outcome::Failed("unreadable", describe(taken, "stat", &error)),
    };
    if !target
        .selection
        .includes(&taken.path, entry.kind == Kind::Dir)
    {
        return Outcome::Found(Found::Absent);
    }
    if !terms.keeps(entry.kind) {
        if !taken.mark.gone {
            let kind = entry.kind.word();
            tracing::warn!(target = %target.name, path = %taken.path, "not mirrored: the receiver keeps no {kind}");
        }
        return Outcome::Found(Found::Absent);
    }
    let known = taken.mark.remote != Remote::Absent && !taken.mark.born;
    if taken.mark.look == Look::Meta && known {
        return match meta_at(target, terms, taken, &entry) {
            Ok(meta) => Outcome::Found(Found::Metadata {
                kind: entry.kind,
                size: entry.size,
                meta,
            }),
            Err(error) if is_gone(&error) => Outcome::Later(target.now() + 1),
            Err(error) => {
                let text = describe(taken, "read the extended attributes of", &error);
                Outcome::Failed("attributes not readable", text)
            }
        };
    }
    let meta = || {
        let meta = meta_at(target, terms, taken, &entry);
        meta.unwrap_or_else(|_| meta_of(&entry))
    };
    match entry.kind {
        Kind::Dir => Outcome::Found(Found::Dir(meta())),
        Kind::Symlink => match target.root.read_link(&taken.path) {
            Ok(Some(link)) => Outcome::Found(Found::Symlink {
                meta: meta(),
                target: link,
            }),
            Ok(None) | Err(_) => Outcome::Later(target.now() + ABSENCE_MS),
        },
        Kind::File => linked
            .and_then(|linked| look_at_links(target, taken, &entry, linked))
            .unwrap_or_else(|| {
                look_at_file(
                    target,
                    terms,
                    taken,
                    &entry,
                    linked.map(|linked| linked.file),
                )
            }),
        kind => Outcome::Found(Found::Special {
            meta: meta(),
            kind,
            rdev: entry.rdev,
        }),
    }
}

/// The metadata of an entry with its attributes, if those take part.
fn meta_at(
    target: &Target,
    terms: &Terms,
    taken: &Taken,
    entry: &EntryMeta,
) -> std::io::Result<Meta> {
    let mut meta = meta_of(entry);
    if terms.attributes.any() {
        meta.xattrs = Some(target.root.attributes(&taken.path, terms)?);
    }
    Ok(meta)
}

/// A file with several names: it is linked to a name that the target has, if there is one. `None` if
/// its content is to be sent.
fn look_at_links(
    target: &Target,
    taken: &Taken,
    entry: &EntryMeta,
    linked: Linked,
) -> Option<Outcome> {
    let now = target.now();
    let inode = (linked.file.dev, linked.file.ino);
    let version = Version::of_entry(entry);
    let seek = target.lock().links.seek(inode, &taken.path, linked.names);
    if seek {
        target.wake_all();
        return Some(Outcome::Later(now + LINK_MS));
    }
    let known = {
        let state = target.lock();
        let in_work = |path: &WirePath| state.dirty.is_in_work(path);
        let known = state.links.known(inode, &taken.path, version, in_work);
        match known {
            // Somebody writes to it by another name: that one goes first, but not for ever.
            Known::Older(names) if now < taken.mark.first + target.settle().hold_max_ms => {
                let coming = names.iter().any(|name| state.dirty.is_pending(name));
                if coming { Known::Busy } else { Known::Nothing }
            }
            other => other,
        }
    };
    match known {
        Known::Busy if !taken.mark.wrote => Some(Outcome::Later(now + LINK_MS)),
        Known::Names(names) if !taken.mark.wrote => {
            let to = names.iter().find(|name| is_name_of(target, name, inode))?;
            let to = WirePath::clone(to);
            Some(Outcome::Found(Found::Link { to }))
        }
        Known::Nothing | Known::Older(_) | Known::Busy | Known::Names(_) => None,
    }
}

fn look_at_file(
    target: &Target,
    terms: &Terms,
    taken: &Taken,
    entry: &EntryMeta,
    linked: Option<Identity>,
) -> Outcome {
    let now = target.now();
    let settle = target.settle();
    let held_until = taken.mark.first + settle.hold_max_ms;
    let waits_until = taken.mark.waits_until(entry.size, settle);
    if let Some(until) = waits_until.filter(|until| now < *until) {
        return Outcome::Later(until);
    }
    if entry.size > INLINE_FILE_BYTES_MAX {
        return Outcome::Large(linked, Version::of_entry(entry));
    }
    let stability = if now >= held_until {
        Stability::Waived
    } else {
        Stability::Required
    };
    match read::read_small(
        &target.root,
        &taken.path,
        INLINE_FILE_BYTES_MAX,
        stability,
        terms,
    ) {
        Ok(file) => Outcome::Found(Found::Small {
            meta: file.meta,
            bytes: file.bytes,
            digest: file.digest,
            linked: file.linked.map(|file| (file.dev, file.ino)),
        }),
        Err(ReadError::TooLarge) => Outcome::Large(linked, Version::of_entry(entry)),
        Err(ReadError::Changed) => {
            Outcome::Later((now + settle.settle_ms).min(held_until.max(now + 10)))
        }
        Err(ReadError::Gone | ReadError::NotAFile) => Outcome::Later(now + 1),
        Err(ReadError::Denied(error)) => {
            Outcome::Failed("permission denied", describe(taken, "read", &error))
        }
        Err(ReadError::Io(error)) => Outcome::Failed("unreadable", describe(taken, "read", &error)),
    }
}

fn send(target: &Target, link: &Arc<Link>, batch: Planner, horizon: u64) {
    if batch.is_empty() {
        return;
    }
    let mut dirs = Vec::new();
    for dir in batch.touched() {
        match dir_meta(target, link, &dir) {
            Some(meta) => dirs.push((dir, meta)),
            None => target.update(|state, now| state.dirty.lost_parent(dir, horizon - 1, now)),
        }
    }
    target.send(link, batch.finish(dirs));
}

/// Its attributes are left alone: they do not change with its entries.
fn dir_meta(target: &Target, link: &Link, dir: &WirePath) -> Option<Meta> {
    let entry = target.root.stat(dir).ok().flatten()?;
    (entry.kind == Kind::Dir).then(|| meta_of(&link.terms().entry(entry)))
}

fn describe(taken: &Taken, what: &str, error: &std::io::Error) -> String {
    format!("cannot {what} {} at the source: {error}", taken.path)
}
