//! How a comparison reads the source: what it could not read is handed back, never left out in silence.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use syncd_proto::links::LinkGroups;
use syncd_proto::meta::{Compare, EntryMeta, Kind};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::{DigestTree, TreeReader};

use super::CompareError;
use crate::fs::scan::{Note, ScanProblem, SourceReader, Unnamed, Unscanned};
use crate::logic::coalesce::Failure;
use crate::logic::terms::Terms;
use crate::logic::unread::{Unread, What};
use crate::net::link::Link;
use crate::pipeline::planner::same;
use crate::pipeline::target::Target;

/// Most that is remembered of one reading; above, nothing of it counts as read.
const PROBLEMS_MAX: usize = 4_096;

/// Most directories with entries that no message can name; above, no directory counts as read.
const UNNAMED_MAX: usize = 64;

/// What could not be read, by path.
#[derive(Debug, Default)]
pub struct Problems {
    found: BTreeMap<WirePath, Unread>,
    more: bool,
    /// Directories with entries that no message can name.
    unnamed: BTreeMap<WirePath, Unread>,
    more_unnamed: bool,
}

impl Problems {
    /// Takes in what a reader told. What is left out on purpose is no problem, and what changes all the time is told
    /// by events.
    pub fn take_in(&mut self, problem: &ScanProblem) {
        let (what, error) = match &problem.what {
            Unscanned::Unreadable(error) => (What::Entries, error),
            Unscanned::Content(error) => (What::Content, error),
            Unscanned::Attributes(error) => (What::Attributes, error),
            Unscanned::Unnamed(unnamed) => return self.take_in_unnamed(&problem.path, unnamed),
            Unscanned::Reserved | Unscanned::NotKept(_) | Unscanned::Unstable => return,
        };
        if self.found.len() >= PROBLEMS_MAX {
            self.more = true;
            return;
        }
        let unread = unread(&problem.path, what, error);
        self.found.entry(problem.path.clone()).or_insert(unread);
    }

    /// Their paths are the longest that there are: few of them are remembered.
    fn take_in_unnamed(&mut self, dir: &WirePath, unnamed: &Unnamed) {
        if self.unnamed.len() < UNNAMED_MAX {
            let unread = cannot_be_named(dir, unnamed.to_string());
            self.unnamed.entry(dir.clone()).or_insert(unread);
        } else {
            self.more_unnamed = true;
        }
    }

    /// What of exactly this path could not be read.
    #[must_use]
    pub fn of(&self, path: &WirePath) -> Option<&Unread> {
        self.found.get(path)
    }

    /// That a directory has entries which no message can name.
    #[must_use]
    pub fn unnamed_in(&self, dir: &WirePath) -> Option<&Unread> {
        self.unnamed.get(dir)
    }

    /// Everything, as a failure of the directory at `path` if it was too much to be remembered.
    ///
    /// # Errors
    /// It was too much, or the entries of that directory are among it.
    pub fn within(self, path: &WirePath) -> Result<Self, Unread> {
        let own = self.found.get(path);
        if let Some(own) = own.filter(|own| own.what == What::Entries) {
            return Err(own.clone());
        }
        match self.found.values().next() {
            Some(first) if self.more => Err(Unread {
                path: path.clone(),
                what: What::Entries,
                failure: first.failure.clone(),
            }),
            _ => Ok(self),
        }
    }

    /// Whether everything at and below a path was read.
    pub(super) fn is_sure(&self, path: &WirePath) -> bool {
        let is_none = |among: &BTreeMap<WirePath, Unread>| {
            let below = (Bound::Included(path), Bound::Unbounded);
            let next = among.range::<WirePath, _>(below).next();
            !next.is_some_and(|(other, _)| other.starts_with(path))
        };
        !self.more && !self.more_unnamed && is_none(&self.found) && is_none(&self.unnamed)
    }
}

/// A directory with entries that no message can name.
pub fn cannot_be_named(dir: &WirePath, text: String) -> Unread {
    Unread {
        path: dir.clone(),
        what: What::Names,
        failure: Failure {
            code: "path too long".to_owned(),
            text,
        },
    }
}

/// A directory that has an entry at the target which no message can name.
pub(super) fn unnamed_there(dir: &WirePath, name: &Name) -> Unread {
    let text = format!(
        "it has entries at the target whose paths are above what can be sent, such as {name}: they have to be removed there"
    );
    cannot_be_named(dir, text)
}

/// What could not be read, for an error of the system.
pub fn unread(path: &WirePath, what: What, error: &std::io::Error) -> Unread {
    let code = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "permission denied",
        _ => "unreadable",
    };
    Unread {
        path: path.clone(),
        what,
        failure: Failure {
            code: code.to_owned(),
            text: format!("cannot be read at the source: {error}"),
        },
    }
}

/// An entry as the receiver is to have it; `None` if there is none.
pub fn stat(
    target: &Target,
    link: &Link,
    path: &WirePath,
    what: What,
) -> Result<Option<EntryMeta>, CompareError> {
    let found = target.root.stat_for(path, link.terms());
    found.map_err(|error| CompareError::Unread(unread(path, what, &error)))
}

/// The trees of a comparison at the source: the digests, if there is such a directory, and which files have several
/// names.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub(super) tree: Option<DigestTree>,
    pub(super) groups: LinkGroups,
    pub(super) problems: Problems,
}

/// Reads everything at and below a path.
pub(super) fn build(
    target: &Target,
    terms: &Arc<Terms>,
    path: &WirePath,
    policy: Compare,
    content: bool,
) -> Result<Built, CompareError> {
    let failed = |error| CompareError::Unread(unread(path, What::Entries, &error));
    let note = |dir, entries: &[_]| same::seen(target, dir, entries);
    let work = |reader: &mut SourceReader<'_>| -> Result<_, CompareError> {
        let started = reader.start(path).map_err(failed)?;
        let Some((dir, meta)) = started.filter(|(_, meta)| meta.kind == Kind::Dir) else {
            return Ok((None, LinkGroups::default()));
        };
        let tree = DigestTree::build(reader, dir, path, &meta, policy)
            .map_err(|_| CompareError::Stopped)?;
        Ok((Some(tree), reader.take_links()))
    };
    let (built, problems) = with_reader(target, terms, content, Some(&note), work);
    let (tree, groups) = built?;
    Ok(Built {
        tree,
        groups,
        problems,
    })
}

/// What a directory of the source holds.
pub(super) type Entries = BTreeMap<Name, EntryMeta>;

/// Reads one directory; `None` if there is none. What could not be read of single entries is beside them.
pub(super) fn list(
    target: &Target,
    terms: &Arc<Terms>,
    path: &WirePath,
    content: bool,
) -> Result<Option<(Entries, Problems)>, CompareError> {
    let failed = |error| CompareError::Unread(unread(path, What::Entries, &error));
    let work = |reader: &mut SourceReader<'_>| {
        let Some((dir, _)) = reader.start(path).map_err(failed)? else {
            return Ok(None);
        };
        let entries = reader.entries(&dir, path);
        entries.map_err(|_| CompareError::Stopped)
    };
    let (entries, problems) = with_reader(target, terms, content, None, work);
    let entries = entries?;
    let problems = problems.within(path).map_err(CompareError::Unread)?;
    Ok(entries.map(|entries| (entries.into_iter().collect(), problems)))
}

fn with_reader<T>(
    target: &Target,
    terms: &Arc<Terms>,
    content: bool,
    note: Option<Note<'_>>,
    work: impl FnOnce(&mut SourceReader<'_>) -> T,
) -> (T, Problems) {
    let selection = &target.selection;
    let keep = |dir: &WirePath, name: &Name, is_dir: bool| selection.keeps_in(dir, name, is_dir);
    let mut problems = Problems::default();
    let mut tell = |problem: ScanProblem| {
        problems.take_in(&problem);
        // It is told when the comparison of the directory fails, and not each time that something above it is read.
        if !matches!(problem.what, Unscanned::Unnamed(_)) {
            tracing::warn!(target = %target.name, "{problem}");
        }
    };
    let cancel = AtomicBool::new(false);
    let mut reader = SourceReader::new(&target.root, &keep, &mut tell, &cancel)
        .hash_contents(content)
        .remembering(&target.hashes)
        .terms(terms.clone());
    if let Some(note) = note {
        reader = reader.noting(note);
    }
    let result = work(&mut reader);
    drop(reader);
    (result, problems)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn problem(at: &str, what: Unscanned) -> ScanProblem {
        ScanProblem {
            path: path(at),
            what,
        }
    }

    fn too_many() -> io::Error {
        io::Error::from_raw_os_error(24)
    }

    #[test]
    fn only_what_could_not_be_read_makes_unsure() {
        let mut problems = Problems::default();
        problems.take_in(&problem("a/b", Unscanned::Reserved));
        problems.take_in(&problem("a/c", Unscanned::Unstable));
        assert!(problems.is_sure(&path(".")));
        problems.take_in(&problem("a/b/c", Unscanned::Attributes(too_many())));
        problems.take_in(&problem("d", Unscanned::Unreadable(too_many())));
        let sure = ["a/bb", "a/b/a", "a/b/c/d", "c", "dd"];
        assert!(sure.iter().all(|at| problems.is_sure(&path(at))));
        let unsure = [".", "a", "a/b", "a/b/c", "d"];
        assert!(unsure.iter().all(|at| !problems.is_sure(&path(at))));
        assert_eq!(problems.of(&path("d")).unwrap().failure.code, "unreadable");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let denied = unread(&path("d"), What::Entries, &denied);
        assert_eq!(denied.failure.code, "permission denied");
    }

    #[test]
    fn entries_that_no_message_can_name_fail_their_directory_and_leave_the_rest() {
        let mut problems = Problems::default();
        let mut unnamed = Unnamed::default();
        unnamed.add(b"one\n");
        unnamed.add(b"two");
        problems.take_in(&problem("d/e", Unscanned::Unnamed(unnamed.clone())));
        assert!(!problems.is_sure(&path("d")) && problems.is_sure(&path("d/f")));
        let told = problems.unnamed_in(&path("d/e")).unwrap();
        assert_eq!(
            (told.what, &*told.failure.code),
            (What::Names, "path too long")
        );
        let text = &told.failure.text;
        assert!(
            text.starts_with("2 of its entries cannot be mirrored, such as one\\x0a: "),
            "{text}"
        );
        // Its other entries count.
        let mut problems = problems.within(&path("d/e")).unwrap();
        for number in 0..10 * UNNAMED_MAX {
            let at = format!("d/{number}");
            problems.take_in(&problem(&at, Unscanned::Unnamed(unnamed.clone())));
        }
        assert_eq!(problems.unnamed.len(), UNNAMED_MAX);
        assert!(!problems.is_sure(&path("elsewhere")));
    }

    #[test]
    fn entries_and_too_many_problems_are_those_of_the_directory() {
        let mut problems = Problems::default();
        problems.take_in(&problem("d", Unscanned::Attributes(too_many())));
        let problems = problems.within(&path("d")).unwrap();
        let mut own = problems;
        own.take_in(&problem("d/e", Unscanned::Unreadable(too_many())));
        assert!(own.within(&path("d/e")).is_err());
        let mut many = Problems::default();
        for number in 0..=PROBLEMS_MAX {
            let at = format!("d/{number}");
            many.take_in(&problem(&at, Unscanned::Content(too_many())));
        }
        assert!(!many.is_sure(&path("elsewhere")));
        assert_eq!(many.within(&path("d")).unwrap_err().what, What::Entries);
    }
}
