//! Azure Resource Manager for one virtual machine, as far as the machine's own identity may use it.
//!
//! `GET /_fake/called` lists what was done, such as `deallocate`. Tokens must be those of the metadata face for this
//! service; another machine's path is forbidden.

use super::azure_metadata::{RESOURCE_ID, TOKEN};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type Shared = Arc<Mutex<Vec<String>>>;

/// The face.
pub fn face() -> Router {
    Router::new().route("/_fake/called", get(called)).fallback(call).with_state(Shared::default())
}

async fn called(State(done): State<Shared>) -> Json<Vec<String>> {
    Json(done.lock().expect("nobody panics with it").clone())
}

async fn call(
    State(done): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    query: Query<BTreeMap<String, String>>,
) -> Response {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !bearer.starts_with(&format!("Bearer {TOKEN}https://management.azure.com/#")) {
        return refuse(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken");
    }
    if query.get("api-version").is_none_or(|version| version != "2024-03-01") {
        return refuse(StatusCode::BAD_REQUEST, "InvalidApiVersionParameter");
    }
    let Some(action) = uri.path().strip_prefix(RESOURCE_ID) else {
        return refuse(StatusCode::FORBIDDEN, "AuthorizationFailed");
    };
    let what = match (method, action) {
        (Method::DELETE, "") => "delete",
        (Method::POST, "/deallocate") => "deallocate",
        _ => return refuse(StatusCode::NOT_FOUND, "NotFound"),
    };
    done.lock().expect("nobody panics with it").push(what.to_owned());
    StatusCode::ACCEPTED.into_response()
}

fn refuse(status: StatusCode, code: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": "no" } }))).into_response()
}
