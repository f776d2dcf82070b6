//! Owners: which number a user or group of the agent's machine has here, by the names both machines know.

use std::collections::HashMap;
use std::io::Read;

use syncd_proto::accounts::accounts;
use syncd_proto::op::{IdKind, IdName};

/// Users and groups of this machine, read before the root directory changes.
#[derive(Debug, Default)]
pub struct Accounts {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; what cannot be read has no names.
    #[must_use]
    pub fn load() -> Self {
        Self {
            users: by_name(&read("/etc/passwd")),
            groups: by_name(&read("/etc/group")),
        }
    }

    /// The number here of a name there. A name that is unknown here keeps its number; the superuser stays
    /// who it is, and nobody else becomes it.
    #[must_use]
    pub fn number(&self, theirs: &IdName) -> u32 {
        let names = match theirs.kind {
            IdKind::User => &self.users,
            IdKind::Group => &self.groups,
        };
        let known = names.get(&theirs.name).copied();
        let ours = known.filter(|&number| number != 0 && theirs.id != 0);
        ours.unwrap_or(theirs.id)
    }
}

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

    #[test]
    fn a_name_both_know_has_our_number_and_any_other_keeps_its_own() {
        let accounts = Accounts {
            users: by_name(b"root:x:0:0\nwww:x:33:33\nwww:x:34:1\ntoor:x:0:0\n"),
            groups: by_name(b"www:x:82:\n"),
        };
        let number = |kind, id, name: &str| {
            let name = name.into();
            accounts.number(&IdName { kind, id, name })
        };
        assert_eq!(number(IdKind::User, 1_001, "www"), 33);
        assert_eq!(number(IdKind::Group, 1_001, "www"), 82);
        assert_eq!(number(IdKind::User, 1_002, "nobody-here"), 1_002);
        assert_eq!(number(IdKind::User, 0, "www"), 0);
        assert_eq!(number(IdKind::User, 500, "toor"), 500);
        assert_eq!(number(IdKind::User, 501, "root"), 501);
    }
}
