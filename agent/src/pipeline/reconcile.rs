//! The comparison thread of a target: finds where source and target differ by digests, and marks it.
//!
//! Equal digests end a comparison after one question. Where they differ it descends, directory by
//! directory, and marks single entries; whatever changes meanwhile is marked by its own event. Marking
//! pauses while much is dirty, so that memory does not grow with what is missing.
//!
//! What the filter rules exclude is left out here and left alone there. The receiver's digests do not
//! know the rules: a directory that holds excluded names there never has an equal digest and is compared
//! by listing, down to those names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use syncd_proto::links::{LinkGroups, LinkNames};
use syncd_proto::meta::{Compare, EntryMeta, Kind, Mtime};
use syncd_proto::path::WirePath;
use syncd_proto::tree::DigestTree;

use crate::logic::coalesce::{Comparison, Millis};
use crate::logic::links::Inode;
use crate::logic::terms::Terms;
use crate::logic::unread::{ATTEMPTS_MAX, Unread, Unreads, What};
use crate::net::link::{Link, LinkError};
use crate::pipeline::sweep::{is_clear, sweep};
use crate::pipeline::target::{State, Target, path_delay_ms};
use early::{Asked, Early};
pub(super) use marks::mark;
use reading::{Built, Problems, build};
use seek::seek;
use walk::Walk;
pub use walk::{Differences, Report, ask, receive};

mod early;
mod marks;
pub mod reading;
mod seek;
#[cfg(test)]
pub(in crate::pipeline) mod tests;
mod walk;

/// How long a comparison that failed waits, in milliseconds.
const RETRY_MS: Millis = 1_000;

/// How long a directory waits that has entries which no message can name, in milliseconds.
const NAMES_RETRY_MS: Millis = 10 * 60 * 1_000;

/// How long it is between two searches for the names of linked files, in milliseconds.
const SEEK_MS: Millis = 250;

/// Why a comparison ended early.
#[derive(Debug)]
pub enum CompareError {
    /// The connection, or the receiver's answer.
    Link(LinkError),
    /// A directory could not be read, here or there.
    Unread(Unread),
    /// The receiver answered something else.
    Answer,
    /// The target stops.
    Stopped,
}

impl std::fmt::Display for CompareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(error) => write!(f, "comparison with the receiver: {error}"),
            Self::Unread(unread) => write!(f, "comparison: {unread}"),
            Self::Answer => f.write_str("the receiver's answer does not fit the question"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for CompareError {}

impl From<LinkError> for CompareError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// What a comparison that went through came to.
#[derive(Debug)]
pub struct Compared {
    /// The digest of both, if there is no difference.
    pub equal: Option<String>,
    /// What was left out because it could not be read; of all else every difference was reported.
    pub unread: Vec<Unread>,
}

/// One way in which source and target differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the source has it.
    Missing(EntryMeta),
    /// Only the target has it.
    Extra(EntryMeta),
    /// Both have it, and it is not the same: the source's, then the target's.
    Changed(EntryMeta, EntryMeta),
    /// It is not the same names that are names of this file.
    Links {
        /// What it is at the source.
        entry: EntryMeta,
        /// Which file it is there, if it has several names.
        inode: Option<Inode>,
        /// At the target, and as at the source otherwise, it has no other name.
        alone: bool,
    },
}

/// Runs until the target stops.
pub fn run(target: &Arc<Target>) {
    let mut seek_at = 0;
    let mut seeks = 0;
    let mut early: Option<Early> = None;
    loop {
        let (path, comparison, link) = {
            let mut state = target.lock();
            loop {
                if state.stopping {
                    return;
                }
                let now = target.now();
                if state.links.is_seeking() && seek_at <= now {
                    drop(state);
                    seeks = if seek(target, seeks) { 0 } else { seeks + 1 };
                    seek_at = target.now() + SEEK_MS;
                    state = target.lock();
                    continue;
                }
                let link = state.link.clone().filter(|link| !link.is_closed());
                if let Some(link) = &link
                    && !state.watched
                    && state.dirty.is_compared(&WirePath::root())
                    && early.as_ref().is_none_or(|early| !early.is_on(link))
                {
                    drop(state);
                    early = Some(Early::new(target, link));
                    state = target.lock();
                    continue;
                }
                if let Some(link) = link
                    && state.watched
                    && let Some((path, comparison)) = state.dirty.take_comparison(now)
                {
                    state.comparing = true;
                    break (path, comparison, link);
                }
                // When its time has come already, something else wakes us.
                let due = state.dirty.next_comparison_due().filter(|due| *due > now);
                let seek = state.links.is_seeking().then_some(seek_at);
                let due = due.into_iter().chain(seek).min();
                state = target.wait(state, due);
            }
        };
        finish(target, path, comparison, &link, early.take());
    }
}

fn finish(
    target: &Arc<Target>,
    path: Arc<WirePath>,
    comparison: Comparison,
    link: &Arc<Link>,
    early: Option<Early>,
) {
    let mut mark = |differences: Differences| mark(target, link, differences);
    let content = comparison.content;
    let result = compare_asked(target, link, &path, content, early, &mut mark);
    target.update(|state, now| {
        state.comparing = false;
        match result {
            Ok(Compared { equal, unread }) => {
                state.counts.comparisons += 1;
                put_off(state, unread, comparison.content, now);
                state.dirty.settle_seq(comparison.seq);
                if path.is_root() {
                    state.links.ready();
                }
                let horizon = state.dirty.horizon();
                state.first_sync_below.get_or_insert(horizon);
                state.look_at_first_sync();
                if let (Some(root), true) = (equal, path.is_root()) {
                    state.identical = Some((root, std::time::SystemTime::now()));
                }
            }
            Err(error) => give_back(target, state, path, comparison, error, now),
        }
    });
}

/// A comparison failed: it is done again, and if something could not be read, less and less often.
fn give_back(
    target: &Target,
    state: &mut State,
    path: Arc<WirePath>,
    mut comparison: Comparison,
    error: CompareError,
    now: Millis,
) {
    let is_over = matches!(
        error,
        CompareError::Stopped | CompareError::Link(LinkError::Closed)
    );
    let again = matches!(&error, CompareError::Unread(unread) if comparison.failure.as_ref() == Some(&unread.failure));
    if !is_over && (!again || comparison.attempts <= 1) {
        tracing::warn!(target = %target.name, path = %path, "{error}");
    }
    let mut due = now + RETRY_MS;
    if let CompareError::Unread(unread) = error {
        comparison.attempts += 1;
        due = now + path_delay_ms(comparison.attempts);
        if unread.what == What::Names && comparison.attempts > ATTEMPTS_MAX {
            // An event tells when that changes.
            due = now + NAMES_RETRY_MS;
        }
        comparison.failure = Some(unread.failure);
    }
    state.dirty.give_back_comparison(path, comparison, due);
}

/// What a comparison left out is looked at by itself: directories are compared later, for the rest the planner reads.
pub(super) fn put_off(state: &mut State, unread: Vec<Unread>, content: bool, now: Millis) {
    for Unread {
        path,
        what,
        failure,
    } in unread
    {
        match what {
            What::Entries | What::Names => {
                let due = now + path_delay_ms(1);
                state.dirty.compare_later(path, content, failure, due);
            }
            What::Content => state.dirty.unclear(path, now),
            What::Attributes => state.dirty.attrib(path, now),
        }
    }
}

/// Compares the trees below `path` and reports every difference, parents first. They are equal only if both could be
/// read whole.
///
/// # Errors
/// [`CompareError`], also when `path` itself cannot be read; what was reported until then stands.
pub fn compare(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    content: bool,
    report: Report<'_>,
) -> Result<Compared, CompareError> {
    compare_asked(target, link, path, content, None, report)
}

/// The same where the question may have been asked already.
fn compare_asked(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    content: bool,
    early: Option<Early>,
    report: Report<'_>,
) -> Result<Compared, CompareError> {
    // One that failed noted what the source has, and did not come to all that the target lacks.
    compare_noting(target, link, path, content, early, report)
        .inspect_err(|_| target.held().forget_lengths())
}

/// The same; notes how long files of the source are, before it is known what the target lacks.
fn compare_noting(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    content: bool,
    early: Option<Early>,
    report: Report<'_>,
) -> Result<Compared, CompareError> {
    let differ = Compared {
        equal: None,
        unread: Vec::new(),
    };
    if !target.selection.includes(path, true) && !is_file(target, link, path)? {
        return Ok(differ);
    }
    settle_commits(target, link)?;
    let policy = link.welcome().compare;
    // Both sides walk at the same time.
    let early = early.filter(|_| path.is_root() && !content);
    let asked = match early.and_then(|early| early.current(link)) {
        Some(asked) => asked,
        None => Asked::new(target, link, path, content)?,
    };
    let answer = asked.soon(link)?;
    if answer.as_ref().is_some_and(|it| asked.is_without(it))
        && let Some(compared) = compare_with_nothing(target, link, report)?
    {
        return Ok(compared);
    }
    let built = build(target, link.terms(), path, policy, content)?;
    let Built {
        tree: here,
        groups,
        problems,
    } = built;
    let policy = Compare {
        links: policy.links && !groups.is_full(),
        ..policy
    };
    let inodes = inodes(&groups);
    let mut differing = HashSet::new();
    let mut report = |differences: Differences| {
        let names = differences.iter().map(|(path, _)| path);
        differing.extend(names.filter(|path| inodes.contains_key(path)).cloned());
        report(differences)
    };
    let report = &mut report;
    let answer = match answer {
        Some(answer) => answer,
        None => asked.answer(link)?,
    };
    let there = answer.digests.first().copied().flatten();
    let Some(here) = here else {
        // No such directory: whatever stands there is looked at by itself.
        if let Some(entry) = reading::stat(target, link, path, What::Entries)? {
            let dir = match there.is_some() || target.selection.may_protect() {
                true => known_dir(link, path, there.is_some())?,
                false => None,
            };
            if let Some(dir) = dir.filter(|_| entry.kind != Kind::Dir) {
                if !is_clear(target, link, path, &dir, report)? {
                    return Err(CompareError::Unread(walk::not_replaced(path)));
                }
                report(vec![(path.clone(), Difference::Changed(entry, dir))])?;
            } else {
                let is_dir = entry.kind == Kind::Dir;
                report(vec![(path.clone(), Difference::Missing(entry))])?;
                if is_dir {
                    // It came a moment ago: the target may have another one there, with what was in it.
                    target.update(|state, now| state.dirty.compare(path.clone(), now));
                }
            }
        } else if !path.is_root() {
            sweep_dir(target, link, path, there.is_some(), report)?;
        }
        return Ok(differ);
    };
    if path.is_root() {
        let entries = here.entries();
        target.update(|state, now| state.brake.entries_seen(entries, now));
    }
    let names = if policy.links {
        groups.names(path)
    } else {
        LinkNames::default()
    };
    let here = here.with_links(&names);
    let complete = here.is_complete(&WirePath::root()) && problems.is_sure(path);
    if there == Some(here.root_digest()) && complete {
        learn(target, policy, &groups, &differing);
        return Ok(Compared {
            equal: Some(here.root_digest().to_string()),
            ..differ
        });
    }
    let mut walk = Walk {
        target,
        link,
        base: path.clone(),
        here,
        problems,
        names,
        inodes: &inodes,
        policy,
        content,
        plain: Arc::new(link.terms().without_attributes()),
        unread: Unreads::default(),
    };
    walk.descend(report)?;
    let unread = walk.unread.conclude(path).map_err(CompareError::Unread)?;
    // Nothing is known of these names at the target: no other name may be linked to one of them.
    let is_unread = |name: &&WirePath| unread.iter().any(|unread| name.starts_with(&unread.path));
    differing.extend(inodes.keys().filter(is_unread).cloned());
    learn(target, policy, &groups, &differing);
    Ok(Compared { unread, ..differ })
}

/// Reports everything that the source has, as it is read, if the target has nothing; `None` if it has something. No
/// digest is needed for that, and no name can be one of a file that is there under another.
fn compare_with_nothing(
    target: &Target,
    link: &Arc<Link>,
    report: Report<'_>,
) -> Result<Option<Compared>, CompareError> {
    let root = WirePath::root();
    let (dir, there) = receive(link, ask(link, &root, false)?, &root)?;
    let Some(dir) = dir.filter(|_| there.is_empty()) else {
        return Ok(None);
    };
    let mut entries = 0;
    let mut report = |differences: Differences| {
        let is_missing =
            |(_, difference): &&(_, Difference)| matches!(difference, Difference::Missing(_));
        entries += differences.iter().filter(is_missing).count() as u64;
        report(differences)
    };
    let inodes = HashMap::new();
    let mut walk = Walk {
        target,
        link,
        base: root.clone(),
        here: DigestTree::default(),
        problems: Problems::default(),
        names: LinkNames::default(),
        inodes: &inodes,
        policy: link.welcome().compare,
        content: false,
        plain: Arc::new(link.terms().without_attributes()),
        unread: Unreads::default(),
    };
    let mut open = VecDeque::new();
    walk.compare_listed(root.clone(), dir, there, &mut open, &mut report)?;
    let unread = walk.unread.conclude(&root).map_err(CompareError::Unread)?;
    target.update(|state, now| state.brake.entries_seen(entries, now));
    Ok(Some(Compared {
        equal: None,
        unread,
    }))
}

/// Whether something that is no directory, and takes part as such, has this name.
fn is_file(target: &Target, link: &Link, path: &WirePath) -> Result<bool, CompareError> {
    let entry = reading::stat(target, link, path, What::Entries)?;
    let is_file = entry.is_some_and(|entry| entry.kind != Kind::Dir);
    Ok(is_file && target.selection.includes(path, false))
}

/// Removes what the target has of a directory that is gone here. `known` to be there, or else it may be one that could
/// not be read whole.
fn sweep_dir(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    known: bool,
    report: Report<'_>,
) -> Result<(), CompareError> {
    match known_dir(link, path, known)? {
        Some(gone) => sweep(target, link, path, gone, report).map(drop),
        None => Ok(()),
    }
}

/// The directory at the target, if there is one; of one that is `known` to be there nothing else is asked.
fn known_dir(
    link: &Arc<Link>,
    path: &WirePath,
    known: bool,
) -> Result<Option<EntryMeta>, CompareError> {
    if !known {
        return Ok(receive(link, ask(link, path, false)?, path)?.0);
    }
    Ok(Some(EntryMeta {
        kind: Kind::Dir,
        ..unknown()
    }))
}

/// The names of linked files, with the file.
fn inodes(groups: &LinkGroups) -> HashMap<WirePath, Inode> {
    let names = groups
        .iter()
        .flat_map(|(inode, group)| group.paths.iter().map(move |path| (path.clone(), inode)));
    names.collect()
}

/// Notes which names of linked files the target has as they are here.
fn learn(target: &Target, policy: Compare, groups: &LinkGroups, differing: &HashSet<WirePath>) {
    if !policy.links {
        return;
    }
    for (inode, group) in groups.iter() {
        let mut state = target.lock();
        let others = state.links.compared(inode, group, differing);
        state.relink(others, target.now());
    }
    target.wake_all();
}

/// Whether a comparison can go on.
pub(super) fn check_open(state: &State, link: &Link) -> Result<(), CompareError> {
    match (state.stopping, link.is_closed()) {
        (true, _) => Err(CompareError::Stopped),
        (_, true) => Err(CompareError::Link(LinkError::Closed)),
        _ => Ok(()),
    }
}

/// Waits until the receiver has applied what was sent, and every rename that was heard of: its answer
/// must not be about an older state. Below the new name of a directory that it does not know yet there
/// would be nothing to be removed.
pub(super) fn settle_commits(target: &Target, link: &Link) -> Result<(), CompareError> {
    // Asked for once the renames are in the commit log: they are to be among what was sent.
    let mut sent = None;
    let mut state = target.lock();
    loop {
        check_open(&state, link)?;
        if state.dirty.has_renames() {
            sent = None;
        } else if link.progress().1 >= *sent.get_or_insert_with(|| link.progress().0) {
            return Ok(());
        }
        if !link.welcome().writable {
            return Ok(());
        }
        state = target.wait(state, None);
    }
}

fn unknown() -> EntryMeta {
    EntryMeta {
        kind: Kind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
        size: 0,
        rdev: (0, 0),
        content: None,
        xattrs: None,
    }
}

/// How many entries the source has now, as far as it can be read: what goes while it is counted is not.
pub fn count_entries(target: &Target) -> Option<u64> {
    let root = WirePath::root();
    let built = build(target, &plain_terms(target), &root, Compare::ALL, false).ok()?;
    built.tree.map(|tree| tree.entries())
}

/// The terms of the open session, if there is one, without attributes.
fn plain_terms(target: &Target) -> Arc<Terms> {
    let state = target.lock();
    let terms = state.link.as_ref().map(|link| link.terms());
    Arc::new(terms.map_or_else(Terms::default, |terms| terms.without_attributes()))
}
