//! How records change: each change looks at the record again inside its transaction, and says so in the log.

use super::observed::reach;
use super::reconcile::Action;
use crate::model::{ClusterRecord, ClusterState, DaskNode, HostRecord, HostState, LastSaid, Reason, StartPhase, Wish};
use crate::store::{Store, StoreError};
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::{ClusterId, Digest, HostId};

/// Bring a cluster to its end, unless it is there.
pub(super) async fn end_cluster(
    store: &Store,
    cluster: &ClusterRecord,
    reason: Option<Reason>,
) -> Result<bool, StoreError> {
    let code = reason.as_ref().map(|reason| reason.code.as_str());
    tracing::info!(component = "fleet", cluster_id = %cluster.id, code, "cluster ends");
    change_cluster(store, &cluster.id, |record| {
        if !record.state.is_terminal() {
            record.state = ClusterState::Stopping;
            record.wish = Wish::End;
            record.reason = reason;
        }
    })
    .await
}

/// Write a new host down. Its id follows from its cluster and its place among the cluster's hosts: whoever asks twice,
/// even a control plane that was killed while its insert was on the way, writes one host.
pub(super) async fn request_host(
    store: &Store,
    cluster: &ClusterRecord,
    role: RoleKind,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let before = store.hosts_of(&cluster.id).await?;
    let ordinal = before.iter().filter(|host| host.role == role).count();
    let mut record = HostRecord {
        id: host_id(&cluster.id, role, ordinal),
        cluster: cluster.id.clone(),
        role,
        state: HostState::Starting,
        reason: None,
        phases: Vec::new(),
        backend: None,
        enrolment: None,
        assignment: None,
        dask: DaskNode::default(),
        said: LastSaid::default(),
        created_at_ms: now_ms,
        ended_at_ms: None,
    };
    reach(&mut record, StartPhase::Requested, now_ms);
    let id = record.id.clone();
    match store.insert_host(record).await {
        Ok(()) => {
            tracing::info!(component = "fleet", cluster_id = %cluster.id, host_id = %id, role = role.as_str(), "host requested");
        }
        // Somebody wrote it down in the meantime: the next look sees it.
        Err(_) if store.host(&id).await?.is_some() => {}
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// The id of a cluster's host in this place. Cluster ids hold the randomness.
fn host_id(cluster: &ClusterId, role: RoleKind, ordinal: usize) -> HostId {
    let place = format!("towline-host-v0 {cluster} {} {ordinal}", role.as_str());
    let digest = hex::decode(Digest::of(place.as_bytes()).as_str()).expect("a digest is hexadecimal");
    HostId::from_random(digest[..10].try_into().expect("a digest has 32 bytes"))
}

/// Write an action into a cluster's record, which may have changed since it was decided.
pub(super) fn apply_to_cluster(record: &mut ClusterRecord, action: Action, now_ms: u64) {
    match action {
        Action::FinishCluster(state) => {
            record.state = state;
            record.ended_at_ms = Some(now_ms);
        }
        Action::NoteCluster(reason) => record.reason = reason,
        // Looked at again: a person may have chosen a number since.
        Action::Rescale(n_workers) if record.adaptive.is_some_and(|allowed| allowed.holds(n_workers)) => {
            tracing::info!(component = "fleet", cluster_id = %record.id, from = record.n_workers, to = n_workers, "the scheduler scales");
            record.scale(n_workers, now_ms);
        }
        Action::RunCluster if record.state == ClusterState::Starting => record.state = ClusterState::Running,
        _ => {}
    }
}

/// Write an action into a host's record, which may have changed since it was decided.
pub(super) fn apply_to_host(record: &mut HostRecord, action: Action, now_ms: u64) {
    match action {
        Action::EndHost(_, reason) => leave(record, HostState::Ending, reason),
        Action::FailHost(host, reason) => {
            tracing::warn!(component = "fleet", cluster_id = %record.cluster, host_id = %host, code = %reason.code, reason = %reason.message, "host failed");
            leave(record, HostState::Failed, Some(reason));
        }
        Action::MarkEnded(_) => {
            record.state = HostState::Ended;
            record.ended_at_ms = Some(now_ms);
        }
        Action::MarkUp(_) if record.state == HostState::Starting => {
            record.state = HostState::Up;
            record.reason = None;
        }
        Action::NoteHost(_, reason) => record.reason = Some(reason),
        _ => {}
    }
}

fn leave(record: &mut HostRecord, state: HostState, reason: Option<Reason>) {
    if matches!(record.state, HostState::Starting | HostState::Up) {
        record.state = state;
        record.reason = reason;
    }
}

/// Change a cluster's record. True: it is not as it was.
pub(super) async fn change_cluster(
    store: &Store,
    id: &ClusterId,
    change: impl FnOnce(&mut ClusterRecord) + Send,
) -> Result<bool, StoreError> {
    let mut changed = false;
    let record = store
        .update_cluster(id, |record| {
            let before = record.clone();
            change(record);
            changed = *record != before;
            if record.state != before.state {
                tracing::info!(component = "fleet", cluster_id = %id, state_from = ?before.state, state_to = ?record.state, "cluster state");
            }
        })
        .await?;
    debug_assert_eq!(record.id, *id);
    Ok(changed)
}

/// Change a host's record. True: it is not as it was.
pub(super) async fn change_host(
    store: &Store,
    id: &HostId,
    change: impl FnOnce(&mut HostRecord) + Send,
) -> Result<bool, StoreError> {
    let mut changed = false;
    store
        .update_host(id, |record| {
            let before = record.clone();
            change(record);
            changed = *record != before;
            if record.state != before.state {
                tracing::info!(component = "fleet", cluster_id = %record.cluster, host_id = %id, state_from = ?before.state, state_to = ?record.state, "host state");
            }
        })
        .await?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_place_of_every_cluster_has_its_own_id_and_always_the_same() {
        let clusters = [1, 2].map(|n| ClusterId::from_random([n; 10]));
        let ids = || {
            clusters.iter().flat_map(|cluster| {
                [RoleKind::Scheduler, RoleKind::Worker]
                    .into_iter()
                    .flat_map(move |role| (0..20).map(move |n| host_id(cluster, role, n)))
            })
        };
        assert_eq!(ids().collect::<BTreeSet<_>>().len(), 80);
        assert!(ids().eq(ids()));
    }
}
