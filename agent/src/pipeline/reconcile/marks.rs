//! What a comparison makes of a difference: a mark.

use std::sync::Arc;

use syncd_proto::meta::{EntryMeta, Kind, Mtime, Times};
use syncd_proto::path::WirePath;

use super::seek::seek;
use super::{CompareError, Difference, Differences};
use crate::logic::coalesce::{Look, Millis, Remote};
use crate::logic::unread::ATTEMPTS_MAX;
use crate::net::link::{Link, LinkError};
use crate::pipeline::planner::same;
use crate::pipeline::source::{is_recent, is_younger};
use crate::pipeline::sweep::weigh;
use crate::pipeline::target::{State, Target};

/// Marks above which a comparison waits, and below which it goes on.
const DIRTY_HIGH: usize = 20_000;

/// How long ago a file may have been written that waits for the next write, in milliseconds.
const JUST_WRITTEN_MS: Millis = 300;

/// Marks differences, once there is room for more marks.
///
/// # Errors
/// [`CompareError`]: the connection is lost, or the target stops.
pub(in crate::pipeline) fn mark(
    target: &Target,
    link: &Arc<Link>,
    differences: Differences,
) -> Result<(), CompareError> {
    wait_until_less_dirty(target)?;
    let times = link.welcome().compare.mtime;
    let mut weighed = Vec::with_capacity(differences.len());
    for (path, difference) in differences {
        let weight = weight(target, link, &path, &difference)?;
        let sure = match difference {
            Difference::Extra(_) => !is_changing(target, &path),
            _ => true,
        };
        if let Difference::Changed(here, there) = &difference
            && here.kind == Kind::File
            && look_at(here, there, times) == Look::Content
        {
            same::differs(target, &path);
        }
        weighed.push(Weighed {
            path,
            difference,
            weight,
            sure,
        });
    }
    target.mark_state(|state, now| {
        for it in weighed {
            mark_one(target, state, it, times, now);
        }
    });
    Ok(())
}

/// A difference, and what had to be found out about it.
struct Weighed {
    path: WirePath,
    difference: Difference,
    /// How many names of the target go where it is mended.
    weight: u64,
    /// Whether nothing comes and goes there just now.
    sure: bool,
}

fn mark_one(target: &Target, state: &mut State, it: Weighed, times: Times, now: Millis) {
    let Weighed {
        path,
        difference,
        weight,
        sure,
    } = it;
    let (look, remote, size) = match difference {
        Difference::Missing(here) => (Look::Content, Remote::Absent, Some(here)),
        Difference::Extra(_) if !target.delete => return,
        Difference::Extra(_) => {
            state.dirty.only_there(path.clone(), sure, now);
            state.dirty.weighs(&path, weight);
            return;
        }
        Difference::Links {
            entry,
            inode,
            alone,
        } => {
            let lone = inode.filter(|_| alone);
            if !lone.is_some_and(|inode| state.links.adopt(&path, inode, &entry)) {
                state.dirty.relink(path, now);
            }
            return;
        }
        Difference::Changed(here, there) => {
            let look = look_at(&here, &there, times);
            (look, Remote::Present, Some(here))
        }
    };
    // Whatever was kept under this name is somewhere else now, or may go.
    state.kept.remove(&path);
    let replaces = size.as_ref().is_none_or(|here| here.kind != Kind::File);
    if look != Look::Meta || replaces {
        // Whatever it was taken for: no other name may be linked to what is there.
        state.links.forget(&path);
    }
    if let Some(here) = size
        .as_ref()
        .filter(|here| here.kind == Kind::File && look != Look::Meta)
    {
        state.counts.found_files += 1;
        state.counts.found_bytes += here.size;
    }
    let file = size.filter(|here| here.kind == Kind::File);
    let is_file = file.is_some();
    state
        .dirty
        .found_as(path.clone(), is_file, look, remote, now);
    if weight > 1 {
        state.dirty.weighs(&path, weight);
    }
    let recent = file.is_some_and(|here| was_just_written(here.mtime));
    if recent && look != Look::Meta {
        state.dirty.recent(path, now);
    }
}

/// How thoroughly an entry is looked at that is another one at the target.
fn look_at(here: &EntryMeta, there: &EntryMeta, times: Times) -> Look {
    let alike = here.kind == there.kind && here.size == there.size && here.content == there.content;
    let same_time = here.kind != Kind::File || times.same(here.mtime, there.mtime);
    match (alike, same_time) {
        (true, true) => Look::Meta,
        (true, false) => Look::Doubt,
        (false, _) => Look::Content,
    }
}

/// How many names of the target go where this difference is mended, if it matters.
fn weight(
    target: &Target,
    link: &Arc<Link>,
    path: &WirePath,
    difference: &Difference,
) -> Result<u64, CompareError> {
    let goes = match difference {
        Difference::Extra(there) => target.delete && there.kind == Kind::Dir,
        Difference::Changed(here, there) => here.kind != Kind::Dir && there.kind == Kind::Dir,
        Difference::Missing(_) | Difference::Links { .. } => false,
    };
    if goes && target.lock().brake.is_limited() {
        return weigh(link, path);
    }
    Ok(1)
}

/// Whether somebody may be writing to a file all the time; its next write is an event then. Times without a fraction are
/// those of file systems that know whole seconds.
fn was_just_written(mtime: Mtime) -> bool {
    match mtime.nanos() {
        0 => is_recent(mtime),
        _ => is_younger(mtime, JUST_WRITTEN_MS),
    }
}

/// Whether names come and go in the directory of `path` just now.
fn is_changing(target: &Target, path: &WirePath) -> bool {
    let dir = path.parent().map(|parent| target.root.stat(&parent));
    matches!(dir, Some(Ok(Some(entry))) if is_recent(entry.mtime))
}

fn wait_until_less_dirty(target: &Target) -> Result<(), CompareError> {
    let mut state = target.lock();
    while state.dirty.len() + state.bulk.len() > DIRTY_HIGH {
        if state.stopping {
            return Err(CompareError::Stopped);
        }
        if state.link.as_ref().is_none_or(|link| link.is_closed()) {
            return Err(CompareError::Link(LinkError::Closed));
        }
        if state.links.is_seeking() {
            // What makes it dirty may be waiting for this.
            drop(state);
            seek(target, ATTEMPTS_MAX);
            state = target.lock();
        } else {
            state = target.wait(state, None);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_file_waits_only_if_its_next_write_may_be_about_to_come() {
        let ago = |age: Duration| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap() - age
        };
        let time = |at: Duration, nanos: u32| Mtime::new(at.as_secs() as i64, nanos).unwrap();
        let (now, before) = (
            ago(Duration::ZERO),
            ago(Duration::from_millis(JUST_WRITTEN_MS)),
        );
        assert!(was_just_written(time(now, now.subsec_nanos().max(1))));
        assert!(!was_just_written(time(
            before,
            before.subsec_nanos().max(1)
        )));
        // A file system that knows whole seconds.
        assert!(was_just_written(time(now, 0)));
        assert!(!was_just_written(time(ago(Duration::from_secs(3)), 0)));
    }
}
