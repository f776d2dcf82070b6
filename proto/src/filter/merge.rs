//! Rules from a file in each directory: [`Scope`] is what they say for the entries of one directory.
//!
//! Rules of a directory come before those it inherits. A file that cannot be read, or has a rule that
//! cannot, excludes everything in and below its directory until it is put right: so nothing is sent
//! that should not be, and nothing is removed that should be kept. How the files are read is
//! [`super::gather`]'s business.

use std::sync::Arc;

use super::FilterError;
use super::ground::RulesFile;
use super::parse::{Merge, Style};
use super::rule::{Rule, RuleRef, Side, View};

/// A file to look for in each directory.
#[derive(Debug)]
pub(super) struct PerDir {
    pub(super) name: Vec<u8>,
    /// As it was written before the name: the directory above the source from which on it is looked for.
    pub(super) from: Option<Vec<u8>>,
    pub(super) style: Style,
    pub(super) no_inherit: bool,
    /// The rule that asks for it.
    pub(super) by: Arc<RuleRef>,
}

impl PerDir {
    /// The file that a rule asks for.
    pub(super) fn new(merge: Merge) -> Result<Self, FilterError> {
        let slash = merge.file.iter().rposition(|&byte| byte == b'/');
        let name = &merge.file[slash.map_or(0, |at| at + 1)..];
        if crate::path::Name::new(name).is_none() {
            let hint = "write \": .rsync-filter\", or \": /.rsync-filter\" for the directories above the source too";
            return Err(FilterError::new(&merge.by, "its file is not a name", hint));
        }
        Ok(Self {
            name: name.to_vec(),
            from: slash.map(|at| merge.file[..=at].to_vec()),
            style: merge.style,
            no_inherit: merge.no_inherit,
            by: merge.by,
        })
    }

    fn is_for(&self, side: Side) -> bool {
        self.style
            .side
            .is_none_or(|own| own == Side::Both || own == side)
    }

    /// Whether somebody on some side would look for a file of this name twice.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.name == other.name
            && [Side::Sender, Side::Receiver]
                .iter()
                .any(|&side| self.is_for(side) && other.is_for(side))
    }
}

/// What the per-directory files say for the entries of one directory; cheap to copy.
#[derive(Debug, Clone, Default)]
pub struct Scope(pub(super) Arc<Inside>);

#[derive(Debug, Default)]
pub(super) struct Inside {
    /// The files that are looked for: first those of the whole source, then those that such files name.
    pub(super) slots: Vec<Option<Slot>>,
    pub(super) broken: Option<Arc<FilterError>>,
}

/// A file that is looked for, and what it says here.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) file: Arc<PerDir>,
    /// The nearest directory's first.
    pub(super) items: Arc<Vec<Item>>,
    /// The directories above have not been looked into.
    pub(super) is_new: bool,
}

/// A rule of such a file.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Rule(Arc<Rule>),
    /// The rules of the file of this slot stand here.
    Slot(usize),
}

/// Reads a file of rules: its text, or none if there is none, or why it cannot be read.
pub type ReadText<'a> = dyn FnMut(&RulesFile) -> Result<Option<Vec<u8>>, String> + 'a;

impl Scope {
    /// Why everything in the directory is excluded, if a file of rules cannot be used.
    #[must_use]
    pub fn broken(&self) -> Option<&FilterError> {
        self.0.broken.as_deref()
    }

    /// Whether one of the files says nothing so far.
    pub(super) fn is_silent(&self, index: usize) -> bool {
        let slot = self.0.slots.get(index).and_then(Option::as_ref);
        slot.is_none_or(|slot| slot.items.is_empty())
    }

    /// Whether this is so of every rule that one of the files comes to, with those that it names.
    pub(super) fn all_rules(&self, index: usize, holds: &dyn Fn(&Rule) -> bool) -> bool {
        let slot = self.0.slots.get(index).and_then(Option::as_ref);
        slot.is_none_or(|slot| {
            slot.items.iter().all(|item| match item {
                Item::Rule(rule) => holds(rule),
                Item::Slot(nested) => self.all_rules(*nested, holds),
            })
        })
    }

    /// Names of the files that are looked for in directories below.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let slots = self.0.slots.iter().flatten();
        slots.map(|slot| slot.file.name.as_slice())
    }

    pub(super) fn decides(
        &self,
        index: usize,
        path: &[u8],
        is_dir: bool,
        view: View,
    ) -> Option<&Arc<Rule>> {
        let slot = self.0.slots.get(index)?.as_ref()?;
        slot.items.iter().find_map(|item| match item {
            Item::Rule(rule) => rule.decides(path, is_dir, view).then_some(rule),
            // Each slot was added by one before it, so this ends.
            Item::Slot(nested) => self.decides(*nested, path, is_dir, view),
        })
    }
}
