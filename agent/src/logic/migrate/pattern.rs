//! The regular expressions that sersync excludes with, as rsync's patterns.

/// The pattern that excludes what was meant, if the expression is one of the plain kinds that guides use: letters,
/// `.*` for anything, `\.` for a dot, `/*` at the end for all below a directory.
///
/// sersync wants the whole path to match, so what does not begin with `.*` is found at the root only, with `^` or
/// without. What stands for one of several letters, repeats or alternates has no counterpart and gives `None`.
pub(super) fn of_regex(expression: &str) -> Option<String> {
    let rest = expression.strip_prefix('^').unwrap_or(expression);
    let rest = rest.strip_suffix('$').unwrap_or(rest);
    // The examples that come with it write a shell's pattern there: zero or more slashes would be no sense.
    let (rest, whole_dir) = ["/(.*)", "/.*", "/*", "/"]
        .iter()
        .find_map(|end| rest.strip_suffix(end))
        .map_or((rest, false), |rest| (rest, true));
    let mut pattern = literal(rest)?;
    let anywhere = pattern.starts_with('*');
    if let Some(below) = pattern.strip_prefix("*/") {
        pattern = below.to_owned();
    }
    let name = pattern.trim_matches('/');
    if name.is_empty() || name == "*" {
        return None;
    }
    let name = match name.contains('/') {
        true => name.replace('*', "**"),
        false => name.to_owned(),
    };
    let begin = if anywhere { "" } else { "/" };
    let end = if whole_dir { "/***" } else { "" };
    Some(format!("{begin}{name}{end}"))
}

/// Text with `*` where anything may stand.
fn literal(expression: &str) -> Option<String> {
    let mut pattern = String::new();
    let mut rest = expression;
    while let Some(letter) = rest.chars().next() {
        if let Some(after) = ["(.*)", ".*"].iter().find_map(|any| rest.strip_prefix(any)) {
            if !pattern.ends_with('*') {
                pattern.push('*');
            }
            rest = after;
            continue;
        }
        rest = &rest[letter.len_utf8()..];
        match letter {
            '\\' => {
                let escaped = rest.chars().next()?;
                if escaped.is_alphanumeric() {
                    return None;
                }
                rest = &rest[escaped.len_utf8()..];
                push(&mut pattern, escaped);
            }
            // A dot alone is any letter; before an ending everybody means the dot itself.
            '.' => pattern.push('.'),
            '*' | '+' | '?' | '[' | ']' | '(' | ')' | '{' | '}' | '|' | '^' | '$' => return None,
            letter => push(&mut pattern, letter),
        }
    }
    Some(pattern)
}

fn push(pattern: &mut String, letter: char) {
    if "*?[\\".contains(letter) {
        pattern.push('\\');
    }
    pattern.push(letter);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_expressions_have_a_pattern() {
        for (expression, pattern) in [
            (r"(.*)\.svn", "*.svn"),
            (r".*\.gz$", "*.gz"),
            (r"^(.*)\.log$", "*.log"),
            ("^info/*", "/info/***"),
            ("^static/(.*)", "/static/***"),
            ("^test/test.txt", "/test/test.txt"),
            ("cache/", "/cache/***"),
            (r"(.*)/\.git/(.*)", ".git/***"),
            ("a/(.*)/b", "/a/**/b"),
            (r"\*x", r"/\*x"),
        ] {
            assert_eq!(
                of_regex(expression).as_deref(),
                Some(pattern),
                "{expression}"
            );
        }
    }

    #[test]
    fn what_has_no_pattern_is_not_guessed() {
        for expression in [
            r"(.*)\.(jpg|png)",
            r"[0-9]+\.tmp",
            "(.*)",
            "",
            "^",
            "a?",
            r"\d",
            "x{2}",
            r"a\",
        ] {
            assert_eq!(of_regex(expression), None, "{expression}");
        }
    }
}
