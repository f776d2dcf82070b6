//! Shell scripts as a list of commands: words, quotes, variables and nothing else. Nothing is ever run.

use std::iter::Peekable;
use std::str::Chars;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text.
    Plain(String),
    /// The value of a variable; between quotes it stays one word.
    Variable { name: String, quoted: bool },
    /// What only a shell could tell, as written.
    Dynamic(String),
}

/// A word of a command.
pub(super) type Word = Vec<Part>;

/// One simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// Its first line, from 1.
    pub(super) line: usize,
    pub(super) words: Vec<Word>,
}

/// The words of a text without variables.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    let words = commands(text).into_iter().flat_map(|command| command.words);
    words.map(|word| written(&word)).collect()
}

/// A word as it was written, without its quotes.
pub(super) fn written(word: &Word) -> String {
    let parts = word.iter().map(|part| match part {
        Part::Plain(text) | Part::Dynamic(text) => text.clone(),
        Part::Variable { name, .. } => format!("${name}"),
    });
    parts.collect()
}

/// Every simple command, in order: pipes, lists and compound commands are taken apart.
pub(super) fn commands(text: &str) -> Vec<Command> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        commands: Vec::new(),
        words: Vec::new(),
        word: None,
        start: 1,
        here_documents: Vec::new(),
    };
    reader.read();
    reader.commands
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    commands: Vec<Command>,
    words: Vec<Word>,
    /// The word that is being read; an empty one is a word too.
    word: Option<Word>,
    /// Line of the first word.
    start: usize,
    /// Ends of texts that begin on the next line.
    here_documents: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self) {
        while let Some(letter) = self.next() {
            match letter {
                '\n' => {
                    self.end_command();
                    self.skip_here_documents();
                }
                ' ' | '\t' | '\r' => self.end_word(),
                '#' if self.word.is_none() => self.skip_line(),
                '\\' => match self.next() {
                    // A line goes on; editors of other systems leave a CR there.
                    Some('\n') => {}
                    Some('\r') if self.rest.peek() == Some(&'\n') => {
                        self.next();
                    }
                    Some(letter) => self.push(letter),
                    None => {}
                },
                '\'' => self.single_quoted(),
                '"' => self.double_quoted(),
                '$' => self.dollar(false),
                '`' => self.backticks(),
                ';' | '&' | '|' | '(' | ')' => self.end_command(),
                '<' | '>' => self.redirection(letter),
                letter => self.push(letter),
            }
        }
        self.end_command();
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.rest.next()?;
        if letter == '\n' {
            self.line += 1;
        }
        Some(letter)
    }

    fn open(&mut self) -> &mut Word {
        if self.words.is_empty() && self.word.is_none() {
            self.start = self.line;
        }
        self.word.get_or_insert_with(Vec::new)
    }

    fn push(&mut self, letter: char) {
        match self.open().last_mut() {
            Some(Part::Plain(text)) => text.push(letter),
            _ => self.open().push(Part::Plain(letter.to_string())),
        }
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        if !words.is_empty() {
            self.commands.push(Command {
                line: self.start,
                words,
            });
        }
    }

    fn skip_line(&mut self) {
        while self.rest.peek().is_some_and(|letter| *letter != '\n') {
            self.next();
        }
    }

    fn single_quoted(&mut self) {
        self.open();
        while let Some(letter) = self.next() {
            match letter {
                '\'' => return,
                letter => self.push(letter),
            }
        }
    }

    fn double_quoted(&mut self) {
        self.open();
        while let Some(letter) = self.next() {
            match letter {
                '"' => return,
                '$' => self.dollar(true),
                '`' => self.backticks(),
                '\\' => match self.next() {
                    Some('\n') | None => {}
                    Some(letter @ ('"' | '\\' | '$' | '`')) => self.push(letter),
                    Some(letter) => {
                        self.push('\\');
                        self.push(letter);
                    }
                },
                letter => self.push(letter),
            }
        }
    }

    fn dollar(&mut self, quoted: bool) {
        match self.rest.peek().copied() {
            Some('(') => {
                let text = self.balanced('(', ')');
                self.open().push(Part::Dynamic(format!("${text}")));
            }
            Some('{') => {
                let text = self.balanced('{', '}');
                let inner = text.strip_prefix('{');
                let name = inner.and_then(|inner| inner.strip_suffix('}'));
                let name = name.unwrap_or_default();
                let part = match is_name(name) {
                    true => Part::Variable {
                        name: name.to_owned(),
                        quoted,
                    },
                    false => Part::Dynamic(format!("${text}")),
                };
                self.open().push(part);
            }
            Some(letter) if letter.is_ascii_alphanumeric() || "_@*#?!$".contains(letter) => {
                let mut name = String::new();
                if letter.is_ascii_digit() || !is_name(&letter.to_string()) {
                    name.extend(self.next());
                } else {
                    while let Some(letter) = self
                        .rest
                        .next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
                    {
                        name.push(letter);
                    }
                }
                self.open().push(Part::Variable { name, quoted });
            }
            _ => self.push('$'),
        }
    }

    fn backticks(&mut self) {
        let mut text = String::from("`");
        while let Some(letter) = self.next() {
            text.push(letter);
            if letter == '`' {
                break;
            }
        }
        self.open().push(Part::Dynamic(text));
    }

    /// From an opening sign to the one that closes it.
    fn balanced(&mut self, open: char, close: char) -> String {
        let (mut text, mut depth) = (String::new(), 0_usize);
        while let Some(letter) = self.next() {
            text.push(letter);
            if letter == open {
                depth += 1;
            } else if letter == close {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
        }
        text
    }

    /// What goes to or comes from a file is no word of the command.
    fn redirection(&mut self, sign: char) {
        // The number before it, as in 2>&1.
        if let Some([Part::Plain(digits)]) = self.word.as_deref()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            self.word = None;
        }
        self.end_word();
        let mut signs = String::from(sign);
        while let Some(letter) = self.rest.next_if(|letter| "<>&-|".contains(*letter)) {
            signs.push(letter);
        }
        if signs.ends_with('-') && signs.contains('&') {
            return;
        }
        // `< <(command)`: what is in it is a command like others.
        if self.rest.peek() == Some(&'(') || self.rest.peek() == Some(&' ') && sign == '<' {
            let mut ahead = self.rest.clone().skip_while(|letter| *letter == ' ');
            if ahead.next() == Some('<') || self.rest.peek() == Some(&'(') {
                return;
            }
        }
        while self
            .rest
            .next_if(|letter| *letter == ' ' || *letter == '\t')
            .is_some()
        {}
        let mut name = String::new();
        while let Some(letter) = self
            .rest
            .next_if(|letter| !letter.is_whitespace() && !";&|()".contains(*letter))
        {
            if letter != '\'' && letter != '"' && letter != '\\' {
                name.push(letter);
            }
        }
        if signs.starts_with("<<") && !signs.starts_with("<<<") && !name.is_empty() {
            self.here_documents.push(name);
        }
    }

    fn skip_here_documents(&mut self) {
        for end in std::mem::take(&mut self.here_documents) {
            loop {
                let mut line = String::new();
                let mut more = false;
                while let Some(letter) = self.next() {
                    if letter == '\n' {
                        more = true;
                        break;
                    }
                    line.push(letter);
                }
                if line.trim() == end || !more {
                    break;
                }
            }
        }
    }
}

/// Whether it can be the name of a variable.
pub(super) fn is_name(text: &str) -> bool {
    let first = text.chars().next();
    first.is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '_')
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let shown = |command: &Command| {
            let words: Vec<_> = command.words.iter().map(written).collect();
            format!("{}: {}", command.line, words.join("|"))
        };
        commands(text).iter().map(shown).collect()
    }

    #[test]
    fn commands_are_taken_apart() {
        let text = "#!/bin/sh\n# rsync no\nsrc=/data  # remark\n/usr/bin/inotifywait -mrq --format '%w%f' \\\n  -e close_write,delete $src | while read f\ndo rsync -az \"$src/\" u@h::m >> /var/log/x.log 2>&1 &\ndone\n";
        assert_eq!(
            shown(text),
            [
                "3: src=/data",
                "4: /usr/bin/inotifywait|-mrq|--format|%w%f|-e|close_write,delete|$src",
                "5: while|read|f",
                "6: do|rsync|-az|$src/|u@h::m",
                "7: done",
            ]
        );
    }

    #[test]
    fn what_is_quoted_is_one_word() {
        assert_eq!(plain_words(r#"a "b c"d '' \ e"#), ["a", "b cd", "", " e"]);
        let word = &commands("x $(date +%F)/${a}y${b:-c}`pwd`")[0].words[1];
        assert_eq!(
            word[..],
            [
                Part::Dynamic("$(date +%F)".into()),
                Part::Plain("/".into()),
                Part::Variable {
                    name: "a".into(),
                    quoted: false
                },
                Part::Plain("y".into()),
                Part::Dynamic("${b:-c}".into()),
                Part::Dynamic("`pwd`".into()),
            ]
        );
    }

    #[test]
    fn texts_within_a_script_are_no_commands() {
        let text = "cat > /etc/x <<'EOF'\nrsync -a / h::m\nEOF\nrsync -a /d h::m\nwhile read f; do :; done < <(inotifywait /d)\n";
        assert_eq!(
            shown(text),
            [
                "1: cat",
                "4: rsync|-a|/d|h::m",
                "5: while|read|f",
                "5: do|:",
                "5: done",
                "5: inotifywait|/d"
            ]
        );
    }

    #[test]
    fn nothing_that_is_left_open_matters() {
        for text in [
            "'a", "\"a", "$(", "${", "${é", "${}", "`x", "\\", "a <<", "$", "((", "<<E\nx",
        ] {
            let _ = commands(text);
        }
    }
}
