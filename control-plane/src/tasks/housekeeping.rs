//! Forgets what nobody needs any more: old idempotency keys, and log streams of clusters that ended long ago.
//!
//! Must not touch hosts: the fleet looks after them. Idempotent; runs once an hour.

use crate::api::chain;
use crate::clock;
use crate::store::{Store, StoreError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::ClusterId;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(3600);

/// A request is not sent again after this long.
const KEEP_KEYS: Duration = Duration::from_secs(2 * 24 * 3600);

/// Log streams are kept this long after their cluster ended.
const KEEP_LOGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Look after the store and the folder of log streams until `shutdown`.
pub async fn run(store: Store, logs: PathBuf, shutdown: CancellationToken) {
    loop {
        let now_ms = clock::unix_ms();
        if let Err(error) = once(&store, &logs, now_ms).await {
            tracing::warn!(component = "housekeeping", error = %chain(&error), "housekeeping failed and will be tried again");
        }
        // Both branches only wait.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

fn before(now_ms: u64, keep: Duration) -> u64 {
    now_ms.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX))
}

async fn once(store: &Store, logs: &Path, now_ms: u64) -> Result<(), StoreError> {
    let forgotten = store.forget_idempotency_keys(before(now_ms, KEEP_KEYS)).await?;
    let mut removed = 0;
    for (cluster, path) in streams(logs).await {
        let ended = store.cluster(&cluster).await?.and_then(|cluster| cluster.ended_at_ms);
        // A folder of a cluster that is not known is left alone: nobody can say whose it is.
        if ended.is_some_and(|ended| ended < before(now_ms, KEEP_LOGS)) {
            match tokio::fs::remove_dir_all(&path).await {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(
                    component = "housekeeping", cluster_id = %cluster, %error, "old log streams could not be removed"
                ),
            }
        }
    }
    if forgotten + removed > 0 {
        tracing::info!(component = "housekeeping", forgotten, removed, "old keys and log streams removed");
    }
    Ok(())
}

/// Folders that are named like clusters.
async fn streams(logs: &Path) -> Vec<(ClusterId, PathBuf)> {
    let mut found = Vec::new();
    let Ok(mut entries) = tokio::fs::read_dir(logs).await else { return found };
    while let Ok(Some(entry)) = entries.next_entry().await {
        if let Some(cluster) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((cluster, entry.path()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterState;
    use crate::store::tests::records;

    #[tokio::test]
    async fn removes_streams_of_clusters_that_ended_long_ago_and_no_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = records::store(directory.path()).await;
        let logs = directory.path().join("logs");
        let now_ms = 1_800_000_000_000;
        let mut folders = Vec::new();
        for (name, ended_at_ms) in [("old", Some(before(now_ms, KEEP_LOGS) - 1)), ("new", Some(now_ms)), ("live", None)]
        {
            let cluster = records::cluster(name);
            store.insert_cluster(cluster.clone(), None).await.expect("inserted");
            if ended_at_ms.is_some() {
                let ended = |record: &mut crate::model::ClusterRecord| {
                    record.state = ClusterState::Stopped;
                    record.ended_at_ms = ended_at_ms;
                };
                store.update_cluster(&cluster.id, ended).await.expect("ended");
            }
            folders.push(logs.join(cluster.id.as_str()));
        }
        folders.push(logs.join(records::cluster("unknown").id.as_str()));
        folders.push(logs.join("notes"));
        for folder in &folders {
            std::fs::create_dir_all(folder).expect("made");
        }
        once(&store, &logs, now_ms).await.expect("done");
        let there: Vec<bool> = folders.iter().map(|folder| folder.exists()).collect();
        assert_eq!(there, [false, true, true, true, true]);
    }
}
