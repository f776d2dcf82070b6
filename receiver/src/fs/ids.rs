//! Owners: which number here belongs to a number there ([`IdMap`]), by the names both machines have.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

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
            users: parse(&read("/etc/passwd")),
            groups: parse(&read("/etc/group")),
        }
    }

    fn find(&self, kind: IdKind, name: &[u8]) -> Option<u32> {
        let names = match kind {
            IdKind::User => &self.users,
            IdKind::Group => &self.groups,
        };
        names.get(name).copied()
    }
}

/// The numbers of one agent, mapped to ours.
#[derive(Debug)]
pub struct IdMap {
    accounts: Option<Arc<Accounts>>,
    known: HashMap<(IdKind, u32), u32>,
}

impl IdMap {
    /// Maps by these accounts; without them every number stays as it is (`numeric ids`).
    #[must_use]
    pub fn new(accounts: Option<Arc<Accounts>>) -> Self {
        Self {
            accounts,
            known: HashMap::new(),
        }
    }

    /// Takes a name the agent declared. One that is unknown here keeps its number.
    pub fn declare(&mut self, declared: &IdName) {
        let Some(accounts) = &self.accounts else {
            return;
        };
        let Some(local) = accounts.find(declared.kind, &declared.name) else {
            return;
        };
        if local != declared.id && self.known.len() < KNOWN_MAX {
            self.known.insert((declared.kind, declared.id), local);
        }
    }

    /// Our number for a number of theirs.
    #[must_use]
    pub fn local(&self, kind: IdKind, id: u32) -> u32 {
        self.known.get(&(kind, id)).copied().unwrap_or(id)
    }
}

/// Most numbers mapped for one agent: bounds its memory.
const KNOWN_MAX: usize = 1 << 16;

/// Longest account file read, in bytes.
const ACCOUNTS_BYTES_MAX: u64 = 16 << 20;

fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    let _ = opened.and_then(|file| file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes));
    bytes
}

/// Names and numbers of lines `name:password:number:...`; the first of a name wins.
fn parse(bytes: &[u8]) -> HashMap<Vec<u8>, u32> {
    let mut found = HashMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|n| n.parse().ok());
        if let (false, Some(number)) = (name.is_empty(), number) {
            found.entry(name.to_vec()).or_insert(number);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> IdMap {
        let accounts = Accounts {
            users: parse(b"root:x:0:0::/root:/bin/sh\nwww:x:33:33::/:/bin/false\nwww:x:34:1::/:\nbad\n:x:7:\n"),
            groups: parse(b"www:x:82:\n"),
        };
        IdMap::new(Some(Arc::new(accounts)))
    }

    fn declared(kind: IdKind, id: u32, name: &str) -> IdName {
        IdName {
            kind,
            id,
            name: name.into(),
        }
    }

    #[test]
    fn a_name_both_have_maps_and_any_other_keeps_its_number() {
        let mut map = map();
        map.declare(&declared(IdKind::User, 1001, "www"));
        map.declare(&declared(IdKind::Group, 1001, "www"));
        map.declare(&declared(IdKind::User, 1002, "nobody-here"));
        assert_eq!(map.local(IdKind::User, 1001), 33);
        assert_eq!(map.local(IdKind::Group, 1001), 82);
        assert_eq!(map.local(IdKind::User, 1002), 1002);
        assert_eq!(map.local(IdKind::User, 5), 5);
    }

    #[test]
    fn numeric_ids_map_nothing() {
        let mut map = IdMap::new(None);
        map.declare(&declared(IdKind::User, 1001, "root"));
        assert_eq!(map.local(IdKind::User, 1001), 1001);
    }
}
