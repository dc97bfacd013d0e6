//! Limits of hosts and cores: set, shown, and kept by requests that come at once.

use super::*;
use crate::model::{ClusterState, HostState};

const LIMITS: &str = "/api/v1/limits";
const CLUSTERS: &str = "/api/v1/clusters";

fn named(name: &str, n_workers: u32) -> Value {
    let mut body = body_with("/name", json!(name));
    body["n_workers"] = json!(n_workers);
    body
}

async fn set(ground: &Ground, body: Value) -> Value {
    let (status, view) = read(ground.send(request(Method::PUT, LIMITS, ADA, Some(&body))).await).await;
    assert_eq!(status, StatusCode::OK, "{view}");
    view
}

async fn make(ground: &Ground, token: &str, body: &Value) -> (StatusCode, Value) {
    read(ground.send(request(Method::POST, CLUSTERS, token, Some(body))).await).await
}

async fn with_environment(settings: &str) -> Ground {
    let ground = Ground::with_settings(settings).await;
    ground.put_environment(true).await;
    ground
}

#[tokio::test]
async fn a_refusal_says_whose_limit_what_is_used_what_was_asked_and_who_may_raise_it() {
    let ground = with_environment("[limits]\nhosts = 6\nhosts_per_person = 5").await;
    assert_eq!(make(&ground, BOB, &named("one", 2)).await.0, StatusCode::CREATED);
    let (status, problem) = make(&ground, BOB, &named("two", 2)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("limit_reached")));
    let (detail, remedy) = (problem["detail"].as_str().unwrap(), problem["remedy"].as_str().unwrap());
    for word in ["\"bob\"", "5 hosts", "hold 3", "asks for 3"] {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    assert!(remedy.contains("an admin (ada)") && !remedy.contains("eve"), "{remedy}");
    assert!(remedy.contains("`towline limits set --person bob --hosts 6`"), "{remedy}");
    // The remedy holds.
    set(&ground, json!({"of": "person", "person": "bob", "hosts": 6})).await;
    assert_eq!(make(&ground, BOB, &named("two", 2)).await.0, StatusCode::CREATED);
    let (_, problem) = make(&ground, ADA, &named("three", 0)).await;
    assert!(problem["detail"].as_str().unwrap().contains("the workspace may have 6 hosts"), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("limits set --workspace --hosts 7"), "{problem}");
    assert_eq!(ground.store.clusters(None, true).await.unwrap().len(), 2, "a refused request leaves nothing");
}

#[tokio::test]
async fn limits_are_shown_with_who_set_them_and_what_is_used() {
    let ground = with_environment("[limits]\nhosts = 100\ncores_per_person = 9").await;
    make(&ground, BOB, &named("one", 2)).await;
    let (_, view) = ground.get(LIMITS).await;
    assert_eq!(view["workspace"]["hosts"], json!({"most": 100, "set_by": "settings", "used": 3}));
    assert_eq!(view["workspace"]["cores"], json!({"most": null, "set_by": "nobody", "used": 5}));
    assert_eq!(view["people"][0]["person"], "bob");
    assert_eq!(view["people"][0]["cores"], json!({"most": 9, "set_by": "settings", "used": 5}));
    let view = set(&ground, json!({"of": "everyone", "hosts": 4, "cores": "none"})).await;
    assert_eq!(view["everyone"]["hosts"]["most"], 4);
    assert_eq!(view["people"][0]["hosts"], json!({"most": 4, "set_by": "everyone", "used": 3}));
    assert_eq!(view["people"][0]["cores"], json!({"most": null, "set_by": "everyone", "used": 5}));
    // What is below the use ends nothing.
    let view = set(&ground, json!({"of": "workspace", "hosts": 1})).await;
    assert_eq!(view["workspace"]["hosts"], json!({"most": 1, "set_by": "admin", "used": 3}));
    let view = set(&ground, json!({"of": "workspace", "hosts": "default"})).await;
    assert_eq!(view["workspace"]["hosts"], json!({"most": 100, "set_by": "settings", "used": 3}));
    assert_eq!(ground.store.clusters(None, false).await.unwrap().len(), 1);
}

#[tokio::test]
async fn refuses_limits_that_name_nobody_or_nothing() {
    let ground = Ground::new().await;
    for (body, code) in [
        (json!({"of": "workspace"}), "field_invalid"),
        (json!({"of": "workspace", "person": "bob", "hosts": 1}), "field_invalid"),
        (json!({"of": "person", "hosts": 1}), "field_invalid"),
        (json!({"of": "person", "person": "", "hosts": 1}), "field_invalid"),
        (json!({"of": "person", "person": "bob", "hosts": "many"}), "json_invalid"),
        (json!({"of": "person", "person": "bob", "gpus": 1}), "json_invalid"),
    ] {
        let (_, problem) = read(ground.send(request(Method::PUT, LIMITS, ADA, Some(&body))).await).await;
        assert_eq!(problem["code"], code, "{body}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_clusters_asked_for_at_once_as_many_as_fit_are_made() {
    let ground = with_environment("[limits]\nhosts = 10").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (router, body) = (ground.router.clone(), named(&format!("c{number}"), 2));
        tasks.spawn(async move {
            router.oneshot(request(Method::POST, CLUSTERS, ADA, Some(&body))).await.unwrap().status()
        });
    }
    let made = tasks.join_all().await.into_iter().filter(|status| *status == StatusCode::CREATED).count();
    assert_eq!(made, 3, "three of three hosts each are nine of ten");
    assert_eq!(ground.get(LIMITS).await.1["workspace"]["hosts"]["used"], 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_clusters_scaled_at_once_as_many_as_fit_grow() {
    let ground = with_environment("[limits]\ncores = 40").await;
    for number in 0..6 {
        assert_eq!(make(&ground, ADA, &named(&format!("c{number}"), 0)).await.0, StatusCode::CREATED);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..6 {
        let router = ground.router.clone();
        tasks.spawn(async move {
            let (path, body) = (format!("{CLUSTERS}/c{number}/scale"), json!({"n_workers": 5}));
            read(router.oneshot(request(Method::POST, &path, ADA, Some(&body))).await.unwrap()).await
        });
    }
    let answers = tasks.join_all().await;
    let grown = answers.iter().filter(|(status, _)| *status == StatusCode::OK).count();
    assert_eq!(grown, 3, "six cores are taken, and each that grows takes ten more of forty");
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != StatusCode::OK).collect();
    assert!(refused.iter().all(|(_, problem)| problem["code"] == "limit_reached"), "{refused:?}");
    for cluster in ground.store.clusters(None, false).await.unwrap() {
        assert!([0, 5].contains(&cluster.n_workers), "a refused size is not kept");
    }
}

#[tokio::test]
async fn scaling_down_is_always_allowed_and_makes_room_at_once() {
    let ground = with_environment("").await;
    make(&ground, ADA, &named("one", 8)).await;
    set(&ground, json!({"of": "workspace", "hosts": 4})).await;
    let scale = |n_workers: u32| json!({"n_workers": n_workers});
    let path = format!("{CLUSTERS}/one/scale");
    assert_eq!(ground.post(&path, &scale(5)).await.0, StatusCode::OK, "less, though still too much");
    assert_eq!(ground.post(&path, &scale(6)).await.1["code"], "limit_reached");
    assert_eq!(ground.post(&path, &scale(1)).await.0, StatusCode::OK);
    assert_eq!(ground.post(CLUSTERS, &named("two", 1)).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn hosts_of_a_cluster_that_ends_count_until_they_are_gone() {
    let ground = with_environment("[limits]\nhosts = 3").await;
    let (_, made) = make(&ground, ADA, &named("one", 2)).await;
    let id: ClusterId = made["id"].as_str().unwrap().parse().unwrap();
    let record = ground.store.cluster(&id).await.unwrap().unwrap();
    let host = records::host(&record, 1);
    ground.store.insert_host(host.clone()).await.unwrap();
    ground.delete(&format!("{CLUSTERS}/one")).await;
    let used = async || ground.get(LIMITS).await.1["workspace"]["hosts"]["used"].clone();
    assert_eq!(used().await, 1, "it wants none, and one is still there");
    assert_eq!(ground.post(CLUSTERS, &named("two", 2)).await.1["code"], "limit_reached");
    ground.store.update_host(&host.id, |host| host.state = HostState::Ended).await.unwrap();
    assert_eq!(used().await, 0);
    ground.store.update_cluster(&id, |cluster| cluster.state = ClusterState::Stopped).await.unwrap();
    assert_eq!(ground.post(CLUSTERS, &named("two", 2)).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_replayed_request_is_not_judged_again() {
    let ground = with_environment("[limits]\nhosts = 3").await;
    let keyed = || {
        let mut request = request(Method::POST, CLUSTERS, ADA, Some(&named("one", 2)));
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    assert_eq!(ground.send(keyed()).await.status(), StatusCode::CREATED);
    assert_eq!(ground.send(keyed()).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn another_workspaces_clusters_take_nothing_away() {
    let ground = with_environment("[limits]\nhosts = 3").await;
    let other = crate::model::ClusterRecord { workspace: other_workspace(), ..records::cluster("theirs") };
    ground.store.insert_cluster(other, None).await.unwrap();
    assert_eq!(make(&ground, ADA, &named("one", 2)).await.0, StatusCode::CREATED);
}
