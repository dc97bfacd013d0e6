//! Towline's control plane: records what people ask for, makes hosts, signs assignments, shows what is going on.
//! It never holds users' data and no key that opens a cluster's traffic.

pub mod api;
pub mod authority;
pub mod backends;
pub mod backup;
pub mod clock;
pub mod enrolment;
pub mod environments;
pub mod files;
pub mod fleet;
mod identity;
pub mod init;
mod metrics;
pub mod model;
pub mod run;
pub mod sessions;
pub mod settings;
pub mod signer;
pub mod store;
mod tasks;
pub mod timeline;
pub mod tokens;
#[cfg(test)]
mod troubleshoot;
pub mod usage;
pub mod why;

pub use init::{InitError, InitOptions, Initialised, init};
pub use run::{Ready, RunError, RunOptions, Tap, run};
