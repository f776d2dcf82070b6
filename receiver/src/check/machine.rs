//! What a configuration meets on this machine: directories, secrets, accounts, files of rules.
//!
//! What depends on the connection (`%RSYNC_...%`) is not looked at.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use syncd_proto::path::escaped;

use crate::front::accounts::Me;
use crate::front::policy;
use crate::fs::secrets;
use crate::logic::rsyncd_conf::{Config, Diagnostic, Located, Module, Severity, Text};
use crate::logic::secrets::Secrets;
use crate::logic::trash::{self, Place};
use crate::logic::users;
use crate::relay::RunAs;

/// Everything there is to say of a module.
pub(super) fn look(module: &Module, config: &Config, me: Me) -> Vec<Diagnostic> {
    let mut remarks = Vec::new();
    let run_as = accounts(module, config, me).unwrap_or_else(|remark| {
        remarks.push(remark);
        None
    });
    remarks.extend(directory(module, config, run_as.as_ref()));
    remarks.extend(login(module, config));
    remarks.extend(unusable_filters(module, config));
    remarks.extend(trash_elsewhere(module, config));
    remarks
}

/// The text as it is used, if that does not depend on the connection; `None` also if it is empty.
fn known(text: Option<&Located<Text>>, config: &Config) -> Option<Vec<u8>> {
    let text = text?.value.expand(&config.variables);
    let depends = text.windows(7).any(|part| part == b"%RSYNC_");
    (!depends && !text.is_empty()).then_some(text)
}

fn say(
    severity: Severity,
    module: &Module,
    at: Option<&Located<Text>>,
    message: String,
) -> Diagnostic {
    let at = at.and_then(|text| text.position.as_ref());
    let at = at.or(module.name.position.as_ref());
    let name = escaped(&module.name.value);
    Diagnostic::new(severity, at, format!("[{name}] {message}"))
}

/// The ids of its worker; `None` where they stay as they are or cannot be known.
fn accounts(module: &Module, config: &Config, me: Me) -> Result<Option<RunAs>, Diagnostic> {
    let depends =
        |text: &Option<Located<Text>>| text.is_some() && known(text.as_ref(), config).is_none();
    let is_empty = |text: &Option<Located<Text>>| {
        text.as_ref()
            .is_some_and(|text| text.value.as_written().is_empty())
    };
    let open = |text: &Option<Located<Text>>| depends(text) && !is_empty(text);
    if open(&module.uid) || open(&module.gid) {
        return Ok(None);
    }
    let uid = known(module.uid.as_ref(), config);
    let gid = known(module.gid.as_ref(), config);
    me.run_as(uid.as_deref(), gid.as_deref()).map_err(|why| {
        let at = match why.text.contains("gid") || why.text.contains("groups") {
            true => module.gid.as_ref(),
            false => module.uid.as_ref(),
        };
        let message = format!("nobody can use it: {}", why.log);
        say(Severity::Refused, module, at, message)
    })
}

/// A directory that is not there, or where its user may not write.
fn directory(module: &Module, config: &Config, run_as: Option<&RunAs>) -> Option<Diagnostic> {
    let path = module.path.as_ref();
    let written = known(path, config)?;
    let shown = escaped(&written);
    let refused = |why: String| {
        let message = format!("`path` {shown}: {why}");
        Some(say(Severity::Refused, module, path, message))
    };
    let found = match std::fs::metadata(OsStr::from_bytes(&written)) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => return refused("not a directory".to_owned()),
        Err(error) => return refused(error.to_string()),
    };
    let run_as = run_as.filter(|run_as| run_as.uid != 0 && !module.read_only.value)?;
    let groups = std::iter::once(run_as.gid).chain(run_as.groups.iter().copied());
    let bits = if found.uid() == run_as.uid {
        found.mode() >> 6
    } else if groups.into_iter().any(|group| group == found.gid()) {
        found.mode() >> 3
    } else {
        found.mode()
    };
    if bits & 0o3 == 0o3 {
        return None;
    }
    let message = format!(
        "`path` {shown}: uid {} and gid {} may not write there: it belongs to {}:{}, mode {:04o}",
        run_as.uid,
        run_as.gid,
        found.uid(),
        found.gid(),
        found.mode() & 0o7777
    );
    let fix = "give it to them with chown, or set `uid` and `gid` to its owner";
    Some(say(Severity::Warning, module, path, message).fix(fix))
}

/// Whether those who are to log in could.
fn login(module: &Module, config: &Config) -> Vec<Diagnostic> {
    let Some(list) = known(module.auth_users.as_ref(), config) else {
        return Vec::new();
    };
    let file = module.secrets_file.as_ref();
    let Some(path) = known(file, config) else {
        return Vec::new();
    };
    let mut remarks = Vec::new();
    remarks.extend(open_to_others(module, &path));
    match secrets::read(&path, module.strict_modes.value) {
        Ok(secrets) => remarks.extend(without_password(module, &list, &path, &secrets)),
        Err(why) => {
            let message = format!("nobody can log in: {why}");
            remarks.push(say(Severity::Refused, module, file, message));
        }
    }
    remarks
}

/// A secrets file that everybody may read or change.
fn open_to_others(module: &Module, path: &[u8]) -> Option<Diagnostic> {
    let mode = std::fs::metadata(OsStr::from_bytes(path)).ok()?.mode();
    if mode & 0o006 == 0 {
        return None;
    }
    let follows = if module.strict_modes.value {
        ""
    } else {
        ", and `strict modes = no` lets that pass"
    };
    let path = escaped(path);
    let message = format!(
        "`secrets file` {path}: others may read or write the passwords (mode {:04o}){follows}",
        mode & 0o7777
    );
    let file = module.secrets_file.as_ref();
    Some(say(Severity::Danger, module, file, message).fix(format!("chmod 600 {path}")))
}

fn without_password(
    module: &Module,
    list: &[u8],
    path: &[u8],
    secrets: &Secrets,
) -> Vec<Diagnostic> {
    let path = escaped(path);
    if secrets.has_no_names() {
        let message = format!("nobody can log in: no line of {path} is USER:PASSWORD");
        let fix = "the file with the password alone is the agent's `password_file`";
        let file = module.secrets_file.as_ref();
        return vec![say(Severity::Refused, module, file, message).fix(fix)];
    }
    let missing = users::plain_names(list).filter(|name| secrets.user(name).is_none());
    missing
        .map(|name| {
            let name = escaped(name);
            let message = format!("{name} of `auth users` has no line in {path}: cannot log in");
            let fix = format!("add {name}:PASSWORD to it, or remove the name");
            say(
                Severity::Warning,
                module,
                module.auth_users.as_ref(),
                message,
            )
            .fix(fix)
        })
        .collect()
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
    let message = format!("[{}] filter rules: {why}", escaped(&module.name.value));
    Some(Diagnostic::new(Severity::Refused, at, message).fix("rsync drops every transfer then"))
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
    let remark = say(Severity::Refused, module, Some(trash), message);
    Some(remark.fix("name a directory on the module's file system"))
}
