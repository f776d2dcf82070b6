//! rsync's wildcards, as `auth users`, `hosts allow` and the filter rules use them.
//!
//! `?` is any byte but `/`, `*` any run of bytes without `/`, `**` any run at all; `[abc]`, `[a-f]`,
//! `[!a]`, `[^a]` and `[[:digit:]]` are sets, never matching `/`; `\x` is `x` itself. A pattern that
//! cannot be read (an open set, an unknown class, a lone final backslash) matches nothing.
//!
//! A pattern is compiled to steps and run as a set of positions, so the time is at most the length of
//! the pattern times the length of the text, whatever is written.

/// Whether upper and lower case differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// They do.
    Sensitive,
    /// They do not (ASCII letters).
    Ignored,
}

/// Whether `pattern` matches the whole of `text`.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8], case: Case) -> bool {
    Pattern::new(pattern).is_some_and(|pattern| pattern.matches(text, case))
}

/// A pattern, read once and matched often.
#[derive(Debug, Clone)]
pub struct Pattern(Vec<Step>);

impl Pattern {
    /// Reads it; `None` if it cannot be read, and then it matches nothing.
    #[must_use]
    pub fn new(pattern: &[u8]) -> Option<Self> {
        compile(pattern).map(Self)
    }

    /// Whether it matches the whole of `text`.
    #[must_use]
    pub fn matches(&self, text: &[u8], case: Case) -> bool {
        run(&self.0, text, case)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Byte(u8),
    AnyButSlash,
    Set(Set),
    Star { crosses_slash: bool },
}

#[derive(Debug, Clone)]
struct Set {
    negated: bool,
    members: Vec<Member>,
}

#[derive(Debug, Clone)]
enum Member {
    Range(u8, u8),
    Class(fn(u8) -> bool),
}

fn compile(pattern: &[u8]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = pattern;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        steps.push(match byte {
            b'?' => Step::AnyButSlash,
            b'*' => {
                let more = rest.iter().take_while(|&&next| next == b'*').count();
                rest = &rest[more..];
                Step::Star {
                    crosses_slash: more > 0,
                }
            }
            b'\\' => {
                let (&quoted, after) = rest.split_first()?;
                rest = after;
                Step::Byte(quoted)
            }
            b'[' => {
                let (set, after) = compile_set(rest)?;
                rest = after;
                Step::Set(set)
            }
            other => Step::Byte(other),
        });
    }
    Some(steps)
}

/// Reads a set after its `[`; a `]` in first place is a member.
fn compile_set(mut rest: &[u8]) -> Option<(Set, &[u8])> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    if negated {
        rest = &rest[1..];
    }
    let mut members = Vec::new();
    let mut range_start = None;
    let mut first = true;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b']' if !first => return Some((Set { negated, members }, rest)),
            b'-' if range_start.is_some() && !matches!(rest.first(), None | Some(b']')) => {
                let (end, after) = member_byte(rest)?;
                rest = after;
                members.extend(range_start.take().map(|start| Member::Range(start, end)));
            }
            b'[' if rest.first() == Some(&b':') => {
                if let Some((class, after)) = named_class(&rest[1..])? {
                    rest = after;
                    range_start = None;
                    members.push(Member::Class(class));
                } else {
                    range_start = Some(b'[');
                    members.push(Member::Range(b'[', b'['));
                }
            }
            _ => {
                let member = if byte == b'\\' {
                    let (&quoted, after) = rest.split_first()?;
                    rest = after;
                    quoted
                } else {
                    byte
                };
                range_start = Some(member);
                members.push(Member::Range(member, member));
            }
        }
        first = false;
    }
}

fn member_byte(rest: &[u8]) -> Option<(u8, &[u8])> {
    match rest.split_first()? {
        (b'\\', after) => after.split_first().map(|(&byte, after)| (byte, after)),
        (&byte, after) => Some((byte, after)),
    }
}

/// A class after its `[:`. `Some(None)` means this is no class after all, `None` that it is unreadable.
#[expect(
    clippy::type_complexity,
    reason = "a class and the rest, in one place only"
)]
fn named_class(rest: &[u8]) -> Option<Option<(fn(u8) -> bool, &[u8])>> {
    let close = rest.iter().position(|&byte| byte == b']')?;
    let Some((b':', name)) = rest[..close].split_last() else {
        return Some(None);
    };
    let class: fn(u8) -> bool = match name {
        b"alnum" => |byte| byte.is_ascii_alphanumeric(),
        b"alpha" => |byte| byte.is_ascii_alphabetic(),
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => |byte| byte.is_ascii_control(),
        b"digit" => |byte| byte.is_ascii_digit(),
        b"graph" => |byte| byte.is_ascii_graphic(),
        b"lower" => |byte| byte.is_ascii_lowercase(),
        b"print" => |byte| byte.is_ascii_graphic() || byte == b' ',
        b"punct" => |byte| byte.is_ascii_punctuation(),
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => |byte| byte.is_ascii_uppercase(),
        b"xdigit" => |byte| byte.is_ascii_hexdigit(),
        _ => return None,
    };
    Some(Some((class, &rest[close + 1..])))
}

impl Step {
    fn takes(&self, byte: u8, case: Case) -> bool {
        match self {
            Self::Byte(wanted) => match case {
                Case::Sensitive => *wanted == byte,
                Case::Ignored => wanted.eq_ignore_ascii_case(&byte),
            },
            Self::AnyButSlash => byte != b'/',
            Self::Set(set) => byte != b'/' && set.holds(byte, case) != set.negated,
            Self::Star { crosses_slash } => *crosses_slash || byte != b'/',
        }
    }
}

impl Set {
    fn holds(&self, byte: u8, case: Case) -> bool {
        let exactly = |byte: u8| {
            self.members.iter().any(|member| match member {
                Member::Range(start, end) => (*start..=*end).contains(&byte),
                Member::Class(class) => class(byte),
            })
        };
        match case {
            Case::Sensitive => exactly(byte),
            Case::Ignored => {
                exactly(byte.to_ascii_lowercase()) || exactly(byte.to_ascii_uppercase())
            }
        }
    }
}

/// Follows all positions at once. A star stays where it is while it takes bytes.
fn run(steps: &[Step], text: &[u8], case: Case) -> bool {
    let mut here = vec![false; steps.len() + 1];
    let mut next = here.clone();
    here[0] = true;
    skip_stars(steps, &mut here);
    for &byte in text {
        next.fill(false);
        for (at, step) in steps.iter().enumerate() {
            if here[at] && step.takes(byte, case) {
                next[at + usize::from(!matches!(step, Step::Star { .. }))] = true;
            }
        }
        skip_stars(steps, &mut next);
        std::mem::swap(&mut here, &mut next);
    }
    here[steps.len()]
}

fn skip_stars(steps: &[Step], positions: &mut [bool]) {
    for (at, step) in steps.iter().enumerate() {
        if positions[at] && matches!(step, Step::Star { .. }) {
            positions[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes(), Case::Sensitive)
    }

    #[test]
    fn matches_what_it_says() {
        for (pattern, text) in [
            ("", ""),
            ("foo", "foo"),
            ("*", ""),
            ("*", "foo"),
            ("f*", "foo"),
            ("*f*", "foo"),
            ("*o*b*r*", "foobar"),
            ("???", "foo"),
            (r"\*", "*"),
            (r"foo\*", "foo*"),
            ("*[al]?", "ball"),
            ("[ten]", "e"),
            ("t[a-g]n", "ten"),
            ("t[!a-g]n", "ton"),
            ("t[^a-g]n", "ton"),
            ("a[]]b", "a]b"),
            ("a[]-]b", "a-b"),
            ("a[]a-]b", "aab"),
            ("[[:alpha:]][[:digit:]][[:upper:]]", "a1B"),
            ("[[:xdigit:]]", "D"),
            ("[a-c[:digit:]x-z]", "y"),
            ("[--A]", "-"),
            ("[,-.]", "-"),
            (r"[\\-^]", "]"),
            (r"[\-]", "-"),
            ("[[:]b", ":b"),
            ("**", "a/b/c"),
            ("a/**/c", "a/b/b/c"),
            ("**/c", "a/b/c"),
            ("a*", "a"),
            ("***", "a/b"),
        ] {
            assert!(check(pattern, text), "{pattern} should match {text}");
        }
    }

    #[test]
    fn matches_nothing_else() {
        for (pattern, text) in [
            ("", "a"),
            ("foo", "bar"),
            ("??", "foo"),
            ("*/x", "a/b/x"),
            ("*", "a/b"),
            ("?", "/"),
            ("[!a]", "/"),
            ("[/]", "/"),
            ("t[a-g]n", "ton"),
            ("[!]a-]", "]"),
            ("[", "["),
            ("[a", "a"),
            ("[[:nosuch:]]", "a"),
            ("a\\", "a\\"),
            ("[[:digit:", "1"),
            ("Foo", "foo"),
            ("[a-c]", "B"),
        ] {
            assert!(!check(pattern, text), "{pattern} should not match {text}");
        }
    }

    #[test]
    fn case_can_be_ignored() {
        for (pattern, text) in [("ALPHA.*", "alpha.x"), ("[A-C]x", "bX"), ("[x]", "X")] {
            assert!(matches(pattern.as_bytes(), text.as_bytes(), Case::Ignored));
        }
        assert!(!matches(b"[!b]", b"B", Case::Ignored));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = b"*a".repeat(2_000);
        let text = [vec![b'a'; 4_000], vec![b'b']].concat();
        assert!(!matches(&pattern, &text, Case::Sensitive));
    }

    /// The obvious definition, without sets.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => {
                let rest = &rest[rest.iter().take_while(|&&b| b == b'*').count()..];
                (0..=text.len()).any(|cut| naive(rest, &text[cut..]))
            }
            [b'*', rest @ ..] => (0..=text.len())
                .take_while(|&cut| !text[..cut].contains(&b'/'))
                .any(|cut| naive(rest, &text[cut..])),
            [b'?', rest @ ..] => {
                matches!(text, [first, tail @ ..] if *first != b'/' && naive(rest, tail))
            }
            [byte, rest @ ..] => {
                matches!(text, [first, tail @ ..] if first == byte && naive(rest, tail))
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text, Case::Sensitive);
            let _ = matches(&pattern, &text, Case::Ignored);
        }

        #[test]
        fn quoted_text_matches_itself(text: Vec<u8>) {
            let pattern: Vec<u8> = text.iter().flat_map(|&byte| [b'\\', byte]).collect();
            prop_assert!(matches(&pattern, &text, Case::Sensitive));
        }

        #[test]
        fn agrees_with_the_definition(pattern in "[ab/*?]{0,8}", text in "[ab/]{0,8}") {
            prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes(), Case::Sensitive),
                naive(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
