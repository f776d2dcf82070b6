//! One look at a path: what is there now, and whether it can be sent.

use std::sync::Arc;

use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::meta::{EntryMeta, Kind, Meta};
use syncd_proto::path::WirePath;

use super::ABSENCE_MS;
use super::same::place;
use crate::fs::read::{self, Opened, ReadError, Stability};
use crate::fs::root::{Identity, Linked, Nearby, is_gone};
use crate::logic::coalesce::{Look, Millis, Taken};
use crate::logic::links::{Inode, Known, Version};
use crate::logic::plan::Found;
use crate::logic::terms::Terms;
use crate::net::link::Link;
use crate::pipeline::source::is_younger;
use crate::pipeline::target::Target;

/// How long a name waits while its file is sent under another name, in milliseconds.
const LINK_MS: Millis = 50;

/// How long a file waits that was cut to nothing, in milliseconds: that can be seen before the kernel has an event that
/// tells of it, for as long as whoever cuts it has to wait for the processor.
const CUT_MS: Millis = 300;

/// What one look at a path led to.
pub(super) enum Outcome {
    /// It can be sent.
    Found(Found),
    /// It is a large file: to be transferred.
    Large(Option<Identity>, Version),
    /// Not now.
    Later(Millis),
    /// Not now: other names of it are to be known first.
    AfterNames(Millis),
    /// It cannot be read.
    Failed(&'static str, String),
}

/// What is at a path that was examined just now, and may be open already.
pub(super) fn look(
    target: &Target,
    link: &Link,
    near: &mut Nearby<'_>,
    (taken, opened): (&Taken, Option<Opened>),
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
    let linked = linked.filter(|_| terms.links(entry.kind));
    let known = !taken.mark.is_absent_there();
    // What is no file is made anew there where its metadata changes, and its other names are linked to that.
    let is_made_anew = linked.is_some() && entry.kind != Kind::File;
    if taken.mark.look == Look::Meta && known && !is_made_anew {
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
        meta.unwrap_or_else(|_| entry.meta())
    };
    let links = linked.and_then(|linked| look_at_links(target, taken, &entry, linked));
    if let Some(outcome) = links {
        return outcome;
    }
    let inode = linked.map(|linked| linked.inode());
    match entry.kind {
        Kind::Dir => Outcome::Found(Found::Dir(meta())),
        Kind::Symlink => match target.root.read_link(&taken.path) {
            Ok(Some(link)) => Outcome::Found(Found::Symlink {
                meta: meta(),
                target: link,
                linked: inode,
            }),
            Ok(None) => Outcome::Later(target.now() + ABSENCE_MS),
            Err(error) => Outcome::Failed("unreadable", describe(taken, "read the link", &error)),
        },
        Kind::File => {
            let linked = linked.map(|linked| linked.file);
            look_at_file(target, terms, near, (taken, &entry, opened), linked)
        }
        kind => Outcome::Found(Found::Special {
            meta: meta(),
            kind,
            rdev: entry.rdev,
            linked: inode,
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
    let mut meta = entry.meta();
    if terms.attributes.any() {
        meta.xattrs = Some(target.root.attributes(&taken.path, terms)?);
    }
    Ok(meta)
}

/// A thing with several names: it is linked to a name that the target has, if there is one. `None` if
/// its content is to be sent.
fn look_at_links(
    target: &Target,
    taken: &Taken,
    entry: &EntryMeta,
    linked: Linked,
) -> Option<Outcome> {
    let now = target.now();
    let inode = linked.inode();
    let version = Version::of_entry(entry);
    let is_file = entry.kind == Kind::File;
    if taken.mark.went {
        // Another file, perhaps with the same number.
        target.lock().links.forget(&taken.path);
    }
    loop {
        let (count, seq) = (linked.names, taken.mark.seq);
        let seek = target.lock().links.seek(inode, &taken.path, count, seq);
        if seek {
            target.wake_all();
            return Some(Outcome::AfterNames(now + LINK_MS));
        }
        let known = {
            let state = target.lock();
            let in_work = |path: &WirePath| state.dirty.is_in_work(path);
            state.links.known(inode, &taken.path, version, in_work)
        };
        let (right, wrong) = match &known {
            Known::Names(names) | Known::Older(names) => names
                .iter()
                .partition(|name| is_name_of(target, name, inode)),
            Known::Nothing | Known::Busy => (Vec::new(), Vec::new()),
        };
        let mut state = target.lock();
        if !wrong.is_empty() && !state.dirty.has_renames() {
            // Names of a file that had the number before, or that went after they were read and before they were noted:
            // those that it has now are looked for anew.
            let wrong: Vec<_> = wrong.into_iter().cloned().collect();
            state.links.mistaken(&taken.path, &wrong);
            continue;
        }
        // Somebody writes to it by another name: that one goes first, but not for ever.
        let is_coming = |names: &[Arc<WirePath>]| {
            let coming = names.iter().any(|name| state.dirty.is_pending(name));
            coming && is_file && now < taken.mark.held_until(target.settle())
        };
        let is_busy = match &known {
            Known::Busy => true,
            Known::Older(names) => is_coming(names),
            Known::Nothing | Known::Names(_) => false,
        };
        let is_same = is_file || taken.mark.look != Look::Meta;
        return match &known {
            _ if taken.mark.wrote => None,
            _ if is_busy => Some(Outcome::AfterNames(now + LINK_MS)),
            Known::Names(_) if is_same => {
                let to = right.first().map(|name| WirePath::clone(name));
                to.map(|to| Outcome::Found(Found::Link { to }))
            }
            _ => None,
        };
    }
}

fn look_at_file(
    target: &Target,
    terms: &Terms,
    near: &mut Nearby<'_>,
    (taken, entry, opened): (&Taken, &EntryMeta, Option<Opened>),
    linked: Option<Identity>,
) -> Outcome {
    let now = target.now();
    let settle = target.settle();
    let held_until = taken.mark.held_until(settle);
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
    let opened = opened.map_or_else(|| Opened::of(near.open_file(&taken.path)?), Ok);
    let read = opened
        .and_then(|file| read::read_small_opened(&file, INLINE_FILE_BYTES_MAX, stability, terms));
    match read {
        Ok(file)
            if file.bytes.is_empty()
                && !taken.mark.is_absent_there()
                && now < held_until
                && is_younger(file.meta.mtime, CUT_MS) =>
        {
            Outcome::Later(now + CUT_MS)
        }
        Ok(file) => Outcome::Found(Found::Small {
            meta: file.meta,
            bytes: file.bytes,
            digest: file.digest,
            linked: file.linked.map(|file| (file.dev, file.ino)),
            place: near.home(&taken.path).map(|home| place(target, home)),
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

/// Whether a name is one of this file.
pub(super) fn is_name_of(target: &Target, name: &WirePath, inode: Inode) -> bool {
    let there = target.root.stat_links(name).ok().flatten();
    let there = there.and_then(|(_, linked)| linked);
    there.is_some_and(|linked| linked.inode() == inode)
}

fn describe(taken: &Taken, what: &str, error: &std::io::Error) -> String {
    format!("cannot {what} {} at the source: {error}", taken.path)
}
