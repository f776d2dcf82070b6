//! Items to sections of typed values: defaults, inheritance, `&include` and `&merge`.
//!
//! What rsync skips is skipped here too, and said. What opens a module when it is skipped (a misspelt
//! `hosts allow`, a line without `=`) is an error, unless the file is read [`Reading::AsRsync`].

use std::sync::Arc;

use syncd_proto::path::escaped;

use super::diagnostic::{Diagnostic, Located, Position, Severity};
use super::lexer::{self, Item, ItemKind};
use super::parameters::{self, Key, Kind, PARAMETERS, Parameter, Scope};
use super::vars::Variables;
use super::{ConfigSource, Entry, Reading};

/// Files including files including files.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Files read in all.
const FILES_MAX: usize = 4_096;
/// Bytes read in all.
const BYTES_MAX: usize = 16 << 20;
/// Modules in all.
const MODULES_MAX: usize = 10_000;

/// A value as its parameter's [`Kind`] reads it. Text is not expanded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Flag(bool),
    Choice(Option<bool>),
    Number(i32),
    Text(Vec<u8>),
}

/// The values written in one place, or inherited there.
#[derive(Debug, Clone)]
pub(super) struct Values(Vec<Option<Located<Value>>>);

impl Values {
    fn new() -> Self {
        Self(vec![None; PARAMETERS.len()])
    }

    /// What was written or inherited, if anything.
    pub(super) fn written(&self, key: Key) -> Option<&Located<Value>> {
        self.0[key as usize].as_ref()
    }

    fn set(&mut self, key: Key, value: Located<Value>) {
        self.0[key as usize] = Some(value);
    }

    /// Text without a built-in value that is missing here comes from the final defaults.
    fn fill_from(&mut self, defaults: &Self) {
        for parameter in PARAMETERS {
            let at = parameter.key as usize;
            let late = parameter.kind == (Kind::Text { built_in: false })
                && parameter.scope == Scope::Module
                && parameter.key != Key::Name;
            if late && self.0[at].is_none() {
                self.0[at].clone_from(&defaults.0[at]);
            }
        }
    }
}

/// One module's section.
#[derive(Debug)]
pub(super) struct Section {
    pub name: Located<Vec<u8>>,
    pub values: Values,
}

/// Everything read, before it becomes a configuration.
#[derive(Debug)]
pub(super) struct Sections {
    /// Global parameters and the final defaults.
    pub defaults: Values,
    /// Modules in order.
    pub modules: Vec<Section>,
    /// What there is to say.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads `start` and all it includes.
pub(super) fn read(
    source: &mut dyn ConfigSource,
    start: &[u8],
    variables: &Variables,
    reading: Reading,
) -> Sections {
    let mut parser = Parser {
        source,
        variables,
        reading,
        sections: Sections {
            defaults: Values::new(),
            modules: Vec::new(),
            diagnostics: Vec::new(),
        },
        open: None,
        closed_by_include: None,
        files_left: FILES_MAX,
        bytes_left: BYTES_MAX,
        failed: false,
    };
    match parser.source.read(start) {
        Ok(Entry::File(text)) => parser.file(start, &text, 0),
        Ok(Entry::Directory(_)) => parser.fail(None, "is a directory, not a file", start),
        Err(error) => parser.fail(None, &error.to_string(), start),
    }
    let mut sections = parser.sections;
    for module in &mut sections.modules {
        module.values.fill_from(&sections.defaults);
    }
    sections
}

struct Parser<'a> {
    source: &'a mut dyn ConfigSource,
    variables: &'a Variables,
    reading: Reading,
    sections: Sections,
    /// The module that parameters go to; none: they are defaults.
    open: Option<usize>,
    /// The include that closed a module, until the next section.
    closed_by_include: Option<Position>,
    files_left: usize,
    bytes_left: usize,
    failed: bool,
}

impl Parser<'_> {
    fn file(&mut self, name: &[u8], text: &[u8], depth: usize) {
        if self.files_left == 0 || text.len() > self.bytes_left {
            return self.fail(None, "too much configuration", name);
        }
        self.files_left -= 1;
        self.bytes_left -= text.len();
        if text.starts_with(b"\xef\xbb\xbf") {
            self.byte_order_mark(name);
        }
        for item in lexer::lex(&Arc::from(name), text) {
            if self.failed {
                return;
            }
            self.item(item, depth);
        }
    }

    fn item(&mut self, item: Item, depth: usize) {
        let Item { position, kind } = item;
        match kind {
            ItemKind::Section(name) => self.section(name, position),
            ItemKind::Parameter {
                name,
                value,
                value_position,
            } => self.parameter(&name, &value, &position, value_position),
            ItemKind::Directive { word, argument } => {
                self.directive(&word, &argument, &position, depth);
            }
            ItemKind::Malformed(line) => self.malformed(&line, &position),
            ItemKind::Unusable(why) => self.fail(Some(&position), why, b""),
        }
    }

    fn section(&mut self, name: Vec<u8>, position: Position) {
        self.closed_by_include = None;
        if folded(&name) == b"global" {
            self.open = None;
            return;
        }
        let known = self
            .sections
            .modules
            .iter()
            .position(|module| folded(&module.name.value) == folded(&name));
        if let Some(at) = known {
            self.note_reopened(at, &name, &position);
            self.open = Some(at);
            return;
        }
        if self.sections.modules.len() == MODULES_MAX {
            return self.fail(Some(&position), "too many modules", &name);
        }
        self.open = Some(self.sections.modules.len());
        self.sections.modules.push(Section {
            name: Located::at(name, position),
            values: self.sections.defaults.clone(),
        });
    }

    fn parameter(&mut self, name: &[u8], value: &[u8], at: &Position, value_at: Position) {
        let Some(parameter) = parameters::find(name) else {
            return self.unknown(name, at);
        };
        if parameter.scope == Scope::Global && self.open.is_some() {
            let message = format!(
                "`{}` is a global parameter: ignored in a module",
                parameter.name
            );
            self.say(
                Severity::Warning,
                Some(at),
                message,
                "write it before the first section",
            );
            return;
        }
        if let Some(include) = self.closed_by_include.take() {
            let message = format!(
                "`{}` is a default for modules below: the `&include` at {include} closed the module above",
                parameter.name
            );
            self.say(
                Severity::Danger,
                Some(at),
                message,
                "use `&merge`, or move the line above the include",
            );
        }
        if let Some(value) = self.value(parameter, value, &value_at) {
            self.store(parameter.key, Located::at(value, value_at));
        }
    }

    fn store(&mut self, key: Key, value: Located<Value>) {
        let Some(module) = self.open.map(|at| &mut self.sections.modules[at]) else {
            self.sections.defaults.set(key, value);
            return;
        };
        match (key, value) {
            (
                Key::Name,
                Located {
                    value: Value::Text(name),
                    position,
                },
            ) => {
                module.name = Located {
                    value: name,
                    position,
                }
            }
            (key, value) => module.values.set(key, value),
        }
    }

    fn value(&mut self, parameter: &Parameter, text: &[u8], at: &Position) -> Option<Value> {
        match parameter.kind {
            Kind::Text { .. } => Some(Value::Text(text.to_vec())),
            Kind::Flag(_) | Kind::Choice => {
                let read = flag(&self.variables.expand(text), parameter.kind == Kind::Choice);
                if read.is_none() {
                    self.bad_flag(parameter, text, at);
                }
                read
            }
            Kind::Number(_) => {
                let text = self.variables.expand(text);
                let (number, whole) = number(&text);
                if !whole {
                    let message = format!(
                        "`{}`: \"{}\" is read as {number}",
                        parameter.name,
                        escaped(&text)
                    );
                    let severity = severity_of(parameter);
                    self.say(severity, Some(at), message, "write a plain number");
                }
                Some(Value::Number(number))
            }
        }
    }

    fn directive(&mut self, word: &[u8], argument: &[u8], at: &Position, depth: usize) {
        let suffix = match word {
            b"include" => b".conf".as_slice(),
            b"merge" => b".inc",
            _ => return self.fail(Some(at), "no such directive", word),
        };
        if depth == INCLUDE_DEPTH_MAX {
            return self.fail(Some(at), "files included too deep", argument);
        }
        let entry = match self.source.read(argument) {
            Ok(entry) => entry,
            Err(error) => return self.fail(Some(at), &error.to_string(), argument),
        };
        let files = match entry {
            Entry::File(text) => vec![(argument.to_vec(), text)],
            Entry::Directory(names) => match self.directory(argument, names, suffix) {
                Ok(files) => files,
                Err((file, error)) => return self.fail(Some(at), &error, &file),
            },
        };
        for (name, text) in files {
            if word == b"merge" {
                self.file(&name, &text, depth + 1);
            } else {
                self.include(&name, &text, depth + 1);
            }
        }
        if word == b"include" && self.open.take().is_some() {
            self.closed_by_include = Some(at.clone());
        }
    }

    /// A file of its own: starts among the defaults and leaves them as they were.
    fn include(&mut self, name: &[u8], text: &[u8], depth: usize) {
        let outside = (self.open.take(), self.closed_by_include.take());
        let defaults = self.sections.defaults.clone();
        self.file(name, text, depth);
        self.sections.defaults = defaults;
        (self.open, self.closed_by_include) = outside;
    }

    #[expect(
        clippy::type_complexity,
        reason = "names with texts, in one place only"
    )]
    fn directory(
        &mut self,
        path: &[u8],
        mut names: Vec<Vec<u8>>,
        suffix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, (Vec<u8>, String)> {
        names.retain(|name| name.ends_with(suffix));
        names.sort();
        let mut files = Vec::new();
        let mut bytes = 0;
        for name in names {
            let separator: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let file = [path, separator, &name].concat();
            match self.source.read(&file) {
                Ok(Entry::File(text)) => {
                    bytes += text.len();
                    if bytes > self.bytes_left || files.len() == self.files_left {
                        return Err((file, "too much configuration".into()));
                    }
                    files.push((file, text));
                }
                Ok(Entry::Directory(_)) => return Err((file, "is a directory, not a file".into())),
                Err(error) => return Err((file, error.to_string())),
            }
        }
        Ok(files)
    }

    fn fail(&mut self, at: Option<&Position>, why: &str, what: &[u8]) {
        let message = if what.is_empty() {
            format!("{why}: the configuration is not used")
        } else {
            format!("{}: {why}: the configuration is not used", escaped(what))
        };
        self.failed = true;
        self.sections
            .diagnostics
            .push(Diagnostic::new(Severity::Error, at, message));
    }

    fn say(&mut self, severity: Severity, at: Option<&Position>, message: String, fix: &str) {
        self.sections
            .diagnostics
            .push(Diagnostic::new(severity, at, message).fix(fix));
    }

    /// An error, or the danger it is where rsync's reading is wanted.
    fn grave(&self) -> Severity {
        match self.reading {
            Reading::Strict => Severity::Error,
            Reading::AsRsync => Severity::Danger,
        }
    }

    fn unknown(&mut self, name: &[u8], at: &Position) {
        let written = escaped(name);
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

    fn malformed(&mut self, line: &[u8], at: &Position) {
        let written = escaped(&line[..line.len().min(80)]);
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

    fn bad_flag(&mut self, parameter: &Parameter, text: &[u8], at: &Position) {
        let message = format!(
            "`{}`: \"{}\" is neither yes nor no: the value before it stays",
            parameter.name,
            escaped(text)
        );
        let severity = severity_of(parameter);
        self.say(
            severity,
            Some(at),
            message,
            "write yes or no, and nothing after it",
        );
    }

    fn byte_order_mark(&mut self, name: &[u8]) {
        let at = Position {
            file: Arc::from(name),
            line: 1,
            column: 1,
        };
        let message =
            "a byte-order mark spoils the first line; a section header there is lost".to_owned();
        self.say(self.grave(), Some(&at), message, "save the file without it");
    }

    fn note_reopened(&mut self, at: usize, name: &[u8], position: &Position) {
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

fn severity_of(parameter: &Parameter) -> Severity {
    if parameter.security {
        Severity::Danger
    } else {
        Severity::Warning
    }
}

/// Names are equal if these are.
fn folded(name: &[u8]) -> Vec<u8> {
    name.iter()
        .filter(|byte| !lexer::is_blank(**byte))
        .map(u8::to_ascii_lowercase)
        .collect()
}

fn flag(text: &[u8], choice: bool) -> Option<Value> {
    let value = match &folded(text)[..] {
        b"yes" | b"true" | b"1" => Some(true),
        b"no" | b"false" | b"0" => Some(false),
        b"unset" | b"-1" if choice => None,
        _ => return None,
    };
    Some(match value {
        Some(value) if !choice => Value::Flag(value),
        value => Value::Choice(value),
    })
}

/// Blanks, a sign, digits; what follows is not looked at. Also whether that was all. A number that is
/// too large is -1, which as a limit lets nobody in.
fn number(text: &[u8]) -> (i32, bool) {
    let text = lexer::trimmed(text);
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let end = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    let value = digits[..end].iter().fold(0_i64, |value, digit| {
        (value * 10 + i64::from(digit - b'0')).min(i64::from(u32::MAX))
    });
    let value = if negative { -value } else { value };
    match i32::try_from(value) {
        Ok(number) => (number, end > 0 && end == digits.len()),
        Err(_) => (-1, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stop_at_the_first_other_byte() {
        for (text, value, whole) in [
            ("2", 2, true),
            ("2 # two", 2, false),
            (" -3 ", -3, true),
            ("ten", 0, false),
            ("0x10", 0, false),
            ("010", 10, true),
            ("- 3", 0, false),
            ("", 0, false),
            ("99999999999999999999", -1, false),
        ] {
            assert_eq!(number(text.as_bytes()), (value, whole), "{text}");
        }
    }

    #[test]
    fn flags_are_few() {
        for text in ["yes", "T r u e", "1"] {
            assert_eq!(flag(text.as_bytes(), false), Some(Value::Flag(true)));
        }
        for text in ["on", "off", "y", "", "no # x", "unset", "-1"] {
            assert_eq!(flag(text.as_bytes(), false), None, "{text}");
        }
        assert_eq!(flag(b"unset", true), Some(Value::Choice(None)));
        assert_eq!(flag(b"no", true), Some(Value::Choice(Some(false))));
    }
}
