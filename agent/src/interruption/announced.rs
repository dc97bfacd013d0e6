//! A notice as of the moment when it was seen. PURE: from wall time to boot time, once.

use std::time::Duration;
use towline_protocol::report::Interruption;
use towline_protocol::time::{BootTime, UnixSeconds};

/// A host has stopped by itself this long before it is taken away: stopping Dask, the last log lines and the last word
/// have ten seconds.
pub const MARGIN: Duration = Duration::from_secs(15);

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

    /// What the platform said.
    pub fn told(&self) -> Interruption {
        self.told
    }

    /// Since when it is known, and for how long the host may go on from then; none: for as long as it likes.
    pub fn clock(&self) -> Option<(BootTime, Duration)> {
        self.allowed.map(|allowed| (self.since, allowed))
    }
}
