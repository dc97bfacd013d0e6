//! Every error has its code, its status and a remedy, and says nothing that the caller may not know.

use super::*;
use crate::api::Code;
use crate::model::{ClusterRecord, ClusterState};
use std::collections::BTreeSet;

struct Case {
    code: &'static str,
    request: Request<Body>,
}

fn case(code: &'static str, method: Method, path: &str, body: Option<&Value>) -> Case {
    Case { code, request: request(method, path, ADA, body) }
}

fn raw(code: &'static str, path: &str, content_type: &str, body: impl Into<Body>) -> Case {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {ADA}"))
        .header(header::CONTENT_TYPE, content_type)
        .body(body.into())
        .unwrap();
    Case { code, request }
}

const CLUSTERS: &str = "/api/v1/clusters";
const JSON: &str = "application/json";

fn reading() -> Vec<Case> {
    let with_token = |code, value: &str| {
        let request = Request::builder().uri("/api/v1/whoami").header(header::AUTHORIZATION, value);
        Case { code, request: request.body(Body::empty()).unwrap() }
    };
    let unknown_host = records::host(&records::cluster("nowhere"), 1).id;
    vec![
        Case { code: "token_missing", request: Request::get("/api/v1/whoami").body(Body::empty()).unwrap() },
        with_token("token_missing", "Basic abc"),
        with_token("token_missing", "Bearer "),
        with_token("token_unknown", "Bearer tl_wrong"),
        with_token("token_expired", &format!("Bearer {OLD}")),
        case("not_found", Method::GET, "/api/v1/nothing", None),
        case("method_not_allowed", Method::PUT, CLUSTERS, None),
        case("query_invalid", Method::GET, "/api/v1/clusters?al=true", None),
        case("query_invalid", Method::GET, "/api/v1/clusters?all=perhaps", None),
        case("cluster_unknown", Method::GET, "/api/v1/clusters/nothing", None),
        case("cluster_unknown", Method::GET, "/api/v1/clusters/nothing/events", None),
        case("cluster_unknown", Method::GET, "/api/v1/hosts?cluster=nothing", None),
        case("host_unknown", Method::GET, &format!("/api/v1/hosts/{unknown_host}"), None),
        case("host_unknown", Method::GET, "/api/v1/hosts/nothing", None),
        case("not_found", Method::GET, "/api/v1/clusters/%ff", None),
        case("not_found", Method::DELETE, "/api/v1/clusters/a%80b", None),
        case("not_found", Method::POST, "/api/v1/clusters/%ff/scale", Some(&json!({"n_workers": 1}))),
        case("not_found", Method::GET, "/api/v1/clusters/%ff/events", None),
        case("not_found", Method::GET, "/api/v1/hosts/%ff", None),
        case("not_found", Method::GET, "/api/v1/environments/%ff", None),
        case("query_invalid", Method::GET, "/api/v1/hosts?%ff", None),
        case("environment_unknown", Method::GET, "/api/v1/environments/nothing", None),
        case("environment_unknown", Method::GET, &format!("/api/v1/environments/{}", Digest::of(b"x")), None),
    ]
}

fn creating() -> Vec<Case> {
    let wrong =
        |pointer: &str, value: Value| case("field_invalid", Method::POST, CLUSTERS, Some(&body_with(pointer, value)));
    let text = body().to_string();
    vec![
        raw("unsupported_media_type", CLUSTERS, "text/plain", text.clone()),
        raw("json_invalid", CLUSTERS, JSON, "{"),
        raw("json_invalid", CLUSTERS, JSON, "[]"),
        raw("json_invalid", CLUSTERS, JSON, text.replace("\"n_workers\":2", "\"n_workers\":2,\"n_workers\":3")),
        raw("json_invalid", CLUSTERS, JSON, text.replace("\"n_workers\":2", "\"n_workers\":2.5")),
        raw("json_invalid", CLUSTERS, JSON, text.replace("\"n_workers\":2", "\"n_workers\":-1")),
        raw("body_too_large", CLUSTERS, JSON, vec![b' '; super::super::MAX_BODY_BYTES + 1]),
        case("json_invalid", Method::POST, CLUSTERS, Some(&body_with("/colour", json!("red")))),
        case("json_invalid", Method::POST, CLUSTERS, Some(&body_with("/worker/gpu", json!(1)))),
        case("json_invalid", Method::POST, CLUSTERS, Some(&body_with("/owner_key", json!("short")))),
        case("backend_unknown", Method::POST, CLUSTERS, Some(&body_with("/backend", json!("mars")))),
        wrong("/name", json!("Not A Name")),
        wrong("/n_workers", json!(100_000)),
        wrong("/worker/processes", json!(0)),
        wrong("/worker/threads", json!(0)),
        wrong("/worker/memory_limit", json!(1)),
        wrong("/worker/resources", json!([{"name": "a b", "amount": 1}])),
        wrong("/worker/resources", json!([{"name": "GPU", "amount": 1}, {"name": "GPU", "amount": 2}])),
        wrong("/idle_after", json!(0)),
        wrong("/no_client_after", json!(0)),
        wrong("/max_lifetime", json!(100_000_000)),
        wrong("/tags", json!({"": "x"})),
        wrong("/environment/kind", json!("conda")),
        case(
            "environment_unknown",
            Method::POST,
            CLUSTERS,
            Some(&body_with("/environment/digest", json!(Digest::of(b"other")))),
        ),
    ]
}

#[tokio::test]
async fn every_refusal_has_its_code_and_a_remedy() {
    let ground = Ground::with_environment().await;
    for Case { code, request } in reading().into_iter().chain(creating()) {
        let what = format!("{code}: {} {}", request.method(), request.uri());
        let response = ground.send(request).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json", "{what}");
        assert!(response.headers().contains_key("x-request-id"), "{what}");
        let challenged = response.headers().contains_key(header::WWW_AUTHENTICATE);
        let (status, problem) = read(response).await;
        assert_eq!(problem["code"], code, "{what}: {problem}");
        assert_eq!(problem["type"], format!("urn:towline:error:{code}"), "{what}");
        assert_eq!(problem["status"], status.as_u16(), "{what}");
        assert_eq!(challenged, status == StatusCode::UNAUTHORIZED, "{what}");
        assert!(problem["remedy"].as_str().unwrap().len() > 10, "{what}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{what}");
    }
    assert!(ground.store.clusters(None, true).await.unwrap().is_empty(), "a refused request leaves nothing");
}

#[tokio::test]
async fn a_value_out_of_bounds_is_named() {
    let ground = Ground::with_environment().await;
    for (pointer, value, name) in [
        ("/worker/threads", json!(0), "`worker.threads`"),
        ("/max_lifetime", json!(100_000_000), "`max_lifetime`"),
        ("/n_workers", json!(201), "`n_workers`"),
    ] {
        let (_, problem) = ground.post(CLUSTERS, &body_with(pointer, value)).await;
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
    }
}

#[tokio::test]
async fn another_workspaces_things_are_as_unknown_as_none() {
    let ground = Ground::with_environment().await;
    let cluster = ClusterRecord { workspace: records::workspace(), ..records::cluster("first") };
    let host = records::host(&cluster, 1);
    ground.store.insert_cluster(cluster.clone(), None).await.unwrap();
    ground.store.insert_host(host.clone()).await.unwrap();
    for path in [
        format!("/api/v1/clusters/{}", cluster.id),
        "/api/v1/clusters/first".to_owned(),
        format!("/api/v1/clusters/{}/events", cluster.id),
        format!("/api/v1/hosts/{}", host.id),
        format!("/api/v1/environments/{}", Digest::of(b"lock")),
    ] {
        let (status, problem) = read(ground.send(request(Method::GET, &path, EVE, None)).await).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {problem}");
    }
    let (_, list) = read(ground.send(request(Method::GET, "/api/v1/clusters?all=true", EVE, None)).await).await;
    assert_eq!(list, json!([]));
    let path = format!("/api/v1/clusters/{}", cluster.id);
    let (status, _) = read(ground.send(request(Method::DELETE, &path, EVE, None)).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn members_change_their_own_clusters_only() {
    let ground = Ground::new().await;
    let cluster = records::cluster("first");
    ground.store.insert_cluster(cluster.clone(), None).await.unwrap();
    let path = format!("/api/v1/clusters/{}", cluster.id);
    let scale = json!({"n_workers": 9});
    for request in
        [request(Method::DELETE, &path, BOB, None), request(Method::POST, &format!("{path}/scale"), BOB, Some(&scale))]
    {
        let (status, problem) = read(ground.send(request).await).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::FORBIDDEN, Some("forbidden")));
    }
    let (status, _) = read(ground.send(request(Method::GET, &path, BOB, None)).await).await;
    assert_eq!(status, StatusCode::OK, "seeing is allowed");
}

#[tokio::test]
async fn an_ended_cluster_takes_no_more_orders() {
    let ground = Ground::new().await;
    let cluster = ClusterRecord { state: ClusterState::Stopped, ..records::cluster("first") };
    ground.store.insert_cluster(cluster.clone(), None).await.unwrap();
    let path = format!("/api/v1/clusters/{}", cluster.id);
    let (_, problem) = ground.post(&format!("{path}/scale"), &json!({"n_workers": 1})).await;
    assert_eq!(problem["code"], "cluster_ended");
    assert_eq!(ground.store.cluster(&cluster.id).await.unwrap().unwrap().n_workers, 2);
}

#[tokio::test]
async fn a_broken_database_says_internal_and_no_more() {
    let ground = Ground::new().await;
    ground.store.close().await;
    let (status, problem) = ground.get("/api/v1/clusters").await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::INTERNAL_SERVER_ERROR, Some("internal")));
    assert!(!problem.to_string().to_lowercase().contains("sql"), "{problem}");
    assert!(!problem.to_string().contains("pool"), "{problem}");
}

/// The codes that tests of this folder provoke; the others need a broken or busy inside.
#[test]
fn every_code_is_provoked_by_a_test() {
    let tests = [
        include_str!("problems.rs"),
        include_str!("admission_requests.rs"),
        include_str!("clusters.rs"),
        include_str!("environments.rs"),
        include_str!("events.rs"),
        include_str!("limits.rs"),
        include_str!("tokens.rs"),
    ];
    let untested: BTreeSet<_> = Code::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| !tests.iter().any(|text| text.contains(&format!("\"{code}\""))))
        .collect();
    // A deadline of 30 s is not waited for here.
    assert_eq!(untested, BTreeSet::from([Code::DeadlineExceeded.as_str()]));
}
