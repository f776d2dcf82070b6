//! [`Spares`]: buffers of chunks that were worked off, for those that come after them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers to be used again. A fresh one of half a MiB is mapped, cleared and touched page by page,
/// which takes longer than to fill it.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Vec<u8>>>);

impl Spares {
    /// A buffer of this length, in bytes; what is in it is meant to be written over.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.lock().pop().unwrap_or_default();
        if buffer.capacity() < length {
            return vec![0; length];
        }
        buffer.resize(length, 0);
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut spares = self.lock();
        if spares.len() < SPARES_MAX {
            spares.push(buffer);
        }
    }

    /// Gives all of them to the system.
    pub(super) fn clear(&self) {
        *self.lock() = Vec::new();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most buffers that wait: chunks come and go one by one.
const SPARES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_at_any_length_it_has_room_for() {
        let spares = Spares::default();
        let first = spares.take(1_000);
        let place = first.as_ptr();
        spares.give(first);
        let mut shorter = spares.take(10);
        assert_eq!((shorter.as_ptr(), shorter.len()), (place, 10));
        shorter.fill(7);
        spares.give(shorter);
        let longer = spares.take(1_000);
        assert_eq!((longer.as_ptr(), longer.len()), (place, 1_000));
        spares.give(longer);
        assert_eq!(spares.take(1_001).len(), 1_001);
        for _ in 0..10 {
            spares.give(vec![0; 8]);
        }
        assert_eq!(spares.lock().len(), SPARES_MAX);
        spares.clear();
        assert_eq!(spares.lock().len(), 0);
    }
}
