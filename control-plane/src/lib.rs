//! Towline's control plane: records what people ask for, makes hosts, signs assignments, shows what is going on.
//! It never holds users' data and no key that opens a cluster's traffic.

pub mod api;
pub mod authority;
pub mod backends;
pub mod clock;
pub mod enrolment;
pub mod environments;
pub mod files;
pub mod fleet;
mod identity;
pub mod init;
pub mod model;
pub mod run;
pub mod sessions;
pub mod settings;
pub mod signer;
pub mod store;
mod tasks;
pub mod tokens;
pub mod usage;

pub use init::{InitError, InitOptions, Initialised, init};
pub use run::{Ready, RunError, RunOptions, Tap, run};
