//! How long each phase of a host's start may take.

use crate::model::StartPhase;
use std::time::Duration;

/// Limits of the start phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseLimits {
    /// Until the backend made the host.
    pub created: Duration,
    /// Until its first sign of life.
    pub booted: Duration,
    /// Until it has certificate and session.
    pub enrolled: Duration,
    /// Until its packages are there.
    pub synced: Duration,
    /// Until its Dask process runs.
    pub launched: Duration,
    /// Until its Dask process is in the cluster.
    pub joined: Duration,
}

impl PhaseLimits {
    /// The limit of waiting for `phase`.
    pub fn of(&self, phase: StartPhase) -> Duration {
        match phase {
            // A host is written down as requested: what is waited for first is its creation.
            StartPhase::Requested | StartPhase::Created => self.created,
            StartPhase::Booted => self.booted,
            StartPhase::Enrolled => self.enrolled,
            StartPhase::Synced => self.synced,
            StartPhase::Launched => self.launched,
            StartPhase::Joined => self.joined,
        }
    }
}
