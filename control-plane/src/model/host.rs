//! A host's record: how far its start is, what is stored for it, and what it last said of itself.

use super::Reason;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use towline_protocol::assignment::RoleKind;
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{ClusterId, Digest, HostId, KeyId, Position, Spki};
use towline_protocol::message::Instance;
use towline_protocol::report::{
    Deadline, EndReason, Failure, Interruption, ProcessRecord, ScalingWord, SignOff, Verdict, Vitals,
};
use towline_protocol::time::UnixSeconds;
use utoipa::ToSchema;

/// Where a host is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Banned: a clone or a thief used its identity.
    Banned,
    /// Gone, and the backend agrees.
    Ended,
    /// Told to end.
    Ending,
    /// Never became useful, or stopped being.
    Failed,
    /// Being made, booted, enrolled, synced or launched.
    Starting,
    /// Its Dask process is in the cluster.
    Up,
}

impl HostState {
    /// Whether the backend may still hold something for this host.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Ended)
    }

    /// Whether the host counts towards the wanted number.
    pub fn is_useful(self) -> bool {
        matches!(self, Self::Starting | Self::Up)
    }
}

/// The phases of a start, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartPhase {
    /// Written down.
    Requested,
    /// The backend made it.
    Created,
    /// Its first sign of life: an enrolment challenge or a session.
    Booted,
    /// It has its certificate and its session.
    Enrolled,
    /// Its packages are there.
    Synced,
    /// Its Dask process runs.
    Launched,
    /// Its Dask process is in the cluster.
    Joined,
}

/// One phase of a host's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseTiming {
    /// Which.
    pub phase: StartPhase,
    /// When it was reached, Unix milliseconds.
    pub reached_at_ms: u64,
    /// Milliseconds since the phase before.
    pub millis: u64,
}

/// What a backend needs to find a host again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendHandle {
    /// The backend's own name for it, e.g. an instance id; for `local` the host id.
    pub reference: String,
    /// How often the backend was asked to (re)start it.
    pub attempts: u32,
}

/// A host as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecord {
    /// Its id.
    pub id: HostId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Scheduler or worker.
    pub role: RoleKind,
    /// Where it is.
    pub state: HostState,
    /// Why, when that needs saying.
    pub reason: Option<Reason>,
    /// How far its start got.
    pub phases: Vec<PhaseTiming>,
    /// How the backend finds it; none before it was made.
    pub backend: Option<BackendHandle>,
    /// What connected as it, and with which certificate.
    pub enrolment: Option<EnrolmentRecord>,
    /// The newest assignment that was signed for it, as stored bytes.
    pub assignment: Option<SignedAssignment>,
    /// Its Dask node.
    pub dask: DaskNode,
    /// What it said last.
    pub said: LastSaid,
    /// When it was asked for, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it ended, Unix milliseconds.
    pub ended_at_ms: Option<u64>,
}

/// A host's identity after enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRecord {
    /// The key of its current certificate.
    pub key: KeyId,
    /// The current certificate chain, PEM; given again for the same key.
    pub chain: String,
    /// The certificate's end.
    pub not_after: UnixSeconds,
    /// Which running copy spoke last.
    pub instance: Option<Instance>,
}

/// The newest assignment of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAssignment {
    /// Its place.
    pub position: Position,
    /// SHA-256 of what it asks, without its times and place: equal means nothing new to sign.
    pub content: Digest,
    /// The signed bytes; resent as they are.
    pub envelope: Envelope,
}

/// A host's Dask node: key and certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaskNode {
    /// Its public key, from `hello`.
    pub spki: Option<Spki>,
    /// Its certificate, PEM, once the scheduler's host issued it.
    pub certificate: Option<String>,
}

/// The last words of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastSaid {
    /// When it was last heard, Unix milliseconds.
    pub at_ms: Option<u64>,
    /// How many reports it sent.
    pub reports: u64,
    /// Its agent's version.
    pub agent_version: Option<String>,
    /// The newest assignment it holds durably.
    pub observed: Option<Position>,
    /// Measurements.
    pub vitals: Option<Vitals>,
    /// Since when it has GPUs and none of them computes, Unix milliseconds.
    #[serde(default)]
    pub gpus_unused_since_ms: Option<u64>,
    /// The idle engine's answer.
    pub verdict: Option<Verdict>,
    /// What would end it by its own rules, as of `at_ms`.
    #[serde(default)]
    pub deadlines: Vec<Deadline>,
    /// Its Dask processes.
    pub processes: Vec<ProcessRecord>,
    /// What failed.
    pub failure: Option<Failure>,
    /// Why it is on its way out.
    #[serde(default)]
    pub ending: Option<EndReason>,
    /// What its platform has announced of its end.
    #[serde(default)]
    pub interruption: Option<Interruption>,
    /// Where its gateway listens.
    #[serde(default)]
    pub gateway_port: Option<u16>,
    /// Its address as its cluster's other hosts reach it, of a worker's host.
    #[serde(default)]
    pub gateway_host: Option<IpAddr>,
    /// What the scheduler wants of the worker hosts.
    #[serde(default)]
    pub scaling: Option<ScalingWord>,
    /// Since when it says so, Unix milliseconds.
    #[serde(default)]
    pub failed_at_ms: Option<u64>,
    /// Its last word.
    pub sign_off: Option<SignOff>,
}
