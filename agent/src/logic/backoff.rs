//! [`Backoff`]: attempt and randomness in, delay out.

use std::time::Duration;

/// Delays that double up to a ceiling, with full jitter: anything between nothing and the full delay,
/// so that many agents do not come back in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Between attempts to connect.
    pub const CONNECT: Self = Self::new(Duration::from_millis(500), Duration::from_secs(60));
    /// Between attempts at one path the receiver rejected.
    pub const PATH: Self = Self::new(Duration::from_millis(500), Duration::from_secs(60));

    /// Delays from `first`, doubling, to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The longest delay after `attempt` failures (at least one).
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// The delay after `attempt` failures. `random` is any 64 random bits.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let ceiling = self.ceiling(attempt).as_nanos();
        let nanos = (ceiling * u128::from(random)) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_and_stops_at_a_minute() {
        let ceilings: Vec<_> = (0..=9)
            .map(|attempt| Backoff::CONNECT.ceiling(attempt).as_millis())
            .collect();
        assert_eq!(
            ceilings,
            [500, 500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]
        );
        assert_eq!(Backoff::CONNECT.ceiling(u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn jitter_is_full_and_follows_the_random_number() {
        let backoff = Backoff::PATH;
        assert_eq!(backoff.delay(3, 0), Duration::ZERO);
        assert_eq!(backoff.delay(3, 1 << 63), Duration::from_secs(1));
        let most = backoff.delay(3, u64::MAX);
        assert!(most <= Duration::from_secs(2) && most > Duration::from_millis(1999));
    }
}
