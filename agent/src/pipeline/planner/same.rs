//! Small files whose content the target is believed to have: see [`Held`](crate::logic::held::Held).

use syncd_proto::path::Name;

use crate::fs::root::Directory;
use crate::logic::coalesce::{Look, Rename, Taken};
use crate::logic::held::Place;
use crate::logic::plan::Found;
use crate::net::link::Link;
use crate::pipeline::target::Target;

/// The content of a small file stays here where the target is believed to have it, or likely has. Where the receiver
/// finds another one the file comes again, and its content goes.
pub(super) fn or_same(target: &Target, link: &Link, taken: &Taken, found: Found) -> Found {
    let Found::Small {
        place: Some(place),
        linked,
        digest,
        ..
    } = &found
    else {
        return found;
    };
    if linked.is_some() || target.lock().links.has_name(&taken.path) {
        // Several names of a file are another matter, here or there.
        target.held().forget(*place);
        return found;
    }
    let known = target.held().replace(*place, digest);
    let likely = known.unwrap_or(taken.mark.look == Look::Doubt);
    let may_ask = link.compares() && taken.mark.attempts == 0 && !taken.mark.is_absent_there();
    match found {
        Found::Small {
            meta,
            bytes,
            digest,
            ..
        } if likely && may_ask => Found::Same {
            meta,
            len: bytes.len() as u32,
            digest,
        },
        found => found,
    }
}

/// A file keeps its content under its new name.
pub(super) fn note_rename(target: &Target, rename: &Rename) {
    if rename.dir {
        return;
    }
    let home = |path| target.root.home(path).map(|home| place(target, home));
    let (from, to) = (home(&rename.from), home(&rename.to));
    let mut held = target.held();
    match (from, to) {
        (Some(from), Some(to)) if !rename.swap => held.renamed(from, to),
        _ => {
            for place in from.into_iter().chain(to) {
                held.forget(place);
            }
        }
    }
}

/// What stands for a name among those whose content the target is believed to have.
pub(super) fn place(target: &Target, (dir, name): (Directory, &Name)) -> Place {
    target.held().place(dir, name.as_bytes())
}
