//! What ends the program ([`Fatal`]), with its exit code and hint.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::control::ControlError;
use crate::fs::credentials::ReadPemError;
use crate::fs::password::PasswordFileError;
use crate::logic::config::ConfigError;
use crate::logic::filter::FilterError;
use crate::logic::target::TargetError;
use crate::net::handshake::ConnectError;
use crate::net::tls::TlsSetupError;
use crate::pipeline::reconcile::CompareError;

/// Wrong arguments (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
/// A file that cannot be read (`EX_NOINPUT`).
pub const EXIT_NO_INPUT: u8 = 66;
/// Something that should be running is not (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// A bug, or the system refuses the ordinary (`EX_SOFTWARE`).
pub const EXIT_SOFTWARE: u8 = 70;
/// A wrong configuration (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;
/// It was tried and failed.
pub const EXIT_FAILED: u8 = 3;

/// What ends the program.
#[derive(Debug)]
pub enum Fatal {
    /// Arguments that do not go together.
    Usage(String),
    /// A destination that cannot be one.
    Target(TargetError),
    /// A configuration file that cannot be read.
    ReadConfig(PathBuf, io::Error),
    /// A configuration that cannot work; the file, if it is one.
    Config(Option<PathBuf>, ConfigError),
    /// A certificate or key file that cannot be used.
    ReadPem(ReadPemError),
    /// Certificates and keys that cannot work.
    Tls(TlsSetupError),
    /// No password.
    Password(PasswordFileError),
    /// The control socket.
    Control(ControlError),
    /// The agent answered, with an error.
    Answered(String, Option<String>),
    /// No session with a receiver, where there is nothing else to do.
    Connect(ConnectError),
    /// A source that cannot be opened.
    Source(PathBuf, io::Error),
    /// Extended attributes of a source that cannot be read.
    Attributes(PathBuf, io::Error),
    /// Trees that could not be compared.
    Compare(CompareError),
    /// A filter rule that cannot be used.
    Filter(FilterError),
    /// No threads, no signals, no output.
    System(io::Error),
}

impl Fatal {
    /// Code the program ends with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Target(_) => EXIT_USAGE,
            Self::ReadPem(error) if error.is_unsafe() => EXIT_CONFIG,
            Self::ReadConfig(..) | Self::ReadPem(_) | Self::Source(..) => EXIT_NO_INPUT,
            Self::Config(None, _) => EXIT_USAGE,
            Self::Config(Some(_), _) | Self::Tls(_) | Self::Password(_) | Self::Filter(_) => {
                EXIT_CONFIG
            }
            Self::Control(_) | Self::Attributes(..) => EXIT_UNAVAILABLE,
            Self::Answered(..) | Self::Connect(_) | Self::Compare(_) => EXIT_FAILED,
            Self::System(_) => EXIT_SOFTWARE,
        }
    }

    /// What to do about it, where that is not in the message itself.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Target(error) => Some(error.hint().into()),
            Self::ReadConfig(..) => Some("name the file with --config".into()),
            Self::ReadPem(error) => Some(error.hint()),
            Self::Tls(error) => Some(error.hint().into()),
            Self::Password(error) => Some(error.hint()),
            Self::Filter(error) => Some(error.hint.clone()),
            Self::Control(error) => Some(error.hint().into()),
            Self::Answered(_, hint) => hint.clone(),
            Self::Connect(error) => Some(error.hint().into()),
            Self::Usage(_) => Some("syncd-agent --help".into()),
            Self::Source(..) => Some("check the path, and that this user may read it".into()),
            Self::Attributes(..) => {
                Some("mount /proc, or switch xattrs, acls and capabilities off".into())
            }
            Self::Compare(CompareError::Unread(_)) => {
                Some("make it readable, or exclude it, then run it again".into())
            }
            Self::Compare(_) => Some("check the receiver's log, then run it again".into()),
            Self::Config(..) | Self::System(_) => None,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Answered(text, _) => f.write_str(text),
            Self::Target(error) => write!(f, "{error}"),
            Self::ReadConfig(path, error) => {
                write!(f, "cannot read configuration {}: {error}", path.display())
            }
            Self::Config(Some(path), error) => write!(f, "{}: {error}", path.display()),
            Self::Config(None, error) => write!(f, "{error}"),
            Self::ReadPem(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "{error}"),
            Self::Password(error) => write!(f, "{error}"),
            Self::Control(error) => write!(f, "{error}"),
            Self::Connect(error) => write!(f, "{error}"),
            Self::Source(path, error) => write!(f, "source {}: {error}", path.display()),
            Self::Attributes(path, error) => write!(
                f,
                "extended attributes of {} cannot be read: {error}",
                path.display()
            ),
            Self::Compare(error) => write!(f, "{error}"),
            Self::Filter(error) => write!(f, "{error}"),
            Self::System(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Fatal {}

macro_rules! fatal_from {
    ($($variant:ident($source:ty)),+ $(,)?) => {
        $(impl From<$source> for Fatal {
            fn from(error: $source) -> Self { Self::$variant(error) }
        })+
    };
}

fatal_from!(
    Target(TargetError),
    ReadPem(ReadPemError),
    Tls(TlsSetupError),
    Password(PasswordFileError),
    Control(ControlError),
    Filter(FilterError),
    Connect(ConnectError),
    System(io::Error),
);
