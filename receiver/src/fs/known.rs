//! [`Known`]: versions of files whose content this process has verified itself, with their groups.
//!
//! A version is what [`version_of`] names: it changes with every write, even one that sets the times back.
//! What is copied from such a version need not be read again to know its part of the whole file's digest.
//! Memory only, bounded, and empty after a start: what is not here is read and hashed as ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Statx;

use syncd_proto::delta::{GroupCache, KnownVersion};
use syncd_proto::digest::{Digest, Hasher};
use syncd_proto::meta::{Mtime, Times};

use super::meta::{Identity, identity_of, mtime_of};
use super::signature::version_of;

/// What sessions of a module remember together.
#[derive(Debug)]
pub struct Known(Mutex<GroupCache<[u8; 16]>>);

impl Default for Known {
    fn default() -> Self {
        Self(Mutex::new(GroupCache::new(BYTES_MAX)))
    }
}

impl Known {
    /// A file was staged: its content is verified, its version is not made yet.
    pub fn staged(&self, file: Identity, version: KnownVersion) {
        let key = staged_key(file, &version.digest);
        self.lock().insert(key, Arc::new(version));
    }

    /// A staged file with this digest got its name and its times, and this is what is there now. Anything
    /// else than that very file as it was made is not believed.
    pub fn installed(&self, stat: &Statx, digest: &Digest, (mtime, times): (Mtime, Times)) {
        let mut known = self.lock();
        let Some(version) = known.remove(&staged_key(identity_of(stat), digest)) else {
            return;
        };
        if stat.stx_size == version.groups.len() && times.same(mtime_of(stat), mtime) {
            known.insert(version_of(stat), version);
        }
    }

    /// A file was read whole and has this digest. If that is not what is known of its version, the disk gives back
    /// something else than it was given: nothing may be copied from it unread.
    pub fn seen(&self, stat: &Statx, digest: &Digest) {
        let version = version_of(stat);
        let mut known = self.lock();
        if known
            .find(&version)
            .is_some_and(|known| known.digest != *digest)
        {
            known.remove(&version);
        }
    }

    /// What is known of a version.
    #[must_use]
    pub fn find(&self, version: &[u8; 16]) -> Option<Arc<KnownVersion>> {
        self.lock().find(version)
    }

    fn lock(&self) -> MutexGuard<'_, GroupCache<[u8; 16]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never that of a version: another digest of other things.
fn staged_key(file: Identity, digest: &Digest) -> [u8; 16] {
    let mut hasher = Hasher::for_context("syncd/1 staged file");
    hasher
        .update(&file.dev.to_le_bytes())
        .update(&file.ino.to_le_bytes())
        .update(digest.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finish().as_bytes()[..16]);
    key
}

/// Room for the groups of files of 8 GiB together.
const BYTES_MAX: usize = 4 << 20;
