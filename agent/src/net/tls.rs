//! What an agent brings to a TLS handshake: its own certificate, the authorities it was given, and no
//! fallback. TLS 1.3 only, our ALPN only, no resumption.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use syncd_proto::ALPN;
use syncd_proto::auth;
use syncd_proto::chain::CommitSigner;
use syncd_proto::digest::Digest;
use time::OffsetDateTime;
use time::macros::format_description;
use webpki::{EndEntityCert, KeyUsage};

use crate::fs::credentials::{Credentials, PemFile};

/// Why the files given do not make a TLS client.
#[derive(Debug)]
pub enum TlsSetupError {
    /// No certificate in a file that must have one.
    NoCertificate(PathBuf),
    /// A certificate that cannot be parsed.
    BadCertificate(PathBuf),
    /// An authority that cannot be used as one.
    BadAuthority(PathBuf),
    /// No private key that can be used, with the parser's words.
    NoKey(PathBuf, String),
    /// A key that may not sign commits.
    UnsuitableKey(PathBuf),
    /// Key and certificate do not belong together.
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Our own certificate has expired.
    Expired(PathBuf, UnixTime),
    /// Our own certificate is not valid yet.
    NotYetValid(PathBuf, UnixTime),
    /// Our own certificate is for servers only.
    WrongPurpose(PathBuf),
    /// A name to check the receiver's certificate against that is no name.
    BadServerName(String),
    /// The TLS library refused.
    Library(rustls::Error),
}

impl TlsSetupError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoCertificate(_) | Self::BadCertificate(_) | Self::BadAuthority(_) => {
                "it must be PEM, with -----BEGIN CERTIFICATE-----"
            }
            Self::NoKey(..) => {
                "it must be PEM with an unencrypted PKCS#8 or SEC1 key; decrypt one with: openssl pkey -in OLD -out NEW"
            }
            Self::UnsuitableKey(_) => {
                "commits are signed with Ed25519 or ECDSA P-256 or P-384; make a key with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256, and have a certificate issued for it"
            }
            Self::Mismatch { .. } => "name the key the certificate was issued for",
            Self::Expired(..) => "have a new certificate issued; this one is refused everywhere",
            Self::NotYetValid(..) => "check the clock of this machine: date -u",
            Self::WrongPurpose(_) => {
                "have it issued for client authentication (extended key usage clientAuth)"
            }
            Self::BadServerName(_) => "write a DNS name or an IP address",
            Self::Library(_) => "please report this",
        }
    }
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate(path) => write!(f, "no certificate in {}", path.display()),
            Self::BadCertificate(path) => {
                write!(f, "a certificate in {} cannot be parsed", path.display())
            }
            Self::BadAuthority(path) => write!(
                f,
                "a certificate in {} cannot serve as an authority",
                path.display()
            ),
            Self::NoKey(path, why) => {
                write!(f, "no usable private key in {}: {why}", path.display())
            }
            Self::UnsuitableKey(path) => write!(
                f,
                "the private key in {} (RSA?) cannot sign commits",
                path.display()
            ),
            Self::Mismatch { cert, key } => write!(
                f,
                "the key in {} is not the key of the certificate in {}",
                key.display(),
                cert.display()
            ),
            Self::Expired(path, when) => write!(
                f,
                "our certificate {} expired on {}",
                path.display(),
                date(*when)
            ),
            Self::NotYetValid(path, when) => write!(
                f,
                "our certificate {} is not valid before {}",
                path.display(),
                date(*when)
            ),
            Self::WrongPurpose(path) => write!(
                f,
                "our certificate {} may not be used by a client",
                path.display()
            ),
            Self::BadServerName(name) => write!(
                f,
                "\"{}\" is no name a certificate could have",
                name.escape_debug()
            ),
            Self::Library(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TlsSetupError {}

/// Everything a connection needs of the files.
#[derive(Clone)]
pub struct TlsSettings {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    signer: CommitSigner,
    key_hash: Digest,
    chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
    cert_path: PathBuf,
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsSettings({})", self.cert_path.display())
    }
}

impl TlsSettings {
    /// Makes settings of the files. `server_name` replaces the host in the check of the receiver's
    /// certificate.
    ///
    /// # Errors
    /// [`TlsSetupError`], naming the file.
    pub fn new(
        files: &Credentials,
        server_name: Option<&str>,
        now: UnixTime,
    ) -> Result<Self, TlsSetupError> {
        let chain = certificates(&files.cert)?;
        let key = Arc::new(load_key(&chain, files)?);
        let signer = CommitSigner::new(&*key.key)
            .ok_or_else(|| TlsSetupError::UnsuitableKey(files.key.path.clone()))?;
        let key_hash = chain
            .first()
            .and_then(auth::key_hash)
            .ok_or_else(|| TlsSetupError::BadCertificate(files.cert.path.clone()))?;
        let settings = Self {
            authorities: certificates(&files.ca)?,
            config: Arc::new(client_config(&files.ca, key)?),
            server_name: server_name.map(checked_name).transpose()?,
            signer,
            key_hash,
            chain,
            cert_path: files.cert.path.clone(),
        };
        settings.check_validity(now)?;
        Ok(settings)
    }

    /// Checks our own certificate as far as that can be done here: a receiver would only say that it
    /// does not like it.
    ///
    /// # Errors
    /// If it has expired, is not valid yet, or is not for clients.
    pub fn check_validity(&self, now: UnixTime) -> Result<(), TlsSetupError> {
        let path = || self.cert_path.clone();
        let Some(Ok(own)) = self.chain.first().map(EndEntityCert::try_from) else {
            return Err(TlsSetupError::BadCertificate(path()));
        };
        // Without authorities this always fails; validity and purpose are looked at first.
        let verified =
            own.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), None, None);
        match verified.map(|_| ()) {
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                Err(TlsSetupError::Expired(path(), not_after))
            }
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
                Err(TlsSetupError::NotYetValid(path(), not_before))
            }
            Err(
                webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension,
            ) => Err(TlsSetupError::WrongPurpose(path())),
            _ => Ok(()),
        }
    }

    /// When our own certificate ends, if that can be told.
    #[must_use]
    pub fn expires(&self) -> Option<UnixTime> {
        end_of(self.chain.first()?)
    }

    /// When the first of the authorities ends, if that can be told.
    #[must_use]
    pub fn authority_expires(&self) -> Option<UnixTime> {
        self.authorities.iter().filter_map(end_of).min()
    }

    /// For the TLS connector.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name the receiver's certificate must have.
    ///
    /// # Errors
    /// If `host` is no name.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsSetupError> {
        self.server_name
            .clone()
            .map_or_else(|| checked_name(host), Ok)
    }

    /// Signs commits with the key of our certificate.
    #[must_use]
    pub fn signer(&self) -> &CommitSigner {
        &self.signer
    }

    /// Hash of our certificate's public key.
    #[must_use]
    pub fn key_hash(&self) -> Digest {
        self.key_hash
    }
}

/// When a certificate ends: what it says to somebody who comes long after that.
fn end_of(certificate: &CertificateDer<'static>) -> Option<UnixTime> {
    let end_entity = EndEntityCert::try_from(certificate).ok()?;
    let late = UnixTime::since_unix_epoch(LONG_AFTER);
    let usage = KeyUsage::client_auth();
    let verified = end_entity.verify_for_usage(&[], &[], &[], late, usage, None, None);
    match verified.map(|_| ()) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after),
        _ => None,
    }
}

/// The year 9999, after which no certificate is valid.
const LONG_AFTER: Duration = Duration::from_secs(253_402_300_800);

fn client_config(ca: &PemFile, key: Arc<CertifiedKey>) -> Result<ClientConfig, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots
            .add(certificate)
            .map_err(|_| TlsSetupError::BadAuthority(ca.path.clone()))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsSetupError::Library)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let bad = |_| TlsSetupError::BadCertificate(file.path.clone());
    let found: Vec<_> = CertificateDer::pem_slice_iter(&file.content)
        .collect::<Result<_, _>>()
        .map_err(bad)?;
    match found.is_empty() {
        true => Err(TlsSetupError::NoCertificate(file.path.clone())),
        false => Ok(found),
    }
}

fn load_key(
    chain: &[CertificateDer<'static>],
    files: &Credentials,
) -> Result<CertifiedKey, TlsSetupError> {
    let unusable = |why: String| TlsSetupError::NoKey(files.key.path.clone(), why);
    let der = PrivateKeyDer::from_pem_slice(&files.key.content)
        .map_err(|error| unusable(error.to_string()))?;
    let key = ring::sign::any_supported_type(&der).map_err(|error| unusable(error.to_string()))?;
    let certified = CertifiedKey::new(chain.to_vec(), key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsSetupError::Mismatch {
            cert: files.cert.path.clone(),
            key: files.key.path.clone(),
        }),
        Err(_) => Err(TlsSetupError::BadCertificate(files.cert.path.clone())),
    }
}

fn checked_name(name: &str) -> Result<ServerName<'static>, TlsSetupError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsSetupError::BadServerName(name.to_owned()))
}

/// A moment as people read it.
#[must_use]
pub fn date(when: UnixTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    i64::try_from(when.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(format).ok())
        .unwrap_or_else(|| format!("second {}", when.as_secs()))
}
