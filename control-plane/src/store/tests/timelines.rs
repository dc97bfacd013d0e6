//! Timelines: written with the change, bounded, read in pages, forgotten with their cluster.

use super::super::timeline::TIMELINE_LIMIT;
use super::records::{cluster, host, member};
use super::*;
use crate::timeline::Happening;
use towline_protocol::report::{Verdict, VerdictState};

async fn kinds(store: &Store, cluster: &ClusterId) -> Vec<&'static str> {
    let page = store.timeline(cluster, 0, 10_000).await.unwrap();
    page.rows.iter().map(|row| row.event.what.kind()).collect()
}

fn verdict(state: VerdictState) -> Option<Verdict> {
    Some(Verdict {
        state,
        reasons: Vec::new(),
        idle_for: 0,
        no_client_for: None,
        warning: None,
        held_for: std::collections::BTreeMap::new(),
    })
}

#[tokio::test]
async fn a_change_and_its_event_are_kept_together_or_not_at_all() {
    let (_directory, store) = ground().await;
    let (record, worker) = (cluster("a"), host(&cluster("a"), 1));
    store.insert_cluster(record.clone(), None).await.unwrap();
    store.insert_host(worker.clone()).await.unwrap();
    store.admit_member(member(&record, "client-a"), 1, |_, _| Ok::<_, ()>(true)).await.unwrap().unwrap();
    store.update_cluster_by(Some("bob"), &record.id, |record| record.n_workers = 9).await.unwrap();
    store.update_host(&worker.id, |host| host.state = HostState::Failed).await.unwrap();
    let told = ["cluster_requested", "host_requested", "client_admitted", "cluster_scaled", "host_failed"];
    assert_eq!(kinds(&store, &record.id).await, told);
    let page = store.timeline(&record.id, 3, 1).await.unwrap();
    let scaled = Happening::ClusterScaled { by: Some("bob".to_owned()), from: 2, to: 9 };
    assert_eq!((&page.rows[0].event.what, page.rows[0].sequence, page.next), (&scaled, 4, Some(4)));
    assert_eq!(store.timeline(&record.id, 4, 1).await.unwrap().next, None);

    // Where the event cannot be written, the change is not made.
    sqlx::query("ALTER TABLE timeline RENAME TO gone").execute(&store.writer).await.unwrap();
    store.update_cluster(&record.id, |record| record.n_workers = 1).await.unwrap_err();
    store.update_host(&worker.id, |host| host.state = HostState::Ended).await.unwrap_err();
    assert_eq!(store.cluster(&record.id).await.unwrap().unwrap().n_workers, 9);
    assert_eq!(store.host(&worker.id).await.unwrap().unwrap().state, HostState::Failed);
}

#[tokio::test]
async fn the_same_verdict_after_a_silence_is_no_news() {
    let (_directory, store) = ground().await;
    let (record, worker) = (cluster("a"), host(&cluster("a"), 1));
    store.insert_cluster(record.clone(), None).await.unwrap();
    store.insert_host(worker.clone()).await.unwrap();
    for said in [verdict(VerdictState::Busy), None, verdict(VerdictState::Busy), None, verdict(VerdictState::Idle)] {
        store.update_host(&worker.id, |host| host.said.verdict = said).await.unwrap();
    }
    let told = ["cluster_requested", "host_requested", "host_verdict", "host_verdict"];
    assert_eq!(kinds(&store, &record.id).await, told);
}

#[tokio::test]
async fn a_full_timeline_loses_old_verdicts_first_and_counts_what_it_lost() {
    let (_directory, store) = ground().await;
    let (record, other) = (cluster("a"), cluster("b"));
    let worker = host(&record, 1);
    for record in [&record, &other] {
        store.insert_cluster(record.clone(), None).await.unwrap();
    }
    store.insert_host(worker.clone()).await.unwrap();
    let turns = usize::try_from(TIMELINE_LIMIT).unwrap();
    let mut connection = store.writer.acquire().await.unwrap();
    for turn in 0..turns {
        let state = if turn % 2 == 0 { VerdictState::Busy } else { VerdictState::Idle };
        let what = Happening::HostVerdict { verdict: state, reasons: Vec::new() };
        let event = crate::timeline::Event { at_ms: 5_000, host: Some(worker.id.clone()), what };
        super::super::timeline::append(&mut connection, &record.id, vec![event]).await.unwrap();
    }
    drop(connection);
    store.update_cluster(&record.id, |record| record.n_workers = 9).await.unwrap();
    let page = store.timeline(&record.id, 0, 10_000).await.unwrap();
    assert!(page.rows.len() as u64 <= TIMELINE_LIMIT && page.rows.len() > turns / 2, "{}", page.rows.len());
    assert_eq!(page.dropped + page.rows.len() as u64, TIMELINE_LIMIT + 3, "what is gone is counted");
    let kinds: Vec<_> = page.rows.iter().map(|row| row.event.what.kind()).collect();
    assert_eq!((kinds[0], kinds[1], *kinds.last().unwrap()), ("cluster_requested", "host_requested", "cluster_scaled"));
    assert!(page.rows[2].sequence > 3, "the oldest verdicts went first");
    assert_eq!(store.timeline(&other.id, 0, 10).await.unwrap().dropped, 0);
}

#[tokio::test]
async fn a_timeline_is_forgotten_long_after_its_cluster_ended_and_not_before() {
    let (_directory, store) = ground().await;
    let (over, live) = (cluster("over"), cluster("live"));
    for record in [&over, &live] {
        store.insert_cluster(record.clone(), None).await.unwrap();
    }
    let end = |record: &mut ClusterRecord| {
        record.state = ClusterState::Stopped;
        record.ended_at_ms = Some(9_000);
    };
    store.update_cluster(&over.id, end).await.unwrap();
    assert_eq!(store.forget_timelines(9_000).await.unwrap(), 0, "its end is not before that");
    assert_eq!(store.forget_timelines(9_001).await.unwrap(), 3);
    assert_eq!(kinds(&store, &live.id).await, ["cluster_requested"]);
}
