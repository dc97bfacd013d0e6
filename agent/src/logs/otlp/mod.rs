//! The `otlp` sink: OpenTelemetry's logs over HTTP as JSON, to a collector or any store that speaks it.
//!
//! The contract: <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>. Owns the call and what its answers mean.
//! What a request is stands in `plan`. What a store drops of a request it does not name; nothing is sent twice for that,
//! because the specification forbids it.

mod plan;

use super::record::Record;
use super::remote::{Answering, PERSON_PAUSE, Service, Verdict, seconds};
use super::sink::SinkError;
use plan::Source;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::Deserialize;
use std::time::Duration;
use towline_cloud_api::azure::file::TokenFile;
use towline_cloud_api::http::{self, Answer};

/// One call, with a megabyte on a slow line.
const WITHIN: Duration = Duration::from_secs(30);

/// One stream at one collector.
pub struct Otlp {
    client: reqwest::Client,
    url: reqwest::Url,
    source: Source,
    token: Option<TokenFile>,
    /// Bodies go compressed. Every collector takes that; a store that says that it does not gets them as they are.
    gzip: bool,
}

/// A 200 answer.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Exported {
    partial_success: Option<Partial>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Partial {
    rejected_log_records: Count,
}

/// 64-bit numbers stand in quotes; not everybody knows.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u64),
    Text(String),
}

impl Default for Count {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Otlp {
    /// The sink for a cluster's stream; with `token` each request carries it as its bearer.
    pub fn new(endpoint: &str, cluster: &str, stream: &str, token: Option<TokenFile>) -> Result<Self, SinkError> {
        let doing = "the OTLP endpoint is not right; correct `logs.endpoint` in the server's settings";
        let url = format!("{}/v1/logs", endpoint.trim_end_matches('/'));
        let url = reqwest::Url::parse(&url).map_err(|error| SinkError::new(doing, error))?;
        let client = http::service_client().map_err(|error| SinkError::new(doing, error))?;
        let source = Source { cluster: cluster.to_owned(), stream: stream.to_owned() };
        Ok(Self { client, url, source, token, gzip: true })
    }

    async fn call(&mut self, body: &[u8]) -> Result<Answer, SinkError> {
        let answer = self.call_once(body).await?;
        if self.gzip && answer.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            self.gzip = false;
            return self.call_once(body).await;
        }
        Ok(answer)
    }

    async fn call_once(&self, body: &[u8]) -> Result<Answer, SinkError> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
        let mut request = if self.gzip {
            request.header(CONTENT_ENCODING, "gzip").body(http::gzip(body))
        } else {
            request.body(body.to_vec())
        };
        if let Some(token) = &self.token {
            // Read anew each time: one that was renewed counts from the next request on.
            let token = token.load();
            let token = token.map_err(|error| {
                SinkError::new("there is no token for the OTLP endpoint", error).after(Some(PERSON_PAUSE))
            })?;
            request = request.bearer_auth(token.as_str());
        }
        http::send(&self.client, request, WITHIN).await.map_err(|error| SinkError::new(self.to(), error))
    }

    fn to(&self) -> String {
        format!("the OTLP endpoint {} does not take lines", self.url)
    }

    fn judge(&self, answer: &Answer, now_ms: u64) -> Result<Verdict, SinkError> {
        let retry_after = http::retry_after(&answer.headers, seconds(now_ms));
        let wrong = || answer.unexpected("OTLP's JSON");
        match answer.status.as_u16() {
            // Some stores have nothing to say.
            204 => Ok(Verdict::Taken),
            200 if answer.body.is_empty() => Ok(Verdict::Taken),
            200 => {
                // What is no JSON does not come from a collector, whatever its status.
                let exported: Exported =
                    answer.json("OTLP's JSON").map_err(|error| SinkError::new(self.to(), error))?;
                let lost = match exported.partial_success.unwrap_or_default().rejected_log_records {
                    Count::Number(lost) => lost,
                    Count::Text(text) => text.parse().unwrap_or(0),
                };
                Ok(if lost > 0 { Verdict::Short(lost) } else { Verdict::Taken })
            }
            status @ (400 | 413) => Ok(Verdict::Refused(format!("status {status}"))),
            401 | 403 => {
                let doing = format!("{}: set `otlp_token_file` in agent.toml, or renew the token in it", self.to());
                Err(SinkError::new(doing, wrong()).after(Some(PERSON_PAUSE)))
            }
            404 | 405 | 415 => {
                let doing = format!("{}: there is no OTLP over HTTP; correct `logs.endpoint`", self.to());
                Err(SinkError::new(doing, wrong()).after(Some(PERSON_PAUSE)))
            }
            429 => Err(SinkError { throttled: true, ..SinkError::new(self.to(), wrong()).after(retry_after) }),
            _ => Err(SinkError::new(self.to(), wrong()).after(retry_after)),
        }
    }
}

impl Service for Otlp {
    type Request = Vec<u8>;

    fn prepare(&self, records: &[Record], now_ms: u64) -> (usize, Vec<u8>) {
        plan::request(records, &self.source, now_ms)
    }

    fn check(&mut self, now_ms: u64) -> Answering<'_, ()> {
        Box::pin(async move {
            // An export of nothing is legal.
            let answer = self.call(br#"{"resourceLogs":[]}"#).await?;
            self.judge(&answer, now_ms).map(drop)
        })
    }

    fn send<'a>(&'a mut self, _: &'a [Record], request: Vec<u8>, now_ms: u64) -> Answering<'a, Verdict> {
        Box::pin(async move {
            let answer = self.call(&request).await?;
            self.judge(&answer, now_ms)
        })
    }
}
