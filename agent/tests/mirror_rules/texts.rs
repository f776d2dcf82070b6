//! Rules by chance, and files of them.

use super::beside::Rng;

/// What may stand in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Rules, and rules that name further files.
    Nesting,
    Rules,
    /// Rules that do not say their side.
    Unsided,
    Patterns,
    /// Patterns with white space between them, and clears.
    Words,
}

/// A file of rules.
pub(crate) fn random_text(rng: &mut Rng, content: Content) -> String {
    let mut text = String::from(rng.pick(&["", "# rules\n", "; rules\n\n", "\r\n"]));
    if content == Content::Words {
        text.clear();
    }
    let end = rng.pick(&["\n", "\n", "\r\n", "\r"]);
    for _ in 0..=rng.below(3) {
        let line = match content {
            Content::Nesting if rng.below(4) == 0 => rng
                .pick(&[
                    ": .more",
                    ":n .third",
                    ":e .third",
                    ":p .third",
                    "dir-merge .third",
                    ": ../.third",
                    ": a/.third",
                    ":/ .third",
                    ":- .plain",
                    ":C",
                    ". .list",
                    ". ./.list",
                    ".e ./.list",
                    ".p .list",
                ])
                .to_owned(),
            Content::Nesting | Content::Rules if rng.below(10) == 0 => "!".to_owned(),
            Content::Nesting | Content::Rules => random_rule(rng, true),
            Content::Unsided => random_rule(rng, false),
            Content::Patterns => random_pattern(rng),
            Content::Words if rng.below(6) == 0 => "!".to_owned(),
            Content::Words => random_pattern(rng),
        };
        let end = match content {
            Content::Words => rng.pick(&[" ", "\n", "\t", "  "]),
            _ => end,
        };
        text.push_str(&line);
        text.push_str(end);
    }
    text
}

pub(crate) fn random_dir_merge(rng: &mut Rng, sends_only: bool) -> String {
    let both = [
        ": .rules",
        ": .rules",
        ":n .rules",
        ":e .rules",
        ":p .rules",
        ":en .more",
        ": .more",
        "dir-merge /.rules",
        ": /.rules",
        ": /.rules",
        ": ../.rules",
        ": ../../.rules",
        ":n ../.rules",
        ": sub/.rules",
        ":s .sided",
        ":r .sided",
        ":rs /.sided",
        ":sp .sided",
        ":- .plain",
        ":+ .plain",
        "dir-merge,- .plain",
        ":w- .plain",
        ":C",
        ":C .plain",
        ":sC",
        ":C /.cvsignore",
    ];
    let send = [":/ .rules", "dir-merge,/ /.rules"];
    if sends_only && rng.below(8) == 0 {
        return rng.pick(&send).to_owned();
    }
    rng.pick(&both).to_owned()
}

pub(crate) fn random_absolute(rng: &mut Rng) -> String {
    let start = rng.pick(&[
        "tree/",
        "q/tree/",
        "/**/tree/",
        "**/q/tree/",
        "/**/q/*/",
        "q/**/",
    ]);
    let pattern = random_pattern(rng);
    format!("-/ {start}{}", pattern.trim_start_matches('/'))
}

pub(crate) fn random_rule(rng: &mut Rng, sided: bool) -> String {
    let kinds = [
        "-", "-", "-", "-", "+", "+", "exclude", "include", "-!", "+!", "-p", "+p", "-_",
        "exclude_",
    ];
    let with_side = [
        "H", "S", "P", "R", "protect", "hide", "show", "risk", "-s", "-r", "+s", "+r", "-sr", "H!",
        "P!", "Pp",
    ];
    let kind = if sided && rng.below(3) == 0 {
        rng.pick(&with_side)
    } else {
        rng.pick(&kinds)
    };
    let space = if kind.ends_with('_') { "" } else { " " };
    format!("{kind}{space}{}", random_pattern(rng))
}

pub(crate) fn random_pattern(rng: &mut Rng) -> String {
    let names = [
        "a",
        "b",
        "ab",
        "foo",
        "*",
        "*.o",
        "a*",
        "?",
        "f?o",
        "[ab]",
        "[!a]",
        "[^a]",
        "**",
        "**o",
        "x",
        "\\[x]",
        "[x]",
        "*~",
        "[[:alpha:]]",
        "[[:alpha:]]*",
        "[a-c]",
        "***",
        "a\\b",
        "a\\\\*",
        "a**",
        "CVS",
        "core",
        "*[~]",
        "[]x]",
    ];
    let mut pattern = String::from(rng.pick(&["", "", "", "/"]));
    for part in 0..=rng.below(3) {
        if part > 0 {
            pattern.push('/');
        }
        pattern.push_str(rng.pick(&names));
    }
    pattern.push_str(rng.pick(&["", "", "", "/", "/***", "/**"]));
    pattern
}
