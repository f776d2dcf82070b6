//! [`Draft`]: a configuration in the making, each setting with the reason for it.

use std::fmt;
use std::sync::Arc;

use crate::logic::filter::{Filter, Origin, Rules, Statement};

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It has nothing to say here.
    Nothing,
    /// The same happens here.
    Kept,
    /// Something else happens here, or in another way.
    Differs,
    /// Somebody has to look at it before the result is used.
    Danger,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no meaning here",
            Self::Kept => "kept",
            Self::Differs => "differs",
            Self::Danger => "DANGER",
        })
    }
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Its line, from 1.
    pub line: usize,
}

/// What became of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Where it stands.
    pub at: At,
    /// What became of it.
    pub verdict: Verdict,
    /// The setting as it was written, shortened.
    pub setting: String,
    /// Why, or what to do; may be empty.
    pub text: String,
}

/// So much of a setting is shown.
const SETTING_CHARS_MAX: usize = 100;

impl Remark {
    pub(super) fn new(
        at: &At,
        verdict: Verdict,
        setting: impl AsRef<str>,
        text: impl Into<String>,
    ) -> Self {
        let setting = setting.as_ref();
        let mut shown: String = setting.chars().take(SETTING_CHARS_MAX).collect();
        if shown.len() < setting.len() {
            shown.push_str("...");
        }
        Self {
            at: at.clone(),
            verdict,
            setting: shown,
            text: text.into(),
        }
    }
}

impl fmt::Display for Remark {
    /// One line, whatever was written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, setting) = (one_line(&self.at.file), one_line(&self.setting));
        write!(f, "{file}:{}: {}: {setting}", self.at.line, self.verdict)?;
        match &self.text[..] {
            "" => Ok(()),
            text => write!(f, ": {}", one_line(text)),
        }
    }
}

/// The text without anything that could end a comment or turn it round; a backslash stays one, for regular
/// expressions.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        let odd = letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        match letter {
            '\t' => line.push(' '),
            letter if odd => line.extend(letter.escape_unicode()),
            letter => line.push(letter),
        }
    }
    line
}

/// A value of `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
}

/// A key of `agent.toml`, its value and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) value: Value,
    pub(super) why: Remark,
}

impl Setting {
    pub(super) fn new(key: &'static str, value: Value, mut why: Remark) -> Self {
        // What was no UTF-8 in the file.
        if matches!(&value, Value::Text(text) if text.contains('\u{fffd}')) {
            why.verdict = Verdict::Danger;
            why.text = "some bytes of it are not UTF-8: write it anew".to_owned();
        }
        Self { key, value, why }
    }
}

/// A receiver to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetDraft {
    pub(super) remarks: Vec<Remark>,
    /// `to` and what the configuration said beside it.
    pub(super) settings: Vec<Setting>,
    /// Whether another target of the draft is the same place.
    pub(super) is_twice: bool,
}

/// A source to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceDraft {
    pub(super) remarks: Vec<Remark>,
    pub(super) settings: Vec<Setting>,
    /// Rules in the filter language, each with its reason.
    pub(super) rules: Vec<(String, Remark)>,
    pub(super) targets: Vec<TargetDraft>,
}

impl SourceDraft {
    /// Whether it has what a source needs.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.settings.iter().any(|setting| setting.key == "path")
            && self.targets.iter().any(TargetDraft::is_whole)
    }
}

impl SourceDraft {
    /// Rules that cannot be rules become remarks.
    fn check_rules(&mut self) {
        let remarks = &mut self.remarks;
        self.rules.retain(|(rule, why)| match unusable(rule) {
            None => true,
            Some(problem) => {
                let text = format!("no rule: {problem}; it is left out");
                remarks.push(Remark::new(&why.at, Verdict::Danger, &why.setting, text));
                false
            }
        });
    }
}

/// Why a line of `filter` cannot be used; files that it names are looked at when the agent starts.
fn unusable(rule: &str) -> Option<String> {
    if rule.is_empty() {
        return Some("it is empty".to_owned());
    }
    let mut rules = Rules::default();
    rules.push(
        Statement::Filter(rule.as_bytes().to_vec()),
        Origin::option("filter"),
    );
    let compiled = Filter::compile(&rules, &mut |_| Ok(Vec::new()));
    compiled.err().map(|error| error.to_string())
}

impl TargetDraft {
    pub(super) fn is_whole(&self) -> bool {
        !self.is_twice && self.to().is_some()
    }

    pub(super) fn to(&self) -> Option<&str> {
        self.settings
            .iter()
            .find_map(|setting| match &setting.value {
                Value::Text(text) if setting.key == "to" => Some(&text[..]),
                _ => None,
            })
    }
}

/// A configuration in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Whose settings these are.
    pub(super) program: &'static str,
    /// What concerns no single source.
    pub(super) remarks: Vec<Remark>,
    /// In the order of the files.
    pub(super) sources: Vec<SourceDraft>,
}

impl Draft {
    pub(super) fn new(program: &'static str) -> Self {
        Self {
            program,
            remarks: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Adds another draft of the same program.
    pub fn extend(&mut self, other: Self) {
        self.remarks.extend(other.remarks);
        self.sources.extend(other.sources);
        self.finish();
    }

    /// Every remark.
    pub fn remarks(&self) -> impl Iterator<Item = &Remark> {
        let of_sources = self.sources.iter().flat_map(|source| {
            let of_targets = source.targets.iter().flat_map(|target| {
                let settings = target.settings.iter().map(|setting| &setting.why);
                target.remarks.iter().chain(settings)
            });
            let settings = source.settings.iter().map(|setting| &setting.why);
            let rules = source.rules.iter().map(|(_, why)| why);
            source
                .remarks
                .iter()
                .chain(settings)
                .chain(rules)
                .chain(of_targets)
        });
        self.remarks.iter().chain(of_sources)
    }

    /// Whether anything came out that an agent could run.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.sources.iter().any(SourceDraft::is_whole)
    }

    /// Whether somebody has to look at it first.
    #[must_use]
    pub fn is_dangerous(&self) -> bool {
        self.remarks()
            .any(|remark| remark.verdict == Verdict::Danger)
    }

    /// Takes out what no agent would take, and says so.
    pub(super) fn finish(&mut self) {
        for source in &mut self.sources {
            source.check_rules();
        }
        self.find_twice();
    }

    /// Two writers of one place would undo each other.
    fn find_twice(&mut self) {
        let mut known: Vec<String> = Vec::new();
        for target in self
            .sources
            .iter_mut()
            .flat_map(|source| &mut source.targets)
        {
            let Some(to) = target.to() else { continue };
            let place = to.rsplit_once('@').map_or(to, |(_, place)| place);
            if !known.iter().any(|known| known == place) {
                known.push(place.to_owned());
                continue;
            }
            if target.is_twice {
                continue;
            }
            let why = &target.settings[0].why;
            let text = "another source goes there already, and two writers of one place would undo each other; \
                        give each its own directory (HOST::MODULE/DIR) or module";
            let remark = Remark::new(&why.at, Verdict::Danger, to, text);
            target.remarks.push(remark);
            target.is_twice = true;
        }
    }
}
