//! The local rule for a host that never was part of its cluster. Pure.
//!
//! While the control plane lives it holds a start to its limits, and knows whether the scheduler is there yet. Once it
//! is silent nobody does, and the host would wait for as long as a busy one may.

use super::rules::Ruling;
use std::time::Duration;
use towline_protocol::assignment::Assignment;
use towline_protocol::report::EndReason;
use towline_protocol::session::DEAD_AFTER;

/// What the rule says: `joined` is whether the host ever was in its cluster, `silent` how long no lease came. The limit is
/// that of a whole start, since a worker may have to wait for all of its scheduler's.
pub fn judge(assignment: Option<&Assignment>, joined: bool, silent: Duration) -> Ruling {
    let Some(assignment) = assignment.filter(|_| !joined) else {
        return Ruling::Wait(Duration::MAX);
    };
    let phases = &assignment.deadlines.phases;
    let start = phases.synced.saturating_add(phases.launched).saturating_add(phases.joined);
    // Leases are half a minute apart: a shorter silence says nothing.
    let limit = Duration::from_secs(start).max(DEAD_AFTER);
    if silent >= limit { Ruling::End(EndReason::StartFailed) } else { Ruling::Wait(limit - silent) }
}

impl Ruling {
    /// The stricter of two rulings: an end, else the shorter wait.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Wait(one), Self::Wait(two)) => Self::Wait(one.min(two)),
            (Self::Wait(_), end) | (end, _) => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::assignment::{
        Caps, Deadlines, IdlePolicy, Lifecycle, LogPlan, PhaseDeadlines, Sink, VitalsPlan,
    };
    use towline_protocol::ids::{ClusterId, Epoch, Generation, HostId, VerifyingKey, WorkspaceId};
    use towline_protocol::time::UnixSeconds;

    fn assignment(synced: u64, joined: u64) -> Assignment {
        Assignment {
            v: 0,
            audience: HostId::from_random([1; 10]),
            workspace: WorkspaceId::from_random([1; 10]),
            cluster: ClusterId::from_random([1; 10]),
            owner: VerifyingKey::from_bytes([1; 32]),
            epoch: Epoch(1),
            generation: Generation(1),
            issued_at: UnixSeconds(0),
            expires_at: UnixSeconds(0),
            lifecycle: Lifecycle::Run,
            environment: None,
            role: None,
            deadlines: Deadlines {
                agent_lost: 1,
                control_plane_lost: 1,
                scheduler_lost: 1,
                no_client: Some(1),
                first_client: 600,
                phases: PhaseDeadlines { synced, launched: 10, joined },
            },
            scheduler: None,
            logs: LogPlan { sink: Sink::File { directory: String::new() }, stream: String::new() },
            vitals: VitalsPlan { period: 1 },
            idle: IdlePolicy { after: None, hold_until: None },
            caps: Caps { max_lifetime: 1, budget_milli: None },
            scaling: None,
        }
    }

    #[test]
    fn a_host_that_never_joined_ends_when_the_control_plane_was_silent_for_a_whole_start() {
        let (slow, quick) = (assignment(100, 90), assignment(1, 1));
        let seconds = Duration::from_secs;
        let cases = [
            (Some(&slow), false, 199, Ruling::Wait(seconds(1))),
            (Some(&slow), false, 200, Ruling::End(EndReason::StartFailed)),
            (Some(&slow), true, 10_000, Ruling::Wait(Duration::MAX)),
            (Some(&quick), false, 94, Ruling::Wait(seconds(1))),
            (Some(&quick), false, 95, Ruling::End(EndReason::StartFailed)),
            (None, false, 10_000, Ruling::Wait(Duration::MAX)),
        ];
        for (assignment, joined, silent, ruling) in cases {
            assert_eq!(judge(assignment, joined, seconds(silent)), ruling, "silent for {silent} s");
        }
    }

    #[test]
    fn an_end_is_stricter_than_any_wait() {
        let (end, wait) = (Ruling::End(EndReason::Idle), Ruling::Wait(Duration::ZERO));
        assert_eq!((end.and(wait), wait.and(end)), (end, end));
        assert_eq!(Ruling::Wait(Duration::MAX).and(wait), wait);
    }
}
