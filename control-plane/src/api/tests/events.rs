//! Event streams: the first event at once, each change, and the end.

use super::*;
use crate::model::{ClusterRecord, ClusterState};
use axum::body::BodyDataStream;
use futures_util::StreamExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// One stream, read event by event.
struct Stream {
    body: BodyDataStream,
    buffer: String,
}

impl Stream {
    async fn open(ground: &Ground, cluster: &str) -> Self {
        Self::open_as(ground, cluster, ADA).await
    }

    async fn open_as(ground: &Ground, cluster: &str, token: &str) -> Self {
        let path = format!("/api/v1/clusters/{cluster}/events");
        let response = ground.send(request(Method::GET, &path, token, None)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), buffer: String::new() }
    }

    /// The next event's name and data; none at the end. Comments are skipped.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((name, serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let wait = tokio::time::timeout(Duration::from_secs(20), self.body.next());
            let bytes = wait.await.expect("an event within 20 s")?.unwrap();
            self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

async fn running(ground: &Ground) -> ClusterRecord {
    let cluster = records::cluster("first");
    ground.store.insert_cluster(cluster.clone(), None).await.unwrap();
    cluster
}

#[tokio::test]
async fn the_first_event_comes_at_once_and_the_last_is_terminal() {
    let ground = Ground::new().await;
    let cluster = running(&ground).await;
    let mut stream = Stream::open(&ground, "first").await;
    let (name, view) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &view["state"]), ("cluster", &json!("starting")));
    ground.store.insert_host(records::host(&cluster, 1)).await.unwrap();
    let (_, view) = stream.next().await.unwrap();
    assert_eq!(view["hosts"].as_array().unwrap().len(), 1, "a host is a change of its cluster");
    let stop = |record: &mut ClusterRecord| record.state = ClusterState::Stopped;
    ground.store.update_cluster(&cluster.id, stop).await.unwrap();
    let (_, view) = stream.next().await.unwrap();
    assert_eq!(view["state"], "stopped");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn an_ended_cluster_is_told_once() {
    let ground = Ground::new().await;
    let cluster = running(&ground).await;
    let stop = |record: &mut ClusterRecord| record.state = ClusterState::Failed;
    ground.store.update_cluster(&cluster.id, stop).await.unwrap();
    let mut stream = Stream::open(&ground, cluster.id.as_str()).await;
    assert_eq!(stream.next().await.unwrap().1["state"], "failed");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn quick_changes_travel_together_and_the_newest_arrives() {
    let ground = Ground::new().await;
    let cluster = running(&ground).await;
    let mut stream = Stream::open(&ground, "first").await;
    stream.next().await.unwrap();
    // More than the channel holds: the reader lags and reads everything again.
    for _ in 0..1500 {
        ground.store.update_cluster(&cluster.id, |record| record.n_workers += 1).await.unwrap();
    }
    let mut events = 0;
    loop {
        events += 1;
        if stream.next().await.unwrap().1["n_workers"] == 1502 {
            break;
        }
    }
    assert!(events < 700, "{events} events for 1500 changes");
}

#[tokio::test]
async fn other_clusters_changes_are_not_told() {
    let ground = Ground::new().await;
    let cluster = running(&ground).await;
    let other = records::cluster("other");
    ground.store.insert_cluster(other.clone(), None).await.unwrap();
    let mut stream = Stream::open(&ground, "first").await;
    let before = stream.next().await.unwrap().1["revision"].clone();
    ground.store.update_cluster(&other.id, |record| record.n_workers = 7).await.unwrap();
    ground.store.update_cluster(&cluster.id, |record| record.n_workers = 3).await.unwrap();
    let (_, view) = stream.next().await.unwrap();
    assert_eq!((&view["name"], &view["n_workers"]), (&json!("first"), &json!(3)));
    assert_ne!(view["revision"], before);
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let ground = Ground::new().await;
    running(&ground).await;
    let mut stream = Stream::open(&ground, "first").await;
    stream.next().await.unwrap();
    ground.shutdown.cancel();
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn streams_are_counted_and_come_back() {
    let ground = Ground::with_settings("[limits]\nevent_streams = 1").await;
    running(&ground).await;
    let stream = Stream::open(&ground, "first").await;
    let (status, problem) = ground.get("/api/v1/clusters/first/events").await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some("too_many_streams")));
    drop(stream);
    Stream::open(&ground, "first").await;
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    static CLOCK: AtomicU64 = AtomicU64::new(NOW_MS);
    let ground = Ground::with_clock("", || CLOCK.load(Ordering::Relaxed)).await;
    let cluster = running(&ground).await;
    let (mut adas, mut bobs) =
        (Stream::open_as(&ground, "first", ADA).await, Stream::open_as(&ground, "first", BOB).await);
    assert!(adas.next().await.is_some() && bobs.next().await.is_some());
    CLOCK.store(NOW_MS + 1, Ordering::Relaxed);
    ground.store.update_cluster(&cluster.id, |record| record.n_workers = 7).await.unwrap();
    assert_eq!(adas.next().await.unwrap().1["n_workers"], 7);
    assert_eq!(bobs.next().await, None, "bob's token has expired");
}
