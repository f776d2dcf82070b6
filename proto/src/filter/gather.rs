//! [`Gather`]: reads the files of rules that count in one directory, and makes its [`Scope`] of them.
//!
//! What such a file may say: rules, a clear, further files to look for in each directory (`:`), and
//! files to read at once (`.`). Those are found, and anchored, as rsync does it: a plain name is in the
//! source's directory, one with a slash is taken from the directory of the file that names it, and the
//! anchored rules in it are about the whole source.

use std::sync::Arc;

use super::ground::{self, Ground, RulesFile};
use super::merge::{Inside, Item, PerDir, ReadText, Scope, Slot};
use super::parse::{self, Line, Merge, Style};
use super::rule::{Origin, Rule, RuleRef};
use super::{FilterError, MERGE_DEPTH_MAX, PER_DIR_MAX, RULES_MAX};
use crate::path::WirePath;

/// A directory being entered.
pub(super) struct Gather<'a> {
    root: &'a Arc<[u8]>,
    /// How many slots belong to the whole source.
    global: usize,
    slots: Vec<Option<Slot>>,
    read: &'a mut ReadText<'a>,
}

/// The rules of one file in the making.
struct List<'a> {
    own: Vec<Item>,
    inherited: Arc<Vec<Item>>,
    /// The directory of the file, absolute.
    dir: &'a [u8],
    /// It is one of those above the directory being entered.
    is_above: bool,
}

impl<'a> Gather<'a> {
    /// The scope of a directory within that of its parent.
    pub(super) fn enter(
        files: &[Arc<PerDir>],
        root: &'a Arc<[u8]>,
        parent: &Scope,
        dir: &WirePath,
        read: &'a mut ReadText<'a>,
    ) -> Scope {
        let slots = if parent.0.slots.is_empty() {
            files.iter().cloned().map(Slot::new).map(Some).collect()
        } else {
            parent.0.slots.clone()
        };
        let mut gather = Gather {
            root,
            global: files.len(),
            slots,
            read,
        };
        let mut broken = parent.0.broken.clone();
        let here = ground::resolved(root, &ground::bytes_of(dir));
        let mut index = 0;
        // Files that are read may add further ones.
        while index < gather.slots.len() {
            if let Err(error) = gather.slot(index, &here) {
                broken.get_or_insert_with(|| Arc::new(error));
            }
            index += 1;
        }
        Scope(Arc::new(Inside {
            slots: gather.slots,
            broken,
        }))
    }

    fn slot(&mut self, index: usize, here: &[u8]) -> Result<(), FilterError> {
        let Some(Some(slot)) = self.slots.get_mut(index) else {
            return Ok(());
        };
        if slot.file.no_inherit {
            slot.items = Arc::default();
        }
        let file = slot.file.clone();
        if std::mem::take(&mut slot.is_new) {
            for above in above(&file, here) {
                self.file(index, &file, &above, true)?;
                if file.no_inherit {
                    self.inherit(index, Vec::new());
                }
            }
        }
        self.file(index, &file, here, false)
    }

    /// Reads the file of this slot in one directory.
    fn file(
        &mut self,
        index: usize,
        file: &PerDir,
        dir: &[u8],
        is_above: bool,
    ) -> Result<(), FilterError> {
        let place = self.place(dir, &file.name, &file.by)?;
        let found = (self.read)(&place).map_err(|why| {
            let by = RuleRef {
                text: file.by.text.clone(),
                origin: Origin::option(&place.display()),
            };
            unreadable(&by, "its file", &why)
        })?;
        let (Some(text), Some(Some(slot))) = (found, self.slots.get(index)) else {
            return Ok(());
        };
        let mut list = List {
            own: Vec::new(),
            inherited: slot.items.clone(),
            dir,
            is_above,
        };
        let ground = Ground::of_dir(self.root, dir);
        let source = place.display().into();
        self.lines(&text, file.style, &ground, &source, &mut list, 0)?;
        let List {
            mut own, inherited, ..
        } = list;
        own.extend_from_slice(&inherited);
        self.inherit(index, own);
        Ok(())
    }

    fn inherit(&mut self, index: usize, items: Vec<Item>) {
        if let Some(Some(slot)) = self.slots.get_mut(index) {
            slot.items = Arc::new(items);
        }
    }

    fn lines(
        &mut self,
        text: &[u8],
        style: Style,
        ground: &Ground,
        source: &Arc<str>,
        list: &mut List<'_>,
        depth: usize,
    ) -> Result<(), FilterError> {
        for (number, rule) in parse::lines(text, style) {
            let origin = Origin::line(source, number);
            match parse::line(rule, style, ground, &origin)? {
                Line::Rule(rule) => list.push(rule),
                Line::Cvs(rules) => rules.into_iter().for_each(|rule| list.push(rule)),
                Line::Clear => self.clear(list),
                Line::Merge(merge) => self.merge(merge, list, depth)?,
            }
            if list.own.len() + list.inherited.len() > RULES_MAX {
                let why = format!("there are more than {RULES_MAX} rules");
                let by = RuleRef {
                    text: rule.to_vec(),
                    origin,
                };
                return Err(FilterError::new(&by, why, "leave some out"));
            }
        }
        Ok(())
    }

    /// Files that were asked for in this very file are not looked for any more.
    fn clear(&mut self, list: &mut List<'_>) {
        for item in list.own.drain(..) {
            if let Item::Slot(nested) = item
                && let Some(slot) = self.slots.get_mut(nested)
            {
                *slot = None;
            }
        }
        list.inherited = Arc::default();
    }

    fn merge(
        &mut self,
        merge: Merge,
        list: &mut List<'_>,
        depth: usize,
    ) -> Result<(), FilterError> {
        if let Some(rule) = merge.excluded_self()? {
            list.push(rule);
        }
        if merge.per_dir {
            return self.add(merge, list);
        }
        if depth == MERGE_DEPTH_MAX {
            return Err(merge.is_circle());
        }
        let is_name = !merge.file.contains(&b'/');
        let dir = if is_name && !list.is_above {
            self.root.to_vec()
        } else {
            list.dir.to_vec()
        };
        let place = self.place(&dir, &merge.file, &merge.by)?;
        let is_ours = ground::below(list.dir, self.root).is_some();
        if is_ours && matches!(place, RulesFile::Outside(_)) {
            let hint = "keep the file in the source, or merge it from the configuration";
            let why = "a file in the source cannot name one outside";
            return Err(FilterError::new(&merge.by, why, hint));
        }
        let text = match (self.read)(&place) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(unreadable(&merge.by, &place.display(), "it is not there")),
            Err(why) => return Err(unreadable(&merge.by, &place.display(), &why)),
        };
        let ground = Ground::of_root(self.root);
        let source = place.display().into();
        self.lines(&text, merge.style, &ground, &source, list, depth + 1)
    }

    /// Another file to look for from here on.
    fn add(&mut self, mut merge: Merge, list: &mut List<'_>) -> Result<(), FilterError> {
        if list.is_above {
            let path = ground::resolved(list.dir, &merge.file);
            merge.file = [b"/", &path[..]].concat();
        }
        let file = PerDir::new(merge)?;
        let mut known = self.slots.iter().enumerate();
        let is_known = known.any(|(index, slot)| {
            slot.as_ref().is_some_and(|slot| {
                slot.file.meets(&file) || (index < self.global && slot.file.name == file.name)
            })
        });
        if is_known {
            // As rsync has it: the first place counts.
            return Ok(());
        }
        if self.slots.len() == PER_DIR_MAX {
            return Err(too_many(&file.by));
        }
        list.own.push(Item::Slot(self.slots.len()));
        self.slots.push(Some(Slot::new(Arc::new(file))));
        Ok(())
    }

    fn place(&self, dir: &[u8], name: &[u8], by: &RuleRef) -> Result<RulesFile, FilterError> {
        RulesFile::at(self.root, &ground::resolved(dir, name)).ok_or_else(|| {
            let hint = "name a file of rules";
            FilterError::new(by, "its file is none that can be read", hint)
        })
    }
}

impl Slot {
    fn new(file: Arc<PerDir>) -> Self {
        Self {
            file,
            items: Arc::default(),
            is_new: true,
        }
    }
}

impl List<'_> {
    fn push(&mut self, rule: Rule) {
        self.own.push(Item::Rule(Arc::new(rule)));
    }
}

/// The directories above this one that a file is looked for in too, the highest first.
fn above(file: &PerDir, here: &[u8]) -> Vec<Vec<u8>> {
    let Some(from) = &file.from else {
        return Vec::new();
    };
    let from = ground::resolved(here, from);
    let Some(down) = ground::below(here, &from).filter(|down| !down.is_empty()) else {
        return Vec::new();
    };
    let start = here.len() - down.len();
    let steps = down.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let ends = steps.map(|(at, _)| start + at);
    std::iter::once(from)
        .chain(ends.map(|end| here[..end].to_vec()))
        .collect()
}

/// The refusal of a file too many.
pub(super) fn too_many(by: &RuleRef) -> FilterError {
    let why = format!("there are more than {PER_DIR_MAX} per-directory files");
    FilterError::new(by, why, "leave some out")
}

fn unreadable(by: &RuleRef, file: &str, why: &str) -> FilterError {
    let why = format!("{file} cannot be read: {why}");
    FilterError::new(by, why, "make the file readable, or remove it")
}
