//! [`Filter`]: rsync's include, exclude and filter rules, one engine for events, scans and `explain`.
//!
//! The first rule that matches decides; what none matches is included. What lies in an excluded
//! directory is excluded with it. Rules can come from a file in each directory (`dir-merge`); a
//! [`Scope`] is what those say for one directory, and the caller brings their texts. A name that the
//! rules exclude is not only not sent, it is not removed at the target either ([`Filter::protects`]).
//! The rules of a module are compiled by [`Filter::of_daemon`].

mod cvs;
mod daemon;
mod gather;
mod ground;
mod matcher;
mod merge;
mod parse;
mod rule;
mod statement;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::path::{WirePath, escape};

pub use daemon::DaemonRules;
pub use ground::RulesFile;
pub use merge::{ReadText, Scope};
pub use rule::{Origin, RuleRef};
pub use statement::{Preset, Rules, Statement};

use gather::Gather;
use ground::{Ground, as_path, bytes_of};
use merge::PerDir;
use parse::{Line, Style};
use rule::{Rule, View};

/// Most rules of a source, those of one directory included.
pub const RULES_MAX: usize = 10_000;

/// The largest file of rules, in bytes.
pub const RULES_BYTES_MAX: u64 = 1 << 20;

/// Most files looked for in each directory.
const PER_DIR_MAX: usize = 16;

/// How deep files of rules may merge each other.
const MERGE_DEPTH_MAX: usize = 8;

/// A rule that cannot be used: which, where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The rule.
    pub rule: Vec<u8>,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong.
    pub why: String,
    /// How to put it right.
    pub hint: String,
}

impl FilterError {
    fn new(by: &RuleRef, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            rule: by.text.clone(),
            origin: by.origin.clone(),
            why: why.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: rule \"", self.origin)?;
        escape(&self.rule, f)?;
        write!(f, "\": {}", self.why)
    }
}

impl std::error::Error for FilterError {}

/// What the rules say about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It takes part: by a rule, or because none matches.
    Included(Option<Arc<RuleRef>>),
    /// It does not.
    Excluded {
        /// The rule.
        by: Arc<RuleRef>,
        /// The directory it matched, if that is not the path itself.
        above: Option<WirePath>,
    },
}

impl Verdict {
    /// Whether the path takes part.
    #[must_use]
    pub const fn is_included(&self) -> bool {
        matches!(self, Self::Included(_))
    }
}

/// Reads a file of rules: its text, or why it cannot be read.
pub type ReadFile<'a> = dyn FnMut(&Path) -> Result<Vec<u8>, String> + 'a;

/// Gives the scope of a directory.
pub type ScopeOf<'a> = dyn FnMut(&WirePath) -> Scope + 'a;

/// Says whether a directory is sent: it takes part, and the source has it.
pub type IsSent<'a> = dyn FnMut(&WirePath) -> bool + 'a;

/// Rules, compiled.
#[derive(Debug, Default)]
pub struct Filter {
    entries: Vec<Entry>,
    per_dir: Vec<Arc<PerDir>>,
    /// The absolute path of what they are about, without slashes around it.
    root: Arc<[u8]>,
}

#[derive(Debug)]
enum Entry {
    Rule(Rule),
    /// The rules of this per-directory file stand here.
    PerDir(usize),
}

impl Filter {
    /// Compiles rules; `read` brings the texts of the files they name.
    ///
    /// # Errors
    /// The first rule that cannot be used.
    pub fn compile(rules: &Rules, read: &mut ReadFile<'_>) -> Result<Self, FilterError> {
        let mut filter = Self {
            root: ground::resolved(b"", rules.source().as_os_str().as_encoded_bytes()).into(),
            ..Self::default()
        };
        for (statement, origin) in rules.entries() {
            filter.add_statement(statement, origin, read)?;
        }
        Ok(filter)
    }

    /// Whether everything is included and nothing protected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether files are looked for in each directory.
    #[must_use]
    pub fn has_per_dir(&self) -> bool {
        !self.per_dir.is_empty()
    }

    /// Names of the files looked for in each directory, but for those that such files name.
    pub fn per_dir_names(&self) -> impl Iterator<Item = &[u8]> {
        self.per_dir.iter().map(|file| file.name.as_slice())
    }

    /// Whether a name could be protected from being removed at the target.
    #[must_use]
    pub fn may_protect(&self) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::Rule(rule) => rule.may_protect(),
            Entry::PerDir(_) => true,
        })
    }

    /// Whether a verdict can change when a directory above gets another name.
    #[must_use]
    pub fn depends_on_place(&self) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::Rule(rule) => rule.matcher.depends_on_place(),
            Entry::PerDir(_) => true,
        })
    }

    /// Whether the rules surely say the same about whatever is in a directory under both these names of it. Rules that
    /// lie in it move along.
    pub fn decides_alike(
        &self,
        from: &WirePath,
        to: &WirePath,
        scope_of: &mut ScopeOf<'_>,
    ) -> bool {
        let parents = [from, to].map(|path| path.parent().unwrap_or_default());
        let [old, new] = [0, 1].map(|at| scope_of(&parents[at]));
        let is_same = parents[0] == parents[1];
        let (from, to) = (bytes_of(from), bytes_of(to));
        let is_alike = |rule: &Rule| {
            let elsewhere = |dir: &[u8]| !rule.matcher.may_match_below(dir);
            rule.matcher.is_of_names() || (elsewhere(&from) && elsewhere(&to))
        };
        self.entries.iter().all(|entry| match entry {
            Entry::Rule(rule) => is_alike(rule),
            Entry::PerDir(index) if is_same => new.all_rules(*index, &is_alike),
            Entry::PerDir(index) => old.is_silent(*index) && new.is_silent(*index),
        })
    }

    /// The scope of a directory in that of its parent ([`Scope::default`] for the root), with the texts
    /// of its own files.
    #[must_use]
    pub fn with_dir<'a>(
        &'a self,
        parent: &Scope,
        dir: &WirePath,
        read: &'a mut ReadText<'a>,
    ) -> Scope {
        if self.per_dir.is_empty() {
            return Scope::default();
        }
        Gather::enter(&self.per_dir, &self.root, parent, dir, read)
    }

    /// What the rules say about a path and the directories above it.
    pub fn verdict(&self, path: &WirePath, is_dir: bool, scope_of: &mut ScopeOf<'_>) -> Verdict {
        match self.walk(path, is_dir, |_| View::Transfer, scope_of, &mut |_| false) {
            Hit::Excluded(by, depth) => Verdict::Excluded {
                by,
                above: prefix(path, depth).filter(|above| above != path),
            },
            Hit::Included(by) => Verdict::Included(by),
        }
    }

    /// What they say about an entry of a directory that is included itself, in that directory's scope.
    #[must_use]
    pub fn keeps(&self, path: &WirePath, is_dir: bool, scope: &Scope) -> bool {
        self.entries.is_empty()
            || matches!(
                self.decide(&bytes_of(path), is_dir, View::Transfer, scope),
                Hit::Included(_)
            )
    }

    /// Whether a name at the target must not be removed although the source has not got it. `removed`
    /// is a directory above it that is to be removed as well.
    ///
    /// What is in a protected directory stays with it, unless the source has that directory too and
    /// `is_sent` says so: then it is mirrored, and each name in it is asked about by itself.
    pub fn protects(
        &self,
        path: &WirePath,
        is_dir: bool,
        removed: Option<&WirePath>,
        scope_of: &mut ScopeOf<'_>,
        is_sent: &mut IsSent<'_>,
    ) -> bool {
        let top = removed.unwrap_or(path).names().len();
        let view = |depth| View::Protect {
            dying: removed.is_some() && depth > top,
        };
        let mut passes = |here: &WirePath| here.names().len() < top && is_sent(here);
        let hit = self.walk(path, is_dir, view, scope_of, &mut passes);
        matches!(hit, Hit::Excluded(..))
    }

    /// Decides from the top: the first excluded directory ends it, but for those that are passed.
    fn walk(
        &self,
        path: &WirePath,
        is_dir: bool,
        view: impl Fn(usize) -> View,
        scope_of: &mut ScopeOf<'_>,
        passes: &mut IsSent<'_>,
    ) -> Hit {
        let mut last = Hit::Included(None);
        if self.entries.is_empty() {
            return last;
        }
        let depth = path.names().len();
        for at in 1..=depth {
            let (Some(here), Some(dir)) = (prefix(path, at), prefix(path, at - 1)) else {
                return last;
            };
            let is_last = at == depth;
            let scope = scope_of(&dir);
            let text = bytes_of(&here);
            last = self.decide(&text, is_dir || !is_last, view(at), &scope);
            if let Hit::Excluded(by, _) = &last
                && (is_last || !passes(&here))
            {
                return Hit::Excluded(by.clone(), at);
            }
        }
        last
    }

    fn decide(&self, path: &[u8], is_dir: bool, view: View, scope: &Scope) -> Hit {
        if let Some(error) = scope.broken() {
            let by = RuleRef {
                text: error.rule.clone(),
                origin: error.origin.clone(),
            };
            return Hit::Excluded(Arc::new(by), 0);
        }
        let found = self.entries.iter().find_map(|entry| match entry {
            Entry::Rule(rule) => rule.decides(path, is_dir, view).then_some(rule),
            Entry::PerDir(index) => scope
                .decides(*index, path, is_dir, view)
                .map(|rule| &**rule),
        });
        match found {
            None => Hit::Included(None),
            Some(rule) if rule.include => Hit::Included(Some(rule.by.clone())),
            Some(rule) => Hit::Excluded(rule.by.clone(), 0),
        }
    }

    fn add_statement(
        &mut self,
        statement: &Statement,
        origin: &Origin,
        read: &mut ReadFile<'_>,
    ) -> Result<(), FilterError> {
        match statement {
            // rsync takes an empty argument as no rule.
            Statement::Exclude(text) | Statement::Include(text) | Statement::Filter(text)
                if text.is_empty() =>
            {
                Ok(())
            }
            Statement::Exclude(text) => self.add(text, Style::patterns(false), origin, read, 0),
            Statement::Include(text) => self.add(text, Style::patterns(true), origin, read, 0),
            Statement::Filter(text) => self.add(text, Style::FILTER, origin, read, 0),
            Statement::ExcludeFrom(file) => self.add_patterns(file, false, origin, read),
            Statement::IncludeFrom(file) => self.add_patterns(file, true, origin, read),
            Statement::Preset(preset) => preset.patterns().iter().try_for_each(|pattern| {
                self.add(pattern.as_bytes(), Style::patterns(false), origin, read, 0)
            }),
        }
    }

    fn add_patterns(
        &mut self,
        file: &Path,
        include: bool,
        origin: &Origin,
        read: &mut ReadFile<'_>,
    ) -> Result<(), FilterError> {
        let by = RuleRef {
            text: file.as_os_str().as_encoded_bytes().to_vec(),
            origin: origin.clone(),
        };
        self.add_file(file, Style::patterns(include), &by, read, 0)
    }

    fn add_file(
        &mut self,
        file: &Path,
        style: Style,
        by: &RuleRef,
        read: &mut ReadFile<'_>,
        depth: usize,
    ) -> Result<(), FilterError> {
        let text = read(file).map_err(|why| {
            let why = format!("cannot read {}: {why}", file.display());
            FilterError::new(by, why, "name a file of rules that this user can read")
        })?;
        let source: Arc<str> = file.display().to_string().into();
        parse::lines(&text, style).try_for_each(|(line, rule)| {
            self.add(rule, style, &Origin::line(&source, line), read, depth)
        })
    }

    fn add(
        &mut self,
        text: &[u8],
        style: Style,
        origin: &Origin,
        read: &mut ReadFile<'_>,
        depth: usize,
    ) -> Result<(), FilterError> {
        let by = || RuleRef {
            text: text.to_vec(),
            origin: origin.clone(),
        };
        if self.entries.len() >= RULES_MAX {
            let why = format!("there are more than {RULES_MAX} rules");
            return Err(FilterError::new(&by(), why, "leave some out"));
        }
        match parse::line(text, style, &Ground::of_root(&self.root), origin)? {
            Line::Rule(rule) => self.entries.push(Entry::Rule(rule)),
            Line::Cvs(rules) => self.entries.extend(rules.into_iter().map(Entry::Rule)),
            Line::Clear => {
                self.entries.clear();
                self.per_dir.clear();
            }
            Line::Merge(merge) => {
                let excluded = merge.excluded_self()?;
                self.entries.extend(excluded.map(Entry::Rule));
                if merge.per_dir {
                    return self.add_per_dir(PerDir::new(merge)?);
                }
                if depth == MERGE_DEPTH_MAX {
                    return Err(merge.is_circle());
                }
                let file = as_path(&merge.file);
                self.add_file(file, merge.style, &merge.by, read, depth + 1)?;
            }
        }
        Ok(())
    }

    fn add_per_dir(&mut self, file: PerDir) -> Result<(), FilterError> {
        if self.per_dir.iter().any(|known| known.name == file.name) {
            // As rsync has it: the first place counts.
            return Ok(());
        }
        if self.per_dir.len() == PER_DIR_MAX {
            return Err(gather::too_many(&file.by));
        }
        self.entries.push(Entry::PerDir(self.per_dir.len()));
        self.per_dir.push(Arc::new(file));
        Ok(())
    }
}

enum Hit {
    Included(Option<Arc<RuleRef>>),
    /// By this rule, at this depth.
    Excluded(Arc<RuleRef>, usize),
}

/// The first `depth` names of a path.
fn prefix(path: &WirePath, depth: usize) -> Option<WirePath> {
    WirePath::from_names(path.names().get(..depth)?.to_vec())
}

#[cfg(test)]
mod tests;
