//! Announcing, uploading and completing environments; addresses that need no token.

use super::*;
use crate::api::{Problem, chain};
use axum::response::IntoResponse as _;

const ENVIRONMENTS: &str = "/api/v1/environments";

fn announcement() -> Value {
    json!({
        "digest": Digest::of(b"lock"),
        "interpreter": "cpython-3.11.2",
        "platform": "x86_64-manylinux_2_36",
        "packages": [{"name": "dask", "version": "2026.8.0"}],
        "blobs": [{"digest": Digest::of(b"lock"), "size": 10}, {"digest": Digest::of(b"wheel"), "size": 20}],
    })
}

fn complete() -> String {
    format!("{ENVIRONMENTS}/{}/complete", Digest::of(b"lock"))
}

#[tokio::test]
async fn an_environment_is_announced_uploaded_and_completed() {
    let ground = Ground::new().await;
    let (status, answer) = ground.post(ENVIRONMENTS, &announcement()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let missing = answer["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 2);
    let url = missing[0]["url"].as_str().unwrap();
    assert!(url.starts_with("https://blobs.test/v1/blobs/"), "{url}");
    assert_eq!(missing[0]["not_after"], NOW_MS / 1000 + 60);
    let (status, problem) = ground.post(&complete(), &json!({})).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::CONFLICT, Some("blobs_missing")));
    for (bytes, size) in [(&b"lock"[..], 10), (b"wheel", 20)] {
        ground.blobs.0.lock().unwrap().insert(Digest::of(bytes).to_string(), Ok(size));
    }
    let (status, view) = ground.post(&complete(), &json!({})).await;
    assert_eq!((status, &view["complete"]), (StatusCode::OK, &json!(true)), "{view}");
    let (_, answer) = ground.post(ENVIRONMENTS, &announcement()).await;
    assert_eq!(answer["missing"], json!([]), "announcing again asks for nothing");
    assert_eq!(ground.get(ENVIRONMENTS).await.1[0]["complete"], true, "and keeps what is known");
}

#[tokio::test]
async fn a_blob_of_another_size_or_a_lost_one_is_missing() {
    let ground = Ground::new().await;
    ground.post(ENVIRONMENTS, &announcement()).await;
    let (lock, wheel) = (Digest::of(b"lock").to_string(), Digest::of(b"wheel").to_string());
    ground.blobs.0.lock().unwrap().insert(lock.clone(), Ok(10));
    ground.blobs.0.lock().unwrap().insert(wheel.clone(), Ok(19));
    let (_, problem) = ground.post(&complete(), &json!({})).await;
    assert_eq!(problem["code"], "blobs_missing");
    assert!(problem["detail"].as_str().unwrap().contains(&wheel), "{problem}");
    ground.blobs.0.lock().unwrap().insert(wheel.clone(), Ok(20));
    assert_eq!(ground.post(&complete(), &json!({})).await.0, StatusCode::OK);
    ground.blobs.0.lock().unwrap().remove(&lock);
    assert_eq!(ground.post(&complete(), &json!({})).await.1["code"], "blobs_missing");
    let (_, answer) = ground.post(ENVIRONMENTS, &announcement()).await;
    assert_eq!(answer["missing"].as_array().unwrap().len(), 1, "what was lost can be uploaded again");
    assert_eq!(answer["missing"][0]["digest"], lock);
    assert_eq!(ground.get(ENVIRONMENTS).await.1[0]["complete"], false);
}

#[tokio::test]
async fn a_silent_blob_store_is_its_own_problem() {
    let ground = Ground::new().await;
    ground.post(ENVIRONMENTS, &announcement()).await;
    ground.blobs.0.lock().unwrap().insert(Digest::of(b"lock").to_string(), Err(500));
    let (status, problem) = ground.post(&complete(), &json!({})).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some("blob_store_unavailable")));
}

#[tokio::test]
async fn refuses_announcements_that_are_no_metadata_or_contradict() {
    let ground = Ground::new().await;
    let mut wrong = announcement();
    wrong["packages"][0]["name"] = json!("https://user:secret@index/simple");
    let (_, problem) = ground.post(ENVIRONMENTS, &wrong).await;
    assert_eq!(problem["code"], "field_invalid");
    assert!(!problem.to_string().contains("secret"), "{problem}");
    ground.post(ENVIRONMENTS, &announcement()).await;
    let mut other = announcement();
    other["packages"][0]["version"] = json!("1");
    let (status, problem) = ground.post(ENVIRONMENTS, &other).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::CONFLICT, Some("environment_differs")));
    let mut unknown = announcement();
    unknown["secrets"] = json!(1);
    assert_eq!(ground.post(ENVIRONMENTS, &unknown).await.1["code"], "json_invalid");
}

#[tokio::test]
async fn health_and_description_need_no_token() {
    let ground = Ground::new().await;
    let open = |path: &str| ground.send(Request::get(path).body(Body::empty()).unwrap());
    assert_eq!(read(open("/healthz").await).await, (StatusCode::OK, json!("ok\n")));
    let (status, description) = read(open("/openapi.json").await).await;
    assert_eq!(status, StatusCode::OK);
    assert!(description["paths"]["/api/v1/clusters"]["post"].is_object());
}

#[tokio::test]
async fn causes_from_inside_stay_inside() {
    let cause = ProbeError::Status(599);
    let (_, problem) = read(Problem::internal("do something", &cause).into_response()).await;
    assert!(!problem.to_string().contains("599"), "{problem}");
    assert!(chain(&cause).contains("599"));
}
