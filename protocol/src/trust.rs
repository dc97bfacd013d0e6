//! What a host believes: root key → delegation → signing key → documents, until when, and in which order.
//!
//! [`Trust`] is the whole memory of a host about what it accepted. It is a plain value: the agent persists it in the
//! journal before it acts on anything that this module accepted.

use crate::assignment::Assignment;
use crate::envelope::{self, Envelope, EnvelopeError, Verified};
use crate::ids::{ClusterId, Digest, Epoch, HostId, Position, VerifyingKey, WorkspaceId};
use crate::lease::Lease;
use crate::roster::{Admission, MemberRole, Roster};
use crate::time::{CLOCK_SKEW, UnixSeconds};
use serde::{Deserialize, Serialize};

pub use crate::refusal::Refusal;

/// The root key's word that a signing key may sign for some workspaces, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// Wire version.
    pub v: u32,
    /// The signing key that is trusted from now on; every earlier one no longer is.
    pub key: VerifyingKey,
    /// The workspaces it may sign for.
    pub workspaces: Vec<WorkspaceId>,
    /// Only rises: a lower one is a rollback.
    pub version: u64,
    /// Epochs below this one are refused.
    pub epoch_floor: Epoch,
    /// From when.
    pub not_before: UnixSeconds,
    /// Until when; at most 30 days after `not_before`.
    pub not_after: UnixSeconds,
}

/// Longest life of a delegation.
pub const MAX_DELEGATION: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// Who a host is: fixed at enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// This host.
    pub host: HostId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its cluster.
    pub cluster: ClusterId,
}

/// Everything a host has accepted so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The operator's root key, pinned at creation.
    pub root_key: VerifyingKey,
    /// Who this host is.
    pub me: Identity,
    /// The newest delegation.
    pub delegation: Option<Delegation>,
    /// The newest accepted assignment: its place and what it said.
    pub assignment: Option<AcceptedAt>,
    /// The owner key, fixed by the first assignment.
    pub owner: Option<VerifyingKey>,
    /// The newest accepted roster: epoch and version, and what it said.
    pub roster: Option<AcceptedRoster>,
    /// The trusted clock never reads less than this.
    pub clock_floor: UnixSeconds,
}

/// An accepted assignment's place and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedAt {
    /// Where it stands.
    pub position: Position,
    /// What it said ([`envelope::fingerprint`]).
    pub fingerprint: Digest,
}

/// An accepted roster's place and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedRoster {
    /// The control plane's term.
    pub epoch: Epoch,
    /// Its version.
    pub version: u64,
    /// What it said.
    pub fingerprint: Digest,
}

/// What an accepted document is to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted<T> {
    /// Newer than everything before: journal it, then act.
    New(Verified<T>),
    /// The one already in force: acknowledge again, change nothing.
    Same,
}

impl Trust {
    /// A host that has accepted nothing yet.
    pub fn new(root_key: VerifyingKey, me: Identity, clock_floor: UnixSeconds) -> Self {
        Self { root_key, me, delegation: None, assignment: None, owner: None, roster: None, clock_floor }
    }

    /// The trusted clock: the system's, but never below what verified documents proved.
    pub fn clock(&self, system: UnixSeconds) -> UnixSeconds {
        system.max(self.clock_floor)
    }

    /// Accept a delegation, or say why not.
    pub fn accept_delegation(
        &mut self,
        envelope: &Envelope,
        system: UnixSeconds,
    ) -> Result<Accepted<Delegation>, Refusal> {
        let verified = envelope::verify::<Delegation>(envelope, &self.root_key)?;
        let new = verified.document();
        if new.not_after <= new.not_before || new.not_after.since(new.not_before) > MAX_DELEGATION {
            return Err(Refusal::DelegationTooLong);
        }
        // A delegation is judged by the system's clock alone: a poisoned floor must not lock out its cure.
        if new.not_before > system.plus(CLOCK_SKEW) {
            return Err(Refusal::NotYetValid);
        }
        if system > new.not_after.plus(CLOCK_SKEW) {
            return Err(Refusal::Expired);
        }
        if !new.workspaces.contains(&self.me.workspace) {
            return Err(Refusal::OtherWorkspace);
        }
        if let Some(old) = &self.delegation {
            if new.version < old.version {
                return Err(Refusal::DelegationRollback);
            }
            if new.version == old.version {
                return if new == old { Ok(Accepted::Same) } else { Err(Refusal::Conflict) };
            }
        }
        // A stolen signing key may have pushed the floor far ahead; a newer delegation resets it.
        self.clock_floor = self.clock_floor.min(new.not_after);
        self.delegation = Some(new.clone());
        Ok(Accepted::New(verified))
    }

    /// Accept an assignment, or say why not. Changes nothing when it refuses.
    pub fn accept_assignment(
        &mut self,
        envelope: &Envelope,
        system: UnixSeconds,
    ) -> Result<Accepted<Assignment>, Refusal> {
        let delegation = self.delegation_in_force(system)?.clone();
        let verified = envelope::verify::<Assignment>(envelope, &delegation.key)?;
        let new = verified.document();
        if new.audience != self.me.host {
            return Err(Refusal::OtherAudience);
        }
        if new.workspace != self.me.workspace {
            return Err(Refusal::OtherWorkspace);
        }
        if new.cluster != self.me.cluster {
            return Err(Refusal::OtherCluster);
        }
        if self.owner.as_ref().is_some_and(|owner| *owner != new.owner) {
            return Err(Refusal::OtherOwner);
        }
        check_epoch(new.epoch, &delegation)?;
        let fingerprint = envelope::fingerprint(envelope);
        if let Some(old) = &self.assignment {
            if new.position() < old.position {
                return Err(Refusal::Replay);
            }
            if new.position() == old.position {
                return if fingerprint == old.fingerprint { Ok(Accepted::Same) } else { Err(Refusal::Conflict) };
            }
        }
        self.check_times(new.issued_at, new.expires_at, system)?;
        self.assignment = Some(AcceptedAt { position: new.position(), fingerprint });
        self.owner.get_or_insert_with(|| new.owner.clone());
        self.raise_floor(new.issued_at, &delegation);
        Ok(Accepted::New(verified))
    }

    /// Accept a roster, or say why not. `known` is the roster in force.
    pub fn accept_roster(
        &mut self,
        envelope: &Envelope,
        known: Option<&Roster>,
        system: UnixSeconds,
    ) -> Result<Accepted<Roster>, Refusal> {
        let delegation = self.delegation_in_force(system)?.clone();
        let owner = self.owner.clone().ok_or(Refusal::RosterTooEarly)?;
        let verified = envelope::verify::<Roster>(envelope, &delegation.key)?;
        let new = verified.document();
        if new.audience != self.me.host {
            return Err(Refusal::OtherAudience);
        }
        if new.workspace != self.me.workspace {
            return Err(Refusal::OtherWorkspace);
        }
        if new.cluster != self.me.cluster {
            return Err(Refusal::OtherCluster);
        }
        check_epoch(new.epoch, &delegation)?;
        let fingerprint = envelope::fingerprint(envelope);
        if let Some(old) = &self.roster {
            if (new.epoch, new.version) < (old.epoch, old.version) {
                return Err(Refusal::Replay);
            }
            if (new.epoch, new.version) == (old.epoch, old.version) {
                return if fingerprint == old.fingerprint { Ok(Accepted::Same) } else { Err(Refusal::Conflict) };
            }
        }
        self.check_times(new.issued_at, new.expires_at, system)?;
        // A control plane that came back with an older backup no longer knows every entry; its epoch is a new one.
        let same_epoch = known.filter(|known| known.epoch == new.epoch);
        if same_epoch.is_some_and(|known| known.entries.iter().any(|entry| !new.entries.contains(entry))) {
            return Err(Refusal::RosterShrank);
        }
        check_schedulers(new)?;
        check_admissions(new, &owner)?;
        self.roster = Some(AcceptedRoster { epoch: new.epoch, version: new.version, fingerprint });
        self.raise_floor(new.issued_at, &delegation);
        Ok(Accepted::New(verified))
    }

    /// Check a lease. A lease changes nothing that must be durable but the clock floor.
    pub fn accept_lease(&mut self, envelope: &Envelope, system: UnixSeconds) -> Result<Verified<Lease>, Refusal> {
        let delegation = self.delegation_in_force(system)?.clone();
        let verified = envelope::verify::<Lease>(envelope, &delegation.key)?;
        let lease = verified.document();
        if lease.audience != self.me.host {
            return Err(Refusal::OtherAudience);
        }
        check_epoch(lease.epoch, &delegation)?;
        self.check_times(lease.now, lease.lease_until, system)?;
        self.raise_floor(lease.now, &delegation);
        Ok(verified)
    }

    fn delegation_in_force(&self, system: UnixSeconds) -> Result<&Delegation, Refusal> {
        let delegation = self.delegation.as_ref().ok_or(Refusal::NoDelegation)?;
        let now = self.clock(system);
        if now > delegation.not_after.plus(CLOCK_SKEW) || now.plus(CLOCK_SKEW) < delegation.not_before {
            return Err(Refusal::DelegationNotValid);
        }
        if !delegation.workspaces.contains(&self.me.workspace) {
            return Err(Refusal::NotDelegated);
        }
        Ok(delegation)
    }

    fn check_times(&self, issued_at: UnixSeconds, expires_at: UnixSeconds, system: UnixSeconds) -> Result<(), Refusal> {
        let now = self.clock(system);
        if issued_at > now.plus(CLOCK_SKEW) {
            return Err(Refusal::NotYetValid);
        }
        if now > expires_at.plus(CLOCK_SKEW) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    fn raise_floor(&mut self, issued_at: UnixSeconds, delegation: &Delegation) {
        self.clock_floor = self.clock_floor.max(issued_at.min(delegation.not_after));
    }
}

fn check_epoch(epoch: Epoch, delegation: &Delegation) -> Result<(), Refusal> {
    if epoch < delegation.epoch_floor {
        return Err(Refusal::EpochFloor);
    }
    if epoch.0 > delegation.not_after.0 {
        return Err(Refusal::EpochCeiling);
    }
    Ok(())
}

/// Nobody but the host that the roster is for may be the scheduler, and that one once.
fn check_schedulers(roster: &Roster) -> Result<(), Refusal> {
    let schedulers = roster.entries.iter().filter(|entry| entry.role == MemberRole::Scheduler);
    for (place, entry) in schedulers.enumerate() {
        if place > 0 || entry.id != roster.audience.as_str() {
            return Err(Refusal::OtherScheduler(entry.id.clone()));
        }
    }
    Ok(())
}

fn check_admissions(roster: &Roster, owner: &VerifyingKey) -> Result<(), Refusal> {
    for entry in &roster.entries {
        match (entry.role, &entry.admission) {
            (MemberRole::Client, None) => return Err(Refusal::NoAdmission(entry.id.clone())),
            (MemberRole::Client, Some(admission)) => {
                let verified = envelope::verify::<Admission>(admission, owner).map_err(|error| match error {
                    EnvelopeError::BadSignature => Refusal::AdmissionNotOwners(entry.id.clone()),
                    other => Refusal::Envelope(other),
                })?;
                let admission = verified.document();
                let fits = admission.cluster == roster.cluster
                    && admission.spki == entry.spki
                    && admission.role == MemberRole::Client
                    && entry.not_after <= admission.not_after;
                if !fits {
                    return Err(Refusal::AdmissionMismatch(entry.id.clone()));
                }
            }
            (MemberRole::Scheduler | MemberRole::Worker, None) => {}
            (MemberRole::Scheduler | MemberRole::Worker, Some(_)) => {
                return Err(Refusal::AdmissionMismatch(entry.id.clone()));
            }
        }
    }
    Ok(())
}
