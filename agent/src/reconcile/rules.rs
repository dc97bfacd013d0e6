//! Local rules that end a host when others fall silent, and caps that end it whatever happens. Pure.
//!
//! Owns the order in which the rules are asked and the moment at which the next one could fire. Must not act; the
//! reconciler turns an answer into an ending. All times are boot time: wall time alone never ends a host.

use crate::idle::{Judgement, UNKNOWN_FACTOR};
use std::time::Duration;
use towline_protocol::assignment::{Assignment, RoleKind};
use towline_protocol::report::{Deadline, EndReason, VerdictState};
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
    pub judgement: Option<Judgement>,
    /// The cluster ever had a client (scheduler hosts).
    pub had_client: bool,
    /// The platform takes the host away: since when that is known, and for how long it may go on from then.
    pub interrupted: Option<(BootTime, Duration)>,
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
    /// See `Deadlines::no_client`.
    pub no_client: Option<Duration>,
    /// See `Deadlines::first_client`.
    pub first_client: Duration,
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
            no_client: assignment.deadlines.no_client.map(Duration::from_secs),
            first_client: Duration::from_secs(assignment.deadlines.first_client),
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

/// One rule whose clock runs: for how long something has held, for how long it may, and what follows.
type Clock = (Duration, Duration, EndReason);

/// Ask all rules.
pub fn judge(limits: Option<&Limits>, signs: &Signs, now: BootTime) -> Ruling {
    let mut wait = Duration::MAX;
    for (elapsed, limit, reason) in clocks(limits, signs, now) {
        if elapsed >= limit {
            return Ruling::End(reason);
        }
        wait = wait.min(limit - elapsed);
    }
    Ruling::Wait(wait)
}

/// What would end the host if nothing changed, nearest first, and each reason once.
pub fn deadlines(limits: Option<&Limits>, signs: &Signs, now: BootTime) -> Vec<Deadline> {
    let running = clocks(limits, signs, now).into_iter();
    let mut deadlines: Vec<Deadline> = running
        .map(|(elapsed, limit, reason)| Deadline { reason, remaining: limit.saturating_sub(elapsed).as_secs() })
        .collect();
    // Stable: rules that fire together stay in the order in which they are asked.
    deadlines.sort_by_key(|deadline| deadline.remaining);
    let mut told = Vec::new();
    deadlines.retain(|deadline| {
        !told.contains(&deadline.reason) && {
            told.push(deadline.reason);
            true
        }
    });
    deadlines
}

fn clocks(limits: Option<&Limits>, signs: &Signs, now: BootTime) -> Vec<Clock> {
    // Whoever drains the host is faster; this is for a control plane or a scheduler that does not.
    let interrupted = signs.interrupted.map(|(since, allowed)| (now.since(since), allowed, EndReason::Interrupted));
    let Some(limits) = limits else {
        let mut rules = vec![(signs.silent, NO_ASSIGNMENT, EndReason::StartFailed)];
        rules.extend(interrupted);
        return rules;
    };
    let mut rules = vec![
        (signs.lived, limits.max_lifetime, EndReason::MaxLifetime),
        (signs.silent, limits.control_plane_lost, EndReason::ControlPlaneLost),
    ];
    rules.extend(interrupted);
    if let Some(since) = signs.scheduler_gone {
        rules.push((now.since(since), limits.scheduler_lost, EndReason::SchedulerLost));
    }
    if let (true, Some(judgement)) = (limits.scheduler, &signs.judgement) {
        rules.extend(for_nobody(limits, judgement, signs.had_client));
    }
    rules
}

/// Whether a scheduler that was silent for so many seconds while nothing ran is not waited for any more.
pub fn given_up(limits: Option<&Limits>, silent_for: u64) -> bool {
    let limit = limits.filter(|limits| limits.scheduler).and_then(|limits| limits.idle_after);
    limit.is_some_and(|after| Duration::from_secs(silent_for) >= after * UNKNOWN_FACTOR)
}

/// The rules for a cluster that nobody needs.
fn for_nobody(limits: &Limits, judgement: &Judgement, had_client: bool) -> Vec<Clock> {
    let mut rules = Vec::new();
    let verdict = &judgement.verdict;
    if let Some(after) = limits.idle_after {
        // Only a plain "idle" counts: unknown is busy.
        if verdict.state == VerdictState::Idle {
            rules.push((Duration::from_secs(verdict.idle_for), after, EndReason::Idle));
        }
        // With one exception: who said nothing for so long while all else was quiet will not speak again.
        if judgement.quiet_for > 0 {
            rules.push((Duration::from_secs(judgement.quiet_for), after * UNKNOWN_FACTOR, EndReason::Idle));
        }
    }
    if let (Some(after), Some(nobody_for)) = (limits.no_client, verdict.no_client_for) {
        let after = if had_client { after } else { after.max(limits.first_client) };
        rules.push((Duration::from_secs(nobody_for), after, EndReason::NoClient));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idle::WorkersWord;
    use std::collections::BTreeMap;
    use towline_protocol::report::{Verdict, VerdictReason};

    const NOW: BootTime = BootTime(Duration::from_secs(10_000));

    fn limits(scheduler: bool) -> Limits {
        Limits {
            control_plane_lost: Duration::from_secs(100),
            scheduler_lost: Duration::from_secs(50),
            max_lifetime: Duration::from_secs(1_000),
            idle_after: Some(Duration::from_secs(20)),
            no_client: Some(Duration::from_secs(10)),
            first_client: Duration::from_secs(60),
            scheduler,
        }
    }

    fn signs() -> Signs {
        Signs {
            lived: Duration::from_secs(30),
            silent: Duration::ZERO,
            scheduler_gone: None,
            judgement: None,
            had_client: true,
            interrupted: None,
        }
    }

    fn judged(state: VerdictState, idle_for: u64) -> Judgement {
        let reasons = vec![VerdictReason::Quiet];
        let verdict =
            Verdict { state, reasons, held_for: BTreeMap::new(), idle_for, no_client_for: None, warning: None };
        Judgement { verdict, quiet_for: 0, word: WorkersWord::default(), tell: None }
    }

    fn verdict(state: VerdictState, idle_for: u64) -> Option<Judgement> {
        Some(judged(state, idle_for))
    }

    fn nobody_for(seconds: u64) -> Option<Judgement> {
        let mut judged = judged(VerdictState::Busy, 0);
        judged.verdict.no_client_for = Some(seconds);
        Some(judged)
    }

    fn silent_for(seconds: u64) -> Option<Judgement> {
        Some(Judgement { quiet_for: seconds, ..judged(VerdictState::Unknown, 0) })
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
            (Signs { interrupted: Some((BootTime(just(9_990)), just(11))), ..signs() }, Ruling::Wait(just(1))),
            (
                Signs { interrupted: Some((BootTime(just(9_990)), just(10))), ..signs() },
                Ruling::End(EndReason::Interrupted),
            ),
            (Signs { judgement: verdict(VerdictState::Idle, 19), ..signs() }, Ruling::Wait(just(1))),
            (Signs { judgement: verdict(VerdictState::Idle, 20), ..signs() }, Ruling::End(EndReason::Idle)),
            (Signs { judgement: silent_for(79), ..signs() }, Ruling::Wait(just(1))),
            (Signs { judgement: silent_for(80), ..signs() }, Ruling::End(EndReason::Idle)),
            (Signs { judgement: nobody_for(9), ..signs() }, Ruling::Wait(just(1))),
            (Signs { judgement: nobody_for(10), ..signs() }, Ruling::End(EndReason::NoClient)),
            (Signs { judgement: nobody_for(59), had_client: false, ..signs() }, Ruling::Wait(just(1))),
            (Signs { judgement: nobody_for(60), had_client: false, ..signs() }, Ruling::End(EndReason::NoClient)),
        ];
        for (signs, ruling) in cases {
            assert_eq!(judge(Some(&limits(true)), &signs, NOW), ruling, "{signs:?}");
        }
    }

    #[test]
    fn unknown_counts_as_busy() {
        let signs = Signs { judgement: verdict(VerdictState::Unknown, 900), ..signs() };
        assert!(matches!(judge(Some(&limits(true)), &signs, NOW), Ruling::Wait(_)));
    }

    #[test]
    fn a_worker_never_ends_for_idleness_by_itself() {
        for judgement in [verdict(VerdictState::Idle, 900), nobody_for(900), silent_for(900)] {
            let signs = Signs { judgement, ..signs() };
            assert!(matches!(judge(Some(&limits(false)), &signs, NOW), Ruling::Wait(_)));
        }
    }

    #[test]
    fn rules_that_were_switched_off_end_nothing() {
        let off = Limits { idle_after: None, no_client: None, ..limits(true) };
        for judgement in [verdict(VerdictState::Idle, 9_000), nobody_for(9_000), silent_for(9_000)] {
            let signs = Signs { judgement, ..signs() };
            assert!(matches!(judge(Some(&off), &signs, NOW), Ruling::Wait(_)));
        }
    }

    #[test]
    fn a_host_without_assignment_ends_only_in_silence() {
        assert!(matches!(judge(None, &Signs { lived: NO_ASSIGNMENT * 9, ..signs() }, NOW), Ruling::Wait(_)));
        let silent = Signs { silent: NO_ASSIGNMENT, ..signs() };
        assert_eq!(judge(None, &silent, NOW), Ruling::End(EndReason::StartFailed));
    }

    #[test]
    fn tells_what_would_end_it_nearest_first_and_only_for_clocks_that_run() {
        let told = |signs: &Signs| {
            let deadlines = deadlines(Some(&limits(true)), signs, NOW);
            deadlines.into_iter().map(|deadline| (deadline.reason, deadline.remaining)).collect::<Vec<_>>()
        };
        let always = [(EndReason::ControlPlaneLost, 100), (EndReason::MaxLifetime, 970)];
        assert_eq!(told(&signs()), always);
        assert_eq!(told(&Signs { judgement: verdict(VerdictState::Busy, 0), ..signs() }), always);
        let mut idle = judged(VerdictState::Idle, 15);
        idle.verdict.no_client_for = Some(2);
        let idle = told(&Signs { judgement: Some(idle), ..signs() });
        assert_eq!(idle, [&[(EndReason::Idle, 5), (EndReason::NoClient, 8)][..], &always].concat());
        assert_eq!(told(&Signs { judgement: silent_for(30), ..signs() })[0], (EndReason::Idle, 50));
        assert_eq!(told(&Signs { lived: Duration::from_secs(2_000), ..signs() })[0], (EndReason::MaxLifetime, 0));
    }
}
