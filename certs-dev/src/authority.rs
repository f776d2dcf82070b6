//! The authority: made once, opened again later, and what it signs.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use crate::files::{self, MODE_KEY, MODE_PUBLIC, Overwrite};
use crate::request::{Request, Validity, common_name};
use crate::{CertError, occupied};

const CA_NAME: &str = "syncd development authority, not for production";
const CA_PEM: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CRL_PEM: &str = "crl.pem";
const CRL_DAYS: i64 = 30;
/// RFC 5280 allows serial numbers of up to 20 octets; 16 are plenty.
const SERIAL_LENGTH: usize = 16;

/// A certificate authority in a directory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    overwrite: Overwrite,
}

/// A certificate with its key, as text and as the files that hold it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
    /// The file with the certificate.
    pub cert_path: PathBuf,
    /// The file with the private key, mode 0600.
    pub key_path: PathBuf,
    serial: SerialNumber,
}

impl Authority {
    /// Makes a new authority that lasts as long as certificates do by default; refuses to replace one.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self, CertError> {
        Self::create_with(dir, Validity::default(), false)
    }

    /// Makes a new authority with its own validity, replacing one (and, from then on, any certificate file)
    /// if `overwrite` says so.
    pub fn create_with(
        dir: impl AsRef<Path>,
        validity: Validity,
        overwrite: bool,
    ) -> Result<Self, CertError> {
        let dir = dir.as_ref();
        let overwrite = if overwrite {
            Overwrite::Allow
        } else {
            Overwrite::Refuse
        };
        let mut params = ca_params();
        (params.not_before, params.not_after) = validity.bounds()?;
        if let Some(path) =
            occupied(dir, &Self::file_names()).filter(|_| overwrite == Overwrite::Refuse)
        {
            return Err(CertError::Exists(path));
        }
        let key = generate_key()?;
        let cert = params
            .self_signed(&key)
            .map_err(|source| CertError::library(CA_PEM, source))?;
        let authority = Self {
            dir: dir.to_owned(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            overwrite,
        };
        files::create_dir(dir)?;
        files::write(&dir.join(CA_KEY), &authority.key_pem, MODE_KEY, overwrite)?;
        files::write(
            &dir.join(CA_PEM),
            &authority.cert_pem,
            MODE_PUBLIC,
            overwrite,
        )?;
        Ok(authority)
    }

    /// Opens the authority that [`Authority::create`] made in `dir`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CertError> {
        let dir = dir.as_ref();
        let cert_pem = files::read(&dir.join(CA_PEM))?;
        let key_pem = files::read(&dir.join(CA_KEY))?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|source| CertError::library(dir.join(CA_KEY).display().to_string(), source))?;
        let params = ca_params();
        if !is_certificate_of(&cert_pem, &params, &key)? {
            return Err(CertError::ForeignAuthority(dir.join(CA_PEM)));
        }
        let issuer = Issuer::new(params, key);
        Ok(Self {
            dir: dir.to_owned(),
            cert_pem,
            key_pem,
            issuer,
            overwrite: Overwrite::Refuse,
        })
    }

    /// The two files that are an authority.
    pub fn file_names() -> [String; 2] {
        [CA_PEM.to_owned(), CA_KEY.to_owned()]
    }

    /// The authority's own certificate, which both programs trust.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The file with the authority's own certificate.
    pub fn cert_path(&self) -> PathBuf {
        self.dir.join(CA_PEM)
    }

    /// Issues `server.pem` for localhost, its two addresses, and `names`.
    pub fn issue_server<S: AsRef<str>>(&self, names: &[S]) -> Result<Issued, CertError> {
        self.issue(&Request::server(names))
    }

    /// Issues `NAME.pem` for an agent.
    pub fn issue_agent(&self, name: &str) -> Result<Issued, CertError> {
        self.issue(&Request::agent(name))
    }

    /// Issues whatever `request` says and writes its two files; none is written if one of them exists.
    pub fn issue(&self, request: &Request) -> Result<Issued, CertError> {
        request.check()?;
        let names = request.file_names();
        if let Some(path) =
            occupied(&self.dir, &names).filter(|_| self.overwrite == Overwrite::Refuse)
        {
            return Err(CertError::Exists(path));
        }
        let [cert_path, key_path] = names.map(|name| self.dir.join(name));
        let key = generate_key()?;
        let mut params = request.to_params()?;
        let serial = serial_of(&params, &key);
        params.serial_number = Some(serial.clone());
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| CertError::library(cert_path.display().to_string(), source))?;
        let issued = Issued {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            cert_path,
            key_path,
            serial,
        };
        files::write(&issued.key_path, &issued.key_pem, MODE_KEY, self.overwrite)?;
        files::write(
            &issued.cert_path,
            &issued.cert_pem,
            MODE_PUBLIC,
            self.overwrite,
        )?;
        Ok(issued)
    }

    /// Writes `crl.pem`, the list of exactly these revoked certificates, and gives its path; an earlier list
    /// is replaced.
    pub fn revoke(&self, revoked: &[&Issued]) -> Result<PathBuf, CertError> {
        let now = OffsetDateTime::now_utc();
        let entry = |issued: &&Issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: now - Duration::hours(1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + Duration::days(CRL_DAYS),
            crl_number: SerialNumber::from(u64::try_from(now.unix_timestamp()).unwrap_or(1)),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).and_then(|list| list.pem());
        let path = self.dir.join(CRL_PEM);
        files::write(
            &path,
            &list.map_err(|source| CertError::library(CRL_PEM, source))?,
            MODE_PUBLIC,
            Overwrite::Allow,
        )?;
        Ok(path)
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn generate_key() -> Result<KeyPair, CertError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| CertError::library("new key", source))
}

/// Every key is new, so its identifier is a serial number that does not repeat; the first bits keep it positive
/// and of one length.
fn serial_of(params: &CertificateParams, key: &KeyPair) -> SerialNumber {
    let mut bytes = params.key_identifier(key);
    bytes.truncate(SERIAL_LENGTH);
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// Whether `cert_pem` has the subject and the public key that `params` and `key` would give.
fn is_certificate_of(
    cert_pem: &str,
    params: &CertificateParams,
    key: &KeyPair,
) -> Result<bool, CertError> {
    let ours = params
        .self_signed(key)
        .map_err(|source| CertError::library(CA_PEM, source))?;
    let Ok(theirs) = CertificateDer::from_pem_slice(cert_pem.as_bytes()) else {
        return Ok(false);
    };
    let ours = webpki::anchor_from_trusted_cert(ours.der());
    let theirs = webpki::anchor_from_trusted_cert(&theirs);
    Ok(match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            ours.subject == theirs.subject
                && ours.subject_public_key_info == theirs.subject_public_key_info
        }
        _ => false,
    })
}
