//! PURE: why a cluster or a host is alive, and what would end it; or why it has ended, by whom, and what shows that.
//!
//! Owns the sentences and the choice of what to say. Records, settings and `now` in, sentences out: must decide nothing
//! and know nothing that the records do not say. Driven by the API; the program and the Python package show the same.

mod alive;
mod ended;
pub mod gpus;
#[cfg(test)]
mod tests;
mod words;

pub use words::span;

use crate::model::{ClusterRecord, ClusterState, HostRecord, HostState};
use crate::settings::Settings;
use serde::Serialize;
use utoipa::ToSchema;

/// Why something is alive or has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Why {
    /// For people, the most important first, each a whole sentence.
    pub sentences: Vec<String>,
    /// What would end it if nothing changed, nearest first; empty for what is ending or has ended.
    pub deadlines: Vec<DeadlineView>,
}

/// What would end something, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadlineView {
    /// `idle`, `no_client`, `max_lifetime`, `control_plane_lost`, `scheduler_lost` or `start_failed`.
    pub rule: String,
    /// Seconds from now.
    pub remaining_seconds: u64,
}

/// What the sentences rest on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The cluster.
    pub cluster: &'a ClusterRecord,
    /// Rules and limits of this control plane.
    pub settings: &'a Settings,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// Why this cluster is alive or has ended.
pub fn of_cluster(facts: &Facts<'_>, hosts: &[HostRecord]) -> Why {
    match facts.cluster.state {
        ClusterState::Starting | ClusterState::Running => alive::cluster(facts, hosts),
        ClusterState::Stopping | ClusterState::Stopped | ClusterState::Failed => {
            Why { sentences: ended::cluster(facts, hosts), deadlines: Vec::new() }
        }
    }
}

/// Why this host is alive or has ended.
pub fn of_host(facts: &Facts<'_>, host: &HostRecord) -> Why {
    match host.state {
        HostState::Starting | HostState::Up => alive::host(facts, host),
        HostState::Ending | HostState::Ended | HostState::Failed | HostState::Banned => {
            Why { sentences: ended::host(facts, host), deadlines: Vec::new() }
        }
    }
}
