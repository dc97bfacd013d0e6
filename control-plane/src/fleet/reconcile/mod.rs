//! PURE: what is wanted × what is seen, at a time → what to do. Takes no hint and remembers nothing: the same values
//! give the same actions, so a control plane that was killed goes on where it was.
//!
//! Each pass may be one step short of the goal; the fleet's task calls again until nothing is left to do.

use super::intent::Wanted;
use super::limits::{FleetSettings, failures_that_count, workers_to_request};
use super::observed::{Observed, Presence, SeenHost, reached, waiting_for};
use super::reasons;
use crate::model::{ClusterState, HostState, Reason, StartPhase, Wish};
use std::collections::BTreeSet;
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
use towline_protocol::report::{EndReason, Failure, FailureKind};

/// One thing to do. Doing it twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Choose where the scheduler listens, but not on this port.
    ChooseAddress {
        /// The port that was taken.
        avoid: Option<u16>,
    },
    /// Ask the backend to make a host.
    CreateHost(HostId),
    /// The scheduler wants another number of worker hosts.
    Rescale(u32),
    /// Ask the backend to end a host and all that is left of it.
    DestroyHost(HostId),
    /// Bring the cluster to its end.
    EndCluster(Option<Reason>),
    /// Tell a host to end, because it is no longer wanted or ended by its own rule.
    EndHost(HostId, Option<Reason>),
    /// Give a host up.
    FailHost(HostId, Reason),
    /// Nothing is left of the cluster.
    FinishCluster(ClusterState),
    /// These worker hosts are taken away by their platform: have the scheduler move their data.
    NameLeaving(Vec<HostId>),
    /// Nothing is left of the host.
    MarkEnded(HostId),
    /// The host is in the cluster.
    MarkUp(HostId),
    /// Say why the cluster is not all it should be; none: it is.
    NoteCluster(Option<Reason>),
    /// Say what a host waits for or suffers from.
    NoteHost(HostId, Reason),
    /// Write a new host down.
    RequestHost(RoleKind),
    /// Start a dead agent again.
    RestartHost(HostId),
    /// The scheduler takes connections.
    RunCluster,
}

impl Action {
    /// The host that it tells to end.
    fn ends(&self) -> Option<&HostId> {
        match self {
            Self::EndHost(host, _) => Some(host),
            _ => None,
        }
    }
}

/// What to do next for one cluster.
pub fn reconcile(wanted: &Wanted, seen: &Observed, settings: &FleetSettings, now_ms: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    if wanted.is_ending() {
        end_useful_hosts(seen, settings, now_ms, &mut actions);
        clean_up(seen, settings, now_ms, &mut actions);
        if wanted.state == ClusterState::Stopping && seen.live().next().is_none() {
            let failed = wanted.reason.as_ref().is_some_and(reasons::is_failure);
            let state = if failed { ClusterState::Failed } else { ClusterState::Stopped };
            actions.push(Action::FinishCluster(state));
        }
        return actions;
    }
    if wanted.wish == Wish::End {
        return vec![Action::EndCluster(wanted.reason.clone().filter(|reason| !reasons::is_failure(reason)))];
    }
    if let Some(reason) = reason_to_end(wanted, seen, now_ms) {
        return vec![Action::EndCluster(Some(reason))];
    }
    if !wanted.has_address {
        actions.push(Action::ChooseAddress { avoid: None });
    }
    // The next look is at the new number, unless the workspace's limits refuse it; until then the smaller one counts.
    let wish = scaling::wish(wanted, seen);
    actions.extend(wish.map(Action::Rescale));
    if wish.is_none() && wanted.reason.as_ref().is_some_and(reasons::is_scaling_limited) {
        actions.push(Action::NoteCluster(None));
    }
    let n_workers = wish.map_or(wanted.n_workers, |wish| wish.min(wanted.n_workers));
    actions.extend(scaling::leaving(wanted, seen).map(Action::NameLeaving));
    request_hosts(wanted, n_workers, seen, settings, now_ms, &mut actions);
    let going: BTreeSet<HostId> = actions.iter().filter_map(|action| action.ends()).cloned().collect();
    for host in seen.live().filter(|host| host.is_useful() && !going.contains(&host.record.id)) {
        look_after(host, wanted, seen, settings, now_ms, &mut actions);
    }
    clean_up(seen, settings, now_ms, &mut actions);
    if wanted.state == ClusterState::Starting
        && seen.scheduler().is_some_and(|scheduler| scheduler.record.state == HostState::Up)
    {
        actions.push(Action::RunCluster);
    }
    actions
}

/// Why a cluster that is wanted must end all the same.
fn reason_to_end(wanted: &Wanted, seen: &Observed, now_ms: u64) -> Option<Reason> {
    if now_ms >= wanted.ends_at_ms {
        return Some(reasons::max_lifetime());
    }
    if let Some(scheduler) = seen.scheduler().filter(|scheduler| !scheduler.is_useful()) {
        let why = scheduler.record.reason.clone();
        let joined = reached(&scheduler.record, StartPhase::Joined);
        return Some(match why {
            Some(why) if !joined || !reasons::is_failure(&why) || why.code == "scheduler_lost" => why,
            Some(why) => reasons::scheduler_lost(&why.message),
            None => reasons::scheduler_lost("its host ended"),
        });
    }
    // The scheduler's host decides on idleness: only there a task that comes at the last moment is seen. It says so
    // before it ends, so that workers are told to end by us and do not lose their scheduler instead.
    let scheduler = seen.scheduler()?;
    let by_its_own_rule = scheduler.record.said.ending.filter(|end| *end != EndReason::Assigned)?;
    Some(reasons::signed_off(&scheduler.record.id, by_its_own_rule))
}

fn request_hosts(
    wanted: &Wanted,
    n_workers: u32,
    seen: &Observed,
    settings: &FleetSettings,
    now_ms: u64,
    actions: &mut Vec<Action>,
) {
    if seen.scheduler().is_none() {
        actions.push(Action::RequestHost(RoleKind::Scheduler));
    }
    let live: Vec<&SeenHost> = scaling::working(wanted, seen).collect();
    let failed: Vec<&SeenHost> = seen
        .workers()
        .filter(|host| !host.is_useful() && host.record.reason.as_ref().is_some_and(reasons::counts))
        .collect();
    let [n_live, n_failed] = [live.len(), failed.len()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    // One that has not ended yet counts as failed just now.
    let failed_at_ms = failed.iter().map(|host| host.record.ended_at_ms.unwrap_or(now_ms));
    let lately = failures_that_count(failed_at_ms, settings.hosts.forget_failure, now_ms);
    let request = workers_to_request(n_workers, n_live, lately, settings.hosts.replacements);
    actions.extend((0..request).map(|_| Action::RequestHost(RoleKind::Worker)));

    let short = n_live + request < n_workers;
    let last = failed.iter().max_by_key(|host| (host.record.created_at_ms, &host.record.id));
    let note = short.then(|| reasons::workers_failing(n_failed, last.and_then(|host| host.record.reason.as_ref())));
    let noted = wanted.reason.as_ref().filter(|reason| reason.code == "workers_failing");
    if note.as_ref() != noted && (note.is_some() || noted.is_some()) {
        actions.push(Action::NoteCluster(note));
    }

    actions.extend(scaling::shrink(wanted, seen, settings, now_ms));
}

/// One host that is wanted: make it, start it again, see how far it is, give it up.
fn look_after(
    host: &SeenHost,
    wanted: &Wanted,
    seen: &Observed,
    settings: &FleetSettings,
    now_ms: u64,
    actions: &mut Vec<Action>,
) {
    let record = &host.record;
    let id = || record.id.clone();
    if let Some(sign_off) = &record.said.sign_off {
        actions.push(Action::EndHost(id(), Some(reasons::signed_off(&record.id, sign_off.reason))));
        return;
    }
    if let Some(failure) = &record.said.failure
        && !may_be_the_schedulers(host, failure, seen, settings, now_ms)
        && let Some(action) = on_failure(host, failure, wanted, settings)
    {
        actions.push(action);
        return;
    }
    if let Some(reason) = silence::given_up(host, seen, &settings.policy.rules) {
        actions.push(Action::FailHost(id(), reason));
        return;
    }
    if !host.busy {
        match (host.presence, &record.backend) {
            (_, None) => actions.push(Action::CreateHost(id())),
            (Presence::Absent, Some(_)) => {
                actions.push(Action::FailHost(id(), reasons::vanished(&record.id)));
                return;
            }
            (Presence::Stopped, Some(_)) if host.recent_restarts >= settings.hosts.restarts => {
                actions.push(Action::FailHost(id(), reasons::agent_dead(&record.id, host.recent_restarts)));
                return;
            }
            (Presence::Stopped, Some(_)) => actions.push(Action::RestartHost(id())),
            (Presence::Running | Presence::Unknown, Some(_)) => {}
        }
    }
    if record.state == HostState::Starting {
        actions.extend(start(host, seen, settings, now_ms));
    }
}

/// Whether a worker may only have died with its scheduler, which then says so itself within a moment.
fn may_be_the_schedulers(
    host: &SeenHost,
    failure: &Failure,
    seen: &Observed,
    settings: &FleetSettings,
    now_ms: u64,
) -> bool {
    let kind = matches!(failure.kind, FailureKind::ProcessExited | FailureKind::SchedulerLost);
    let failed_for = host.record.said.failed_at_ms.and_then(|at| now_ms.checked_sub(at)).map(Duration::from_millis);
    kind && host.record.role == RoleKind::Worker
        && seen.scheduler().is_some_and(SeenHost::is_useful)
        && failed_for.is_some_and(|time| time < settings.hosts.scheduler_word)
}

/// What a host says went wrong. None: nothing new to do about it.
fn on_failure(host: &SeenHost, failure: &Failure, wanted: &Wanted, settings: &FleetSettings) -> Option<Action> {
    let record = &host.record;
    let launched = reached(record, StartPhase::Launched);
    if failure.kind == FailureKind::PortTaken && record.role == RoleKind::Scheduler && !launched {
        let stored = record.assignment.as_ref().map(|assignment| assignment.position);
        let taken = failure.subject.as_ref().and_then(|subject| subject.parse::<u16>().ok());
        // It speaks of a port that is already replaced: in its assignment, or here and not signed yet.
        if record.said.observed != stored || taken.is_some_and(|taken| wanted.port != Some(taken)) {
            return None;
        }
        if stored.is_some_and(|position| position.generation.0 <= settings.hosts.port_moves) {
            return Some(Action::ChooseAddress { avoid: wanted.port });
        }
    }
    let reason = reasons::of_failure(&record.id, record.role, failure, reached(record, StartPhase::Joined));
    if !failure.retryable {
        return Some(Action::FailHost(record.id.clone(), reason));
    }
    (record.reason.as_ref() != Some(&reason)).then(|| Action::NoteHost(record.id.clone(), reason))
}

/// How far a starting host is, and whether that takes too long.
fn start(host: &SeenHost, seen: &Observed, settings: &FleetSettings, now_ms: u64) -> Option<Action> {
    let record = &host.record;
    let Some(phase) = waiting_for(record) else {
        return Some(Action::MarkUp(record.id.clone()));
    };
    let since_ms = waiting_since(host, phase, seen)?;
    let limit = settings.policy.phases.of(phase);
    let waited = Duration::from_millis(now_ms.saturating_sub(since_ms));
    if waited <= limit {
        return None;
    }
    // What the host itself said weighs more than our clock.
    let said = record.said.failure.is_some().then(|| record.reason.clone()).flatten();
    let reason = said.unwrap_or_else(|| reasons::late(&record.id, phase, limit));
    if waited > limit + settings.hosts.late_grace {
        return Some(Action::FailHost(record.id.clone(), reason));
    }
    (record.reason.as_ref() != Some(&reason)).then(|| Action::NoteHost(record.id.clone(), reason))
}

/// Since when a host can be held to a phase. A worker gets its certificate from the scheduler's host and joins the
/// scheduler: before that one has joined, the worker is not late.
fn waiting_since(host: &SeenHost, phase: StartPhase, seen: &Observed) -> Option<u64> {
    let own = host.record.phases.last().map_or(host.record.created_at_ms, |timing| timing.reached_at_ms);
    if host.record.role != RoleKind::Worker || phase < StartPhase::Launched {
        return Some(own);
    }
    let scheduler = seen.scheduler()?;
    let joined = scheduler.record.phases.iter().find(|timing| timing.phase == StartPhase::Joined)?;
    Some(own.max(joined.reached_at_ms))
}

/// A cluster that ends: workers go first, the scheduler follows when they are done or had their time.
fn end_useful_hosts(seen: &Observed, settings: &FleetSettings, now_ms: u64, actions: &mut Vec<Action>) {
    for worker in seen.workers().filter(|host| host.is_useful()) {
        actions.push(Action::EndHost(worker.record.id.clone(), None));
    }
    let workers_done = seen.workers().all(|worker| {
        let done = worker.record.said.sign_off.is_some() || !has_begun(worker);
        match worker.record.state {
            HostState::Starting | HostState::Up => false,
            HostState::Ended | HostState::Banned => true,
            HostState::Ending | HostState::Failed => {
                done || ending_for(worker, now_ms).is_some_and(|time| time >= settings.hosts.workers_first)
            }
        }
    });
    if workers_done {
        let others = seen.hosts.iter().filter(|host| host.is_useful() && host.record.role != RoleKind::Worker);
        actions.extend(others.map(|host| Action::EndHost(host.record.id.clone(), None)));
    }
}

/// Hosts that are told to end, failed or are banned: see them gone.
fn clean_up(seen: &Observed, settings: &FleetSettings, now_ms: u64, actions: &mut Vec<Action>) {
    for host in seen.live().filter(|host| !host.is_useful() && !host.busy) {
        let id = host.record.id.clone();
        match host.presence {
            Presence::Absent => actions.push(Action::MarkEnded(id)),
            Presence::Stopped => actions.push(Action::DestroyHost(id)),
            Presence::Running | Presence::Unknown => {
                let out_of_time = ending_for(host, now_ms).is_some_and(|time| time >= settings.hosts.end_grace);
                let cannot_be_told = host.record.state == HostState::Banned || !has_begun(host);
                // A signed-off host ends by itself within its own deadlines; what has no session cannot be told to.
                if out_of_time || cannot_be_told {
                    actions.push(Action::DestroyHost(id));
                }
            }
        }
    }
}

/// Whether the host ever had a session, so that it can be told to end.
fn has_begun(host: &SeenHost) -> bool {
    reached(&host.record, StartPhase::Enrolled)
}

fn ending_for(host: &SeenHost, now_ms: u64) -> Option<Duration> {
    host.ending_since_ms.map(|since| Duration::from_millis(now_ms.saturating_sub(since)))
}

mod scaling;
mod silence;
#[cfg(test)]
mod tests;
