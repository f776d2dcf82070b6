//! [`Fatal`]: why the program does not start or cannot go on, with its exit code and what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Exit codes of `sysexits.h`, as far as they are used.
pub mod exit {
    /// Wrong arguments.
    pub const USAGE: u8 = 64;
    /// A file that was named cannot be read.
    pub const NO_INPUT: u8 = 66;
    /// A service or resource is not to be had.
    pub const UNAVAILABLE: u8 = 69;
    /// The system refused something it never should.
    pub const OS: u8 = 71;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// Ends the program.
#[derive(Debug)]
pub enum Fatal {
    /// The configuration, or a file it names, is wrong: what, where, and the fix.
    Config(String),
    /// An address cannot be listened on.
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The control socket cannot be made.
    Control {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused a basic service.
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Fatal {
    /// Exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::Listen { .. } | Self::Control { .. } => exit::UNAVAILABLE,
            Self::System { .. } => exit::OS,
        }
    }

    /// What usually helps.
    fn hint(&self) -> Option<&'static str> {
        let source = match self {
            Self::Listen { source, .. } => source,
            Self::Control { .. } => {
                return Some(
                    "choose a place that is free and this user may write to: --control PATH",
                );
            }
            Self::Config(_) | Self::System { .. } => return None,
        };
        Some(match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another process has it; stop that one, or choose a port with `syncd port` or --port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine does not have it; see `address` in the configuration, or --address"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE; see `syncd port`"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) => f.write_str(text)?,
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}")?,
            Self::Control { path, source } => {
                let path = syncd_proto::path::escaped(path.as_os_str().as_encoded_bytes());
                write!(f, "cannot make control socket {path}: {source}")?;
            }
            Self::System { what, source } => write!(f, "{what}: {source}")?,
        }
        match self.hint() {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fatal {}
