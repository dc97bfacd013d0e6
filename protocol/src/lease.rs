//! The lease: the control plane's signed sign of life, answering each report.

use crate::ids::{Epoch, HostId, Position};
use crate::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// Says how far the host's assignments have got, so that none can be withheld in silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Wire version.
    pub v: u32,
    /// The host this is for.
    pub audience: HostId,
    /// The term of the control plane that signs it.
    pub epoch: Epoch,
    /// The newest stored assignment of this host; null before the first.
    pub newest: Option<Position>,
    /// The control plane's clock.
    pub now: UnixSeconds,
    /// How long the host may count the control plane as alive.
    pub lease_until: UnixSeconds,
}
