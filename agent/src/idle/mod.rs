//! How busy this host is: signals in, a three-valued verdict out.
//!
//! `policy` is the pure engine, `gpu` and `signal` are what it judges by, `warning` says when people hear of an end that is
//! near, `memory` keeps its state over restarts of the agent; samples come from `vitals`, the runner's status and the
//! scheduler's plugin.

#[cfg(test)]
mod cases;
mod gpu;
pub mod memory;
mod policy;
mod signal;
#[cfg(test)]
mod tests;
mod warning;

pub use gpu::of_gpus;
pub use policy::{Engine, Judgement, Signals, UNKNOWN_FACTOR};
pub use signal::{Presence, Signal, WorkersWord};
