//! PURE: what is known about the hosts of a cluster: what the store keeps, what the backend sees, what is under way.

use crate::model::{HostRecord, HostState, PhaseTiming, StartPhase};
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;

/// What a backend sees of a host. "Cannot tell" is a value: nothing is started or given up on the strength of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// The backend holds nothing for this host.
    Absent,
    /// It is there and runs.
    Running,
    /// It is there but nothing runs in it.
    Stopped,
    /// The backend could not tell.
    Unknown,
}

/// One host of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenHost {
    /// What the store keeps.
    pub record: HostRecord,
    /// What the backend sees.
    pub presence: Presence,
    /// A call of the backend for this host is under way: start no other.
    pub busy: bool,
    /// Since when it is ending, Unix milliseconds.
    pub ending_since_ms: Option<u64>,
    /// How often its agent was started again lately.
    pub recent_restarts: u32,
    /// For how long it has said nothing although we listened.
    pub silent_for: Duration,
}

/// Every host of a cluster that ever was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// In the order they were asked for.
    pub hosts: Vec<SeenHost>,
}

impl Observed {
    /// The scheduler's host, dead or alive.
    pub fn scheduler(&self) -> Option<&SeenHost> {
        self.hosts.iter().find(|host| host.record.role == RoleKind::Scheduler)
    }

    /// Worker hosts, dead or alive.
    pub fn workers(&self) -> impl Iterator<Item = &SeenHost> {
        self.hosts.iter().filter(|host| host.record.role == RoleKind::Worker)
    }

    /// Hosts for which the backend may still hold something.
    pub fn live(&self) -> impl Iterator<Item = &SeenHost> {
        self.hosts.iter().filter(|host| host.record.state.is_live())
    }

    /// One host.
    pub fn host(&self, id: &HostId) -> Option<&SeenHost> {
        self.hosts.iter().find(|host| host.record.id == *id)
    }
}

impl SeenHost {
    /// Whether it counts towards the wanted number.
    pub fn is_useful(&self) -> bool {
        matches!(self.record.state, HostState::Starting | HostState::Up)
    }

    /// Whether its platform takes it away now.
    pub fn is_going(&self) -> bool {
        self.record.said.interruption.is_some_and(|interruption| interruption.going)
    }
}

/// The phases in order.
pub const PHASES: [StartPhase; 7] = [
    StartPhase::Requested,
    StartPhase::Created,
    StartPhase::Booted,
    StartPhase::Enrolled,
    StartPhase::Synced,
    StartPhase::Launched,
    StartPhase::Joined,
];

/// Whether a host's start reached `phase`.
pub fn reached(host: &HostRecord, phase: StartPhase) -> bool {
    host.phases.iter().any(|timing| timing.phase == phase)
}

/// The phase that a host's start waits for; none when it has arrived.
pub fn waiting_for(host: &HostRecord) -> Option<StartPhase> {
    PHASES.into_iter().find(|phase| !reached(host, *phase))
}

/// Note that a host reached `phase`. Phases that were passed unseen are filled in, so that the list is always the
/// beginning of [`PHASES`]; a phase that was reached before stays as it was.
pub fn reach(host: &mut HostRecord, phase: StartPhase, at_ms: u64) {
    if reached(host, phase) {
        return;
    }
    for passed in PHASES.into_iter().filter(|passed| *passed <= phase) {
        if reached(host, passed) {
            continue;
        }
        let since = host.phases.last().map_or(host.created_at_ms, |timing| timing.reached_at_ms);
        let reached_at_ms = at_ms.max(since);
        host.phases.push(PhaseTiming { phase: passed, reached_at_ms, millis: reached_at_ms - since });
    }
}
