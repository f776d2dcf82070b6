//! Directory digests: what reconcile and verify descend by.
//!
//! The digest of a directory covers its own compared metadata and, in byte order of their names, each
//! entry's name, compared metadata and, for a directory, its digest. Equal digests mean equal trees as
//! far as [`Compare`] looks; both sides must use the same one.

use std::fmt;

use crate::digest::{Digest, Hasher};
use crate::meta::{Compare, EntryMeta, Kind, Times};
use crate::path::Name;

const CONTEXT: &str = "syncd/1 directory";

/// An entry came out of order, or twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfOrder;

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("directory entries out of order")
    }
}

impl std::error::Error for OutOfOrder {}

/// What is hashed at once, in bytes: BLAKE3 is several times faster over long input than over short pieces of it.
const PIECE_BYTES: usize = 16 << 10;

/// Builds the digest of one directory from its entries in byte order.
#[derive(Debug, Clone)]
pub struct DirHasher {
    compare: Compare,
    hasher: Hasher,
    /// What was added and not hashed yet, less than a piece.
    pending: Vec<u8>,
    /// The name added last; none is empty.
    last: Vec<u8>,
}

impl DirHasher {
    /// A directory with this metadata of its own. For the root of a mirror too.
    #[must_use]
    pub fn new(compare: Compare, dir: &EntryMeta) -> Self {
        let mut pending = Vec::new();
        put_meta(&mut pending, compare, dir);
        Self {
            compare,
            hasher: Hasher::for_context(CONTEXT),
            pending,
            last: Vec::new(),
        }
    }

    /// Adds an entry that is not a directory.
    ///
    /// # Errors
    /// [`OutOfOrder`] unless `name` is above the one before.
    pub fn file(&mut self, name: &Name, meta: &EntryMeta) -> Result<(), OutOfOrder> {
        self.in_order(name)?;
        if self.compare.keeps(meta.kind) {
            put_sized(&mut self.pending, name.as_bytes());
            put_meta(&mut self.pending, self.compare, meta);
            self.hash_pieces();
        }
        Ok(())
    }

    /// Adds a directory, whose digest covers its own metadata.
    ///
    /// # Errors
    /// [`OutOfOrder`] unless `name` is above the one before.
    pub fn subtree(&mut self, name: &Name, digest: &Digest) -> Result<(), OutOfOrder> {
        self.in_order(name)?;
        put_sized(&mut self.pending, name.as_bytes());
        self.pending.push(0xff);
        self.pending.extend_from_slice(digest.as_bytes());
        self.hash_pieces();
        Ok(())
    }

    fn in_order(&mut self, name: &Name) -> Result<(), OutOfOrder> {
        if *self.last >= *name.as_bytes() {
            return Err(OutOfOrder);
        }
        self.last.clear();
        self.last.extend_from_slice(name.as_bytes());
        Ok(())
    }

    fn hash_pieces(&mut self) {
        let whole = self.pending.len() / PIECE_BYTES * PIECE_BYTES;
        if whole > 0 {
            self.hasher.update(&self.pending[..whole]);
            self.pending.drain(..whole);
        }
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> Digest {
        self.hasher.clone().update(&self.pending).finish()
    }
}

/// Whether two entries are equal as far as `compare` looks. Content counts where both have a digest.
#[must_use]
pub fn same_entry(compare: Compare, a: &EntryMeta, b: &EntryMeta) -> bool {
    let [a, b] = [a, b].map(|meta| {
        let mut bytes = Vec::new();
        put_meta(&mut bytes, compare, meta);
        bytes
    });
    a == b
}

fn put_meta(bytes: &mut Vec<u8>, compare: Compare, meta: &EntryMeta) {
    bytes.push(kind_byte(meta.kind));
    if meta.kind != Kind::Symlink {
        let mode = meta.mode & compare.mode_mask;
        bytes.extend_from_slice(&mode.to_le_bytes());
    }
    if compare.owner {
        bytes.extend_from_slice(&meta.uid.to_le_bytes());
        bytes.extend_from_slice(&meta.gid.to_le_bytes());
    }
    if compare.mtime != Times::Ignored {
        let mtime = compare.mtime.of(meta.mtime);
        bytes.extend_from_slice(&mtime.secs().to_le_bytes());
        bytes.extend_from_slice(&mtime.nanos().to_le_bytes());
    }
    bytes.extend_from_slice(&meta.size.to_le_bytes());
    bytes.extend_from_slice(&meta.rdev.0.to_le_bytes());
    bytes.extend_from_slice(&meta.rdev.1.to_le_bytes());
    put_optional(bytes, meta.content.as_ref());
    let xattrs = meta.xattrs.as_ref().filter(|_| compare.xattrs.any());
    put_optional(bytes, xattrs);
}

fn put_optional(bytes: &mut Vec<u8>, digest: Option<&Digest>) {
    match digest {
        Some(digest) => {
            bytes.push(1);
            bytes.extend_from_slice(digest.as_bytes());
        }
        None => bytes.push(0),
    }
}

/// With its length in front, so that neighbours cannot run into each other.
fn put_sized(bytes: &mut Vec<u8>, name: &[u8]) {
    bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
    bytes.extend_from_slice(name);
}

const fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Symlink => b'l',
        Kind::Fifo => b'p',
        Kind::Socket => b's',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Mtime;

    fn meta(kind: Kind, size: u64) -> EntryMeta {
        EntryMeta {
            kind,
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: Mtime::default(),
            size,
            rdev: (0, 0),
            content: size
                .is_multiple_of(3)
                .then(|| Digest::of(&size.to_le_bytes())),
            xattrs: None,
        }
    }

    #[test]
    fn what_is_hashed_in_pieces_is_what_was_added() {
        let all = Compare::ALL;
        for count in [0_u64, 1, 150, 300, 2_000] {
            let mut dir = DirHasher::new(all, &meta(Kind::Dir, 0));
            let mut bytes = Vec::new();
            put_meta(&mut bytes, all, &meta(Kind::Dir, 0));
            for index in 0..count {
                let name = Name::new(format!("{index:05}").as_bytes()).unwrap();
                put_sized(&mut bytes, name.as_bytes());
                if index.is_multiple_of(7) {
                    let digest = Digest::of(b"below");
                    dir.subtree(&name, &digest).unwrap();
                    bytes.push(0xff);
                    bytes.extend_from_slice(digest.as_bytes());
                } else {
                    dir.file(&name, &meta(Kind::File, index)).unwrap();
                    put_meta(&mut bytes, all, &meta(Kind::File, index));
                }
                assert!(dir.pending.len() < PIECE_BYTES);
            }
            let mut whole = Hasher::for_context(CONTEXT);
            assert_eq!(dir.finish(), whole.update(&bytes).finish(), "{count}");
        }
    }

    #[test]
    fn names_out_of_order_or_twice_are_refused() {
        let [a, b] = [&b"a"[..], b"ab"].map(|name| Name::new(name).unwrap());
        let file = meta(Kind::File, 1);
        let mut dir = DirHasher::new(Compare::ALL, &meta(Kind::Dir, 0));
        dir.file(&b, &file).unwrap();
        assert_eq!(dir.file(&b, &file), Err(OutOfOrder));
        assert_eq!(dir.subtree(&a, &Digest::empty()), Err(OutOfOrder));
    }
}
