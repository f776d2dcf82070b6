//! Items to sections of typed values: defaults, inheritance, `&include` and `&merge`.
//!
//! What rsync skips is skipped here too, and said. What opens a module when it is skipped (a misspelt
//! `hosts allow`, a line without `=`) is an error, unless the file is read [`Reading::AsRsync`].

use std::sync::Arc;

use syncd_proto::limits::MODULES_MAX;

use super::diagnostic::{Diagnostic, Located, Position, Severity};
use super::lexer::{self, Item, ItemKind};
use super::parameters::{self, Key, Kind, Parameter, Scope};
use super::remarks::{severity_of, shown};
use super::values::{Value, Values, flag, folded, number};
use super::vars::Variables;
use super::{ConfigSource, Entry, Reading, Written};

/// Parameters in all.
const WRITTEN_MAX: usize = 100_000;
/// Files including files including files.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Files read in all.
const FILES_MAX: usize = 4_096;
/// Bytes read in all.
const BYTES_MAX: usize = 16 << 20;

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
    /// Every parameter that was read, in order.
    pub written: Vec<Written>,
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
            written: Vec::new(),
            diagnostics: Vec::new(),
        },
        open: None,
        closed_by_include: None,
        includes_open: 0,
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

/// The state of reading.
pub(super) struct Parser<'a> {
    source: &'a mut dyn ConfigSource,
    variables: &'a Variables,
    pub(super) reading: Reading,
    pub(super) sections: Sections,
    /// The module that parameters go to; none: they are defaults.
    open: Option<usize>,
    /// The include that closed a module, until the next section.
    closed_by_include: Option<Position>,
    /// How many included files are being read, one within the other.
    includes_open: usize,
    files_left: usize,
    bytes_left: usize,
    pub(super) failed: bool,
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
        if parameter.scope == Scope::Global && self.includes_open > 0 {
            let message = format!("`{}` ends with this included file", parameter.name);
            let severity = severity_of(parameter);
            self.say(
                severity,
                Some(at),
                message,
                "include the file with `&merge`",
            );
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
        if self.sections.written.len() == WRITTEN_MAX {
            return self.fail(Some(at), "too many parameters", b"");
        }
        let module = self
            .open
            .map(|open| self.sections.modules[open].name.value.clone());
        let value = self.value(parameter, value, &value_at);
        self.sections.written.push(Written {
            key: parameter.key,
            module,
            position: at.clone(),
            is_read: value.is_some(),
        });
        if let Some(value) = value {
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
                        shown(&text)
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
        self.includes_open += 1;
        self.file(name, text, depth);
        self.includes_open -= 1;
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
}
