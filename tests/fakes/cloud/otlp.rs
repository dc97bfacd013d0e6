//! An OpenTelemetry collector's HTTP receiver for logs in JSON, as strict as the specification.
//!
//! Told below `/_fake/`: `rules` (what it asks for and drops), `events` (what it took, in its order),
//! `compressed` (how many requests came so), `numbers` and their `count` (with the rule of that name).

use super::body::{number, unpacked};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What it asks for and drops.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rules {
    /// The bearer token; none: nobody asks.
    token: Option<String>,
    /// Requests with this text are not right.
    poison: Option<String>,
    /// Records with this text are dropped, and their number told.
    drops: Option<String>,
    /// It takes nothing compressed, as no collector should.
    plain: bool,
    /// Keep only the numbers of lines.
    numbers: bool,
}

#[derive(Default)]
struct Cloud {
    rules: Rules,
    taken: Vec<Value>,
    compressed: u64,
    numbers: Vec<u32>,
}

type Shared = Arc<Mutex<Cloud>>;

/// The face.
pub fn face() -> Router {
    Router::new()
        .route("/v1/logs", post(export))
        .route("/_fake/rules", put(rules))
        .route("/_fake/events", get(events))
        .route("/_fake/compressed", get(compressed))
        .route("/_fake/numbers", get(numbers))
        .route("/_fake/count", get(count))
        .layer(axum::extract::DefaultBodyLimit::max(20 * 1024 * 1024))
        .with_state(Shared::default())
}

async fn rules(State(cloud): State<Shared>, Json(rules): Json<Rules>) -> StatusCode {
    cloud.lock().expect("nobody panics with it").rules = rules;
    StatusCode::NO_CONTENT
}

async fn events(State(cloud): State<Shared>) -> Json<Vec<Value>> {
    Json(cloud.lock().expect("nobody panics with it").taken.clone())
}

async fn compressed(State(cloud): State<Shared>) -> Json<u64> {
    Json(cloud.lock().expect("nobody panics with it").compressed)
}

async fn count(State(cloud): State<Shared>) -> Json<usize> {
    Json(cloud.lock().expect("nobody panics with it").numbers.len())
}

async fn numbers(State(cloud): State<Shared>) -> Json<Vec<u32>> {
    Json(cloud.lock().expect("nobody panics with it").numbers.clone())
}

async fn export(State(cloud): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut cloud = cloud.lock().expect("nobody panics with it");
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    if cloud.rules.token.as_ref().is_some_and(|token| header("authorization") != format!("Bearer {token}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if header("content-type") != "application/json" {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let encoding = header("content-encoding");
    let body = match unpacked(encoding, &body) {
        Ok(body) if encoding.is_empty() || !cloud.rules.plain => body,
        _ => return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response(),
    };
    cloud.compressed += u64::from(!encoding.is_empty());
    let refused =
        |message: &str| (StatusCode::BAD_REQUEST, Json(json!({ "code": 3, "message": message }))).into_response();
    let records = match records(&body) {
        Ok(records) => records,
        Err(message) => return refused(&message),
    };
    let holds = |record: &Value, text: &Option<String>| {
        text.as_ref().is_some_and(|text| record["body"].as_str().is_some_and(|body| body.contains(text)))
    };
    if records.iter().any(|record| holds(record, &cloud.rules.poison)) {
        return refused("a record is not right");
    }
    let count = records.len();
    let drops = cloud.rules.drops.clone();
    let kept: Vec<Value> = records.into_iter().filter(|record| !holds(record, &drops)).collect();
    let dropped = count - kept.len();
    if cloud.rules.numbers {
        let found = kept.iter().filter_map(|record| number(record["body"].as_str().unwrap_or_default()));
        cloud.numbers.extend(found);
    } else {
        cloud.taken.extend(kept);
    }
    let answer = match dropped {
        0 => json!({}),
        dropped => {
            json!({ "partialSuccess": { "rejectedLogRecords": dropped.to_string(), "errorMessage": "dropped" } })
        }
    };
    Json(answer).into_response()
}

/// The records with their resource's attributes, if every field has the form that the specification gives it.
fn records(body: &[u8]) -> Result<Vec<Value>, String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let list = |value: &Value, name: &str| value[name].as_array().cloned().ok_or_else(|| format!("{name} is no list"));
    let mut found = Vec::new();
    for resource in list(&body, "resourceLogs")? {
        let of = attributes(&resource["resource"]["attributes"])?;
        if !of["service.name"].is_string() {
            return Err("a resource has no service.name".into());
        }
        for scope in list(&resource, "scopeLogs")? {
            for record in list(&scope, "logRecords")? {
                for name in ["timeUnixNano", "observedTimeUnixNano"] {
                    let time = record[name].as_str().and_then(|time| time.parse::<u64>().ok());
                    if time.is_none_or(|time| time < 1_000_000_000_000_000_000) {
                        return Err(format!("{name} is no number of nanoseconds in quotes"));
                    }
                }
                let text = record["body"]["stringValue"].as_str().ok_or("the body is no text")?;
                found.push(json!({
                    "stream": of["towline.stream"], "cluster": of["towline.cluster"], "body": text,
                    "time": record["timeUnixNano"], "attributes": attributes(&record["attributes"])?,
                }));
            }
        }
    }
    Ok(found)
}

/// Attributes as an object; each value must be of one known kind.
fn attributes(list: &Value) -> Result<Value, String> {
    let mut found = serde_json::Map::new();
    if list.is_null() {
        return Ok(found.into());
    }
    for one in list.as_array().ok_or("attributes are no list")? {
        let key = one["key"].as_str().ok_or("an attribute has no key")?;
        let value = one["value"].as_object().filter(|value| value.len() == 1).ok_or("an attribute has no value")?;
        let known = match value.iter().next() {
            Some((kind, value)) if kind == "stringValue" && value.is_string() => value.clone(),
            Some((kind, value)) if kind == "boolValue" && value.is_boolean() => value.clone(),
            Some((kind, Value::String(number))) if kind == "intValue" && number.parse::<i64>().is_ok() => json!(number),
            _ => return Err(format!("the value of {key} has no known kind")),
        };
        found.insert(key.to_owned(), known);
    }
    Ok(found.into())
}
