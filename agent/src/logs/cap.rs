//! How much a host may keep for a sink that does not take it. PURE.

/// The most that is kept undelivered, whatever the disk.
const MOST: u64 = 2 * 1024 * 1024 * 1024;

/// The cap on undelivered bytes: a fifth of the file system, and never more than 2 GiB.
pub fn default_cap(file_system: u64) -> u64 {
    MOST.min(file_system / 5)
}

/// The most that stays readable on the host once it is delivered: enough for the last hour of a talkative worker.
const RECENT: u64 = 16 * 1024 * 1024;

/// How many delivered bytes are kept for those who read live. What is not delivered has the room first.
pub fn recent(cap: u64) -> u64 {
    RECENT.min(cap / 10)
}

/// Where the kept part should begin now: none while the cap holds. Makes room for a while, so that a full spool is not
/// cut at every look.
pub fn begin_of_kept(delivered: u64, length: u64, cap: u64) -> Option<u64> {
    let kept = length.saturating_sub(delivered);
    (kept > cap).then(|| length - (cap - cap / 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_the_smaller_of_the_two() {
        assert_eq!(default_cap(u64::MAX), MOST);
        assert_eq!(default_cap(1000), 200);
        assert_eq!([recent(u64::MAX), recent(1000)], [RECENT, 100]);
    }

    proptest! {
        #[test]
        fn drops_only_over_the_cap_and_then_keeps_what_it_may(delivered in 0u64..1000, more in 0u64..5000, cap in 0u64..2000) {
            let length = delivered + more;
            match begin_of_kept(delivered, length, cap) {
                None => prop_assert!(more <= cap),
                Some(begin) => {
                    prop_assert!(more > cap && begin >= delivered && begin <= length);
                    prop_assert!(length - begin <= cap);
                    prop_assert!(length - begin >= cap / 10 * 9);
                }
            }
        }
    }
}
