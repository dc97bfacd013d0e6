//! What a host says about itself: numbers, closed enums, ids and hashes. Never text from a user's process.

use crate::assignment::RoleKind;
use crate::ids::{Digest, HostId, KeyId, Position};
pub use crate::interruption::{Interruption, InterruptionKind};
use crate::time::UnixSeconds;
pub use crate::vitals::{
    GpuVitals, MAX_GPUS, MAX_PROCESSES, MemoryCount, ProcessVitals, Traffic, Vitals, WorkloadSource, WorkloadVitals,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The state of a host, sent every 30 s and at changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The newest assignment that is durable in the host's journal.
    pub observed: Option<Position>,
    /// The newest roster version that is durable (scheduler hosts).
    pub roster_version: Option<u64>,
    /// How far the start has got, in the order reached.
    pub phases: Vec<PhaseRecord>,
    /// Where a step failed, if one did.
    pub failure: Option<Failure>,
    /// What the runner's children are doing.
    pub processes: Vec<ProcessRecord>,
    /// Measurements.
    pub vitals: Option<Vitals>,
    /// The idle engine's answer.
    pub verdict: Option<Verdict>,
    /// The host's own rules that would end it if nothing changed, one for each reason, nearest first.
    pub deadlines: Vec<Deadline>,
    /// Dask certificates that this host's cluster CA made since the last acknowledged report.
    pub issued: Vec<IssuedCertificate>,
    /// The cluster CA's certificate as PEM (scheduler hosts).
    pub cluster_ca: Option<String>,
    /// The port at which this host's gateway listens, once it does.
    pub gateway_port: Option<u16>,
    /// This host's address as its cluster's other hosts reach it (worker hosts), once its gateway listens.
    pub gateway_host: Option<IpAddr>,
    /// Why the host is on its way out, once that is durable. A scheduler's host that ends by its own rule says so
    /// first, so that the workers can go before it.
    pub ending: Option<EndReason>,
    /// What the platform has announced of this host's end, as long as it stands.
    pub interruption: Option<Interruption>,
    /// What the scheduler wants of its worker hosts (scheduler hosts), once it has said so.
    pub scaling: Option<ScalingWord>,
    /// The last word before the host ends.
    pub sign_off: Option<SignOff>,
}

/// What the scheduler wants of its worker hosts. A wish: the control plane keeps to its own limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingWord {
    /// How many there should be.
    pub wanted: u32,
    /// Hosts that hold no data any more and get no tasks: they are to end. At most 100 at a time.
    pub retired: Vec<HostId>,
    /// Hosts that had a worker and have had none for a minute or longer. At most 100 at a time.
    #[serde(default)]
    pub absent: Vec<HostId>,
}

/// A step of a host's start that it reached itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Certificate got, session up.
    Enrolled,
    /// Environment present and whole.
    Synced,
    /// Dask process started.
    Launched,
    /// Scheduler listening, or worker registered.
    Joined,
}

/// When a phase was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseRecord {
    /// Which.
    pub phase: Phase,
    /// When, by the host's clock.
    pub at: UnixSeconds,
    /// How long it took since the previous phase, in milliseconds.
    pub millis: u64,
}

/// A step that failed. `kind` is a stable word, listed in `docs/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The package, port or key it concerns: a package name, `name==version` or a number, at most 200 characters.
    pub subject: Option<String>,
    /// Whether the host goes on trying.
    pub retryable: bool,
}

/// Every way a host's start or life can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The runner could not be adopted again and its children's fate is unknown.
    AdoptionFailed,
    /// A blob could not be fetched.
    BlobUnavailable,
    /// The disk is full.
    DiskFull,
    /// The environment tool failed for a reason without its own word.
    EnvironmentFailed,
    /// A file did not have the locked hash.
    HashMismatch,
    /// The package index did not answer.
    IndexUnreachable,
    /// The index's certificate is not trusted here.
    IndexUntrusted,
    /// No interpreter of the exact version is here.
    InterpreterMissing,
    /// The journal could not be written.
    JournalFailed,
    /// The Dask process could not be started.
    LaunchFailed,
    /// The way to start Dask that the host's settings name cannot work there.
    LauncherUnfit,
    /// A package file is no longer where the lock says.
    PackageMissing,
    /// The kernel killed the Dask process for want of memory.
    OutOfMemory,
    /// The chosen port is taken.
    PortTaken,
    /// The Dask process exited by itself.
    ProcessExited,
    /// The cluster's scheduler does not answer.
    SchedulerLost,
    /// `uv` is not here.
    ToolMissing,
}

/// One of the runner's children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRecord {
    /// Its name within the host, e.g. `scheduler` or `worker-0`.
    pub name: String,
    /// Scheduler or worker.
    pub role: RoleKind,
    /// The process id on the host.
    pub pid: u32,
    /// Its exit, once it has one.
    pub exit: Option<ExitRecord>,
    /// What the kernel killed of it for want of memory: itself, or something that it started; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<OutOfMemory>,
}

/// Kills for want of memory, as the kernel counts them in a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutOfMemory {
    /// Processes killed since the start of the Dask process.
    pub kills: u64,
    /// The newest of them, as seen by the host's clock.
    pub at: UnixSeconds,
    /// The most memory that the group had held by then, cached files included, in bytes; null: not known.
    pub peak: Option<u64>,
    /// What the group may hold, in bytes; null: it has no limit of its own, and the host had no more.
    pub limit: Option<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitRecord {
    /// Exit status, if it exited.
    pub code: Option<i32>,
    /// Signal number, if a signal ended it.
    pub signal: Option<i32>,
    /// When.
    pub at: UnixSeconds,
}

/// The idle engine's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Busy, idle or unknown. Unknown counts as busy.
    pub state: VerdictState,
    /// Why, as stable words.
    pub reasons: Vec<VerdictReason>,
    /// Seconds for which each of the reasons has held without a break.
    #[serde(default)]
    pub held_for: BTreeMap<VerdictReason, u64>,
    /// Seconds of unbroken idleness.
    pub idle_for: u64,
    /// How near its end for idleness is (scheduler hosts); null: not so near that anybody is told.
    #[serde(default)]
    pub warning: Option<EndWarning>,
    /// Seconds without a client (scheduler hosts); null while one is there, while tasks run, and when it cannot be told.
    pub no_client_for: Option<u64>,
}

/// What people are told before idleness ends their cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndWarning {
    /// Half of the time that it may be idle is over.
    Half,
    /// Two minutes are left, or a quarter of a shorter time.
    Last,
}

/// The three values of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictState {
    /// Somebody needs it.
    Busy,
    /// Nobody needs it.
    Idle,
    /// Cannot be told: counts as busy.
    Unknown,
}

/// When a rule of the host's own would end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// The reason it would sign off with.
    pub reason: EndReason,
    /// Seconds from now.
    pub remaining: u64,
}

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictReason {
    /// The agent itself has work: it moves data away.
    AgentWorking,
    /// A client's process works: it may be building a graph.
    ClientBusy,
    /// The workload uses CPU.
    CpuBusy,
    /// The workload's CPU use could not be read.
    CpuUnknown,
    /// It has been unknown for so long that a person should look. No reason for anything by itself.
    Degraded,
    /// A GPU computes, or is held by a process while it cannot say what it does.
    GpuBusy,
    /// A GPU does not say what it does.
    GpuUnknown,
    /// A person holds the cluster, for a time.
    Held,
    /// A Jupyter server of the workload cannot be asked.
    JupyterUnknown,
    /// Somebody used a terminal or a notebook a short while ago.
    PersonActive,
    /// Nothing measured speaks for being busy.
    Quiet,
    /// The scheduler has tasks, or had some since the last look.
    SchedulerBusy,
    /// The scheduler does not say what it does.
    SchedulerSilent,
    /// A start phase is under way.
    Starting,
    /// The workload reads, writes, receives or sends much.
    TrafficBusy,
    /// The workload's traffic is too much to be called quiet and too little to be called busy.
    TrafficUnknown,
    /// It was unknown for four idle times while CPU, GPU and traffic were quiet: it counts as idle.
    UnknownQuiet,
    /// Tasks wait for a worker that could run them.
    Unrunnable,
    /// The workers' processes use CPU, whatever the scheduler knows of it.
    WorkersBusy,
    /// Worker hosts that were asked for have not arrived yet.
    WorkersStarting,
}

/// A certificate that a cluster CA made for a roster member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedCertificate {
    /// The member's id.
    pub member: String,
    /// The member's key.
    pub key: KeyId,
    /// The certificate as PEM.
    pub certificate: String,
}

/// The reason and evidence written down before a host ends itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignOff {
    /// Why the host ends.
    pub reason: EndReason,
    /// When it was written down.
    pub at: UnixSeconds,
    /// Dask processes stopped.
    pub processes_stopped: u32,
    /// Of these, how many had to be killed.
    pub processes_killed: u32,
    /// The assignment it acted on, if one.
    pub position: Option<Position>,
    /// SHA-256 of the evidence file on the host.
    pub evidence: Option<Digest>,
}

/// Why a host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// No agent spoke to the runner.
    AgentLost,
    /// Told to by an assignment.
    Assigned,
    /// No lease for too long.
    ControlPlaneLost,
    /// Idle by its policy.
    Idle,
    /// Its platform takes it away, or its machine is being shut down.
    Interrupted,
    /// Lived as long as it may.
    MaxLifetime,
    /// No client for too long.
    NoClient,
    /// The scheduler is gone.
    SchedulerLost,
    /// The start failed for good.
    StartFailed,
}

/// Something that happened, with a stable code and numbers. Never free text from user processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What.
    pub code: EventCode,
    /// When.
    pub at: UnixSeconds,
    /// Numbers that belong to it, in the order that its documentation says.
    pub numbers: Vec<u64>,
}

/// Events that a host tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventCode {
    /// The agent found its runner again after a restart. Numbers: processes adopted.
    Adopted,
    /// The agent's clock differs from the lease by more than the skew. Numbers: seconds.
    ClockSkew,
    /// A document was refused; why is in the host's own log. No numbers.
    DocumentRefused,
    /// A newer assignment was announced than received for two minutes. Numbers: epoch, generation.
    Withheld,
}
