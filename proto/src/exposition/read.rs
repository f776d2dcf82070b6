//! The reader: stricter than Prometheus, since it is for checking.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One number of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Of which family.
    pub name: String,
    /// Of what.
    pub labels: BTreeMap<String, String>,
    /// How much.
    pub value: f64,
}

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// In which line, from 1.
    pub line: usize,
    /// What.
    pub what: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Problem {}

/// Reads a whole text.
///
/// # Errors
/// The first thing that a careful writer would not have written: a family without its head or in two places, a
/// sample that is there twice, a counter that is not named as one, anything after the end, or no end.
pub fn read(text: &str) -> Result<Vec<Sample>, Problem> {
    let mut reader = Reader::default();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let at = |what| Problem {
            line: index + 1,
            what,
        };
        let line = line
            .strip_suffix('\n')
            .ok_or_else(|| at("no end of line"))?;
        reader.line(line).map_err(at)?;
    }
    let lines = text.lines().count();
    match reader.ended {
        true => Ok(reader.samples),
        false => Err(Problem {
            line: lines,
            what: "no # EOF",
        }),
    }
}

#[derive(Default)]
struct Reader {
    samples: Vec<Sample>,
    seen: BTreeSet<String>,
    /// The family whose samples come now, and how far its head has been read.
    family: String,
    head: Head,
    ended: bool,
}

#[derive(Default, PartialEq)]
enum Head {
    #[default]
    None,
    Help,
    Type,
    Samples,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if self.ended {
            return Err("something after # EOF");
        }
        if line == "# EOF" {
            self.ended = true;
            return self.is_whole();
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            return self.help(rest);
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            return self.kind(rest);
        }
        if line.starts_with('#') || line.is_empty() {
            return Err("neither a head nor a sample");
        }
        self.sample(line)
    }

    fn is_whole(&self) -> Result<(), &'static str> {
        match self.head {
            Head::None | Head::Samples => Ok(()),
            Head::Help | Head::Type => Err("a family without samples"),
        }
    }

    fn help(&mut self, rest: &str) -> Result<(), &'static str> {
        self.is_whole()?;
        let (name, help) = rest.split_once(' ').ok_or("no help")?;
        if help.trim().is_empty() {
            return Err("no help");
        }
        unescaped(help, false)?;
        if !is_name(name, true) {
            return Err("not a name");
        }
        if !self.seen.insert(name.to_owned()) {
            return Err("a family in two places");
        }
        (self.family, self.head) = (name.to_owned(), Head::Help);
        Ok(())
    }

    fn kind(&mut self, rest: &str) -> Result<(), &'static str> {
        let (name, kind) = rest.split_once(' ').ok_or("no type")?;
        if self.head != Head::Help || name != self.family {
            return Err("a type that does not follow its help");
        }
        match (kind, name.ends_with("_total")) {
            ("counter", true) | ("gauge", false) => {}
            ("counter", false) => return Err("a counter that does not end in _total"),
            ("gauge", true) => return Err("a gauge that ends in _total"),
            _ => return Err("not a type"),
        }
        self.head = Head::Type;
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), &'static str> {
        if !matches!(self.head, Head::Type | Head::Samples) {
            return Err("a sample without its head");
        }
        self.head = Head::Samples;
        let length = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(length);
        if name != self.family {
            return Err("a sample of another family");
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (BTreeMap::new(), rest),
        };
        let value = rest.strip_prefix(' ').ok_or("no value")?;
        let is_plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        if value.is_empty() || !value.bytes().all(is_plain) {
            return Err("not a number");
        }
        let value = value.parse().map_err(|_| "not a number")?;
        let sample = Sample {
            name: name.to_owned(),
            labels,
            value,
        };
        let known = |other: &Sample| other.name == sample.name && other.labels == sample.labels;
        if self.samples.iter().any(known) {
            return Err("a sample twice");
        }
        self.samples.push(sample);
        Ok(())
    }
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), &'static str> {
    let mut found = BTreeMap::new();
    loop {
        let (name, value) = rest.split_once("=\"").ok_or("no label")?;
        if !is_name(name, false) {
            return Err("not a label");
        }
        let length = quoted_len(value).ok_or("a value without its end")?;
        let text = unescaped(&value[..length], true)?;
        if found.insert(name.to_owned(), text).is_some() {
            return Err("a label twice");
        }
        let after = &value[length + 1..];
        if let Some(after) = after.strip_prefix('}') {
            return Ok((found, after));
        }
        rest = after.strip_prefix(',').ok_or("neither , nor }")?;
    }
}

/// How long a text is up to its closing quote.
fn quoted_len(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescaped(text: &str, quoted: bool) -> Result<String, &'static str> {
    let mut found = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            found.push(character);
            continue;
        }
        match characters.next() {
            Some('\\') => found.push('\\'),
            Some('n') => found.push('\n'),
            Some('"') if quoted => found.push('"'),
            _ => return Err("not an escape"),
        }
    }
    Ok(found)
}

fn is_name(text: &str, may_colon: bool) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_one = |byte: u8| is_first(byte) || byte.is_ascii_digit() || (may_colon && byte == b':');
    text.bytes().next().is_some_and(is_first) && text.bytes().all(is_one)
}

#[cfg(test)]
mod tests {
    use super::super::{Exposition, Kind};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut text = Exposition::default();
        let value = "a\"b\\c\nd,}= ";
        let mut family = text.family("x_total", Kind::Counter, "Back\\slash.");
        family.number(&[("one", value), ("two", "")], 3);
        family.number(&[("one", value), ("two", "2")], 4);
        text.family("y_seconds", Kind::Gauge, "Time.")
            .seconds(&[], 90_061);
        let samples = read(&text.end()).unwrap();
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].labels["one"], value);
        assert_eq!((samples[1].value, samples[2].value), (4.0, 90.061));
        assert!(samples[2].labels.is_empty());
    }

    #[test]
    fn what_a_careful_writer_does_not_write_is_an_error() {
        const HEAD: &str = "# HELP a x\n# TYPE a gauge\n";
        for (text, line, what) in [
            (String::new(), 0, "no # EOF"),
            ("# EOF".into(), 1, "no end of line"),
            ("# EOF\na 1\n".into(), 2, "something after # EOF"),
            ("a 1\n# EOF\n".into(), 1, "a sample without its head"),
            (
                format!("{HEAD}b 1\n# EOF\n"),
                3,
                "a sample of another family",
            ),
            (format!("{HEAD}# EOF\n"), 3, "a family without samples"),
            (format!("{HEAD}a 1\na 2\n# EOF\n"), 4, "a sample twice"),
            (
                format!("{HEAD}a 1\n{HEAD}a 1\n# EOF\n"),
                4,
                "a family in two places",
            ),
            (
                format!("{HEAD}a{{b=\"\\t\"}} 1\n# EOF\n"),
                3,
                "not an escape",
            ),
            (
                format!("{HEAD}a{{b=\"}} 1\n# EOF\n"),
                3,
                "a value without its end",
            ),
            (format!("{HEAD}a{{1=\"\"}} 1\n# EOF\n"), 3, "not a label"),
            (
                format!("{HEAD}a{{b=\"\",b=\"\"}} 1\n# EOF\n"),
                3,
                "a label twice",
            ),
            (format!("{HEAD}a -1\n# EOF\n"), 3, "not a number"),
            (format!("{HEAD}a 1 2\n# EOF\n"), 3, "not a number"),
            (
                "# HELP a x\n# TYPE a counter\na 1\n# EOF\n".into(),
                2,
                "a counter that does not end in _total",
            ),
            (
                "# HELP a_total x\n# TYPE a_total gauge\n".into(),
                2,
                "a gauge that ends in _total",
            ),
            (
                "# TYPE a gauge\na 1\n# EOF\n".into(),
                1,
                "a type that does not follow its help",
            ),
            ("# HELP a \n".into(), 1, "no help"),
            ("# note\n# EOF\n".into(), 1, "neither a head nor a sample"),
            ("\n# EOF\n".into(), 1, "neither a head nor a sample"),
        ] {
            assert_eq!(read(&text), Err(Problem { line, what }), "{text:?}");
        }
        assert_eq!(read("# EOF\n"), Ok(Vec::new()));
    }
}
