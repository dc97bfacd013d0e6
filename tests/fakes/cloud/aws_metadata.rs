//! The metadata service of an EC2 instance: version 2 only, as an instance made with `HttpTokens=required` has it.
//!
//! `PUT /_fake/items {"meta-data/…": "text" or null}` sets or removes what stands below `/latest/`; `PUT /_fake/forget {}`
//! makes every session token stale; `PUT /_fake/credentials {"life": seconds}` sets for how long new credentials last;
//! `GET /_fake/asked` counts questions by path.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, put};
use axum::{Json, Router};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// The instance.
pub const INSTANCE: &str = "i-0123456789abcdef0";
/// Its region.
pub const REGION: &str = "eu-central-1";
/// The id of its role's key.
pub const KEY_ID: &str = "ASIAFAKEFAKEFAKEFAKE";
/// The role's key.
pub const SECRET: &str = "not-a-secret/but+looks=like0one1234567890";

const ROLE: &str = "towline-agent";
const CREDENTIALS: &str = "meta-data/iam/security-credentials/";

#[derive(Default)]
struct Service {
    items: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
    given: u64,
    life: u64,
    asked: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Service>>;

/// The face.
pub fn face() -> Router {
    let items = [
        ("meta-data/instance-id", INSTANCE),
        ("meta-data/placement/region", REGION),
        ("meta-data/instance-life-cycle", "spot"),
        (CREDENTIALS, ROLE),
    ];
    let items = items.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    let service = Shared::new(Mutex::new(Service { items, life: 6 * 3600, ..Service::default() }));
    Router::new()
        .route("/latest/api/token", any(token))
        .route("/latest/{*path}", any(read))
        .route("/_fake/items", put(set))
        .route("/_fake/forget", put(forget))
        .route("/_fake/credentials", put(life))
        .route("/_fake/asked", get(asked))
        .with_state(service)
}

async fn token(State(service): State<Shared>, method: Method, headers: HeaderMap) -> Response {
    if method != Method::PUT {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    // Whoever forwards requests of others is no process of this machine.
    if headers.contains_key("x-forwarded-for") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let life = headers.get("x-aws-ec2-metadata-token-ttl-seconds").and_then(|life| life.to_str().ok()?.parse().ok());
    if !life.is_some_and(|life: u32| (1..=21_600).contains(&life)) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let mut service = service.lock().expect("nobody panics with it");
    service.given += 1;
    *service.asked.entry("api/token".to_owned()).or_default() += 1;
    let token = format!("AQAEAFAKE{:08}==", service.given);
    service.tokens.insert(token.clone());
    token.into_response()
}

async fn read(State(service): State<Shared>, method: Method, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let mut service = service.lock().expect("nobody panics with it");
    *service.asked.entry(path.clone()).or_default() += 1;
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if headers.contains_key("x-forwarded-for") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let token = headers.get("x-aws-ec2-metadata-token").and_then(|token| token.to_str().ok());
    if !token.is_some_and(|token| service.tokens.contains(token)) {
        return (StatusCode::UNAUTHORIZED, "<html>401 - Unauthorized</html>").into_response();
    }
    if path == format!("{CREDENTIALS}{ROLE}") && service.items.contains_key(CREDENTIALS) {
        let now = jiff::Timestamp::now();
        let until = now + std::time::Duration::from_secs(service.life);
        let given = service.asked[&path];
        return Json(serde_json::json!({
            "Code": "Success", "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "Type": "AWS-HMAC",
            "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "Token": format!("fake-session-{given}"),
            "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }))
        .into_response();
    }
    match service.items.get(&path) {
        Some(text) => text.clone().into_response(),
        None => (StatusCode::NOT_FOUND, "<html>404 - Not Found</html>").into_response(),
    }
}

async fn set(State(service): State<Shared>, Json(items): Json<BTreeMap<String, Option<String>>>) -> StatusCode {
    let mut service = service.lock().expect("nobody panics with it");
    for (path, text) in items {
        match text {
            Some(text) => drop(service.items.insert(path, text)),
            None => drop(service.items.remove(&path)),
        }
    }
    StatusCode::NO_CONTENT
}

async fn forget(State(service): State<Shared>, _: Bytes) -> StatusCode {
    service.lock().expect("nobody panics with it").tokens.clear();
    StatusCode::NO_CONTENT
}

async fn life(State(service): State<Shared>, Json(said): Json<BTreeMap<String, u64>>) -> StatusCode {
    service.lock().expect("nobody panics with it").life = said["life"];
    StatusCode::NO_CONTENT
}

async fn asked(State(service): State<Shared>) -> Json<BTreeMap<String, u64>> {
    Json(service.lock().expect("nobody panics with it").asked.clone())
}
