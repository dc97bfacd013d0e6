//! How busy this host is: signals in, a three-valued verdict out.
//!
//! `policy` is the pure engine, `memory` keeps its state over restarts of the agent; the signals come from `vitals`, the
//! runner's status and the scheduler's plugin.

mod gpu;
pub mod memory;
mod policy;
#[cfg(test)]
mod tests;

pub use gpu::GpuUse;
pub use policy::{Engine, Judgement, Signals};
