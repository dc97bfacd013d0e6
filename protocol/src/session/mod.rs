//! The session between an agent and the control plane as pure state machines.
//!
//! Feed bytes' meaning and time in with `handle_*`, take frames and events out with `poll_*`; the next moment at which
//! something happens by itself is `poll_timeout`. No socket, no clock. `agent` and `control-plane` drive one end each;
//! the tests drive both on a virtual clock.

mod agent;
mod arbiter;
mod control_plane;

pub use agent::{AgentEvent, AgentSession};
pub use arbiter::{Arbiter, ArbiterAction, SessionNumber};
pub use control_plane::{ControlPlaneEvent, ControlPlaneSession};

use crate::message::SessionRefusal;
use std::time::Duration;

/// A report is sent at changes, and after this long without one.
pub const REPORT_PERIOD: Duration = Duration::from_secs(30);

/// A peer that was silent for this long is dead: three reports and a little.
pub const DEAD_AFTER: Duration = Duration::from_secs(95);

/// How long the first frame of either side may take.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long the holder of an older session has to answer a challenge.
pub const CHALLENGE_WITHIN: Duration = Duration::from_secs(5);

/// Reports at changes are at least this far apart, so that a busy host does not flood its control plane.
pub const REPORT_SPACING: Duration = Duration::from_millis(100);

/// Frames that wait to be written; more means that the peer does not read.
pub const OUTBOX_LIMIT: usize = 256;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// Nothing came for too long.
    #[error("the peer was silent for {} s", DEAD_AFTER.as_secs())]
    Silent,
    /// The first frame did not come in time.
    #[error("the peer did not introduce itself within {} s", HELLO_WITHIN.as_secs())]
    NoHello,
    /// A frame came that has no place here.
    #[error("the peer sent {0:?} out of turn")]
    OutOfTurn(&'static str),
    /// The peer does not read what it is sent.
    #[error("more than {OUTBOX_LIMIT} frames wait for the peer")]
    Overrun,
    /// The control plane ended it.
    #[error("the control plane refused the session: {0:?}")]
    Refused(SessionRefusal),
    /// No common wire version.
    #[error("the peer speaks none of our wire versions")]
    NoCommonVersion,
}

/// The newest version that both sides speak.
pub fn negotiate(ours: &[u32], theirs: &[u32]) -> Option<u32> {
    ours.iter().filter(|version| theirs.contains(version)).max().copied()
}

#[cfg(test)]
mod tests;
