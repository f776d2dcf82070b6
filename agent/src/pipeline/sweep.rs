//! What of a directory may be removed that only the target has: names that the filter rules protect
//! stay, with the directories they are in; everything else goes, in as few removes as there can be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use syncd_proto::message::ListEntry;
use syncd_proto::meta::{EntryMeta, Kind};
use syncd_proto::path::WirePath;

use crate::net::link::Link;
use crate::pipeline::reconcile::{CompareError, Difference, Report, ask, receive};
use crate::pipeline::target::Target;

/// Directories asked about at once.
const QUERIES_MAX: usize = 32;

/// A directory being gone through.
struct Level {
    path: WirePath,
    meta: EntryMeta,
    entries: vec::IntoIter<ListEntry>,
    /// What may go, as long as it may all go together.
    held: Vec<(WirePath, EntryMeta)>,
    /// Nothing in it is protected, so far.
    clear: bool,
}

/// Reports what may go of the entry at `path`, which only the target has. Returns whether that is all
/// of it.
///
/// # Errors
/// [`CompareError`]; what was reported until then stands.
pub(super) fn sweep(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    meta: EntryMeta,
    report: Report<'_>,
) -> Result<bool, CompareError> {
    let is_dir = meta.kind == Kind::Dir;
    let rules = &target.selection;
    if rules.may_protect() && rules.protects(path, is_dir, None) {
        if is_dir {
            target.update(|state, _| state.keep(path));
        }
        return Ok(false);
    }
    if !is_dir || !rules.may_protect() || is_clear(target, link, path, &meta, report)? {
        report(vec![(path.clone(), Difference::Extra(meta))])?;
        return Ok(true);
    }
    Ok(false)
}

/// Whether nothing in a directory of the target is protected. If something is, reports what is not.
///
/// # Errors
/// [`CompareError`]; what was reported until then stands.
pub(super) fn is_clear(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    meta: &EntryMeta,
    report: Report<'_>,
) -> Result<bool, CompareError> {
    if !target.selection.may_protect() {
        return Ok(true);
    }
    let mut stack = vec![Level::open(link, path.clone(), meta.clone())?];
    loop {
        let Some(top) = stack.last_mut() else {
            return Ok(true);
        };
        let Some(entry) = top.entries.next() else {
            let Some(done) = stack.pop() else {
                return Ok(true);
            };
            target.update(|state, _| match done.clear {
                true => _ = state.kept.remove(&done.path),
                false => state.keep(&done.path),
            });
            if !done.clear {
                tracing::info!(target = %target.name, path = %done.path, "kept at the target: names in it are protected by the filter rules");
            }
            match stack.last_mut() {
                None => return Ok(done.clear),
                Some(above) if done.clear => above.may_go(done.path, done.meta, report)?,
                Some(above) => above.stays(report)?,
            }
            continue;
        };
        let Some(below) = top.path.join(&entry.name) else {
            top.stays(report)?;
            continue;
        };
        let is_dir = entry.meta.kind == Kind::Dir;
        if target.selection.protects(&below, is_dir, Some(path)) {
            top.stays(report)?;
        } else if is_dir {
            stack.push(Level::open(link, below, entry.meta)?);
        } else {
            top.may_go(below, entry.meta, report)?;
        }
    }
}

/// How many names of the target go with the directory at `path`, itself included; 1 if it cannot be listed.
///
/// # Errors
/// [`CompareError::Link`] and [`CompareError::Answer`].
pub(super) fn weigh(link: &Arc<Link>, path: &WirePath) -> Result<u64, CompareError> {
    let mut weight = 1;
    let mut open = vec![path.clone()];
    let mut asked = VecDeque::new();
    loop {
        while asked.len() < QUERIES_MAX
            && let Some(path) = open.pop()
        {
            asked.push_back((ask(link, &path, false)?, path));
        }
        let Some((id, path)) = asked.pop_front() else {
            return Ok(weight);
        };
        let entries = match receive(link, id, &path) {
            Ok((_, entries)) => entries,
            Err(CompareError::Unread(_)) => continue,
            Err(error) => return Err(error),
        };
        weight += entries.len() as u64;
        let dirs = entries.iter().filter(|entry| entry.meta.kind == Kind::Dir);
        open.extend(dirs.filter_map(|entry| path.join(&entry.name)));
    }
}

impl Level {
    fn open(link: &Arc<Link>, path: WirePath, meta: EntryMeta) -> Result<Self, CompareError> {
        let (_, entries) = receive(link, ask(link, &path, false)?, &path)?;
        Ok(Self {
            path,
            meta,
            entries: entries.into_iter(),
            held: Vec::new(),
            clear: true,
        })
    }

    fn may_go(
        &mut self,
        path: WirePath,
        meta: EntryMeta,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        if self.clear {
            self.held.push((path, meta));
            return Ok(());
        }
        report(vec![(path, Difference::Extra(meta))])
    }

    fn stays(&mut self, report: Report<'_>) -> Result<(), CompareError> {
        self.clear = false;
        for (path, meta) in self.held.drain(..) {
            report(vec![(path, Difference::Extra(meta))])?;
        }
        Ok(())
    }
}
