//! PURE: whether the agent of a host must be taken for dead, and the host be ended in its place.

use super::sign::{LIMIT, Sign};
use serde::Serialize;
use std::time::Duration;

/// Signs come every five to ten seconds: a shorter limit would take a busy machine's agent for a dead one.
const SHORTEST: Duration = Duration::from_secs(30);

/// What is known of a machine that is a host. Times are of the clock that a suspended machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Leaving is an end on its platform: nobody needs to end the machine.
    pub leaves: bool,
    /// Since when somebody looks at it as a host, in this life of the machine.
    pub watched_since: Duration,
    /// Its agent's unit runs, by its manager's word.
    pub runs: bool,
    /// The agent's last sign in this life of the machine.
    pub sign: Option<Sign>,
}

/// What to think of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Judgement {
    /// The agent gave a sign within its limit, or still has time to.
    Alive {
        /// Seconds since its last sign, or since somebody looks.
        silent: u64,
        /// Seconds after which it is taken for dead.
        limit: u64,
    },
    /// The agent is dead or hangs: the host is to end.
    Dead {
        /// Seconds since its last sign, or since somebody looks.
        silent: u64,
        /// Seconds after which it is taken for dead.
        limit: u64,
    },
    /// The host ended, and left the machine to its owner.
    Left,
    /// This machine is no host.
    NoHost,
}

/// Judge as of `now`.
pub fn judge(seen: &Seen, now: Duration) -> Judgement {
    if seen.leaves && seen.sign.is_some_and(|sign| sign.has_left) {
        return Judgement::Left;
    }
    if seen.runs && seen.sign.is_none() {
        // An agent that gives no signs: of an older version, or under a unit that keeps no place for them.
        return Judgement::Alive { silent: 0, limit: LIMIT.as_secs() };
    }
    let limit = seen.sign.map_or(LIMIT, |sign| Duration::from_secs(sign.limit)).max(SHORTEST);
    let silent = now.saturating_sub(seen.sign.map_or(seen.watched_since, Sign::at));
    let (silent, limit) = (silent.as_secs(), limit.as_secs());
    if silent < limit { Judgement::Alive { silent, limit } } else { Judgement::Dead { silent, limit } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sign(at: u64, limit: u64, has_left: bool) -> Option<Sign> {
        Some(Sign { at_ms: at * 1000, limit, has_left })
    }

    const HOST: Seen = Seen { leaves: false, watched_since: Duration::ZERO, runs: false, sign: None };

    #[test]
    fn the_cases() {
        let with = |sign| Seen { sign, ..HOST };
        let alive = |silent, limit| Judgement::Alive { silent, limit };
        let dead = |silent, limit| Judgement::Dead { silent, limit };
        for (what, seen, now, wanted) in [
            ("just booted", HOST, 60, alive(60, 1800)),
            ("an agent that never starts", HOST, 1800, dead(1800, 1800)),
            ("in a container of an old machine", Seen { watched_since: seconds(9000), ..HOST }, 9060, alive(60, 1800)),
            ("an agent that gives no signs", Seen { runs: true, ..HOST }, 99_999, alive(0, 1800)),
            ("one that did and hangs", Seen { runs: true, ..with(sign(100, 600, false)) }, 700, dead(600, 600)),
            ("a sign just now", with(sign(100, 600, false)), 105, alive(5, 600)),
            ("a sign long ago", with(sign(100, 600, false)), 700, dead(600, 600)),
            ("a limit below a sign's period", with(sign(100, 5, false)), 120, alive(20, 30)),
            ("climbing in vain since", with(sign(100, 600, true)), 700, dead(600, 600)),
            ("left", Seen { leaves: true, ..with(sign(100, 600, true)) }, 99_999, Judgement::Left),
            ("dead on one's own machine", Seen { leaves: true, ..with(sign(100, 600, false)) }, 700, dead(600, 600)),
        ] {
            assert_eq!(judge(&seen, seconds(now)), wanted, "{what}");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_taken_for_dead_within_the_limit_nor_for_alive_after_it(
            at in 0u64..1_000_000, limit in 0u64..100_000, later in 0u64..200_000, leaves: bool,
        ) {
            let seen = Seen { leaves, sign: sign(at, limit, false), ..HOST };
            let is_dead = matches!(judge(&seen, seconds(at + later)), Judgement::Dead { .. });
            prop_assert_eq!(is_dead, later >= limit.max(30));
        }
    }
}
