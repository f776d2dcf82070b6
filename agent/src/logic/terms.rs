//! [`Terms`]: what one receiver keeps of metadata, and the numbers it has for our users and groups.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use syncd_proto::attributes::{ACCESS_ACL, Attributes, DEFAULT_ACL, map_acl};
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Xattr};
use syncd_proto::op::{IdKind, IdName};

/// Most owners whose numbers are known from the start: bounds the memory of a session.
const NUMBERS_MAX: usize = 1 << 16;

/// Who finds the numbers of owners that nobody asked for when the session began; it may take its time.
pub trait Strangers: fmt::Debug + Send + Sync {
    /// The receiver's number for one of ours.
    fn number(&self, kind: IdKind, id: u32) -> u32;
}

/// The number that counts for one of ours if the receiver says this: the superuser stays who it is, and nobody else
/// becomes it.
#[must_use]
pub const fn settled(id: u32, number: u32) -> u32 {
    let usual = id != 0 && number != 0 && number != u32::MAX;
    if usual { number } else { id }
}

/// What was agreed with a receiver about metadata.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Extended attributes that both sides keep.
    pub attributes: Attributes,
    compare: Compare,
    links_all: bool,
    numbers: Arc<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    /// Those that were asked for when the session began.
    known: HashMap<(IdKind, u32), u32>,
    strangers: OnceLock<Arc<dyn Strangers>>,
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
            links_all: false,
            numbers: Arc::default(),
        }
    }

    /// The same; `all`: names of one symlink, fifo, socket or device are names of one thing at the receiver too, and not
    /// only those of one regular file.
    #[must_use]
    pub fn linking(self, all: bool) -> Self {
        Self {
            links_all: all,
            ..self
        }
    }

    /// Whether names of one thing of this type are to be names of one thing at the receiver.
    #[must_use]
    pub const fn links(&self, kind: Kind) -> bool {
        kind.counts_links(self.links_all)
    }

    /// The same for a walk that looks at no attributes.
    #[must_use]
    pub fn without_attributes(&self) -> Self {
        Self {
            attributes: Attributes::NONE,
            compare: self.compare,
            links_all: self.links_all,
            numbers: Arc::clone(&self.numbers),
        }
    }

    /// Whether the receiver keeps entries of this type.
    #[must_use]
    pub const fn keeps(&self, kind: Kind) -> bool {
        self.compare.keeps(kind)
    }

    /// The receiver's numbers for these names, before anybody shares these terms.
    pub fn learn(&mut self, names: &[IdName], numbers: &[u32]) {
        let Some(Numbers { known, .. }) = Arc::get_mut(&mut self.numbers) else {
            return;
        };
        for (name, &number) in names.iter().zip(numbers) {
            if known.len() < NUMBERS_MAX {
                known.insert((name.kind, name.id), settled(name.id, number));
            }
        }
    }

    /// Whom to ask for everybody else; once.
    pub fn ask(&self, strangers: Arc<dyn Strangers>) {
        let _ = self.numbers.strangers.set(strangers);
    }

    /// The receiver's number for one of ours.
    #[must_use]
    pub fn number(&self, kind: IdKind, id: u32) -> u32 {
        if id == 0 || !self.maps() {
            return id;
        }
        let Numbers { known, strangers } = &*self.numbers;
        match (known.get(&(kind, id)), strangers.get()) {
            (Some(number), _) => *number,
            (None, Some(strangers)) => strangers.number(kind, id),
            (None, None) => id,
        }
    }

    fn maps(&self) -> bool {
        !self.numbers.known.is_empty() || self.numbers.strangers.get().is_some()
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
        (is_acl && self.maps()).then(|| map_acl(value, |kind, id| self.number(kind, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Twice;

    impl Strangers for Twice {
        fn number(&self, kind: IdKind, id: u32) -> u32 {
            assert_eq!(kind, IdKind::User);
            id * 2
        }
    }

    #[test]
    fn whoever_was_not_asked_for_is_a_stranger_but_never_the_superuser() {
        let mut terms = Terms::default();
        let known = IdName {
            kind: IdKind::User,
            id: 5,
            name: b"x".to_vec(),
        };
        terms.learn(&[known], &[5]);
        let plain = terms.without_attributes();
        assert_eq!(plain.number(IdKind::User, 6), 6);
        terms.ask(Arc::new(Twice));
        for terms in [&terms, &plain] {
            assert_eq!(terms.number(IdKind::User, 5), 5, "it was asked for");
            assert_eq!(terms.number(IdKind::User, 6), 12);
            assert_eq!(terms.number(IdKind::User, 0), 0);
        }
    }

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
