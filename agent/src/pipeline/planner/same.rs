//! Small files whose content the target is believed to have: see [`Held`](crate::logic::held::Held).

use syncd_proto::digest::Digest;
use syncd_proto::path::{Name, WirePath};

use crate::fs::root::Directory;
use crate::logic::coalesce::{Look, Rename, Taken};
use crate::logic::held::Place;
use crate::logic::links::Inode;
use crate::logic::plan::Found;
use crate::net::link::Link;
use crate::pipeline::target::Target;

use super::look::is_name_of;

/// Longest names of one file that are told, all together, in bytes.
const NAMES_BYTES_MAX: usize = 64 << 10;

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
    if linked.is_none() && target.lock().links.has_name(&taken.path) {
        // It is another file, or the only name left: the target has several.
        target.held().forget(*place);
        return found;
    }
    let of_name = target.held().replace(*place, digest);
    let known = match *linked {
        None => of_name,
        Some(inode) => {
            let file = file_place(target, inode);
            let of_file = target.held().replace(file, digest);
            // What had another name only is known by that one.
            of_file.or(of_name.filter(|same| *same))
        }
    };
    let may_ask = link.compares() && taken.mark.attempts == 0 && !taken.mark.is_absent_there();
    if !may_ask || known == Some(false) {
        return found;
    }
    let names = match *linked {
        None => Some(Vec::new()),
        Some(inode) => other_names(target, &taken.path, inode),
    };
    let Some(names) = names else {
        return found;
    };
    let of_names = || known_of_names(target, &names, digest);
    let likely = known.or_else(of_names).or(of_name);
    match found {
        Found::Small {
            meta,
            bytes,
            digest,
            linked,
            ..
        } if likely.unwrap_or(taken.mark.look == Look::Doubt) => Found::Same {
            meta,
            len: bytes.len() as u32,
            digest,
            linked,
            names,
        },
        found => found,
    }
}

/// All other names of a file, if each is one here and the target has them as one file.
fn other_names(target: &Target, path: &WirePath, inode: Inode) -> Option<Vec<WirePath>> {
    let (_, linked) = target.root.stat_links(path).ok().flatten()?;
    let count = linked.filter(|linked| linked.inode() == inode)?.names;
    let names = target.lock().links.others(inode, path, count)?;
    let components = names.iter().flat_map(|name| name.names());
    let bytes: usize = components.map(|name| name.as_bytes().len() + 1).sum();
    let are_here = || names.iter().all(|name| is_name_of(target, name, inode));
    let are_told = bytes <= NAMES_BYTES_MAX && are_here();
    are_told.then(|| names.iter().map(|name| WirePath::clone(name)).collect())
}

/// Whether one of these names is believed to have this content, or another one, since it was the only name of its file.
fn known_of_names(target: &Target, names: &[WirePath], digest: &Digest) -> Option<bool> {
    let homes = names.iter().filter_map(|name| target.root.home(name));
    let known = homes.filter_map(|home| {
        let place = place(target, home);
        target.held().is(place, digest)
    });
    known.max()
}

/// Nothing is believed of a name and of what stands there.
pub(super) fn forget(target: &Target, home: (Directory, &Name), linked: Option<Inode>) {
    let place = place(target, home);
    target.held().forget(place);
    if let Some(inode) = linked {
        let file = file_place(target, inode);
        target.held().forget(file);
    }
}

/// What stands for a file with several names, whatever they are.
fn file_place(target: &Target, inode: Inode) -> Place {
    target.held().place(inode, b"")
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
