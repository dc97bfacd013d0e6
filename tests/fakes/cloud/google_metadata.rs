//! The metadata server of a Compute Engine instance.
//!
//! `PUT /_fake/items {"instance/…": "text" or null}` sets or removes what stands below `/computeMetadata/v1/`.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, put};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type Shared = Arc<Mutex<BTreeMap<String, String>>>;

/// The face.
pub fn face() -> Router {
    let token = r#"{"access_token":"fake-google-token","expires_in":3599,"token_type":"Bearer"}"#;
    let items = [
        ("instance/id", "4520031799277581759"),
        ("instance/name", "worker-1"),
        ("instance/zone", "projects/123456789012/zones/europe-west1-b"),
        ("project/project-id", "towline-test"),
        ("instance/preempted", "FALSE"),
        ("instance/service-accounts/default/token", token),
    ];
    let items = items.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    Router::new()
        .route("/computeMetadata/v1/{*path}", any(read))
        .route("/_fake/items", put(set))
        .with_state(Shared::new(Mutex::new(items)))
}

async fn read(State(items): State<Shared>, method: Method, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let flavor = [("Metadata-Flavor", "Google")];
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, flavor).into_response();
    }
    let asked_rightly = headers.get("metadata-flavor").is_some_and(|value| value == "Google");
    if !asked_rightly || headers.contains_key("x-forwarded-for") {
        return (StatusCode::FORBIDDEN, flavor, "Missing Metadata-Flavor:Google header").into_response();
    }
    match items.lock().expect("nobody panics with it").get(&path) {
        Some(text) => (flavor, text.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, flavor).into_response(),
    }
}

async fn set(State(items): State<Shared>, Json(new): Json<BTreeMap<String, Option<String>>>) -> StatusCode {
    let mut items = items.lock().expect("nobody panics with it");
    for (path, text) in new {
        match text {
            Some(text) => drop(items.insert(path, text)),
            None => drop(items.remove(&path)),
        }
    }
    StatusCode::NO_CONTENT
}
