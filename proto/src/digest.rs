//! [`Digest`]: a BLAKE3 hash, and the streaming [`Hasher`] that makes one.

use std::fmt;

use bincode::{Decode, Encode};
use subtle::ConstantTimeEq;

/// A 32-byte BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(&[])
    }

    /// Digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest whose bytes are `bytes`.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time: for proofs, where timing would tell.
    #[must_use]
    pub fn same_secret(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The first eight hexadecimal digits, for logs and status.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Streaming BLAKE3.
#[derive(Debug, Default, Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A hasher for one purpose only: digests of different contexts never collide
    /// (BLAKE3 `derive_key`).
    #[must_use]
    pub fn for_context(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// Adds `length` zero bytes: the content of a hole.
    pub fn update_zeros(&mut self, mut length: u64) -> &mut Self {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        while length > 0 {
            let step = length.min(ZEROS.len() as u64);
            self.0.update(&ZEROS[..step as usize]);
            length -= step;
        }
        self
    }

    /// Adds bytes with their length in front, so that neighbours cannot run into each other.
    pub fn update_sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The digest of everything added so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}
