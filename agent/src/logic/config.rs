//! [`Config`]: what to mirror, where to, and how; from TOML or from one line of arguments.
//!
//! Both go through the same checks, so a value that could not work does not exist afterwards. An
//! unknown key is an error, never skipped.

mod document;
mod reader;

use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syncd_proto::attributes::Attributes;

use crate::logic::cron::Cron;
use crate::logic::filter::Rules;
use crate::logic::rate::Bwlimit;
use crate::logic::target::Target;

/// Quiet time after which a file that is still open counts as settled, unless said otherwise.
pub const SETTLE_MS_DEFAULT: u64 = 200;
/// Longest time a file that keeps changing is held back, unless said otherwise.
pub const HOLD_MAX_MS_DEFAULT: u64 = 1_500;
/// Time to reach a receiver and be welcome there, unless said otherwise.
pub const CONNECT_TIMEOUT_MS_DEFAULT: u64 = 10_000;
/// Deletes above this share of what there was are held, unless said otherwise.
pub const MAX_DELETE_PERCENT_DEFAULT: u8 = 50;
/// Time over which deletes are counted, unless said otherwise.
pub const MAX_DELETE_WINDOW_S_DEFAULT: u64 = 60;

/// Time without changes after which both roots are compared, unless said otherwise.
pub const IDLE_CHECK_S_DEFAULT: u64 = 60;

const IDLE_CHECK_S_MAX: u64 = 86_400;
const SETTLE_MS_MAX: u64 = 60_000;
const HOLD_MS_MAX: u64 = 3_600_000;
const CONNECT_MS_MIN: u64 = 100;
const CONNECT_MS_MAX: u64 = 600_000;
const WINDOW_S_MAX: u64 = 86_400;

/// Everything an agent does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Control socket; where it is by default depends on the user.
    pub control: Option<PathBuf>,
    /// What is logged.
    pub log: Log,
    /// At least one.
    pub sources: Vec<Source>,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// From which level on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Text,
        }
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what may.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// And each step.
    Trace,
}

impl LogLevel {
    /// As they are written.
    pub const NAMES: [(&str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// As they are written.
    pub const NAMES: [(&str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}

/// A directory to mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is; what is in it goes to each target, as with rsync's `SRC/`.
    pub path: PathBuf,
    /// Whether what is gone here goes there too.
    pub delete: bool,
    /// Quiet time after which a file counts as settled when its close was not seen.
    pub settle: Duration,
    /// Longest time a file that keeps changing is held back; never below `settle`.
    pub hold_max: Duration,
    /// How changes are noticed.
    pub backend: Backend,
    /// When deletes are held.
    pub max_delete: MaxDelete,
    /// Extended attributes that are mirrored, as far as agent and receiver may.
    pub attributes: Attributes,
    /// What takes part.
    pub rules: Rules,
    /// When everything is compared once more.
    pub full_check: Option<FullCheck>,
    /// After so long without a change both roots are compared.
    pub idle_check: Option<Duration>,
    /// At least one.
    pub targets: Vec<TargetConfig>,
}

/// When everything is compared although nothing was heard, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullCheck {
    /// When, in local time.
    pub at: Cron,
    /// Whether contents are read and compared, or only what is told of files.
    pub content: bool,
    /// Most bytes of contents read per second.
    pub read_limit: Option<NonZeroU64>,
}

/// How changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// By the size of the tree.
    Auto,
    /// Through the `notify` crate.
    Notify,
    /// Through the `inotify` crate.
    Inotify,
}

impl Backend {
    /// As they are written.
    pub const NAMES: [(&str, Self); 3] = [
        ("auto", Self::Auto),
        ("notify", Self::Notify),
        ("inotify", Self::Inotify),
    ];
}

/// Deletes above one of these within `window` are held until somebody approves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxDelete {
    /// This many, if set.
    pub count: Option<u64>,
    /// This share of the entries there were, 0 to 100, if set.
    pub percent: Option<u8>,
    /// The time over which they are counted.
    pub window: Duration,
}

impl Default for MaxDelete {
    fn default() -> Self {
        Self {
            count: None,
            percent: Some(MAX_DELETE_PERCENT_DEFAULT),
            window: Duration::from_secs(MAX_DELETE_WINDOW_S_DEFAULT),
        }
    }
}

/// A receiver that a source is mirrored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// Where.
    pub to: Target,
    /// How to get there.
    pub access: Access,
    /// Most bytes per second on the wire.
    pub bwlimit: Option<Bwlimit>,
}

/// How to reach a receiver and be known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Authorities its certificate must come from.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// File with the password for `auth users`.
    pub password_file: Option<PathBuf>,
    /// Name its certificate must have, if that is not the host.
    pub server_name: Option<String>,
    /// Time to reach it and be welcome.
    pub connect_timeout: Duration,
    /// Whether content may be compressed, where the link is slow.
    pub compress: bool,
}

/// What is wrong with a configuration: where, why, and how to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Line of the file, from 1; `None` for arguments.
    pub line: Option<usize>,
    /// What is wrong and how to put it right.
    pub what: String,
}

impl ConfigError {
    fn new(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for ConfigError {}

/// Values of a source as given, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// `path`
    pub path: PathBuf,
    /// `delete`
    pub delete: Option<bool>,
    /// `settle_ms`
    pub settle_ms: Option<u64>,
    /// `hold_max_ms`
    pub hold_max_ms: Option<u64>,
    /// `backend`
    pub backend: Option<Backend>,
    /// `max_delete`
    pub max_delete: Option<MaxDelete>,
    /// `xattrs`
    pub xattrs: Option<bool>,
    /// `acls`
    pub acls: Option<bool>,
    /// `capabilities`
    pub capabilities: Option<bool>,
    /// `filter`, `include`, `exclude`, ..., in their order
    pub rules: Rules,
    /// `full_check`
    pub full_check: Option<FullCheck>,
    /// `idle_check_s`
    pub idle_check_s: Option<u64>,
}

impl SourceOptions {
    /// Checks them.
    ///
    /// # Errors
    /// The first value that cannot be.
    pub fn build(self, targets: Vec<TargetConfig>) -> Result<Source, ConfigError> {
        if self.path.as_os_str().is_empty() {
            return Err(ConfigError::new("path: the source directory is empty"));
        }
        let settle_ms = self.settle_ms.unwrap_or(SETTLE_MS_DEFAULT);
        let hold_max_ms = self
            .hold_max_ms
            .unwrap_or_else(|| HOLD_MAX_MS_DEFAULT.max(settle_ms));
        check_range("settle_ms", settle_ms, 0, SETTLE_MS_MAX)?;
        check_range("hold_max_ms", hold_max_ms, 0, HOLD_MS_MAX)?;
        if hold_max_ms < settle_ms {
            return Err(ConfigError::new(format!(
                "hold_max_ms of {hold_max_ms} is below settle_ms of {settle_ms}: raise it"
            )));
        }
        let idle_check_s = self.idle_check_s.unwrap_or(IDLE_CHECK_S_DEFAULT);
        check_range("idle_check_s", idle_check_s, 0, IDLE_CHECK_S_MAX)?;
        Ok(Source {
            path: self.path,
            delete: self.delete.unwrap_or(true),
            settle: Duration::from_millis(settle_ms),
            hold_max: Duration::from_millis(hold_max_ms),
            backend: self.backend.unwrap_or(Backend::Auto),
            max_delete: self.max_delete.unwrap_or_default(),
            attributes: Attributes {
                user: self.xattrs.unwrap_or(true),
                trusted: self.xattrs.unwrap_or(true),
                acls: self.acls.unwrap_or(true),
                capabilities: self.capabilities.unwrap_or(true),
            },
            rules: self.rules,
            full_check: self.full_check,
            idle_check: Some(Duration::from_secs(idle_check_s)).filter(|idle| !idle.is_zero()),
            targets,
        })
    }
}

/// Values of a connection as given, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// `ca`
    pub ca: Option<PathBuf>,
    /// `cert`
    pub cert: Option<PathBuf>,
    /// `key`
    pub key: Option<PathBuf>,
    /// `password_file`
    pub password_file: Option<PathBuf>,
    /// `server_name`
    pub server_name: Option<String>,
    /// `connect_timeout_ms`
    pub connect_timeout_ms: Option<u64>,
    /// `compress`
    pub compress: Option<bool>,
}

impl AccessOptions {
    /// Checks them; `user` is that of the destination.
    ///
    /// # Errors
    /// The first value that is missing or cannot be.
    pub fn build(self, user: Option<&[u8]>) -> Result<Access, ConfigError> {
        let needed = |path: Option<PathBuf>, key: &str, what: &str| {
            path.filter(|path| !path.as_os_str().is_empty())
                .ok_or_else(|| {
                    ConfigError::new(format!("{key} is missing: name the PEM file with {what}"))
                })
        };
        if self.password_file.is_some() && user.is_none() {
            return Err(ConfigError::new(
                "a password file needs a user: write the destination as USER@HOST::MODULE",
            ));
        }
        let timeout_ms = self
            .connect_timeout_ms
            .unwrap_or(CONNECT_TIMEOUT_MS_DEFAULT);
        check_range(
            "connect_timeout_ms",
            timeout_ms,
            CONNECT_MS_MIN,
            CONNECT_MS_MAX,
        )?;
        Ok(Access {
            ca: needed(
                self.ca,
                "ca",
                "the authority the receiver's certificate comes from",
            )?,
            cert: needed(self.cert, "cert", "this agent's certificate")?,
            key: needed(
                self.key,
                "key",
                "the private key of this agent's certificate",
            )?,
            password_file: self.password_file,
            server_name: self.server_name,
            connect_timeout: Duration::from_millis(timeout_ms),
            compress: self.compress.unwrap_or(true),
        })
    }
}

impl Config {
    /// Reads a configuration file. Relative paths in it are taken from `base`, its directory.
    ///
    /// # Errors
    /// [`ConfigError`] with the line.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ConfigError> {
        document::parse(text, base)
    }

    /// The configuration of one source with one target.
    ///
    /// # Errors
    /// The first value that is missing or cannot be.
    pub fn one_line(
        source: SourceOptions,
        to: Target,
        access: AccessOptions,
        bwlimit: Option<Bwlimit>,
    ) -> Result<Self, ConfigError> {
        let access = access.build(to.user.as_deref())?;
        let target = TargetConfig {
            to,
            access,
            bwlimit,
        };
        Ok(Self {
            control: None,
            log: Log::default(),
            sources: vec![source.build(vec![target])?],
        })
    }
}

impl MaxDelete {
    /// Reads `50%`, `1000` or `unlimited`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let none = Self {
            count: None,
            percent: None,
            ..Self::default()
        };
        if text == "unlimited" {
            return Ok(none);
        }
        let percent = |digits: &str| digits.parse().ok().filter(|&percent| percent <= 100);
        let parsed = match text.strip_suffix('%') {
            Some(digits) => percent(digits).map(|percent| Self {
                percent: Some(percent),
                ..none
            }),
            None => text.parse().ok().map(|count| Self {
                count: Some(count),
                ..none
            }),
        };
        parsed.ok_or_else(|| {
            ConfigError::new(format!(
                "max_delete: \"{}\" is neither a share like \"50%\", a number, nor \"unlimited\"",
                text.escape_debug()
            ))
        })
    }
}

fn check_range(key: &str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(format!(
        "{key} of {value} is not between {min} and {max}"
    )))
}
