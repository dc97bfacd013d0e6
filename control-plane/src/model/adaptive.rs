//! The number of worker hosts: within which limits a scheduler chooses it, and when it changed.

use super::ClusterRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use towline_protocol::ids::HostId;
use utoipa::ToSchema;

/// Between which numbers of worker hosts the scheduler may choose, and how eagerly it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// At least this many worker hosts.
    pub minimum: u32,
    /// At most this many.
    pub maximum: u32,
    /// Milliseconds between two looks at the work.
    pub interval_ms: u64,
    /// Looks in a row that must find fewer hosts enough before there are fewer.
    pub wait_count: u32,
    /// Milliseconds that the work at hand may take: the shorter, the more hosts are asked for.
    pub target_duration_ms: u64,
}

impl ClusterRecord {
    /// Have another number of worker hosts from now on.
    pub fn scale(&mut self, n_workers: u32, now_ms: u64) {
        if self.n_workers != n_workers {
            self.n_workers = n_workers;
            self.scaled_at_ms = Some(now_ms);
        }
    }
}

impl ClusterRecord {
    /// Have so many worker hosts without these, of the `live` ones.
    pub fn scale_without(&mut self, n_workers: u32, going: BTreeSet<HostId>, live: &BTreeSet<HostId>, now_ms: u64) {
        self.scale(n_workers, now_ms);
        let going: BTreeSet<HostId> = self.going.union(&going).filter(|host| live.contains(host)).cloned().collect();
        if !going.is_subset(&self.going) {
            self.scaled_at_ms = Some(now_ms);
        }
        self.going = going;
    }
}

impl Adaptive {
    /// Whether the scheduler may choose this number.
    pub fn holds(&self, n_workers: u32) -> bool {
        (self.minimum..=self.maximum).contains(&n_workers)
    }
}
