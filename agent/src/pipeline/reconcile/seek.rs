//! The other names of files with several: looked for in the source where somebody has to know them.

use std::collections::HashSet;
use std::sync::Arc;

use syncd_proto::links::LinkGroup;
use syncd_proto::meta::{Compare, Kind};
use syncd_proto::path::WirePath;

use super::plain_terms;
use super::reading::{Built, build};
use crate::logic::links::Inode;
use crate::logic::unread::ATTEMPTS_MAX;
use crate::net::link::{Link, LinkError};
use crate::pipeline::delta;
use crate::pipeline::target::{State, Target};

/// Looks through the source for the other names of files with several: what is not pending there, the
/// target has, if it says so. What could not be read may hold some: then whoever waits for them asks again, but not for ever.
/// Returns whether they were looked for.
pub(super) fn seek(target: &Target, before: u32) -> bool {
    target.update(|state, _| state.seeking = true);
    seek_for_waiting(target);
    let (sought, link, begun) = {
        let mut state = target.lock();
        let begun = state.dirty.horizon() - 1;
        (state.links.take_sought(), state.link.clone(), begun)
    };
    let terms = plain_terms(target);
    let found = build(target, &terms, &WirePath::root(), Compare::ALL, false);
    let whole = found
        .as_ref()
        .is_ok_and(|built| built.problems.is_sure(&WirePath::root()));
    if !whole && before + 1 < ATTEMPTS_MAX {
        target.update(|state, _| state.seeking = false);
        return false;
    }
    let Built { groups, .. } = found.unwrap_or_default();
    let groups = groups.iter();
    let groups: Vec<_> = groups
        .filter(|(inode, _)| sought.contains_key(inode))
        .collect();
    let Ok(there) = known_there(target, link.as_deref(), &groups) else {
        target.update(|state, _| state.seeking = false);
        return false;
    };
    for (inode, group) in groups {
        let now = target.now();
        let mut state = target.lock();
        let is_there = |path: &WirePath| {
            // What is no regular file is never written to.
            state.links.has(inode) || group.entry.kind != Kind::File || there.contains(path)
        };
        let pending = group.paths.iter();
        let has_moved = |path: &&WirePath| state.dirty.has_moved(path, begun);
        let moved: Vec<_> = group.paths.iter().filter(has_moved).cloned().collect();
        let pending = pending.filter(|path| {
            !state.dirty.is_settled(path) || !is_there(path) || moved.contains(path)
        });
        let pending: HashSet<WirePath> = pending.cloned().collect();
        let mut others = state.links.compared(inode, group, &pending);
        // On its way it may have been read when it was the only name, or it waits for a rename, or only
        // its metadata is to be sent: then nothing but this leads to another look.
        let unasked = pending
            .iter()
            .filter(|path| !state.dirty.is_looked_at_again(path));
        others.extend(unasked.cloned().map(Arc::new));
        state.relink(others, now);
        // It was found under a name that it does not have any more.
        for path in moved {
            state.dirty.look_where_it_went(&path, begun, now);
        }
    }
    target.update(|state, _| {
        let State { links, dirty, .. } = state;
        links.sought(sought, |path| dirty.is_pending(path));
        state.seeking = false;
    });
    true
}

/// One search is for all that waits, not only for what the planner has come to: it stops at each such name, as changes
/// are sent in order, and each search is a walk through the source.
fn seek_for_waiting(target: &Target) {
    let waiting: Vec<_> = target.lock().dirty.waiting().collect();
    for (path, seq) in waiting {
        if let Ok(Some((_, Some(linked)))) = target.root.stat_links(&path) {
            let mut state = target.lock();
            state.links.seek(linked.inode(), &path, linked.names, seq);
        }
    }
}

/// Names of these files under which the target has what the source has now, of those with nothing pending. A file may
/// have been written to through another name, of which events tell, or which is as new as its directory.
fn known_there(
    target: &Target,
    link: Option<&Link>,
    groups: &[(Inode, &LinkGroup)],
) -> Result<HashSet<WirePath>, LinkError> {
    let link = link.ok_or(LinkError::Closed)?;
    // What is in the commit log is settled here, and is to be so there.
    wait_until_applied(target, link)?;
    let (mut paths, mut entries) = (Vec::new(), Vec::new());
    {
        let state = target.lock();
        for (inode, group) in groups {
            if group.entry.kind == Kind::File && !state.links.has(*inode) {
                let settled = group
                    .paths
                    .iter()
                    .filter(|path| state.dirty.is_settled(path));
                paths.extend(settled.cloned());
                entries.resize(paths.len(), &group.entry);
            }
        }
    }
    let found = delta::versions(link, &paths)?;
    let times = link.welcome().compare.mtime;
    let all = paths.into_iter().zip(entries).zip(found);
    let same = all.filter(|((_, here), there)| {
        let there = there.as_ref();
        there.is_some_and(|there| there.len == here.size && times.same(there.mtime, here.mtime))
    });
    Ok(same.map(|((path, _), _)| path).collect())
}

/// Waits until the receiver has applied what was sent until now.
fn wait_until_applied(target: &Target, link: &Link) -> Result<(), LinkError> {
    let sent = link.progress().0;
    let mut state = target.lock();
    while link.progress().1 < sent {
        if state.stopping || link.is_closed() {
            return Err(LinkError::Closed);
        }
        state = target.wait(state, None);
    }
    Ok(())
}
