//! The words and signs of Lua, with their lines.

/// A word or sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
    /// A sign that is none of Lua's.
    Odd(char),
}

impl Token {
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Text(text) => format!("\"{text}\""),
            Self::Number(number) => number.to_string(),
            Self::Sign(sign) => (*sign).to_owned(),
            Self::Odd(letter) => letter.to_string(),
        }
    }
}

const SIGNS: [&str; 26] = [
    "...", "..", "==", "~=", "<=", ">=", "::", "{", "}", "(", ")", "[", "]", "=", ",", ";", ".",
    ":", "+", "-", "*", "/", "%", "#", "<", ">",
];

pub(super) fn tokens(text: &str) -> Vec<(Token, usize)> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = text;
    // A first line for the shell.
    if rest.starts_with("#!") {
        rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
    }
    while let Some(letter) = rest.chars().next() {
        let begin = line;
        let used = if letter == '\n' {
            line += 1;
            1
        } else if letter.is_whitespace() {
            letter.len_utf8()
        } else if let Some(comment) = rest.strip_prefix("--") {
            let used = long_text(comment).map_or_else(
                || comment.find('\n').unwrap_or(comment.len()),
                |(_, used)| used,
            );
            line += lines(&comment[..used]);
            2 + used
        } else if let Some((long, used)) = long_text(rest) {
            found.push((Token::Text(long.to_owned()), begin));
            line += lines(&rest[..used]);
            used
        } else if letter == '"' || letter == '\'' {
            let (text, used) = short_text(rest);
            found.push((Token::Text(text), begin));
            line += lines(&rest[..used]);
            used
        } else if letter.is_ascii_digit() {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
            let digits = &rest[..end.unwrap_or(rest.len())];
            found.push((number(digits), begin));
            digits.len()
        } else if letter.is_ascii_alphabetic() || letter == '_' {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            found.push((Token::Name(name.to_owned()), begin));
            name.len()
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push((Token::Sign(sign), begin));
            sign.len()
        } else {
            found.push((Token::Odd(letter), begin));
            letter.len_utf8()
        };
        rest = &rest[used..];
    }
    found
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn number(digits: &str) -> Token {
    let value = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok().map(f64::from),
        None => digits.parse().ok(),
    };
    value.map_or_else(|| Token::Name(digits.to_owned()), Token::Number)
}

/// `[[ ... ]]` or `[==[ ... ]==]`: its text, and how much of the file it is.
fn long_text(rest: &str) -> Option<(&str, usize)> {
    let after = rest.strip_prefix('[')?;
    let level = after.len() - after.trim_start_matches('=').len();
    let body = after[level..].strip_prefix('[')?;
    let close = format!("]{}]", "=".repeat(level));
    let end = body.find(&close);
    let text = &body[..end.unwrap_or(body.len())];
    let used = rest.len() - body.len() + text.len() + end.map_or(0, |_| close.len());
    // A line that ends right behind the bracket is not part of it.
    Some((text.strip_prefix('\n').unwrap_or(text), used))
}

/// A quoted text, and how much of the file it is.
fn short_text(rest: &str) -> (String, usize) {
    let mut letters = rest.char_indices();
    let quote = letters.next().map_or('"', |(_, quote)| quote);
    let mut text = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, letter)) => text.push(letter),
                None => break,
            },
            '\n' => return (text, at),
            letter if letter == quote => return (text, at + letter.len_utf8()),
            letter => text.push(letter),
        }
    }
    (text, rest.len())
}
