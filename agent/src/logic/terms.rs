//! [`Terms`]: what one receiver keeps of metadata, and the numbers it has for our users and groups.

use std::collections::HashMap;

use syncd_proto::attributes::{ACCESS_ACL, Attributes, DEFAULT_ACL, map_acl};
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Xattr};
use syncd_proto::op::{IdKind, IdName};

/// Most numbers that differ: bounds the memory of a session.
const NUMBERS_MAX: usize = 1 << 16;

/// What was agreed with a receiver about metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Extended attributes that both sides keep.
    pub attributes: Attributes,
    compare: Compare,
    numbers: HashMap<(IdKind, u32), u32>,
}

impl Default for Terms {
    /// Everything but attributes.
    fn default() -> Self {
        Self::new(Compare::ALL, Attributes::NONE)
    }
}

impl Terms {
    /// What a receiver that compares by this keeps, of attributes those that are wanted; every owner is
    /// numbered as here.
    #[must_use]
    pub fn new(compare: Compare, wanted: Attributes) -> Self {
        Self {
            attributes: compare.xattrs.and(wanted),
            compare,
            numbers: HashMap::new(),
        }
    }

    /// The same for a walk that looks at no attributes.
    #[must_use]
    pub fn without_attributes(&self) -> Self {
        Self {
            attributes: Attributes::NONE,
            compare: self.compare,
            numbers: self.numbers.clone(),
        }
    }

    /// Whether the receiver keeps entries of this type.
    #[must_use]
    pub const fn keeps(&self, kind: Kind) -> bool {
        self.compare.keeps(kind)
    }

    /// The receiver's numbers for these names. The superuser stays who it is, and nobody else becomes it.
    pub fn learn(&mut self, names: &[IdName], numbers: &[u32]) {
        for (name, &number) in names.iter().zip(numbers) {
            let differs = number != name.id;
            let usual = name.id != 0 && number != 0 && number != u32::MAX;
            if differs && usual && self.numbers.len() < NUMBERS_MAX {
                self.numbers.insert((name.kind, name.id), number);
            }
        }
    }

    /// The receiver's number for one of ours.
    #[must_use]
    pub fn number(&self, kind: IdKind, id: u32) -> u32 {
        if self.numbers.is_empty() {
            return id;
        }
        self.numbers.get(&(kind, id)).copied().unwrap_or(id)
    }

    /// An entry with the owner it has at the receiver.
    #[must_use]
    pub fn entry(&self, mut entry: EntryMeta) -> EntryMeta {
        entry.uid = self.number(IdKind::User, entry.uid);
        entry.gid = self.number(IdKind::Group, entry.gid);
        entry
    }

    /// Metadata with the owner it has at the receiver.
    #[must_use]
    pub fn meta(&self, mut meta: Meta) -> Meta {
        meta.uid = self.number(IdKind::User, meta.uid);
        meta.gid = self.number(IdKind::Group, meta.gid);
        for Xattr { name, value } in meta.xattrs.iter_mut().flatten() {
            if let Some(mapped) = self.value(name, value) {
                *value = mapped;
            }
        }
        meta
    }

    /// The value of an attribute at the receiver, if that is another one.
    #[must_use]
    pub fn value(&self, name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let is_acl = name == ACCESS_ACL || name == DEFAULT_ACL;
        (is_acl && !self.numbers.is_empty())
            .then(|| map_acl(value, |kind, id| self.number(kind, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_learnt_but_never_from_or_to_the_superuser() {
        let mut terms = Terms::default();
        let name = |kind, id| IdName {
            kind,
            id,
            name: b"x".to_vec(),
        };
        let names = [
            name(IdKind::User, 1_000),
            name(IdKind::Group, 1_000),
            name(IdKind::User, 0),
            name(IdKind::User, 5),
            name(IdKind::User, 6),
            name(IdKind::User, 7),
        ];
        terms.learn(&names, &[2_000, 1_000, 9, 0, u32::MAX]);
        assert_eq!(terms.number(IdKind::User, 1_000), 2_000);
        assert_eq!(terms.number(IdKind::Group, 1_000), 1_000);
        for id in [0, 5, 6, 7, 2_000] {
            assert_eq!(terms.number(IdKind::User, id), id);
        }
    }
}
