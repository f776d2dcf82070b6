//! One line of rules, in rsync's words, short or long: bytes in, a [`Line`] out.

use std::sync::Arc;

use super::cvs;
use super::ground::Ground;
use super::matcher::Matcher;
use super::rule::{Origin, Rule, RuleRef, Side};
use super::{FilterError, MERGE_DEPTH_MAX};

/// The longest rule, in bytes: that of the longest path.
pub(super) const RULE_BYTES_MAX: usize = 4_096;

/// How the lines of a list are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) prefixes: Prefixes,
    /// What a line is that does not say it itself.
    pub(super) include: bool,
    /// Rules end at white space, and nothing is a comment.
    pub(super) words: bool,
    /// The side of every rule in it, if it was given one.
    pub(super) side: Option<Side>,
    pub(super) perishable: bool,
    /// Every rule is about the whole path from `/` on.
    pub(super) absolute: bool,
    /// `!` alone clears, although there are no prefixes.
    pub(super) cvs: bool,
    /// The rules are those of a module: an excluded `dir/` is excluded with all that is in it.
    pub(super) of_module: bool,
}

/// Which prefixes a line may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefixes {
    /// A rule of `filter`: it must have one.
    All,
    /// A pattern of `exclude` or `include`: `+ `, `- ` or nothing; `!` alone clears.
    Old,
    /// A pattern, whatever it starts with.
    None,
}

impl Style {
    /// Lines of `filter`.
    pub(super) const FILTER: Self = Self {
        prefixes: Prefixes::All,
        include: false,
        words: false,
        side: None,
        perishable: false,
        absolute: false,
        cvs: false,
        of_module: false,
    };

    /// Lines of `exclude` and `include`.
    pub(super) const fn patterns(include: bool) -> Self {
        Self {
            prefixes: Prefixes::Old,
            include,
            ..Self::FILTER
        }
    }
}

impl Style {
    /// Whether the pattern of a rule that begins with this word is still to come.
    pub(super) fn has_open_prefix(self, word: &[u8]) -> bool {
        match self.prefixes {
            Prefixes::None => false,
            Prefixes::Old => matches!(word, b"+" | b"-"),
            Prefixes::All => {
                !word.contains(&b'_') && !matches!(word, b"!" | b"clear") && kind(word).is_some()
            }
        }
    }
}

/// What a line says.
#[derive(Debug)]
pub(super) enum Line {
    /// A rule.
    Rule(Rule),
    /// Forget what was read before.
    Clear,
    /// The list of what CVS ignores.
    Cvs(Vec<Rule>),
    /// More rules, in a file.
    Merge(Merge),
}

/// More rules, in a file.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) file: Vec<u8>,
    pub(super) style: Style,
    /// A file of this name in each directory, for what is in and below it.
    pub(super) per_dir: bool,
    /// Only for what is in the directory itself.
    pub(super) no_inherit: bool,
    /// The file itself is excluded.
    pub(super) exclude_self: bool,
    pub(super) by: Arc<RuleRef>,
}

impl Merge {
    /// What the modifier `e` asks for: the file of rules takes no part itself.
    pub(super) fn excluded_self(&self) -> Result<Option<Rule>, FilterError> {
        if !self.exclude_self {
            return Ok(None);
        }
        let name = self.file.rsplit(|&byte| byte == b'/').next();
        let mut text = b"- ".to_vec();
        text.extend_from_slice(name.unwrap_or_default());
        match line(&text, Style::FILTER, &Ground::default(), &self.by.origin)? {
            Line::Rule(rule) => Ok(Some(Rule {
                by: self.by.clone(),
                ..rule
            })),
            _ => Ok(None),
        }
    }

    /// The refusal of files without an end.
    pub(super) fn is_circle(&self) -> FilterError {
        let why = format!("files merge each other {MERGE_DEPTH_MAX} deep");
        FilterError::new(&self.by, why, "break the circle")
    }
}

/// Splits a file into rules with their line numbers; comments and empty lines are left out.
pub(super) fn lines(text: &[u8], style: Style) -> impl Iterator<Item = (usize, &[u8])> {
    let mut number = 1;
    let numbered = text
        .split_inclusive(|&byte| byte == b'\n')
        .map(move |line| {
            number += 1;
            (number - 1, line)
        });
    numbered.flat_map(move |(number, line)| {
        line.split(move |&byte| {
            if style.words {
                byte.is_ascii_whitespace() || byte == 0x0b
            } else {
                byte == b'\n' || byte == b'\r'
            }
        })
        .filter(move |rule| !rule.is_empty() && (style.words || !b";#".contains(&rule[0])))
        .map(move |rule| (number, rule))
    })
}

/// Reads one rule that was written on this ground.
pub(super) fn line(
    text: &[u8],
    style: Style,
    ground: &Ground,
    origin: &Origin,
) -> Result<Line, FilterError> {
    let by = Arc::new(RuleRef {
        text: text.to_vec(),
        origin: origin.clone(),
    });
    if text.len() > RULE_BYTES_MAX {
        let why = format!("it is longer than {RULE_BYTES_MAX} bytes");
        return Err(FilterError::new(&by, why, "shorten it"));
    }
    if text.contains(&0) {
        let hint = "write file names as they are, one rule on a line";
        return Err(FilterError::new(&by, "it has a NUL in it", hint));
    }
    let mut head = Head::of(style);
    let rest = match style.prefixes {
        Prefixes::None if style.cvs && text == b"!" => return Ok(Line::Clear),
        Prefixes::None => text,
        Prefixes::Old => match text {
            b"!" => return Ok(Line::Clear),
            [b'+', b' ', rest @ ..] => {
                head.include = true;
                rest
            }
            [b'-', b' ', rest @ ..] => {
                head.include = false;
                rest
            }
            _ => text,
        },
        Prefixes::All => head.read(text, &by)?,
    };
    if head.clear {
        if rest.is_empty() {
            return Ok(Line::Clear);
        }
        let hint = "write \"!\" alone; to negate a rule, write \"-! PATTERN\"";
        return Err(FilterError::new(&by, "something follows the clear", hint));
    }
    if head.cvs && !head.merge {
        if rest.is_empty() {
            return head.cvs_list(style, &by);
        }
        let hint = "write \"-C\" alone; for a file of patterns, write \"merge,C FILE\"";
        return Err(FilterError::new(&by, "something follows the C", hint));
    }
    let rest = if head.cvs && rest.is_empty() {
        cvs::FILE
    } else {
        rest
    };
    if rest.is_empty() {
        let hint = "write it as \"- PATTERN\"";
        return Err(FilterError::new(&by, "it has no pattern", hint));
    }
    head.finish(rest, style, ground, by)
}

/// What stands before the pattern.
struct Head {
    include: bool,
    clear: bool,
    merge: bool,
    per_dir: bool,
    negated: bool,
    perishable: bool,
    sender: bool,
    receiver: bool,
    /// The kind of rule has said which side it is for.
    side_is_fixed: bool,
    exclude_self: bool,
    no_inherit: bool,
    words: bool,
    absolute: bool,
    /// As CVS reads its files, or its list.
    cvs: bool,
    of_module: bool,
    /// `Some(include)`: the lines of the merged file are patterns only.
    plain: Option<bool>,
}

/// Long names, and what they are short for.
const WORDS: [(&[u8], u8); 9] = [
    (b"exclude", b'-'),
    (b"include", b'+'),
    (b"merge", b'.'),
    (b"dir-merge", b':'),
    (b"hide", b'H'),
    (b"show", b'S'),
    (b"protect", b'P'),
    (b"risk", b'R'),
    (b"clear", b'!'),
];

impl Head {
    fn of(style: Style) -> Self {
        Self {
            include: style.include,
            clear: false,
            merge: false,
            per_dir: false,
            negated: false,
            perishable: style.perishable,
            sender: false,
            receiver: false,
            side_is_fixed: false,
            exclude_self: false,
            no_inherit: false,
            words: false,
            absolute: style.absolute,
            cvs: false,
            of_module: style.of_module,
            plain: None,
        }
    }

    /// Reads kind and modifiers; returns the pattern.
    fn read<'a>(&mut self, text: &'a [u8], by: &RuleRef) -> Result<&'a [u8], FilterError> {
        let (kind, rest) = kind(text).ok_or_else(|| {
            let hint = "a rule begins with + - P R H S . : ! or include, exclude, protect, risk, \
                        hide, show, merge, dir-merge, clear";
            FilterError::new(by, "it is no rule", hint)
        })?;
        self.kind(kind);
        if self.clear {
            return Ok(rest);
        }
        let end = rest
            .iter()
            .position(|byte| b" _".contains(byte))
            .unwrap_or(rest.len());
        for &modifier in &rest[..end] {
            self.modify(modifier, by)?;
        }
        Ok(rest.get(end + 1..).unwrap_or_default())
    }

    fn kind(&mut self, kind: u8) {
        self.include |= matches!(kind, b'+' | b'S' | b'R');
        self.sender = matches!(kind, b'S' | b'H');
        self.receiver = matches!(kind, b'P' | b'R');
        self.side_is_fixed = self.sender || self.receiver;
        self.merge = matches!(kind, b'.' | b':');
        self.per_dir = kind == b':';
        self.clear = kind == b'!';
    }

    fn modify(&mut self, modifier: u8, by: &RuleRef) -> Result<(), FilterError> {
        match modifier {
            b'-' | b'+' if self.merge && self.plain.is_none() && !self.cvs => {
                self.plain = Some(modifier == b'+');
            }
            b'e' if self.merge => self.exclude_self = true,
            b'n' if self.merge => self.no_inherit = true,
            b'w' if self.merge => self.words = true,
            b'!' if !self.merge => self.negated = true,
            b'p' => self.perishable = true,
            b'/' if !self.of_module => self.absolute = true,
            b'C' if !self.of_module && !self.side_is_fixed && self.plain.is_none() => {
                self.cvs = true;
            }
            b's' if !self.side_is_fixed => self.sender = true,
            b'r' if !self.side_is_fixed => self.receiver = true,
            _ => return Err(refused_modifier(modifier, by)),
        }
        Ok(())
    }

    /// The side that the rule is for, if it or the rule that merges its file says so.
    fn side(&self, style: Style, by: &RuleRef) -> Result<Option<Side>, FilterError> {
        let own = match (self.sender, self.receiver) {
            (false, false) => None,
            (true, false) => Some(Side::Sender),
            (false, true) => Some(Side::Receiver),
            (true, true) => Some(Side::Both),
        };
        if own.is_some() && style.side.is_some() {
            let hint = "leave it to the rule that merges the file";
            return Err(FilterError::new(by, "its side is set already", hint));
        }
        Ok(own.or(style.side))
    }

    /// The rule `-C`.
    fn cvs_list(&self, style: Style, by: &RuleRef) -> Result<Line, FilterError> {
        let side = self.side(style, by)?.unwrap_or(Side::Both);
        let rules = cvs::rules(by).filter_map(|by| {
            let ground = Ground::default();
            let matcher = Matcher::new(&by.text, &ground, self.negated, self.absolute)?;
            Some(Rule {
                matcher,
                include: self.include,
                side,
                perishable: true,
                by: Arc::new(by),
            })
        });
        Ok(Line::Cvs(rules.collect()))
    }

    fn merge(self, file: &[u8], side: Option<Side>, by: Arc<RuleRef>) -> Line {
        let has_prefixes = self.plain.is_none() && !self.cvs;
        Line::Merge(Merge {
            file: file.to_vec(),
            style: Style {
                prefixes: if has_prefixes {
                    Prefixes::All
                } else {
                    Prefixes::None
                },
                include: self.plain.unwrap_or(self.include),
                words: self.words || self.cvs,
                side,
                perishable: self.perishable,
                absolute: self.absolute,
                cvs: self.cvs,
                of_module: self.of_module,
            },
            per_dir: self.per_dir,
            no_inherit: self.no_inherit || self.cvs,
            exclude_self: self.exclude_self,
            by,
        })
    }

    fn finish(
        self,
        pattern: &[u8],
        style: Style,
        ground: &Ground,
        by: Arc<RuleRef>,
    ) -> Result<Line, FilterError> {
        let side = self.side(style, &by)?;
        if self.merge {
            return Ok(self.merge(pattern, side, by));
        }
        let mut whole = pattern.to_vec();
        if style.of_module && !self.include && pattern.len() > 1 && pattern.ends_with(b"/") {
            whole.extend_from_slice(b"***");
        }
        let matcher =
            Matcher::new(&whole, ground, self.negated, self.absolute).ok_or_else(|| {
                let hint = "close every [, use known classes, and quote a bracket in a name as \\[";
                FilterError::new(&by, "its wildcards cannot be read", hint)
            })?;
        Ok(Line::Rule(Rule {
            matcher,
            include: self.include,
            side: side.unwrap_or(Side::Both),
            perishable: self.perishable,
            by,
        }))
    }
}

/// The letter a rule begins with, or is short for its first word, and what follows.
fn kind(text: &[u8]) -> Option<(u8, &[u8])> {
    let &first = text.first()?;
    if first.is_ascii_lowercase() {
        let end = text
            .iter()
            .position(|byte| b" _,".contains(byte))
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let &(_, kind) = WORDS.iter().find(|(long, _)| *long == word)?;
        return Some((kind, rest.strip_prefix(b",").unwrap_or(rest)));
    }
    let rest = &text[1..];
    b"+-.:PRHS!"
        .contains(&first)
        .then(|| (first, rest.strip_prefix(b",").unwrap_or(rest)))
}

fn refused_modifier(modifier: u8, by: &RuleRef) -> FilterError {
    let (why, hint) = match modifier {
        b'C' => (
            "it has no modifier C (CVS ignore) here",
            "write \"-C\" or \":C\" in the agent's rules; elsewhere write the patterns out",
        ),
        b'x' => (
            "the modifier x (names of attributes) is not supported",
            "leave it out; attributes are switched off as a kind: xattrs, acls, capabilities",
        ),
        b'/' => (
            "it has no modifier / (absolute paths) here",
            "write the pattern from the module's directory, with a leading /",
        ),
        _ => {
            let why = format!(
                "it has no modifier '{}' here",
                char::from(modifier).escape_default()
            );
            return FilterError::new(by, why, "write a space between rule and pattern");
        }
    };
    FilterError::new(by, why, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Line, FilterError> {
        line(
            text.as_bytes(),
            Style::FILTER,
            &Ground::default(),
            &Origin::option("--filter"),
        )
    }

    fn rule(text: &str) -> Rule {
        match read(text) {
            Ok(Line::Rule(rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn merge(text: &str) -> Merge {
        match read(text) {
            Ok(Line::Merge(merge)) => merge,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn short_and_long_names_are_the_same() {
        for (text, include, side) in [
            ("- a", false, Side::Both),
            ("exclude a", false, Side::Both),
            ("-_a", false, Side::Both),
            ("+ a", true, Side::Both),
            ("include a", true, Side::Both),
            ("hide a", false, Side::Sender),
            ("H a", false, Side::Sender),
            ("S a", true, Side::Sender),
            ("P a", false, Side::Receiver),
            ("protect a", false, Side::Receiver),
            ("risk a", true, Side::Receiver),
            ("-s a", false, Side::Sender),
            ("-,s a", false, Side::Sender),
            ("exclude,r a", false, Side::Receiver),
            ("-rs a", false, Side::Both),
        ] {
            let rule = rule(text);
            assert_eq!((rule.include, rule.side), (include, side), "{text}");
            assert!(rule.matcher.matches(b"a", false), "{text}");
        }
        assert!(rule("-p a").perishable);
        assert!(rule("-! a").matcher.matches(b"b", false));
        assert!(matches!(read("!"), Ok(Line::Clear)));
        assert!(matches!(read("clear"), Ok(Line::Clear)));
    }

    #[test]
    fn merges_say_how_their_lines_are_read() {
        let found = merge(":en- .rules");
        assert_eq!(found.file, b".rules");
        assert!(found.per_dir && found.exclude_self && found.no_inherit);
        assert_eq!(found.style.prefixes, Prefixes::None);
        let found = merge("merge,w+ list");
        assert!(!found.per_dir && found.style.words && found.style.include);
        assert_eq!(merge(". list").style, Style::FILTER);
        assert_eq!(merge("dir-merge,s x").style.side, Some(Side::Sender));
        let found = merge(":C");
        assert_eq!(found.file, b".cvsignore");
        assert!(found.no_inherit && found.style.words && found.style.cvs);
        assert_eq!(found.style.prefixes, Prefixes::None);
        assert!(merge(":/ x").style.absolute);
    }

    #[test]
    fn what_cvs_ignores_is_a_list_that_may_perish() {
        let Ok(Line::Cvs(rules)) = read("-C") else {
            panic!("-C is a list");
        };
        assert!(rules.iter().all(|rule| rule.perishable && !rule.include));
        let found = rules
            .iter()
            .find(|rule| rule.matcher.matches(b"a/b.o", false));
        assert_eq!(
            found.unwrap().by.to_string(),
            "\"*.o\" (--filter: the list of \"-C\")"
        );
        assert!(!rules.iter().any(|rule| rule.matcher.matches(b"a.c", false)));
        assert!(
            !rules
                .iter()
                .any(|rule| rule.matcher.matches(b".git", false))
        );
        assert!(rules.iter().any(|rule| rule.matcher.matches(b".git", true)));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_rule_and_place() {
        for (text, part) in [
            ("a", "it is no rule"),
            ("excludes a", "it is no rule"),
            ("", "it is no rule"),
            ("-", "no pattern"),
            ("- ", "no pattern"),
            ("-q a", "no modifier 'q'"),
            ("*.o", "it is no rule"),
            ("-a", "no modifier 'a'"),
            ("HC", "CVS"),
            (":-C", "CVS"),
            (":C-", "no modifier '-'"),
            ("-C x", "follows the C"),
            ("-x user.a", "attributes"),
            ("-e a", "no modifier 'e'"),
            (".! a", "no modifier '!'"),
            ("Ps a", "no modifier 's'"),
            (":-+ a", "no modifier '+'"),
            ("! a", "follows the clear"),
            ("- a[b", "wildcards"),
        ] {
            let error = read(text).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.starts_with("--filter: rule "), "{text}: {error}");
        }
    }

    #[test]
    fn lines_are_numbered_and_words_are_not_comments() {
        let text = b"# one\n- a\r\n\n;x\n- b c \n";
        let found: Vec<_> = lines(text, Style::FILTER).collect();
        assert_eq!(found, [(2, &b"- a"[..]), (5, &b"- b c "[..])]);
        let words = Style {
            words: true,
            ..Style::FILTER
        };
        let found: Vec<_> = lines(b"#a b\n c\n", words).collect();
        assert_eq!(found, [(1, &b"#a"[..]), (1, b"b"), (2, b"c")]);
    }

    #[test]
    fn old_prefixes_are_optional() {
        let read = |text: &[u8]| {
            line(
                text,
                Style::patterns(true),
                &Ground::default(),
                &Origin::option("x"),
            )
        };
        assert!(matches!(read(b"!"), Ok(Line::Clear)));
        for (text, include, path) in [
            (&b"- a"[..], false, &b"a"[..]),
            (b"+ a", true, b"a"),
            (b"-a", true, b"-a"),
            (b"!a", true, b"!a"),
        ] {
            match read(text) {
                Ok(Line::Rule(rule)) => {
                    assert_eq!(rule.include, include);
                    assert!(rule.matcher.matches(path, false));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
