//! PURE: how much people may have at once, and how much they had.
//!
//! Must not read clocks or records: the store brings rows, the API brings the time.

pub mod hours;
pub mod limits;
