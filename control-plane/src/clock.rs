//! The wall clock, read in one place; everything that decides gets `now` as a value.

use std::time::{SystemTime, UNIX_EPOCH};
use towline_protocol::time::UnixSeconds;

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since 1970.
pub fn unix_now() -> UnixSeconds {
    UnixSeconds(unix_ms() / 1000)
}
