//! `refuse options`, as far as it means something here: rsync's ways to delete.

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
    for word in words
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        let (name, value) = match word.strip_prefix(b"!") {
            Some(name) => (name, false),
            None => (word, true),
        };
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
}
