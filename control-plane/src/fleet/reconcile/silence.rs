//! PURE: hosts that were in the cluster and say nothing any more: when they are given up.
//!
//! A host that is cut off from us may still work, so silence alone proves nothing, until it has lasted so long that the
//! host's own rules have ended Dask there: its agent's for one without a control plane, its runner's for one without an
//! agent. A worker goes sooner where its scheduler, which speaks, has no worker of it any more.

use super::scaling;
use crate::fleet::observed::{Observed, SeenHost, reached};
use crate::fleet::reasons;
use crate::model::{Reason, StartPhase};
use crate::settings::Rules;
use std::time::Duration;
use towline_protocol::assignment::RoleKind;

/// Reports come every 30 s: who is silent for longer than three of them does not speak. Rules may be shorter.
const SPEAKS: Duration = Duration::from_secs(100);

/// Why this host is given up; none: it is not.
pub fn given_up(host: &SeenHost, seen: &Observed, rules: &Rules) -> Option<Reason> {
    // A start has limits of its own.
    if !reached(&host.record, StartPhase::Joined) || host.silent_for < SPEAKS {
        return None;
    }
    let by_its_own_rules = host.silent_for > rules.control_plane_lost.saturating_add(rules.agent_lost);
    let by_its_scheduler = host.silent_for > rules.agent_lost && is_missed(host, seen);
    (by_its_own_rules || by_its_scheduler).then(|| reasons::silent(&host.record.id, host.silent_for))
}

/// Whether the scheduler says, now, that it has no worker of this host.
fn is_missed(host: &SeenHost, seen: &Observed) -> bool {
    host.record.role == RoleKind::Worker
        && seen.scheduler().is_some_and(|scheduler| scheduler.is_useful() && scheduler.silent_for < SPEAKS)
        && scaling::word(seen).is_some_and(|word| word.absent.contains(&host.record.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::observed::{Presence, reach};
    use crate::fleet::testing::{host, settings};
    use crate::model::HostState;
    use towline_protocol::report::ScalingWord;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A host that is up and has been silent for so long.
    fn seen(n: u8, role: RoleKind, silent_for: Duration) -> SeenHost {
        let mut record = host(n, role);
        record.state = HostState::Up;
        reach(&mut record, StartPhase::Joined, 0);
        let presence = Presence::Running;
        SeenHost { record, presence, busy: false, ending_since_ms: None, recent_restarts: 0, silent_for }
    }

    /// What becomes of a worker that is silent for so long, where the scheduler has been for so long.
    fn code(worker: Duration, scheduler: Duration, missed: bool) -> Option<String> {
        let worker = seen(2, RoleKind::Worker, worker);
        let mut scheduler = seen(1, RoleKind::Scheduler, scheduler);
        let absent = if missed { vec![worker.record.id.clone()] } else { Vec::new() };
        scheduler.record.said.scaling = Some(ScalingWord { wanted: 1, retired: Vec::new(), absent });
        let all = Observed { hosts: vec![scheduler, worker.clone()] };
        given_up(&worker, &all, &settings().policy.rules).map(|reason| reason.code)
    }

    #[test]
    fn a_worker_goes_when_its_scheduler_misses_it_too() {
        let silent = Some("host_silent".to_owned());
        let now = Duration::ZERO;
        assert_eq!(code(31 * MINUTE, now, true), silent);
        assert_eq!(code(29 * MINUTE, now, true), None, "its agent may come back");
        assert_eq!(code(31 * MINUTE, now, false), None, "cut off from us, and at work");
        assert_eq!(code(31 * MINUTE, 2 * MINUTE, true), None, "an old word of a scheduler that is silent as well");
    }

    #[test]
    fn whom_its_own_rules_must_have_ended_goes_whatever_anybody_says() {
        let silent = Some("host_silent".to_owned());
        let rules = 4 * 60 * MINUTE + 30 * MINUTE;
        assert_eq!(code(rules + MINUTE, rules, false), silent);
        assert_eq!(code(rules - MINUTE, rules, false), None);
        let alone = seen(1, RoleKind::Scheduler, rules + MINUTE);
        let all = Observed { hosts: vec![alone.clone()] };
        assert!(given_up(&alone, &all, &settings().policy.rules).is_some(), "a scheduler's host as well");
    }

    #[test]
    fn short_rules_give_up_nobody_between_two_reports() {
        let mut rules = settings().policy.rules;
        (rules.agent_lost, rules.control_plane_lost) = (Duration::from_secs(10), Duration::from_secs(5));
        let speaks = seen(1, RoleKind::Scheduler, Duration::from_secs(90));
        assert!(given_up(&speaks, &Observed::default(), &rules).is_none());
        let silent = seen(1, RoleKind::Scheduler, Duration::from_secs(101));
        assert!(given_up(&silent, &Observed::default(), &rules).is_some());
    }

    #[test]
    fn a_start_has_its_own_limits() {
        let mut starting = seen(2, RoleKind::Worker, 24 * 60 * MINUTE);
        starting.record.phases.pop();
        assert!(given_up(&starting, &Observed::default(), &settings().policy.rules).is_none());
    }
}
