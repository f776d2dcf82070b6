//! Every state that the source has been in, and what a mirror may look like after a power cut.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use syncd_tests::tree::{Entry, Kind, RelPath, escape};
use syncd_tests::{Options, Tree, diff};

use crate::record::{Mark, Record};

const PROBLEMS_MAX: usize = 12;
const RECENT: usize = 30;

/// One change of the source.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// What it was, for people.
    pub(crate) what: String,
    /// Names that it moved.
    pub(crate) moved: Vec<RelPath>,
    /// A name that it made and took away again.
    pub(crate) passing: Option<RelPath>,
}

/// The source after each change; state 0 is before the first.
#[derive(Debug)]
pub(crate) struct History {
    states: Vec<Tree>,
    changes: Vec<Change>,
}

/// What was known of the source when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// State that was said to be durable.
    pub(crate) durable: usize,
    /// Last state that had begun.
    pub(crate) begun: usize,
}

impl Bounds {
    /// As noted before this record.
    pub(crate) fn at(records: &[Record], cut: usize) -> Self {
        let mut bounds = Self {
            durable: 0,
            begun: 0,
        };
        for record in &records[..cut] {
            match record {
                Record::Mark(Mark::Durable(state)) => bounds.durable = *state,
                Record::Mark(Mark::Begun(state)) => bounds.begun = *state,
                _ => {}
            }
        }
        bounds
    }
}

impl History {
    /// Begins with the source as it is.
    pub(crate) fn begin(root: &Path) -> Self {
        Self {
            states: vec![look(root)],
            changes: vec![Change::default()],
        }
    }

    /// Number of the last state.
    pub(crate) fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// The source has just been changed.
    pub(crate) fn note(&mut self, root: &Path, change: Change) {
        self.states.push(look(root));
        self.changes.push(change);
    }

    /// All that was done is durable.
    pub(crate) fn now(&self) -> Bounds {
        let last = self.last();
        Bounds {
            durable: last,
            begun: last,
        }
    }

    /// The last changes, for people.
    pub(crate) fn recent(&self) -> Bounds {
        Bounds {
            durable: self.last().saturating_sub(RECENT),
            begun: self.last(),
        }
    }

    /// What is wrong with a mirror: what was said to be durable and is not there, what is neither an old nor a new
    /// version, names that never were.
    pub(crate) fn judge(&self, mirror: &Tree, bounds: Bounds) -> Vec<String> {
        let mut problems = if bounds.durable == bounds.begun {
            let differences = diff(&self.states[bounds.durable], mirror);
            differences.iter().map(ToString::to_string).collect()
        } else {
            self.judge_between(mirror, bounds)
        };
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        if more > 0 {
            problems.push(format!("and {more} more"));
        }
        problems
    }

    /// The changes between what was durable and what had begun.
    pub(crate) fn story(&self, bounds: Bounds) -> String {
        let between = bounds.durable + 1..=bounds.begun;
        let lines = between.map(|at| format!("    {at}: {}", self.changes[at].what));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn judge_between(&self, mirror: &Tree, bounds: Bounds) -> Vec<String> {
        let states = &self.states[bounds.durable..=bounds.begun];
        let changes = &self.changes[bounds.durable + 1..=bounds.begun];
        let mut paths: BTreeSet<&RelPath> = mirror.entries().keys().collect();
        paths.extend(states.iter().flat_map(|state| state.entries().keys()));
        let judged = paths.into_iter().filter_map(|path| {
            let wrong = judge_path(path, mirror, states, changes)?;
            Some(format!("{}: {wrong}", escape(path)))
        });
        judged.collect()
    }
}

/// What is wrong with one path, if anything is.
fn judge_path(
    path: &RelPath,
    mirror: &Tree,
    states: &[Tree],
    changes: &[Change],
) -> Option<String> {
    let mut versions = states.iter().filter_map(|state| state.entry(path));
    let passing = changes
        .iter()
        .any(|change| change.passing.as_ref() == Some(path));
    let Some(found) = mirror.entry(path) else {
        let always = states.iter().all(|state| state.entry(path).is_some());
        return always.then(|| "it was there all the time, and is missing".to_owned());
    };
    if versions.clone().any(|version| is_same(version, found)) {
        let first = versions.next()?;
        let rests = versions.all(|version| version == first)
            && states.iter().all(|state| state.entry(path).is_some());
        let moved = has_moved(path, changes);
        // Nothing has touched it: then even a directory's time is what it was.
        return (rests && !moved && first.mtime != found.mtime)
            .then(|| format!("time {:?} instead of {:?}", found.mtime, first.mtime));
    }
    if passing || has_moved(path, changes) {
        // A change and a rename may meet in another order on their way: then it is a version of another path.
        let mut all = states.iter().flat_map(|state| state.entries().values());
        if all.any(|version| is_same(version, found)) {
            return None;
        }
    }
    let known = states.iter().filter_map(|state| state.entry(path));
    let mut known: Vec<_> = known.map(show).collect();
    known.dedup();
    Some(format!(
        "{} is no version of it, {}",
        show(found),
        match known.is_empty() {
            true => "it was never there".to_owned(),
            false => format!("there were {}", known.join(", ")),
        }
    ))
}

/// Whether it, or a directory above it, had another name.
fn has_moved(path: &[u8], changes: &[Change]) -> bool {
    let mut moved = changes.iter().flat_map(|change| &change.moved);
    moved.any(|name| {
        path.strip_prefix(&name[..])
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// Content and metadata together. A directory's time follows its contents, which change one by one.
fn is_same(version: &Entry, found: &Entry) -> bool {
    let mut version = version.clone();
    version.inode = found.inode;
    if version.kind == Kind::Directory {
        version.mtime = found.mtime;
    }
    version == *found
}

fn show(entry: &Entry) -> String {
    let content = entry.content.map_or_else(String::new, |hash| {
        format!(" {} bytes {}", entry.size, &hash.to_hex()[..8])
    });
    format!(
        "{:?}{content} {:04o} {}:{} {}.{:09} {} attributes",
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime.0,
        entry.mtime.1,
        entry.xattrs.len()
    )
}

/// A tree as it is now.
pub(crate) fn look(root: &Path) -> Tree {
    Tree::scan(root, &Options::default()).expect("a tree")
}

/// A path below the root, as trees name it.
pub(crate) fn rel(path: &Path) -> RelPath {
    PathBuf::from(path).as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Two versions of `a`, then `b` beside it.
    fn history(dir: &Path) -> History {
        fs::write(dir.join("a"), "one").unwrap();
        let mut history = History::begin(dir);
        fs::write(dir.join("new"), "two!").unwrap();
        fs::rename(dir.join("new"), dir.join("a")).unwrap();
        history.note(dir, Change::default());
        fs::write(dir.join("b"), "b").unwrap();
        history.note(dir, Change::default());
        history
    }

    fn mirror(content: &[(&str, &str)], like: &Path) -> Tree {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in content {
            fs::write(dir.path().join(name), text).unwrap();
            let stat = fs::metadata(like.join(name)).unwrap();
            let mut options = fs::File::options();
            let file = options.write(true).open(dir.path().join(name)).unwrap();
            file.set_modified(stat.modified().unwrap()).unwrap();
        }
        let root = fs::metadata(like).unwrap().modified().unwrap();
        let opened = fs::File::open(dir.path()).unwrap();
        fs::set_permissions(dir.path(), fs::metadata(like).unwrap().permissions()).unwrap();
        opened.set_modified(root).unwrap();
        look(dir.path())
    }

    #[test]
    fn what_was_durable_has_to_be_there_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let history = history(dir.path());
        let judge = |content: &[(&str, &str)], durable, begun| {
            history.judge(&mirror(content, dir.path()), Bounds { durable, begun })
        };
        let whole = [("a", "two!"), ("b", "b")];
        assert_eq!(judge(&whole, 2, 2), Vec::<String>::new());
        assert_eq!(judge(&whole, 1, 2), Vec::<String>::new());
        // `b` may come later; `a` may not be missing, cut short or older.
        assert_eq!(judge(&whole[..1], 1, 2), Vec::<String>::new());
        assert!(judge(&whole[..1], 2, 2)[0].contains("missing on the right"));
        assert!(judge(&whole[1..], 1, 2)[0].contains("is missing"));
        assert!(judge(&[("a", "tw")], 1, 2)[0].contains("no version"));
        assert!(judge(&[("a", "one")], 1, 2)[0].contains("no version"));
    }

    #[test]
    fn bounds_are_what_was_noted_before_the_cut() {
        let records = [
            Record::Mark(Mark::Begun(1)),
            Record::Flush,
            Record::Mark(Mark::Durable(1)),
            Record::Mark(Mark::Begun(2)),
        ];
        let found: Vec<_> = (0..=4).map(|cut| Bounds::at(&records, cut)).collect();
        let pairs: Vec<_> = found.iter().map(|at| (at.durable, at.begun)).collect();
        assert_eq!(pairs, [(0, 0), (0, 1), (0, 1), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_moved_directory_moves_what_is_below() {
        let moved = Change {
            moved: vec![b"d/e".to_vec()],
            ..Change::default()
        };
        let changes = [moved];
        assert!(has_moved(b"d/e", &changes) && has_moved(b"d/e/f", &changes));
        assert!(!has_moved(b"d", &changes) && !has_moved(b"d/ef", &changes));
    }
}
