//! What a finished configuration deserves to be told: modules that are refused, parameters that do
//! something else here, and traps that look like protection.

use syncd_proto::message::Durability;
use syncd_proto::path::escaped;

use super::Reading;
use super::diagnostic::{Diagnostic, Located, Severity};
use super::model::{Config, Module, Text, expanded};
use super::parameters::{Key, Kind, PARAMETERS, Parameter, Scope, Standing};
use super::parse::{Section, Sections};
use super::remarks::{add, before_comment, severity_of};
use super::values::{Value, Values};
use crate::logic::{chmod, hosts, trash, users};

/// More agents than one module has.
const CONNECTIONS_MANY: i32 = 1_000;

/// Adds to the diagnostics, and to each module the reasons for which it is not served.
pub(super) fn review(
    sections: &Sections,
    config: &mut Config,
    reading: Reading,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for parameter in PARAMETERS.iter().filter(|row| row.scope == Scope::Global) {
        let severity = match parameter.standing {
            Standing::Refused => Severity::Error,
            _ => Severity::Warning,
        };
        if let Some(remark) = effect(parameter, &sections.defaults, severity) {
            add(diagnostics, remark);
        }
    }
    let Config {
        modules, variables, ..
    } = config;
    for (section, module) in sections.modules.iter().zip(modules) {
        let mut remarks = Vec::new();
        standings(section, &mut remarks);
        remarks.extend(comments(section));
        remarks.extend(missing(module));
        if reading == Reading::Strict {
            remarks.extend(open_to_all(module));
        }
        remarks.extend(traps(module));
        remarks.extend(certificate_rules(module, variables));
        remarks.extend(unreadable_chmod(module, variables));
        remarks.extend(not_durable(module));
        remarks.extend(unusable_trash(module, variables));
        remarks.extend(too_much_power(module));
        remarks.extend(any_certificate(module));
        remarks.extend(plain_links(module));
        remarks.extend(no_limit(module));
        module.refusals = remarks
            .iter()
            .filter(|remark| remark.severity == Severity::Refused)
            .cloned()
            .collect();
        for remark in remarks {
            add(diagnostics, remark);
        }
    }
}

fn standings(section: &Section, remarks: &mut Vec<Diagnostic>) {
    for parameter in PARAMETERS.iter().filter(|row| row.scope == Scope::Module) {
        let severity = match parameter.standing {
            Standing::Refused => Severity::Refused,
            _ => severity_of(parameter),
        };
        remarks.extend(effect(parameter, &section.values, severity));
    }
}

/// A remark on a parameter that is not honoured and has a value other than its default.
fn effect(parameter: &Parameter, values: &Values, severity: Severity) -> Option<Diagnostic> {
    if !matches!(parameter.standing, Standing::Warned | Standing::Refused) {
        return None;
    }
    let written = values.written(parameter.key)?;
    let has_effect = match (&written.value, parameter.kind) {
        (Value::Flag(value), Kind::Flag(default)) => *value != default,
        (Value::Choice(value), _) => *value == Some(true),
        (Value::Number(value), Kind::Number(default)) => *value != default,
        (Value::Text(text), _) => !text.is_empty(),
        _ => false,
    };
    has_effect.then(|| {
        let message = format!("`{}`: {}", parameter.name, parameter.remark);
        Diagnostic::new(severity, written.position.as_ref(), message)
    })
}

/// Text with what was probably meant as a comment. Lists have remarks of their own, the rest is for
/// people or a shell.
fn comments(section: &Section) -> Vec<Diagnostic> {
    [
        Key::Path,
        Key::SecretsFile,
        Key::Uid,
        Key::Gid,
        Key::AuthDigest,
        Key::Filter,
        Key::Include,
        Key::IncludeFrom,
        Key::Exclude,
        Key::ExcludeFrom,
        Key::IncomingChmod,
        Key::MaxDelete,
    ]
    .into_iter()
    .filter_map(|key| {
        let written = section.values.written(key)?;
        let Value::Text(text) = &written.value else {
            return None;
        };
        let name = key.parameter().name;
        let value = before_comment(text)?;
        let message = format!(
            "`{name}` is \"{}\": what follows a value is part of it",
            escaped(text)
        );
        let fix = format!(
            "write `{name} = {}`, and the comment on a line of its own",
            escaped(value)
        );
        Some(Diagnostic::new(Severity::Danger, written.position.as_ref(), message).fix(fix))
    })
    .collect()
}

/// What a module cannot be used without.
fn missing(module: &Module) -> Vec<Diagnostic> {
    let mut remarks = Vec::new();
    let name = escaped(&module.name.value);
    let at = module.name.position.as_ref();
    if !is_set(module.path.as_ref()) {
        let message = format!("[{name}] has no `path`: nobody can use it");
        remarks.push(Diagnostic::new(Severity::Warning, at, message).fix("add `path = /...`"));
    }
    if is_set(module.auth_users.as_ref()) && !is_set(module.secrets_file.as_ref()) {
        let message = format!("[{name}] has `auth users` but no `secrets file`: nobody can log in");
        remarks
            .push(Diagnostic::new(Severity::Warning, at, message).fix("add `secrets file = /...`"));
    }
    remarks
}

fn is_set(text: Option<&Located<Text>>) -> bool {
    text.is_some_and(|text| !text.value.as_written().is_empty())
}

/// Anybody with any certificate could write.
fn open_to_all(module: &Module) -> Option<Diagnostic> {
    let open = !module.read_only.value
        && !is_set(module.auth_users.as_ref())
        && !is_set(module.client_certs.as_ref())
        && !module.allow_any_certificate.value;
    open.then(|| {
        let message = format!(
            "[{}] is writable without `auth users` or `client certs`",
            escaped(&module.name.value)
        );
        Diagnostic::new(Severity::Refused, module.name.position.as_ref(), message)
            .fix("add one of them, or `allow any certificate = yes`")
    })
}

fn traps(module: &Module) -> Vec<Diagnostic> {
    let mut remarks = Vec::new();
    for (key, list) in [
        (Key::HostsAllow, &module.hosts_allow),
        (Key::HostsDeny, &module.hosts_deny),
    ] {
        let Some(list) = list else { continue };
        for word in hosts::words(list.value.as_written()) {
            if let Some(trap) = hosts::trap(word) {
                let message = format!("`{}`: \"{}\" {trap}", key.parameter().name, escaped(word));
                let remark = Diagnostic::new(Severity::Danger, list.position.as_ref(), message);
                remarks.push(commented(remark, key, word, list));
            }
        }
    }
    if let Some(list) = &module.auth_users {
        for remark in users::traps(list.value.as_written()) {
            let message = format!("`auth users`: {remark}");
            let word = if remark.starts_with("\"#") {
                &b"#"[..]
            } else {
                b""
            };
            let remark = Diagnostic::new(Severity::Danger, list.position.as_ref(), message);
            remarks.push(commented(remark, Key::AuthUsers, word, list));
        }
    }
    remarks.extend(neither_list(module));
    remarks
}

/// The remark, with the line as it was meant if `word` begins a comment.
fn commented(remark: Diagnostic, key: Key, word: &[u8], list: &Located<Text>) -> Diagnostic {
    match before_comment(list.value.as_written()) {
        Some(value) if word.starts_with(b"#") => remark.fix(format!(
            "write `{} = {}`, and the comment on a line of its own",
            key.parameter().name,
            escaped(value)
        )),
        _ => remark,
    }
}

/// Both lists are written, and the second does not hold everybody else.
fn neither_list(module: &Module) -> Option<Diagnostic> {
    let allow = module.hosts_allow.as_ref()?;
    let deny = module.hosts_deny.as_ref()?;
    let ends = hosts::words(deny.value.as_written()).any(|word| word == b"*");
    if ends || hosts::words(allow.value.as_written()).next().is_none() {
        return None;
    }
    let message = "with both `hosts allow` and `hosts deny`, a host on neither list is let in";
    let remark = Diagnostic::new(Severity::Danger, deny.position.as_ref(), message);
    Some(remark.fix("remove `hosts deny`, or write `hosts deny = *`"))
}

/// The whole machine, or root without walls.
fn too_much_power(module: &Module) -> Vec<Diagnostic> {
    let mut remarks = Vec::new();
    let written = |text: &Option<Located<Text>>| {
        text.as_ref()
            .map(|text| text.value.as_written().to_vec())
            .unwrap_or_default()
    };
    let path = written(&module.path);
    let parts = path.split(|byte| *byte == b'/');
    if path.starts_with(b"/") && parts.into_iter().all(|part| matches!(part, b"" | b".")) {
        let at = module.path.as_ref().and_then(|path| path.position.as_ref());
        let message = "`path = /`: the module is the whole machine";
        remarks.push(
            Diagnostic::new(Severity::Danger, at, message).fix("name the directory that is meant"),
        );
    }
    let uid = written(&module.uid);
    let is_root = uid == b"root" || !uid.is_empty() && uid.iter().all(|byte| *byte == b'0');
    if is_root && module.use_chroot.value == Some(false) {
        let at = module.uid.as_ref().and_then(|uid| uid.position.as_ref());
        let message =
            "`uid = root` with `use chroot = no`: who may write here works as root, without walls";
        remarks.push(
            Diagnostic::new(Severity::Danger, at, message)
                .fix("take another `uid`, or remove `use chroot = no`"),
        );
    }
    remarks
}

/// Anybody with any certificate may write, and that was asked for.
fn any_certificate(module: &Module) -> Option<Diagnostic> {
    let open = !module.read_only.value
        && !is_set(module.auth_users.as_ref())
        && !is_set(module.client_certs.as_ref())
        && module.allow_any_certificate.value;
    open.then(|| {
        let at = module.allow_any_certificate.position.as_ref();
        let name = escaped(&module.name.value);
        let message =
            format!("[{name}] is writable by everybody who has a certificate of the authority");
        Diagnostic::new(Severity::Danger, at, message).fix("add `auth users` or `client certs`")
    })
}

/// A number that nobody ever reaches.
fn no_limit(module: &Module) -> Option<Diagnostic> {
    let number = module.max_connections.value;
    (number > CONNECTIONS_MANY).then(|| {
        let message = format!(
            "`max connections = {number}` limits nothing: an agent has one connection for each of its targets"
        );
        let at = module.max_connections.position.as_ref();
        Diagnostic::new(Severity::Warning, at, message)
            .fix("write how many agents there are, and some more")
    })
}

/// Links lead wherever the agent says, and nothing but this receiver's own care holds them.
fn plain_links(module: &Module) -> Option<Diagnostic> {
    let plain = module.munge_symlinks.value == Some(false)
        && module.use_chroot.value == Some(false)
        && !module.read_only.value;
    plain.then(|| {
        let name = escaped(&module.name.value);
        let message = format!(
            "[{name}] `munge symlinks = no` without chroot: targets are stored as they are, while rsync cuts those that lead out of the module; this receiver follows none, other programs may"
        );
        let at = module.munge_symlinks.position.as_ref();
        Diagnostic::new(Severity::Warning, at, message)
            .fix("`munge symlinks = yes` keeps everybody from following them")
    })
}

fn certificate_rules(module: &Module, variables: &super::Variables) -> Option<Diagnostic> {
    let list = expanded(module.client_certs.as_ref(), variables)?;
    let problem = users::CertRules::parse(&list).err()?;
    let at = module
        .client_certs
        .as_ref()
        .and_then(|list| list.position.as_ref());
    let message = format!("`client certs`: {problem}");
    Some(Diagnostic::new(Severity::Refused, at, message))
}

fn unreadable_chmod(module: &Module, variables: &super::Variables) -> Option<Diagnostic> {
    let text = expanded(module.incoming_chmod.as_ref(), variables)?;
    let problem = chmod::Chmod::parse(&text).err()?;
    let at = module
        .incoming_chmod
        .as_ref()
        .and_then(|text| text.position.as_ref());
    let message = format!("`incoming chmod`: {problem}: the whole value is ignored, as rsync does");
    Some(
        Diagnostic::new(Severity::Danger, at, message)
            .fix("write it without blanks, like D755,F644"),
    )
}

/// A trash that no module can have.
fn unusable_trash(module: &Module, variables: &super::Variables) -> Option<Diagnostic> {
    let text = expanded(module.trash.as_ref(), variables)?;
    let at = module
        .trash
        .as_ref()
        .and_then(|trash| trash.position.as_ref());
    let root = expanded(module.path.as_ref(), variables).unwrap_or_default();
    let message = match trash::place(&text, &root) {
        Err(problem) => format!("`trash` {}: {problem}", escaped(&text)),
        // A symlink in the module that leads there would be walked through.
        Ok(Some(trash::Place::Within(_))) if module.keep_dirlinks.value => {
            "`trash` in the module does not go with `keep dirlinks`".to_owned()
        }
        Ok(_) => return None,
    };
    let remark = Diagnostic::new(Severity::Refused, at, message);
    Some(remark.fix("name a directory beside the module, on its file system"))
}

fn not_durable(module: &Module) -> Option<Diagnostic> {
    (module.durability.value == Durability::None).then(|| {
        let at = module.durability.position.as_ref();
        let message = "`durability = none`: what is acknowledged may be lost in a power cut";
        Diagnostic::new(Severity::Danger, at, message)
    })
}
