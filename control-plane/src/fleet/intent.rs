//! PURE: what is wanted of a cluster, taken from its record.

use crate::model::{Adaptive, ClusterRecord, ClusterState, Reason, Wish};
use crate::signer::content;
use std::collections::BTreeSet;
use towline_protocol::ids::HostId;

/// What is wanted of a cluster, and how far it is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the owner wants.
    pub wish: Wish,
    /// Where the cluster is.
    pub state: ClusterState,
    /// Why it is there, when that was said.
    pub reason: Option<Reason>,
    /// Worker hosts.
    pub n_workers: u32,
    /// Between which numbers the scheduler may choose `n_workers`.
    pub adaptive: Option<Adaptive>,
    /// Worker hosts that a person chose to go; they do not count.
    pub going: BTreeSet<HostId>,
    /// When `n_workers` or `going` last changed, Unix milliseconds.
    pub scaled_at_ms: u64,
    /// Worker hosts that the scheduler is told to free of their data.
    pub leaving: Vec<HostId>,
    /// The scheduler's port, once chosen.
    pub port: Option<u16>,
    /// Whether the scheduler's address is chosen.
    pub has_address: bool,
    /// End at this time at the latest, Unix milliseconds.
    pub ends_at_ms: u64,
}

impl Wanted {
    /// What this record wants.
    pub fn of(cluster: &ClusterRecord) -> Self {
        Self {
            wish: cluster.wish,
            state: cluster.state,
            reason: cluster.reason.clone(),
            n_workers: cluster.n_workers,
            adaptive: cluster.adaptive,
            going: cluster.going.clone(),
            scaled_at_ms: cluster.scaled_at_ms.unwrap_or(cluster.created_at_ms),
            leaving: cluster.leaving.clone(),
            port: cluster.scheduler.as_ref().and_then(content::port),
            has_address: cluster.scheduler.is_some(),
            ends_at_ms: cluster.created_at_ms.saturating_add(cluster.terms.max_lifetime.saturating_mul(1000)),
        }
    }

    /// Whether the cluster is on its way out or gone.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, ClusterState::Stopping) || self.state.is_terminal()
    }
}
