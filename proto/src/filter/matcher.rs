//! [`Matcher`]: what the pattern of one rule matches, with rsync's ideas of anchors and slashes.
//!
//! A pattern without a slash and without `**` is about the last name of a path. One with a leading slash
//! is about the whole path, from the directory it was written for. Any other is about as many trailing
//! names as it has itself, or, if it has a `**`, about whatever follows any slash. A trailing slash
//! limits it to directories, and `dir/***` is the directory with all that is in it. The modifier `/`
//! puts the path of the source itself before the path.

use super::ground::Ground;
use crate::wildmatch::{Case, Pattern};

/// A pattern, compiled.
#[derive(Debug)]
pub(super) struct Matcher {
    text: Text,
    /// The pattern without slashes around it.
    written: Vec<u8>,
    place: Place,
    /// What stands before the path that it is held against (without slashes around it).
    lead: Vec<u8>,
    dir_only: bool,
    /// It starts with `**`: that may match nothing before a slash.
    any_prefix: bool,
    /// It ends with `***`: the directory itself matches too.
    whole_dir: bool,
    negated: bool,
}

#[derive(Debug)]
enum Text {
    Literal(Vec<u8>),
    Wild(Pattern),
}

/// Which part of a path a pattern is held against.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The last name.
    Name,
    /// So many trailing names.
    Tail(usize),
    /// The whole path, and what follows each slash.
    AnySlash,
    /// The whole path.
    Whole,
    /// The path from this directory (without slashes around it).
    Below(Vec<u8>),
}

impl Matcher {
    /// Compiles a pattern that was written on this ground, `absolute` if it is about the whole path from
    /// `/` on. `None` if its wildcards cannot be read.
    pub(super) fn new(
        pattern: &[u8],
        ground: &Ground,
        negated: bool,
        absolute: bool,
    ) -> Option<Self> {
        let (pattern, dir_only) = match pattern {
            [rest @ .., b'/'] if !rest.is_empty() => (rest, true),
            _ => (pattern, false),
        };
        let slashes = pattern.iter().filter(|&&byte| byte == b'/').count();
        let wild = pattern.iter().any(|byte| b"*?[".contains(byte));
        let crosses = pattern.windows(2).any(|pair| pair == b"**");
        let any_prefix = pattern.starts_with(b"**");
        let lead = match pattern {
            _ if absolute => ground.root.to_vec(),
            [b'/', ..] => ground.lead.clone(),
            _ => Vec::new(),
        };
        let (pattern, place) = match pattern {
            [b'/', rest @ ..] if absolute || !lead.is_empty() => (rest, Place::Whole),
            [b'/', rest @ ..] => (rest, Place::Below(ground.base.clone())),
            _ if slashes == 0 && !crosses => (pattern, Place::Name),
            _ if any_prefix => (pattern, Place::Whole),
            _ if crosses => (pattern, Place::AnySlash),
            _ => (pattern, Place::Tail(slashes + 1)),
        };
        let text = if wild {
            Text::Wild(Pattern::new(pattern)?)
        } else {
            Text::Literal(pattern.to_vec())
        };
        Some(Self {
            text,
            written: pattern.to_vec(),
            place,
            any_prefix: any_prefix && lead.is_empty(),
            lead,
            dir_only,
            whole_dir: pattern.ends_with(b"***"),
            negated,
        })
    }

    /// Whether the verdict on a path can change when the directory around it gets another name.
    pub(super) fn depends_on_place(&self) -> bool {
        self.place != Place::Name
    }

    /// Whether only the last name of a path counts.
    pub(super) fn is_of_names(&self) -> bool {
        let is_one = |name: &[u8]| {
            let crosses = name.windows(2).any(|pair| pair == b"**");
            !crosses && !name.contains(&b'/') && !name.contains(&b'[')
        };
        match &self.place {
            Place::Name => true,
            Place::Whole => self.written.strip_prefix(b"**/").is_some_and(is_one),
            Place::Tail(_) | Place::AnySlash | Place::Below(_) => false,
        }
    }

    /// Whether the pattern could match something below a directory because of what the directory is called.
    pub(super) fn may_match_below(&self, dir: &[u8]) -> bool {
        let names = |path| <[u8]>::split(path, |&byte| byte == b'/');
        let parts: Vec<&[u8]> = names(&self.written).collect();
        let dir = match &self.place {
            Place::Name | Place::AnySlash | Place::Whole => return true,
            Place::Tail(_) => {
                let (Some(name), Some((_, above))) = (names(dir).next_back(), parts.split_last())
                else {
                    return true;
                };
                return above.iter().any(|part| may_be(part, name));
            }
            Place::Below(base) if base.is_empty() => dir,
            Place::Below(base) => match dir.strip_prefix(base.as_slice()) {
                Some([b'/', below @ ..]) => below,
                Some([]) => return true,
                _ => return base.starts_with(dir),
            },
        };
        for (at, name) in names(dir).enumerate() {
            match parts.get(at) {
                None => return false,
                // From here on anything may match.
                Some(part) if is_open(part) => return true,
                Some(part) if !may_be(part, name) => return false,
                Some(_) => {}
            }
        }
        parts.len() > names(dir).count()
    }

    /// Whether the rule applies to the path, given from the root.
    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        let matched = (is_dir || !self.dir_only) && self.finds(path, is_dir);
        matched != self.negated
    }

    fn finds(&self, path: &[u8], is_dir: bool) -> bool {
        if self.lead.is_empty() || self.place == Place::Name {
            return self.finds_in(path, is_dir);
        }
        self.finds_in(&[&self.lead, path].join(&b'/'), is_dir)
    }

    fn finds_in(&self, path: &[u8], is_dir: bool) -> bool {
        let part = match &self.place {
            Place::Name => tail(path, 1),
            Place::Tail(names) => tail(path, *names),
            Place::AnySlash | Place::Whole => Some(path),
            Place::Below(base) if base.is_empty() => Some(path),
            Place::Below(base) => path
                .strip_prefix(base.as_slice())
                .and_then(|rest| rest.strip_prefix(b"/")),
        };
        let Some(part) = part else {
            return false;
        };
        match &self.text {
            Text::Literal(text) => part == text,
            Text::Wild(pattern) => self.finds_wild(pattern, part, is_dir),
        }
    }

    fn finds_wild(&self, pattern: &Pattern, part: &[u8], is_dir: bool) -> bool {
        let matches = |text: &[u8]| pattern.matches(text, Case::Sensitive);
        let before = self.any_prefix && self.place == Place::Whole;
        let after = self.whole_dir && is_dir;
        let mut text = Vec::with_capacity(part.len() + 2);
        text.extend(before.then_some(b'/'));
        text.extend_from_slice(part);
        text.extend(after.then_some(b'/'));
        if matches(&text) {
            return true;
        }
        self.place == Place::AnySlash
            && text
                .iter()
                .enumerate()
                .any(|(at, &byte)| byte == b'/' && matches(&text[at + 1..]))
    }
}

/// Whether what a part of a pattern matches may go on beyond a slash.
fn is_open(part: &[u8]) -> bool {
    part.contains(&b'[') || part.windows(2).any(|pair| pair == b"**")
}

/// Whether a part of a pattern may match this name: surely not if it is another one, without wildcards.
fn may_be(part: &[u8], name: &[u8]) -> bool {
    part == name || part.iter().any(|byte| b"*?[]\\".contains(byte))
}

/// The last `count` names of a path; `None` if it has fewer.
fn tail(path: &[u8], count: usize) -> Option<&[u8]> {
    let mut slashes = path.iter().enumerate().rev().filter(|(_, b)| **b == b'/');
    match slashes.nth(count - 1) {
        Some((at, _)) => Some(&path[at + 1..]),
        None => {
            let names = path.iter().filter(|&&byte| byte == b'/').count() + 1;
            (names == count).then_some(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let (path, is_dir) = match path.strip_suffix('/') {
            Some(dir) => (dir, true),
            None => (path, false),
        };
        let ground = Ground::default();
        let matcher = Matcher::new(pattern.as_bytes(), &ground, false, false).unwrap();
        matcher.matches(path.as_bytes(), is_dir)
    }

    #[test]
    fn patterns_match_where_they_should() {
        for (pattern, path) in [
            ("*.o", "a/b.o"),
            ("foo", "a/foo"),
            ("foo", "foo/"),
            ("foo/", "a/foo/"),
            ("/foo", "foo"),
            ("/foo/bar", "foo/bar"),
            ("foo/bar", "foo/bar"),
            ("foo/bar", "a/foo/bar"),
            ("fo?/b*", "a/foo/bar"),
            ("/foo/*", "foo/bar"),
            ("/foo/**", "foo/a/bar"),
            ("foo/**", "a/foo/b/c"),
            ("foo/**/c", "a/foo/b/c"),
            ("**/c", "c"),
            ("**/c", "a/b/c"),
            ("a**", "x/ab/c"),
            ("foo/***", "foo/"),
            ("foo/***", "a/foo/"),
            ("foo/***", "foo/a"),
            ("/foo/***", "foo/a/b"),
            (r"\[x]", "[x]"),
            (r"a\b", r"a\b"),
        ] {
            assert!(matches(pattern, path), "{pattern} should match {path}");
        }
    }

    #[test]
    fn patterns_match_nowhere_else() {
        for (pattern, path) in [
            ("foo/", "a/foo"),
            ("/foo", "a/foo"),
            ("foo/bar", "xfoo/bar"),
            ("foo/bar", "bar"),
            ("/foo/*", "foo/a/bar"),
            ("fo?/b*", "foo/a/bar"),
            ("foo/***", "foo"),
            ("foo", "foobar"),
            ("oo", "foo"),
            ("**/c", "ac"),
            (r"a\*", r"a\x"),
            ("/", "a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn an_anchor_is_where_the_rule_was_written() {
        let ground = Ground {
            base: b"a[1]".to_vec(),
            ..Ground::default()
        };
        let matcher = Matcher::new(b"/f*", &ground, false, false).unwrap();
        assert!(matcher.matches(b"a[1]/foo", false));
        assert!(!matcher.matches(b"foo", false));
        assert!(!matcher.matches(b"a1/foo", false));
        assert!(!matcher.matches(b"a[1]/b/foo", false));
        assert!(!matcher.matches(b"a[1]", true));
    }

    #[test]
    fn the_path_of_the_source_counts_where_it_is_asked_for() {
        let ground = Ground {
            base: Vec::new(),
            lead: b"me/src".to_vec(),
            root: b"home/me/src"[..].into(),
        };
        for (pattern, absolute, path, expected) in [
            (&b"/home/me/src/a"[..], true, &b"a"[..], true),
            (b"/a", true, b"a", false),
            (b"src/a", true, b"a", true),
            (b"src/a", false, b"a", false),
            (b"a", true, b"b/a", true),
            (b"/home/**", true, b"b/a", true),
            (b"**/src/a", true, b"a", true),
            (b"src/**", true, b"b/a", true),
            (b"/me/src/a", false, b"a", true),
            (b"/me/*/a", false, b"a", true),
            (b"/src/a", false, b"a", false),
            (b"/a", false, b"a", false),
            (b"b/a", false, b"b/a", true),
        ] {
            let matcher = Matcher::new(pattern, &ground, false, absolute).unwrap();
            let pattern = String::from_utf8_lossy(pattern);
            assert_eq!(matcher.matches(path, false), expected, "{pattern}");
        }
    }

    #[test]
    fn negation_turns_everything_round() {
        let matcher = Matcher::new(b"*/", &Ground::default(), true, false).unwrap();
        assert!(matcher.matches(b"file", false));
        assert!(!matcher.matches(b"dir", true));
    }

    #[test]
    fn an_unreadable_pattern_is_none() {
        let is_read =
            |pattern: &[u8]| Matcher::new(pattern, &Ground::default(), false, false).is_some();
        assert!(!is_read(b"a[b"));
        assert!(is_read(b"a[b]"));
    }

    fn based(base: &str) -> Ground {
        Ground {
            base: base.into(),
            ..Ground::default()
        }
    }

    #[test]
    fn which_directories_a_pattern_may_reach_into() {
        let may = |pattern: &str, base: &str, dir: &str| {
            let matcher = Matcher::new(pattern.as_bytes(), &based(base), false, false).unwrap();
            matcher.may_match_below(dir.as_bytes())
        };
        for (pattern, base, dir) in [
            ("/a/b", "", "a"),
            ("/a/b/c/", "", "a/b"),
            ("/a*/b", "", "ax"),
            ("/[ab]/c", "", "z"),
            ("/**/c", "", "z"),
            ("/a/***", "", "a"),
            ("/a/**", "", "a/b/c"),
            ("/b/c", "a", "a/b"),
            ("/b", "a", "a"),
            ("/x", "a/b", "a"),
            ("a/b", "", "x/a"),
            ("a/?/c", "", "z"),
            ("a/**", "", "z"),
        ] {
            assert!(may(pattern, base, dir), "{pattern} may reach into {dir}");
        }
        for (pattern, base, dir) in [
            ("/a/b", "", "b"),
            ("/a/b", "", "a/b"),
            ("/a", "", "a"),
            ("/a*/b", "", "ax/c"),
            ("/b/c", "a", "b"),
            ("/b/c", "a", "ab/b"),
            ("a/b", "", "a/x"),
            ("a/b", "", "b"),
        ] {
            assert!(!may(pattern, base, dir), "{pattern} reaches into {dir}");
        }
        let of_names =
            |pattern: &str| Matcher::new(pattern.as_bytes(), &based(""), false, false).unwrap();
        for pattern in ["*.o", "**/c", "**/c*", "cache/"] {
            assert!(of_names(pattern).is_of_names(), "{pattern}");
        }
        for pattern in ["/c", "a/c", "**/a/c", "**/a**", "**c", "a**"] {
            assert!(!of_names(pattern).is_of_names(), "{pattern}");
        }
    }

    proptest::proptest! {
        /// Where a directory's name is said to make no difference, it makes none.
        #[test]
        fn what_is_out_of_reach_is_matched_alike(
            pattern in "[/]?([ab*?]|[*][*]|/){1,6}[/]?",
            base in "(a|b)?",
            lead in "(|b|a/b)",
            absolute: bool,
            dirs in ("[ab](/[ab])?", "[ab](/[ab])?"),
            below in "[ab](/[ab]){0,2}",
            is_dir: bool,
        ) {
            let ground = Ground { lead: lead.into_bytes(), root: b"a/b"[..].into(), ..based(&base) };
            let Some(matcher) = Matcher::new(pattern.as_bytes(), &ground, false, absolute) else {
                return Ok(());
            };
            let reaches = |dir: &str| matcher.may_match_below(dir.as_bytes());
            let found = |dir: &str| matcher.matches(format!("{dir}/{below}").as_bytes(), is_dir);
            if matcher.is_of_names() || !(reaches(&dirs.0) || reaches(&dirs.1)) {
                proptest::prop_assert_eq!(found(&dirs.0), found(&dirs.1));
            }
        }
    }
}
