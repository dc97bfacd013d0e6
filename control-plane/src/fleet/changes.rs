//! How records change: each change looks at the record again inside its transaction, and says so in the log.

use super::observed::reach;
use super::reasons;
use super::reconcile::Action;
use crate::model::{ClusterRecord, ClusterState, DaskNode, HostRecord, HostState, LastSaid, Reason, StartPhase, Wish};
use crate::settings::Limits;
use crate::signer::capacity;
use crate::store::{Store, StoreError};
use crate::usage::limits::{self, Ledger};
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::{ClusterId, Digest, Epoch, HostId};

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

/// Have as many worker hosts as the scheduler wants, or as near to it as the workspace's limits allow.
pub(super) async fn rescale(
    store: &Store,
    cluster: &ClusterRecord,
    n_workers: u32,
    settings: &Limits,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let (hosts, clients) = (store.hosts_of(&cluster.id).await?, store.members_of(&cluster.id).await?);
    // Hosts that do not fit into the roster would get no certificate.
    let roster = greatest(cluster.n_workers, n_workers, |n| capacity::has_room(cluster, &hosts, &clients, n));
    let (mut to, mut noted) = (None, false);
    let change = |record: &mut ClusterRecord, ledger: &Ledger| {
        // Looked at again: a person may have chosen a number since.
        if !record.adaptive.is_some_and(|allowed| allowed.holds(n_workers)) {
            return Ok::<_, std::convert::Infallible>(());
        }
        let before = limits::wanted(record);
        let judge = |n: u32| {
            let asked = limits::wanted(&ClusterRecord { n_workers: n, ..record.clone() });
            ledger.judge(settings, &record.person, &record.id, before, asked)
        };
        let most = greatest(record.n_workers, n_workers.min(roster), |n| judge(n).is_ok());
        let over = judge(n_workers).err().filter(|_| most < roster).map(|over| over.to_string());
        let note = (most < n_workers).then(|| reasons::scaling_limited(n_workers, most, over.as_deref()));
        if record.reason != note && record.reason.as_ref().is_none_or(reasons::is_scaling_limited) {
            record.reason = note;
            noted = true;
        }
        if most != record.n_workers {
            to = Some(most);
            record.scale(most, now_ms);
        }
        Ok(())
    };
    let Ok(_) = store.update_cluster_within(None, &cluster.id, change).await?;
    if let Some(to) = to {
        tracing::info!(component = "fleet", cluster_id = %cluster.id, from = cluster.n_workers, to, "the scheduler scales");
    }
    Ok(to.is_some() || noted)
}

/// The largest number up to `asked` that fits, where with one number each smaller one fits too; `now` is there already,
/// and to have less than that always fits.
fn greatest(now: u32, asked: u32, fits: impl Fn(u32) -> bool) -> u32 {
    let (mut least, mut most) = (now.min(asked), asked);
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        if middle <= now || fits(middle) {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    least
}

/// Write a new host down. Its id follows from its cluster, its place among the cluster's hosts and the control plane's term:
/// whoever asks twice writes one host. A restored backup does not know the hosts that were made since; in its new term it
/// makes none of the same name.
pub(super) async fn request_host(
    store: &Store,
    cluster: &ClusterRecord,
    role: RoleKind,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let before = store.hosts_of(&cluster.id).await?;
    let epoch = store.epoch().await?;
    let ordinal = before.iter().filter(|host| host.role == role).count();
    let mut record = HostRecord {
        id: host_id(&cluster.id, role, ordinal, epoch),
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
fn host_id(cluster: &ClusterId, role: RoleKind, ordinal: usize, epoch: Epoch) -> HostId {
    let place = format!("towline-host-v0 {cluster} {} {ordinal} {}", role.as_str(), epoch.0);
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
        Action::NameLeaving(hosts) => record.leaving = hosts,
        Action::NoteCluster(reason) => record.reason = reason,
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
    use crate::fleet::testing;
    use crate::model::Adaptive;
    use crate::settings::Settings;
    use std::collections::BTreeSet;

    #[test]
    fn every_place_of_every_cluster_has_its_own_id_in_each_term() {
        let clusters = [1, 2].map(|n| ClusterId::from_random([n; 10]));
        let ids = || {
            clusters.iter().flat_map(|cluster| {
                [RoleKind::Scheduler, RoleKind::Worker]
                    .into_iter()
                    .flat_map(move |role| (0..20).map(move |n| (role, n)))
                    .flat_map(move |(role, n)| [Epoch(7), Epoch(8)].map(|epoch| host_id(cluster, role, n, epoch)))
            })
        };
        assert_eq!(ids().collect::<BTreeSet<_>>().len(), 160);
        assert!(ids().eq(ids()));
    }

    #[tokio::test]
    async fn a_scheduler_gets_as_much_as_the_limits_allow() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = testing::store(directory.path()).await;
        let eager = Adaptive { minimum: 1, maximum: 50, interval_ms: 1000, wait_count: 3, target_duration_ms: 5000 };
        let cluster = ClusterRecord { adaptive: Some(eager), ..testing::cluster(1) };
        store.insert_cluster(cluster.clone(), None).await.expect("inserted");
        let limits = Limits { hosts: Some(6), ..Settings::default().limits };
        let number = async || store.cluster(&cluster.id).await.expect("reads").expect("there").n_workers;
        assert!(rescale(&store, &cluster, 50, &limits, 5).await.expect("scales"));
        assert_eq!(number().await, 5, "one host of six is the scheduler's");
        let reason = async || store.cluster(&cluster.id).await.expect("reads").expect("there").reason;
        let told = reason().await.expect("the scheduler gets less than it asks for, and somebody is told");
        assert_eq!(told.code, "scaling_limited");
        assert!(
            told.message.contains("asks for 50 worker hosts and gets 5: ") && told.message.contains("6 hosts"),
            "{told:?}"
        );
        let now = store.cluster(&cluster.id).await.expect("reads").expect("there");
        assert!(!rescale(&store, &now, 50, &limits, 6).await.expect("scales"), "there is no more, and nothing to tell");
        let failing = reasons::workers_failing(3, None);
        change_cluster(&store, &cluster.id, |record| record.reason = Some(failing.clone())).await.expect("noted");
        assert!(!rescale(&store, &now, 50, &limits, 6).await.expect("scales"));
        assert_eq!(reason().await, Some(failing), "what is worse stays");
        change_cluster(&store, &cluster.id, |record| record.reason = Some(told)).await.expect("noted");
        assert!(!rescale(&store, &cluster, 51, &limits, 6).await.expect("scales"), "beyond what a person allowed");
        assert!(rescale(&store, &cluster, 1, &limits, 7).await.expect("scales"));
        assert_eq!((number().await, reason().await), (1, None));
    }

    proptest::proptest! {
        #[test]
        fn the_greatest_that_fits_is_found(now in 0..2000u32, asked in 0..2000u32, room in 0..2000u32) {
            let expected = if asked <= now { asked } else { asked.min(room.max(now)) };
            assert_eq!(greatest(now, asked, |n| n <= room), expected);
        }
    }
}
