//! How records change: each change looks at the record again inside its transaction, and says so in the log.

use super::observed::reach;
use super::reconcile::Action;
use crate::model::{
    ClusterRecord, ClusterState, DaskNode, HostRecord, HostState, LastSaid, Reason, StartPhase,
    Wish,
};
use crate::store::{Store, StoreError};
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::{ClusterId, HostId};
use towline_transport::keys;

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

/// Write a new host down.
pub(super) async fn request_host(
    store: &Store,
    cluster: &ClusterRecord,
    role: RoleKind,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let mut record = HostRecord {
        id: HostId::from_random(keys::random_id()),
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
    tracing::info!(component = "fleet", cluster_id = %cluster.id, host_id = %record.id, role = role.as_str(), "host requested");
    store.insert_host(record).await?;
    Ok(true)
}

/// Write an action into a cluster's record, which may have changed since it was decided.
pub(super) fn apply_to_cluster(record: &mut ClusterRecord, action: Action, now_ms: u64) {
    match action {
        Action::FinishCluster(state) => {
            record.state = state;
            record.ended_at_ms = Some(now_ms);
        }
        Action::NoteCluster(reason) => record.reason = reason,
        Action::RunCluster if record.state == ClusterState::Starting => {
            record.state = ClusterState::Running
        }
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
