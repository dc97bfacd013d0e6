//! Towline's control plane: records what people ask for, makes hosts, signs assignments, shows what is going on.
//! It never holds users' data and no key that opens a cluster's traffic.

pub mod api;
pub mod environments;
pub mod model;
pub mod settings;
pub mod store;
