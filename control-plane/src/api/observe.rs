//! What surrounds every request: its id, its deadline, and one line in the log without body, query or token.

use super::problem::{Code, Problem};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::time::{Duration, Instant};
use towline_transport::keys::random_hex;
use tracing::Instrument as _;

/// Longest time until an answer begins. An event stream's answer begins at once and is not bounded by this.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware round every route.
pub async fn observe(request: Request, next: Next) -> Response {
    // The route's pattern, never the path: names in it are people's own words.
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let id = random_hex(8);
    let span = tracing::info_span!("request", component = "api", %method, route = route.as_str(), request_id = id);
    let started = Instant::now();
    let answer = tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).instrument(span.clone()).await;
    let mut response = answer.unwrap_or_else(|_| {
        let detail = format!("no answer within {} s", REQUEST_DEADLINE.as_secs());
        Problem::new(Code::DeadlineExceeded, detail).into_response()
    });
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    crate::metrics::get().request(&route, &method, response.status(), started.elapsed());
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    span.in_scope(|| {
        if method == Method::GET {
            tracing::debug!(status, elapsed_ms, "request answered");
        } else {
            tracing::info!(status, elapsed_ms, "request answered");
        }
    });
    response
}
