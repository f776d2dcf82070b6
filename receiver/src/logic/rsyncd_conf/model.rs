//! [`Config`] and [`Module`]: what the rest of the program sees.

use syncd_proto::message::Durability;
use syncd_proto::path::escaped;

use super::diagnostic::{Diagnostic, Located, Position, Severity};
use super::parameters::{Key, Kind};
use super::parse::{Section, Sections};
use super::values::{Value, Values};
use super::vars::Variables;
use crate::logic::removals::MaxDelete;

/// The lock file rsync uses when none is named.
const LOCK_FILE: &[u8] = b"/var/run/rsyncd.lock";

/// Text as written; `%VAR%` is replaced when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Vec<u8>);

impl Text {
    /// The text with the variables known at this moment.
    #[must_use]
    pub fn expand(&self, variables: &Variables) -> Vec<u8> {
        variables.expand(&self.0)
    }

    /// A text that stands in no file.
    #[cfg(test)]
    pub(crate) fn new(text: &[u8]) -> Self {
        Self(text.to_vec())
    }

    /// The text as it stands in the file.
    #[must_use]
    pub fn as_written(&self) -> &[u8] {
        &self.0
    }
}

/// A whole configuration.
#[derive(Debug)]
pub struct Config {
    /// What concerns no single module.
    pub globals: Globals,
    /// Modules in file order.
    pub modules: Vec<Module>,
    /// The daemon's environment, for `%VAR%`.
    pub variables: Variables,
}

impl Config {
    /// The module of exactly this name. Names that begin with `#` cannot be asked for.
    #[must_use]
    pub fn module(&self, name: &[u8]) -> Option<&Module> {
        self.modules
            .iter()
            .find(|module| module.name.value == name && !name.starts_with(b"#"))
    }

    /// Name and comment of each module that is listed.
    pub fn listing(&self) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
        let listed = self.modules.iter().filter(|module| module.list.value);
        listed.map(|module| {
            let comment = expanded(module.comment.as_ref(), &self.variables);
            (&module.name.value[..], comment.unwrap_or_default())
        })
    }
}

/// Global parameters.
#[derive(Debug)]
pub struct Globals {
    /// `address`: where to listen; everywhere if unset.
    pub address: Option<Located<Text>>,
    /// `proxy protocol`: a header says where each connection comes from.
    pub proxy_protocol: bool,
    /// `proxy protocol hosts`: who may send one; nobody if unset.
    pub proxy_protocol_hosts: Option<Located<Text>>,
    /// `syncd pid file`.
    pub syncd_pid_file: Option<Located<Text>>,
    /// `log file`, for what concerns no module.
    pub log_file: Option<Located<Text>>,
    /// `syslog facility`.
    pub syslog_facility: Option<Located<Text>>,
    /// `syslog tag`.
    pub syslog_tag: Option<Located<Text>>,
    /// `syncd port`.
    pub syncd_port: Located<u16>,
    /// `tls cert file`.
    pub tls_cert_file: Option<Located<Text>>,
    /// `tls key file`.
    pub tls_key_file: Option<Located<Text>>,
    /// `tls ca file`.
    pub tls_ca_file: Option<Located<Text>>,
    /// `tls crl file`.
    pub tls_crl_file: Option<Located<Text>>,
    /// The default of `reverse lookup`: decides whether names are looked up as clients connect.
    pub reverse_lookup: bool,
}

/// One module. Fields are named like their parameters; `None` is unset.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is the parameter of that name")]
pub struct Module {
    pub name: Located<Vec<u8>>,
    pub path: Option<Located<Text>>,
    pub comment: Option<Located<Text>>,
    pub list: Located<bool>,
    pub read_only: Located<bool>,
    pub write_only: Located<bool>,
    pub auth_users: Option<Located<Text>>,
    pub secrets_file: Option<Located<Text>>,
    pub strict_modes: Located<bool>,
    pub auth_digest: Option<Located<Text>>,
    pub hosts_allow: Option<Located<Text>>,
    pub hosts_deny: Option<Located<Text>>,
    pub reverse_lookup: Located<bool>,
    pub forward_lookup: Located<bool>,
    pub max_connections: Located<i32>,
    pub lock_file: Located<Text>,
    pub timeout_s: Located<u32>,
    pub uid: Option<Located<Text>>,
    pub gid: Option<Located<Text>>,
    pub use_chroot: Located<Option<bool>>,
    pub numeric_ids: Located<Option<bool>>,
    pub munge_symlinks: Located<Option<bool>>,
    pub refuse_options: Option<Located<Text>>,
    pub incoming_chmod: Option<Located<Text>>,
    pub fake_super: Located<bool>,
    pub filter: Option<Located<Text>>,
    pub include_from: Option<Located<Text>>,
    pub include: Option<Located<Text>>,
    pub exclude_from: Option<Located<Text>>,
    pub exclude: Option<Located<Text>>,
    pub log_file: Option<Located<Text>>,
    pub syslog_facility: Option<Located<Text>>,
    pub syslog_tag: Option<Located<Text>>,
    pub log_format: Option<Located<Text>>,
    pub transfer_logging: Located<bool>,
    pub early_exec: Option<Located<Text>>,
    pub pre_xfer_exec: Option<Located<Text>>,
    pub post_xfer_exec: Option<Located<Text>>,
    pub client_certs: Option<Located<Text>>,
    pub allow_any_certificate: Located<bool>,
    pub durability: Located<Durability>,
    pub max_delete: Option<Located<MaxDelete>>,
    pub shared_writers: Located<bool>,
    pub keep_dirlinks: Located<bool>,
    pub devices: Located<bool>,
    pub trash: Option<Located<Text>>,
    /// `trash keep`, in seconds.
    pub trash_keep_s: Option<Located<u64>>,
    /// Why the module is not served; empty if it is.
    pub refusals: Vec<Diagnostic>,
}

/// The text with its variables replaced; `None` if it is unset or empty.
#[must_use]
pub(crate) fn expanded(text: Option<&Located<Text>>, variables: &Variables) -> Option<Vec<u8>> {
    text.map(|text| text.value.expand(variables))
        .filter(|text| !text.is_empty())
}

/// Makes the typed configuration; values of our own parameters that cannot be read are errors.
pub(super) fn build(
    sections: &Sections,
    variables: &Variables,
    diagnostics: &mut Vec<Diagnostic>,
) -> Config {
    let globals = View {
        values: &sections.defaults,
        variables,
        diagnostics,
    }
    .globals();
    let modules = sections
        .modules
        .iter()
        .map(|section| {
            View {
                values: &section.values,
                variables,
                diagnostics,
            }
            .module(section)
        })
        .collect();
    Config {
        globals,
        modules,
        variables: variables.clone(),
    }
}

struct View<'a> {
    values: &'a Values,
    variables: &'a Variables,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl View<'_> {
    fn globals(&mut self) -> Globals {
        Globals {
            address: self.text(Key::Address),
            proxy_protocol: self.flag(Key::ProxyProtocol).value,
            proxy_protocol_hosts: self.text(Key::ProxyProtocolHosts),
            syncd_pid_file: self.text(Key::SyncdPidFile),
            log_file: self.text(Key::LogFile),
            syslog_facility: self.text(Key::SyslogFacility),
            syslog_tag: self.text(Key::SyslogTag),
            syncd_port: self.port(),
            tls_cert_file: self.text(Key::TlsCertFile),
            tls_key_file: self.text(Key::TlsKeyFile),
            tls_ca_file: self.text(Key::TlsCaFile),
            tls_crl_file: self.text(Key::TlsCrlFile),
            reverse_lookup: self.flag(Key::ReverseLookup).value,
        }
    }

    fn module(&mut self, section: &Section) -> Module {
        Module {
            name: section
                .name
                .clone()
                .map(|name| self.variables.expand(&name)),
            path: self.text(Key::Path),
            comment: self.text(Key::Comment),
            list: self.flag(Key::List),
            read_only: self.flag(Key::ReadOnly),
            write_only: self.flag(Key::WriteOnly),
            auth_users: self.text(Key::AuthUsers),
            secrets_file: self.text(Key::SecretsFile),
            strict_modes: self.flag(Key::StrictModes),
            auth_digest: self.text(Key::AuthDigest),
            hosts_allow: self.text(Key::HostsAllow),
            hosts_deny: self.text(Key::HostsDeny),
            reverse_lookup: self.flag(Key::ReverseLookup),
            forward_lookup: self.flag(Key::ForwardLookup),
            max_connections: self.number(Key::MaxConnections),
            lock_file: self
                .text(Key::LockFile)
                .unwrap_or_else(|| Located::built_in(Text(LOCK_FILE.to_vec()))),
            timeout_s: self
                .number(Key::Timeout)
                .map(|seconds| u32::try_from(seconds).unwrap_or(0)),
            uid: self.text(Key::Uid),
            gid: self.text(Key::Gid),
            use_chroot: self.choice(Key::UseChroot),
            numeric_ids: self.choice(Key::NumericIds),
            munge_symlinks: self.choice(Key::MungeSymlinks),
            refuse_options: self.text(Key::RefuseOptions),
            incoming_chmod: self.text(Key::IncomingChmod),
            fake_super: self.flag(Key::FakeSuper),
            filter: self.text(Key::Filter),
            include_from: self.text(Key::IncludeFrom),
            include: self.text(Key::Include),
            exclude_from: self.text(Key::ExcludeFrom),
            exclude: self.text(Key::Exclude),
            log_file: self.text(Key::LogFile),
            syslog_facility: self.text(Key::SyslogFacility),
            syslog_tag: self.text(Key::SyslogTag),
            log_format: self.text(Key::LogFormat),
            transfer_logging: self.flag(Key::TransferLogging),
            early_exec: self.text(Key::EarlyExec),
            pre_xfer_exec: self.text(Key::PreXferExec),
            post_xfer_exec: self.text(Key::PostXferExec),
            client_certs: self.text(Key::ClientCerts),
            allow_any_certificate: self.flag(Key::AllowAnyCertificate),
            durability: self
                .own(Key::Durability, durability, "write batch, files or none")
                .unwrap_or_else(|| Located::built_in(Durability::Batch)),
            max_delete: self.own(
                Key::MaxDelete,
                max_delete,
                "write a number, or a percentage like 10%",
            ),
            shared_writers: self.flag(Key::SharedWriters),
            keep_dirlinks: self.flag(Key::KeepDirlinks),
            devices: self.flag(Key::Devices),
            trash: self.text(Key::Trash),
            trash_keep_s: self.own(
                Key::TrashKeep,
                |text| seconds(text).filter(|seconds| *seconds > 0),
                "write a time like 7d, 12h, 30m or 90s",
            ),
            refusals: Vec::new(),
        }
    }

    fn text(&self, key: Key) -> Option<Located<Text>> {
        let written = self.values.written(key)?;
        match &written.value {
            Value::Text(text) => Some(Located {
                value: Text(text.clone()),
                position: written.position.clone(),
            }),
            _ => None,
        }
    }

    fn flag(&self, key: Key) -> Located<bool> {
        let default = matches!(key.parameter().kind, Kind::Flag(true));
        self.written(key, default, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    fn choice(&self, key: Key) -> Located<Option<bool>> {
        self.written(key, None, |value| match value {
            Value::Choice(choice) => Some(*choice),
            _ => None,
        })
    }

    fn number(&self, key: Key) -> Located<i32> {
        let default = match key.parameter().kind {
            Kind::Number(number) => number,
            _ => 0,
        };
        self.written(key, default, |value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        })
    }

    fn written<T>(&self, key: Key, default: T, read: fn(&Value) -> Option<T>) -> Located<T> {
        self.values
            .written(key)
            .and_then(|written| {
                Some(Located {
                    value: read(&written.value)?,
                    position: written.position.clone(),
                })
            })
            .unwrap_or_else(|| Located::built_in(default))
    }

    fn port(&mut self) -> Located<u16> {
        let port = self.number(Key::SyncdPort);
        match u16::try_from(port.value) {
            Ok(value) if value > 0 => port.map(|_| value),
            _ => {
                let text = port.value.to_string();
                self.bad(
                    Key::SyncdPort,
                    text.as_bytes(),
                    port.position.as_ref(),
                    "write a port from 1 to 65535",
                );
                Located::built_in(8730)
            }
        }
    }

    /// A parameter of our own: what cannot be read is an error, not a default.
    fn own<T>(&mut self, key: Key, read: fn(&[u8]) -> Option<T>, fix: &str) -> Option<Located<T>> {
        let written = self.text(key)?;
        let text = written.value.expand(self.variables);
        if text.is_empty() {
            return None;
        }
        match read(&text) {
            Some(value) => Some(written.map(|_| value)),
            None => {
                self.bad(key, &text, written.position.as_ref(), fix);
                None
            }
        }
    }

    fn bad(&mut self, key: Key, text: &[u8], at: Option<&Position>, fix: &str) {
        let message = format!("`{}` cannot be \"{}\"", key.parameter().name, escaped(text));
        self.diagnostics
            .push(Diagnostic::new(Severity::Error, at, message).fix(fix));
    }
}

fn durability(text: &[u8]) -> Option<Durability> {
    Some(match &text.to_ascii_lowercase()[..] {
        b"batch" => Durability::Batch,
        b"files" => Durability::Files,
        b"none" => Durability::None,
        _ => return None,
    })
}

fn max_delete(text: &[u8]) -> Option<MaxDelete> {
    match text.strip_suffix(b"%") {
        Some(percent) => decimal(percent)
            .and_then(|percent| u8::try_from(percent).ok())
            .filter(|percent| *percent <= 100)
            .map(MaxDelete::Percent),
        None => decimal(text).map(MaxDelete::Count),
    }
}

fn seconds(text: &[u8]) -> Option<u64> {
    let (digits, unit) = match text.split_last()? {
        (b's', digits) => (digits, 1),
        (b'm', digits) => (digits, 60),
        (b'h', digits) => (digits, 3_600),
        (b'd', digits) => (digits, 86_400),
        (b'w', digits) => (digits, 604_800),
        _ => (text, 1),
    };
    decimal(digits)?.checked_mul(unit)
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}
