//! Signs into the store: reads records, lets the signer decide, keeps the bytes before anybody sends them.
//!
//! The decision runs inside the store's transaction, so that two callers never take the same place for two contents.

use super::capacity;
use super::content::{self, AssignmentPolicy};
use super::{RosterAddress, Signer};
use crate::model::{ClusterRecord, HostRecord, HostState, MemberRecord};
use crate::store::{Store, StoreError};
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::Position;
use towline_protocol::time::UnixSeconds;

/// Sign a host's next assignment if that is due. True when there is a new one to send.
pub async fn assignment(
    store: &Store,
    signer: &Signer,
    policy: &AssignmentPolicy,
    cluster: &ClusterRecord,
    host: &HostRecord,
    now: UnixSeconds,
) -> Result<bool, StoreError> {
    // A look at what we have spares the transaction in nearly every pass.
    if due(signer, policy, cluster, host, now).is_none() {
        return Ok(false);
    }
    let mut signed: Option<Position> = None;
    store
        .update_host(&host.id, |record| {
            if let Some(new) = due(signer, policy, cluster, record, now) {
                signed = Some(new.position);
                record.assignment = Some(new);
            }
        })
        .await?;
    if let Some(position) = signed {
        tracing::info!(
            component = "signer", cluster_id = %cluster.id, host_id = %host.id, epoch = position.epoch.0,
            generation = position.generation.0, "assignment signed"
        );
    }
    Ok(signed.is_some())
}

fn due(
    signer: &Signer,
    policy: &AssignmentPolicy,
    cluster: &ClusterRecord,
    host: &HostRecord,
    now: UnixSeconds,
) -> Option<crate::model::SignedAssignment> {
    let wanted = content::wanted(cluster, host, policy)?;
    signer.assignment(&wanted, host.assignment.as_ref(), host.said.observed, now)
}

/// The live scheduler host of a cluster, which its roster is for.
pub fn scheduler_host(hosts: &[HostRecord]) -> Option<&HostRecord> {
    hosts
        .iter()
        .find(|host| host.role == RoleKind::Scheduler && matches!(host.state, HostState::Starting | HostState::Up))
}

/// When [`roster`] has something to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RosterDue {
    /// Nobody new came.
    Never,
    /// The scheduler's own key is new: it cannot start before it has a certificate.
    Now,
    /// Others came: they may wait a moment for company.
    Soon,
}

/// What a roster is made from.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'a> {
    /// The cluster.
    pub cluster: &'a ClusterRecord,
    /// All its hosts.
    pub hosts: &'a [HostRecord],
    /// All its admitted clients.
    pub clients: &'a [MemberRecord],
    /// The version that the scheduler's host says it holds.
    pub held: Option<u64>,
}

/// When a roster is to be signed.
pub fn roster_due(signer: &Signer, membership: Membership<'_>, now: UnixSeconds) -> RosterDue {
    let Membership { cluster, hosts, clients, held } = membership;
    let Some(address) = roster_address(cluster, hosts) else {
        return RosterDue::Never;
    };
    let members = content::members(cluster, hosts, clients);
    let Some(next) = signer.roster(&address, &members, cluster.roster.as_ref(), held, now) else {
        return RosterDue::Never;
    };
    let stored = cluster.roster.as_ref();
    let knows_scheduler = stored.is_some_and(|stored| super::names(&stored.envelope, &address.audience));
    if !knows_scheduler && super::names(&next.envelope, &address.audience) { RosterDue::Now } else { RosterDue::Soon }
}

/// Sign a cluster's next roster if that is due. True when there is a new one to send.
pub async fn roster(
    store: &Store,
    signer: &Signer,
    membership: Membership<'_>,
    now: UnixSeconds,
) -> Result<bool, StoreError> {
    let Membership { cluster, hosts, clients, held } = membership;
    let Some(address) = roster_address(cluster, hosts) else {
        return Ok(false);
    };
    let members = content::members(cluster, hosts, clients);
    let mut signed = None;
    store
        .update_cluster(&cluster.id, |record| {
            if let Some(new) = signer.roster(&address, &members, record.roster.as_ref(), held, now) {
                signed = Some(new.version);
                record.roster = Some(new);
            }
        })
        .await?;
    if let Some(version) = signed {
        tracing::info!(component = "signer", cluster_id = %cluster.id, host_id = %address.audience, version, "roster signed");
        if !capacity::has_room(cluster, hosts, clients, cluster.n_workers) {
            tracing::error!(
                component = "signer", cluster_id = %cluster.id, members = members.len(), event = "roster_full",
                "a cluster's roster is nearly full; members who do not fit get no certificate. Make a new cluster"
            );
        }
    }
    Ok(signed.is_some())
}

fn roster_address(cluster: &ClusterRecord, hosts: &[HostRecord]) -> Option<RosterAddress> {
    // Before the scheduler's host shows its key there is nobody who could make certificates.
    let scheduler = scheduler_host(hosts).filter(|host| host.dask.spki.is_some())?;
    Some(RosterAddress {
        audience: scheduler.id.clone(),
        workspace: cluster.workspace.clone(),
        cluster: cluster.id.clone(),
    })
}
