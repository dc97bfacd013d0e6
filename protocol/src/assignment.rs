//! The assignment: the whole desired state of one host. Not a command, and no place for one: every enum is closed,
//! there is no shell, no file fetch and no free argument list.

use crate::ids::{ClusterId, Digest, Epoch, Generation, HostId, Position, VerifyingKey, WorkspaceId};
use crate::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// The signed desired state of one host (`docs/protocol.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Wire version: 0 until the first tagged release.
    pub v: u32,
    /// The host this is for. Every other host refuses it.
    pub audience: HostId,
    /// The workspace the host belongs to.
    pub workspace: WorkspaceId,
    /// The cluster the host belongs to.
    pub cluster: ClusterId,
    /// The owner's key; fixed by the first assignment for the cluster's life.
    pub owner: VerifyingKey,
    /// Compared first.
    pub epoch: Epoch,
    /// Compared second.
    pub generation: Generation,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// After this it is no longer accepted. An accepted one stays in force.
    pub expires_at: UnixSeconds,
    /// What the host is to do with its life.
    pub lifecycle: Lifecycle,
    /// The packages to make present, if any.
    pub environment: Option<EnvironmentSpec>,
    /// What to run, if anything.
    pub role: Option<Role>,
    /// Local rules for when others fall silent, and the limits of the start phases.
    pub deadlines: Deadlines,
    /// Where the cluster's scheduler listens, once chosen.
    pub scheduler: Option<SchedulerAddress>,
    /// Where log lines go.
    pub logs: LogPlan,
    /// What to measure and how often.
    pub vitals: VitalsPlan,
    /// When the host counts as idle.
    pub idle: IdlePolicy,
    /// Limits that end the host whatever it does.
    pub caps: Caps,
    /// How many worker hosts the scheduler is to have; null for every other role.
    pub scaling: Option<Scaling>,
}

impl Assignment {
    /// Its place in the order of this host's assignments.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, generation: self.generation }
    }
}

/// What a host is to do with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Move data away and take no new work, then wait.
    Drain,
    /// Stop everything, sign off and end the instance.
    End,
    /// Be what the role says.
    Run,
}

/// An exact, hash-locked set of packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// SHA-256 of the lock, which is itself a blob.
    pub digest: Digest,
    /// The interpreter the packages were chosen for.
    pub interpreter: Interpreter,
    /// How the environment is made.
    pub kind: EnvironmentKind,
}

/// A Python interpreter, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interpreter {
    /// Implementation in lower case, e.g. `cpython`.
    pub implementation: String,
    /// Full version, e.g. `3.11.2`.
    pub version: String,
    /// SHA-256 of an interpreter archive in the blob store, when one is shipped.
    pub sha256: Option<Digest>,
}

/// How an environment is made on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentKind {
    /// A conda prefix.
    Conda,
    /// A container image.
    Image,
    /// Wheels in a virtual environment.
    Wheels,
}

/// What a host runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Scheduler, worker or a job.
    pub kind: RoleKind,
    /// Which family of programs; `dask` is the only one yet.
    pub profile: Profile,
    /// How many processes.
    pub processes: u32,
    /// Threads of each process.
    pub threads: u32,
    /// Memory limit of each process in bytes; null means the host's memory divided by the processes.
    pub memory_limit: Option<u64>,
    /// Where tasks may spill; null means the host's own work directory.
    pub local_directory: Option<String>,
    /// Ports chosen in advance.
    pub ports: Ports,
    /// Dask's abstract resources, by name.
    pub resources: Vec<Resource>,
    /// SHA-256 of the job file, for `command` only.
    pub job_sha256: Option<Digest>,
    /// Options of the profile.
    pub options: DaskOptions,
}

/// Which part of a cluster a host plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleKind {
    /// Runs one job file that the owner uploaded, named by its hash.
    Command,
    /// Runs the Dask scheduler.
    Scheduler,
    /// Runs Dask workers.
    Worker,
}

impl RoleKind {
    /// The word used in certificates, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

/// A family of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Dask's scheduler and workers.
    Dask,
}

/// Ports that the control plane chose before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The scheduler's port for Dask's protocol; 0 lets the system choose (workers).
    pub dask: u16,
    /// The gateway's port on the scheduler's host; 0 lets the system choose.
    pub gateway: u16,
}

/// One of Dask's abstract resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Its name, e.g. `GPU`.
    pub name: String,
    /// How many of it.
    pub amount: u64,
}

/// Options of the `dask` profile. A closed struct: nothing a person types reaches a command line by another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaskOptions {
    /// Keep Dask's nanny process, which restarts a worker that died.
    pub nanny: bool,
}

/// Local rules for silence and slowness, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadlines {
    /// The runner ends its children when no agent spoke for this long.
    pub agent_lost: u64,
    /// A busy host without a lease ends after this long.
    pub control_plane_lost: u64,
    /// A worker whose scheduler does not answer ends after this long.
    pub scheduler_lost: u64,
    /// The cluster ends this long after its last client left; null switches the rule off.
    pub no_client: Option<u64>,
    /// A cluster that no client ever came to ends after this long, where the rule is on.
    pub first_client: u64,
    /// Limit of each start phase.
    pub phases: PhaseDeadlines,
}

/// Limits of the start phases that a host is in charge of, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseDeadlines {
    /// Environment present.
    pub synced: u64,
    /// Dask process started.
    pub launched: u64,
    /// Dask process listening (scheduler) or registered (worker).
    pub joined: u64,
}

/// Where a cluster's scheduler listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerAddress {
    /// Dask addresses (`tls://host:port`), the most direct first.
    pub addresses: Vec<String>,
}

/// Where a host's log lines go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPlan {
    /// The kind of store and its address.
    pub sink: Sink,
    /// The stream of this host within the sink.
    pub stream: String,
}

/// A log store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sink {
    /// A table of Azure Monitor, through the Logs Ingestion API.
    AzureMonitor {
        /// The data collection endpoint, with `https://`.
        endpoint: String,
        /// The immutable id of the data collection rule: `dcr-…`.
        rule: String,
        /// The rule's stream: `Custom-…`.
        table: String,
    },
    /// Amazon CloudWatch Logs.
    Cloudwatch {
        /// Such as `eu-central-1`.
        region: String,
        /// The log group, which must be there.
        group: String,
        /// A private endpoint; null: the region's public one.
        endpoint: Option<String>,
    },
    /// Files on this machine. `directory` is absolute.
    File {
        /// Where the streams lie.
        directory: String,
    },
    /// Any store that takes OpenTelemetry's logs over HTTP as JSON.
    Otlp {
        /// Where `/v1/logs` is, without it.
        endpoint: String,
    },
}

impl Sink {
    /// The kind's stable word, as in the wire form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AzureMonitor { .. } => "azure_monitor",
            Self::Cloudwatch { .. } => "cloudwatch",
            Self::File { .. } => "file",
            Self::Otlp { .. } => "otlp",
        }
    }
}

/// What a host measures of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitalsPlan {
    /// Seconds between two samples.
    pub period: u64,
}

/// When a host counts as idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdlePolicy {
    /// Seconds of unbroken idleness after which the cluster ends; null switches the rule off.
    pub after: Option<u64>,
    /// Until when a person holds the cluster (scheduler hosts): it counts as busy. By the signer's clock, which must not
    /// be compared with another: what counts is how long after `issued_at` it is.
    #[serde(default)]
    pub hold_until: Option<UnixSeconds>,
}

/// How many worker hosts a cluster is to have. The scheduler moves data away from those that are too many, and between
/// `minimum` and `maximum` it asks for as many as its work needs; where they are equal there is nothing to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// At least this many worker hosts.
    pub minimum: u32,
    /// At most this many.
    pub maximum: u32,
    /// Dask worker processes on each.
    pub processes: u32,
    /// Milliseconds between two looks at the work.
    pub interval_ms: u64,
    /// Looks in a row that must find fewer hosts enough before there are fewer.
    pub wait_count: u32,
    /// Milliseconds that the work at hand may take: the shorter, the more hosts are asked for.
    pub target_duration_ms: u64,
    /// Worker hosts that their platform takes away: their data is to move to others at once, whatever the numbers say.
    pub leaving: Vec<HostId>,
}

/// Limits that hold whatever the verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    /// Seconds a host may live.
    pub max_lifetime: u64,
    /// Money the cluster may spend, in thousandths of the workspace's currency; null means no limit.
    pub budget_milli: Option<u64>,
}
