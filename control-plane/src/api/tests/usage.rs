//! Usage: summed from hosts as they were made and ended; tags that it can be summed by.

use super::*;
use crate::model::{ClusterRecord, HostRecord, PhaseTiming, StartPhase};
use towline_protocol::assignment::RoleKind;

const HOUR: u64 = 3_600_000;

/// Made and ended this many hours ago; not ended: still there.
async fn host(ground: &Ground, cluster: &ClusterRecord, number: u8, made: Option<u64>, ended: Option<u64>) {
    let role = if number == 0 { RoleKind::Scheduler } else { RoleKind::Worker };
    let record = HostRecord { role, created_at_ms: NOW_MS - 100 * HOUR, ..records::host(cluster, number) };
    ground.store.insert_host(record.clone()).await.unwrap();
    let change = |host: &mut HostRecord| {
        let at = |hours: u64| NOW_MS - hours * HOUR;
        let timing = made.map(|made| PhaseTiming { phase: StartPhase::Created, reached_at_ms: at(made), millis: 0 });
        host.phases.extend(timing);
        host.ended_at_ms = ended.map(at);
    };
    ground.store.update_host(&record.id, change).await.unwrap();
}

async fn with_history() -> Ground {
    let ground = Ground::new().await;
    let cluster = |name: &str, person: &str, tag: Option<&str>| {
        let mut record = ClusterRecord { person: person.to_owned(), ..records::cluster(name) };
        record.worker.threads = 4;
        record.terms.tags = tag.map(|tag| ("project".to_owned(), tag.to_owned())).into_iter().collect();
        record
    };
    let (sky, bare) = (cluster("sky", "ada", Some("sky, and \"sea\"")), cluster("bare", "bob", None));
    for record in [&sky, &bare] {
        ground.store.insert_cluster(record.clone(), None).await.unwrap();
    }
    host(&ground, &sky, 0, Some(10), None).await;
    host(&ground, &sky, 1, Some(10), Some(4)).await;
    host(&ground, &bare, 1, Some(3), Some(1)).await;
    host(&ground, &bare, 2, None, Some(1)).await;
    ground
}

fn lines(usage: &Value) -> Vec<(Value, f64, f64)> {
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let line = |line: &Value| (line["key"].clone(), number(line, "host_hours"), number(line, "cpu_hours"));
    usage["lines"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn usage_is_summed_by_person_cluster_and_tag() {
    let ground = with_history().await;
    let (status, usage) = ground.get("/api/v1/usage").await;
    assert_eq!(status, StatusCode::OK, "{usage}");
    // A scheduler for ten hours (one core), a worker for six (four cores); a worker for two hours, and one never made.
    assert_eq!(lines(&usage), [(json!("ada"), 16.0, 34.0), (json!("bob"), 2.0, 8.0)]);
    assert_eq!((usage["total"]["hosts"].as_u64(), usage["total"]["cpu_ms"].as_u64()), (Some(3), Some(42 * HOUR)));
    assert_eq!((&usage["until_ms"], &usage["since_ms"]), (&json!(NOW_MS), &json!(NOW_MS - 30 * 24 * HOUR)));
    let (_, usage) = ground.get("/api/v1/usage?by=tag:project").await;
    assert_eq!(lines(&usage), [(json!("sky, and \"sea\""), 16.0, 34.0), (Value::Null, 2.0, 8.0)]);
    let (_, usage) = ground.get("/api/v1/usage?by=cluster").await;
    assert_eq!((&usage["lines"][0]["name"], &usage["lines"][0]["person"]), (&json!("sky"), &json!("ada")));
    let window = format!("/api/v1/usage?since_ms={}&until_ms={}", NOW_MS - 8 * HOUR, NOW_MS - 2 * HOUR);
    assert_eq!(lines(&ground.get(&window).await.1), [(json!("ada"), 10.0, 22.0), (json!("bob"), 1.0, 4.0)]);
    let (_, future) = ground.get(&format!("/api/v1/usage?until_ms={}", NOW_MS + HOUR)).await;
    assert_eq!(future["until_ms"], NOW_MS, "what has not been is not counted");
}

#[tokio::test]
async fn others_than_admins_see_their_own_use_and_nobody_another_workspaces() {
    let ground = with_history().await;
    let get = async |token: &str| read(ground.send(request(Method::GET, "/api/v1/usage", token, None)).await).await.1;
    let own = get(BOB).await;
    assert_eq!((lines(&own), &own["only_of"]), (vec![(json!("bob"), 2.0, 8.0)], &json!("bob")));
    assert_eq!(own["total"]["cpu_hours"], 8.0);
    assert_eq!(get(VIC).await["lines"], json!([]));
    assert_eq!(get(EVE).await["lines"], json!([]));
}

#[tokio::test]
async fn refuses_times_and_sums_that_make_no_sense() {
    let ground = Ground::new().await;
    let late = format!("?since_ms={}", NOW_MS + 1);
    for (query, code) in [
        ("?by=host", "field_invalid"),
        ("?by=tag:", "field_invalid"),
        ("?since_ms=9&until_ms=8", "field_invalid"),
        (late.as_str(), "field_invalid"),
        ("?since_ms=-1", "query_invalid"),
        ("?sinse_ms=1", "query_invalid"),
    ] {
        let (_, problem) = ground.get(&format!("/api/v1/usage{query}")).await;
        assert_eq!(problem["code"], code, "{query}: {problem}");
    }
}

#[tokio::test]
async fn tags_are_checked_kept_and_shown() {
    let ground = Ground::with_environment().await;
    let many = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("x"))).collect::<serde_json::Map<_, _>>();
    for (tags, named) in [
        (Value::Object(many(21)), "are 21, more than 20"),
        (json!({"": "x"}), "\"\""),
        (json!({"a b": "x"}), "\"a b\""),
        (json!({"-a": "x"}), "\"-a\""),
        (json!({"ü": "x"}), "\"ü\""),
        (json!({"a".repeat(65): "x"}), "aaa"),
        (json!({"a": ""}), "`tags.a`"),
        (json!({"a": " x"}), "`tags.a`"),
        (json!({"a": "x\ny"}), "`tags.a`"),
        (json!({"a": "x".repeat(257)}), "`tags.a`"),
    ] {
        let (_, problem) = ground.post("/api/v1/clusters", &body_with("/tags", tags.clone())).await;
        assert_eq!(problem["code"], "field_invalid", "{tags}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{tags}: {problem}");
    }
    let tags = json!({"project": "Wärme, 2030", "cost/center:a-b_c.d": "=1"});
    let (status, made) = ground.post("/api/v1/clusters", &body_with("/tags", tags.clone())).await;
    assert_eq!((status, &made["tags"]), (StatusCode::CREATED, &tags));
    let body = body_with("/tags", Value::Object(many(20)));
    let (status, problem) = ground
        .post("/api/v1/clusters", &{
            let mut body = body;
            body["name"] = json!("second");
            body
        })
        .await;
    assert_eq!(status, StatusCode::CREATED, "{problem}");
}
