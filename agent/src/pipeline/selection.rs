//! [`Selection`]: the filter rules of a source at work, with the rules that lie in its directories.
//!
//! Scopes of directories are kept until one of their files, or a directory's name, changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncd_proto::path::{Name, WirePath};

use crate::fs::root::SourceRoot;
use crate::fs::rules;
use crate::logic::filter::{Filter, FilterError, Rules, Scope, Verdict};

/// Most directories whose scopes are kept.
const SCOPES_MAX: usize = 4_096;

/// Which paths of a source take part.
#[derive(Debug)]
pub struct Selection {
    filter: Filter,
    root: Arc<SourceRoot>,
    scopes: Mutex<Scopes>,
}

#[derive(Debug, Default)]
struct Scopes {
    by_dir: BTreeMap<WirePath, Scope>,
    /// How often they were forgotten: what was read before that is not kept.
    generation: u64,
}

impl Selection {
    /// Compiles the rules of a source.
    ///
    /// # Errors
    /// The first rule, or file of rules, that cannot be used.
    pub fn new(rules: &Rules, root: Arc<SourceRoot>) -> Result<Self, FilterError> {
        let base: PathBuf = rules.base().into();
        let mut read =
            |file: &std::path::Path| rules::read_file(&base.join(file)).map_err(|e| e.to_string());
        Ok(Self {
            filter: Filter::compile(rules, &mut read)?,
            root,
            scopes: Mutex::default(),
        })
    }

    /// What the rules say about a path.
    pub fn verdict(&self, path: &WirePath, is_dir: bool) -> Verdict {
        self.filter
            .verdict(path, is_dir, &mut |dir| self.scope(dir))
    }

    /// Whether a path takes part: none does with the name that the receiver keeps for itself.
    #[must_use]
    pub fn includes(&self, path: &WirePath, is_dir: bool) -> bool {
        if path.is_reserved() {
            return false;
        }
        self.filter.is_empty() || self.verdict(path, is_dir).is_included()
    }

    /// Whether an entry of a directory takes part that takes part itself.
    #[must_use]
    pub fn keeps(&self, path: &WirePath, is_dir: bool) -> bool {
        if path.file_name().is_some_and(Name::is_reserved) {
            return false;
        }
        if self.filter.is_empty() {
            return true;
        }
        let scope = self.scope(&path.parent().unwrap_or_default());
        self.filter.keeps(path, is_dir, &scope)
    }

    /// Whether a name must stay at the target that the source has not got; `removed` is a directory
    /// above it that goes.
    #[must_use]
    pub fn protects(&self, path: &WirePath, is_dir: bool, removed: Option<&WirePath>) -> bool {
        self.filter
            .protects(path, is_dir, removed, &mut |dir| self.scope(dir))
    }

    /// Whether any name could have to stay.
    #[must_use]
    pub fn may_protect(&self) -> bool {
        self.filter.may_protect()
    }

    /// Whether a directory's new name can change what the rules say about what is in it.
    #[must_use]
    pub fn depends_on_place(&self) -> bool {
        self.filter.depends_on_place()
    }

    /// Whether what the target has in a directory stays or goes by the same rules under another name of it.
    #[must_use]
    pub fn protects_alike(&self, from: &WirePath, to: &WirePath) -> bool {
        !self.filter.may_protect()
            || self
                .filter
                .decides_alike(from, to, &mut |dir| self.scope(dir))
    }

    /// Whether a file holds rules for its directory.
    #[must_use]
    pub fn is_rules_file(&self, path: &WirePath) -> bool {
        path.file_name().is_some_and(|name| {
            self.filter
                .per_dir_names()
                .any(|own| own == name.as_bytes())
        })
    }

    /// A directory whose rules cannot be used, and why: nothing in it is mirrored.
    pub fn problem(&self) -> Option<(WirePath, String)> {
        let scopes = self.lock();
        let mut known = scopes.by_dir.iter();
        known.find_map(|(dir, scope)| {
            let error = scope.broken()?;
            let text = format!(
                "nothing in {dir} is mirrored until its rules are put right: {error}: {}",
                error.hint
            );
            Some((dir.clone(), text))
        })
    }

    /// Rules in directories may have changed.
    pub fn forget(&self) {
        if self.filter.per_dir_names().next().is_none() {
            return;
        }
        let mut scopes = self.lock();
        scopes.by_dir.clear();
        scopes.generation += 1;
    }

    /// The scope of a directory, from its files and those of the directories above it.
    fn scope(&self, dir: &WirePath) -> Scope {
        if self.filter.per_dir_names().next().is_none() {
            return Scope::default();
        }
        let generation = self.lock().generation;
        let mut missing = Vec::new();
        let mut next = Some(dir.clone());
        let mut scope = Scope::default();
        while let Some(here) = next {
            if let Some(known) = self.lock().by_dir.get(&here) {
                scope = known.clone();
                break;
            }
            next = here.parent();
            missing.push(here);
        }
        for here in missing.into_iter().rev() {
            let was_broken = scope.broken().is_some();
            scope = self.read(&scope, &here);
            if let Some(error) = scope.broken().filter(|_| !was_broken) {
                tracing::error!(
                    source = %self.root.path().display(),
                    "nothing in {here} is mirrored until its rules are put right: {error}: {}",
                    error.hint
                );
            }
            let mut scopes = self.lock();
            if scopes.generation != generation {
                continue;
            }
            if scopes.by_dir.len() >= SCOPES_MAX {
                scopes.by_dir.clear();
            }
            scopes.by_dir.insert(here, scope.clone());
        }
        scope
    }

    fn read(&self, parent: &Scope, dir: &WirePath) -> Scope {
        self.filter.with_dir(parent, dir, &mut |name| {
            rules::read_in_dir(&self.root, dir, name).map_err(|error| error.to_string())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
