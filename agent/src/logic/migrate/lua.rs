//! As much of Lua as configurations of lsyncd are written in: tables, texts, numbers, names and loops over lists.
//! Nothing is ever run; what only an interpreter could tell is marked with its line.

mod token;

use std::cell::Cell;
use std::collections::HashMap;

use token::{Token, tokens};

/// Tables within tables.
const DEPTH_MAX: usize = 32;
/// Turns of all loops together.
const TURNS_MAX: usize = 1_000;
/// Entries of tables that names stand for.
const ENTRIES_MAX: usize = 100_000;

/// What stands for a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Nil,
    Flag(bool),
    Number(f64),
    Text(String),
    Table(Vec<Field>),
    /// A name nobody gave a value, such as `default.rsync`.
    Name(String),
    /// Code.
    Function,
    /// What depends on more than this file.
    Dynamic(String),
}

/// One entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// `None` for the entries of a list.
    pub(super) key: Option<String>,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// What a file does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// `settings { ... }` or `settings = { ... }`.
    Settings(usize, Vec<Field>),
    /// `sync { ... }`.
    Sync(usize, Vec<Field>),
    /// Something else, as written, that was not followed.
    Unread(usize, String),
}

/// Reads a file.
pub(super) fn events(text: &str) -> Vec<Event> {
    let tokens = tokens(text);
    let mut reader = Reader {
        values: HashMap::new(),
        events: Vec::new(),
        turns: 0,
        entries_left: Cell::new(ENTRIES_MAX),
    };
    reader.block(&tokens, 0);
    reader.events
}

type Tokens<'a> = &'a [(Token, usize)];

struct Reader {
    values: HashMap<String, Value>,
    events: Vec<Event>,
    turns: usize,
    /// Entries of tables that names may still stand for: tables of tables of tables grow fast.
    entries_left: Cell<usize>,
}

impl Reader {
    fn block(&mut self, mut rest: Tokens<'_>, depth: usize) {
        while let Some((token, line)) = rest.first() {
            let line = *line;
            let Token::Name(name) = token else {
                rest = &rest[1..];
                continue;
            };
            rest = match &name[..] {
                "settings" | "sync" => self.call(name == "sync", line, rest, depth),
                "local" => &rest[1..],
                "for" if depth < DEPTH_MAX => self.repeated(rest, depth),
                "function" | "if" | "while" | "repeat" | "do" | "for" => {
                    let end = block_end(rest);
                    self.unread(line, &rest[..end]);
                    &rest[end..]
                }
                "return" | "break" => &rest[1..],
                _ => self.statement(line, rest, depth),
            };
        }
    }

    /// `settings {..}`, `settings = {..}`, `sync {..}`, with or without brackets.
    fn call<'a>(
        &mut self,
        is_sync: bool,
        line: usize,
        rest: Tokens<'a>,
        depth: usize,
    ) -> Tokens<'a> {
        let mut after = &rest[1..];
        while let Some((Token::Sign("(" | "="), _)) = after.first() {
            after = &after[1..];
        }
        match after.first() {
            Some((Token::Sign("{"), _)) => {
                let (fields, after) = self.table(&after[1..], depth);
                self.events.push(match is_sync {
                    true => Event::Sync(line, fields),
                    false => Event::Settings(line, fields),
                });
                after
            }
            _ => {
                let end = statement_end(rest);
                self.unread(line, &rest[..end]);
                &rest[end..]
            }
        }
    }

    /// `NAME = VALUE`, or something that is not followed.
    fn statement<'a>(&mut self, line: usize, rest: Tokens<'a>, depth: usize) -> Tokens<'a> {
        let end = statement_end(rest);
        match rest {
            [(Token::Name(name), _), (Token::Sign("="), _), after @ ..] => {
                let (value, after) = self.value(after, depth);
                if matches!(value, Value::Dynamic(_)) {
                    self.unread(line, &rest[..rest.len() - after.len()]);
                }
                self.values.insert(name.clone(), value);
                after
            }
            [(Token::Name(name), _), ..] if name == "require" => &rest[end..],
            _ => {
                self.unread(line, &rest[..end]);
                &rest[end..]
            }
        }
    }

    /// `for _, NAME in ipairs(LIST) do ... end` over a list that is known; others are not followed.
    fn repeated<'a>(&mut self, rest: Tokens<'a>, depth: usize) -> Tokens<'a> {
        let end = block_end(rest);
        let (whole, after) = rest.split_at(end);
        let line = rest[0].1;
        let head = whole.iter().position(|(token, _)| is_word(token, "do"));
        let Some((names, list)) = head.and_then(|head| self.head(&whole[1..head], depth)) else {
            self.unread(line, whole);
            return after;
        };
        let body = head.map_or(&[][..], |head| {
            &whole[head + 1..whole.len().saturating_sub(1)]
        });
        for (number, field) in (1_u32..).zip(list) {
            self.turns += 1;
            if self.turns > TURNS_MAX {
                self.unread(line, whole);
                break;
            }
            let key = match field.key {
                Some(key) => Value::Text(key),
                None => Value::Number(number.into()),
            };
            let pair = [key, field.value];
            for (name, value) in names.iter().zip(pair) {
                self.values.insert(name.clone(), value);
            }
            self.block(body, depth + 1);
        }
        after
    }

    /// The names and the list of a loop.
    fn head(&self, head: Tokens<'_>, depth: usize) -> Option<(Vec<String>, Vec<Field>)> {
        let word = head.iter().position(|(token, _)| is_word(token, "in"))?;
        let names = head[..word].iter().filter_map(|(token, _)| match token {
            Token::Name(name) => Some(name.clone()),
            _ => None,
        });
        let names: Vec<String> = names.collect();
        match &head[word + 1..] {
            [(Token::Name(over), _), (Token::Sign("("), _), list @ ..]
                if ["ipairs", "pairs"].contains(&&over[..]) && names.len() <= 2 =>
            {
                match self.value(list, depth + 1).0 {
                    Value::Table(list) => Some((names, list)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn unread(&mut self, line: usize, tokens: Tokens<'_>) {
        let words: Vec<String> = tokens
            .iter()
            .take(12)
            .map(|(token, _)| token.shown())
            .collect();
        self.events.push(Event::Unread(line, words.join(" ")));
    }

    /// The entries of a table, behind its `{`.
    fn table<'a>(&self, mut rest: Tokens<'a>, depth: usize) -> (Vec<Field>, Tokens<'a>) {
        let mut fields = Vec::new();
        loop {
            match rest {
                [] => return (fields, rest),
                [(Token::Sign("}"), _), after @ ..] => return (fields, after),
                [(Token::Sign("," | ";"), _), after @ ..] => rest = after,
                [(_, line), ..] => {
                    let (key, after) = key(rest);
                    let (value, after) = self.value(after, depth + 1);
                    fields.push(Field {
                        key,
                        value,
                        line: *line,
                    });
                    // A bracket that closes nothing.
                    rest = match after.len() < rest.len() {
                        true => after,
                        false => &rest[1..],
                    };
                }
            }
        }
    }

    /// A value; what cannot be known is passed over to where it ends.
    fn value<'a>(&self, rest: Tokens<'a>, depth: usize) -> (Value, Tokens<'a>) {
        let dynamic = |rest: Tokens<'a>| {
            let end = value_end(rest);
            let words: Vec<String> = rest[..end]
                .iter()
                .take(12)
                .map(|(token, _)| token.shown())
                .collect();
            (Value::Dynamic(words.join(" ")), &rest[end..])
        };
        if depth > DEPTH_MAX {
            return dynamic(rest);
        }
        let (mut value, mut after) = match self.single(rest, depth) {
            Some(found) => found,
            None => return dynamic(rest),
        };
        // Texts that are put together.
        while let [(Token::Sign(".."), _), more @ ..] = after {
            let joined = self.single(more, depth).and_then(|(next, after)| {
                Some((Value::Text(value.text()? + &next.text()?), after))
            });
            match joined {
                Some((text, rest)) => (value, after) = (text, rest),
                None => return dynamic(rest),
            }
        }
        match after.first() {
            // More than a value: a call, an operator.
            Some((Token::Sign(sign), _)) if !["}", ",", ";", ")"].contains(sign) => dynamic(rest),
            Some((Token::Odd(_), _)) => dynamic(rest),
            Some((Token::Name(word), _)) if ["and", "or"].contains(&&word[..]) => dynamic(rest),
            _ => (value, after),
        }
    }

    fn single<'a>(&self, rest: Tokens<'a>, depth: usize) -> Option<(Value, Tokens<'a>)> {
        let ((token, _), after) = rest.split_first()?;
        Some(match token {
            Token::Text(text) => (Value::Text(text.clone()), after),
            Token::Number(number) => (Value::Number(*number), after),
            Token::Sign("-") => match after {
                [(Token::Number(number), _), after @ ..] => (Value::Number(-number), after),
                _ => return None,
            },
            Token::Sign("{") => {
                let (fields, after) = self.table(after, depth);
                (Value::Table(fields), after)
            }
            Token::Name(word) => match &word[..] {
                "true" => (Value::Flag(true), after),
                "false" => (Value::Flag(false), after),
                "nil" => (Value::Nil, after),
                "function" => {
                    let end = block_end(rest);
                    (Value::Function, &rest[end..])
                }
                "not" => return None,
                _ => self.named(word, after),
            },
            Token::Sign(_) | Token::Odd(_) => return None,
        })
    }

    /// `NAME`, `NAME.FIELD`.
    fn named<'a>(&self, word: &str, mut after: Tokens<'a>) -> (Value, Tokens<'a>) {
        let mut name = word.to_owned();
        let known = self.values.get(word);
        let entries = known.map_or(0, Value::entries);
        let left = self.entries_left.get().checked_sub(entries);
        let Some(left) = left else {
            return (Value::Dynamic(name), after);
        };
        self.entries_left.set(left);
        let mut value = known.cloned();
        while let [(Token::Sign("."), _), (Token::Name(part), _), rest @ ..] = after {
            value = match value {
                Some(Value::Table(fields)) => fields
                    .into_iter()
                    .find(|field| field.key.as_ref() == Some(part))
                    .map(|field| field.value),
                _ => None,
            };
            name = format!("{name}.{part}");
            after = rest;
        }
        (value.unwrap_or(Value::Name(name)), after)
    }
}

impl Value {
    /// As a part of a text.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn entries(&self) -> usize {
        match self {
            Self::Table(fields) => fields.iter().map(|field| 1 + field.value.entries()).sum(),
            _ => 0,
        }
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Nil => "nil".to_owned(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => format!("\"{text}\""),
            Self::Table(_) => "{...}".to_owned(),
            Self::Name(name) | Self::Dynamic(name) => name.clone(),
            Self::Function => "function ... end".to_owned(),
        }
    }
}

/// `NAME =`, `["NAME"] =`, `[1] =`, or nothing.
fn key(rest: Tokens<'_>) -> (Option<String>, Tokens<'_>) {
    match rest {
        [(Token::Name(name), _), (Token::Sign("="), _), after @ ..] => (Some(name.clone()), after),
        [
            (Token::Sign("["), _),
            (Token::Text(name), _),
            (Token::Sign("]"), _),
            (Token::Sign("="), _),
            after @ ..,
        ] => (Some(name.clone()), after),
        [
            (Token::Sign("["), _),
            _,
            (Token::Sign("]"), _),
            (Token::Sign("="), _),
            after @ ..,
        ] => (None, after),
        _ => (None, rest),
    }
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Name(name) if name == word)
}

/// Where a block that begins here is over.
fn block_end(rest: Tokens<'_>) -> usize {
    let mut depth = 0_usize;
    for (at, (token, _)) in rest.iter().enumerate() {
        let Token::Name(word) = token else { continue };
        match &word[..] {
            // `for` and `while` go on with a `do`.
            "function" | "if" | "do" | "repeat" => depth += 1,
            "end" | "until" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    rest.len()
}

/// Where a value that begins here is over: at the `,`, `;` or bracket that ends it, or where a new line begins
/// outside of all brackets.
fn value_end(rest: Tokens<'_>) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some((token, line)) = rest.get(at) {
        match token {
            Token::Sign("{" | "(" | "[") => depth += 1,
            Token::Sign("}" | ")" | "]") if depth == 0 => return at,
            Token::Sign("}" | ")" | "]") => depth -= 1,
            Token::Sign("," | ";") if depth == 0 => return at,
            Token::Name(_) if depth == 0 && at > 0 && rest[at - 1].1 < *line => return at,
            Token::Name(word) if word == "function" => {
                at += block_end(&rest[at..]);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    at
}

/// Where a statement is over, in the same way.
fn statement_end(rest: Tokens<'_>) -> usize {
    let mut at = 0;
    while at < rest.len() {
        let end = value_end(&rest[at..]);
        at += end;
        match rest.get(at) {
            Some((Token::Sign(_), _)) => at += 1,
            _ => return at.max(1),
        }
    }
    at.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(text: &str) -> Vec<(Option<String>, String)> {
        let found = events(text);
        let Some(Event::Sync(_, fields)) = found.first() else {
            panic!("{found:?}");
        };
        let pairs = fields
            .iter()
            .map(|field| (field.key.clone(), field.value.shown()));
        pairs.collect()
    }

    #[test]
    fn tables_are_read() {
        let text = "--[[ a\nremark ]]\nsync {\n default.rsync, -- how\n source = '/d/' .. \"x\",\n [\"delay\"] = 1.5; \
                    rsync = { archive = true, _extra = {\"--a\"} }, onCreate = function(e) if x then y() end end, \
                    target = os.getenv('T') .. '/x', n = [[a]],\n}";
        let found = sync(text);
        let pair = |key: &str, value: &str| (Some(key.to_owned()), value.to_owned());
        assert_eq!(
            found,
            [
                (None, "default.rsync".to_owned()),
                pair("source", "\"/d/x\""),
                pair("delay", "1.5"),
                pair("rsync", "{...}"),
                pair("onCreate", "function ... end"),
                pair("target", "os . getenv ( \"T\" ) .. \"/x\""),
                pair("n", "\"a\""),
            ]
        );
    }

    #[test]
    fn loops_over_known_lists_are_followed() {
        let text = "local hosts = { 'a', \"b\" }\nfor _, host in ipairs(hosts) do\n sync{default.rsync, target = host .. '::m'}\nend\n\
                    for i = 1, 3 do\n sync{default.rsync}\nend\n";
        let found = events(text);
        let targets: Vec<_> = found
            .iter()
            .map(|event| match event {
                Event::Sync(line, fields) => format!("{line} {}", fields[1].value.shown()),
                Event::Settings(line, _) => format!("{line} settings"),
                Event::Unread(line, text) => format!("{line} {text}"),
            })
            .collect();
        assert_eq!(
            targets,
            [
                "3 \"a::m\"",
                "3 \"b::m\"",
                "5 for i = 1 , 3 do sync { default . rsync"
            ]
        );
    }

    #[test]
    fn what_is_not_followed_is_told_with_its_line() {
        let text = "settings = {\n}\nlocal f = io.open('x')\nfunction g()\n return 1\nend\nx.y = 3\nprint('a',\n 'b')\nsync{a}";
        let lines: Vec<usize> = events(text)
            .iter()
            .map(|event| match event {
                Event::Sync(line, _) | Event::Settings(line, _) | Event::Unread(line, _) => *line,
            })
            .collect();
        assert_eq!(lines, [1, 3, 4, 7, 8, 10]);
    }

    #[test]
    fn nothing_that_is_left_open_matters() {
        for text in [
            "sync{",
            "sync{a=",
            "'",
            "\"\\",
            "[[",
            "--[[",
            "for",
            "for x in ipairs(",
            "function",
            "a.",
            "sync",
            "{{{{",
            "0x",
            "1e9",
        ] {
            let _ = events(text);
        }
        let _ = events("sync{ ) ] end }");
        let grown = "a={1}\n".to_owned() + &"a={a,a}\n".repeat(200) + "sync{a}";
        assert!(matches!(events(&grown).last(), Some(Event::Sync(..))));
        let deep = "sync".to_owned() + &"{".repeat(100_000);
        let _ = events(&deep);
    }
}
