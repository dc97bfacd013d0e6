//! The metadata service of an Azure virtual machine: instance, managed identity, scheduled events.
//!
//! `PUT /_fake/events [{…}]` sets the scheduled events (each change has a new incarnation); `GET /_fake/approved` lists
//! the events that were approved, `GET /_fake/approved_at` when, in Unix milliseconds by event; `GET /_fake/asked` counts
//! questions by path.

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine's path in Azure Resource Manager.
pub const RESOURCE_ID: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/towline/providers/Microsoft.Compute/virtualMachines/worker-1";
/// Its name.
pub const NAME: &str = "worker-1";
/// What tokens for a resource begin with.
pub const TOKEN: &str = "fake-token-for:";

/// Whom the machine's identity can get tokens for.
const RESOURCES: [&str; 2] = ["https://management.azure.com/", "https://monitor.azure.com/"];

#[derive(Default)]
struct Service {
    events: Vec<Value>,
    incarnation: u64,
    approved: Vec<String>,
    approved_at: BTreeMap<String, u128>,
    asked: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Service>>;
type Parameters = Query<BTreeMap<String, String>>;

/// The face.
pub fn face() -> Router {
    Router::new()
        .route("/metadata/instance/compute", any(compute))
        .route("/metadata/identity/oauth2/token", any(token))
        .route("/metadata/scheduledevents", any(events))
        .route("/_fake/events", put(set))
        .route("/_fake/approved", get(approved))
        .route("/_fake/approved_at", get(approved_at))
        .route("/_fake/asked", get(asked))
        .with_state(Shared::default())
}

/// What every question must have; else what is answered instead.
fn check(service: &Shared, path: &str, headers: &HeaderMap, query: &Parameters, version: &str) -> Option<Response> {
    *service.lock().expect("nobody panics with it").asked.entry(path.to_owned()).or_default() += 1;
    let refuse = |error: &str| Some((StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response());
    if headers.get("metadata").is_none_or(|value| value != "true") {
        return refuse("Bad request. Required metadata header not specified or not correct");
    }
    if headers.contains_key("x-forwarded-for") {
        return refuse("Bad request. Forwarded requests are not answered");
    }
    if query.get("api-version").is_none_or(|said| said != version) {
        return refuse("Bad request. api-version is invalid or was not specified");
    }
    None
}

async fn compute(State(service): State<Shared>, method: Method, headers: HeaderMap, query: Parameters) -> Response {
    if method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if let Some(refused) = check(&service, "instance", &headers, &query, "2021-02-01") {
        return refused;
    }
    let vm = "00000000-0000-0000-0000-00000000000a";
    Json(json!({ "name": NAME, "resourceId": RESOURCE_ID, "vmId": vm, "location": "westeurope", "vmScaleSetName": "" }))
        .into_response()
}

async fn token(State(service): State<Shared>, method: Method, headers: HeaderMap, query: Parameters) -> Response {
    if method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if let Some(refused) = check(&service, "token", &headers, &query, "2018-02-01") {
        return refused;
    }
    let Some(resource) = query.get("resource").filter(|resource| RESOURCES.contains(&resource.as_str())) else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_resource" }))).into_response();
    };
    let given = service.lock().expect("nobody panics with it").asked["token"];
    Json(json!({
        "access_token": format!("{TOKEN}{resource}#{given}"), "expires_in": "86399", "expires_on": "4102444800",
        "resource": resource, "token_type": "Bearer",
    }))
    .into_response()
}

async fn events(
    State(service): State<Shared>,
    method: Method,
    headers: HeaderMap,
    query: Parameters,
    body: axum::body::Bytes,
) -> Response {
    if let Some(refused) = check(&service, "scheduledevents", &headers, &query, "2020-07-01") {
        return refused;
    }
    let mut service = service.lock().expect("nobody panics with it");
    match method {
        Method::GET => {
            Json(json!({ "DocumentIncarnation": service.incarnation, "Events": service.events })).into_response()
        }
        Method::POST => {
            let said: Value = serde_json::from_slice(&body).unwrap_or_default();
            let ids = said["StartRequests"].as_array().cloned().unwrap_or_default();
            let ids: Vec<String> = ids.iter().filter_map(|id| id["EventId"].as_str().map(str::to_owned)).collect();
            let known = |id: &String| service.events.iter().any(|event| event["EventId"] == id.as_str());
            if ids.is_empty() || !ids.iter().all(known) {
                return StatusCode::BAD_REQUEST.into_response();
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
            for id in &ids {
                // The first word counts: from then on it may begin.
                service.approved_at.entry(id.clone()).or_insert(now);
            }
            service.approved.extend(ids);
            StatusCode::OK.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

async fn set(State(service): State<Shared>, Json(events): Json<Vec<Value>>) -> StatusCode {
    let mut service = service.lock().expect("nobody panics with it");
    service.events = events;
    service.incarnation += 1;
    StatusCode::NO_CONTENT
}

async fn approved(State(service): State<Shared>) -> Json<Vec<String>> {
    Json(service.lock().expect("nobody panics with it").approved.clone())
}

async fn approved_at(State(service): State<Shared>) -> Json<BTreeMap<String, u128>> {
    Json(service.lock().expect("nobody panics with it").approved_at.clone())
}

async fn asked(State(service): State<Shared>) -> Json<BTreeMap<String, u64>> {
    Json(service.lock().expect("nobody panics with it").asked.clone())
}
