//! Owners: which number a user or group of the agent's machine has here, by the names both machines know.
//!
//! The front looks names up, since a worker may be in a root directory and a sandbox where nothing can be: first in
//! `/etc/passwd` and `/etc/group`, read again whenever they change, then by `getpwnam_r` and `getgrnam_r`, which ask
//! whatever `nsswitch.conf` names. What those say is remembered for a while.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::unistd::{Group, User};
use syncd_proto::accounts::accounts;
use syncd_proto::op::{IdKind, IdName};

/// The number here of a name there, if it was found as `known`. A name that is unknown here keeps its number; the
/// superuser stays who it is, and nobody else becomes it.
#[must_use]
pub fn number(theirs: &IdName, known: Option<u32>) -> u32 {
    let usual = |number: &u32| *number != 0 && *number != u32::MAX && theirs.id != 0;
    known.filter(usual).unwrap_or(theirs.id)
}

/// Users and groups of this machine. Everything here may take as long as a directory server does.
#[derive(Debug, Default)]
pub struct Directory {
    users: Table,
    groups: Table,
    asked: HashMap<(IdKind, Vec<u8>), (Instant, Option<u32>)>,
}

impl Directory {
    /// The numbers of these names, `None` where there is no such name.
    pub fn numbers(&mut self, names: &[IdName]) -> Vec<Option<u32>> {
        self.users.refresh("/etc/passwd");
        self.groups.refresh("/etc/group");
        names.iter().map(|name| self.find(name)).collect()
    }

    fn find(&mut self, IdName { kind, name, .. }: &IdName) -> Option<u32> {
        let table = match kind {
            IdKind::User => &self.users,
            IdKind::Group => &self.groups,
        };
        if let Some(number) = table.numbers.get(name) {
            return Some(*number);
        }
        let key = (*kind, name.clone());
        let now = Instant::now();
        if let Some((at, known)) = self.asked.get(&key)
            && now.duration_since(*at) < REMEMBERED
        {
            return *known;
        }
        let Ok(found) = ask(*kind, name) else {
            // Not remembered: it may be back in a moment.
            return None;
        };
        if self.asked.len() >= ASKED_MAX {
            self.asked
                .retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED);
        }
        if self.asked.len() < ASKED_MAX {
            self.asked.insert(key, (now, found));
        }
        found
    }
}

/// Asks the system's name service; an error is not an answer.
fn ask(kind: IdKind, name: &[u8]) -> nix::Result<Option<u32>> {
    // The system's own names are text.
    let Ok(name) = std::str::from_utf8(name) else {
        return Ok(None);
    };
    let found = match kind {
        IdKind::User => User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())),
        IdKind::Group => Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())),
    };
    found.inspect_err(|error| {
        let name = syncd_proto::path::escaped(name.as_bytes());
        tracing::warn!(name, %error, "a name cannot be looked up now: its owner keeps the agent's number");
    })
}

/// One file of names, as it was when it was read.
#[derive(Debug, Default)]
struct Table {
    numbers: HashMap<Vec<u8>, u32>,
    seen: Option<Seen>,
}

/// Which file that was: device, inode, length, time of its last change.
type Seen = (u64, u64, u64, i64, i64);

impl Table {
    /// Reads the file again if it is another one than last time; what cannot be read has no names.
    fn refresh(&mut self, path: &str) {
        let seen = std::fs::metadata(path).ok().map(|found| {
            let (at_s, at_ns) = (found.ctime(), found.ctime_nsec());
            (found.dev(), found.ino(), found.len(), at_s, at_ns)
        });
        if seen.is_none() || seen != self.seen {
            self.numbers = by_name(&read(path));
            self.seen = seen;
        }
    }
}

/// How long an answer of the name service counts, one that there is no such name as well.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Most answers that are remembered.
const ASKED_MAX: usize = 1 << 14;

/// Longest account file read, in bytes.
const ACCOUNTS_BYTES_MAX: u64 = 16 << 20;

fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    let _ = opened.and_then(|file| file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes));
    bytes
}

/// The first number of each name.
fn by_name(bytes: &[u8]) -> HashMap<Vec<u8>, u32> {
    let mut found = HashMap::new();
    for (name, number) in accounts(bytes) {
        found.entry(name.to_vec()).or_insert(number);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(kind: IdKind, id: u32, name: &str) -> IdName {
        let name = name.into();
        IdName { kind, id, name }
    }

    #[test]
    fn a_name_both_know_has_our_number_and_any_other_keeps_its_own() {
        let www = name(IdKind::User, 1_001, "www");
        assert_eq!(number(&www, Some(33)), 33);
        assert_eq!(number(&www, None), 1_001);
        assert_eq!(number(&www, Some(0)), 1_001, "nobody becomes root");
        assert_eq!(number(&www, Some(u32::MAX)), 1_001);
        let root = name(IdKind::User, 0, "www");
        assert_eq!(number(&root, Some(33)), 0, "root stays root");
    }

    #[test]
    fn the_first_line_of_a_name_counts() {
        let table = by_name(b"root:x:0:0\nwww:x:33:33\nwww:x:34:1\ntoor:x:0:0\n");
        assert_eq!((table[&b"www"[..]], table.len()), (33, 3));
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let text = path.to_str().unwrap();
        std::fs::write(&path, "one:x:1:1\n").unwrap();
        let mut table = Table::default();
        table.refresh(text);
        assert_eq!(table.numbers.len(), 1);
        let next = dir.path().join("next");
        std::fs::write(&next, "one:x:1:1\ntwo:x:2:2\n").unwrap();
        std::fs::rename(&next, &path).unwrap();
        table.refresh(text);
        assert_eq!(table.numbers.len(), 2);
        std::fs::remove_file(&path).unwrap();
        table.refresh(text);
        assert!(table.numbers.is_empty());
    }

    #[test]
    fn who_is_nowhere_is_asked_for_once_in_a_while() {
        let mut directory = Directory::default();
        let stranger = name(IdKind::User, 7, "no-such-user-anywhere");
        let root = name(IdKind::Group, 0, "root");
        let asked = [stranger.clone(), root];
        assert_eq!(directory.numbers(&asked), [None, Some(0)]);
        let odd = IdName {
            kind: IdKind::Group,
            id: 9,
            name: b"\xff".to_vec(),
        };
        assert_eq!(directory.numbers(&[stranger, odd]), [None, None]);
        assert_eq!(directory.asked.len(), 2);
    }
}
