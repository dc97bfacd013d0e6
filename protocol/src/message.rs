//! The frames of a session, as JSON text, one message each.

use crate::envelope::Envelope;
use crate::ids::{Digest, KeyId, Position, Spki};
use crate::report::{Event, Report};
use crate::strict::{self, StrictError};
use crate::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// From an agent to the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromAgent {
    /// The first frame of a session.
    Hello(Hello),
    /// The host's state; answered by a lease.
    Report(Box<Report>),
    /// Something that happened.
    Event(Event),
    /// Asks where blobs can be read. Answered by `BlobGrants`.
    BlobRequest {
        /// The blobs that are wanted, at most 1,000.
        digests: Vec<Digest>,
    },
    /// Asks for a new identity certificate for a new key, proven over the challenge in the hello's answer.
    Renewal {
        /// The new key.
        spki: Spki,
        /// ECDSA signature by the new key over `b"towline-renewal-v0"` and the nonce of `Welcome`, base64.
        proof: String,
    },
    /// Answers a challenge.
    ChallengeAnswer {
        /// The challenge's nonce.
        nonce: String,
        /// Who answers.
        instance: Instance,
    },
}

/// Which running copy of a host this is. Two live copies are a clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// SHA-256 of what identifies the machine (for `local`, also of the host directory's device and inode).
    pub machine: Digest,
    /// The kernel's boot id, hashed.
    pub boot: Digest,
}

/// Who connects, and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Wire versions it speaks, newest last.
    pub speaks: Vec<u32>,
    /// The agent's version, e.g. `0.1.0`.
    pub agent_version: String,
    /// Which running copy.
    pub instance: Instance,
    /// How often this agent has started on this host.
    pub starts: u64,
    /// The newest assignment in its journal.
    pub last: Option<Position>,
    /// The newest roster version in its journal.
    pub roster_version: Option<u64>,
    /// What it has.
    pub inventory: Inventory,
    /// The public key of its Dask node, for the roster.
    pub dask_spki: Option<Spki>,
}

/// What a host has and runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Environments present and whole.
    pub environments: Vec<Digest>,
    /// Python interpreters found, as `implementation-version`, e.g. `cpython-3.11.2`.
    pub interpreters: Vec<String>,
    /// Names of running Dask processes.
    pub running: Vec<String>,
}

/// From the control plane to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromControlPlane {
    /// Answers a hello.
    Welcome {
        /// The version both speak.
        version: u32,
        /// 32 random bytes, hexadecimal; proofs within this session sign it.
        nonce: String,
    },
    /// A delegation, signed by the root key.
    Delegation {
        /// The signed document.
        envelope: Envelope,
    },
    /// An assignment, signed by the delegated key.
    Assignment {
        /// The signed document.
        envelope: Envelope,
    },
    /// A roster, signed by the delegated key.
    Roster {
        /// The signed document.
        envelope: Envelope,
    },
    /// A lease, signed by the delegated key.
    Lease {
        /// The signed document.
        envelope: Envelope,
    },
    /// A certificate for a key that the agent showed.
    Certificate {
        /// What it is for.
        purpose: CertificatePurpose,
        /// Whose key.
        key: KeyId,
        /// Certificate and issuers, PEM.
        chain: String,
    },
    /// Where blobs can be read for a while.
    BlobGrants {
        /// One for each blob that exists.
        grants: Vec<BlobGrant>,
    },
    /// Asks the holder of this session to prove that it is alive and the same.
    Challenge {
        /// Random, hexadecimal.
        nonce: String,
    },
    /// Asks the agent to dial back with a byte stream.
    OpenTunnel {
        /// One-time id of the tunnel.
        tunnel: String,
        /// Which of the host's ports, by name.
        port: TunnelPort,
    },
    /// The session ends; why, and whether to come again.
    Refused {
        /// Why.
        code: SessionRefusal,
    },
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificatePurpose {
    /// A client of the cluster.
    Client,
    /// The host's Dask processes.
    DaskNode,
    /// The agent itself.
    Identity,
}

/// A named port of a host that a tunnel may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelPort {
    /// The gateway for dashboard and live logs.
    Gateway,
    /// The scheduler's Dask port.
    Scheduler,
}

/// A capability to read one blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobGrant {
    /// Which blob.
    pub digest: Digest,
    /// Where, with the capability inside.
    pub url: String,
    /// Until when.
    pub not_after: UnixSeconds,
}

/// Why a session was refused or ended by the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionRefusal {
    /// The agent speaks no version that the control plane speaks.
    AgentTooOld,
    /// The same host is connected and alive.
    AlreadyConnected,
    /// The host was banned.
    Banned,
    /// A newer session of the same host took over.
    Fenced,
    /// The control plane stops; come again.
    GoingAway,
    /// The frame could not be read.
    Malformed,
    /// The host is not known or has ended.
    UnknownHost,
}

impl SessionRefusal {
    /// Whether the agent should try again by itself.
    pub fn retryable(self) -> bool {
        matches!(self, Self::AlreadyConnected | Self::GoingAway | Self::Fenced)
    }
}

/// Read a frame from an agent.
pub fn from_agent(frame: &[u8]) -> Result<FromAgent, StrictError> {
    strict::from_slice(frame)
}

/// Read a frame from the control plane.
pub fn from_control_plane(frame: &[u8]) -> Result<FromControlPlane, StrictError> {
    strict::from_slice(frame)
}

/// Write a frame.
pub fn to_frame<T: Serialize>(message: &T) -> String {
    serde_json::to_string(message).expect("our messages hold only strings, integers, lists and objects")
}
