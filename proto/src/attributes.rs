//! Extended attributes: which ones take part ([`Attributes`]), their digest ([`AttributeHasher`]), and the
//! owners that a POSIX ACL names ([`map_acl`]).

use bincode::{Decode, Encode};

use crate::digest::{Digest, Hasher};
use crate::op::IdKind;

/// Attribute that holds an access ACL.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// Attribute that holds a directory's default ACL.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Attribute that holds the capabilities of a program.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Names that a receiver keeps for itself: what rsync's fake super and this program note about a file.
const OWN: [&[u8]; 2] = [b"user.rsync.%", b"user.syncd."];

/// Which classes of extended attributes take part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Attributes {
    /// `user.*`, but for names that a receiver keeps for itself.
    pub user: bool,
    /// `trusted.*`.
    pub trusted: bool,
    /// POSIX ACLs: `system.posix_acl_access`, `system.posix_acl_default`.
    pub acls: bool,
    /// `security.capability`.
    pub capabilities: bool,
}

impl Attributes {
    /// None of them.
    pub const NONE: Self = Self {
        user: false,
        trusted: false,
        acls: false,
        capabilities: false,
    };

    /// All of them.
    pub const ALL: Self = Self {
        user: true,
        trusted: true,
        acls: true,
        capabilities: true,
    };

    /// Whether there is one that takes part.
    #[must_use]
    pub const fn any(self) -> bool {
        self.user || self.trusted || self.acls || self.capabilities
    }

    /// Those in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            user: self.user && other.user,
            trusted: self.trusted && other.trusted,
            acls: self.acls && other.acls,
            capabilities: self.capabilities && other.capabilities,
        }
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self {
            user: self.user && !other.user,
            trusted: self.trusted && !other.trusted,
            acls: self.acls && !other.acls,
            capabilities: self.capabilities && !other.capabilities,
        }
    }

    /// Whether the attribute of this name takes part.
    #[must_use]
    pub fn includes(self, name: &[u8]) -> bool {
        if name.starts_with(b"user.") {
            return self.user && !is_own(name);
        }
        match name {
            CAPABILITY => self.capabilities,
            ACCESS_ACL | DEFAULT_ACL => self.acls,
            _ => self.trusted && name.starts_with(b"trusted."),
        }
    }

    /// The names that take part in a list as the system gives it, each ended by a NUL; sorted.
    #[must_use]
    pub fn select(self, list: &[u8]) -> Vec<Vec<u8>> {
        let names = list.split(|&byte| byte == 0);
        let mut names: Vec<Vec<u8>> = names
            .filter(|name| self.includes(name))
            .map(<[u8]>::to_vec)
            .collect();
        names.sort_unstable();
        names
    }

    /// What they are, for messages.
    #[must_use]
    pub fn words(self) -> String {
        let all = [
            (self.user, "user attributes"),
            (self.trusted, "trusted attributes"),
            (self.acls, "ACLs"),
            (self.capabilities, "capabilities"),
        ];
        let words: Vec<_> = all.into_iter().filter(|(yes, _)| *yes).collect();
        let words: Vec<_> = words.into_iter().map(|(_, word)| word).collect();
        words.join(", ")
    }
}

/// Whether an attribute is one that a receiver keeps for itself: never taken from a peer, never removed.
#[must_use]
pub fn is_own(name: &[u8]) -> bool {
    OWN.iter().any(|own| name.starts_with(own))
}

/// Hashes the attributes of one file, in byte order of their names.
#[derive(Debug, Default)]
pub struct AttributeHasher(Option<Hasher>);

impl AttributeHasher {
    /// Adds an attribute.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let hasher = self.0.get_or_insert_with(|| Hasher::for_context(CONTEXT));
        hasher.update_sized(name).update_sized(value);
    }

    /// Adds an attribute that cannot be read: what comes out is equal to nothing else.
    pub fn add_unreadable(&mut self, side: &str) {
        let hasher = self.0.get_or_insert_with(|| Hasher::for_context(CONTEXT));
        hasher.update_sized(&[]).update_sized(side.as_bytes());
    }

    /// The digest; none if there is no attribute.
    #[must_use]
    pub fn finish(&self) -> Option<Digest> {
        self.0.as_ref().map(Hasher::finish)
    }
}

/// An ACL, as its attribute holds it, with its users and groups numbered as `map` says. What is no ACL
/// comes back as it is.
#[must_use]
pub fn map_acl(value: &[u8], map: impl Fn(IdKind, u32) -> u32) -> Vec<u8> {
    let mut mapped = value.to_vec();
    let Some((version, entries)) = mapped.split_first_chunk_mut::<4>() else {
        return mapped;
    };
    if u32::from_le_bytes(*version) != ACL_VERSION {
        return mapped;
    }
    for entry in entries.chunks_exact_mut(ACL_ENTRY_BYTES) {
        let kind = match u16::from_le_bytes([entry[0], entry[1]]) {
            ACL_USER => IdKind::User,
            ACL_GROUP => IdKind::Group,
            _ => continue,
        };
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        entry[4..].copy_from_slice(&map(kind, id).to_le_bytes());
    }
    sort_entries(&mut mapped);
    mapped
}

/// Entries of one kind stand in the order of their numbers, as every tool writes them.
fn sort_entries(acl: &mut [u8]) {
    let (entries, _) = acl[4..].as_chunks_mut::<ACL_ENTRY_BYTES>();
    entries.sort_by_key(|entry| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        (tag, id)
    });
}

const CONTEXT: &str = "syncd/1 attributes";

/// Format of an ACL attribute (`POSIX_ACL_XATTR_VERSION`).
const ACL_VERSION: u32 = 2;

/// Tag, permissions and id.
const ACL_ENTRY_BYTES: usize = 8;

/// Tag of a user's entry (`ACL_USER`).
const ACL_USER: u16 = 0x02;

/// Tag of a group's entry (`ACL_GROUP`).
const ACL_GROUP: u16 = 0x08;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_includes_its_names_and_no_others() {
        let only = |change: fn(&mut Attributes)| {
            let mut only = Attributes::NONE;
            change(&mut only);
            only
        };
        let user = only(|only| only.user = true);
        let trusted = only(|only| only.trusted = true);
        let acls = only(|only| only.acls = true);
        let capabilities = only(|only| only.capabilities = true);
        for (class, name) in [
            (user, &b"user.note"[..]),
            (trusted, b"trusted.overlay.opaque"),
            (acls, ACCESS_ACL),
            (acls, DEFAULT_ACL),
            (capabilities, CAPABILITY),
        ] {
            for each in [user, trusted, acls, capabilities] {
                assert_eq!(each.includes(name), each == class, "{each:?}");
            }
            assert!(Attributes::ALL.includes(name) && !Attributes::NONE.includes(name));
        }
        for other in [
            &b"security.selinux"[..],
            b"system.nfs4_acl",
            b"user.rsync.%stat",
            b"user.rsync.%aacl",
            b"user.syncd.any",
            b"",
        ] {
            assert!(!Attributes::ALL.includes(other));
        }
        assert!(Attributes::ALL.includes(b"user.rsync.other"));
    }

    #[test]
    fn a_list_is_filtered_and_sorted() {
        let list = b"user.b\0security.selinux\0user.a\0trusted.t\0";
        let user = Attributes {
            user: true,
            ..Attributes::NONE
        };
        assert_eq!(user.select(list), [b"user.a".to_vec(), b"user.b".to_vec()]);
        assert!(user.select(b"").is_empty());
        assert!(!user.and(Attributes::NONE).any() && user.and(Attributes::ALL) == user);
        assert_eq!(user.words(), "user attributes");
    }

    #[test]
    fn digests_tell_names_and_values_apart() {
        let digest = |pairs: &[(&[u8], &[u8])]| {
            let mut hasher = AttributeHasher::default();
            for (name, value) in pairs {
                hasher.add(name, value);
            }
            hasher.finish()
        };
        assert_eq!(digest(&[]), None);
        assert_ne!(digest(&[(b"a", b"bc")]), digest(&[(b"ab", b"c")]));
        assert_ne!(digest(&[(b"a", b"")]), digest(&[(b"a", b""), (b"b", b"")]));
        assert_eq!(digest(&[(b"a", b"x")]), digest(&[(b"a", b"x")]));
        let unreadable = |side| {
            let mut hasher = AttributeHasher::default();
            hasher.add_unreadable(side);
            hasher.finish()
        };
        assert_ne!(unreadable("here"), unreadable("there"));
        assert_ne!(unreadable("here"), None);
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut acl = ACL_VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend_from_slice(&tag.to_le_bytes());
            acl.extend_from_slice(&rights.to_le_bytes());
            acl.extend_from_slice(&id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn the_owners_an_acl_names_are_mapped_and_stay_in_order() {
        const NONE: u32 = u32::MAX;
        let given = acl(&[
            (1, 6, NONE),
            (2, 4, 5),
            (2, 6, 9),
            (4, 4, NONE),
            (8, 7, 5),
            (16, 7, NONE),
            (32, 0, NONE),
        ]);
        let map = |kind, id| match (kind, id) {
            (IdKind::User, 5) => 50,
            (IdKind::Group, 5) => 7,
            _ => id,
        };
        let expected = acl(&[
            (1, 6, NONE),
            (2, 6, 9),
            (2, 4, 50),
            (4, 4, NONE),
            (8, 7, 7),
            (16, 7, NONE),
            (32, 0, NONE),
        ]);
        assert_eq!(map_acl(&given, map), expected);
        assert_eq!(map_acl(&given, |_, id| id), given);
        for other in [&b"\x01\0\0\0abcdefgh"[..], b"ab", b""] {
            assert_eq!(map_acl(other, map), other);
        }
    }
}
