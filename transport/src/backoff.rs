//! How long to wait before the next try: doubling ceilings, full jitter.
//!
//! Pure: randomness comes in, a duration goes out. Must not sleep. Driven by every retry loop.

use std::time::Duration;

/// Full-jitter back-off: each wait is drawn evenly from zero up to a ceiling that doubles from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Ceilings from `min` on, never above `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, ceiling: min.min(max) }
    }

    /// The next wait. `random` is drawn evenly from [0, 1); anything else is cut to that.
    pub fn next(&mut self, random: f64) -> Duration {
        let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 1.0 };
        let wait = self.ceiling.mul_f64(random).min(self.ceiling);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        wait
    }

    /// Start over: something worked.
    pub fn reset(&mut self) {
        self.ceiling = self.min.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_below_their_ceiling(min in 1u64..10_000, max in 1u64..1_000_000, randoms in prop::collection::vec(any::<f64>(), 1..60)) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            let mut backoff = Backoff::new(min, max);
            for (tries, random) in randoms.into_iter().enumerate() {
                let ceiling = min.saturating_mul(1u32.checked_shl(tries as u32).unwrap_or(u32::MAX)).min(max);
                prop_assert!(backoff.next(random) <= ceiling);
            }
            backoff.reset();
            prop_assert!(backoff.next(1.0) == min.min(max));
        }

        #[test]
        fn the_full_ceiling_grows_to_the_maximum_and_stays(min in 1u64..1000, max in 1000u64..1_000_000) {
            let mut backoff = Backoff::new(Duration::from_millis(min), Duration::from_millis(max));
            let mut before = Duration::ZERO;
            for _ in 0..64 {
                let wait = backoff.next(1.0);
                prop_assert!(wait >= before);
                before = wait;
            }
            prop_assert_eq!(before, Duration::from_millis(max));
        }
    }

    #[test]
    fn jitter_reaches_down_to_zero() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.5), Duration::from_secs(1));
    }
}
