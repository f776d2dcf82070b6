//! What is gone at the source: whether it may go at the target, and when.

use super::{add, reconcile};
use crate::fs::scan;
use crate::logic::brake::Verdict;
use crate::logic::coalesce::{Leave, Millis, Taken};
use crate::logic::plan::{Found, Planner};
use crate::net::link::Link;
use crate::pipeline::target::Target;
use syncd_proto::path::WirePath;

/// How long removes wait for a held brake before they are looked at again, in milliseconds.
const HELD_MS: Millis = 1_000;

/// Adds the removal of a path to the batch, unless it is protected or held.
pub(super) fn remove(target: &Target, link: &Link, batch: &mut Planner, mut taken: Taken) {
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
    let emptied = taken.mark.leave != Leave::Given && is_emptied(target, &taken);
    let unmounted = match taken.mark.witnessed {
        true => None,
        false => target.root.mounts().missing_above(&taken.path),
    };
    let weight = taken.mark.weight;
    recount(target, weight);
    let verdict = target.update(|state, now| {
        if lost {
            state.brake.root_lost(target.root.what_became(), now);
            return Verdict::Held;
        }
        state.brake.root_back();
        if taken.mark.leave == Leave::Given {
            return Verdict::Go;
        }
        if let Some(place) = unmounted {
            let reason = format!("{place} is not mounted any more");
            if state.brake.mount_lost(reason, now) == Verdict::Held {
                return Verdict::Held;
            }
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

/// Counts what the source has before it is said that too much of it goes.
fn recount(target: &Target, weight: u64) {
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
}

/// Whether something that is no directory may be sent now, as to what it takes the place of. A directory at the target
/// may hold names that have to stay, and goes with all of them: then a comparison looks there first, and the brake is
/// asked.
pub(super) fn may_replace(target: &Target, mut taken: Taken) -> Option<Taken> {
    let (limited, kept) = {
        let state = target.lock();
        (state.brake.is_limited(), state.kept.contains(&*taken.path))
    };
    let protects = target.selection.may_protect();
    if taken.mark.was_dir && (protects || limited) || kept && protects {
        let parent = taken.path.parent().unwrap_or_default();
        target.update(|state, now| state.dirty.compare(parent, now));
        target.leave(&taken);
        return None;
    }
    let weight = taken.mark.weight;
    if weight <= 1 || !limited || taken.mark.leave == Leave::Given {
        return Some(taken);
    }
    recount(target, weight);
    match target.update(|state, now| state.brake.check(weight, now)) {
        Verdict::Go => Some(taken),
        Verdict::Held => {
            taken.mark.leave = Leave::Held;
            target.defer(taken, target.now() + HELD_MS);
            None
        }
    }
}

/// Whether the source has nothing at all any more, and that is hard to believe: nobody saw this name go (something may
/// not be mounted), or too much went at once.
fn is_emptied(target: &Target, taken: &Taken) -> bool {
    let is_top = taken.path.parent().is_some_and(|parent| parent.is_root());
    let keeps = |path: &WirePath, is_dir| target.selection.keeps(path, is_dir);
    if !is_top || !matches!(scan::is_empty(&target.root, keeps), Ok(true)) {
        return false;
    }
    !taken.mark.witnessed
        || target.update(|state, now| {
            let held = state.brake.hold().is_some();
            let count = taken.mark.weight;
            held || {
                let pending = state.dirty.removals_pending();
                state.brake.is_too_sudden(count + pending, now)
            }
        })
}

/// What may be removed of a name that the source has not got.
enum MayGo {
    /// With all that is in it.
    All,
    /// Only if nothing is in it: what is protected there, or how much it is, is not known.
    Name,
    /// It is protected.
    Nothing,
    /// That depends on what it is.
    Unknown,
}

fn what_may_go(target: &Target, taken: &Taken) -> MayGo {
    let rules = &target.selection;
    if taken.mark.cleared {
        return MayGo::All;
    }
    if !rules.may_protect() {
        // What nobody saw go name by name is counted first, if it is a directory that is not empty.
        let is_counted = taken.mark.witnessed || taken.mark.leave == Leave::Given;
        return match is_counted || !target.lock().brake.is_limited() {
            true => MayGo::All,
            false => MayGo::Name,
        };
    }
    let protects = |is_dir| rules.protects(&taken.path, is_dir, None);
    match (protects(false), protects(true)) {
        (false, false) => MayGo::Name,
        (true, true) => MayGo::Nothing,
        _ => MayGo::Unknown,
    }
}
