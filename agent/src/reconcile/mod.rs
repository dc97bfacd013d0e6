//! What to do next: wanted × had, now → effects. Pure.
//!
//! Owns the order of things on a host: nothing before the assignment is journaled, nothing launched twice, an ending
//! that always arrives at the exit. Must not perform anything, read a clock or remember. Driven by `runtime`, which
//! marks an effect as begun ([`Had::began`]), performs it and feeds the outcome back ([`Had::ended`]).

mod had;
pub mod rules;
pub mod starting;
#[cfg(test)]
mod tests;

pub use had::{
    Adoption, AuthorityHad, CloseHad, DaskHad, EnvironmentHad, Farewell, Had, Outcome, RosterPlace, RunnerHad, Seen,
    StopHad,
};

use towline_protocol::assignment::{Assignment, Lifecycle, RoleKind};
use towline_protocol::ids::{Digest, Position};
use towline_protocol::report::EndReason;
use towline_protocol::time::BootTime;

/// What is durably wanted, read from the journal, and what a local rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The assignment in force.
    pub order: Option<Order>,
    /// The roster in force (scheduler hosts).
    pub roster: Option<RosterPlace>,
    /// A runner is recorded.
    pub runner_recorded: bool,
    /// A start was begun, now or in an earlier life, and no runner is recorded.
    pub runner_starting: bool,
    /// The assignment whose launch was begun.
    pub launch_begun: Option<Position>,
    /// The ending that is under way.
    pub ending: Option<EndReason>,
    /// The last word is written.
    pub signed_off: bool,
    /// A local rule asks for the end (`rules`); not durable until it becomes `ending`.
    pub local_end: Option<EndReason>,
    /// The scheduler's plugin is there to be asked whether it can close (scheduler hosts).
    pub can_close: bool,
    /// It has been silent for so long, while nothing ran, that it will not speak again.
    pub given_up: bool,
    /// It says that it has closed, and why.
    pub closed: Option<EndReason>,
    /// The control plane hears us.
    pub heard: bool,
}

/// The part of an assignment that decides what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its place.
    pub position: Position,
    /// Run, drain or end.
    pub lifecycle: Lifecycle,
    /// The environment to have.
    pub environment: Option<Digest>,
    /// The role to play.
    pub role: Option<RoleKind>,
}

impl From<&Assignment> for Order {
    fn from(assignment: &Assignment) -> Self {
        Self {
            position: assignment.position(),
            lifecycle: assignment.lifecycle,
            environment: assignment.environment.as_ref().map(|environment| environment.digest.clone()),
            role: assignment.role.as_ref().map(|role| role.kind),
        }
    }
}

/// Something to do. Those that start with `Journal` are commits; all others come only after the commit they rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find the recorded runner again.
    AdoptRunner,
    /// Ask the scheduler to take no more tasks, unless it has some.
    AskClose(EndReason),
    /// Leave: the platform's own end follows.
    Exit,
    /// Make certificates for the members of this roster.
    Issue(RosterPlace),
    /// Write down that the host ends, and why.
    JournalEnding(EndReason),
    /// Forget a runner that is gone and never launched anything.
    JournalForgetRunner,
    /// Write down that the launch for this assignment begins.
    JournalLaunch(Position),
    /// Write down which runner was started.
    JournalRunner,
    /// Write down that a runner is about to be started, so that whatever the start leaves is looked for.
    JournalStart,
    /// Start the Dask process.
    Launch(Position),
    /// Ask the runner what its children do.
    Look,
    /// Make or open the cluster CA.
    OpenAuthority,
    /// Write evidence and the last word.
    SignOff(EndReason),
    /// Start a runner.
    StartRunner,
    /// Stop Dask, then the runner; one that does not answer is killed, and Dask with it.
    Stop,
    /// Make this environment present.
    Sync(Digest),
}

/// The effects to begin now. Asking again after [`Had::began`] was told of each gives none.
pub fn reconcile(wanted: &Wanted, had: &Had, now: BootTime) -> Vec<Effect> {
    if let Some(reason) = wanted.ending {
        return end(wanted, had, reason, now);
    }
    if let Some(reason) = reason_to_end(wanted, had) {
        return close_step(wanted, had, reason).unwrap_or_else(|| vec![Effect::JournalEnding(reason)]);
    }
    let Some(order) = &wanted.order else { return Vec::new() };
    let mut effects = Vec::new();
    effects.extend(environment_step(order, had, now));
    effects.extend(authority_step(order, wanted, had, now));
    effects.extend(runner_step(order, wanted, had, now));
    // A look that overlaps a launch could report the time before it, so there is never one beside the other.
    effects.extend(launch_step(order, wanted, had).or_else(|| look_step(had, now)));
    effects
}

/// When [`reconcile`] may give something new although nothing happened.
pub fn next_timeout(wanted: &Wanted, had: &Had) -> Option<BootTime> {
    let mut times = Vec::new();
    if wanted.ending.is_some() && had.stop == StopHad::No {
        times.extend(had.workers_until);
    }
    if let Farewell::Waiting { until } = had.farewell {
        times.push(until);
    }
    if wanted.ending.is_none() {
        if let EnvironmentHad::Failed { retry_at: Some(at), .. } = had.environment {
            times.push(at);
        }
        if let AuthorityHad::Failed { retry_at } = had.authority {
            times.push(retry_at);
        }
        if let RunnerHad::Failed { retry_at } | RunnerHad::Silent { retry_at } = had.runner {
            times.push(retry_at);
        }
        if had.runner == RunnerHad::Held && !had.looking {
            times.push(had.next_look);
        }
    }
    times.into_iter().min()
}

fn reason_to_end(wanted: &Wanted, had: &Had) -> Option<EndReason> {
    let told = wanted.order.as_ref().is_some_and(|order| order.lifecycle == Lifecycle::End);
    if told {
        return Some(EndReason::Assigned);
    }
    // A scheduler that has closed takes no task any more, whatever the rules say by now: all that is left is to end. It
    // says so in its answer, and in each of its statements for an agent that did not get the answer.
    let closed = match had.close {
        CloseHad::Closed(reason) => Some(reason),
        CloseHad::Asking | CloseHad::Open => wanted.closed,
    };
    closed.or(wanted.local_end)
}

/// A cluster that nobody needs is asked first: a task may be on its way that no counter shows yet. None: nothing is left
/// to ask.
fn close_step(wanted: &Wanted, had: &Had, reason: EndReason) -> Option<Vec<Effect>> {
    if !is_gentle(reason) || wanted.closed.is_some() {
        return None;
    }
    match had.close {
        CloseHad::Closed(_) => None,
        // Also when it speaks no more: it may be thinking, and its answer has a deadline.
        CloseHad::Asking => Some(Vec::new()),
        CloseHad::Open if wanted.can_close => Some(vec![Effect::AskClose(reason)]),
        // One that was there a moment ago may be busy; one that was silent for very long is gone.
        CloseHad::Open => (!wanted.given_up).then(Vec::new),
    }
}

/// Endings for want of need, which a single task can call off.
fn is_gentle(reason: EndReason) -> bool {
    matches!(reason, EndReason::Idle | EndReason::NoClient)
}

fn environment_step(order: &Order, had: &Had, now: BootTime) -> Option<Effect> {
    let digest = order.environment.as_ref()?;
    if order.lifecycle != Lifecycle::Run {
        return None;
    }
    let due = match &had.environment {
        EnvironmentHad::Absent => true,
        // One sync at a time; a newer digest waits for the running one, which has a deadline.
        EnvironmentHad::Syncing(_) => false,
        EnvironmentHad::Present(present) => present != digest,
        EnvironmentHad::Failed { digest: failed, retry_at } => failed != digest || retry_at.is_some_and(|at| at <= now),
    };
    due.then(|| Effect::Sync(digest.clone()))
}

fn authority_step(order: &Order, wanted: &Wanted, had: &Had, now: BootTime) -> Option<Effect> {
    if order.role != Some(RoleKind::Scheduler) {
        return None;
    }
    match &had.authority {
        AuthorityHad::Absent => Some(Effect::OpenAuthority),
        AuthorityHad::Failed { retry_at } if *retry_at <= now => Some(Effect::OpenAuthority),
        AuthorityHad::Open { issued } => {
            wanted.roster.filter(|roster| issued.is_none_or(|issued| issued < *roster)).map(Effect::Issue)
        }
        AuthorityHad::Failed { .. } | AuthorityHad::Issuing { .. } | AuthorityHad::Opening => None,
    }
}

fn runner_step(order: &Order, wanted: &Wanted, had: &Had, now: BootTime) -> Option<Effect> {
    match &had.runner {
        RunnerHad::Absent if wants_dask(order) && wanted.launch_begun.is_none() => {
            Some(if wanted.runner_starting { Effect::StartRunner } else { Effect::JournalStart })
        }
        RunnerHad::Failed { retry_at } if wants_dask(order) && *retry_at <= now => Some(Effect::StartRunner),
        RunnerHad::Held if !wanted.runner_recorded => Some(Effect::JournalRunner),
        RunnerHad::Recorded => Some(Effect::AdoptRunner),
        RunnerHad::Silent { retry_at } if *retry_at <= now => Some(Effect::AdoptRunner),
        // Gone before anything was launched: nothing can run twice, so another may be started.
        RunnerHad::Gone if wanted.launch_begun.is_none() => Some(Effect::JournalForgetRunner),
        RunnerHad::Absent
        | RunnerHad::Adopting
        | RunnerHad::Failed { .. }
        | RunnerHad::Gone
        | RunnerHad::Held
        | RunnerHad::Silent { .. }
        | RunnerHad::Starting => None,
    }
}

fn launch_step(order: &Order, wanted: &Wanted, had: &Had) -> Option<Effect> {
    let ready = wants_dask(order)
        && had.runner == RunnerHad::Held
        && wanted.runner_recorded
        && had.dask == DaskHad::Nothing
        && had.certificate
        && !had.looking
        && had.tried.is_none_or(|tried| tried < order.position)
        && matches!((&had.environment, &order.environment),
            (EnvironmentHad::Present(present), Some(digest)) if present == digest);
    if !ready {
        return None;
    }
    Some(if wanted.launch_begun == Some(order.position) {
        Effect::Launch(order.position)
    } else {
        Effect::JournalLaunch(order.position)
    })
}

fn look_step(had: &Had, now: BootTime) -> Option<Effect> {
    let due = had.runner == RunnerHad::Held && !had.looking && had.dask != DaskHad::Launching && had.next_look <= now;
    due.then_some(Effect::Look)
}

fn wants_dask(order: &Order) -> bool {
    order.lifecycle == Lifecycle::Run && order.role.is_some() && order.environment.is_some()
}

/// A scheduler that ends for want of need lets its workers go first: the control plane, told by the report, ends them and
/// then tells us. For a while, and only while it hears us.
fn waits_for_workers(wanted: &Wanted, had: &Had, reason: EndReason, now: BootTime) -> bool {
    let told = wanted.order.as_ref().is_some_and(|order| order.lifecycle == Lifecycle::End);
    is_gentle(reason) && !told && wanted.heard && had.workers_until.is_some_and(|until| now < until)
}

/// Stop → sign off → wait a little for the answer → exit. What is still starting is waited for: each start has a
/// deadline, and stopping a runner that nobody holds is not possible.
fn end(wanted: &Wanted, had: &Had, reason: EndReason, now: BootTime) -> Vec<Effect> {
    if wanted.signed_off {
        let leave = match had.farewell {
            Farewell::Acknowledged => true,
            Farewell::Waiting { until } => until <= now,
            Farewell::Left | Farewell::NotYet | Farewell::Writing => false,
        };
        return if leave { vec![Effect::Exit] } else { Vec::new() };
    }
    if had.farewell != Farewell::NotYet || waits_for_workers(wanted, had, reason, now) {
        return Vec::new();
    }
    match (&had.runner, had.stop) {
        (RunnerHad::Recorded, _) => vec![Effect::AdoptRunner],
        // A start that failed or was cut off may have left one, which would live until it misses an agent.
        (RunnerHad::Absent | RunnerHad::Failed { .. }, StopHad::No) if wanted.runner_starting => {
            vec![Effect::AdoptRunner]
        }
        (RunnerHad::Adopting | RunnerHad::Starting, _) => Vec::new(),
        (RunnerHad::Held, StopHad::No) if had.dask == DaskHad::Launching => Vec::new(),
        (RunnerHad::Held | RunnerHad::Silent { .. }, StopHad::No) => vec![Effect::Stop],
        (_, StopHad::Stopping) => Vec::new(),
        (RunnerHad::Absent | RunnerHad::Failed { .. } | RunnerHad::Gone, StopHad::No) | (_, StopHad::Stopped) => {
            vec![Effect::SignOff(reason)]
        }
    }
}
