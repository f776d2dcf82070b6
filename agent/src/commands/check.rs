//! `check`: whether a configuration would work here and now, one line for each thing that was looked at.
//!
//! Nothing is mirrored. Targets are called as `run` would, up to their `Welcome`.

mod local;
mod reach;

use std::fmt;

use serde_json::json;

use super::{print, run_config};
use crate::cli::CheckArgs;
use crate::error::Fatal;
use crate::logic::config::Config;

/// It would work, but somebody should look at something.
const EXIT_WARNED: u8 = 1;
/// Something would not work.
const EXIT_BROKEN: u8 = 2;

/// Looks at everything. Exit codes: 0 it works, 1 there are warnings, 2 something does not work; 66 and 78 as for
/// `run` if the configuration itself cannot be used.
pub(super) fn run(args: CheckArgs) -> Result<u8, Fatal> {
    let (json, syntax, offline) = (args.json, args.syntax, args.offline);
    let config = run_config(args.run)?;
    let mut report = Report::default();
    report.add(Finding::well("configuration", described(&config)));
    if !syntax {
        local::limits(&config, &mut report);
        local::sources(&config, &mut report);
        let running = local::control(&config, &mut report);
        let ready = local::credentials(&config, &mut report);
        if !offline {
            reach::targets(&config, &ready, running, &mut report)?;
        }
    }
    print(&match json {
        true => report.to_json(),
        false => report.to_string(),
    })?;
    Ok(report.exit_code())
}

fn described(config: &Config) -> String {
    let targets: usize = config
        .sources
        .iter()
        .map(|source| source.targets.len())
        .sum();
    format!(
        "{}, {}",
        counted(config.sources.len(), "source"),
        counted(targets, "target")
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Well,
    Warned,
    Broken,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Warned => "warning",
            Self::Broken => "FAILED",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    level: Level,
    subject: String,
    text: String,
    fix: Option<String>,
}

impl Finding {
    fn well(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            level: Level::Well,
            subject: subject.into(),
            text: text.into(),
            fix: None,
        }
    }

    fn warned(subject: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Warned,
            fix: Some(fix.into()),
            ..Self::well(subject, text)
        }
    }

    fn broken(subject: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Broken,
            ..Self::warned(subject, text, fix)
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    fn exit_code(&self) -> u8 {
        match self.0.iter().map(|finding| finding.level).max() {
            Some(Level::Broken) => EXIT_BROKEN,
            Some(Level::Warned) => EXIT_WARNED,
            Some(Level::Well) | None => 0,
        }
    }

    fn to_json(&self) -> String {
        let findings = self.0.iter().map(|finding| {
            json!({
                "level": finding.level.name(),
                "subject": finding.subject,
                "text": finding.text,
                "fix": finding.fix,
            })
        });
        let findings: Vec<_> = findings.collect();
        format!("{:#}\n", json!({ "findings": findings }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            let level = finding.level.name();
            write!(f, "{level:<8}{}: {}", finding.subject, finding.text)?;
            match &finding.fix {
                Some(fix) => writeln!(f, "; {fix}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
