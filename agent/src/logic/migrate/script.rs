//! Shell scripts that wait for changes and call rsync, as guides have them.

mod sources;

use std::collections::HashMap;
use std::sync::Arc;

use super::draft::{At, Draft, Remark, Verdict};
use super::flags::{self, Flag};
use super::shell::{self, Command, Part, Word};
use Verdict::{Danger, Differs, Nothing};

/// More values than any list of hosts has.
const VALUES_MAX: usize = 64;

/// Words that stand before a command.
const BEFORE: [&str; 16] = [
    "while", "until", "if", "elif", "then", "do", "else", "!", "{", "}", "time", "sudo", "nohup",
    "exec", "command", "setsid",
];

/// Commands that move nothing: what they do has no meaning here.
const HARMLESS: [&str; 40] = [
    "echo", "printf", "date", "sleep", "true", "false", ":", "[", "[[", "test", "]", "]]", "set",
    "read", "continue", "break", "exit", "return", "trap", "touch", "wait", "fi", "done", "esac",
    "then", "do", "else", "logger", "mkdir", "cat", "ls", "shift", "source", ".", "case", "in",
    "unset", "ulimit", "umask", "pwd",
];

/// Reads one script.
#[must_use]
pub fn read(file: &str, text: &str) -> Draft {
    let mut reader = Reader {
        file: file.into(),
        values: HashMap::new(),
        dir: None,
        watched: Vec::new(),
        calls: Vec::new(),
        remarks: Vec::new(),
    };
    for command in shell::commands(text) {
        reader.command(&command);
    }
    reader.draft()
}

/// One rsync.
struct Call {
    at: At,
    flags: Vec<Flag>,
    operands: Vec<(At, String)>,
    /// The directory it is called in.
    dir: Option<String>,
}

struct Reader {
    file: Arc<str>,
    /// What variables stand for; several values in a loop.
    values: HashMap<String, Vec<String>>,
    dir: Option<String>,
    watched: Vec<(At, String)>,
    calls: Vec<Call>,
    remarks: Vec<Remark>,
}

impl Reader {
    fn command(&mut self, command: &Command) {
        let at = At {
            file: self.file.clone(),
            line: command.line,
        };
        let mut words = &command.words[..];
        if shell::written(&words[0]) == "for" {
            return self.loop_over(&at, words);
        }
        let before = |word: &Word| BEFORE.contains(&&shell::written(word)[..]);
        while words.first().is_some_and(before) {
            words = &words[1..];
        }
        let declares = |word: &Word| {
            ["export", "local", "readonly", "declare"].contains(&&shell::written(word)[..])
        };
        if words.first().is_some_and(declares) {
            words = &words[1..];
        }
        let assigned = words.iter().take_while(|word| assignment(word).is_some());
        let assigned = assigned.count();
        for word in &words[..assigned] {
            if let Some((name, value)) = assignment(word) {
                self.assign(&at, &name, &value);
            }
        }
        let words = &words[assigned..];
        if words.is_empty() {
            return;
        }
        let expanded = self.expand(words);
        let mut name = expanded
            .first()
            .map_or("", |name| base_name(name))
            .to_owned();
        let mut at_word = 0;
        if !HARMLESS.contains(&&name[..]) {
            // timeout, flock, nice and others run what stands behind their own words.
            let run = |word: &String| ["rsync", "inotifywait"].contains(&base_name(word));
            at_word = expanded.iter().position(run).unwrap_or(0);
            name = expanded
                .get(at_word)
                .map_or("", |name| base_name(name))
                .to_owned();
        }
        let arguments = expanded.get(at_word + 1..).unwrap_or_default();
        match &name[..] {
            "rsync" => self.rsync(&at, arguments),
            "inotifywait" => self.inotifywait(&at, arguments),
            "cd" | "pushd" => self.dir = expanded.get(1).cloned(),
            name if HARMLESS.contains(&name) || name.ends_with("()") => {
                // What is read from events is known to nobody.
                if name == "read" {
                    for word in &expanded[1..] {
                        self.values.remove(word);
                    }
                }
            }
            _ => {
                // `... -a "$x" && rsync ...` and the like are commands of their own.
                let setting: Vec<_> = words.iter().map(shell::written).collect();
                let text = "not read: if it does more than call rsync, that is not done here";
                let remark = Remark::new(&at, Differs, setting.join(" "), text);
                self.remarks.push(remark);
            }
        }
    }

    /// `for NAME in WORDS`.
    fn loop_over(&mut self, at: &At, words: &[Word]) {
        let Some(name) = words.get(1).map(shell::written) else {
            return;
        };
        let list = words.get(3..).unwrap_or_default();
        let values: Vec<String> = self.expand(list).into_iter().take(VALUES_MAX).collect();
        if values.is_empty() || values.iter().any(|value| is_open(value)) {
            let text = "what it goes over is known to nobody before it runs; write a [[source.target]] for each";
            let remark = Remark::new(at, Danger, format!("for {name} in ..."), text);
            self.remarks.push(remark);
            self.values.remove(&name);
        } else {
            self.values.insert(name, values);
        }
    }

    fn assign(&mut self, at: &At, name: &str, value: &Word) {
        // An array is a list of words.
        let values = self.expand(std::slice::from_ref(value));
        let value = values.join(" ");
        if is_open(&value) && value.contains(['`', '(']) {
            let remark = Remark::new(at, Nothing, format!("{name}={value}"), "not followed");
            self.remarks.push(remark);
        }
        self.values.insert(name.to_owned(), vec![value]);
    }

    /// Words with the variables put in, as far as they are known. A variable of a loop gives a word for each value.
    fn expand(&self, words: &[Word]) -> Vec<String> {
        words
            .iter()
            .flat_map(|word| self.expand_word(word))
            .collect()
    }

    fn expand_word(&self, word: &Word) -> Vec<String> {
        let mut found = vec![vec![String::new()]];
        for part in word {
            let (values, splits) = match part {
                Part::Plain(text) | Part::Dynamic(text) => (vec![text.clone()], false),
                Part::Variable { name, quoted } => match self.values.get(name) {
                    Some(values) => (values.clone(), !quoted),
                    None => (vec![format!("${name}")], false),
                },
            };
            let mut next = Vec::new();
            for so_far in &found {
                for value in values.iter().take(VALUES_MAX) {
                    let mut words = so_far.clone();
                    append(&mut words, value, splits);
                    next.push(words);
                }
            }
            next.truncate(VALUES_MAX);
            found = next;
        }
        let words = found.into_iter().flatten();
        // An unquoted variable that is empty is no word at all.
        let bare = matches!(word[..], [Part::Variable { quoted: false, .. }]);
        words.filter(|word| !bare || !word.is_empty()).collect()
    }

    fn rsync(&mut self, at: &At, words: &[String]) {
        if words.iter().any(|word| word == "--daemon") {
            let text = "the daemon's own file is read by `syncd-recv check`";
            self.remarks
                .push(Remark::new(at, Nothing, "rsync --daemon", text));
            return;
        }
        let words: Vec<_> = words
            .iter()
            .map(|word| (at.clone(), word.clone()))
            .collect();
        let (flags, operands) = flags::split(&words);
        // [[ and test leave their end behind.
        let operands: Vec<_> = operands
            .into_iter()
            .filter(|(_, word)| word != "]" && word != "}")
            .collect();
        if operands.len() < 2 {
            let text = "it has no source and destination that can be read";
            self.remarks.push(Remark::new(at, Danger, "rsync", text));
            return;
        }
        self.calls.push(Call {
            at: at.clone(),
            flags,
            operands,
            dir: self.dir.clone(),
        });
    }

    fn inotifywait(&mut self, at: &At, words: &[String]) {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = |words: &mut std::slice::Iter<'_, String>| words.next().cloned();
            match &word[..] {
                "-e" | "--event" => {
                    let events = value(&mut words).unwrap_or_default();
                    self.events(at, &events);
                }
                word if word.starts_with("--event=") => self.events(at, &word[8..]),
                "--exclude" | "--excludei" | "--include" | "--includei" => {
                    let pattern = value(&mut words).unwrap_or_default();
                    let text = "a regular expression over events only: rsync mirrored these with the next event all the same; add a rule to `filter` if they are to stay out";
                    let remark =
                        Remark::new(at, Danger, format!("inotifywait {word} {pattern}"), text);
                    self.remarks.push(remark);
                }
                "--format" | "--timefmt" | "-t" | "--timeout" | "-o" | "--outfile" => {
                    value(&mut words);
                }
                "--fromfile" => {
                    let file = value(&mut words).unwrap_or_default();
                    let text = "what it lists is not read; write a [[source]] for each directory";
                    let remark =
                        Remark::new(at, Danger, format!("inotifywait --fromfile {file}"), text);
                    self.remarks.push(remark);
                }
                word if word.starts_with('@') => {
                    let text = "not watched by the script, but sent by rsync with the next event; add a rule to `filter` if it is to stay out";
                    let remark = Remark::new(at, Danger, format!("inotifywait {word}"), text);
                    self.remarks.push(remark);
                }
                word if word.starts_with('-') => {}
                word => self.watched.push((at.clone(), word.to_owned())),
            }
        }
    }

    fn events(&mut self, at: &At, events: &str) {
        let text = "every change is noticed: contents, names, modes, owners, times and removals";
        let remark = Remark::new(at, Differs, format!("inotifywait -e {events}"), text);
        self.remarks.push(remark);
    }
}

/// `NAME=VALUE`.
fn assignment(word: &Word) -> Option<(String, Word)> {
    let Some(Part::Plain(text)) = word.first() else {
        return None;
    };
    let (name, value) = text.split_once('=')?;
    if !shell::is_name(name) {
        return None;
    }
    let mut parts = word.clone();
    match value {
        "" => drop(parts.remove(0)),
        value => parts[0] = Part::Plain(value.to_owned()),
    }
    Some((name.to_owned(), parts))
}

/// Adds a value to the last of the words; an unquoted one makes several.
fn append(words: &mut Vec<String>, value: &str, splits: bool) {
    let parts: Vec<&str> = match splits {
        true => value.split_whitespace().collect(),
        false => vec![value],
    };
    for (number, part) in parts.iter().enumerate() {
        match words.last_mut() {
            Some(last) if number == 0 => last.push_str(part),
            _ => words.push((*part).to_owned()),
        }
    }
}

/// Whether something in it is known only as the script runs.
fn is_open(text: &str) -> bool {
    text.contains(['$', '`'])
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
