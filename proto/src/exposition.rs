//! The text that Prometheus reads (exposition format 0.0.4): how both programs write their metrics, and a strict
//! reader of it for whoever checks them.
//!
//! The last line is `# EOF`: a comment to Prometheus, and the end of a text that is whole to everybody else.

use std::fmt::Write;

mod read;

pub use read::{Problem, Sample, read};

/// What kind of number a family of samples is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and begins at 0 with the program; its name ends in `_total`.
    Counter,
    /// Anything.
    Gauge,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A label's name and its value, which may be any text.
pub type Label<'a> = (&'static str, &'a str);

/// A text that is being written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A family in it: samples of one name.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Exposition {
    /// The next family; without a sample nothing is said of it. Each name is used once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family {
            text: &mut self.text,
            name,
            kind,
            help,
            begun: false,
        }
    }

    /// The whole text.
    #[must_use]
    pub fn end(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

impl Family<'_> {
    /// A number.
    pub fn number(&mut self, labels: &[Label<'_>], value: u64) {
        self.sample(labels, &value.to_string());
    }

    /// Seconds, of milliseconds.
    pub fn seconds(&mut self, labels: &[Label<'_>], ms: u64) {
        let (whole, rest) = (ms / 1_000, ms % 1_000);
        self.sample(labels, &format!("{whole}.{rest:03}"));
    }

    fn sample(&mut self, labels: &[Label<'_>], value: &str) {
        let (name, kind) = (self.name, self.kind.word());
        if !self.begun {
            self.begun = true;
            let _ = write!(self.text, "# HELP {name} ");
            escape(self.help, false, self.text);
            let _ = write!(self.text, "\n# TYPE {name} {kind}\n");
        }
        self.text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            escape(value, true, self.text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Writes a text so that it stays on its line, and between its quotes.
fn escape(text: &str, quoted: bool, out: &mut String) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_heads_and_samples_and_the_text_an_end() {
        let mut text = Exposition::default();
        let mut family = text.family("a_total", Kind::Counter, "How \\ often.");
        family.number(&[], 7);
        family.number(&[("path", "a\"b\\c\nd"), ("e", "")], u64::MAX);
        text.family("none", Kind::Gauge, "Nothing.");
        text.family("b_seconds", Kind::Gauge, "How long.")
            .seconds(&[], 1_023);
        let expected = "# HELP a_total How \\\\ often.\n# TYPE a_total counter\na_total 7\n\
            a_total{path=\"a\\\"b\\\\c\\nd\",e=\"\"} 18446744073709551615\n\
            # HELP b_seconds How long.\n# TYPE b_seconds gauge\nb_seconds 1.023\n# EOF\n";
        assert_eq!(text.end(), expected);
        assert_eq!(Exposition::default().end(), "# EOF\n");
    }
}
