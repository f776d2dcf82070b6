//! Rust source as far as these checks need it: what is code, and what of it is not for tests only.

/// The same text with comments and the insides of literals blanked; lines stay where they are.
pub(crate) fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut blanked = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment(&chars, at);
        if end > at {
            blanked.extend(
                chars[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { c } else { ' ' }),
            );
            at = end;
        } else {
            blanked.push(chars[at]);
            at += 1;
        }
    }
    blanked
}

/// `code` with everything blanked that stands under `#[cfg(test)]`.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut text = code.to_owned();
    while let Some(start) = text.find(MARK) {
        let end = start + MARK.len() + item_length(&text[start + MARK.len()..]);
        let blank: String = text[start..end]
            .chars()
            .map(|c| if c == '\n' { c } else { ' ' })
            .collect();
        text.replace_range(start..end, &blank);
    }
    text
}

/// Every place in `code` where `path` stands by itself, as a line number.
pub(crate) fn lines_with(code: &str, path: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |start: usize| {
        let (before, after) = (&code[..start], &code[start + path.len()..]);
        let open = path.ends_with(part) && after.starts_with(part);
        !before.ends_with(part) && !open
    };
    code.match_indices(path)
        .filter(|(start, _)| alone(*start))
        .map(|(start, _)| line_of(code, start))
        .collect()
}

/// The number of the line that holds this byte.
pub(crate) fn line_of(text: &str, byte: usize) -> usize {
    text[..byte].matches('\n').count() + 1
}

/// Where the comment or literal that starts here ends; `at` itself if none does.
fn literal_or_comment(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied();
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', Some('/')) => find(chars, at, |rest| rest[0] == '\n'),
        ('/', Some('*')) => block_comment(chars, at),
        ('"', _) => quoted(chars, at + 1, '"'),
        ('\'', Some('\\')) => quoted(chars, at + 1, '\''),
        ('\'', Some(_)) if next(2) == Some('\'') => at + 3,
        ('r', Some('"' | '#')) if !inside_word => raw_string(chars, at, at + 1),
        ('b' | 'c', Some('r')) if !inside_word => raw_string(chars, at, at + 2),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len())
        .find(|&at| stop(&chars[at..]))
        .unwrap_or(chars.len())
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// A raw string, if hashes and a quote follow at `from`; else (a raw identifier) nothing.
fn raw_string(chars: &[char], start: usize, from: usize) -> usize {
    let hashes = chars[from..].iter().take_while(|&&c| c == '#').count();
    if chars.get(from + hashes) != Some(&'"') {
        return start;
    }
    let ends = |rest: &[char]| {
        rest[0] == '"' && rest[1..].iter().take_while(|&&c| c == '#').count() >= hashes
    };
    (find(chars, from + hashes + 1, ends) + 1 + hashes).min(chars.len())
}

/// The length of the item at the start of `text`: up to its `;`, or the brace that closes its first one.
fn item_length(text: &str) -> usize {
    let (mut braces, mut others) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => {}
        }
        if others == 0 && braces == 0 && matches!(c, ';' | '}') {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let blank = |text: &str| code(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(blank("a // b\nc /* d /* e */ f */ g"), "a c g");
        assert_eq!(
            blank(r##"a("b \" c", 'd', '\'', 'e, r#"f " g"#, br"h", r#type) i"##),
            "a( , , , 'e, , , r#type) i"
        );
        assert_eq!(
            blank("for x in 'a'..='b' { \"unterminated"),
            "for x in ..= {"
        );
        assert_eq!(code("a\n/* b\nc */ d").lines().count(), 3);
    }

    #[test]
    fn tests_are_taken_out_and_nothing_else() {
        let source = "use a;\n#[cfg(test)]\n#[rustfmt::skip]\nmod tests { fn x() { [0; 3]; } }\nuse b;\n#[cfg(test)]\nuse c;\nuse d;";
        let rest: Vec<_> = without_tests(source)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(rest, ["use", "a;", "use", "b;", "use", "d;"]);
        assert_eq!(
            without_tests(source).lines().count(),
            source.lines().count()
        );
    }

    #[test]
    fn a_path_is_found_as_a_whole_only() {
        let text = "use std::fs;\nuse std::fstat;\nmy_std::fs\nstd::fs::read\ntokio_rustls tokio";
        assert_eq!(lines_with(text, "std::fs"), [1, 4]);
        assert_eq!(lines_with(text, "tokio"), [5]);
        assert_eq!(lines_with("x todo!(", "todo!("), [1]);
    }
}
