//! Asking a link-local metadata service more than once: what all clouds' clients share.
//!
//! Owns the pauses between tries and the time for one try. Must not know any cloud's paths or headers.

use crate::http::{self, Answer, HttpError};
use reqwest::{Client, RequestBuilder, StatusCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One question: the service answers from the same machine's hypervisor.
const WITHIN: Duration = Duration::from_secs(5);

/// How often, and how far apart, a question is asked again that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Tries in all; one at least is made.
    pub tries: u32,
    /// Before the second try; doubled before each later one.
    pub first_pause: Duration,
}

impl Patience {
    /// For somebody who asks again soon anyhow.
    pub const NONE: Self = Self { tries: 1, first_pause: Duration::ZERO };
}

/// Ask until there is an answer that is worth keeping, or patience ends: the last answer or error counts.
pub(crate) async fn ask(
    client: &Client,
    patience: Patience,
    request: impl Fn() -> RequestBuilder,
    again: fn(StatusCode) -> bool,
) -> Result<Answer, HttpError> {
    let mut pause = patience.first_pause;
    for _ in 1..patience.tries {
        match http::send(client, request(), WITHIN).await {
            Ok(answer) if !again(answer.status) => return Ok(answer),
            Ok(_) | Err(HttpError::Failed { .. }) => tokio::time::sleep(pause).await,
            Err(error) => return Err(error),
        }
        pause = pause.saturating_mul(2);
    }
    http::send(client, request(), WITHIN).await
}

/// A setting's address without the slash at its end.
pub(crate) fn base(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

/// Unix seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
