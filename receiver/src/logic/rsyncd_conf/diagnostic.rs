//! Where something stands in a configuration file, and what is said about it.

use std::fmt;
use std::sync::Arc;

use syncd_proto::path::escaped;

/// A place in a file. Line and column count from 1; the column counts bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The file, as it was named.
    pub file: Arc<[u8]>,
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", escaped(&self.file), self.line, self.column)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value and where it was written; no position for a built-in default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub position: Option<Position>,
}

impl<T> Located<T> {
    /// A value nobody wrote.
    pub const fn built_in(value: T) -> Self {
        Self {
            value,
            position: None,
        }
    }

    /// A value from a file.
    pub const fn at(value: T, position: Position) -> Self {
        Self {
            value,
            position: Some(position),
        }
    }

    /// The same place with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: change(self.value),
            position: self.position,
        }
    }
}

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Something has no effect, or not the one it seems to have.
    Warning,
    /// What is written opens, or may open, more than was meant.
    Danger,
    /// The module it concerns is not served.
    Refused,
    /// The whole configuration is not used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Danger => "DANGER",
            Self::Refused => "refused",
            Self::Error => "error",
        })
    }
}

/// One remark on a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// Where.
    pub position: Option<Position>,
    /// What is the case and what follows.
    pub message: String,
    /// What to write instead.
    pub fix: Option<String>,
}

impl Diagnostic {
    /// A remark without a fix.
    #[must_use]
    pub fn new(
        severity: Severity,
        position: Option<&Position>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            position: position.cloned(),
            message: message.into(),
            fix: None,
        }
    }

    /// The same with a fix.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}
