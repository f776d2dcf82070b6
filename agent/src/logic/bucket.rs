//! [`Bucket`]: a limit on bytes per second, as a token bucket.

use crate::logic::coalesce::Millis;

/// Share of a second that may be sent at once after a pause, in milliseconds of the rate.
const BURST_MS: u64 = 100;

/// Bytes that may be sent, refilled at a steady rate. May be overdrawn once; then it says how long to
/// wait.
#[derive(Debug, Clone)]
pub struct Bucket {
    bytes_per_s: u64,
    /// Thousandths of a byte that may be sent; negative while overdrawn.
    level: i128,
    at: Millis,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(bytes_per_s: u64, now: Millis) -> Self {
        Self {
            bytes_per_s,
            level: i128::from(bytes_per_s) * i128::from(BURST_MS),
            at: now,
        }
    }

    /// From now on it is refilled at this rate.
    pub fn set_rate(&mut self, bytes_per_s: u64, now: Millis) {
        if bytes_per_s != self.bytes_per_s {
            self.refill(now);
            self.bytes_per_s = bytes_per_s;
        }
    }

    /// Takes `bytes` out; returns how many milliseconds to wait before they are sent.
    pub fn take(&mut self, bytes: usize, now: Millis) -> Millis {
        let rate = i128::from(self.bytes_per_s);
        self.refill(now);
        let wait = if self.level < 0 {
            (-self.level).div_euclid(rate.max(1)) + 1
        } else {
            0
        };
        self.level -= bytes as i128 * 1_000;
        Millis::try_from(wait).unwrap_or(Millis::MAX)
    }
}

impl Bucket {
    fn refill(&mut self, now: Millis) {
        let rate = i128::from(self.bytes_per_s);
        let full = rate * i128::from(BURST_MS);
        let elapsed = i128::from(now.saturating_sub(self.at));
        self.level = (self.level + rate * elapsed).min(full);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_the_rate_is_kept() {
        let mut bucket = Bucket::new(1_000_000, 0);
        let mut now = 0;
        for _ in 0..1_000 {
            now += bucket.take(50_000, now);
        }
        let ideal = 50_000 * 1_000 / 1_000_000 * 1_000;
        assert!((ideal - 200..=ideal).contains(&now), "{now} ms");
    }

    #[test]
    fn another_rate_holds_from_when_it_is_set() {
        let mut bucket = Bucket::new(1_000, 0);
        assert_eq!(bucket.take(1_100, 0), 0);
        bucket.set_rate(10_000, 500);
        // Half a second at the old rate was paid back; the rest goes ten times as fast.
        assert_eq!(bucket.take(0, 500), 51);
        bucket.set_rate(10_000, 550);
        assert_eq!(bucket.take(0, 551), 0);
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let mut bucket = Bucket::new(1_000, 0);
        assert_eq!(bucket.take(100, 3_600_000), 0);
        assert_eq!(bucket.take(1_000, 3_600_000), 0);
        assert!(bucket.take(1, 3_600_000) > 900);
    }
}
