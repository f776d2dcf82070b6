//! One rule as it is applied: what it matches, what follows, on which side, and where it was written.

use std::fmt;
use std::sync::Arc;

use crate::path::escape;

use super::matcher::Matcher;

/// Where a rule was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, or the option.
    pub source: Arc<str>,
    /// Line of the file, from 1.
    pub line: Option<usize>,
}

impl Origin {
    /// A place that is no line of a file.
    #[must_use]
    pub fn option(name: &str) -> Self {
        Self {
            source: name.into(),
            line: None,
        }
    }

    /// A line of a file.
    #[must_use]
    pub fn line(source: &Arc<str>, line: usize) -> Self {
        Self {
            source: source.clone(),
            line: Some(line),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.line {
            Some(line) => write!(f, " line {line}"),
            None => Ok(()),
        }
    }
}

/// A rule as people wrote it, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// Its text.
    pub text: Vec<u8>,
    /// Where it was written.
    pub origin: Origin,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        escape(&self.text, f)?;
        write!(f, "\" ({})", self.origin)
    }
}

/// Which question a rule answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// What is sent, and what is protected.
    Both,
    /// What is sent (`hide`, `show`, modifier `s`).
    Sender,
    /// What is protected (`protect`, `risk`, modifier `r`).
    Receiver,
}

/// The question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// Is it sent?
    Transfer,
    /// May it not be removed at the target, where the source has not got it?
    Protect {
        /// The directory around it is to be removed as well.
        dying: bool,
    },
}

/// A rule as it is applied.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) matcher: Matcher,
    pub(super) include: bool,
    pub(super) side: Side,
    /// Not asked while the directory around it is removed.
    pub(super) perishable: bool,
    pub(super) by: Arc<RuleRef>,
}

impl Rule {
    /// Whether it decides about this path.
    pub(super) fn decides(&self, path: &[u8], is_dir: bool, view: View) -> bool {
        let asked = match self.side {
            Side::Both => true,
            Side::Sender => view == View::Transfer,
            Side::Receiver => view != View::Transfer,
        };
        let asked = asked && !(self.perishable && view == View::Protect { dying: true });
        asked && self.matcher.matches(path, is_dir)
    }

    /// Whether it can keep a name from being removed.
    pub(super) fn may_protect(&self) -> bool {
        !self.include && self.side != Side::Sender
    }
}
