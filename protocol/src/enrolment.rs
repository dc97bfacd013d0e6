//! Enrolment: a new host proves what it is and gets its certificate.
//!
//! There is no CSR: the host sends its public key and a signature over the challenge, and the control plane writes every
//! name in the certificate itself (`docs/decisions/0001`).

use crate::ids::{ClusterId, HostId, Spki, WorkspaceId};
use crate::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// Answer to `POST /enroll/challenge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// 32 random bytes as lower-case hexadecimal.
    pub challenge: String,
    /// Until when it may be used.
    pub expires_at: UnixSeconds,
}

/// Body of `POST /enroll`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRequest {
    /// Wire version.
    pub v: u32,
    /// The host the token was made for.
    pub host: HostId,
    /// The challenge that is answered.
    pub challenge: String,
    /// The new identity key.
    pub spki: Spki,
    /// ECDSA P-256 SHA-256 signature (ASN.1 DER, base64) by that key over `proof_bytes`.
    pub proof: String,
    /// The one-time token as in the user data.
    pub token: String,
    /// The platform's own proof.
    pub attestation: Attestation,
}

/// The platform's own proof of what a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Attestation {
    /// A directory on the control plane's own machine. The token and the same user id are the proof.
    Local,
}

/// Answer to `POST /enroll` and to a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentGrant {
    /// The host's identity certificate and its issuer, PEM.
    pub certificate_chain: String,
    /// Its end.
    pub not_after: UnixSeconds,
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
}

/// What the proof in an enrolment request signs: domain, challenge, host, token's hash and key, each with its length
/// so that no two requests share bytes.
pub fn proof_bytes(challenge: &str, host: &HostId, token: &str, spki: &Spki) -> Vec<u8> {
    let token_hash = crate::ids::Digest::of(token.as_bytes());
    let mut out = b"towline-enrolment-v0".to_vec();
    for part in [challenge, host.as_str(), token_hash.as_str(), spki.as_str()] {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}
