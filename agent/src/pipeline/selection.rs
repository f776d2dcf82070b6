//! [`Selection`]: the filter rules of a source at work, with the rules that lie in its directories.
//!
//! Scopes of directories are kept until one of their files, or a directory's name, changes. Files above
//! the source are not watched: they are read anew with everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncd_proto::meta::Kind;
use syncd_proto::path::{Name, WirePath};

use crate::fs::root::SourceRoot;
use crate::fs::rules;
use crate::logic::filter::{Filter, FilterError, Rules, RulesFile, Scope, Verdict};

/// Most directories whose scopes are kept.
const SCOPES_MAX: usize = 4_096;

/// Most files that files of rules name whose places are known one by one.
const MERGED_MAX: usize = 1_024;

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
    /// Names of files to look for in each directory that such files have named.
    names: BTreeSet<Vec<u8>>,
    /// Files that such files merge, and the directory below which each counts.
    merged: BTreeMap<WirePath, WirePath>,
    /// Files above the source, as they were read.
    above: BTreeMap<PathBuf, Result<Option<Vec<u8>>, String>>,
}

impl Scopes {
    fn note(&mut self, file: &WirePath, dir: &WirePath) {
        let counts_in = match self.merged.get(file) {
            Some(known) => common(known, dir),
            None if self.merged.len() < MERGED_MAX => dir.clone(),
            None => return,
        };
        self.merged.insert(file.clone(), counts_in);
    }
}

impl Selection {
    /// Compiles the rules of a source.
    ///
    /// # Errors
    /// The first rule, or file of rules, that cannot be used.
    pub fn new(rules: &Rules, root: Arc<SourceRoot>) -> Result<Self, FilterError> {
        let base: PathBuf = rules.base().into();
        let mut read = |file: &Path| rules::read_file(&base.join(file)).map_err(|e| e.to_string());
        let place = std::path::absolute(root.path()).unwrap_or_else(|_| root.path().into());
        let rules = rules.clone().of_source(&place);
        Ok(Self {
            filter: Filter::compile(&rules, &mut read)?,
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

    /// The same for the entry `name` of a directory.
    #[must_use]
    pub fn keeps_in(&self, dir: &WirePath, name: &Name, is_dir: bool) -> bool {
        if name.is_reserved() {
            return false;
        }
        self.filter.is_empty() || dir.join(name).is_some_and(|path| self.keeps(&path, is_dir))
    }

    /// Whether a name must stay at the target that the source has not got; `removed` is a directory
    /// above it that goes.
    #[must_use]
    pub fn protects(&self, path: &WirePath, is_dir: bool, removed: Option<&WirePath>) -> bool {
        let mut is_sent = |dir: &WirePath| {
            let found = self.root.stat(dir).ok().flatten();
            found.is_some_and(|found| found.kind == Kind::Dir) && self.includes(dir, true)
        };
        self.filter.protects(
            path,
            is_dir,
            removed,
            &mut |dir| self.scope(dir),
            &mut is_sent,
        )
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

    /// The directory that rules in a file are about, if it has any.
    #[must_use]
    pub fn ruled_by(&self, path: &WirePath) -> Option<WirePath> {
        if !self.filter.has_per_dir() {
            return None;
        }
        let scopes = self.lock();
        let name = path.file_name()?.as_bytes();
        let own = self.filter.per_dir_names().any(|own| own == name) || scopes.names.contains(name);
        let around = own.then(|| path.parent().unwrap_or_default());
        match (around, scopes.merged.get(path)) {
            (Some(around), Some(merged)) => Some(common(&around, merged)),
            (around, merged) => around.or_else(|| merged.cloned()),
        }
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
        if !self.filter.has_per_dir() {
            return;
        }
        let mut scopes = self.lock();
        scopes.by_dir.clear();
        scopes.generation += 1;
    }

    /// Files above the source are to be read again, since everything is compared.
    pub fn forget_above(&self) {
        self.lock().above.clear();
    }

    /// The scope of a directory, from its files and those of the directories above it.
    fn scope(&self, dir: &WirePath) -> Scope {
        if !self.filter.has_per_dir() {
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
        let mut asked = Vec::new();
        let mut read = |file: &RulesFile| match file {
            RulesFile::Within(path) => {
                asked.push(path.clone());
                rules::read_within(&self.root, path).map_err(|error| error.to_string())
            }
            RulesFile::Outside(path) => self.read_above(path),
        };
        let scope = self.filter.with_dir(parent, dir, &mut read);
        let mut scopes = self.lock();
        for name in scope.names() {
            if !scopes.names.contains(name) {
                scopes.names.insert(name.to_vec());
            }
        }
        for file in asked {
            let is_own = file.parent().as_ref() == Some(dir)
                && file
                    .file_name()
                    .is_some_and(|name| scopes.names.contains(name.as_bytes()));
            if !is_own {
                scopes.note(&file, dir);
            }
        }
        scope
    }

    fn read_above(&self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        if let Some(known) = self.lock().above.get(path) {
            return known.clone();
        }
        let found = rules::read_above(path).map_err(|error| error.to_string());
        self.lock().above.insert(path.into(), found.clone());
        found
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lowest directory that both are in, or are.
fn common(one: &WirePath, other: &WirePath) -> WirePath {
    let both = one.names().iter().zip(other.names());
    let shared = both.take_while(|(one, other)| one == other).count();
    let names = one.names().get(..shared).unwrap_or_default();
    WirePath::from_names(names.to_vec()).unwrap_or_default()
}
