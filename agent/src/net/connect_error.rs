//! [`ConnectError`]: why there is no session, who is at fault, and what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use syncd_proto::error::ProtocolError;
use syncd_proto::message::Refused;
use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;

use crate::net::framing::ReadError;
use crate::net::tls::{TlsSetupError, date};

/// Whose configuration has to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Ours: the receiver does not accept what we showed.
    Agent,
    /// The receiver's: we do not accept what it showed.
    Receiver,
    /// Cannot be told from here.
    Unclear,
}

/// How far a connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking up the host.
    Resolve,
    /// TCP.
    Connect,
    /// TLS.
    Tls,
    /// Until `Welcome`.
    Greeting,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "looking up the host",
            Self::Connect => "connecting",
            Self::Tls => "in the TLS handshake",
            Self::Greeting => "waiting for the receiver's welcome",
        }
    }
}

/// Why there is no session.
#[derive(Debug)]
pub enum ConnectError {
    /// The receiver said no.
    Refused {
        /// For programs.
        code: RejectCode,
        /// For people, in the receiver's words.
        text: String,
    },
    /// One side does not accept the other's certificate or parameters.
    Tls {
        /// Whose configuration has to change.
        fault: Fault,
        /// What happened.
        text: String,
        /// What to do.
        hint: &'static str,
    },
    /// Our own files do not make a TLS client (any more).
    Setup(TlsSetupError),
    /// No address of the host answers.
    Unreachable {
        /// Host, and each address with what happened there.
        text: String,
        /// Whether something answered and refused: no receiver runs there.
        nobody_listens: bool,
    },
    /// It took too long.
    Timeout {
        /// Where it was.
        stage: Stage,
        /// How long it was allowed to take.
        after: Duration,
    },
    /// The connection was cut before `Welcome`.
    Cut(io::Error),
    /// The receiver did not prove that it knows the password.
    BadServerProof,
    /// The receiver wants a password and there is none.
    PasswordNeeded,
    /// The receiver broke the protocol.
    Protocol(ProtocolError),
    /// The system gave no randomness or no socket.
    System(io::Error),
}

impl ConnectError {
    /// Whether it will be the same next time, unless somebody changes something. (Trying again, slowly,
    /// is still right: the change may happen on the other side.)
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { code, .. } => matches!(
                code,
                RejectCode::Version
                    | RejectCode::UnknownModule
                    | RejectCode::HostDenied
                    | RejectCode::CertificateDenied
                    | RejectCode::AuthFailed
                    | RejectCode::ReadOnly
                    | RejectCode::Protocol
                    | RejectCode::ReservedName
                    | RejectCode::Unsupported
            ),
            Self::Tls { .. }
            | Self::Setup(_)
            | Self::BadServerProof
            | Self::PasswordNeeded
            | Self::Protocol(_) => true,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Cut(_) | Self::System(_) => {
                false
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => refused_hint(*code),
            Self::Tls { hint, .. } => hint,
            Self::Setup(error) => error.hint(),
            Self::Unreachable {
                nobody_listens: true,
                ..
            } => "start syncd-recv there, or check the port (its `syncd port`, 8730 by default)",
            Self::Unreachable { .. } => "check the host name, the network and firewalls",
            Self::Timeout { stage, .. } => match stage {
                Stage::Resolve => "check the name servers of this machine",
                Stage::Connect => "check that a firewall lets the port through",
                Stage::Tls => "check that syncd-recv, and not something else, listens on this port",
                Stage::Greeting => "check the receiver's log and load",
            },
            Self::Cut(_) => {
                "check the receiver's log: it may have refused our certificate without being able to say so"
            }
            Self::BadServerProof => {
                "check that host, module and password file belong together; do not go on if they do"
            }
            Self::PasswordNeeded => {
                "write the destination as USER@HOST::MODULE and give a password file"
            }
            Self::Protocol(_) => "check that both sides run released versions, and report this",
            Self::System(_) => "check the limits of this machine: ulimit -n, ulimit -u",
        }
    }

    /// An error of the stream after TCP was connected.
    pub(crate) fn from_io(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls) => Self::from_tls(tls),
            None => Self::Cut(error),
        }
    }

    pub(crate) fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::from_io(error),
            ReadError::Protocol(error) => Self::Protocol(error),
        }
    }

    fn from_tls(error: &rustls::Error) -> Self {
        let (fault, text, hint) = match error {
            rustls::Error::AlertReceived(alert) => explain_alert(*alert),
            rustls::Error::InvalidCertificate(why) => explain_certificate(why),
            rustls::Error::NoApplicationProtocol => {
                explain_alert(AlertDescription::NoApplicationProtocol)
            }
            rustls::Error::PeerIncompatible(why) => (
                Fault::Receiver,
                format!("the receiver does not offer TLS 1.3 as we need it ({why:?})"),
                "check that syncd-recv, and not something else, listens on this port",
            ),
            rustls::Error::InvalidMessage(_) => (
                Fault::Receiver,
                "what answers there does not speak TLS".into(),
                "check the port: syncd-recv listens on its `syncd port`, 8730 by default, not on rsync's 873",
            ),
            other => (
                Fault::Unclear,
                format!("TLS failed: {other}"),
                "check that syncd-recv, and not something else, listens on this port",
            ),
        };
        Self::Tls { fault, text, hint }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, text } => {
                let (code, text) = (code.to_string(), escaped(text.as_bytes()));
                match text == code {
                    true => write!(f, "refused: {text}"),
                    false => write!(f, "refused: {code}: {text}"),
                }
            }
            Self::Tls { text, .. } => f.write_str(text),
            Self::Setup(error) => write!(f, "{error}"),
            Self::Unreachable { text, .. } => write!(f, "cannot reach {text}"),
            Self::Timeout { stage, after } => write!(
                f,
                "no answer within {} ms, {}",
                after.as_millis(),
                stage.name()
            ),
            Self::Cut(error) => write!(f, "the receiver ended the connection: {error}"),
            Self::BadServerProof => ProtocolError::BadServerProof.fmt(f),
            Self::PasswordNeeded => {
                f.write_str("the receiver asks for a password and there is none")
            }
            Self::Protocol(error) => write!(f, "the receiver broke the protocol: {error}"),
            Self::System(error) => write!(f, "cannot start a connection: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<Refused> for ConnectError {
    fn from(refused: Refused) -> Self {
        Self::Refused {
            code: refused.code,
            text: refused.text,
        }
    }
}

impl From<ProtocolError> for ConnectError {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::BadServerProof => Self::BadServerProof,
            other => Self::Protocol(other),
        }
    }
}

impl From<TlsSetupError> for ConnectError {
    fn from(error: TlsSetupError) -> Self {
        Self::Setup(error)
    }
}

fn refused_hint(code: RejectCode) -> &'static str {
    match code {
        RejectCode::Version => "upgrade the older side",
        RejectCode::UnknownModule => {
            "check the module's name (case counts); `syncd-agent modules HOST` lists what we may see"
        }
        RejectCode::HostDenied => "add this machine to the module's `hosts allow`",
        RejectCode::CertificateDenied => {
            "add this agent's certificate identity to the module's `client certs`"
        }
        RejectCode::TooManyConnections => "raise the module's `max connections`, or wait",
        RejectCode::AuthFailed => {
            "check user and password file here, `auth users` and `secrets file` there"
        }
        RejectCode::ReadOnly => "set `read only = no` in the module, or `:rw` for the user",
        RejectCode::Busy => {
            "stop the other writer, or mirror to another directory of the module: HOST::MODULE/DIR"
        }
        RejectCode::ModuleUnavailable => "check the module's path, uid and gid on the receiver",
        RejectCode::Draining => "nothing: the agent comes back by itself",
        _ => "check the receiver's log",
    }
}

fn explain_alert(alert: AlertDescription) -> (Fault, String, &'static str) {
    let (fault, text, hint) = match alert {
        AlertDescription::UnknownCA => (
            Fault::Agent,
            "the receiver refused our certificate: it does not know the authority it comes from",
            "use a certificate issued by the receiver's `tls ca file`, or add our authority to that file",
        ),
        AlertDescription::DecryptError => (
            Fault::Agent,
            "the receiver refused our certificate: its signature does not verify there",
            "use a certificate issued by the receiver's `tls ca file`; an authority made anew under the same name is another one",
        ),
        AlertDescription::CertificateExpired => (
            Fault::Agent,
            "the receiver refused our certificate as expired",
            "have a new certificate issued, and check both clocks: date -u",
        ),
        AlertDescription::CertificateRevoked => (
            Fault::Agent,
            "the receiver refused our certificate as revoked",
            "have a new certificate issued",
        ),
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => (
            Fault::Agent,
            "the receiver wants a client certificate and got none it could use",
            "give a certificate and its key: --cert and --key",
        ),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => (
            Fault::Agent,
            "the receiver refused our certificate",
            "check that it may be used by clients and comes from the receiver's `tls ca file`; the receiver's log says more",
        ),
        AlertDescription::AccessDenied => (
            Fault::Agent,
            "the receiver knows our certificate and does not let it in",
            "check `client certs` on the receiver",
        ),
        AlertDescription::NoApplicationProtocol => (
            Fault::Receiver,
            "what answers there speaks TLS but not syncd/1",
            "check the port: syncd-recv listens on its `syncd port`, 8730 by default",
        ),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => (
            Fault::Receiver,
            "the receiver does not speak TLS 1.3 as we need it",
            "check that syncd-recv, and not something else, listens on this port",
        ),
        other => {
            return (
                Fault::Unclear,
                format!("the receiver ended TLS with the alert {other:?}"),
                "check the receiver's log",
            );
        }
    };
    (fault, text.into(), hint)
}

fn explain_certificate(why: &CertificateError) -> (Fault, String, &'static str) {
    let clock = "have the receiver's certificate renewed, and check both clocks: date -u";
    let (what, hint) = match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "does not come from our authority".into(),
            "check that --ca is the authority that issued the receiver's certificate",
        ),
        CertificateError::ExpiredContext { not_after, .. } => {
            (format!("expired on {}", date(*not_after)), clock)
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            (format!("is not valid before {}", date(*not_before)), clock)
        }
        CertificateError::Expired => ("has expired".into(), clock),
        CertificateError::NotValidYet => ("is not valid yet".into(), clock),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => (
            format!(
                "is for {}, not for {}",
                named(presented),
                escaped(expected.to_str().as_bytes())
            ),
            "use a name that is in it as host, or say which with --server-name",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "is not for servers".into(),
            "have it issued for server authentication (extended key usage serverAuth)",
        ),
        other => (
            format!("is not acceptable: {other}"),
            "check the receiver's certificate",
        ),
    };
    let text = format!("the receiver's certificate {what}");
    (Fault::Receiver, text, hint)
}

fn named(presented: &[String]) -> String {
    const SHOWN_MAX: usize = 4;
    if presented.is_empty() {
        return "nobody".into();
    }
    let shown: Vec<_> = presented
        .iter()
        .take(SHOWN_MAX)
        .map(|name| escaped(bare(name).as_bytes()))
        .collect();
    shown.join(", ")
}

/// The name alone, of what rustls shows as `DnsName("name")`.
fn bare(shown: &str) -> &str {
    let inner = shown
        .strip_suffix("\")")
        .and_then(|rest| rest.split_once("(\""));
    inner.map_or(shown, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: rustls::Error) -> ConnectError {
        ConnectError::from_io(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn an_alert_says_whose_certificate_it_was() {
        for (alert, fault, part) in [
            (AlertDescription::UnknownCA, Fault::Agent, "authority"),
            (
                AlertDescription::CertificateExpired,
                Fault::Agent,
                "expired",
            ),
            (
                AlertDescription::CertificateRequired,
                Fault::Agent,
                "wants a client",
            ),
            (
                AlertDescription::BadCertificate,
                Fault::Agent,
                "refused our",
            ),
            (
                AlertDescription::NoApplicationProtocol,
                Fault::Receiver,
                "not syncd/1",
            ),
            (
                AlertDescription::InternalError,
                Fault::Unclear,
                "InternalError",
            ),
        ] {
            let error = of(rustls::Error::AlertReceived(alert));
            assert!(error.is_permanent());
            assert!(error.to_string().contains(part), "{error}");
            assert!(
                matches!(error, ConnectError::Tls { fault: found, .. } if found == fault),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_cut_may_mend_itself() {
        let error = ConnectError::from_io(io::ErrorKind::ConnectionReset.into());
        assert!(matches!(error, ConnectError::Cut(_)) && !error.is_permanent());
    }

    #[test]
    fn a_reason_that_says_no_more_than_its_code_is_told_once() {
        let refused = |text: &str| {
            let code = RejectCode::ReadOnly;
            let text = text.to_owned();
            ConnectError::Refused { code, text }.to_string()
        };
        assert_eq!(
            refused("module is read only"),
            "refused: module is read only"
        );
        assert_eq!(refused("for you"), "refused: module is read only: for you");
    }

    #[test]
    fn a_refusal_is_permanent_only_if_somebody_must_act() {
        let refused = |code| ConnectError::Refused {
            code,
            text: "x".into(),
        };
        for code in [RejectCode::AuthFailed, RejectCode::UnknownModule] {
            assert!(refused(code).is_permanent(), "{code}");
        }
        for code in [
            RejectCode::Busy,
            RejectCode::Draining,
            RejectCode::ModuleUnavailable,
        ] {
            assert!(!refused(code).is_permanent(), "{code}");
        }
    }
}
