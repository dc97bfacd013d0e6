//! Forgets what nobody needs any more: old idempotency keys, dead tokens, requests to join that ran out, timelines and log
//! streams of clusters that ended long ago and full log files as old, and what is left of local hosts that did.
//!
//! Must not touch hosts that have not ended: the fleet looks after them. Idempotent; runs once an hour.

use crate::api::chain;
use crate::backends::local;
use crate::clock;
use crate::model::HostRecord;
use crate::store::{Store, StoreError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::ClusterId;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(3600);

/// A request is not sent again after this long.
const KEEP_KEYS: Duration = Duration::from_secs(2 * 24 * 3600);

/// Log streams and the timeline are kept this long after their cluster ended, and a host's directory after the host did.
const KEEP_LOGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Tokens that were revoked or have expired are listed this long.
const KEEP_TOKENS: Duration = Duration::from_secs(90 * 24 * 3600);

/// The folders that are looked after.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Log streams, in a folder for each cluster.
    pub logs: PathBuf,
    /// A directory for each local host.
    pub hosts: PathBuf,
}

/// Look after the store and the folders until `shutdown`.
pub async fn run(store: Store, folders: Folders, shutdown: CancellationToken) {
    loop {
        let now_ms = clock::unix_ms();
        if let Err(error) = once(&store, &folders, now_ms).await {
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

async fn once(store: &Store, folders: &Folders, now_ms: u64) -> Result<(), StoreError> {
    let forgotten = store.forget_idempotency_keys(before(now_ms, KEEP_KEYS)).await?;
    let tokens = store.forget_dead_tokens(before(now_ms, KEEP_TOKENS)).await?;
    let asked = store.forget_expired_requests(now_ms).await?;
    let told = store.forget_timelines(before(now_ms, KEEP_LOGS)).await?;
    let (streams, full) = remove_streams(store, &folders.logs, now_ms).await?;
    let hosts = remove_hosts(store, &folders.hosts, now_ms).await?;
    for (action, count) in [
        ("keys_forgotten", forgotten),
        ("tokens_forgotten", tokens),
        ("admission_requests_forgotten", asked),
        ("timeline_rows_forgotten", told),
        ("log_streams_removed", streams),
        ("log_files_removed", full),
        ("host_directories_removed", hosts),
    ] {
        crate::metrics::get().janitor(action, count);
    }
    if forgotten + tokens + asked + told + streams + full + hosts > 0 {
        tracing::info!(
            component = "housekeeping",
            forgotten,
            tokens,
            asked,
            told,
            streams,
            full,
            hosts,
            "old keys, tokens, requests, timelines, log streams, full log files and directories of hosts removed"
        );
    }
    Ok(())
}

/// How many folders of streams, and how many full files of others, were removed.
async fn remove_streams(store: &Store, logs: &Path, now_ms: u64) -> Result<(u64, u64), StoreError> {
    let (mut removed, mut full) = (0, 0);
    for (cluster, path) in streams(logs).await {
        // A folder of a cluster that is not known is left alone: nobody can say whose it is.
        let Some(record) = store.cluster(&cluster).await? else { continue };
        if record.ended_at_ms.is_some_and(|ended| ended < before(now_ms, KEEP_LOGS)) {
            match tokio::fs::remove_dir_all(&path).await {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(
                    component = "housekeeping", cluster_id = %cluster, %error, "old log streams could not be removed"
                ),
            }
        } else {
            full += remove_full(&cluster, &path, now_ms).await;
        }
    }
    Ok((removed, full))
}

/// Remove full log files (`<stream>.000001.jsonl`) whose last line is too old. The file of a stream that is being written
/// has no number and stays.
async fn remove_full(cluster: &ClusterId, folder: &Path, now_ms: u64) -> u64 {
    let limit = SystemTime::UNIX_EPOCH + Duration::from_millis(before(now_ms, KEEP_LOGS));
    let mut removed = 0;
    let Ok(mut entries) = tokio::fs::read_dir(folder).await else { return 0 };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let written = async { entry.metadata().await?.modified() };
        if !entry.file_name().to_str().is_some_and(is_full_log_file) || !written.await.is_ok_and(|at| at < limit) {
            continue;
        }
        match tokio::fs::remove_file(entry.path()).await {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(
                component = "housekeeping", cluster_id = %cluster, %error, "an old log file could not be removed"
            ),
        }
    }
    removed
}

fn is_full_log_file(name: &str) -> bool {
    let numbered = name.strip_suffix(".jsonl").and_then(|name| name.split_once('.'));
    numbered.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

async fn remove_hosts(store: &Store, hosts: &Path, now_ms: u64) -> Result<u64, StoreError> {
    let folder = hosts.to_owned();
    let found = match tokio::task::spawn_blocking(move || local::remains(&folder)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(component = "housekeeping", error = %chain(&error), "directories of hosts could not be listed");
            return Ok(0);
        }
        Err(error) => {
            tracing::error!(component = "housekeeping", %error, "listing the directories of hosts broke");
            return Ok(0);
        }
    };
    let mut removed = 0;
    for remains in found {
        let record = store.host(&remains.host).await?;
        if !is_long_over(record.as_ref(), remains.ended_at, now_ms) {
            continue;
        }
        match tokio::fs::remove_dir_all(&remains.path).await {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(
                component = "housekeeping", host_id = %remains.host, %error, "what is left of an old host could not be removed"
            ),
        }
    }
    Ok(removed)
}

/// Whether what is left of a host can go. Its record says when it ended, if there is one: while the fleet does not count
/// it as ended, its directory stays, so that it is not made a second time.
fn is_long_over(record: Option<&HostRecord>, marked_at: SystemTime, now_ms: u64) -> bool {
    let marked = marked_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ended_at_ms = match record {
        Some(record) => record.ended_at_ms,
        None => Some(u64::try_from(marked.as_millis()).unwrap_or(u64::MAX)),
    };
    ended_at_ms.is_some_and(|ended| ended < before(now_ms, KEEP_LOGS))
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
    use crate::store::{PersonToken, Role};

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
        let nothing = directory.path().join("hosts");
        once(&store, &Folders { logs, hosts: nothing }, now_ms).await.expect("done");
        let there: Vec<bool> = folders.iter().map(|folder| folder.exists()).collect();
        assert_eq!(there, [false, true, true, true, true]);
    }

    #[tokio::test]
    async fn forgets_tokens_that_have_opened_nothing_for_long() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = records::store(directory.path()).await;
        let now_ms = 1_800_000_000_000;
        let old = before(now_ms, KEEP_TOKENS) - 1;
        let cases = [
            ("live", None, None, true),
            ("expires later", None, Some(now_ms + 1), true),
            ("expired lately", None, Some(now_ms - 1), true),
            ("revoked long ago", Some(old), Some(now_ms + 1), false),
            ("expired long ago", None, Some(old), false),
        ];
        for (name, revoked_at_ms, expires_at_ms, _) in cases {
            let token = PersonToken { revoked_at_ms, expires_at_ms, ..records::token(name, "ada", Role::Member) };
            store.put_person_token(token).await.expect(name);
        }
        let folders = Folders { logs: directory.path().join("logs"), hosts: directory.path().join("hosts") };
        once(&store, &folders, now_ms).await.expect("done");
        for (name, _, _, stays) in cases {
            let found = store.person_by_token(&records::token(name, "ada", Role::Member).hash).await.expect(name);
            assert_eq!(found.is_some(), stays, "{name}");
        }
    }

    #[tokio::test]
    async fn removes_full_log_files_that_are_old_also_of_live_clusters() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = records::store(directory.path()).await;
        let cluster = records::cluster("live");
        store.insert_cluster(cluster.clone(), None).await.expect("inserted");
        let now_ms = 1_800_000_000_000;
        let logs = directory.path().join("logs");
        let folder = logs.join(cluster.id.as_str());
        std::fs::create_dir_all(&folder).expect("made");
        let old = before(now_ms, KEEP_LOGS) - 1;
        let cases = [
            ("worker-a.000001.jsonl", old, false),
            ("worker-a.000002.jsonl", now_ms, true),
            ("worker-a.jsonl", old, true),
            ("worker-a.x.jsonl", old, true),
            ("worker-a..jsonl", old, true),
            ("worker-a.000001.jsonl.tmp", old, true),
        ];
        for (name, written_ms, _) in cases {
            let file = std::fs::File::create(folder.join(name)).expect(name);
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(written_ms)).expect(name);
        }
        once(&store, &Folders { logs, hosts: directory.path().join("hosts") }, now_ms).await.expect("done");
        for (name, _, stays) in cases {
            assert_eq!(folder.join(name).exists(), stays, "{name}");
        }
    }

    #[tokio::test]
    async fn removes_what_is_left_of_hosts_that_ended_long_ago_and_no_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = records::store(directory.path()).await;
        let cluster = records::cluster("any");
        store.insert_cluster(cluster.clone(), None).await.expect("inserted");
        let now_ms = 1_800_000_000_000;
        let old = before(now_ms, KEEP_LOGS) - 1;
        let hosts = directory.path().join("hosts");
        // By its record: none, still alive, or ended; when its directory was marked as ended.
        let cases = [
            ("over", Some(Some(old)), Some(now_ms), false),
            ("over lately", Some(Some(now_ms)), Some(old), true),
            ("not over yet", Some(None), Some(old), true),
            ("not marked", Some(Some(old)), None, true),
            ("no record, over", None, Some(old), false),
            ("no record, over lately", None, Some(now_ms), true),
        ];
        let mut folders = Vec::new();
        for (number, (what, record, marked_at_ms, _)) in (1..).zip(cases) {
            let host = records::host(&cluster, number);
            if let Some(ended_at_ms) = record {
                store.insert_host(host.clone()).await.expect(what);
                store.update_host(&host.id, |host| host.ended_at_ms = ended_at_ms).await.expect(what);
            }
            let folder = hosts.join(host.id.as_str());
            std::fs::create_dir_all(folder.join("journal")).expect(what);
            if let Some(at) = marked_at_ms {
                let mark = std::fs::File::create(folder.join("ended")).expect(what);
                mark.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(at)).expect(what);
            }
            folders.push(folder);
        }
        once(&store, &Folders { logs: directory.path().join("logs"), hosts }, now_ms).await.expect("done");
        for ((what, _, _, stays), folder) in cases.into_iter().zip(folders) {
            assert_eq!(folder.exists(), stays, "{what}");
        }
    }
}
