//! TLS 1.3 with a client certificate, and nothing less: a TCP connection becomes a [`Secured`] one
//! whose peer has proved an [`Identity`].
//!
//! No earlier version, no resumption, no early data, and no setting that turns verification off.
//! Reading the files is left to the caller; what a certificate may do is decided elsewhere.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, PeerIncompatible, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use syncd_proto::auth::key_hash;
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::Channel;
use syncd_proto::{ALPN, EXPORTER_LABEL};

use crate::logic::users::CertIdentity;

/// Bytes TLS may hold back before the writer waits: a few of our writes.
const BUFFER_BYTES: usize = 512 << 10;

/// Bytes taken from the socket at once. TLS itself asks for 4 KiB at a time, a system call for each.
const READ_BYTES: usize = 128 << 10;

/// Most names taken from one certificate.
const NAMES_MAX: usize = 64;

/// The texts (PEM) that make us who we are and say whom we trust.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// Our certificate, then its intermediates.
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
    /// Certificates of the authorities that agents' certificates come from.
    pub authorities: &'a [u8],
    /// Revocation lists, if there are some.
    pub revocations: Option<&'a [u8]>,
}

/// Which text of a [`Material`] is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Our certificate.
    Certificate,
    /// Our key.
    Key,
    /// The authorities.
    Authorities,
    /// The revocation lists.
    Revocations,
}

/// What is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub struct MaterialError {
    /// Where.
    pub part: Part,
    /// What.
    pub text: String,
}

impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for MaterialError {}

/// Who is at the other end: the names in its certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    names: Vec<CertIdentity>,
    key: Digest,
    chain: Vec<CertificateDer<'static>>,
}

impl Identity {
    fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let parsed = webpki::EndEntityCert::try_from(leaf).ok()?;
        let uris = parsed
            .valid_uri_names()
            .map(|name| CertIdentity::Uri(name.to_owned()));
        let hosts = parsed
            .valid_dns_names()
            .map(|name| CertIdentity::Dns(name.to_owned()));
        Some(Self {
            names: uris.chain(hosts).take(NAMES_MAX).collect(),
            key: key_hash(leaf)?,
            chain: chain.iter().map(|cert| cert.clone().into_owned()).collect(),
        })
    }

    /// That of a PEM file: the certificate, then any intermediate ones.
    ///
    /// # Errors
    /// There is none in it, or it cannot be parsed.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let chain = certificates(text, Part::Certificate).map_err(|error| error.text)?;
        Self::of(&chain).ok_or_else(|| "cannot be parsed".to_owned())
    }

    /// URI names, then DNS names.
    #[must_use]
    pub fn names(&self) -> &[CertIdentity] {
        &self.names
    }

    /// The end-entity certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names.first() {
            Some(name) => name.fmt(f),
            None => write!(f, "key {}", self.key.short()),
        }
    }
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Secured {
    /// The encrypted stream.
    pub stream: TlsStream<BufReader<TcpStream>>,
    /// Who is at the other end.
    pub identity: Identity,
    /// What binds a conversation to this connection.
    pub channel: Channel,
}

/// The server side of TLS, ready to use.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
    key: Digest,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({})", self.key.short())
    }
}

impl Tls {
    /// Prepares it.
    ///
    /// # Errors
    /// Any text that is not what it must be, and a key that does not belong to its certificate.
    pub fn new(material: &Material<'_>) -> Result<Self, MaterialError> {
        let verifier = verifier(material)?;
        let chain = certificates(material.certificate, Part::Certificate)?;
        let own = chain.first().and_then(key_hash);
        let own = own.ok_or_else(|| wrong(Part::Certificate, "cannot be parsed"))?;
        let key = PrivateKeyDer::from_pem_slice(material.key)
            .map_err(|error| wrong(Part::Key, format!("no private key in PEM form: {error}")))?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| wrong(Part::Certificate, error.to_string()))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, key)
            .map_err(key_error)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            verifier,
            key: own,
        })
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// A peer that is not one of ours; the text says why and, where we know, what to do.
    pub async fn accept(&self, socket: TcpStream) -> Result<Secured, TlsError> {
        let stream = self
            .acceptor
            .accept_with(BufReader::with_capacity(READ_BYTES, socket), |connection| {
                connection.set_buffer_limit(Some(BUFFER_BYTES));
            })
            .await?;
        let (_, connection) = stream.get_ref();
        if connection.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::NotSyncd);
        }
        let identity = connection.peer_certificates().and_then(Identity::of);
        let identity = identity.ok_or(TlsError::Unreadable)?;
        let session = connection
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(|error| TlsError::Handshake(Box::new(error)))?;
        let channel = Channel {
            session,
            agent_key: identity.key,
            receiver_key: self.key,
        };
        Ok(Secured {
            stream,
            identity,
            channel,
        })
    }

    /// Whether a certificate accepted earlier would still be (other authorities, revoked, expired).
    ///
    /// # Errors
    /// Why not.
    pub fn recheck(&self, identity: &Identity, now: UnixTime) -> Result<(), TlsError> {
        let (leaf, intermediates) = identity.chain.split_first().ok_or(TlsError::Unreadable)?;
        match self.verifier.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(TlsError::Handshake(Box::new(error))),
        }
    }
}

fn verifier(material: &Material<'_>) -> Result<Arc<dyn ClientCertVerifier>, MaterialError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(material.authorities, Part::Authorities)? {
        roots
            .add(authority)
            .map_err(|error| wrong(Part::Authorities, error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    // An agent has one certificate and needs no hint which; nobody else needs to know our authorities.
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .clear_root_hint_subjects();
    let listed = material.revocations.is_some();
    if let Some(text) = material.revocations {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
        let lists = lists.map_err(|error| wrong(Part::Revocations, error.to_string()))?;
        if lists.is_empty() {
            let text = "no revocation list (PEM, `BEGIN X509 CRL`) in it";
            return Err(wrong(Part::Revocations, text));
        }
        // A list that nobody renews must not quietly let revoked certificates in again.
        builder = builder
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    builder.build().map_err(|error| {
        let part = if listed {
            Part::Revocations
        } else {
            Part::Authorities
        };
        wrong(part, error.to_string())
    })
}

fn certificates(text: &[u8], part: Part) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| wrong(part, error.to_string()))?;
    if found.is_empty() {
        return Err(wrong(
            part,
            "no certificate (PEM, `BEGIN CERTIFICATE`) in it",
        ));
    }
    Ok(found)
}

fn key_error(error: rustls::Error) -> MaterialError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            wrong(Part::Key, "it does not belong to the certificate")
        }
        rustls::Error::General(text) => wrong(Part::Key, text),
        other => wrong(Part::Certificate, other.to_string()),
    }
}

fn wrong(part: Part, text: impl Into<String>) -> MaterialError {
    MaterialError {
        part,
        text: text.into(),
    }
}

/// Why no secured connection came about.
#[derive(Debug)]
pub enum TlsError {
    /// The connection broke.
    Io(io::Error),
    /// TLS refused, or was refused by the peer.
    Handshake(Box<rustls::Error>),
    /// TLS, but not our protocol.
    NotSyncd,
    /// A certificate that verified but cannot be taken apart.
    Unreadable,
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        let Some(inner) = error.get_ref() else {
            return Self::Io(error);
        };
        match inner.downcast_ref::<rustls::Error>() {
            Some(tls) => Self::Handshake(Box::new(tls.clone())),
            None => Self::Io(error),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection lost during TLS: {error}"),
            Self::NotSyncd => {
                f.write_str("a TLS client that does not ask for syncd/1 (ALPN); only syncd-agent may connect here")
            }
            Self::Unreadable => f.write_str("the agent's certificate cannot be parsed"),
            Self::Handshake(error) => match hint(error) {
                Some(hint) => write!(f, "TLS: {error}: {hint}"),
                None => write!(f, "TLS: {error}"),
            },
        }
    }
}

impl std::error::Error for TlsError {}

fn hint(error: &rustls::Error) -> Option<&'static str> {
    use rustls::Error;
    Some(match error {
        Error::InvalidCertificate(error) => return certificate_hint(error),
        Error::NoCertificatesPresented => {
            "the client showed no certificate; syncd-agent needs `cert` and `key`"
        }
        Error::NoApplicationProtocol => {
            "the client does not ask for syncd/1 (ALPN); only syncd-agent may connect here"
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered,
        ) => "the client does not speak TLS 1.3, and nothing older is spoken here",
        Error::AlertReceived(_) => {
            "the agent refused this receiver; its log says why (usually `ca`, or the host name of our certificate)"
        }
        _ => return None,
    })
}

fn certificate_hint(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the agent's certificate does not come from an authority in `tls ca file`"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the agent's certificate has expired; issue a new one"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the agent's certificate is not valid yet; compare the clocks"
        }
        CertificateError::Revoked => "the agent's certificate is listed in `tls crl file`",
        CertificateError::UnknownRevocationStatus => {
            "no list in `tls crl file` covers the issuer of the agent's certificate"
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "`tls crl file` is out of date; fetch a new list and reload"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the agent's certificate is not made for clients (extended key usage clientAuth)"
        }
        _ => return None,
    })
}
