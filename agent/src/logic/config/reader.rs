//! Reads a TOML table key by key: every key has a type and a place, and one that nobody asked for is an
//! error with the nearest name that exists.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A name is offered as a correction up to this many changed letters.
const TYPOS_MAX: usize = 3;

/// Turns offsets of the text into lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a>(&'a str);

impl<'a> Place<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    pub(super) fn error(&self, span: Range<usize>, what: impl Into<String>) -> ConfigError {
        ConfigError {
            line: Some(self.line(span)),
            what: what.into(),
        }
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        let before = self.0.get(..span.start).unwrap_or(self.0);
        before.matches('\n').count() + 1
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Section<'a> {
    place: Place<'a>,
    name: &'static str,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        place: Place<'a>,
        name: &'static str,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        Self {
            place,
            name,
            span,
            table,
            known: Vec::new(),
        }
    }

    /// An error at the section itself.
    pub(super) fn error(&self, what: impl Into<String>) -> ConfigError {
        self.place.error(self.span.clone(), what)
    }

    /// An error at a key's value.
    pub(super) fn error_at(&self, key: &str, what: impl Into<String>) -> ConfigError {
        let span = self.table.get(key).map_or(self.span.clone(), Spanned::span);
        self.place.error(span, what)
    }

    /// The value of a key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        convert: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        convert(value.get_ref()).map(Some).ok_or_else(|| {
            let found = value.get_ref().type_str();
            self.error_at(
                key,
                format!("{key}: {wanted} is needed here, not this {found}"),
            )
        })
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a \"text\"", DeValue::as_str)
    }

    /// The texts of a list, or the only one, with their lines.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
    ) -> Result<Vec<(usize, &'a str)>, ConfigError> {
        let Some(value) = self.take(key) else {
            return Ok(Vec::new());
        };
        let bad = |span| {
            let what = format!("{key}: write a \"text\" or a list of them");
            self.place.error(span, what)
        };
        let text = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::String(text) => Ok((self.place.line(value.span()), text.as_ref())),
            _ => Err(bad(value.span())),
        };
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(text).collect(),
            _ => text(value).map(|text| vec![text]),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", DeValue::as_bool)
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        self.typed(key, "a whole number that is not negative", whole_number)
    }

    /// A table below a key.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        name: &'static str,
    ) -> Result<Option<Section<'a>>, ConfigError> {
        let table = self.typed(key, "a table", DeValue::as_table)?;
        let span = self.table.get(key).map_or(0..0, Spanned::span);
        Ok(table.map(|table| Section::new(self.place, name, span, table)))
    }

    /// The tables of a `[[key]]`.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        name: &'static str,
    ) -> Result<Vec<Section<'a>>, ConfigError> {
        let array = self.typed(key, &format!("[[{name}]]"), DeValue::as_array)?;
        array
            .into_iter()
            .flat_map(|array| array.iter())
            .map(|item| match item.get_ref() {
                DeValue::Table(table) => Ok(Section::new(self.place, name, item.span(), table)),
                _ => Err(self.error_at(key, format!("{key}: write it as [[{name}]]"))),
            })
            .collect()
    }

    /// Refuses what nobody took.
    pub(super) fn finish(&self) -> Result<(), ConfigError> {
        let unknown = |key: &str| !self.known.contains(&key);
        let Some((key, _)) = self
            .table
            .iter()
            .filter(|(key, _)| unknown(key.get_ref()))
            .min_by_key(|(key, _)| key.span().start)
        else {
            return Ok(());
        };
        let name = key.get_ref();
        let help = match nearest(name, &self.known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", self.known.join(", ")),
        };
        let section = self.name;
        Err(self.place.error(
            key.span(),
            format!("unknown key `{}` in {section}; {help}", name.escape_debug()),
        ))
    }
}

/// The value as a whole number, if it is one.
pub(super) fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|&candidate| (distance(name, candidate), candidate))
        .filter(|&(typos, candidate)| typos <= TYPOS_MAX.min(candidate.len() / 2))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters to change, add or leave out to make `a` of `b`; `-` counts as `_`.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        text.chars()
            .map(|letter| if letter == '-' { '_' } else { letter })
            .take(64)
            .collect()
    };
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_counted() {
        assert_eq!(distance("settle_ms", "settle-ms"), 0);
        assert_eq!(distance("setle_ms", "settle_ms"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_a_near_name_is_offered() {
        let known = ["path", "delete", "settle_ms"];
        assert_eq!(nearest("settel_ms", &known), Some("settle_ms"));
        assert_eq!(nearest("paht", &known), Some("path"));
        assert_eq!(nearest("compress", &known), None);
    }
}
