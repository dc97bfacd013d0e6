//! PURE: the limits the fleet works within, with their defaults, and the arithmetic of replacements.

use crate::settings::{Limits, Settings};
use crate::signer::content::AssignmentPolicy;
use std::time::Duration;

/// Everything about the fleet that an operator or a test may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSettings {
    /// How hosts are restarted, replaced and ended.
    pub hosts: HostLimits,
    /// What every assignment says.
    pub policy: AssignmentPolicy,
    /// How often everything is looked at without being asked.
    pub tick: Duration,
    /// How long one call of a backend may take.
    pub backend_call: Duration,
    /// How long an enrolment token may be spent (`local`: 5 min).
    pub token_life: Duration,
    /// New members of a cluster within this time share one roster.
    pub roster_coalescing: Duration,
    /// How much there may be, where the workspace has no limits of its own.
    pub limits: Limits,
}

impl FleetSettings {
    /// The default times, with this policy and this life of tokens.
    pub fn new(policy: AssignmentPolicy, token_life: Duration) -> Self {
        Self {
            hosts: HostLimits::default(),
            policy,
            tick: Duration::from_secs(5),
            backend_call: Duration::from_secs(60),
            token_life,
            roster_coalescing: Duration::from_millis(250),
            limits: Settings::default().limits,
        }
    }
}

/// How hosts are restarted, replaced and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// A late host is given up this long after its limit: its own report of what went wrong says more than "late".
    pub late_grace: Duration,
    /// A host that was told to end is ended by the backend after this long.
    pub end_grace: Duration,
    /// Workers are told to end this long before the scheduler, unless they are done sooner.
    pub workers_first: Duration,
    /// A worker whose process exited is given up this much later: when a scheduler dies, its workers die with it, and
    /// which host says so first is chance. Longer than a host takes to notice.
    pub scheduler_word: Duration,
    /// How often a dead agent is started again within `restart_window`.
    pub restarts: u32,
    /// See `restarts`.
    pub restart_window: Duration,
    /// How many failed workers of a cluster are replaced at once; each makes place for another after `forget_failure`.
    pub replacements: u32,
    /// A failed worker counts for this long; several are forgotten one after the other. A cluster that loses a worker
    /// now and then keeps its size, and one whose workers all fail makes three an hour.
    pub forget_failure: Duration,
    /// How many generations a scheduler may be moved to another port.
    pub port_moves: u64,
    /// Worker hosts that are too many are ended after this long, though their scheduler has not moved their data away.
    pub retire: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            late_grace: Duration::from_secs(15),
            end_grace: Duration::from_secs(10),
            workers_first: Duration::from_secs(3),
            scheduler_word: Duration::from_secs(5),
            restarts: 3,
            restart_window: Duration::from_secs(600),
            replacements: 3,
            forget_failure: Duration::from_secs(20 * 60),
            port_moves: 5,
            retire: Duration::from_secs(120),
        }
    }
}

/// How many workers to ask for now: what is missing, but no more replacements than allowed.
pub fn workers_to_request(wanted: u32, live: u32, failed: u32, replacements: u32) -> u32 {
    let missing = wanted.saturating_sub(live);
    let allowed = wanted.saturating_add(replacements).saturating_sub(failed).saturating_sub(live);
    missing.min(allowed)
}

/// How many failures still count: each adds one, and one is forgotten in each `forget` of time. `failed_at_ms` in any
/// order.
pub fn failures_that_count(failed_at_ms: impl IntoIterator<Item = u64>, forget: Duration, now_ms: u64) -> u32 {
    let each = u64::try_from(forget.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut times: Vec<u64> = failed_at_ms.into_iter().map(|at| at.min(now_ms)).collect();
    times.sort_unstable();
    // Milliseconds until all are forgotten, as of `then`.
    let (mut owed, mut then) = (0u64, 0u64);
    for at in times {
        owed = owed.saturating_sub(at - then).saturating_add(each);
        then = at;
    }
    u32::try_from(owed.saturating_sub(now_ms - then).div_ceil(each)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgotten_one_after_the_other() {
        let count = |times: &[u64], now| failures_that_count(times.to_vec(), Duration::from_millis(10), now);
        assert_eq!(count(&[], 0), 0);
        assert_eq!(count(&[5, 5, 5], 5), 3);
        assert_eq!((count(&[5, 5, 5], 14), count(&[5, 5, 5], 15), count(&[5, 5, 5], 35)), (3, 2, 0));
        assert_eq!(count(&[0, 100, 200], 205), 1, "long times without a failure give no credit");
        assert_eq!(count(&[90, 300], 95), 2, "a clock that stepped back forgets nothing");
    }

    #[test]
    fn replaces_failed_workers_three_times_and_no_more() {
        assert_eq!(workers_to_request(10, 0, 0, 3), 10);
        assert_eq!(workers_to_request(10, 5, 5, 3), 3);
        assert_eq!(workers_to_request(10, 8, 5, 3), 0);
        assert_eq!(workers_to_request(2, 0, 5, 3), 0);
        assert_eq!(workers_to_request(1, 3, 0, 3), 0);
    }
}
