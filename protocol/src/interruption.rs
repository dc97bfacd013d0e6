//! What a platform announces of a host's end.

use crate::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// An announcement that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interruption {
    /// What is announced.
    pub kind: InterruptionKind,
    /// When it happens at the earliest, by the platform's clock; null: it may happen at any time, or never.
    pub at: Option<UnixSeconds>,
    /// The host leaves its cluster now: its data moves to others, and another host takes its place.
    pub going: bool,
}

/// What a platform can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptionKind {
    /// It is likelier than usual to be taken back. Nothing follows from it by itself.
    AtRisk,
    /// The machine is started anew, or moved to other hardware.
    Maintenance,
    /// Spare capacity is taken back.
    Reclaimed,
    /// Its own system is shutting down: somebody powers it off or starts it anew.
    Shutdown,
    /// Somebody deletes the machine.
    Terminated,
}
