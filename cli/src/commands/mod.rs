//! What people ask of a control plane: clusters, hosts, environments, events, log lines.

pub mod cluster;
pub mod environment;
pub mod events;
pub mod host;
pub mod logs;
mod processes;
mod why;

use crate::api::Api;
use crate::failure::Outcome;
use std::time::{SystemTime, UNIX_EPOCH};

/// The API of the chosen profile.
pub fn api(profile: Option<&str>) -> Outcome<Api> {
    Api::new(crate::profiles::current(profile)?)
}

/// Now, in Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as u64)
}

/// How long ago something was, for a table.
pub fn ago(then_ms: u64, now_ms: u64) -> String {
    crate::output::duration(now_ms.saturating_sub(then_ms) / 1000)
}
