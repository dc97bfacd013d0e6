//! What a scheduler's host adds to a cluster: the cluster's certificate authority, and the file that Dask's processes
//! load from us. The authority's key is made here, never leaves this host and dies with the cluster's directory.
//! Driven by the agent's runtime on rosters; knows no session and no Dask process.

pub mod activity;
mod authority;
pub mod gateway;

pub use activity::{CloseAnswer, SchedulerActivity, SchedulerLink};
pub use authority::{ClusterAuthority, ClusterAuthorityError};

/// The Python file that scheduler, nannies and workers load: role gate, sign of having joined, end with the runner.
pub const PRELOAD: &str = include_str!("towline_preload.py");

/// What that file loads in the scheduler: activity, clients, the close in two phases.
pub const SCHEDULER: &str = include_str!("towline_scheduler.py");

/// What that one is given for the number of worker hosts.
pub const SCALING: &str = include_str!("towline_scaling.py");

/// What serves Dask's pages on a local socket.
pub const DASHBOARD: &str = include_str!("towline_dashboard.py");

/// The worker's part that tells what its host measures; written beside the preload.
pub const WORD: &str = include_str!("towline_word.py");
