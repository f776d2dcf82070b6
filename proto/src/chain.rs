//! The signed commit chain: which bytes are signed, the root that follows, what a verifier checks.
//!
//! ```text
//! root_0 = derive_key("syncd/1 session", session)
//! root_N = derive_key("syncd/1 chain",   root_{N-1} | exact bytes of commit body N)
//! signed = 64 spaces | "syncd/1 commit" | 0x00 | root_N          (the form of RFC 8446, 4.4.3)
//! ```
//!
//! The body names module, session, number, every operation and the digest of all content, and the root
//! covers every body before it; so one signature covers path, type, metadata, content and order, and
//! cannot be replayed, reordered or moved elsewhere.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::EndEntityCert;

use crate::digest::{Digest, Hasher};
use crate::error::ProtocolError;

const SESSION_CONTEXT: &str = "syncd/1 session";
const CHAIN_CONTEXT: &str = "syncd/1 chain";
const SIGNED_CONTEXT: &[u8] = b"syncd/1 commit";

/// Schemes a commit may be signed with, the preferred first. RSA keys sign handshakes only: a
/// signature per batch must be cheap.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
];

/// Root before the first commit of a session.
#[must_use]
pub fn first_root(session: &[u8; 32]) -> Digest {
    Hasher::for_context(SESSION_CONTEXT)
        .update(session)
        .finish()
}

/// Root after a commit with these exact body bytes.
#[must_use]
pub fn next_root(root: &Digest, body: &[u8]) -> Digest {
    Hasher::for_context(CHAIN_CONTEXT)
        .update(root.as_bytes())
        .update(body)
        .finish()
}

/// The bytes that are signed for a root.
#[must_use]
pub fn signed_bytes(root: &Digest) -> Vec<u8> {
    let mut bytes = vec![b' '; 64];
    bytes.extend_from_slice(SIGNED_CONTEXT);
    bytes.push(0);
    bytes.extend_from_slice(root.as_bytes());
    bytes
}

/// Signs commits with the private key of the agent's certificate.
#[derive(Clone)]
pub struct CommitSigner(Arc<dyn rustls::sign::Signer>);

impl fmt::Debug for CommitSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitSigner({:?})", self.0.scheme())
    }
}

impl CommitSigner {
    /// A signer for this key; `None` if it is neither Ed25519 nor ECDSA P-256 or P-384.
    #[must_use]
    pub fn new(key: &dyn SigningKey) -> Option<Self> {
        key.choose_scheme(&SCHEMES)
            .map(|signer| Self(Arc::from(signer)))
    }

    /// Signs a root.
    ///
    /// # Errors
    /// Those of the key; a key in memory has none in practice.
    pub fn sign(&self, root: &Digest) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(&signed_bytes(root))
    }
}

/// Verifies commits against the certificate the agent showed in the TLS handshake.
#[derive(Clone)]
pub struct CommitVerifier {
    certificate: CertificateDer<'static>,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
}

impl fmt::Debug for CommitVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitVerifier({} bytes)", self.certificate.len())
    }
}

impl CommitVerifier {
    /// A verifier for this end-entity certificate; `None` if it cannot be parsed or its key is of a
    /// type that may not sign commits.
    #[must_use]
    pub fn new(certificate: CertificateDer<'static>) -> Option<Self> {
        let algorithms: [&'static dyn SignatureVerificationAlgorithm; 3] = [
            webpki::ring::ED25519,
            webpki::ring::ECDSA_P256_SHA256,
            webpki::ring::ECDSA_P384_SHA384,
        ];
        let parsed = EndEntityCert::try_from(&certificate).ok()?;
        // A key of the wrong type is refused as unsupported; of the right one, as a bad signature.
        let algorithm = algorithms.into_iter().find(|&algorithm| {
            matches!(
                parsed.verify_signature(algorithm, b"", b""),
                Err(webpki::Error::InvalidSignatureForPublicKey)
            )
        })?;
        Some(Self {
            certificate,
            algorithm,
        })
    }

    /// Verifies the signature of a root.
    ///
    /// # Errors
    /// [`ProtocolError::BadSignature`].
    pub fn verify(&self, root: &Digest, signature: &[u8]) -> Result<(), ProtocolError> {
        EndEntityCert::try_from(&self.certificate)
            .and_then(|parsed| {
                parsed.verify_signature(self.algorithm, &signed_bytes(root), signature)
            })
            .map_err(|_| ProtocolError::BadSignature)
    }
}
