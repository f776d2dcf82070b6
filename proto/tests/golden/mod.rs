//! Fixed inputs of the tests: keys, certificate, channel. The key is public on purpose and worth nothing.

use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use syncd_proto::auth::{PasswordKey, key_hash};
use syncd_proto::chain::{CommitSigner, CommitVerifier};
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::Channel;
use syncd_proto::message::{Hello, Purpose};
use syncd_proto::meta::{Meta, Mtime};
use syncd_proto::path::WirePath;

/// PKCS #8 in front of an Ed25519 seed (RFC 8410).
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Reads the hexadecimal digits of a text.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|byte| (byte as char).to_digit(16).map(|digit| digit as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn key(seed: [u8; 32]) -> Arc<dyn SigningKey> {
    let der = [&PKCS8_ED25519[..], &seed].concat();
    any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))).unwrap()
}

/// The agent's certificate, whose key has the seed 0, 1, .. 31.
pub(crate) fn certificate() -> CertificateDer<'static> {
    CertificateDer::from(unhex(include_str!("../vectors/agent-certificate.hex")))
}

/// Signs with the certificate's key.
pub(crate) fn signer() -> CommitSigner {
    CommitSigner::new(&*key(std::array::from_fn(|at| at as u8))).unwrap()
}

/// Signs with another key.
pub(crate) fn wrong_signer() -> CommitSigner {
    CommitSigner::new(&*key([7; 32])).unwrap()
}

/// Verifies against the certificate.
pub(crate) fn verifier() -> CommitVerifier {
    CommitVerifier::new(certificate()).unwrap()
}

/// A TLS connection with this exporter.
pub(crate) fn channel(session: u8) -> Channel {
    Channel {
        session: [session; 32],
        agent_key: key_hash(&certificate()).unwrap(),
        receiver_key: Digest::of(b"the receiver's key"),
    }
}

/// The key of this password for alice in www.
pub(crate) fn password(password: &[u8]) -> PasswordKey {
    PasswordKey::derive(password, b"alice", b"www")
}

/// What the agent says first.
pub(crate) fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        purpose: Purpose::Mirror,
        module: b"www".to_vec(),
        sub_path: WirePath::root(),
        attributes: syncd_proto::attributes::Attributes::ALL,
        user: Some(b"alice".to_vec()),
        nonce: [0x11; 32],
        agent: "syncd-agent 0.1.0 on web01".to_owned(),
    }
}

/// A path from text.
pub(crate) fn path(text: &str) -> WirePath {
    WirePath::from_relative(text.as_ref()).unwrap()
}

/// Metadata of a common file.
pub(crate) fn meta() -> Meta {
    Meta {
        mode: 0o644,
        uid: 1_000,
        gid: 100,
        mtime: Mtime::new(1_700_000_000, 123_456_789).unwrap(),
        xattrs: None,
    }
}
