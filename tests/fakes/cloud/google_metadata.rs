//! The metadata server of a Compute Engine instance.
//!
//! `PUT /_fake/items {"instance/…": "text" or null}` sets or removes what stands below `/computeMetadata/v1/`; `GET
//! /_fake/asked` counts questions by path.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, put};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Server {
    items: BTreeMap<String, String>,
    asked: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Server>>;

/// The instance's name.
pub const INSTANCE: &str = "worker-1";
/// Its project, by id.
pub const PROJECT: &str = "towline-test";
/// Its zone.
pub const ZONE: &str = "europe-west1-b";
/// What its service account gets.
pub const TOKEN: &str = "fake-google-token";

/// The face.
pub fn face() -> Router {
    let token = format!(r#"{{"access_token":"{TOKEN}","expires_in":3599,"token_type":"Bearer"}}"#);
    let zone = format!("projects/123456789012/zones/{ZONE}");
    let items = [
        ("instance/id", "4520031799277581759"),
        ("instance/name", INSTANCE),
        ("instance/zone", zone.as_str()),
        ("project/project-id", PROJECT),
        ("instance/preempted", "FALSE"),
        ("instance/service-accounts/default/token", token.as_str()),
    ];
    let items = items.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    Router::new()
        .route("/computeMetadata/v1/{*path}", any(read))
        .route("/_fake/items", put(set))
        .route("/_fake/asked", get(asked))
        .with_state(Shared::new(Mutex::new(Server { items, asked: BTreeMap::new() })))
}

async fn read(State(server): State<Shared>, method: Method, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let flavor = [("Metadata-Flavor", "Google")];
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, flavor).into_response();
    }
    let asked_rightly = headers.get("metadata-flavor").is_some_and(|value| value == "Google");
    if !asked_rightly || headers.contains_key("x-forwarded-for") {
        return (StatusCode::FORBIDDEN, flavor, "Missing Metadata-Flavor:Google header").into_response();
    }
    let mut server = server.lock().expect("nobody panics with it");
    *server.asked.entry(path.clone()).or_default() += 1;
    match server.items.get(&path) {
        Some(text) => (flavor, text.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, flavor).into_response(),
    }
}

async fn asked(State(server): State<Shared>) -> Json<BTreeMap<String, u64>> {
    Json(server.lock().expect("nobody panics with it").asked.clone())
}

async fn set(State(server): State<Shared>, Json(new): Json<BTreeMap<String, Option<String>>>) -> StatusCode {
    let items = &mut server.lock().expect("nobody panics with it").items;
    for (path, text) in new {
        match text {
            Some(text) => drop(items.insert(path, text)),
            None => drop(items.remove(&path)),
        }
    }
    StatusCode::NO_CONTENT
}
