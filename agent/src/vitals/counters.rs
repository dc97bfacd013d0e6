//! PURE: counters that only rise, and the rates between two looks at them.
//!
//! A counter that went back (another boot, a cgroup made anew, a device that was taken out) says nothing about the period
//! in which it did. Must not read anything.

use std::collections::BTreeMap;
use std::time::Duration;

/// How much a counter rose; none: it went back, or one of the two values is not known.
pub fn rise(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

/// A rise per second; none also for no time at all.
pub fn per_second(rise: Option<u64>, elapsed: Duration) -> Option<u64> {
    let nanos = elapsed.as_nanos();
    if nanos == 0 {
        return None;
    }
    Some(u64::try_from(u128::from(rise?) * 1_000_000_000 / nanos).unwrap_or(u64::MAX))
}

/// Counters of things that come and go, by name: bytes in and bytes out.
pub type Table = BTreeMap<String, (u64, u64)>;

/// The rises of all that were there both times; none: one of them went back, or a table is not known.
pub fn rises(before: Option<&Table>, now: Option<&Table>) -> Option<(u64, u64)> {
    let before = before?;
    let mut sum = (0u64, 0u64);
    for (name, (into, out)) in now? {
        // What came in the meantime counts from the next period on: its counter may tell of another life.
        let Some((into_before, out_before)) = before.get(name) else { continue };
        sum.0 = sum.0.saturating_add(into.checked_sub(*into_before)?);
        sum.1 = sum.1.saturating_add(out.checked_sub(*out_before)?);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_went_back_says_nothing_of_that_period() {
        assert_eq!(rise(Some(5), Some(9)), Some(4));
        assert_eq!(rise(Some(9), Some(5)), None);
        assert_eq!((rise(None, Some(5)), rise(Some(5), None)), (None, None));
    }

    #[test]
    fn rates_are_per_second_and_need_time() {
        assert_eq!(per_second(Some(10), Duration::from_secs(4)), Some(2));
        assert_eq!(per_second(Some(10), Duration::from_millis(500)), Some(20));
        assert_eq!(per_second(Some(10), Duration::ZERO), None);
        assert_eq!(per_second(Some(u64::MAX), Duration::from_nanos(1)), Some(u64::MAX));
    }

    #[test]
    fn things_that_come_and_go_do_not_count_and_one_that_went_back_spoils_the_sum() {
        let table = |rows: &[(&str, u64, u64)]| -> Table {
            rows.iter().map(|(name, into, out)| ((*name).to_owned(), (*into, *out))).collect()
        };
        let before = table(&[("a", 10, 20), ("gone", 500, 500)]);
        let now = table(&[("a", 11, 25), ("new", 900, 900)]);
        assert_eq!(rises(Some(&before), Some(&now)), Some((1, 5)));
        assert_eq!(rises(Some(&now), Some(&before)), None);
        assert_eq!(rises(None, Some(&now)), None);
    }
}
