//! What is mounted below a source: inotify tells of an unmount only that watches ended, and nothing of a mount.
//!
//! What is not mounted any more has not been removed: [`Mounts::missing_above`] says so of a name that is
//! absent.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use syncd_proto::path::WirePath;

/// Most of the kernel's table that is read.
const TABLE_MAX: u64 = 64 << 20;

/// The mounts below a source.
#[derive(Debug)]
pub struct Mounts(Option<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    file: File,
    root: PathBuf,
    /// What is mounted where, by the kernel's number.
    there: BTreeMap<WirePath, u64>,
    /// What was mounted and is not any more.
    missing: BTreeSet<WirePath>,
    /// Where something changed that nobody has asked for yet.
    news: BTreeSet<WirePath>,
}

impl Mounts {
    /// Those below `root` now. Without `/proc` there are none, ever.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let open = || -> io::Result<Table> {
            let mut table = Table {
                file: File::open("/proc/self/mountinfo")?,
                root: root.canonicalize()?,
                there: BTreeMap::new(),
                missing: BTreeSet::new(),
                news: BTreeSet::new(),
            };
            table.is_changed();
            table.there = table.read()?;
            Ok(table)
        };
        let table = open().inspect_err(|error| {
            tracing::warn!(source = %root.display(), "mounts below are not noticed: {error}");
        });
        Self(table.ok().map(Mutex::new))
    }

    /// Where something was mounted or unmounted since this was last asked.
    pub fn news(&self) -> BTreeSet<WirePath> {
        let news = self
            .table()
            .map(|mut table| std::mem::take(&mut table.news));
        news.unwrap_or_default()
    }

    /// What was mounted at `path` or above it and is not any more.
    #[must_use]
    pub fn missing_above(&self, path: &WirePath) -> Option<WirePath> {
        let table = self.table()?;
        table
            .missing
            .iter()
            .find(|missing| path.starts_with(missing))
            .cloned()
    }

    /// A directory was renamed, with what is mounted in it: the kernel tells of that as of no change.
    pub fn renamed(&self, from: &WirePath, to: &WirePath) {
        let Some(mut table) = self.table() else {
            return;
        };
        if table.there.keys().any(|path| path.starts_with(from)) {
            match table.read() {
                Ok(there) => table.update(there),
                Err(error) => cannot_read(&error),
            }
        }
        table.moved(from, to);
    }

    /// Whether everything that was mounted is, as far as is known.
    pub fn is_whole(&self) -> bool {
        self.table().is_none_or(|table| table.missing.is_empty())
    }

    /// The table as it is now.
    fn table(&self) -> Option<MutexGuard<'_, Table>> {
        let table = self.0.as_ref()?;
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.is_changed() {
            match table.read() {
                Ok(there) => {
                    // Each may have been there for a moment: whoever looked then found nothing missing.
                    let missing = table.missing.clone();
                    table.news.extend(missing);
                    table.update(there);
                }
                Err(error) => cannot_read(&error),
            }
        }
        Some(table)
    }
}

impl Table {
    fn update(&mut self, there: BTreeMap<WirePath, u64>) {
        for path in self.there.keys().filter(|path| !there.contains_key(path)) {
            self.missing.insert(path.clone());
            self.news.insert(path.clone());
        }
        for (path, id) in &there {
            if self.there.get(path) != Some(id) {
                self.missing.remove(path);
                self.news.insert(path.clone());
            }
        }
        self.there = there;
    }

    /// What is missing below the old name of a directory has been at the new one since, or is there.
    fn moved(&mut self, from: &WirePath, to: &WirePath) {
        let missing: Vec<_> = self.missing.iter().cloned().collect();
        for old in missing {
            let tail = old.strip_prefix(from);
            let Some(new) = tail.and_then(|tail| to.join_path(&tail)) else {
                continue;
            };
            self.missing.remove(&old);
            if !self.there.contains_key(&new) {
                self.missing.insert(new.clone());
            }
            self.news.insert(new);
        }
    }

    /// Whether anything was mounted or unmounted anywhere since this was last asked.
    fn is_changed(&self) -> bool {
        let mut poll = [PollFd::new(&self.file, PollFlags::PRI)];
        let polled = rustix::event::poll(&mut poll, Some(&Timespec::default()));
        polled.is_ok_and(|count| count > 0)
    }

    fn read(&mut self) -> io::Result<BTreeMap<WirePath, u64>> {
        let mut text = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&self.file).take(TABLE_MAX).read_to_end(&mut text)?;
        Ok(parse(&text, &self.root))
    }
}

fn cannot_read(error: &io::Error) {
    tracing::warn!("cannot read which file systems are mounted: {error}");
}

/// The mounts below `root` of a `mountinfo`; the last one at a path is the one that is seen.
fn parse(text: &[u8], root: &Path) -> BTreeMap<WirePath, u64> {
    let mut there = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = fields
            .next()
            .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let (Some(id), Some(at)) = (id, fields.nth(3)) else {
            continue;
        };
        let at = PathBuf::from(OsString::from_vec(unescape(at)));
        let below = at.strip_prefix(root).ok().and_then(WirePath::from_relative);
        if let Some(path) = below.filter(|path| !path.is_root()) {
            there.insert(path, id);
        }
    }
    there
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = text.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            at += 4;
        } else {
            bytes.push(*byte);
            at += 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 21 0:25 / /data rw - tmpfs none rw\n\
        31 30 0:26 / /data/src rw - tmpfs none rw\n\
        32 31 0:27 / /data/src/a\\040b rw,relatime shared:1 - tmpfs none rw\n\
        33 31 0:28 /x /data/src/c/d rw - ext4 /dev/vda rw\n\
        34 33 0:28 /y /data/src/c/d rw - ext4 /dev/vda rw\n\
        35 31 0:28 /y /data/srcs rw - ext4 /dev/vda rw\nnonsense\n\n";

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    #[test]
    fn mounts_below_the_root_are_found_and_the_root_is_none_of_them() {
        let found = parse(TABLE, Path::new("/data/src"));
        let expected = BTreeMap::from([(path("a b"), 32), (path("c/d"), 34)]);
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_missing_moves_with_its_directory_unless_it_is_there() {
        let mounts = Mounts::below(Path::new("/"));
        let there = |ids: &[&WirePath]| {
            let there = ids.iter().map(|path| ((*path).clone(), 7)).collect();
            mounts.table().unwrap().update(there);
        };
        let [old, new, other] = [path("no/a/disk"), path("no/b/disk"), path("no/a/other")];
        there(&[&old, &other]);
        there(&[&new]);
        mounts.table().unwrap().moved(&path("no/a"), &path("no/b"));
        assert_eq!(mounts.missing_above(&old), None);
        assert_eq!(mounts.missing_above(&new), None);
        let moved = path("no/b/other");
        assert_eq!(mounts.missing_above(&moved), Some(moved));
    }

    #[test]
    fn what_changed_is_told_once_and_what_went_is_missing_until_it_is_back() {
        let mounts = Mounts::below(Path::new("/"));
        let [one, two] = [path("no/such/place"), path("nor/this")];
        let table = |ids: &[(&WirePath, u64)]| {
            let there = ids.iter().map(|(path, id)| ((*path).clone(), *id));
            let there = there.collect();
            mounts.table().unwrap().update(there);
            mounts.news()
        };
        table(&[]);
        let there_before = mounts.is_whole();
        assert_eq!(table(&[(&one, 7)]), BTreeSet::from([one.clone()]));
        assert_eq!(mounts.is_whole(), there_before);
        assert_eq!(table(&[(&one, 7)]), BTreeSet::new());
        assert_eq!(
            table(&[(&two, 8)]),
            BTreeSet::from([one.clone(), two.clone()])
        );
        assert!(!mounts.is_whole());
        assert_eq!(
            mounts.missing_above(&path("no/such/place/x/y")),
            Some(one.clone())
        );
        assert_eq!(mounts.missing_above(&path("no/such")), None);
        assert_eq!(
            table(&[(&one, 9), (&two, 10)]),
            BTreeSet::from([one.clone(), two])
        );
        assert_eq!(mounts.missing_above(&one), None);
    }
}
