//! Background tasks: one file each; idempotent, without input, periodic, joined at the end.

pub mod housekeeping;
pub mod renewal;
