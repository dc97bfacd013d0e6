//! What is counted, under which names, and what never becomes a label.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

use super::*;
use crate::fleet::observed::reach;
use crate::store::tests::records;

#[tokio::test]
async fn records_are_counted_when_somebody_asks() {
    let directory = tempfile::tempdir().unwrap();
    let store = records::store(directory.path()).await;
    let cluster = records::cluster("secret-name");
    store.insert_cluster(cluster.clone(), None).await.unwrap();
    for number in 1..=3 {
        let host = records::host(&cluster, number);
        store.insert_host(host.clone()).await.unwrap();
        let reached = if number == 1 { StartPhase::Joined } else { StartPhase::Created };
        store.update_host(&host.id, |host| reach(host, reached, 9_000)).await.unwrap();
    }
    get().look(&store, &SessionHub::new()).await.unwrap();
    let text = get().text();
    for line in [
        "towline_clusters{state=\"starting\"} 1",
        "towline_clusters{state=\"stopping\"} 0",
        "towline_hosts{phase=\"created\"} 2",
        "towline_hosts{phase=\"joined\"} 1",
        "towline_agent_sessions 0",
        "towline_start_phase_seconds_count{phase=\"created\"} 3",
        "# UNIT towline_start_phase_seconds seconds",
        "# TYPE towline_assignments_signed counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing in:\n{text}");
    }
    for secret in ["secret-name", "ada", cluster.id.as_str(), "local"] {
        assert!(!text.contains(secret), "{secret:?} is told:\n{text}");
    }
}

#[test]
fn what_somebody_types_is_no_label() {
    let invented = Method::from_bytes(b"BREW").unwrap();
    get().request("-", &invented, StatusCode::METHOD_NOT_ALLOWED, Duration::from_millis(3));
    let text = get().text();
    assert!(text.contains("method=\"other\",status=\"405\"") && !text.contains("BREW"), "{text}");
}

#[tokio::test]
async fn a_failed_query_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = records::store(directory.path()).await;
    store.close().await;
    store.epoch().await.unwrap_err();
    assert!(get().text().contains("towline_store_errors_total{operation=\"read the epoch\"} 1"));
}
