//! What runs on a host or serves hosts: agent, control plane, blob store. Only with feature `host`.
//!
//! Each crate behind it has one seam: `server.rs` (control plane), `blobs.rs` (blob store), `agent.rs` (agent and
//! bootstrap). Nothing else in this program names those crates.

pub mod agent;
pub mod arguments;
mod backup;
pub mod blobs;
pub mod ending;
pub mod lock;
pub mod logging;
pub mod own;
pub mod server;
mod simulate;
