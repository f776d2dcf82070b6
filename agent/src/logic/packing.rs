//! [`Packing`]: whether a link is so slow that compressed payloads get there sooner.

/// Bytes per second; a faster link is not waited for longer than the compressor would take.
const SLOW_BYTES_PER_S: u64 = 32 << 20;

/// A measurement takes so many bytes, so that the socket's buffer does not pass for the link.
const SAMPLE_BYTES: u64 = 1 << 20;

/// Or so long, in microseconds.
const SAMPLE_US: u64 = 20_000;

/// Judges a link by how long writes to it take.
#[derive(Debug, Clone, Default)]
pub struct Packing {
    bytes: u64,
    micros: u64,
    slow: bool,
}

impl Packing {
    /// Takes note of a write: bytes on the wire, and the time until they were taken.
    pub fn wrote(&mut self, bytes: usize, micros: u64) {
        self.bytes += bytes as u64;
        self.micros += micros;
        if self.bytes >= SAMPLE_BYTES || self.micros >= SAMPLE_US {
            self.slow = self.bytes * 1_000_000 < SLOW_BYTES_PER_S * self.micros;
            (self.bytes, self.micros) = (0, 0);
        }
    }

    /// Whether it is slow: compressing pays, and so do small batches.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_judged_by_what_it_takes() {
        let mut packing = Packing::default();
        assert!(!packing.is_slow(), "nothing is known yet");
        packing.wrote(256 << 10, 100);
        packing.wrote(1_000, 19_000);
        assert!(!packing.is_slow(), "too little to tell");
        packing.wrote(256 << 10, 21_000);
        assert!(packing.is_slow(), "12 MB/s");
        // Small writes go into the socket's buffer at once and tell nothing.
        for _ in 0..1_000 {
            packing.wrote(100, 10);
        }
        assert!(packing.is_slow());
        for _ in 0..4 {
            packing.wrote(256 << 10, 250);
        }
        assert!(!packing.is_slow(), "1 GB/s");
    }
}
