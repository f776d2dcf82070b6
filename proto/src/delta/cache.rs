//! [`GroupCache`]: groups of versions that were seen before, within a bound. May be thrown away at any
//! time; what it saves is reading, hashing and sending lists again.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::delta::{GROUP_DIGEST_BYTES, GroupList};
use crate::digest::Digest;

/// A version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownVersion {
    /// Its groups.
    pub groups: GroupList,
    /// Digest of the whole.
    pub digest: Digest,
}

/// Versions by whatever names them; the ones that were not used for longest go first.
#[derive(Debug)]
pub struct GroupCache<K> {
    bytes_max: usize,
    bytes: usize,
    entries: HashMap<K, (u64, Arc<KnownVersion>)>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

/// What an entry takes beside its digests, about.
const ENTRY_BYTES: usize = 400;

impl<K: Clone + Eq + Hash> GroupCache<K> {
    /// One that holds at most about so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Keeps a version, in place of another one of the same name. One that takes more than half of the
    /// room is not kept.
    pub fn insert(&mut self, key: K, version: Arc<KnownVersion>) {
        self.remove(&key);
        let cost = cost(&version);
        if cost > self.bytes_max / 2 {
            return;
        }
        while self.bytes + cost > self.bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            if let Some((_, gone)) = self.entries.remove(&oldest) {
                self.bytes -= self::cost(&gone);
            }
        }
        self.uses += 1;
        self.bytes += cost;
        self.by_use.insert(self.uses, key.clone());
        self.entries.insert(key, (self.uses, version));
    }

    /// The version of this name.
    pub fn find(&mut self, key: &K) -> Option<Arc<KnownVersion>> {
        let (used, version) = self.entries.get_mut(key)?;
        let key = self.by_use.remove(used)?;
        self.uses += 1;
        *used = self.uses;
        let version = version.clone();
        self.by_use.insert(self.uses, key);
        Some(version)
    }

    /// Takes the version of this name out.
    pub fn remove(&mut self, key: &K) -> Option<Arc<KnownVersion>> {
        let (used, version) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        self.bytes -= cost(&version);
        Some(version)
    }
}

fn cost(version: &KnownVersion) -> usize {
    version.groups.digests().len() * GROUP_DIGEST_BYTES + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::GroupHasher;

    fn version(groups: usize) -> Arc<KnownVersion> {
        let len = groups as u64 * crate::limits::GROUP_BYTES;
        let payload = vec![7; groups * GROUP_DIGEST_BYTES];
        Arc::new(KnownVersion {
            groups: GroupList::from_payload(&payload, len).unwrap(),
            digest: GroupHasher::for_len(0).finish().1,
        })
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut cache = GroupCache::new(3 * (ENTRY_BYTES + 32));
        for key in 1..=3 {
            cache.insert(key, version(1));
        }
        assert!(cache.find(&1).is_some());
        cache.insert(4, version(1));
        let left: Vec<_> = (1..=4).filter(|key| cache.find(key).is_some()).collect();
        assert_eq!(left, [1, 3, 4]);
        // The same name again takes no more room.
        cache.insert(4, version(1));
        assert!(cache.find(&1).is_some());
        assert!(cache.remove(&1).is_some() && cache.find(&1).is_none());
    }

    #[test]
    fn what_takes_too_much_is_not_kept() {
        let mut cache = GroupCache::new(10_000);
        cache.insert(1, version(1));
        cache.insert(2, version(200));
        assert!(cache.find(&1).is_some() && cache.find(&2).is_none());
        cache.insert(1, version(200));
        assert!(
            cache.find(&1).is_none(),
            "the old version of that name is no more"
        );
        assert_eq!((cache.bytes, cache.by_use.len()), (0, 0));
    }
}
