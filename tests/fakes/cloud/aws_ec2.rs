//! EC2's query API, as far as an instance's own role may use it: to end that instance and no other.
//!
//! `GET /_fake/terminated` lists the instances that were ended. Signatures must be those of the role in the metadata
//! face, for this service and region, and of the last five minutes.

use super::aws_metadata::{INSTANCE, KEY_ID, REGION, SECRET};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use towline_cloud_api::aws::Credentials;
use towline_cloud_api::aws::sigv4::{Scope, Signable, sign};

type Shared = Arc<Mutex<Vec<String>>>;

/// The face.
pub fn face() -> Router {
    Router::new().route("/", any(call)).route("/_fake/terminated", get(terminated)).with_state(Shared::default())
}

async fn terminated(State(ended): State<Shared>) -> Json<Vec<String>> {
    Json(ended.lock().expect("nobody panics with it").clone())
}

async fn call(State(ended): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if method != Method::POST || uri.query().is_some() {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "InvalidAction");
    }
    if let Err(code) = check_signature(&headers, &body) {
        return refuse(StatusCode::UNAUTHORIZED, code);
    }
    let text = String::from_utf8_lossy(&body);
    let form: BTreeMap<&str, &str> = text.split('&').filter_map(|pair| pair.split_once('=')).collect();
    if form.get("Version") != Some(&"2016-11-15") {
        return refuse(StatusCode::BAD_REQUEST, "NoSuchVersion");
    }
    if form.get("Action") != Some(&"TerminateInstances") {
        return refuse(StatusCode::FORBIDDEN, "UnauthorizedOperation");
    }
    let ids: Vec<&str> = form.iter().filter(|(key, _)| key.starts_with("InstanceId.")).map(|(_, id)| *id).collect();
    match ids.as_slice() {
        [] => refuse(StatusCode::BAD_REQUEST, "MissingParameter"),
        [INSTANCE] => {
            ended.lock().expect("nobody panics with it").push(INSTANCE.to_owned());
            "<TerminateInstancesResponse><instancesSet/></TerminateInstancesResponse>".into_response()
        }
        // The role's policy is for the instance itself.
        _ => refuse(StatusCode::FORBIDDEN, "UnauthorizedOperation"),
    }
}

fn check_signature(headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", header("x-amz-date"));
    let date =
        date.ok().and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok()).ok_or("MissingAuthenticationToken")?;
    let now = date.timestamp().as_second();
    if now.abs_diff(jiff::Timestamp::now().as_second()) > 300 {
        return Err("RequestExpired");
    }
    if !header("x-amz-security-token").starts_with("fake-session-") {
        return Err("AuthFailure");
    }
    let credentials = Credentials {
        access_key_id: KEY_ID.to_owned(),
        secret_access_key: SECRET.to_owned().into(),
        session_token: Some(header("x-amz-security-token").to_owned().into()),
        expires_at: None,
    };
    let signed = [("content-type", header("content-type"))];
    let host = header("host");
    let request = Signable { method: "POST", host, path: "/", query: &[], headers: &signed, body };
    let wanted = sign(&request, Scope { region: REGION, service: "ec2" }, &credentials, now);
    if header("authorization") == wanted.authorization { Ok(()) } else { Err("SignatureDoesNotMatch") }
}

fn refuse(status: StatusCode, code: &str) -> Response {
    (status, format!("<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors></Response>"))
        .into_response()
}
