//! Where rsync was sent: `HOST::MODULE/DIR`, `rsync://HOST/MODULE/DIR`, `HOST:DIR` by ssh, or a directory.

use super::draft::{At, Remark, Setting, TargetDraft, Value, Verdict};
use crate::logic::target::Target;

/// A destination as rsync takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A module of a daemon.
    Module {
        user: Option<String>,
        host: String,
        port: Option<String>,
        /// Module and directory in it.
        path: String,
    },
    /// A directory, reached by ssh.
    Ssh {
        user: Option<String>,
        host: String,
        dir: String,
    },
    /// A directory of this machine.
    Here(String),
}

impl Place {
    /// As rsync reads it.
    pub(super) fn parse(text: &str) -> Self {
        if let Some(rest) = text.strip_prefix("rsync://") {
            let (machine, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (user, host) = user_of(machine);
            let (host, port) = match host.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    (host, Some(port.to_owned()))
                }
                _ => (host, None),
            };
            return Self::Module {
                user,
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            };
        }
        let end = match text.find("]:") {
            Some(bracket) => Some(bracket + 1),
            None => text.find(':'),
        };
        // A colon after a slash belongs to a file name.
        let end = end.filter(|&end| !text[..end].contains('/'));
        let Some(end) = end else {
            return Self::Here(text.to_owned());
        };
        let (user, host) = user_of(&text[..end]);
        let host = host.to_owned();
        match text[end + 1..].strip_prefix(':') {
            Some(path) => Self::Module {
                user,
                host,
                port: None,
                path: path.to_owned(),
            },
            None => Self::Ssh {
                user,
                host,
                dir: text[end + 1..].to_owned(),
            },
        }
    }

    /// Goes on below it.
    pub(super) fn join(&mut self, name: &str) {
        let (Self::Module { path, .. } | Self::Ssh { dir: path, .. } | Self::Here(path)) = self;
        if !name.is_empty() {
            *path = format!("{}/{name}", path.trim_end_matches('/'));
        }
    }

    /// A target that goes there, as far as that can be said.
    pub(super) fn target(&self, at: &At, written: &str) -> TargetDraft {
        let mut target = TargetDraft::default();
        let (to, why) = match self {
            Self::Module {
                user,
                host,
                port,
                path,
            } => {
                if let Some(port) = port {
                    target.remarks.push(port_of_rsync(at, port));
                }
                let path = path.trim_end_matches('/');
                let to = format!("{}{host}::{path}", with_at(user));
                let text = "the module's rsyncd.conf can stay; run syncd-recv there (port 8730)";
                (to, Remark::new(at, Verdict::Kept, written, text))
            }
            Self::Ssh { user, host, dir } => {
                let name = module_name(dir);
                let text = format!(
                    "over ssh there is no module; add [{name}] with `path = {dir}` to the rsyncd.conf of syncd-recv there{}",
                    no_user(user)
                );
                let why = Remark::new(at, Verdict::Danger, written, text);
                (format!("{}::{name}", host_of(host)), why)
            }
            Self::Here(dir) => {
                let name = module_name(dir);
                let text = format!(
                    "a directory of this machine; run syncd-recv here too, with [{name}] and `path = {dir}`"
                );
                let why = Remark::new(at, Verdict::Danger, written, text);
                (format!("localhost::{name}"), why)
            }
        };
        match Target::parse(to.as_bytes(), None) {
            Ok(_) => target
                .settings
                .push(Setting::new("to", Value::Text(to), why)),
            Err(error) => {
                let text = format!("{error}; {}", error.hint());
                let remark = Remark::new(at, Verdict::Danger, written, text);
                target.remarks.push(remark);
            }
        }
        target
    }

    /// The name that logs in there.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Self::Module { user, .. } => user.as_deref(),
            Self::Ssh { .. } | Self::Here(_) => None,
        }
    }
}

/// What to say about a port that rsync used.
pub(super) fn port_of_rsync(at: &At, port: &str) -> Remark {
    let text =
        "that is the rsync daemon's port; syncd-recv has its own, `syncd port`, 8730 unless set";
    Remark::new(at, Verdict::Differs, format!("port {port}"), text)
}

fn user_of(machine: &str) -> (Option<String>, &str) {
    match machine.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, machine),
    }
}

fn with_at(user: &Option<String>) -> String {
    user.as_ref()
        .map_or_else(String::new, |user| format!("{user}@"))
}

fn host_of(host: &str) -> &str {
    if host.is_empty() { "localhost" } else { host }
}

fn no_user(user: &Option<String>) -> String {
    match user {
        None => String::new(),
        Some(user) => {
            format!(
                "; the ssh user {user} is not a user of the module: who writes there is its `uid`"
            )
        }
    }
}

/// The last name of a directory, as far as it can be the name of a module.
fn module_name(dir: &str) -> String {
    let last = dir.trim_end_matches('/').rsplit('/').next();
    let name: String = last
        .unwrap_or_default()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || "-_.".contains(*letter))
        .collect();
    match &name[..] {
        "" | "." | ".." => "module".to_owned(),
        _ => name,
    }
}
