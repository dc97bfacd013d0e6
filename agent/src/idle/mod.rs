//! How busy this host is: signals in, a three-valued verdict out.
//!
//! `policy` is the pure engine; the signals come from `vitals` and the runner's status.

mod policy;

pub use policy::{Engine, SchedulerActivity, Signals};
