//! Small files whose content the target is believed to have: see [`Held`](crate::logic::held::Held).

use syncd_proto::digest::Digest;
use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::meta::{EntryMeta, Kind};
use syncd_proto::path::{Name, WirePath};

use crate::fs::root::Directory;
use crate::logic::coalesce::{Look, Rename, Taken};
use crate::logic::held::{Belief, Place};
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
        bytes,
        ..
    } = &found
    else {
        return found;
    };
    let len = bytes.len() as u32;
    if linked.is_none() && target.lock().links.has_name(&taken.path) {
        // It is another file, or the only name left: the target has several.
        target.held().forget(*place);
        return found;
    }
    let of_name = target.held().replace(*place, digest, len);
    let known = match *linked {
        None => of_name,
        Some(inode) => {
            let file = file_place(target, inode);
            let of_file = target.held().replace(file, digest, len);
            // What had another name only is known by that one.
            of_file.or(of_name.filter(|is| *is == Belief::Same))
        }
    };
    let may_ask = link.compares() && taken.mark.attempts == 0 && !taken.mark.is_absent_there();
    if !may_ask || known == Some(Belief::Other) {
        return found;
    }
    let names = match *linked {
        None => Some(Vec::new()),
        Some(inode) => other_names(target, &taken.path, inode),
    };
    let Some(names) = names else {
        return found;
    };
    let of_names = || known_of_names(target, &names, digest, len);
    let believed = known.or_else(|| of_names().max(of_name));
    let believed = believed.filter(|is| *is != Belief::AsLong || are_lengths_sure(target));
    match found {
        Found::Small {
            meta,
            digest,
            linked,
            ..
        } if believed.map_or(taken.mark.look == Look::Doubt, |is| is != Belief::Other) => {
            Found::Same {
                meta,
                len,
                digest,
                linked,
                names,
            }
        }
        found => found,
    }
}

/// Whether what comparisons noted of lengths is what the target has: while one is under way it is what the source has, and
/// that the target lacks it may be still to be found.
fn are_lengths_sure(target: &Target) -> bool {
    let state = target.lock();
    !state.comparing && !state.checking
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

/// What is believed of one of these names, since it was the only name of its file.
fn known_of_names(
    target: &Target,
    names: &[WirePath],
    digest: &Digest,
    len: u32,
) -> Option<Belief> {
    let homes = names.iter().filter_map(|name| target.root.home(name));
    let known = homes.filter_map(|home| {
        let place = place(target, home);
        target.held().is(place, digest, len)
    });
    known.max()
}

/// A comparison reads the source: what it says nothing about is at the target as well. Should a small file be written again
/// with the length that it has, its content may be the same.
pub(in crate::pipeline) fn seen(target: &Target, dir: Directory, entries: &[(Name, EntryMeta)]) {
    let mut held = target.held();
    for (name, entry) in entries {
        if entry.kind == Kind::File && entry.size <= INLINE_FILE_BYTES_MAX {
            let place = held.place(dir, name.as_bytes());
            held.found_len(place, entry.size as u32);
        }
    }
}

/// The target has something else under this name, as a comparison found: it need not be asked.
pub(in crate::pipeline) fn differs(target: &Target, path: &WirePath) {
    if let Some(home) = target.root.home(path) {
        forget(target, home, None);
    }
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
