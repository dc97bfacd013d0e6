//! The control plane's records, and the views of them that people get.
//!
//! Records are what the store keeps (as JSON beside a few indexed columns); views are what the API shows. A view never
//! holds what a record must not show: tokens, envelopes, capabilities.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use towline_protocol::assignment::{EnvironmentSpec, Resource, SchedulerAddress, Sink};
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{ClusterId, HostId, Spki, VerifyingKey, WorkspaceId};
use towline_protocol::time::UnixSeconds;
use utoipa::ToSchema;

mod adaptive;
mod admission;
mod environment;
mod hold;
mod host;
mod view;

pub use adaptive::Adaptive;
pub use admission::{AdmissionRequest, AdmissionRequestView, Doorway, RequestState};
pub use environment::{BlobSize, EnvironmentRecord, PackageName};
pub use hold::{Hold, LONGEST_REASON};
pub use host::{
    BackendHandle, DaskNode, EnrolmentRecord, HostRecord, HostState, LastSaid, PhaseTiming, SignedAssignment,
    StartPhase,
};
pub use view::{ClientView, ClusterView, CurrentPhase, HeardView, HostView, LogsView};

/// Where a cluster is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// Ended because something went wrong; the reason says what.
    Failed,
    /// The scheduler takes connections.
    Running,
    /// Hosts are being made and started.
    Starting,
    /// Ended as asked.
    Stopped,
    /// Hosts are being ended.
    Stopping,
}

impl ClusterState {
    /// Whether nothing will change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Failed | Self::Stopped)
    }
}

/// Why a cluster or host is where it is. `code` is a stable word with an entry in the docs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Stable word.
    pub code: String,
    /// What happened, naming the thing.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// What the owner wants of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// End every host.
    End,
    /// Be there.
    Run,
}

/// Shape of each worker host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerShape {
    /// Dask worker processes on each host.
    pub processes: u32,
    /// Threads of each process.
    pub threads: u32,
    /// Memory limit of each process in bytes; null: the host's memory shared out.
    pub memory_limit: Option<u64>,
    /// Keep Dask's nanny process.
    pub nanny: bool,
    /// Dask's abstract resources.
    #[schema(value_type = Vec<Object>)]
    pub resources: Vec<Resource>,
}

/// Time limits and labels that the owner chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Seconds of idleness after which the cluster ends; null: never.
    pub idle_after: Option<u64>,
    /// Seconds without any client after which it ends; null: never.
    pub no_client_after: Option<u64>,
    /// Seconds it may live.
    pub max_lifetime: u64,
    /// Labels for usage reports.
    pub tags: BTreeMap<String, String>,
    /// The log store, as it was set when the cluster was made; none: files of the control plane.
    #[serde(default)]
    pub log_sink: Option<Sink>,
}

/// A cluster as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRecord {
    /// Its id.
    pub id: ClusterId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its name, unique among live clusters of the workspace.
    pub name: String,
    /// The person it belongs to.
    pub person: String,
    /// The owner key.
    pub owner: VerifyingKey,
    /// Where its hosts come from, e.g. `local`.
    pub backend: String,
    /// Its packages.
    pub environment: EnvironmentSpec,
    /// Shape of its worker hosts.
    pub worker: WorkerShape,
    /// How many worker hosts it should have.
    pub n_workers: u32,
    /// Between which numbers the scheduler may choose; none: `n_workers` was chosen by a person.
    #[serde(default)]
    pub adaptive: Option<Adaptive>,
    /// A person keeps it alive for a time.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// When `n_workers` or `going` last changed, Unix milliseconds; none: never.
    #[serde(default)]
    pub scaled_at_ms: Option<u64>,
    /// Worker hosts that a person chose to go. They do not count among the `n_workers`.
    #[serde(default)]
    pub going: BTreeSet<HostId>,
    /// Worker hosts that their platform takes away: the scheduler moves their data to others.
    #[serde(default)]
    pub leaving: Vec<HostId>,
    /// Limits and labels.
    pub terms: Terms,
    /// What the owner wants.
    pub wish: Wish,
    /// The person who stopped it, if one did.
    #[serde(default)]
    pub stopped_by: Option<String>,
    /// Where it is.
    pub state: ClusterState,
    /// Why, when that needs saying.
    pub reason: Option<Reason>,
    /// Where its scheduler listens, once a port is leased.
    pub scheduler: Option<SchedulerAddress>,
    /// The cluster CA's certificate, PEM, once reported.
    pub cluster_ca: Option<String>,
    /// The newest roster that was signed, as stored bytes.
    pub roster: Option<SignedRoster>,
    /// Rises with every change.
    pub revision: u64,
    /// When it was asked for, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it ended, Unix milliseconds.
    pub ended_at_ms: Option<u64>,
}

impl ClusterRecord {
    /// A person wants its end. Who asks again, or asks for the end of what ends already, changes nothing.
    pub fn stop(&mut self, person: &str) {
        if self.wish == Wish::Run {
            self.stopped_by = Some(person.to_owned());
        }
        self.wish = Wish::End;
    }

    /// The hold that keeps it alive now, if one does.
    pub fn held(&self, now_ms: u64) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| !self.is_ending() && hold.remaining(now_ms).is_some())
    }

    /// Whether it has ended, or somebody or something wants it to.
    pub fn is_ending(&self) -> bool {
        self.wish == Wish::End || self.state == ClusterState::Stopping || self.state.is_terminal()
    }
}

/// The newest roster of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRoster {
    /// Its version.
    pub version: u64,
    /// The signed bytes; resent as they are.
    pub envelope: Envelope,
}

/// A client that was admitted to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its own name, `client-…`.
    pub id: String,
    /// Its key.
    pub spki: Spki,
    /// Whose it is, as far as the control plane knows; none: it was admitted before this was kept.
    #[serde(default)]
    pub person: Option<String>,
    /// The owner's word.
    pub admission: Envelope,
    /// Until when.
    pub not_after: UnixSeconds,
    /// Its certificate, PEM, once issued.
    pub certificate: Option<String>,
}
