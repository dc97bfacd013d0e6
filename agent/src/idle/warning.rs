//! PURE: when people are told that idleness will end their cluster, early enough to say that they need it.

use std::time::Duration;
use towline_protocol::report::EndWarning;

/// The last word comes this long before the end.
const LAST_BEFORE: Duration = Duration::from_secs(2 * 60);

/// Of a shorter time the last word comes in its last quarter.
const LAST_PART: u32 = 4;

/// What is to be said when so much of the allowed time is over.
pub fn stage(elapsed: Duration, allowed: Duration) -> Option<EndWarning> {
    if elapsed.is_zero() {
        return None;
    }
    if allowed.saturating_sub(elapsed) <= LAST_BEFORE.min(allowed / LAST_PART) {
        return Some(EndWarning::Last);
    }
    (elapsed >= allowed / 2).then_some(EndWarning::Half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_and_two_minutes_before_or_in_the_last_quarter() {
        let cases = [
            (0, 1200, None),
            (599, 1200, None),
            (600, 1200, Some(EndWarning::Half)),
            (1079, 1200, Some(EndWarning::Half)),
            (1080, 1200, Some(EndWarning::Last)),
            (2000, 1200, Some(EndWarning::Last)),
            (3, 8, None),
            (4, 8, Some(EndWarning::Half)),
            (6, 8, Some(EndWarning::Last)),
            (0, 0, None),
        ];
        for (elapsed, allowed, wanted) in cases {
            let told = stage(Duration::from_secs(elapsed), Duration::from_secs(allowed));
            assert_eq!(told, wanted, "{elapsed} of {allowed}");
        }
    }
}
