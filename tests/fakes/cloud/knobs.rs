//! What every face can be made to do: answer late, in drops, with a prepared answer, or with half of one.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The knobs of a face. A new set replaces the one before it; `{}` is a service in good health.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knobs {
    /// Every answer comes this much later.
    pub delay_ms: u64,
    /// Every byte of an answer comes this long after the one before it; 0: all at once.
    pub drip_ms: u64,
    /// The next requests get these answers, one each, instead of the face's.
    pub script: VecDeque<Scripted>,
    /// All requests behind the script get this one; none: the face's own answers.
    pub always: Option<Scripted>,
}

/// A prepared answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    /// Its status.
    pub status: u16,
    /// Its headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body.
    #[serde(default)]
    pub body: String,
    /// The request is carried out all the same: only the answer is lost.
    #[serde(default)]
    pub after: bool,
    /// The connection breaks after the first half of the body.
    #[serde(default)]
    pub cut: bool,
}

type Shared = Arc<Mutex<Knobs>>;

/// A face that obeys its knobs.
pub fn with_knobs(face: Router) -> Router {
    let knobs = Shared::default();
    let control = Router::new().route("/_fake/knobs", put(turn)).with_state(knobs.clone());
    face.layer(middleware::from_fn_with_state(knobs, obey)).merge(control)
}

async fn turn(State(knobs): State<Shared>, Json(new): Json<Knobs>) -> StatusCode {
    *knobs.lock().expect("nobody panics with it") = new;
    StatusCode::NO_CONTENT
}

async fn obey(State(knobs): State<Shared>, request: Request, next: Next) -> Response {
    // What tests ask of a face is no request to the service.
    if request.uri().path().starts_with("/_fake/") {
        return next.run(request).await;
    }
    let (delay, drip, scripted) = {
        let mut knobs = knobs.lock().expect("nobody panics with it");
        let scripted = knobs.script.pop_front().or_else(|| knobs.always.clone());
        (Duration::from_millis(knobs.delay_ms), Duration::from_millis(knobs.drip_ms), scripted)
    };
    tokio::time::sleep(delay).await;
    let response = match scripted {
        None => next.run(request).await,
        Some(scripted) => {
            if scripted.after {
                next.run(request).await;
            } else {
                // A service reads what it is sent before it says no.
                let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            }
            prepared(&scripted)
        }
    };
    if drip.is_zero() { response } else { dripping(response, drip).await }
}

fn prepared(scripted: &Scripted) -> Response {
    let status = StatusCode::from_u16(scripted.status).expect("a test gives a status");
    let bytes = Bytes::copy_from_slice(scripted.body.as_bytes());
    let mut response = if scripted.cut {
        let half = bytes.slice(..bytes.len() / 2);
        let broken = [Ok(half), Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut as asked"))];
        (status, Body::from_stream(stream::iter(broken))).into_response()
    } else {
        (status, bytes).into_response()
    };
    for (name, value) in &scripted.headers {
        let name = HeaderName::try_from(name).expect("a test gives a header");
        response.headers_mut().insert(name, HeaderValue::try_from(value).expect("a test gives a value"));
    }
    response
}

async fn dripping(response: Response, each: Duration) -> Response {
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let drops = stream::unfold((bytes, 0), move |(bytes, at)| async move {
        if at >= bytes.len() {
            return None;
        }
        tokio::time::sleep(each).await;
        let drop = bytes.slice(at..=at);
        Some((Ok::<_, io::Error>(drop), (bytes, at + 1)))
    });
    Response::from_parts(head, Body::from_stream(drops))
}

/// Whether this is the token that a test told of. Metadata services number what they give: `*` at its end stands for the
/// number.
pub fn is_token(wanted: &str, given: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(before) => given.strip_prefix(before).is_some_and(|number| number.parse::<u64>().is_ok()),
        None => wanted == given,
    }
}
