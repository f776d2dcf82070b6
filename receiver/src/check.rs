//! `syncd-recv check`: what a configuration means, for people or as JSON.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use syncd_proto::message::Durability;
use syncd_proto::path::escaped;

use crate::front::accounts::Me;
use crate::front::{credentials, policy, reload};
use crate::fs::config;
use crate::logic::removals::MaxDelete;
use crate::logic::rsyncd_conf::{
    Config, Diagnostic, Located, Module, Parameter, Severity, Standing, Text, Written,
};
use crate::logic::trash::{self, Place};

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
}

impl Report {
    fn of(path: &Path) -> Self {
        match config::read(path) {
            Err(unusable) => Self {
                diagnostics: unusable.diagnostics,
                written: Vec::new(),
                config: None,
            },
            Ok(loaded) => {
                let mut diagnostics = loaded.diagnostics;
                let tls = credentials::load(&reload::files(&loaded.config), Me::now());
                if let Err(text) = tls {
                    diagnostics.push(Diagnostic::new(Severity::Error, None, text));
                }
                let missing = loaded.config.modules.iter().filter_map(missing_path);
                diagnostics.extend(missing);
                diagnostics.extend(loaded.config.modules.iter().filter_map(open_secrets));
                let elsewhere = |module| trash_elsewhere(module, &loaded.config);
                diagnostics.extend(loaded.config.modules.iter().filter_map(elsewhere));
                let unusable = |module| unusable_filters(module, &loaded.config);
                diagnostics.extend(loaded.config.modules.iter().filter_map(unusable));
                Self {
                    diagnostics,
                    written: loaded.written,
                    config: Some(loaded.config),
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
                at(&module.name)
            );
            for row in rows(module) {
                let _ = writeln!(text, "  {:<16} {}{}", row.name, row.value, row.at);
            }
        }
        let count = |severity| {
            let same = |remark: &&Diagnostic| remark.severity == severity;
            self.diagnostics.iter().filter(same).count()
        };
        let _ = writeln!(
            text,
            "\n{} modules, {} errors, {} refused, {} dangers, {} warnings",
            self.modules().len(),
            count(Severity::Error),
            count(Severity::Refused),
            count(Severity::Danger),
            count(Severity::Warning),
        );
        text
    }

    fn to_json(&self) -> Value {
        let diagnostics: Vec<Value> = self.diagnostics.iter().map(diagnostic_json).collect();
        let modules: Vec<Value> = self.modules().iter().map(module_json).collect();
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

/// A directory that is not there. A path that depends on the connection is not looked at.
fn missing_path(module: &Module) -> Option<Diagnostic> {
    let path = module.path.as_ref()?;
    let written = path.value.as_written();
    if written.is_empty() || written.contains(&b'%') || OsStr::from_bytes(written).is_empty() {
        return None;
    }
    let why = match std::fs::metadata(OsStr::from_bytes(written)) {
        Ok(found) if found.is_dir() => return None,
        Ok(_) => "not a directory".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("`path` {}: {why}", escaped(written));
    Some(Diagnostic::new(
        Severity::Refused,
        path.position.as_ref(),
        message,
    ))
}

/// A secrets file that everybody may read or change.
fn open_secrets(module: &Module) -> Option<Diagnostic> {
    let file = module.secrets_file.as_ref()?;
    let written = file.value.as_written();
    if written.contains(&b'%') {
        return None;
    }
    let mode = std::fs::metadata(OsStr::from_bytes(written)).ok()?.mode();
    if mode & 0o006 == 0 {
        return None;
    }
    let follows = if module.strict_modes.value {
        "nobody can log in"
    } else {
        "and `strict modes = no` lets that pass"
    };
    let message = format!(
        "`secrets file` {}: others may read or write it (mode {:04o}): {follows}",
        escaped(written),
        mode & 0o7777
    );
    let remark = Diagnostic::new(Severity::Danger, file.position.as_ref(), message);
    Some(remark.fix("chmod 600 it"))
}

/// A trash on another file system, or none where there should be one. What depends on the connection is not
/// looked at.
fn trash_elsewhere(module: &Module, config: &Config) -> Option<Diagnostic> {
    let (path, trash) = (module.path.as_ref()?, module.trash.as_ref()?);
    let root = path.value.expand(&config.variables);
    let written = trash.value.expand(&config.variables);
    if root.contains(&b'%') || written.contains(&b'%') {
        return None;
    }
    let root = Path::new(OsStr::from_bytes(&root));
    let (place, is_made) = match trash::place(&written, root.as_os_str().as_bytes()).ok()?? {
        Place::Within(below) => (root.join(below.to_path_buf()), true),
        Place::At(path) => (Path::new(OsStr::from_bytes(&path)).to_path_buf(), false),
    };
    let module_dev = std::fs::metadata(root).ok()?.dev();
    let why = match std::fs::symlink_metadata(&place) {
        Err(error) if is_made && error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
        Ok(found) if !found.is_dir() && is_made => "not a directory".to_owned(),
        Ok(_) => match std::fs::metadata(&place) {
            Ok(found) if !found.is_dir() => "not a directory".to_owned(),
            Ok(found) if found.dev() == module_dev => return None,
            Ok(_) => "not on the module's file system".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    let message = format!("`trash` {}: {why}", escaped(&written));
    let remark = Diagnostic::new(Severity::Refused, trash.position.as_ref(), message);
    Some(remark.fix("name a directory on the module's file system"))
}

/// Filter rules that stop the module from being served. What depends on the connection is not looked at.
fn unusable_filters(module: &Module, config: &Config) -> Option<Diagnostic> {
    let why = policy::filters(module, &config.variables).err()?;
    let texts = [
        &module.filter,
        &module.include_from,
        &module.include,
        &module.exclude_from,
        &module.exclude,
    ];
    let written = texts.into_iter().flatten();
    let depends = |text: &Located<Text>| {
        text.value
            .expand(&config.variables)
            .windows(7)
            .any(|part| part == b"%RSYNC_")
    };
    if written.clone().any(depends) {
        return None;
    }
    let at = written.filter_map(|text| text.position.as_ref()).next();
    let message = format!("filter rules: {why}");
    Some(Diagnostic::new(Severity::Refused, at, message).fix("rsync drops every transfer then"))
}

/// What becomes of a parameter.
struct Became<'a> {
    written: &'a Written,
    parameter: &'static Parameter,
}

impl<'a> Became<'a> {
    fn of(written: &'a Written) -> Self {
        Self {
            written,
            parameter: written.key.parameter(),
        }
    }

    fn standing(&self) -> &'static str {
        match self.parameter.standing {
            Standing::Honoured => "honoured",
            Standing::Accepted => "ignored",
            Standing::Warned => "differs",
            Standing::Refused => "refused",
        }
    }

    fn to_json(&self) -> Value {
        let position = &self.written.position;
        json!({
            "name": self.parameter.name,
            "module": self.written.module.as_deref().map(escaped),
            "file": escaped(&position.file),
            "line": position.line,
            "standing": self.standing(),
            "remark": self.parameter.remark,
        })
    }
}

impl fmt::Display for Became<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (standing, name) = (self.standing(), self.parameter.name);
        write!(f, "{}: {standing}: {name}", self.written.position)?;
        match self.parameter.remark {
            "" => Ok(()),
            remark => write!(f, ": {remark}"),
        }
    }
}

struct Row {
    name: &'static str,
    value: String,
    at: String,
}

/// What is in force for a module; parameters that are unset and do nothing are left out.
fn rows(module: &Module) -> Vec<Row> {
    let texts = [
        ("path", &module.path),
        ("comment", &module.comment),
        ("hosts allow", &module.hosts_allow),
        ("hosts deny", &module.hosts_deny),
        ("client certs", &module.client_certs),
        ("auth users", &module.auth_users),
        ("secrets file", &module.secrets_file),
        ("uid", &module.uid),
        ("gid", &module.gid),
        ("incoming chmod", &module.incoming_chmod),
        ("filter", &module.filter),
        ("include from", &module.include_from),
        ("include", &module.include),
        ("exclude from", &module.exclude_from),
        ("exclude", &module.exclude),
        ("early exec", &module.early_exec),
        ("pre-xfer exec", &module.pre_xfer_exec),
        ("post-xfer exec", &module.post_xfer_exec),
        ("log file", &module.log_file),
        ("trash", &module.trash),
    ];
    let mut rows: Vec<Row> = texts
        .iter()
        .filter_map(|(name, text)| text_row(name, text))
        .collect();
    let mut push = |name, value: String, at: String| rows.push(Row { name, value, at });
    if module.fake_super.value {
        push("fake super", yes_no(true), at(&module.fake_super));
    }
    if module.transfer_logging.value {
        push(
            "transfer logging",
            yes_no(true),
            at(&module.transfer_logging),
        );
    }
    if let Some(limit) = &module.max_delete {
        let value = match limit.value {
            MaxDelete::Count(count) => count.to_string(),
            MaxDelete::Percent(percent) => format!("{percent}%"),
        };
        push("max delete", value, at(limit));
    }
    push(
        "read only",
        yes_no(module.read_only.value),
        at(&module.read_only),
    );
    push("list", yes_no(module.list.value), at(&module.list));
    push(
        "strict modes",
        yes_no(module.strict_modes.value),
        at(&module.strict_modes),
    );
    push(
        "use chroot",
        three_state(module.use_chroot.value),
        at(&module.use_chroot),
    );
    push(
        "numeric ids",
        three_state(module.numeric_ids.value),
        at(&module.numeric_ids),
    );
    push(
        "max connections",
        module.max_connections.value.to_string(),
        at(&module.max_connections),
    );
    push(
        "timeout",
        format!("{} s", module.timeout_s.value),
        at(&module.timeout_s),
    );
    push(
        "durability",
        durability(module.durability.value).to_owned(),
        at(&module.durability),
    );
    push(
        "shared writers",
        yes_no(module.shared_writers.value),
        at(&module.shared_writers),
    );
    push(
        "keep dirlinks",
        yes_no(module.keep_dirlinks.value),
        at(&module.keep_dirlinks),
    );
    if let Some(keep) = &module.trash_keep_s {
        push("trash keep", format!("{} s", keep.value), at(keep));
    }
    push("devices", yes_no(module.devices.value), at(&module.devices));
    rows
}

fn text_row(name: &'static str, text: &Option<Located<Text>>) -> Option<Row> {
    let text = text.as_ref()?;
    Some(Row {
        name,
        value: escaped(text.value.as_written()),
        at: at(text),
    })
}

fn at<T>(located: &Located<T>) -> String {
    match &located.position {
        Some(position) => format!("  ({position})"),
        None => "  (default)".to_owned(),
    }
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn three_state(value: Option<bool>) -> String {
    value.map_or_else(|| "unset".to_owned(), yes_no)
}

fn durability(value: Durability) -> &'static str {
    match value {
        Durability::Batch => "batch",
        Durability::Files => "files",
        Durability::None => "none",
    }
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

fn module_json(module: &Module) -> Value {
    let parameters: serde_json::Map<String, Value> = rows(module)
        .into_iter()
        .map(|row| (row.name.to_owned(), Value::String(row.value)))
        .collect();
    json!({
        "name": escaped(&module.name.value),
        "served": module.refusals.is_empty(),
        "parameters": parameters,
    })
}
