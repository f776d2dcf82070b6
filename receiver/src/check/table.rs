//! What stands in a configuration: each parameter as it was written, and what is in force for a module.

use std::fmt;

use serde_json::{Value, json};
use syncd_proto::message::Durability;
use syncd_proto::path::escaped;

use crate::logic::removals::MaxDelete;
use crate::logic::rsyncd_conf::{Located, Module, Parameter, Position, Standing, Text, Written};

/// What becomes of a parameter.
pub(super) struct Became<'a> {
    written: &'a Written,
    parameter: &'static Parameter,
}

impl<'a> Became<'a> {
    pub(super) fn of(written: &'a Written) -> Self {
        Self {
            written,
            parameter: written.key.parameter(),
        }
    }

    fn standing(&self) -> &'static str {
        match self.parameter.standing {
            Standing::Honoured if !self.written.is_read => "not read",
            Standing::Honoured => "honoured",
            Standing::Accepted => "ignored",
            Standing::Warned => "differs",
            Standing::Refused => "refused",
        }
    }

    pub(super) fn to_json(&self) -> Value {
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

/// One value that is in force.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) value: String,
    at: Option<Position>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<22} {}{}", self.name, self.value, At(&self.at))
    }
}

/// Where a value stands, for the end of a line.
pub(super) struct At<'a>(pub(super) &'a Option<Position>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(position) => write!(f, "  ({position})"),
            None => f.write_str("  (default)"),
        }
    }
}

/// What is in force for a module. Of texts that are unset, those are shown whose absence decides something.
pub(super) fn rows(module: &Module, is_root: bool) -> Vec<Row> {
    let (user, group) = match is_root {
        true => ("nobody", "nogroup"),
        false => ("", ""),
    };
    let texts = [
        ("path", &module.path, Some("nobody can use it")),
        ("comment", &module.comment, None),
        ("hosts allow", &module.hosts_allow, Some("not set")),
        ("hosts deny", &module.hosts_deny, Some("not set")),
        (
            "client certs",
            &module.client_certs,
            Some("not set: any certificate of the authorities"),
        ),
        ("auth users", &module.auth_users, Some("not set: no login")),
        ("secrets file", &module.secrets_file, None),
        ("auth digest", &module.auth_digest, None),
        ("uid", &module.uid, Some(user)),
        ("gid", &module.gid, Some(group)),
        ("incoming chmod", &module.incoming_chmod, None),
        ("refuse options", &module.refuse_options, None),
        ("filter", &module.filter, None),
        ("include from", &module.include_from, None),
        ("include", &module.include, None),
        ("exclude from", &module.exclude_from, None),
        ("exclude", &module.exclude, None),
        ("trash", &module.trash, None),
        ("early exec", &module.early_exec, None),
        ("pre-xfer exec", &module.pre_xfer_exec, None),
        ("post-xfer exec", &module.post_xfer_exec, None),
        ("log file", &module.log_file, None),
        ("syslog facility", &module.syslog_facility, None),
        ("syslog tag", &module.syslog_tag, None),
        ("log format", &module.log_format, None),
    ];
    let mut rows: Vec<Row> = texts
        .into_iter()
        .filter_map(|(name, text, unset)| text_row(name, text.as_ref(), unset))
        .collect();
    rows.extend(flag_rows(module));
    rows.extend(number_rows(module));
    rows
}

fn flag_rows(module: &Module) -> Vec<Row> {
    let flags = [
        ("read only", &module.read_only),
        ("write only", &module.write_only),
        ("list", &module.list),
        ("strict modes", &module.strict_modes),
        ("allow any certificate", &module.allow_any_certificate),
        ("reverse lookup", &module.reverse_lookup),
        ("forward lookup", &module.forward_lookup),
        ("fake super", &module.fake_super),
        ("transfer logging", &module.transfer_logging),
        ("shared writers", &module.shared_writers),
        ("keep dirlinks", &module.keep_dirlinks),
        ("devices", &module.devices),
    ];
    let choices = [
        ("use chroot", &module.use_chroot),
        ("munge symlinks", &module.munge_symlinks),
        ("numeric ids", &module.numeric_ids),
    ];
    let flags = flags
        .into_iter()
        .map(|(name, flag)| row(name, flag, |value| yes_no(*value)));
    let choices = choices.into_iter().map(|(name, choice)| {
        row(name, choice, |value| {
            value.map_or_else(|| format!("not set: {}", unset(module, name)), yes_no)
        })
    });
    flags.chain(choices).collect()
}

/// What a choice that nobody made comes to.
fn unset(module: &Module, name: &str) -> &'static str {
    let has_chroot = module.use_chroot.value != Some(false);
    match name {
        "use chroot" => "yes where the receiver may",
        "munge symlinks" if has_chroot => "yes, but for a module that is the whole chroot",
        "numeric ids" if !has_chroot => "no",
        _ => "yes",
    }
}

fn number_rows(module: &Module) -> Vec<Row> {
    let mut rows = vec![row(
        "max connections",
        &module.max_connections,
        |number| match number {
            0 => "0 (any number)".to_owned(),
            number if *number < 0 => format!("{number} (nobody)"),
            number => number.to_string(),
        },
    )];
    if module.max_connections.value > 0 {
        let file = row("lock file", &module.lock_file, |text| {
            escaped(text.as_written())
        });
        rows.push(file);
    }
    rows.push(row("timeout", &module.timeout_s, |seconds| match seconds {
        0 => "0 (none)".to_owned(),
        seconds => format!("{seconds} s"),
    }));
    rows.push(row("durability", &module.durability, |durability| {
        let word = match durability {
            Durability::Batch => "batch",
            Durability::Files => "files",
            Durability::None => "none",
        };
        word.to_owned()
    }));
    let limit = module.max_delete.as_ref();
    rows.extend(limit.map(|limit| {
        row("max delete", limit, |limit| match limit {
            MaxDelete::Count(count) => count.to_string(),
            MaxDelete::Percent(percent) => format!("{percent}%"),
        })
    }));
    let keep = module.trash_keep_s.as_ref();
    rows.extend(keep.map(|keep| row("trash keep", keep, |seconds| format!("{seconds} s"))));
    rows
}

fn row<T>(name: &'static str, value: &Located<T>, shown: impl Fn(&T) -> String) -> Row {
    Row {
        name,
        value: shown(&value.value),
        at: value.position.clone(),
    }
}

fn text_row(
    name: &'static str,
    text: Option<&Located<Text>>,
    unset: Option<&'static str>,
) -> Option<Row> {
    match text {
        Some(text) => Some(row(name, text, |text| escaped(text.as_written()))),
        None => unset.filter(|unset| !unset.is_empty()).map(|unset| Row {
            name,
            value: unset.to_owned(),
            at: None,
        }),
    }
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// A module as JSON: each value with its place.
pub(super) fn module_json(module: &Module, is_root: bool, is_served: bool) -> Value {
    let parameters: serde_json::Map<String, Value> = rows(module, is_root)
        .into_iter()
        .map(|row| {
            let at = row.at.as_ref();
            let value = json!({
                "value": row.value,
                "file": at.map(|at| escaped(&at.file)),
                "line": at.map(|at| at.line),
                "column": at.map(|at| at.column),
            });
            (row.name.to_owned(), value)
        })
        .collect();
    json!({
        "name": escaped(&module.name.value),
        "served": is_served,
        "parameters": parameters,
    })
}
