//! Bytes of one file to sections, parameters and directives, each with its position.
//!
//! Comments are whole lines only. A line whose last visible byte is `\` continues on the next; the
//! backslash and what blanks follow it vanish. NUL ends a value, and the file where a line begins.

use std::sync::Arc;

use super::diagnostic::Position;

/// One thing a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Where it starts.
    pub position: Position,
    /// What it is.
    pub kind: ItemKind,
}

/// What an [`Item`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ItemKind {
    /// `[name]`, trimmed, runs of blanks made one.
    Section(Vec<u8>),
    /// `name = value`.
    Parameter {
        /// Name as written, runs of blanks made one.
        name: Vec<u8>,
        /// Value, trimmed.
        value: Vec<u8>,
        /// Where the value starts.
        value_position: Position,
    },
    /// `&word argument`.
    Directive {
        /// The word, lower case.
        word: Vec<u8>,
        /// What follows, trimmed, without a leading `=`.
        argument: Vec<u8>,
    },
    /// A line without `=`: skipped.
    Malformed(Vec<u8>),
    /// A line for which the file is refused.
    Unusable(&'static str),
}

/// Reads a whole file.
pub(super) fn lex(file: &Arc<[u8]>, text: &[u8]) -> Vec<Item> {
    let mut lexer = Lexer {
        file: Arc::clone(file),
        text,
        at: 0,
        line: 1,
        line_start: 0,
    };
    let mut items = Vec::new();
    while let Some(item) = lexer.item() {
        let stop = matches!(item.kind, ItemKind::Unusable(_));
        items.push(item);
        if stop {
            break;
        }
    }
    items
}

struct Lexer<'a> {
    file: Arc<[u8]>,
    text: &'a [u8],
    at: usize,
    line: usize,
    line_start: usize,
}

/// White space other than the end of a line.
pub(super) const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

impl Lexer<'_> {
    fn item(&mut self) -> Option<Item> {
        loop {
            self.skip_blanks();
            let position = self.position();
            let kind = match self.peek()? {
                0 => return None,
                b'\n' | b'\\' => {
                    self.bump();
                    continue;
                }
                b'#' | b';' => {
                    if self.skip_line() == Some(0) {
                        return None;
                    }
                    continue;
                }
                b'[' => self.section(),
                b'&' => self.directive(),
                _ => self.parameter(),
            };
            return Some(Item { position, kind });
        }
    }

    fn section(&mut self) -> ItemKind {
        self.bump();
        let (name, end) = self.logical(|byte| byte == b']', false);
        match end {
            End::Stop => {
                self.skip_line();
                let name = squeezed(&name);
                if name.is_empty() {
                    ItemKind::Unusable("a section without a name")
                } else if name.contains(&b'/') {
                    ItemKind::Unusable("a section name with a slash")
                } else {
                    ItemKind::Section(name)
                }
            }
            End::Line | End::File => ItemKind::Unusable("a section header without its ]"),
        }
    }

    fn directive(&mut self) -> ItemKind {
        self.bump();
        let (line, _) = self.logical(|_| false, true);
        let word_end = line
            .iter()
            .position(|&byte| is_blank(byte) || byte == b'=')
            .unwrap_or(line.len());
        let (word, rest) = line.split_at(word_end);
        let rest = trimmed(rest);
        ItemKind::Directive {
            word: word.to_ascii_lowercase(),
            argument: trimmed(rest.strip_prefix(b"=").unwrap_or(rest)).to_vec(),
        }
    }

    fn parameter(&mut self) -> ItemKind {
        let (name, end) = self.logical(|byte| byte == b'=', false);
        let name = squeezed(&name);
        match end {
            End::Stop if name.is_empty() => ItemKind::Unusable("a line that begins with ="),
            End::Stop => {
                self.skip_blanks();
                let value_position = self.position();
                let (value, _) = self.logical(|_| false, true);
                ItemKind::Parameter {
                    name,
                    value: trimmed_end(&value).to_vec(),
                    value_position,
                }
            }
            End::Line | End::File => ItemKind::Malformed(name),
        }
    }

    /// Reads on over continued lines until `stop`, the end of the line, a NUL or the end of the file.
    fn logical(&mut self, stop: fn(u8) -> bool, drop_cr: bool) -> (Vec<u8>, End) {
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            if byte == 0 && !drop_cr {
                // Within a name it ends the file.
                self.at = self.text.len();
                return (text, End::File);
            }
            self.bump();
            match byte {
                0 => return (text, End::Line),
                b'\n' => {
                    let visible = trimmed_end(&text).len();
                    if visible == 0 || text[visible - 1] != b'\\' {
                        return (text, End::Line);
                    }
                    text.truncate(visible - 1);
                }
                b'\r' if drop_cr => {}
                byte if stop(byte) => return (text, End::Stop),
                byte => text.push(byte),
            }
        }
        (text, End::File)
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.bump();
        }
    }

    /// Skips to the next line; says which byte ended this one.
    fn skip_line(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            self.bump();
            if matches!(byte, b'\n' | 0) {
                return Some(byte);
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn bump(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line += 1;
            self.line_start = self.at + 1;
        }
        self.at += 1;
    }

    fn position(&self) -> Position {
        Position {
            file: Arc::clone(&self.file),
            line: self.line,
            column: self.at - self.line_start + 1,
        }
    }
}

enum End {
    Stop,
    Line,
    File,
}

/// Without blanks around.
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let start = text.iter().take_while(|&&byte| is_blank(byte)).count();
    trimmed_end(&text[start..])
}

fn trimmed_end(text: &[u8]) -> &[u8] {
    let blanks = text
        .iter()
        .rev()
        .take_while(|&&byte| is_blank(byte))
        .count();
    &text[..text.len() - blanks]
}

/// Trimmed, each run of blanks made one space.
pub(super) fn squeezed(text: &[u8]) -> Vec<u8> {
    text.split(|&byte| is_blank(byte))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(&b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &[u8]) -> Vec<ItemKind> {
        lex(&Arc::from(&b"t"[..]), text)
            .into_iter()
            .map(|item| item.kind)
            .collect()
    }

    fn values(text: &str) -> Vec<(String, String)> {
        kinds(text.as_bytes())
            .into_iter()
            .filter_map(|kind| match kind {
                ItemKind::Parameter { name, value, .. } => Some((
                    String::from_utf8_lossy(&name).into_owned(),
                    String::from_utf8_lossy(&value).into_owned(),
                )),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn positions_count_lines_and_bytes() {
        let items = lex(
            &Arc::from(&b"r.conf"[..]),
            b"# x\n[m]\n  path = \\\n  /srv\nlist=no\n",
        );
        let at: Vec<String> = items.iter().map(|i| i.position.to_string()).collect();
        assert_eq!(at, ["r.conf:2:1", "r.conf:3:3", "r.conf:5:1"]);
        let ItemKind::Parameter { value_position, .. } = &items[2].kind else {
            panic!("a parameter");
        };
        assert_eq!(value_position.to_string(), "r.conf:5:6");
    }

    #[test]
    fn a_hash_after_a_value_is_text() {
        assert_eq!(
            values("a = b # c ; d\n#e=f\n ;g=h\n"),
            [("a".into(), "b # c ; d".into())]
        );
    }

    #[test]
    fn continued_lines_join() {
        assert_eq!(values("a = b \\ \n  c\n")[0].1, "b   c");
        assert_eq!(values("a = b\\\\\nc\n")[0].1, "b\\c");
        assert_eq!(values("a = b\\")[0].1, "b\\");
        assert_eq!(values("rea\\\nd = b\r\n"), [("read".into(), "b".into())]);
        assert_eq!(values("# a \\\nb = c\n"), [("b".into(), "c".into())]);
    }

    #[test]
    fn a_section_line_ends_at_its_bracket() {
        assert_eq!(
            kinds(b"[ my \t mod ] list = no\n"),
            [ItemKind::Section(b"my mod".to_vec())]
        );
        for unusable in [&b"[]\n"[..], b"[a/b]", b"[m\nx = y\n", b"= x\n", b"[m"] {
            assert!(matches!(kinds(unusable)[..], [ItemKind::Unusable(_)]));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(text: Vec<u8>) {
            let _ = kinds(&text);
        }

        #[test]
        fn likely_bytes_end_well(text in r"([\[\]=#;&\\ \r\n\x00a-c]|include ){0,60}") {
            for kind in kinds(text.as_bytes()) {
                if let ItemKind::Parameter { value, .. } = kind {
                    prop_assert!(!value.contains(&b'\n') && !value.contains(&0));
                }
            }
        }
    }
}
