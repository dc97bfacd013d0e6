//! The only holder of the signing key: assignments, rosters and leases leave the control plane through here.
//!
//! Owns the key, the delegation that goes with it and the rule *when* something new is signed: only when what it says
//! has changed, or when the stored bytes could no longer be accepted. Stored bytes are resent as they are. Must not
//! decide what a host should do (`content` is told that by the fleet). Driven by `publish`, which the fleet calls.

pub mod capacity;
pub mod content;
pub mod publish;

use crate::model::{SignedAssignment, SignedRoster};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::fmt;
use std::sync::RwLock;
use std::time::Duration;
use towline_protocol::WIRE_VERSION;
use towline_protocol::assignment::Assignment;
use towline_protocol::envelope::{self, Document, Envelope};
use towline_protocol::ids::{ClusterId, Digest, Epoch, Generation, HostId, KeyId, Position, VerifyingKey, WorkspaceId};
use towline_protocol::lease::Lease;
use towline_protocol::roster::{Member, MemberRole, Roster};
use towline_protocol::strict;
use towline_protocol::time::UnixSeconds;

/// Bytes that nobody holds yet are signed anew when less than this part of their life is left: a slow delivery fits in.
const RENEW_IN_LAST: u32 = 8;

/// Furthest that what a host says it holds may lie ahead of our records: no backup is this many signatures old. A number
/// further on would use up the numbers that are left.
const LARGEST_LEAP: u64 = 1 << 32;

/// How long what is signed may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignerTimes {
    /// Assignments and rosters, until they are accepted.
    pub instruction: Duration,
    /// Leases.
    pub lease: Duration,
}

/// Signs for one run (one epoch) of the control plane.
pub struct Signer {
    key: Ed25519KeyPair,
    key_id: KeyId,
    epoch: Epoch,
    times: SignerTimes,
    delegation: RwLock<Envelope>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// For whom a roster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterAddress {
    /// The scheduler's host.
    pub audience: HostId,
    /// The cluster's workspace.
    pub workspace: WorkspaceId,
    /// The cluster.
    pub cluster: ClusterId,
}

impl Signer {
    /// A signer with its key, the delegation that names the key, and the term it signs in.
    pub fn new(key: Ed25519KeyPair, delegation: Envelope, epoch: Epoch, times: SignerTimes) -> Self {
        let key_id = envelope::verifying_key(&key).key_id();
        Self { key, key_id, epoch, times, delegation: RwLock::new(delegation) }
    }

    /// The term of this run.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The public half of the signing key.
    pub fn verifying_key(&self) -> VerifyingKey {
        envelope::verifying_key(&self.key)
    }

    /// The delegation to show to agents.
    pub fn delegation(&self) -> Envelope {
        self.delegation.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Show a newer delegation of the same key from now on.
    pub fn replace_delegation(&self, delegation: Envelope) {
        *self.delegation.write().unwrap_or_else(std::sync::PoisonError::into_inner) = delegation;
    }

    /// Whether an envelope was signed by the key in use. The hint is enough: we read our own store.
    pub fn is_current(&self, envelope: &Envelope) -> bool {
        envelope.signatures.first().is_some_and(|signature| signature.keyid == self.key_id)
    }

    /// Whether a host can hold this place although the store knows no newer one than `stored`: true of a backup that was
    /// restored. A place in an epoch after this run's is none of ours: epochs are the time of each start at least, so a
    /// clock was wrong or the host lies. Nothing that this run signs outbids it.
    pub fn is_plausible(&self, held: Position, stored: Option<Position>) -> bool {
        let known = stored.map_or(0, |stored| stored.generation.0);
        held.epoch <= self.epoch && held.generation.0 <= known.saturating_add(LARGEST_LEAP)
    }

    /// Sign `wanted` in the next place, if that is due. `wanted` comes without place and times; `held` is the newest
    /// place that the host says it holds. None too when no generation is left.
    pub fn assignment(
        &self,
        wanted: &Assignment,
        stored: Option<&SignedAssignment>,
        held: Option<Position>,
        now: UnixSeconds,
    ) -> Option<SignedAssignment> {
        let content = content::digest(wanted);
        let known = stored.map(|stored| stored.position);
        // Outbidding what cannot be outbid would sign at every look, and each signature is a reason for the next look.
        let held = held.filter(|held| self.is_plausible(*held, known));
        if stored.is_some_and(|stored| !self.is_due(stored, &content, held, now)) {
            return None;
        }
        // The generation rises over epochs too, so that people can count assignments.
        let newest = [known, held].into_iter().flatten().map(|place| place.generation.0).max().unwrap_or(0);
        let position = Position { epoch: self.epoch, generation: Generation(newest.checked_add(1)?) };
        let document = Assignment {
            epoch: position.epoch,
            generation: position.generation,
            issued_at: now,
            expires_at: now.plus(self.times.instruction),
            ..wanted.clone()
        };
        crate::metrics::get().assignments_signed.inc();
        Some(SignedAssignment { position, content, envelope: envelope::sign(&document, &self.key) })
    }

    fn is_due(&self, stored: &SignedAssignment, content: &Digest, held: Option<Position>, now: UnixSeconds) -> bool {
        if stored.content != *content {
            return true;
        }
        match held {
            Some(held) if held == stored.position => false,
            // The host holds something newer than the store knows: a restored backup.
            Some(held) if held > stored.position => true,
            _ => !self.is_current(&stored.envelope) || self.is_stale::<Assignment>(&stored.envelope, now),
        }
    }

    /// Sign a roster with every member so far and the new ones, if that is due. `held` is the version that the host says
    /// it holds. Drops no entry but schedulers other than the host it is for, which that host would refuse; leaves out
    /// newcomers for which a frame has no room.
    pub fn roster(
        &self,
        address: &RosterAddress,
        members: &[Member],
        stored: Option<&SignedRoster>,
        held: Option<u64>,
        now: UnixSeconds,
    ) -> Option<SignedRoster> {
        let known = stored.and_then(|stored| read_own::<Roster>(&stored.envelope));
        let newest = stored.map_or(0, |stored| stored.version);
        let held = held.filter(|held| *held <= newest.saturating_add(LARGEST_LEAP));
        let mut entries: Vec<Member> = Vec::new();
        let mut space = capacity::Space::default();
        for member in known.iter().flat_map(|roster| &roster.entries).chain(members) {
            let fits = member.role != MemberRole::Scheduler || member.id == address.audience.as_str();
            if fits && !entries.contains(member) && space.take(member) {
                entries.push(member.clone());
            }
        }
        if entries.is_empty() {
            return None;
        }
        if let Some(stored) = stored {
            let unheld = held != Some(stored.version);
            let unusable = !self.is_current(&stored.envelope) || self.is_stale::<Roster>(&stored.envelope, now);
            // The host holds something newer than the store knows: a restored backup.
            let outrun = held > Some(stored.version);
            let changed =
                known.as_ref().is_none_or(|roster| roster.audience != address.audience || roster.entries != entries);
            // The version does not tell whose roster the host holds: of two stores that were restored in turn, both may
            // have had it. One of this start is above either.
            let of_the_past = held.is_some() && known.is_some_and(|roster| roster.epoch < self.epoch);
            if !(changed || outrun || of_the_past || (unheld && unusable)) {
                return None;
            }
        }
        let version = newest.max(held.unwrap_or(0)).checked_add(1)?;
        let document = Roster {
            v: WIRE_VERSION,
            audience: address.audience.clone(),
            workspace: address.workspace.clone(),
            cluster: address.cluster.clone(),
            epoch: self.epoch,
            version,
            issued_at: now,
            expires_at: now.plus(self.times.instruction),
            entries,
        };
        Some(SignedRoster { version, envelope: envelope::sign(&document, &self.key) })
    }

    fn is_stale<T: Expires>(&self, envelope: &Envelope, now: UnixSeconds) -> bool {
        let margin = self.times.instruction / RENEW_IN_LAST;
        read_own::<T>(envelope).is_none_or(|document| now.plus(margin) >= document.expires_at())
    }

    /// A fresh sign of life for a host.
    pub fn lease(&self, host: &HostId, newest: Option<Position>, now: UnixSeconds) -> Envelope {
        let lease = Lease {
            v: WIRE_VERSION,
            audience: host.clone(),
            epoch: self.epoch,
            newest,
            now,
            lease_until: now.plus(self.times.lease),
        };
        envelope::sign(&lease, &self.key)
    }
}

/// A document with an end of acceptance.
trait Expires: Document {
    fn expires_at(&self) -> UnixSeconds;
}

impl Expires for Assignment {
    fn expires_at(&self) -> UnixSeconds {
        self.expires_at
    }
}

impl Expires for Roster {
    fn expires_at(&self) -> UnixSeconds {
        self.expires_at
    }
}

/// Whether a stored roster has an entry of this host.
fn names(envelope: &Envelope, host: &HostId) -> bool {
    read_own::<Roster>(envelope).is_some_and(|roster| roster.entries.iter().any(|entry| entry.id == host.as_str()))
}

/// Read a document out of our own store. Not verified: the signing key may have changed since, and nothing but this
/// process writes there. Never use it on bytes from outside.
fn read_own<T: Document>(envelope: &Envelope) -> Option<T> {
    let payload = STANDARD.decode(&envelope.payload).ok()?;
    strict::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod testing {
    //! A signer for tests.
    use super::*;
    use towline_protocol::trust::Delegation;
    use towline_transport::keys;

    /// A signer in this epoch, with a delegation that nobody checks.
    pub fn signer(epoch: u64) -> Signer {
        let (pem, key) = keys::ed25519_generate_pem().expect("key");
        let pair = keys::ed25519_from_pem(&pem).expect("key");
        let delegation = Delegation {
            v: WIRE_VERSION,
            key,
            workspaces: vec![WorkspaceId::from_random([1; 10])],
            version: 1,
            epoch_floor: Epoch(0),
            not_before: UnixSeconds(0),
            not_after: UnixSeconds(u64::MAX),
        };
        let envelope = envelope::sign(&delegation, &pair);
        let times = SignerTimes { instruction: Duration::from_secs(900), lease: Duration::from_secs(95) };
        Signer::new(pair, envelope, Epoch(epoch), times)
    }
}
