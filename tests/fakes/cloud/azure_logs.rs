//! Azure's Logs Ingestion API, as strict as it is documented: token, rule, stream, fields, sizes, the span of times.
//!
//! Told below `/_fake/`: `rules` (what it knows and refuses), `events` (the rows that it took, in its order),
//! `numbers` and their `count` (with the rule of that name).

use super::body::{number, unpacked};
use super::knobs::is_token;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What it knows and refuses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rules {
    token: String,
    rule: String,
    stream: String,
    /// Rows with this text do not fit the table.
    poison: Option<String>,
    /// The identity has no role on the rule.
    forbidden: bool,
    /// Keep only the numbers of lines.
    numbers: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let (token, rule, stream) = ("test-token".into(), "dcr-test".into(), "Custom-Towline_CL".into());
        Self { token, rule, stream, poison: None, forbidden: false, numbers: false }
    }
}

#[derive(Default)]
struct Cloud {
    rules: Rules,
    taken: Vec<Map<String, Value>>,
    numbers: Vec<u32>,
}

type Shared = Arc<Mutex<Cloud>>;

/// The face.
pub fn face() -> Router {
    Router::new()
        .route("/dataCollectionRules/{rule}/streams/{stream}", post(ingest))
        .route("/_fake/rules", put(rules))
        .route("/_fake/events", get(events))
        .route("/_fake/numbers", get(numbers))
        .route("/_fake/count", get(count))
        .layer(axum::extract::DefaultBodyLimit::max(8 * 1024 * 1024))
        .with_state(Shared::default())
}

async fn rules(State(cloud): State<Shared>, Json(rules): Json<Rules>) -> StatusCode {
    cloud.lock().expect("nobody panics with it").rules = rules;
    StatusCode::NO_CONTENT
}

async fn events(State(cloud): State<Shared>) -> Json<Vec<Map<String, Value>>> {
    Json(cloud.lock().expect("nobody panics with it").taken.clone())
}

async fn count(State(cloud): State<Shared>) -> Json<usize> {
    Json(cloud.lock().expect("nobody panics with it").numbers.len())
}

async fn numbers(State(cloud): State<Shared>) -> Json<Vec<u32>> {
    Json(cloud.lock().expect("nobody panics with it").numbers.clone())
}

async fn ingest(
    State(cloud): State<Shared>,
    Path((rule, stream)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut cloud = cloud.lock().expect("nobody panics with it");
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let refused = |status: StatusCode, code: &str, message: &str| {
        (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
    };
    let token = header("authorization").strip_prefix("Bearer ");
    if !token.is_some_and(|token| is_token(&cloud.rules.token, token)) {
        return refused(StatusCode::UNAUTHORIZED, "InvalidToken", "The token is not valid");
    }
    if cloud.rules.forbidden {
        return refused(StatusCode::FORBIDDEN, "OperationFailed", "The identity does not have access to the rule");
    }
    if query.get("api-version").map(String::as_str) != Some("2023-01-01") {
        return refused(StatusCode::BAD_REQUEST, "UnsupportedApiVersion", "api-version");
    }
    if rule != cloud.rules.rule || stream != cloud.rules.stream {
        return refused(StatusCode::NOT_FOUND, "NotFound", "Data collection rule or stream not found");
    }
    if header("content-type") != "application/json" {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", "JSON");
    }
    let Ok(body) = unpacked(header("content-encoding"), &body) else {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", "as it is, or gzip");
    };
    // The limit is for the rows, however small they come.
    if body.len() > 1_000_000 {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "ContentLengthLimitExceeded", "Maximum allowed: 1 MB");
    }
    match checked(&body, cloud.rules.poison.as_deref()) {
        Ok(rows) => {
            if cloud.rules.numbers {
                let found = rows.iter().filter_map(|row| number(row["Message"].as_str().unwrap_or_default()));
                cloud.numbers.extend(found);
            } else {
                cloud.taken.extend(rows);
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Err(message) => refused(StatusCode::BAD_REQUEST, "InvalidRecord", &message),
    }
}

/// The rows, if the table takes them all.
fn checked(body: &[u8], poison: Option<&str>) -> Result<Vec<Map<String, Value>>, String> {
    let rows: Vec<Map<String, Value>> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if rows.is_empty() {
        return Err("no rows".into());
    }
    let mut times = Vec::new();
    for row in &rows {
        let columns: Vec<&str> = row.keys().map(String::as_str).collect();
        if columns != ["Cluster", "Id", "Message", "Stream", "TimeGenerated"] {
            return Err(format!("the columns are {columns:?}"));
        }
        let text = |name: &str| row[name].as_str().ok_or_else(|| format!("{name} is no text"));
        let time: jiff::Timestamp =
            text("TimeGenerated")?.parse().map_err(|_| "TimeGenerated is no time".to_owned())?;
        times.push(time.as_second());
        // The real service cuts such a field in silence; a test must hear of it.
        if columns.iter().any(|name| row[*name].as_str().is_none_or(|value| value.len() > 65_536)) {
            return Err("a field is longer than 64 KiB and would be cut".into());
        }
        if poison.is_some_and(|poison| text("Message").is_ok_and(|message| message.contains(poison))) {
            return Err("a row does not fit".into());
        }
    }
    let (first, last) = (times.iter().min().copied().unwrap_or(0), times.iter().max().copied().unwrap_or(0));
    let now = jiff::Timestamp::now().as_second();
    if last - first >= 1800 || first < now - 2 * 86_400 || last > now + 86_400 {
        return Err("the times are too far apart, or the service would replace them".into());
    }
    Ok(rows)
}
