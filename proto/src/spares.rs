//! [`Spares`]: buffers of payloads that were worked off, for those that come after them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers to be used again. A fresh one of half a MiB is mapped, cleared and touched page by page,
/// which takes longer than to fill it.
#[derive(Debug)]
pub struct Spares {
    buffers: Mutex<Vec<Vec<u8>>>,
    /// Most that wait.
    count_max: usize,
}

/// Smaller buffers are not worth it, in bytes.
const SPARE_BYTES_MIN: usize = 64 << 10;

impl Spares {
    /// Keeps at most so many buffers.
    #[must_use]
    pub const fn new(count_max: usize) -> Self {
        Self {
            buffers: Mutex::new(Vec::new()),
            count_max,
        }
    }

    /// A buffer of this length, in bytes; what is in it is meant to be written over.
    #[must_use]
    pub fn take(&self, length: usize) -> Vec<u8> {
        let spare = match length {
            SPARE_BYTES_MIN.. => self.lock().pop(),
            _ => None,
        };
        match spare {
            Some(mut buffer) if buffer.capacity() >= length => {
                buffer.resize(length, 0);
                buffer
            }
            _ => vec![0; length],
        }
    }

    /// An empty buffer, which has room if there is a spare one.
    #[must_use]
    pub fn take_empty(&self) -> Vec<u8> {
        let mut buffer = self.lock().pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Gives a buffer back. Small ones, and those that are too many, go.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut buffers = self.lock();
        if buffer.capacity() >= SPARE_BYTES_MIN && buffers.len() < self.count_max {
            buffers.push(buffer);
        }
    }

    /// Gives all of them to the system.
    pub fn clear(&self) {
        *self.lock() = Vec::new();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 2 * SPARE_BYTES_MIN;

    #[test]
    fn a_buffer_is_used_again_at_any_length_it_has_room_for() {
        let spares = Spares::new(4);
        let first = spares.take(LEN);
        let place = first.as_ptr();
        spares.give(first);
        let mut shorter = spares.take(LEN - 10);
        assert_eq!((shorter.as_ptr(), shorter.len()), (place, LEN - 10));
        shorter.fill(7);
        spares.give(shorter);
        let longer = spares.take(LEN);
        assert_eq!((longer.as_ptr(), longer.len()), (place, LEN));
        spares.give(longer);
        let empty = spares.take_empty();
        assert_eq!((empty.as_ptr(), empty.len()), (place, 0));
        spares.give(empty);
        assert_eq!(spares.take(LEN + 1).len(), LEN + 1);
        assert_eq!(spares.take_empty().capacity(), 0);
    }

    #[test]
    fn few_are_kept_and_none_that_are_small() {
        let spares = Spares::new(4);
        spares.give(vec![0; 8]);
        assert_eq!(spares.lock().len(), 0);
        for _ in 0..10 {
            spares.give(vec![0; LEN]);
        }
        assert_eq!(spares.lock().len(), 4);
        assert_eq!(spares.take(8).len(), 8);
        assert_eq!(spares.lock().len(), 4, "left to those that need it");
        spares.clear();
        assert_eq!(spares.lock().len(), 0);
    }
}
