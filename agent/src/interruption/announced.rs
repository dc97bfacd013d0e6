//! A notice as of the moment when it was seen. PURE: from wall time to boot time, once.

use std::time::Duration;
use towline_protocol::report::{Interruption, InterruptionKind};
use towline_protocol::time::{BootTime, UnixSeconds};

/// A host has stopped by itself this long before it is taken away: stopping Dask, the last log lines and the last word
/// have ten seconds.
pub const MARGIN: Duration = Duration::from_secs(15);

/// A service manager that shuts the machine down waits this long for the agent. Below `TimeoutStopSec` of its unit.
const SHUTDOWN: Duration = Duration::from_secs(28);

/// A notice and how long the host may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    told: Interruption,
    since: BootTime,
    allowed: Option<Duration>,
}

impl Announced {
    /// Seen now.
    pub fn new(told: Interruption, system: UnixSeconds, now: BootTime) -> Self {
        let left = told.at.filter(|_| told.going).map(|at| Duration::from_secs(at.0.saturating_sub(system.0)));
        Self { told, since: now, allowed: left.map(|left| left.saturating_sub(MARGIN)) }
    }

    /// This machine's own system goes down now. `moves`: others hold what this host has before it ends, so it goes on
    /// while they take it; else there is nothing to wait for.
    pub fn shutdown(system: UnixSeconds, now: BootTime, moves: bool) -> Self {
        let told = Interruption { kind: InterruptionKind::Shutdown, at: Some(system.plus(SHUTDOWN)), going: true };
        Self { told, since: now, allowed: Some(if moves { SHUTDOWN - MARGIN } else { Duration::ZERO }) }
    }

    /// Whether nothing that the platform says can change it any more.
    pub fn is_final(&self) -> bool {
        self.told.kind == InterruptionKind::Shutdown
    }

    /// What the platform said.
    pub fn told(&self) -> Interruption {
        self.told
    }

    /// Since when it is known, and for how long the host may go on from then; none: for as long as it likes.
    pub fn clock(&self) -> Option<(BootTime, Duration)> {
        self.allowed.map(|allowed| (self.since, allowed))
    }
}
