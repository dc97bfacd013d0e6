//! Towline's control plane: records what people ask for, makes hosts, signs assignments, shows what is going on.
//! It never holds users' data and no key that opens a cluster's traffic.

pub mod api;
pub mod clock;
pub mod environments;
pub mod files;
mod identity;
pub mod init;
pub mod model;
pub mod run;
pub mod authority;
pub mod backends;
pub mod enrolment;
pub mod fleet;
pub mod sessions;
pub mod signer;
pub mod settings;
pub mod store;
mod tasks;

pub use init::{InitError, InitOptions, Initialised, init};
pub use run::{Ready, RunError, RunOptions, Tap, run};
