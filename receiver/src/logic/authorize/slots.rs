//! `max connections`: who holds which place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections held, as rsync counts them: modules that name the same lock file share its slots, and
/// each may use the first so many. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Slots(Arc<Mutex<BTreeMap<Vec<u8>, BTreeSet<i32>>>>);

/// No slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One connection's place; free again when dropped.
#[derive(Debug)]
#[must_use]
pub struct Slot {
    slots: Slots,
    lock: Vec<u8>,
    pub(super) number: i32,
}

impl Slots {
    /// The first free slot below `limit`. 0 is no limit and takes none; a negative limit is full.
    ///
    /// # Errors
    /// [`Full`] if there is none.
    pub fn take(&self, lock: &[u8], limit: i32) -> Result<Option<Slot>, Full> {
        if limit == 0 {
            return Ok(None);
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = held.entry(lock.to_vec()).or_default();
        let number = (0..limit)
            .find(|number| !taken.contains(number))
            .ok_or(Full)?;
        taken.insert(number);
        Ok(Some(Slot {
            slots: self.clone(),
            lock: lock.to_vec(),
            number,
        }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = held.get_mut(&self.lock) {
            taken.remove(&self.number);
            if taken.is_empty() {
                held.remove(&self.lock);
            }
        }
    }
}
