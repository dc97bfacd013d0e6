//! Amazon CloudWatch Logs, as strict as it is documented: signatures, limits, order, known groups and streams.
//!
//! Signatures are computed here once more, from the documentation and not from the product's code. Told below `/_fake/`:
//! `rules` (what it knows and refuses), `events` (what it took, in its order), `calls` (how often it was asked what), `numbers` of lines and
//! their `count` (with the rule of that name).

use super::body::number;
use super::knobs::is_token;
use aws_lc_rs::{digest, hmac};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 24 * 3_600_000;

/// What it knows and refuses; a test gives what it needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rules {
    region: String,
    groups: BTreeSet<String>,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    /// The credentials have run out.
    expired: bool,
    /// The group keeps events for this long.
    retention_days: Option<i64>,
    /// Events with this text are no valid parameter.
    poison: Option<String>,
    /// Its clock runs ahead by so many seconds.
    clock_offset: i64,
    /// Error types carry their namespace.
    namespace: bool,
    /// Keep only the numbers of lines.
    numbers: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            region: "eu-central-1".into(),
            groups: BTreeSet::from(["/towline/test".into()]),
            access_key_id: "AKIDTEST".into(),
            secret_access_key: "test/secret+key".into(),
            session_token: None,
            expired: false,
            retention_days: None,
            poison: None,
            clock_offset: 0,
            namespace: false,
            numbers: false,
        }
    }
}

/// What it took.
#[derive(Clone, Debug, Serialize)]
struct Taken {
    group: String,
    stream: String,
    timestamp: i64,
    message: String,
}

#[derive(Default)]
struct Cloud {
    rules: Rules,
    streams: BTreeSet<(String, String)>,
    taken: Vec<Taken>,
    numbers: Vec<u32>,
    calls: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Cloud>>;

/// The face.
pub fn face() -> Router {
    let shared = Shared::default();
    Router::new()
        .route("/", post(call))
        .route("/_fake/rules", put(rules))
        .route("/_fake/events", get(events))
        .route("/_fake/calls", get(calls))
        .route("/_fake/numbers", get(numbers))
        .route("/_fake/count", get(count))
        .layer(axum::extract::DefaultBodyLimit::max(8 * 1024 * 1024))
        .with_state(shared)
}

async fn rules(State(cloud): State<Shared>, Json(rules): Json<Rules>) -> StatusCode {
    cloud.lock().expect("nobody panics with it").rules = rules;
    StatusCode::NO_CONTENT
}

async fn events(State(cloud): State<Shared>) -> Json<Vec<Taken>> {
    Json(cloud.lock().expect("nobody panics with it").taken.clone())
}

async fn calls(State(cloud): State<Shared>) -> Json<BTreeMap<String, u64>> {
    Json(cloud.lock().expect("nobody panics with it").calls.clone())
}

async fn count(State(cloud): State<Shared>) -> Json<usize> {
    Json(cloud.lock().expect("nobody panics with it").numbers.len())
}

async fn numbers(State(cloud): State<Shared>) -> Json<Vec<u32>> {
    Json(cloud.lock().expect("nobody panics with it").numbers.clone())
}

/// An error as the service says it.
struct Refusal(StatusCode, &'static str, String);

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, "InvalidParameterException", message.into())
}

async fn call(State(cloud): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut cloud = cloud.lock().expect("nobody panics with it");
    let now_ms = unix_ms() + cloud.rules.clock_offset * 1000;
    let done =
        signed(&cloud.rules, &uri, &headers, &body, now_ms).and_then(|()| act(&mut cloud, &headers, &body, now_ms));
    let date = http_date(now_ms / 1000);
    match done {
        Ok(answer) => ([("date", date), ("content-type", "application/x-amz-json-1.1".into())], answer).into_response(),
        Err(Refusal(status, kind, message)) => {
            let namespace = if cloud.rules.namespace { "com.amazonaws.logs#" } else { "" };
            let body = json!({ "__type": format!("{namespace}{kind}"), "message": message }).to_string();
            (status, [("date", date), ("content-type", "application/x-amz-json-1.1".into())], body).into_response()
        }
    }
}

fn act(cloud: &mut Cloud, headers: &HeaderMap, body: &[u8], now_ms: i64) -> Result<String, Refusal> {
    if text(headers, "content-type") != "application/x-amz-json-1.1" {
        return Err(Refusal(StatusCode::BAD_REQUEST, "SerializationException", "content type".into()));
    }
    let target = text(headers, "x-amz-target");
    *cloud.calls.entry(target.to_owned()).or_default() += 1;
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, "SerializationException", error.to_string()))?;
    let name = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let (group, stream) = (name("logGroupName"), name("logStreamName"));
    if group.is_empty() || stream.is_empty() || stream.len() > 512 || stream.contains([':', '*']) {
        return Err(invalid("group and stream names"));
    }
    if !cloud.rules.groups.contains(&group) {
        let message = "The specified log group does not exist.".to_owned();
        return Err(Refusal(StatusCode::BAD_REQUEST, "ResourceNotFoundException", message));
    }
    let key = (group.clone(), stream.clone());
    match target {
        "Logs_20140328.CreateLogStream" => {
            if !cloud.streams.insert(key) {
                let message = "The specified log stream already exists".to_owned();
                return Err(Refusal(StatusCode::BAD_REQUEST, "ResourceAlreadyExistsException", message));
            }
            Ok(String::new())
        }
        "Logs_20140328.PutLogEvents" => {
            if !cloud.streams.contains(&key) {
                let message = "The specified log stream does not exist.".to_owned();
                return Err(Refusal(StatusCode::BAD_REQUEST, "ResourceNotFoundException", message));
            }
            take(cloud, &group, &stream, &body["logEvents"], now_ms)
        }
        other => Err(Refusal(StatusCode::BAD_REQUEST, "UnknownOperationException", other.into())),
    }
}

fn take(cloud: &mut Cloud, group: &str, stream: &str, events: &Value, now_ms: i64) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Event {
        timestamp: i64,
        message: String,
    }
    let events: Vec<Event> = Vec::deserialize(events).map_err(|error| invalid(error.to_string()))?;
    let bytes: usize = events.iter().map(|event| event.message.len() + 26).sum();
    if events.is_empty() || events.len() > 10_000 {
        return Err(invalid(format!("{} events", events.len())));
    }
    if bytes > 1_048_576 {
        return Err(invalid(format!("Upload too large: {bytes} bytes exceeds limit of 1048576")));
    }
    if events.iter().any(|event| event.message.is_empty() || event.message.len() + 26 > 262_144) {
        return Err(invalid("an event is empty or larger than 256 KiB"));
    }
    if !events.is_sorted_by_key(|event| event.timestamp) {
        return Err(invalid("Log events in a single PutLogEvents request must be in chronological order."));
    }
    let span = events[events.len() - 1].timestamp - events[0].timestamp;
    if span > DAY_MS {
        return Err(invalid(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.",
        ));
    }
    if cloud.rules.poison.as_ref().is_some_and(|poison| events.iter().any(|event| event.message.contains(poison))) {
        return Err(invalid("an event is not right"));
    }
    let expired = cloud
        .rules
        .retention_days
        .map_or(0, |days| events.iter().take_while(|event| event.timestamp < now_ms - days * DAY_MS).count());
    let old = events.iter().take_while(|event| event.timestamp < now_ms - 14 * DAY_MS).count();
    let new = events.iter().position(|event| event.timestamp > now_ms + 2 * 3_600_000);
    let kept = expired.max(old)..new.unwrap_or(events.len());
    for (index, event) in events.into_iter().enumerate() {
        if kept.contains(&index) && cloud.rules.numbers {
            cloud.numbers.extend(number(&event.message));
        } else if kept.contains(&index) {
            let Event { timestamp, message } = event;
            cloud.taken.push(Taken { group: group.to_owned(), stream: stream.to_owned(), timestamp, message });
        }
    }
    let mut rejected = serde_json::Map::new();
    for (name, index) in [
        ("expiredLogEventEndIndex", (expired > 0).then_some(expired)),
        ("tooOldLogEventEndIndex", (old > 0).then_some(old)),
        ("tooNewLogEventStartIndex", new),
    ] {
        rejected.extend(index.map(|index| (name.to_owned(), json!(index))));
    }
    let mut answer = json!({ "nextSequenceToken": "ignored" });
    if !rejected.is_empty() {
        answer["rejectedLogEventsInfo"] = rejected.into();
    }
    Ok(answer.to_string())
}

/// Signature Version 4, the service's side of it.
fn signed(rules: &Rules, uri: &Uri, headers: &HeaderMap, body: &[u8], now_ms: i64) -> Result<(), Refusal> {
    let denied = |kind: &'static str, message: &str| Refusal(StatusCode::BAD_REQUEST, kind, message.to_owned());
    let authorization = text(headers, "authorization");
    let part = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}="))?;
        Some(rest.split([',', ' ']).next().unwrap_or_default())
    };
    let parts = (part("Credential"), part("SignedHeaders"), part("Signature"));
    let (true, (Some(credential), Some(names), Some(signature))) =
        (authorization.starts_with("AWS4-HMAC-SHA256 "), parts)
    else {
        return Err(denied("MissingAuthenticationTokenException", "Missing Authentication Token"));
    };
    let date = text(headers, "x-amz-date");
    let scope: Vec<&str> = credential.split('/').collect();
    let wanted = [rules.access_key_id.as_str(), date.get(..8).unwrap_or(""), &rules.region, "logs", "aws4_request"];
    if scope.first() != wanted.first() {
        return Err(denied("UnrecognizedClientException", "The security token included in the request is invalid."));
    }
    if scope != wanted {
        return Err(denied("InvalidSignatureException", "Credential should be scoped to a valid region and service."));
    }
    if rules.expired {
        return Err(denied("ExpiredTokenException", "The security token included in the request is expired"));
    }
    let token = rules.session_token.as_deref().unwrap_or("");
    if !is_token(token, text(headers, "x-amz-security-token")) {
        return Err(denied("UnrecognizedClientException", "The security token included in the request is invalid."));
    }
    let signed: Vec<&str> = names.split(';').collect();
    let amz = headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-amz-"));
    if !signed.contains(&"host") || !signed.is_sorted() || amz.into_iter().any(|name| !signed.contains(&name)) {
        return Err(denied("InvalidSignatureException", "host and every x-amz header must be signed, in order"));
    }
    let listed: String = signed.iter().map(|name| format!("{name}:{}\n", text(headers, name).trim())).collect();
    let request = format!("POST\n{}\n{}\n{listed}\n{names}\n{}", uri.path(), uri.query().unwrap_or(""), hash(body));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{}\n{}", wanted[1..].join("/"), hash(request.as_bytes()));
    let mut key = format!("AWS4{}", rules.secret_access_key).into_bytes();
    for word in wanted[1..].iter().chain([&to_sign.as_str()]) {
        let signing = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&signing, word.as_bytes()).as_ref().to_vec();
    }
    if hex(&key) != signature {
        return Err(denied("InvalidSignatureException", "The request signature we calculated does not match."));
    }
    if (unix_of(date).unwrap_or(0) - now_ms / 1000).abs() > 300 {
        return Err(denied("InvalidSignatureException", "Signature not yet current or expired"));
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unix_of(date: &str) -> Option<i64> {
    let moment = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok()?;
    Some(moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

fn http_date(seconds: i64) -> String {
    let moment = jiff::Timestamp::from_second(seconds).expect("this century");
    moment.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("this century")
}
