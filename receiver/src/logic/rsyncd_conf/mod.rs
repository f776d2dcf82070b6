//! `rsyncd.conf`: text to a checked [`Config`].
//!
//! [`load`] reads through a [`ConfigSource`], so that nothing here opens a file. The steps are
//! `lexer` (bytes to items with positions), `parse` (items to sections of typed `values`, with
//! defaults and includes), `model` (sections to [`Config`] and [`Module`]) and `review` (what in it is
//! dangerous, has no effect, or is refused).
//!
//! The same file serves the rsync daemon during a migration, so it is read as rsync reads it, except
//! where rsync skips what was meant to protect a module: see [`Reading`].

use std::fmt;

mod diagnostic;
mod lexer;
mod model;
mod parameters;
mod parse;
mod remarks;
mod review;
mod values;
mod vars;

pub use diagnostic::{Diagnostic, Located, Position, Severity};
pub(crate) use model::expanded;
pub use model::{Config, Globals, Module, Text};
pub use parameters::{Key, Kind, PARAMETERS, Parameter, Scope, Standing, find};
pub use vars::Variables;

/// Where configuration files come from.
pub trait ConfigSource {
    /// The file or directory of this name, as it is written in the configuration.
    ///
    /// # Errors
    /// A text that says why it cannot be read.
    fn read(&mut self, path: &[u8]) -> Result<Entry, SourceError>;
}

/// What a name in an `&include` leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file's content.
    File(Vec<u8>),
    /// The names in a directory, in any order.
    Directory(Vec<Vec<u8>>),
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError(pub String);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SourceError {}

/// How strictly a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A misspelt security parameter, a security parameter without `=` and a byte-order mark are
    /// errors; a writable module that anybody could write to is refused.
    Strict,
    /// These are told as dangers, and rsync's own reading is kept: to compare with rsync.
    AsRsync,
}

/// A parameter that stands in a file, to list what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Which.
    pub key: Key,
    /// The module it stands in; `None` among the defaults.
    pub module: Option<Vec<u8>>,
    /// Where its name starts.
    pub position: Position,
    /// Its value is one it can have: a line where this is not so does nothing.
    pub is_read: bool,
}

/// A configuration that can be used, and what there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every parameter that was read, in order.
    pub written: Vec<Written>,
    /// Remarks, none of them an error, in file order as far as they come from reading.
    pub diagnostics: Vec<Diagnostic>,
}

/// A configuration that cannot be used: at least one diagnostic is an error.
#[derive(Debug)]
pub struct Unusable {
    /// What there is to say.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self
            .diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error);
        match errors.next() {
            Some(first) => first.fmt(f)?,
            None => f.write_str("configuration not usable")?,
        }
        match errors.count() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for Unusable {}

/// Reads `start` with all it includes. `variables` are the daemon's environment.
///
/// # Errors
/// [`Unusable`] if anything in it refuses the whole configuration.
pub fn load(
    source: &mut dyn ConfigSource,
    start: &[u8],
    variables: &Variables,
    reading: Reading,
) -> Result<Loaded, Unusable> {
    let mut sections = parse::read(source, start, variables, reading);
    let mut diagnostics = std::mem::take(&mut sections.diagnostics);
    let mut config = model::build(&sections, variables, &mut diagnostics);
    review::review(&sections, &mut config, reading, &mut diagnostics);
    if diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
    {
        return Err(Unusable { diagnostics });
    }
    Ok(Loaded {
        config,
        written: sections.written,
        diagnostics,
    })
}

#[cfg(test)]
mod tests;
