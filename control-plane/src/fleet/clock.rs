//! The clock that counts suspension, for deadlines; the wall clock is the crate's own.

pub use crate::clock::{unix_ms, unix_now};
use std::time::Duration;
use towline_protocol::time::BootTime;

/// Time on the clock that counts suspension.
pub fn boot_now() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    BootTime(Duration::new(seconds, nanos))
}
