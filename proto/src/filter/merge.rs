//! Rules from a file in each directory: [`Scope`] is what they say for the entries of one directory.
//!
//! Rules of a directory come before those it inherits. A file that cannot be read, or has a rule that
//! cannot, excludes everything in and below its directory until it is put right: so nothing is sent
//! that should not be, and nothing is removed that should be kept.

use std::sync::Arc;

use crate::path::WirePath;

use super::parse::{self, Line, Style};
use super::rule::{Origin, Rule, RuleRef, View};
use super::{FilterError, RULES_MAX};

/// A file to look for in each directory.
#[derive(Debug)]
pub(super) struct PerDir {
    pub(super) name: Vec<u8>,
    pub(super) style: Style,
    pub(super) no_inherit: bool,
    /// The rule that asks for it.
    pub(super) by: Arc<RuleRef>,
}

/// What the per-directory files say for the entries of one directory; cheap to copy.
#[derive(Debug, Clone, Default)]
pub struct Scope(Arc<Inside>);

#[derive(Debug, Default)]
struct Inside {
    /// For each [`PerDir`], its rules, the nearest directory's first.
    lists: Vec<Vec<Arc<Rule>>>,
    broken: Option<Arc<FilterError>>,
}

/// Reads the file of this name in the directory in question: its text, or none if there is none, or
/// why it cannot be read.
pub type ReadText<'a> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, String> + 'a;

impl Scope {
    /// The scope of a directory within this one, that of its parent.
    pub(super) fn enter(&self, files: &[PerDir], dir: &WirePath, read: &mut ReadText<'_>) -> Self {
        let base = bytes_of(dir);
        let mut inside = Inside {
            lists: Vec::with_capacity(files.len()),
            broken: self.0.broken.clone(),
        };
        for (index, file) in files.iter().enumerate() {
            let inherited = match self.0.lists.get(index) {
                Some(list) if !file.no_inherit => list.as_slice(),
                _ => &[],
            };
            let found = match read(&file.name) {
                Ok(None) => Ok(inherited.to_vec()),
                Ok(Some(text)) => file.list(&base, &text, inherited),
                Err(why) => Err(file.unreadable(&base, &why)),
            };
            inside.lists.push(found.unwrap_or_else(|error| {
                inside.broken.get_or_insert_with(|| Arc::new(error));
                Vec::new()
            }));
        }
        Self(Arc::new(inside))
    }

    /// Why everything in the directory is excluded, if a file of rules cannot be used.
    #[must_use]
    pub fn broken(&self) -> Option<&FilterError> {
        self.0.broken.as_deref()
    }

    /// The rules that one of the files comes to, the nearest directory's first.
    pub(super) fn rules(&self, index: usize) -> &[Arc<Rule>] {
        self.0.lists.get(index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn decides(
        &self,
        index: usize,
        path: &[u8],
        is_dir: bool,
        view: View,
    ) -> Option<&Arc<Rule>> {
        let list = self.0.lists.get(index)?;
        list.iter().find(|rule| rule.decides(path, is_dir, view))
    }
}

impl PerDir {
    /// The rules of one file, before those that are inherited.
    fn list(
        &self,
        base: &[u8],
        text: &[u8],
        inherited: &[Arc<Rule>],
    ) -> Result<Vec<Arc<Rule>>, FilterError> {
        let source: Arc<str> = self.display(base).into();
        let mut own = Vec::new();
        let mut inherited = inherited;
        for (number, rule) in parse::lines(text, self.style) {
            let origin = Origin::line(&source, number);
            match parse::line(rule, self.style, base, &origin)? {
                Line::Rule(rule) => own.push(Arc::new(rule)),
                Line::Clear => {
                    own.clear();
                    inherited = &[];
                }
                Line::Merge(merge) => {
                    let why = "a per-directory file cannot merge another";
                    let hint = "merge it from the configuration, or copy its rules here";
                    return Err(FilterError::new(&merge.by, why, hint));
                }
            }
            if own.len() + inherited.len() > RULES_MAX {
                let why = format!("there are more than {RULES_MAX} rules");
                let by = RuleRef {
                    text: rule.to_vec(),
                    origin,
                };
                return Err(FilterError::new(&by, why, "leave some out"));
            }
        }
        own.extend_from_slice(inherited);
        Ok(own)
    }

    fn unreadable(&self, base: &[u8], why: &str) -> FilterError {
        let by = RuleRef {
            text: self.by.text.clone(),
            origin: Origin::option(&self.display(base)),
        };
        let why = format!("its file cannot be read: {why}");
        FilterError::new(&by, why, "make the file readable, or remove it")
    }

    fn display(&self, base: &[u8]) -> String {
        let mut path = base.to_vec();
        path.extend((!base.is_empty()).then_some(b'/'));
        path.extend_from_slice(&self.name);
        crate::path::escaped(&path).to_string()
    }
}

/// A path as patterns see it: names with `/` between them.
pub(super) fn bytes_of(path: &WirePath) -> Vec<u8> {
    let names: Vec<&[u8]> = path.names().iter().map(|name| name.as_bytes()).collect();
    names.join(&b'/')
}
