//! The roster: who may get a certificate of the cluster's Dask CA. Sent to the scheduler's host only.

use crate::assignment::RoleKind;
use crate::envelope::Envelope;
use crate::ids::{ClusterId, Epoch, HostId, Spki, WorkspaceId};
use crate::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// The signed list of members. Within an epoch entries are only ever added; in a new one some may be missing (a restored
/// backup). A certificate that was issued stays valid: a removed member means a new cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Wire version.
    pub v: u32,
    /// The scheduler's host.
    pub audience: HostId,
    /// The workspace the cluster belongs to.
    pub workspace: WorkspaceId,
    /// The cluster whose certificates these are.
    pub cluster: ClusterId,
    /// The control plane's term.
    pub epoch: Epoch,
    /// Compared after the epoch; only rises.
    pub version: u64,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// After this it is no longer accepted.
    pub expires_at: UnixSeconds,
    /// Every member.
    pub entries: Vec<Member>,
}

/// One member of a roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Who: a host id for hosts, a client's own name (`client-…`, at most 64 characters of a-z, 0-9, `-`) for clients.
    pub id: String,
    /// As what.
    pub role: MemberRole,
    /// The key the certificate is for.
    pub spki: Spki,
    /// Until when the certificate may last.
    pub not_after: UnixSeconds,
    /// For clients: the owner's own signature. Hosts have none.
    pub admission: Option<Envelope>,
}

/// What a Dask certificate entitles its holder to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// May connect and submit.
    Client,
    /// May be the scheduler: the roster's own audience only.
    Scheduler,
    /// May register as worker or nanny.
    Worker,
}

impl MemberRole {
    /// The word used in certificates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }

    /// The member role of a host's role; none for a job.
    pub fn of(kind: RoleKind) -> Option<Self> {
        match kind {
            RoleKind::Command => None,
            RoleKind::Scheduler => Some(Self::Scheduler),
            RoleKind::Worker => Some(Self::Worker),
        }
    }
}

/// The owner's word that a client key may join the cluster. Signed by the owner key, carried inside a roster entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Wire version.
    pub v: u32,
    /// Into which cluster.
    pub cluster: ClusterId,
    /// Which key.
    pub spki: Spki,
    /// Always `client`.
    pub role: MemberRole,
    /// Until when.
    pub not_after: UnixSeconds,
}
