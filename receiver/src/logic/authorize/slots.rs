//! `max connections`: who holds which place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections held, as rsync counts them: modules that name the same lock file share its slots, and
/// each may use the first so many. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    held: Arc<Mutex<BTreeMap<Vec<u8>, BTreeSet<i32>>>>,
    places: Option<Arc<dyn Places>>,
}

/// Where other processes hold connections: the lock files.
pub trait Places: fmt::Debug + Send + Sync {
    /// Takes the place of this number in this file; `None` if another process has it.
    ///
    /// # Errors
    /// Why the file cannot be used.
    fn take(&self, file: &[u8], number: i32) -> Result<Option<HeldPlace>, String>;
}

/// A place in a lock file; free again when dropped.
pub type HeldPlace = Box<dyn fmt::Debug + Send + Sync>;

/// No slot is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSlot {
    /// None is free.
    Full,
    /// The lock file cannot be used: why.
    Unusable(String),
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
#[must_use]
pub struct Slot {
    slots: Slots,
    lock: Vec<u8>,
    pub(super) number: i32,
    place: Option<HeldPlace>,
}

impl Slots {
    /// Counted together with other processes.
    #[must_use]
    pub fn shared(places: Arc<dyn Places>) -> Self {
        Self {
            held: Arc::default(),
            places: Some(places),
        }
    }

    /// The first free slot below `limit`. 0 is no limit and takes none; a negative limit is full.
    ///
    /// # Errors
    /// [`NoSlot`] if there is none.
    pub fn take(&self, lock: &[u8], limit: i32) -> Result<Option<Slot>, NoSlot> {
        if limit == 0 {
            return Ok(None);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = held.entry(lock.to_vec()).or_default();
        let free = (0..limit).filter(|number| !taken.contains(number));
        let found = self.first(lock, free);
        if let Ok((number, _)) = &found {
            taken.insert(*number);
        } else if taken.is_empty() {
            held.remove(lock);
        }
        let (number, place) = found?;
        Ok(Some(Slot {
            slots: self.clone(),
            lock: lock.to_vec(),
            number,
            place,
        }))
    }

    /// The first of these that no other process has.
    fn first(
        &self,
        lock: &[u8],
        mut free: impl Iterator<Item = i32>,
    ) -> Result<(i32, Option<HeldPlace>), NoSlot> {
        let Some(places) = &self.places else {
            return free.next().map(|number| (number, None)).ok_or(NoSlot::Full);
        };
        for number in free {
            let place = places.take(lock, number).map_err(NoSlot::Unusable)?;
            if place.is_some() {
                return Ok((number, place));
            }
        }
        Err(NoSlot::Full)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self
            .slots
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Before the number is given away again.
        self.place = None;
        if let Some(taken) = held.get_mut(&self.lock) {
            taken.remove(&self.number);
            if taken.is_empty() {
                held.remove(&self.lock);
            }
        }
    }
}
