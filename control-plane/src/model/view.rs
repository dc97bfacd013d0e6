//! What people see of the records. Holds nothing that a person may not see.

use super::{
    Adaptive, AdmissionRequestView, ClusterState, Hold, HostState, PhaseTiming, Reason, StartPhase, WorkerShape,
};
use serde::Serialize;
use std::collections::BTreeMap;
use towline_protocol::assignment::{EnvironmentSpec, SchedulerAddress};
use towline_protocol::ids::{ClusterId, HostId, KeyId, VerifyingKey, WorkspaceId};
use towline_protocol::report::{Interruption, ProcessRecord, SignOff, Verdict, Vitals};
use towline_protocol::time::UnixSeconds;
use utoipa::ToSchema;

/// A cluster as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClusterView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// Its workspace.
    #[schema(value_type = String)]
    pub workspace: WorkspaceId,
    /// The person it belongs to.
    pub owner: String,
    /// The owner key, base64.
    #[schema(value_type = String)]
    pub owner_key: VerifyingKey,
    /// Where its hosts come from.
    pub backend: String,
    /// Where it is.
    pub state: ClusterState,
    /// Why.
    pub reason: Option<Reason>,
    /// Worker hosts wanted.
    pub n_workers: u32,
    /// Between which numbers the scheduler chooses `n_workers`; null: a person chose it.
    pub adaptive: Option<Adaptive>,
    /// Who keeps it alive, and until when; null: nobody does.
    pub hold: Option<Hold>,
    /// Shape of each worker host.
    pub worker: WorkerShape,
    /// Labels for usage reports.
    pub tags: BTreeMap<String, String>,
    /// Its packages.
    #[schema(value_type = Object)]
    pub environment: EnvironmentSpec,
    /// Where its scheduler listens.
    #[schema(value_type = Option<Object>)]
    pub scheduler: Option<SchedulerAddress>,
    /// Where its gateway listens, as `host:port`: admitted clients reach the dashboard there.
    pub gateway: Option<String>,
    /// The cluster CA's certificate, PEM.
    pub cluster_ca: Option<String>,
    /// Admitted clients.
    pub clients: Vec<ClientView>,
    /// Client keys that ask to be admitted.
    pub admission_requests: Vec<AdmissionRequestView>,
    /// Its hosts, ended ones included.
    pub hosts: Vec<HostView>,
    /// Where its log lines lie: kind and directory or address of the sink, never a line.
    pub logs: LogsView,
    /// Rises with every change.
    pub revision: u64,
    /// When it was asked for, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it ended, Unix milliseconds.
    pub ended_at_ms: Option<u64>,
}

/// An admitted client as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClientView {
    /// Its name.
    pub id: String,
    /// SHA-256 of its key.
    #[schema(value_type = String)]
    pub key: KeyId,
    /// Whose it is, as far as the control plane knows.
    pub person: Option<String>,
    /// Its certificate, PEM, once issued.
    pub certificate: Option<String>,
    /// Until when, Unix seconds.
    #[schema(value_type = u64)]
    pub not_after: UnixSeconds,
}

/// Where log lines lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LogsView {
    /// `file`, `cloudwatch`, `azure_monitor` or `otlp`; more may come.
    pub kind: String,
    /// The directory of a `file` sink; else empty.
    pub directory: String,
    /// Where they are, as part of a sentence; null for a `file` sink.
    pub place: Option<String>,
    /// How to read them there with one's own rights: a command or a query; null for a `file` sink.
    pub look: Option<String>,
}

/// How a host was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HeardView {
    /// The newest assignment it holds durably, as `epoch/generation`.
    pub observed: Option<String>,
    /// Its agent's version.
    pub agent_version: Option<String>,
    /// How many reports it sent.
    pub reports: u64,
    /// When it was last heard, Unix milliseconds.
    pub last_seen_at_ms: Option<u64>,
    /// Since when its GPUs have done nothing, Unix milliseconds, once that is 15 minutes; else null.
    pub gpus_unused_since_ms: Option<u64>,
}

/// A host as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HostView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: HostId,
    /// Its cluster.
    #[schema(value_type = String)]
    pub cluster: ClusterId,
    /// `scheduler` or `worker`.
    pub role: String,
    /// Where it is.
    pub state: HostState,
    /// Why.
    pub reason: Option<Reason>,
    /// The phases it reached.
    pub phases: Vec<PhaseTiming>,
    /// The phase it is in now, when it is starting.
    pub current: Option<CurrentPhase>,
    /// What is known of it because it speaks to us.
    #[serde(flatten)]
    pub heard: HeardView,
    /// Measurements.
    #[schema(value_type = Option<Object>)]
    pub vitals: Option<Vitals>,
    /// The idle engine's answer.
    #[schema(value_type = Option<Object>)]
    pub verdict: Option<Verdict>,
    /// Its Dask processes.
    #[schema(value_type = Vec<Object>)]
    pub processes: Vec<ProcessRecord>,
    /// What its platform has announced of its end; null: nothing stands.
    #[schema(value_type = Option<Object>)]
    pub interruption: Option<Interruption>,
    /// Where a worker's host answers admitted clients that come by the scheduler's host, as `address:port`.
    pub gateway: Option<String>,
    /// Its last word.
    #[schema(value_type = Option<Object>)]
    pub sign_off: Option<SignOff>,
    /// When it was asked for, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it ended, Unix milliseconds.
    pub ended_at_ms: Option<u64>,
}

/// The phase a starting host is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CurrentPhase {
    /// What is waited for.
    pub waiting_for: StartPhase,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// Its limit in seconds.
    pub deadline_seconds: u64,
    /// Whether the limit has passed.
    pub late: bool,
}
