//! Values as their parameters read them, and the set of those written in one place.

use super::diagnostic::Located;
use super::lexer;
use super::parameters::{Key, Kind, PARAMETERS, Scope};

/// A value as its parameter's [`Kind`] reads it. Text is not expanded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Flag(bool),
    Choice(Option<bool>),
    Number(i32),
    Text(Vec<u8>),
}

/// The values written in one place, or inherited there.
#[derive(Debug, Clone)]
pub(super) struct Values(Vec<Option<Located<Value>>>);

impl Values {
    pub(super) fn new() -> Self {
        Self(vec![None; PARAMETERS.len()])
    }

    /// What was written or inherited, if anything.
    pub(super) fn written(&self, key: Key) -> Option<&Located<Value>> {
        self.0[key as usize].as_ref()
    }

    pub(super) fn set(&mut self, key: Key, value: Located<Value>) {
        self.0[key as usize] = Some(value);
    }

    /// Text without a built-in value that is missing here comes from the final defaults.
    pub(super) fn fill_from(&mut self, defaults: &Self) {
        for parameter in PARAMETERS {
            let at = parameter.key as usize;
            let late = parameter.kind == (Kind::Text { built_in: false })
                && parameter.scope == Scope::Module
                && parameter.key != Key::Name;
            if late && self.0[at].is_none() {
                self.0[at].clone_from(&defaults.0[at]);
            }
        }
    }
}

/// A flag, or a choice, if it is one.
pub(super) fn flag(text: &[u8], choice: bool) -> Option<Value> {
    let value = match &folded(text)[..] {
        b"yes" | b"true" | b"1" => Some(true),
        b"no" | b"false" | b"0" => Some(false),
        b"unset" | b"-1" if choice => None,
        _ => return None,
    };
    Some(match value {
        Some(value) if !choice => Value::Flag(value),
        value => Value::Choice(value),
    })
}

/// Blanks, a sign, digits; what follows is not looked at. Also whether that was all. A number that is
/// too large is -1, which as a limit lets nobody in.
pub(super) fn number(text: &[u8]) -> (i32, bool) {
    let text = lexer::trimmed(text);
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let end = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    let value = digits[..end].iter().fold(0_i64, |value, digit| {
        (value * 10 + i64::from(digit - b'0')).min(i64::from(u32::MAX))
    });
    let value = if negative { -value } else { value };
    match i32::try_from(value) {
        Ok(number) => (number, end > 0 && end == digits.len()),
        Err(_) => (-1, false),
    }
}

/// Names are equal if these are.
pub(super) fn folded(name: &[u8]) -> Vec<u8> {
    name.iter()
        .filter(|byte| !lexer::is_blank(**byte))
        .map(u8::to_ascii_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stop_at_the_first_other_byte() {
        for (text, value, whole) in [
            ("2", 2, true),
            ("2 # two", 2, false),
            (" -3 ", -3, true),
            ("ten", 0, false),
            ("0x10", 0, false),
            ("010", 10, true),
            ("- 3", 0, false),
            ("", 0, false),
            ("99999999999999999999", -1, false),
        ] {
            assert_eq!(number(text.as_bytes()), (value, whole), "{text}");
        }
    }

    #[test]
    fn flags_are_few() {
        for text in ["yes", "T r u e", "1"] {
            assert_eq!(flag(text.as_bytes(), false), Some(Value::Flag(true)));
        }
        for text in ["on", "off", "y", "", "no # x", "unset", "-1"] {
            assert_eq!(flag(text.as_bytes(), false), None, "{text}");
        }
        assert_eq!(flag(b"unset", true), Some(Value::Choice(None)));
        assert_eq!(flag(b"no", true), Some(Value::Choice(Some(false))));
    }
}
