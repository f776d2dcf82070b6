//! Directory digests: what reconcile and verify descend by.
//!
//! The digest of a directory covers its own compared metadata and, in byte order of their names, each
//! entry's name, compared metadata and, for a directory, its digest. Equal digests mean equal trees as
//! far as [`Compare`] looks; both sides must use the same one.

use std::fmt;

use crate::digest::{Digest, Hasher};
use crate::meta::{Compare, EntryMeta, Kind};
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

/// Builds the digest of one directory from its entries in byte order.
#[derive(Debug, Clone)]
pub struct DirHasher {
    compare: Compare,
    hasher: Hasher,
    last: Option<Name>,
}

impl DirHasher {
    /// A directory with this metadata of its own. For the root of a mirror too.
    #[must_use]
    pub fn new(compare: Compare, dir: &EntryMeta) -> Self {
        let mut hasher = Hasher::for_context(CONTEXT);
        update_meta(&mut hasher, compare, dir);
        Self {
            compare,
            hasher,
            last: None,
        }
    }

    /// Adds an entry that is not a directory.
    ///
    /// # Errors
    /// [`OutOfOrder`] unless `name` is above the one before.
    pub fn file(&mut self, name: &Name, meta: &EntryMeta) -> Result<(), OutOfOrder> {
        self.in_order(name)?;
        if self.compare.keeps(meta.kind) {
            self.hasher.update_sized(name.as_bytes());
            update_meta(&mut self.hasher, self.compare, meta);
        }
        Ok(())
    }

    /// Adds a directory, whose digest covers its own metadata.
    ///
    /// # Errors
    /// [`OutOfOrder`] unless `name` is above the one before.
    pub fn subtree(&mut self, name: &Name, digest: &Digest) -> Result<(), OutOfOrder> {
        self.in_order(name)?;
        self.hasher.update_sized(name.as_bytes());
        self.hasher.update(&[0xff]).update(digest.as_bytes());
        Ok(())
    }

    fn in_order(&mut self, name: &Name) -> Result<(), OutOfOrder> {
        if self.last.as_ref().is_some_and(|last| last >= name) {
            return Err(OutOfOrder);
        }
        self.last = Some(name.clone());
        Ok(())
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> Digest {
        self.hasher.finish()
    }
}

/// Whether two entries are equal as far as `compare` looks. Content counts where both have a digest.
#[must_use]
pub fn same_entry(compare: Compare, a: &EntryMeta, b: &EntryMeta) -> bool {
    digest_of_meta(compare, a) == digest_of_meta(compare, b)
}

fn digest_of_meta(compare: Compare, meta: &EntryMeta) -> Digest {
    let mut hasher = Hasher::for_context(CONTEXT);
    update_meta(&mut hasher, compare, meta);
    hasher.finish()
}

fn update_meta(hasher: &mut Hasher, compare: Compare, meta: &EntryMeta) {
    hasher.update(&[kind_byte(meta.kind)]);
    if meta.kind != Kind::Symlink {
        let mode = meta.mode & compare.mode_mask;
        hasher.update(&mode.to_le_bytes());
    }
    if compare.owner {
        hasher.update(&meta.uid.to_le_bytes());
        hasher.update(&meta.gid.to_le_bytes());
    }
    if compare.mtime {
        hasher.update(&meta.mtime.secs().to_le_bytes());
        hasher.update(&meta.mtime.nanos().to_le_bytes());
    }
    hasher.update(&meta.size.to_le_bytes());
    hasher.update(&meta.rdev.0.to_le_bytes());
    hasher.update(&meta.rdev.1.to_le_bytes());
    update_optional(hasher, meta.content.as_ref());
    let xattrs = meta.xattrs.as_ref().filter(|_| compare.xattrs.any());
    update_optional(hasher, xattrs);
}

fn update_optional(hasher: &mut Hasher, digest: Option<&Digest>) {
    match digest {
        Some(digest) => hasher.update(&[1]).update(digest.as_bytes()),
        None => hasher.update(&[0]),
    };
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
