//! What Towline's parts say to each other, and what each of them may believe.
//!
//! Owns every id, document and message that crosses between control plane, agent and client, how documents are
//! signed and verified, and the session between an agent and the control plane as a pure state machine.
//! Must not touch a clock, a socket or a file: `now` is always a parameter. Driven by `transport` (bytes),
//! `agent` and `control-plane` (meaning).

pub mod admission_code;
pub mod assignment;
pub mod enrolment;
pub mod envelope;
pub mod ids;
mod interruption;
pub mod lease;
pub mod log_reading;
pub mod log_record;
pub mod message;
mod refusal;
pub mod report;
pub mod roster;
pub mod session;
pub mod strict;
pub mod time;
pub mod trust;
pub mod user_data;
mod vitals;

/// The wire version this build speaks. Version 0 changes at will; version 1 freezes at the first tagged release.
pub const WIRE_VERSION: u32 = 0;

/// Largest document or frame that is read, in bytes (1 MiB).
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// Longest life of a cluster. The owner's admissions and the cluster's own authority are made to last longer than that.
pub const LONGEST_LIFETIME: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// Deepest nesting of a JSON document that is read.
pub const MAX_JSON_DEPTH: usize = 16;
