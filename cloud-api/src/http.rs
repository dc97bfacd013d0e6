//! HTTP as the clouds want it: no redirects, no proxy unless asked for, deadlines, answers of bounded size.

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Client, RequestBuilder, StatusCode, redirect};
use std::io::Write as _;
use std::time::Duration;

/// Time for a connection to a metadata service: it answers within milliseconds, and a missing one answers never.
const CONNECT_LOCALLY: Duration = Duration::from_secs(1);

/// Time for a connection to a public service, its TLS handshake included: one lost packet alone costs a second.
const CONNECT: Duration = Duration::from_secs(10);

/// The longest answer that is read.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not sent, not answered in time, or cut off.
    #[error("{method} {url} failed")]
    Failed {
        /// The method.
        method: String,
        /// Without query: that may hold what nobody needs to read.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Longer than [`MAX_ANSWER`].
    #[error("the answer from {url} is longer than {MAX_ANSWER} bytes")]
    TooLong {
        /// From where.
        url: String,
    },
    /// An answer that cannot be understood: another status, or a body that is not what was agreed.
    #[error("{url} answered with status {status} and not with {wanted}")]
    Unexpected {
        /// From where.
        url: String,
        /// Its status.
        status: u16,
        /// What was expected.
        wanted: &'static str,
    },
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// Where it came from, without query.
    pub url: String,
}

impl Answer {
    /// The body as JSON of a known shape.
    pub fn json<T: serde::de::DeserializeOwned>(&self, wanted: &'static str) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(|_| self.unexpected(wanted))
    }

    /// That this is not what was wanted.
    pub fn unexpected(&self, wanted: &'static str) -> HttpError {
        HttpError::Unexpected { url: self.url.clone(), status: self.status.as_u16(), wanted }
    }
}

/// A client for link-local metadata services: never over a proxy, never redirected.
pub fn metadata_client() -> reqwest::Result<Client> {
    base(CONNECT_LOCALLY).no_proxy().build()
}

/// A client for a cloud's public services, over the system's proxy where one is set.
pub fn service_client() -> reqwest::Result<Client> {
    base(CONNECT).build()
}

fn base(connect: Duration) -> reqwest::ClientBuilder {
    Client::builder().redirect(redirect::Policy::none()).connect_timeout(connect)
}

/// How long a service asks to be left alone: seconds or a date in `Retry-After`. `now` is in Unix seconds.
pub fn retry_after(headers: &reqwest::header::HeaderMap, now: i64) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => u64::try_from(date(text)? - now).ok()?,
    };
    Some(Duration::from_secs(seconds))
}

/// A body for `Content-Encoding: gzip`. Lines of logs repeat themselves so much that the fastest level makes a tenth of them.
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// A date as HTTP writes it, in Unix seconds.
pub fn date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp().as_second())
}

/// A moment as JSON documents write it (RFC 3339), in Unix seconds.
pub fn timestamp(text: &str) -> Option<u64> {
    text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_second()).ok())
}

/// Send a request and read its whole answer, for `within` at most.
pub async fn send(client: &Client, request: RequestBuilder, within: Duration) -> Result<Answer, HttpError> {
    let request = request.timeout(within).build().map_err(|source| failed("building", "a request", source))?;
    let method = request.method().to_string();
    let mut url = request.url().clone();
    url.set_query(None);
    let url = url.to_string();
    let error = |source: reqwest::Error| failed(&method, &url, source.without_url());
    let mut response = client.execute(request).await.map_err(error)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(error)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(HttpError::TooLong { url });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body, url })
}

fn failed(method: &str, url: &str, source: reqwest::Error) -> HttpError {
    HttpError::Failed { method: method.to_owned(), url: url.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let said = |text: &str| {
            let mut headers = reqwest::header::HeaderMap::new();
            headers.insert("retry-after", text.parse().expect("a header"));
            retry_after(&headers, 784_111_770)
        };
        assert_eq!(said("7"), Some(Duration::from_secs(7)));
        assert_eq!(said("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(said("Sun, 06 Nov 1994 08:49:00 GMT"), None, "in the past");
        assert_eq!(said("soon"), None);
    }
}
