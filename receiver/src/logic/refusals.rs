//! `refuse options`, as far as it means something here: rsync's ways to delete, and its compression.

use syncd_proto::wildmatch::{self, Case};

/// rsync's names for deleting what is not at the sender.
const DELETES: [&[u8]; 8] = [
    b"delete",
    b"del",
    b"delete-before",
    b"delete-during",
    b"delete-delay",
    b"delete-after",
    b"delete-excluded",
    b"delete-missing-args",
];

/// What a plain `--delete` is.
const USUAL: usize = 3;

/// Whether the words refuse deletes: names with wildcards, in order, taken back by `!`. Any form refuses all, since
/// there is only one way to remove here, unless the usual form is taken back.
#[must_use]
pub fn refuses_deletes(words: &[u8]) -> bool {
    let mut taken_back = false;
    let mut refused = [false; DELETES.len()];
    for (name, value) in in_order(words) {
        for (at, (slot, delete)) in refused.iter_mut().zip(DELETES).enumerate() {
            // The plain name stands for all of them.
            if name == b"delete" || wildmatch::matches(name, delete, Case::Sensitive) {
                *slot = value;
                if at == USUAL {
                    taken_back = !value;
                }
            }
        }
    }
    !taken_back && refused.contains(&true)
}

/// Whether the words refuse compression: `compress`, or `z`, as for rsync.
#[must_use]
pub fn refuses_compression(words: &[u8]) -> bool {
    let names: [&[u8]; 2] = [b"compress", b"z"];
    let named = |name: &[u8]| {
        let matches = |option: &&[u8]| wildmatch::matches(name, option, Case::Sensitive);
        names.iter().any(matches)
    };
    let last = in_order(words).filter(|(name, _)| named(name)).last();
    last.is_some_and(|(_, value)| value)
}

/// The names, each with whether it is refused from here on.
fn in_order(words: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let words = words.split(u8::is_ascii_whitespace);
    let words = words.filter(|word| !word.is_empty());
    words.map(|word| match word.strip_prefix(b"!") {
        Some(name) => (name, false),
        None => (word, true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_wildcards_and_exceptions_are_read_in_order() {
        for (words, refused) in [
            ("delete", true),
            ("delete-*", true),
            ("delete-after # no deletes", true),
            ("*", true),
            ("checksum delete compress", true),
            ("* !delete", false),
            ("!delete delete", true),
            ("delete !delete-during", false),
            ("delete !delete-before", true),
            ("delete-after", true),
            ("", false),
            ("checksum", false),
            ("delete,checksum", false),
            ("remove-source-files", false),
        ] {
            assert_eq!(refuses_deletes(words.as_bytes()), refused, "{words}");
        }
    }

    #[test]
    fn compression_has_two_names() {
        for (words, refused) in [
            ("compress", true),
            ("z", true),
            ("delete z", true),
            ("*", true),
            ("* !compress", false),
            ("compress*", true),
            ("compress-level", false),
            ("delete", false),
            ("", false),
        ] {
            assert_eq!(refuses_compression(words.as_bytes()), refused, "{words}");
        }
    }
}
