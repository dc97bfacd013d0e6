//! Compute Engine for one instance, as far as its own service account may use it: to delete itself.
//!
//! `GET /_fake/deleted` lists the instances that were deleted; `PUT /_fake/right false` takes the right away. The token
//! must be the metadata server's; an instance of another name, zone or project is forbidden.
//! <https://cloud.google.com/compute/docs/reference/rest/v1/instances/delete>.

use super::google_metadata::{INSTANCE, PROJECT, TOKEN, ZONE};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde_json::json;
use std::sync::{Arc, Mutex};

struct Service {
    deleted: Vec<String>,
    may_delete: bool,
}

type Shared = Arc<Mutex<Service>>;

/// The face.
pub fn face() -> Router {
    Router::new()
        .route("/_fake/deleted", get(deleted))
        .route("/_fake/right", put(right))
        .fallback(call)
        .with_state(Arc::new(Mutex::new(Service { deleted: Vec::new(), may_delete: true })))
}

async fn call(State(service): State<Shared>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if bearer != format!("Bearer {TOKEN}") {
        return refuse(StatusCode::UNAUTHORIZED, "authError");
    }
    let Some(path) = uri.path().strip_prefix("/compute/v1/") else {
        return refuse(StatusCode::NOT_FOUND, "notFound");
    };
    let ["projects", project, "zones", zone, "instances", name] = path.split('/').collect::<Vec<_>>()[..] else {
        return refuse(StatusCode::NOT_FOUND, "notFound");
    };
    if method != Method::DELETE {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "invalid");
    }
    let mut service = service.lock().expect("nobody panics with it");
    if !service.may_delete || (project, zone, name) != (PROJECT, ZONE, INSTANCE) {
        return refuse(StatusCode::FORBIDDEN, "forbidden");
    }
    service.deleted.push(path.to_owned());
    let operation = json!({
        "kind": "compute#operation", "operationType": "delete", "status": "RUNNING", "progress": 0,
        "targetLink": format!("https://www.googleapis.com/compute/v1/{path}"),
    });
    Json(operation).into_response()
}

async fn deleted(State(service): State<Shared>) -> Json<Vec<String>> {
    Json(service.lock().expect("nobody panics with it").deleted.clone())
}

async fn right(State(service): State<Shared>, Json(may): Json<bool>) -> StatusCode {
    service.lock().expect("nobody panics with it").may_delete = may;
    StatusCode::NO_CONTENT
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    let error =
        json!({ "code": status.as_u16(), "message": "no", "errors": [{ "reason": reason, "domain": "global" }] });
    (status, Json(json!({ "error": error }))).into_response()
}
