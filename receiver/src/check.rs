//! `syncd-recv check`: what a configuration means, for people or as JSON.

mod machine;
mod table;

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use syncd_proto::path::escaped;

use crate::front::accounts::Me;
use crate::front::{credentials, reload};
use crate::fs::config;
use crate::logic::rsyncd_conf::{Config, Diagnostic, Module, Severity, Written};

use table::{At, Became, rows};

/// All is served, but something opens more than was meant.
const DANGEROUS: u8 = 1;

/// Some module is not served, or none.
const REFUSED: u8 = 2;

/// Looks at a configuration, its modules and its TLS files, and prints what there is to say.
///
/// Exit codes: 0 all is well; 1 there are dangers; 2 some module is not served, or the receiver would not
/// start.
#[must_use]
pub fn run(path: &Path, as_json: bool) -> ExitCode {
    let report = Report::of(path);
    if as_json {
        println!("{:#}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    report.exit_code()
}

struct Report {
    diagnostics: Vec<Diagnostic>,
    written: Vec<Written>,
    config: Option<Config>,
    /// Modules that nobody could use on this machine as it is.
    unserved: Vec<Vec<u8>>,
}

impl Report {
    fn of(path: &Path) -> Self {
        match config::read(path) {
            Err(unusable) => Self {
                diagnostics: unusable.diagnostics,
                written: Vec::new(),
                config: None,
                unserved: Vec::new(),
            },
            Ok(loaded) => {
                let mut diagnostics = loaded.diagnostics;
                let tls = credentials::load(&reload::files(&loaded.config), Me::now());
                if let Err(text) = tls {
                    diagnostics.push(Diagnostic::new(Severity::Error, None, text));
                }
                let mut unserved = Vec::new();
                for module in &loaded.config.modules {
                    let remarks = machine::look(module, &loaded.config, Me::now());
                    let refused = |remark: &Diagnostic| remark.severity == Severity::Refused;
                    if remarks.iter().any(refused) {
                        unserved.push(module.name.value.clone());
                    }
                    diagnostics.extend(remarks);
                }
                // As they stand in the files; what has no place comes first.
                diagnostics.sort_by_cached_key(|remark| remark.position.clone());
                Self {
                    diagnostics,
                    written: loaded.written,
                    config: Some(loaded.config),
                    unserved,
                }
            }
        }
    }

    fn exit_code(&self) -> ExitCode {
        let worst = self.diagnostics.iter().map(|remark| remark.severity).max();
        match worst {
            Some(Severity::Error | Severity::Refused) => ExitCode::from(REFUSED),
            Some(Severity::Danger) => ExitCode::from(DANGEROUS),
            _ => ExitCode::SUCCESS,
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            let _ = writeln!(text, "{diagnostic}");
        }
        if !self.written.is_empty() {
            text.push_str("\nparameters, as written:\n");
        }
        for written in &self.written {
            let _ = writeln!(text, "  {}", Became::of(written));
        }
        for module in self.modules() {
            let _ = writeln!(
                text,
                "\n[{}]{}",
                escaped(&module.name.value),
                At(&module.name.position)
            );
            for row in rows(module, Me::now().is_root()) {
                let _ = writeln!(text, "  {row}");
            }
        }
        let count = |severity| {
            let same = |remark: &&Diagnostic| remark.severity == severity;
            self.diagnostics.iter().filter(same).count()
        };
        let counts = [
            counted(self.modules().len(), "module", "modules"),
            counted(count(Severity::Error), "error", "errors"),
            counted(count(Severity::Refused), "refused", "refused"),
            counted(count(Severity::Danger), "danger", "dangers"),
            counted(count(Severity::Warning), "warning", "warnings"),
        ];
        let _ = writeln!(text, "\n{}", counts.join(", "));
        text
    }

    fn to_json(&self) -> Value {
        let diagnostics: Vec<Value> = self.diagnostics.iter().map(diagnostic_json).collect();
        let modules = self.modules().iter().map(|module| {
            let is_served =
                module.refusals.is_empty() && !self.unserved.contains(&module.name.value);
            table::module_json(module, Me::now().is_root(), is_served)
        });
        let modules: Vec<Value> = modules.collect();
        let written = self
            .written
            .iter()
            .map(|written| Became::of(written).to_json());
        let written: Vec<Value> = written.collect();
        json!({ "diagnostics": diagnostics, "parameters": written, "modules": modules })
    }

    fn modules(&self) -> &[Module] {
        self.config.as_ref().map_or(&[], |config| &config.modules)
    }
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn diagnostic_json(diagnostic: &Diagnostic) -> Value {
    let position = diagnostic.position.as_ref();
    json!({
        "severity": diagnostic.severity.to_string().to_lowercase(),
        "file": position.map(|position| escaped(&position.file)),
        "line": position.map(|position| position.line),
        "column": position.map(|position| position.column),
        "message": diagnostic.message,
        "fix": diagnostic.fix,
    })
}
