//! Who is who on this machine: names of users and groups, and what this process may see of files.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use nix::unistd::{Gid, Group, Uid, User};
use rustix::thread::CapabilitySet;
use syncd_proto::accounts::accounts;
use syncd_proto::limits::LABEL_BYTES_MAX;
use syncd_proto::op::{IdKind, IdName};

/// Names of users and groups in `/etc/passwd` and `/etc/group`, the first of each number; the superuser
/// is left out. What cannot be read has no names.
#[must_use]
pub fn names() -> Vec<IdName> {
    let mut found = Vec::new();
    for (kind, path) in [(IdKind::User, "/etc/passwd"), (IdKind::Group, "/etc/group")] {
        let bytes = read(path);
        let mut known = HashSet::new();
        for (name, id) in accounts(&bytes).take(NAMES_MAX) {
            if id != 0 && name.len() <= LABEL_BYTES_MAX && known.insert(id) {
                let name = name.to_vec();
                found.push(IdName { kind, id, name });
            }
        }
    }
    found
}

/// The name of one user or group, as the system's name service has it: from those files, or from whatever else
/// `nsswitch.conf` names. It may take as long as a directory server does; one that cannot be asked knows nobody.
#[must_use]
pub fn name_of(kind: IdKind, id: u32) -> Option<Vec<u8>> {
    let found = match kind {
        IdKind::User => User::from_uid(Uid::from_raw(id)).map(|user| user.map(|user| user.name)),
        IdKind::Group => {
            Group::from_gid(Gid::from_raw(id)).map(|group| group.map(|group| group.name))
        }
    };
    let found = found.unwrap_or_else(|error| {
        tracing::warn!(id, %error, "a name cannot be looked up now: its owner keeps its number for a while");
        None
    });
    let name = found?.into_bytes();
    (!name.is_empty() && name.len() <= LABEL_BYTES_MAX).then_some(name)
}

/// Whether `trusted` attributes are visible: to anybody else files seem to have none.
#[must_use]
pub fn sees_trusted() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let opened = File::open(path);
    let _ = opened.and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    bytes
}

/// Most names read of each kind.
const NAMES_MAX: usize = 1 << 15;

/// Longest file read, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
