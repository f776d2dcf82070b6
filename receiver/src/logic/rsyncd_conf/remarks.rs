//! What the parser says on its way.

use std::sync::Arc;

use syncd_proto::path::escaped;

use super::Reading;
use super::diagnostic::{Diagnostic, Position, Severity};
use super::parameters::{self, Parameter};
use super::parse::Parser;

/// So much of a text is shown.
const SHOWN_BYTES_MAX: usize = 80;
/// So many remarks are kept; of those that come later, only the grave ones.
const REMARKS_MAX: usize = 1_000;

/// Adds a remark, within reason.
pub(super) fn add(remarks: &mut Vec<Diagnostic>, remark: Diagnostic) {
    let room = match remark.severity {
        Severity::Error | Severity::Refused => 2 * REMARKS_MAX,
        _ => REMARKS_MAX,
    };
    // What many modules inherit, or say alike, is told once.
    if remarks.len() < room && !remarks.contains(&remark) {
        remarks.push(remark);
    }
}

impl Parser<'_> {
    pub(super) fn fail(&mut self, at: Option<&Position>, why: &str, what: &[u8]) {
        let message = if what.is_empty() {
            format!("{why}: the configuration is not used")
        } else {
            format!("{}: {why}: the configuration is not used", escaped(what))
        };
        self.failed = true;
        let remark = Diagnostic::new(Severity::Error, at, message);
        self.sections.diagnostics.push(remark);
    }

    pub(super) fn say(
        &mut self,
        severity: Severity,
        at: Option<&Position>,
        message: String,
        fix: &str,
    ) {
        let remark = Diagnostic::new(severity, at, message).fix(fix);
        add(&mut self.sections.diagnostics, remark);
    }

    /// An error, or the danger it is where rsync's reading is wanted.
    fn grave(&self) -> Severity {
        match self.reading {
            Reading::Strict => Severity::Error,
            Reading::AsRsync => Severity::Danger,
        }
    }

    pub(super) fn unknown(&mut self, name: &[u8], at: &Position) {
        let written = shown(name);
        match parameters::near_miss(name) {
            Some(meant) => {
                let message = format!("unknown parameter `{written}`, which rsync would skip");
                self.say(
                    self.grave(),
                    Some(at),
                    message,
                    &format!("did you mean `{}`?", meant.name),
                );
            }
            None => {
                let message = format!("unknown parameter `{written}`: ignored, as rsync does");
                self.say(Severity::Warning, Some(at), message, "remove the line");
            }
        }
    }

    pub(super) fn malformed(&mut self, line: &[u8], at: &Position) {
        let written = shown(line);
        match parameters::leading(line) {
            Some(meant) => {
                let message = format!("no `=` in \"{written}\", which rsync would skip");
                self.say(
                    self.grave(),
                    Some(at),
                    message,
                    &format!("write `{} = ...`", meant.name),
                );
            }
            None => {
                let message = format!("no `=` in \"{written}\": ignored, as rsync does");
                self.say(
                    Severity::Warning,
                    Some(at),
                    message,
                    "begin comments with #",
                );
            }
        }
    }

    pub(super) fn bad_flag(&mut self, parameter: &Parameter, text: &[u8], at: &Position) {
        let message = format!(
            "`{}`: \"{}\" is neither yes nor no: the line does nothing, as in rsync",
            parameter.name,
            shown(text)
        );
        let severity = severity_of(parameter);
        let fix = match before_comment(text) {
            Some(value) => format!(
                "write `{} = {}`, and the comment on a line of its own",
                parameter.name,
                shown(value)
            ),
            None => "write yes or no, and nothing after it".to_owned(),
        };
        self.say(severity, Some(at), message, &fix);
    }

    pub(super) fn byte_order_mark(&mut self, name: &[u8]) {
        let at = Position {
            file: Arc::from(name),
            line: 1,
            column: 1,
        };
        let message =
            "a byte-order mark spoils the first line; a section header there is lost".to_owned();
        self.say(self.grave(), Some(&at), message, "save the file without it");
    }

    pub(super) fn note_reopened(&mut self, at: usize, name: &[u8], position: &Position) {
        let first = &self.sections.modules[at].name;
        if first.value != name {
            let message = format!(
                "[{}] adds to [{}]: names that differ in case or blanks are one module",
                escaped(name),
                escaped(&first.value)
            );
            self.say(
                Severity::Warning,
                Some(position),
                message,
                "give it another name, or join the sections",
            );
        }
    }
}

/// The value that was meant, if something like a comment follows it.
pub(super) fn before_comment(text: &[u8]) -> Option<&[u8]> {
    let blank = |byte: u8| matches!(byte, b' ' | b'\t');
    let at = text
        .windows(2)
        .position(|two| blank(two[0]) && matches!(two[1], b'#' | b';'))?;
    let value = text[..at].trim_ascii_end();
    (!value.is_empty()).then_some(value)
}

/// Enough of a text to recognise it.
pub(super) fn shown(text: &[u8]) -> String {
    match text.get(..SHOWN_BYTES_MAX) {
        Some(start) if text.len() > SHOWN_BYTES_MAX => escaped(start) + "...",
        _ => escaped(text),
    }
}

/// A danger if it concerns protection.
pub(super) fn severity_of(parameter: &Parameter) -> Severity {
    if parameter.security {
        Severity::Danger
    } else {
        Severity::Warning
    }
}
