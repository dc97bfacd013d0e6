//! Local rules that end a host when others fall silent, and caps that end it whatever happens. Pure.
//!
//! Owns the order in which the rules are asked and the moment at which the next one could fire. Must not act; the
//! reconciler turns an answer into an ending. All times are boot time: wall time alone never ends a host.

use std::time::Duration;
use towline_protocol::assignment::{Assignment, RoleKind};
use towline_protocol::report::{EndReason, Verdict, VerdictState};
use towline_protocol::time::BootTime;

/// A host that never got an assignment and hears nothing ends after this long: nobody else knows that it exists.
pub const NO_ASSIGNMENT: Duration = Duration::from_secs(10 * 60);

/// What the rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    /// How long the host has lived, over restarts of the agent.
    pub lived: Duration,
    /// How long no lease came, over restarts of the agent.
    pub silent: Duration,
    /// Since when a worker has not been part of its cluster after it once was, or its processes are gone.
    pub scheduler_gone: Option<BootTime>,
    /// The idle engine's answer.
    pub verdict: Option<Verdict>,
}

/// The limits of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See `Deadlines::control_plane_lost`.
    pub control_plane_lost: Duration,
    /// See `Deadlines::scheduler_lost`.
    pub scheduler_lost: Duration,
    /// See `Caps::max_lifetime`.
    pub max_lifetime: Duration,
    /// See `IdlePolicy::after`.
    pub idle_after: Option<Duration>,
    /// Scheduler hosts decide for their cluster; workers never decide alone.
    pub scheduler: bool,
}

impl From<&Assignment> for Limits {
    fn from(assignment: &Assignment) -> Self {
        Self {
            control_plane_lost: Duration::from_secs(assignment.deadlines.control_plane_lost),
            scheduler_lost: Duration::from_secs(assignment.deadlines.scheduler_lost),
            max_lifetime: Duration::from_secs(assignment.caps.max_lifetime),
            idle_after: assignment.idle.after.map(Duration::from_secs),
            scheduler: assignment.role.as_ref().is_some_and(|role| role.kind == RoleKind::Scheduler),
        }
    }
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The host must end.
    End(EndReason),
    /// Not yet; ask again after this long at the latest.
    Wait(Duration),
}

/// Ask all rules.
pub fn judge(limits: Option<&Limits>, signs: &Signs, now: BootTime) -> Ruling {
    let Some(limits) = limits else {
        return first([(signs.silent, NO_ASSIGNMENT, EndReason::StartFailed)]);
    };
    let mut rules = vec![
        (signs.lived, limits.max_lifetime, EndReason::MaxLifetime),
        (signs.silent, limits.control_plane_lost, EndReason::ControlPlaneLost),
    ];
    if let Some(since) = signs.scheduler_gone {
        rules.push((now.since(since), limits.scheduler_lost, EndReason::SchedulerLost));
    }
    if let (true, Some(after), Some(verdict)) = (limits.scheduler, limits.idle_after, &signs.verdict) {
        // Only a plain "idle" counts: unknown is busy.
        if verdict.state == VerdictState::Idle {
            rules.push((Duration::from_secs(verdict.idle_for), after, EndReason::Idle));
        }
    }
    first(rules)
}

fn first(rules: impl IntoIterator<Item = (Duration, Duration, EndReason)>) -> Ruling {
    let mut wait = Duration::MAX;
    for (elapsed, limit, reason) in rules {
        if elapsed >= limit {
            return Ruling::End(reason);
        }
        wait = wait.min(limit - elapsed);
    }
    Ruling::Wait(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::report::VerdictReason;

    const NOW: BootTime = BootTime(Duration::from_secs(10_000));

    fn limits(scheduler: bool) -> Limits {
        Limits {
            control_plane_lost: Duration::from_secs(100),
            scheduler_lost: Duration::from_secs(50),
            max_lifetime: Duration::from_secs(1_000),
            idle_after: Some(Duration::from_secs(20)),
            scheduler,
        }
    }

    fn signs() -> Signs {
        Signs { lived: Duration::from_secs(30), silent: Duration::ZERO, scheduler_gone: None, verdict: None }
    }

    fn verdict(state: VerdictState, idle_for: u64) -> Option<Verdict> {
        Some(Verdict { state, reasons: vec![VerdictReason::Quiet], idle_for })
    }

    #[test]
    fn a_host_that_is_heard_and_young_waits() {
        assert_eq!(judge(Some(&limits(true)), &signs(), NOW), Ruling::Wait(Duration::from_secs(100)));
    }

    #[test]
    fn each_rule_ends_at_its_limit_and_not_before() {
        let just = |seconds| Duration::from_secs(seconds);
        let cases = [
            (Signs { lived: just(999), ..signs() }, Ruling::Wait(just(1))),
            (Signs { lived: just(1_000), ..signs() }, Ruling::End(EndReason::MaxLifetime)),
            (Signs { silent: just(99), ..signs() }, Ruling::Wait(just(1))),
            (Signs { silent: just(100), ..signs() }, Ruling::End(EndReason::ControlPlaneLost)),
            (Signs { scheduler_gone: Some(BootTime(just(9_951))), ..signs() }, Ruling::Wait(just(1))),
            (Signs { scheduler_gone: Some(BootTime(just(9_950))), ..signs() }, Ruling::End(EndReason::SchedulerLost)),
            (Signs { verdict: verdict(VerdictState::Idle, 19), ..signs() }, Ruling::Wait(just(1))),
            (Signs { verdict: verdict(VerdictState::Idle, 20), ..signs() }, Ruling::End(EndReason::Idle)),
        ];
        for (signs, ruling) in cases {
            assert_eq!(judge(Some(&limits(true)), &signs, NOW), ruling, "{signs:?}");
        }
    }

    #[test]
    fn unknown_counts_as_busy() {
        let signs = Signs { verdict: verdict(VerdictState::Unknown, 900), ..signs() };
        assert!(matches!(judge(Some(&limits(true)), &signs, NOW), Ruling::Wait(_)));
    }

    #[test]
    fn a_worker_never_ends_for_idleness_by_itself() {
        let signs = Signs { verdict: verdict(VerdictState::Idle, 900), ..signs() };
        assert!(matches!(judge(Some(&limits(false)), &signs, NOW), Ruling::Wait(_)));
    }

    #[test]
    fn a_host_without_assignment_ends_only_in_silence() {
        assert!(matches!(judge(None, &Signs { lived: NO_ASSIGNMENT * 9, ..signs() }, NOW), Ruling::Wait(_)));
        let silent = Signs { silent: NO_ASSIGNMENT, ..signs() };
        assert_eq!(judge(None, &silent, NOW), Ruling::End(EndReason::StartFailed));
    }
}
