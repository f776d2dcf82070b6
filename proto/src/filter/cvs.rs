//! What CVS ignores: the list that the rule `-C` stands for, and the name of the file that `:C` looks for.

use super::rule::{Origin, RuleRef};

/// The file of patterns in each directory.
pub(super) const FILE: &[u8] = b".cvsignore";

/// The patterns, as rsync has them.
const PATTERNS: [&str; 36] = [
    // What revision control keeps beside the files.
    "RCS",
    "SCCS",
    "CVS",
    "CVS.adm",
    "RCSLOG",
    "cvslog.*",
    "tags",
    "TAGS",
    ".make.state",
    ".nse_depinfo",
    // Copies and what is left of conflicts.
    "*~",
    "#*",
    ".#*",
    ",*",
    "_$*",
    "*$",
    "*.old",
    "*.bak",
    "*.BAK",
    "*.orig",
    "*.rej",
    ".del-*",
    // What compilers make.
    "*.a",
    "*.olb",
    "*.o",
    "*.obj",
    "*.so",
    "*.exe",
    "*.Z",
    "*.elc",
    "*.ln",
    "core",
    // Directories of its successors.
    ".svn/",
    ".git/",
    ".hg/",
    ".bzr/",
];

/// The patterns of the list that `by` asks for, each with its place.
pub(super) fn rules(by: &RuleRef) -> impl Iterator<Item = RuleRef> {
    let text = crate::path::escaped(&by.text);
    let origin = Origin::option(&format!("{}: the list of \"{text}\"", by.origin));
    PATTERNS.iter().map(move |pattern| RuleRef {
        text: pattern.as_bytes().to_vec(),
        origin: origin.clone(),
    })
}
