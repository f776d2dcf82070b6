//! `%VAR%` in values.

use std::collections::BTreeMap;

/// An expanded value is never longer than this; what goes beyond stays as written.
const EXPANDED_BYTES_MAX: usize = 64 << 10;

/// The variables known at some moment: the daemon's environment, and what is known of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<Vec<u8>, Vec<u8>>);

impl Variables {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The same and one more, in place of an earlier one of that name.
    #[must_use]
    pub fn with(mut self, name: &[u8], value: &[u8]) -> Self {
        self.0.insert(name.to_vec(), value.to_vec());
        self
    }

    /// Replaces each `%NAME%` whose name starts with an upper-case letter and is known. Not recursive.
    #[must_use]
    pub fn expand(&self, text: &[u8]) -> Vec<u8> {
        let mut expanded = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte == b'%'
                && let Some((value, after)) = self.reference(rest)
                && expanded.len() + value.len() + after.len() <= EXPANDED_BYTES_MAX
            {
                expanded.extend_from_slice(value);
                rest = after;
            } else {
                expanded.push(byte);
            }
        }
        expanded
    }

    fn reference<'a>(&self, rest: &'a [u8]) -> Option<(&[u8], &'a [u8])> {
        if !rest.first()?.is_ascii_uppercase() {
            return None;
        }
        let end = rest.iter().position(|&byte| byte == b'%')?;
        Some((self.0.get(&rest[..end])?, &rest[end + 1..]))
    }
}

impl<N: Into<Vec<u8>>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_once() {
        let known = Variables::from_iter([("WORD", "word"), ("NEST", "%WORD%"), ("low", "x")]);
        for (text, expanded) in [
            ("a%WORD%b", "awordb"),
            ("%NEST%", "%WORD%"),
            ("%low%", "%low%"),
            ("%UNSET%", "%UNSET%"),
            ("%UNSET%WORD%", "%UNSETword"),
            ("%%WORD%%", "%word%"),
            ("100%%", "100%%"),
            ("%WORD", "%WORD"),
        ] {
            assert_eq!(known.expand(text.as_bytes()), expanded.as_bytes(), "{text}");
        }
    }
}
