//! What all simulated hosts together have come to: counts that tasks share, and one value to print.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Times of answers that are kept between two readings. More are counted as leases all the same.
const KEPT: usize = 100_000;

/// How far the hosts are. Every host that was found is in exactly one of the states that follow `hosts`, or on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Hosts found.
    pub hosts: u64,
    /// With a session that is up.
    pub connected: u64,
    /// Whose word that they have joined was answered, in this session.
    pub joined: u64,
    /// Told to end, and their last word was answered.
    pub ended: u64,
    /// Whose session was refused for good.
    pub refused: u64,
    /// Without an identity or a directory that can be used.
    pub failed: u64,
    /// Sessions that were welcomed, over all time.
    pub welcomes: u64,
    /// Reports that were answered, over all time.
    pub leases: u64,
    /// How long the answers since the last reading took, in microseconds.
    pub lease_us: Vec<u64>,
}

/// The shared counts.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) hosts: AtomicU64,
    pub(super) connected: AtomicU64,
    pub(super) joined: AtomicU64,
    pub(super) ended: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) welcomes: AtomicU64,
    leases: AtomicU64,
    lease_us: Mutex<Vec<u64>>,
}

impl Tally {
    pub(super) fn more(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fewer(count: &AtomicU64) {
        count.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, after: Duration) {
        Self::more(&self.leases);
        let mut kept = self.lease_us.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// The counts now. Times of answers are handed out once.
    pub fn read(&self) -> Figures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            hosts: of(&self.hosts),
            connected: of(&self.connected),
            joined: of(&self.joined),
            ended: of(&self.ended),
            refused: of(&self.refused),
            failed: of(&self.failed),
            welcomes: of(&self.welcomes),
            leases: of(&self.leases),
            lease_us: std::mem::take(&mut *self.lease_us.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// The value that `part` of a hundred values do not exceed; none of nothing.
pub fn percentile(values: &[u64], part: u32) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * part.min(100) as usize).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_handed_out_once_and_counted_for_ever() {
        let tally = Tally::default();
        tally.answered(Duration::from_millis(3));
        tally.answered(Duration::from_millis(1));
        let first = tally.read();
        assert_eq!((first.leases, first.lease_us), (2, vec![3000, 1000]));
        let second = tally.read();
        assert_eq!((second.leases, second.lease_us), (2, vec![]));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        assert_eq!(percentile(&[], 99), None);
        assert_eq!(percentile(&[7], 99), Some(7));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        for (part, value) in [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100), (500, 100)] {
            assert_eq!(percentile(&hundred, part), Some(value), "{part}");
        }
    }
}
