//! [`Rules`] as they were written, in order, before anything is made of them.

use std::path::{Path, PathBuf};

use super::rule::Origin;

/// Rules as they were written, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    list: Vec<(Statement, Origin)>,
    base: PathBuf,
    source: PathBuf,
}

/// One entry of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// A pattern to leave out (`exclude`).
    Exclude(Vec<u8>),
    /// A pattern to take (`include`).
    Include(Vec<u8>),
    /// A rule in rsync's filter language (`filter`).
    Filter(Vec<u8>),
    /// A file of patterns to leave out (`exclude_from`).
    ExcludeFrom(PathBuf),
    /// A file of patterns to take (`include_from`).
    IncludeFrom(PathBuf),
    /// Patterns that are known by a name (`presets`).
    Preset(Preset),
}

/// Patterns that are known by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Files that editors and office programs make beside the file they work on.
    EditorTemp,
}

impl Preset {
    /// As they are written.
    pub const NAMES: [(&str, Self); 1] = [("editor-temp", Self::EditorTemp)];

    /// What it excludes.
    #[must_use]
    pub const fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::EditorTemp => &[
                // Backups of vi, Emacs, nano, joe and others.
                "*~",
                // Swap files of vi, and the file by which it tries whether a directory can be written.
                ".*.sw[nopx]",
                "4913",
                // Locks and automatic copies of Emacs.
                ".#*",
                "#*#",
                // Swap files of Kate.
                ".*.kate-swp",
                // GNOME, before the rename.
                ".goutputstream-??????",
                // LibreOffice's and Microsoft Office's locks.
                ".~lock.*#",
                "~$*",
                // JetBrains' safe write.
                "*___jb_tmp___",
                "*___jb_old___",
            ],
        }
    }
}

impl Rules {
    /// Adds an entry after the others.
    pub fn push(&mut self, statement: Statement, origin: Origin) {
        self.list.push((statement, origin));
    }

    /// The entries, in order.
    pub(super) fn entries(&self) -> &[(Statement, Origin)] {
        &self.list
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes the files that rules name from this directory, if their paths are relative.
    #[must_use]
    pub fn with_base(mut self, base: &Path) -> Self {
        self.base = base.into();
        self
    }

    /// Says where the directory is that they are about: an absolute path.
    #[must_use]
    pub fn of_source(mut self, source: &Path) -> Self {
        self.source = source.into();
        self
    }

    /// That path; empty if nobody has said so.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The directory that relative paths are taken from.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }
}
