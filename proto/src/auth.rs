//! The password challenge: both sides prove that they know the password, and it never crosses the
//! wire.
//!
//! ```text
//! K = derive_key("syncd/1 password",   sized(password) | sized(user) | sized(module))
//! T = derive_key("syncd/1 transcript", sized(Hello body) | sized(Challenge body) | session
//!                                      | agent certificate's key hash | receiver certificate's key hash)
//! agent's proof    = keyed_hash(K, "client" | T)
//! receiver's proof = keyed_hash(K, "server" | T)
//! ```
//!
//! `session` is the TLS exporter, so a proof is worth nothing on another connection. Proofs are
//! compared in constant time; an unknown user takes the same path with a random key.

use zeroize::Zeroize;

use crate::digest::{Digest, Hasher};

/// Key derived from a password; wiped when dropped.
#[derive(Clone)]
pub struct PasswordKey([u8; 32]);

impl Drop for PasswordKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for PasswordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordKey(..)")
    }
}

impl PasswordKey {
    /// The key of a password for one user (or `@group`) of one module.
    #[must_use]
    pub fn derive(password: &[u8], user: &[u8], module: &[u8]) -> Self {
        let digest = Hasher::for_context("syncd/1 password")
            .update_sized(password)
            .update_sized(user)
            .update_sized(module)
            .finish();
        Self(*digest.as_bytes())
    }

    /// A key nobody can know, for a user that does not exist.
    #[must_use]
    pub const fn unknowable(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The agent's proof.
    #[must_use]
    pub fn client_proof(&self, transcript: &Digest) -> Digest {
        self.proof(b"client", transcript)
    }

    /// The receiver's proof.
    #[must_use]
    pub fn server_proof(&self, transcript: &Digest) -> Digest {
        self.proof(b"server", transcript)
    }

    fn proof(&self, side: &[u8], transcript: &Digest) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(side).update(transcript.as_bytes());
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }
}

/// What a transcript binds together.
#[derive(Debug, Clone, Copy)]
pub struct Transcript<'a> {
    /// Exact bytes of the `Hello` body.
    pub hello: &'a [u8],
    /// Exact bytes of the `Challenge` body.
    pub challenge: &'a [u8],
    /// The TLS exporter.
    pub session: &'a [u8; 32],
    /// BLAKE3 of the agent certificate's SubjectPublicKeyInfo.
    pub agent_key: &'a Digest,
    /// BLAKE3 of the receiver certificate's SubjectPublicKeyInfo.
    pub receiver_key: &'a Digest,
}

impl Transcript<'_> {
    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Hasher::for_context("syncd/1 transcript")
            .update_sized(self.hello)
            .update_sized(self.challenge)
            .update(self.session)
            .update(self.agent_key.as_bytes())
            .update(self.receiver_key.as_bytes())
            .finish()
    }
}

/// Hash of a certificate's public key, for a [`Transcript`]; `None` if it cannot be parsed.
#[must_use]
pub fn key_hash(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<Digest> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(Digest::of(&parsed.subject_public_key_info()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(session: &[u8; 32]) -> Digest {
        let key = Digest::empty();
        Transcript {
            hello: b"hello",
            challenge: b"challenge",
            session,
            agent_key: &key,
            receiver_key: &key,
        }
        .digest()
    }

    #[test]
    fn a_proof_depends_on_everything() {
        let key = PasswordKey::derive(b"secret", b"alice", b"www");
        let here = transcript(&[1; 32]);
        let proof = key.client_proof(&here);
        assert_eq!(proof, key.client_proof(&here));
        assert_ne!(proof, key.server_proof(&here));
        assert_ne!(proof, key.client_proof(&transcript(&[2; 32])));
        for (password, user, module) in [
            (&b"secreu"[..], &b"alice"[..], &b"www"[..]),
            (b"secret", b"alicf", b"www"),
            (b"secret", b"alice", b"wwx"),
            (b"secretalice", b"", b"www"),
        ] {
            let other = PasswordKey::derive(password, user, module);
            assert_ne!(proof, other.client_proof(&here));
        }
    }
}
