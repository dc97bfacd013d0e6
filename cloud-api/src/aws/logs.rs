//! CloudWatch Logs: the calls that carry log lines, and what the answers mean.
//!
//! The contract: <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>. Owns the
//! signing, one renewal of refused credentials, and the offset between this machine's clock and the service's. Must not
//! cut batches or try again later: whoever calls does.

use super::sigv4::{Scope, Signable, sign};
use super::{CredentialSource, Credentials};
use crate::http::{self, Answer, HttpError};
use crate::{CredentialError, Freshness};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// One call, with a megabyte on a slow line.
const WITHIN: Duration = Duration::from_secs(30);

/// The name of the service in signatures.
const SERVICE: &str = "logs";

/// The version in `X-Amz-Target`.
const TARGET: &str = "Logs_20140328";

/// One log event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Unix milliseconds.
    pub timestamp: i64,
    /// Not empty.
    pub message: String,
}

/// Events of a taken request that were not kept. None: all were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rejected {
    /// From this one on they lie too far ahead.
    pub too_new_log_event_start_index: Option<usize>,
    /// Before this one they are too old.
    pub too_old_log_event_end_index: Option<usize>,
    /// Before this one they are older than the group keeps events.
    pub expired_log_event_end_index: Option<usize>,
}

impl Rejected {
    /// Which of `count` events were not kept.
    pub fn indices(&self, count: usize) -> Vec<usize> {
        let old = self.too_old_log_event_end_index.max(self.expired_log_event_end_index).unwrap_or(0);
        let new = self.too_new_log_event_start_index.unwrap_or(count);
        (0..count).filter(|index| *index < old || *index >= new).collect()
    }
}

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// No credentials.
    #[error("there are no AWS credentials")]
    Credentials(#[from] CredentialError),
    /// The credentials are refused, new ones too, or may not do this.
    #[error("CloudWatch Logs refuses the credentials ({kind}: {message})")]
    Denied {
        /// The service's word.
        kind: String,
        /// Its sentence.
        message: String,
    },
    /// An event of the request is not right, or all are too large.
    #[error("CloudWatch Logs finds an event not right ({kind}: {message})")]
    Invalid {
        /// The service's word.
        kind: String,
        /// Its sentence.
        message: String,
    },
    /// The request is refused, and for nothing that is in its events: with others it would be as well.
    #[error("CloudWatch Logs refuses the request ({kind}: {message})")]
    Refused {
        /// The service's word.
        kind: String,
        /// Its sentence.
        message: String,
    },
    /// There is no such group or stream.
    #[error("CloudWatch Logs does not have it ({message})")]
    NotFound {
        /// Its sentence.
        message: String,
    },
    /// Too many requests.
    #[error("CloudWatch Logs takes no more requests for now")]
    Throttled {
        /// When to try again, if it said so.
        retry_after: Option<Duration>,
    },
    /// Something on the way or in the service; the same request may pass later.
    #[error("CloudWatch Logs is not available")]
    Unavailable {
        /// When to try again, if it said so.
        retry_after: Option<Duration>,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// No client could be made.
    #[error("no HTTP client can be made for {endpoint}")]
    Client {
        /// For where.
        endpoint: String,
        /// Why.
        #[source]
        source: Option<reqwest::Error>,
    },
}

/// A client for one region, or one private endpoint.
pub struct LogsClient {
    http: Client,
    url: Url,
    host: String,
    region: String,
    source: Arc<dyn CredentialSource>,
    /// Seconds to add to this machine's clock.
    offset: AtomicI64,
}

/// The error in an answer.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type")]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl Refusal {
    /// The older form, in which what stands before the service may answer, and moto: `<Code>` and `<Message>`.
    fn of_xml(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok().filter(|text| text.contains("<ErrorResponse"))?;
        let between = |open: &str, close: &str| Some(text.split_once(open)?.1.split_once(close)?.0.to_owned());
        let message = between("<Message>", "</Message>").unwrap_or_default();
        Some(Self { kind: between("<Code>", "</Code>")?, message })
    }
}

/// What is done about a refusal within one call.
enum Meant {
    Answer(Answer),
    /// With new credentials or another clock it may pass.
    Again(Freshness, LogsError),
}

impl LogsClient {
    /// A client for `endpoint`; none: the region's public one.
    pub fn new(region: &str, endpoint: Option<&str>, source: Arc<dyn CredentialSource>) -> Result<Self, LogsError> {
        // AWS keeps its Chinese regions under a name of their own.
        let top = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let endpoint = endpoint.map_or_else(|| format!("https://logs.{region}.{top}/"), str::to_owned);
        let failed = |source| LogsError::Client { endpoint: endpoint.clone(), source };
        let url = Url::parse(&endpoint).map_err(|_| failed(None))?;
        let name = url.host_str().ok_or_else(|| failed(None))?;
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let http = http::service_client().map_err(|source| failed(Some(source)))?;
        Ok(Self { http, url, host, region: region.to_owned(), source, offset: AtomicI64::new(0) })
    }

    /// The service's time, as far as its answers told it.
    pub fn service_time(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.offset.load(Ordering::Relaxed).saturating_mul(1000))
    }

    /// Hand events over. They must be in the order of their times and within the service's limits.
    pub async fn put(&self, group: &str, stream: &str, events: &[Event], now: i64) -> Result<Rejected, LogsError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Put<'a> {
            log_group_name: &'a str,
            log_stream_name: &'a str,
            log_events: &'a [Event],
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Taken {
            rejected_log_events_info: Option<Rejected>,
        }
        let body = Put { log_group_name: group, log_stream_name: stream, log_events: events };
        let answer = self.call("PutLogEvents", &body, now).await?;
        let taken: Taken =
            answer.json("JSON").map_err(|source| LogsError::Unavailable { retry_after: None, source })?;
        Ok(taken.rejected_log_events_info.unwrap_or_default())
    }

    /// Make a stream; one that is there already is as good.
    pub async fn create_stream(&self, group: &str, stream: &str, now: i64) -> Result<(), LogsError> {
        let body = serde_json::json!({ "logGroupName": group, "logStreamName": stream });
        match self.call("CreateLogStream", &body, now).await {
            Err(LogsError::Refused { kind, .. }) if kind == "ResourceAlreadyExistsException" => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// Any call of the service. Its 200 answer is given back as it is.
    pub async fn call(&self, name: &str, body: &impl Serialize, now: i64) -> Result<Answer, LogsError> {
        let body = serde_json::to_vec(body).expect("requests hold only strings, numbers and lists");
        let mut freshness = Freshness::Any;
        loop {
            let credentials = self.source.credentials(freshness).await?;
            let answer = self.send(name, &body, &credentials, now).await?;
            match (self.meant(answer, now)?, freshness) {
                (Meant::Answer(answer), _) => return Ok(answer),
                (Meant::Again(wanted, _), Freshness::Any) => {
                    // What a new clock cures needs one more try as well, and new credentials do no harm.
                    freshness = wanted;
                }
                (Meant::Again(_, error), Freshness::New) => return Err(error),
            }
        }
    }

    async fn send(&self, name: &str, body: &[u8], credentials: &Credentials, now: i64) -> Result<Answer, LogsError> {
        let target = format!("{TARGET}.{name}");
        let content = "application/x-amz-json-1.1";
        let headers = [("content-type", content), ("x-amz-target", target.as_str())];
        let request =
            Signable { method: "POST", host: &self.host, path: self.url.path(), query: &[], headers: &headers, body };
        let scope = Scope { region: &self.region, service: SERVICE };
        let signature = sign(&request, scope, credentials, now + self.offset.load(Ordering::Relaxed));
        let mut request = self
            .http
            .post(self.url.clone())
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, content)
            .header("x-amz-target", &target)
            .header("x-amz-date", signature.date)
            .header(AUTHORIZATION, signature.authorization)
            .body(body.to_vec());
        if let Some(token) = &signature.security_token {
            request = request.header("x-amz-security-token", token.as_str());
        }
        let unavailable = |source| LogsError::Unavailable { retry_after: None, source };
        http::send(&self.http, request, WITHIN).await.map_err(unavailable)
    }

    fn meant(&self, answer: Answer, now: i64) -> Result<Meant, LogsError> {
        if answer.status == StatusCode::OK {
            return Ok(Meant::Answer(answer));
        }
        let retry_after = http::retry_after(&answer.headers, now);
        let refusal = serde_json::from_slice(&answer.body).ok().or_else(|| Refusal::of_xml(&answer.body));
        let unavailable = |answer: &Answer| {
            let source = answer.unexpected("the service's JSON");
            LogsError::Unavailable { retry_after, source }
        };
        // What is no JSON of the service does not come from it: a proxy, a load balancer.
        let Some(Refusal { kind, message }) = refusal else {
            return Err(match answer.status {
                StatusCode::TOO_MANY_REQUESTS => LogsError::Throttled { retry_after },
                StatusCode::PAYLOAD_TOO_LARGE => {
                    LogsError::Invalid { kind: "413".to_owned(), message: "too large".to_owned() }
                }
                _ => unavailable(&answer),
            });
        };
        // With a namespace (`com.amazonaws.logs#…`) or without.
        let kind = kind.rsplit('#').next().unwrap_or_default().to_owned();
        let denied = |kind: String| LogsError::Denied { kind, message: message.clone() };
        Err(match kind.as_str() {
            "ThrottlingException" | "LimitExceededException" | "TooManyRequestsException" => {
                LogsError::Throttled { retry_after }
            }
            "ResourceNotFoundException" => LogsError::NotFound { message },
            "ExpiredTokenException" | "UnrecognizedClientException" | "InvalidClientTokenId" => {
                return Ok(Meant::Again(Freshness::New, denied(kind)));
            }
            "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestExpired" => {
                self.learn_clock(&answer, now);
                return Ok(Meant::Again(Freshness::New, denied(kind)));
            }
            "AccessDeniedException" | "AccessDenied" | "MissingAuthenticationTokenException" | "OptInRequired" => {
                denied(kind)
            }
            // The only words that the service has for what is in an event.
            "InvalidParameterException" | "ValidationException" => LogsError::Invalid { kind, message },
            // Two calls for one stream at once.
            "OperationAbortedException" => unavailable(&answer),
            _ if answer.status.is_server_error() => unavailable(&answer),
            _ => LogsError::Refused { kind, message },
        })
    }

    /// The service's clock is right.
    fn learn_clock(&self, answer: &Answer, now: i64) {
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(http::date);
        if let Some(date) = date {
            self.offset.store(date - now, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_about_events_is_about_events() {
        let source = Arc::new(crate::aws::file::CredentialFile::new("/none".as_ref()));
        let client = LogsClient::new("eu-central-1", None, source).expect("made");
        let meant = |status: u16, kind: &str| {
            let body = serde_json::json!({ "__type": kind, "message": "m" }).to_string().into_bytes();
            let status = StatusCode::from_u16(status).expect("a status");
            client.meant(Answer { status, headers: reqwest::header::HeaderMap::new(), body, url: String::new() }, 0)
        };
        assert!(matches!(meant(400, "InvalidParameterException"), Err(LogsError::Invalid { .. })));
        assert!(matches!(meant(400, "com.amazonaws.logs#InvalidParameterException"), Err(LogsError::Invalid { .. })));
        for kind in ["UnknownOperationException", "SerializationException", "InvalidOperationException", "New", ""] {
            assert!(matches!(meant(400, kind), Err(LogsError::Refused { .. })), "{kind}");
        }
        let xml = Refusal::of_xml(
            b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>m</Message></Error></ErrorResponse>",
        );
        assert_eq!(xml.map(|xml| (xml.kind, xml.message)), Some(("AccessDenied".to_owned(), "m".to_owned())));
        assert!(Refusal::of_xml(b"<html><Code>AccessDenied</Code></html>").is_none(), "a proxy's page");
        for (status, kind) in [(400, "OperationAbortedException"), (500, "New"), (503, "ServiceUnavailableException")] {
            assert!(matches!(meant(status, kind), Err(LogsError::Unavailable { .. })), "{kind}");
        }
    }

    #[test]
    fn the_service_says_which_events_it_did_not_keep() {
        let rejected = |text| serde_json::from_str::<Rejected>(text).expect("reads").indices(5);
        assert!(rejected("{}").is_empty());
        assert_eq!(rejected(r#"{"tooNewLogEventStartIndex":3}"#), [3, 4]);
        assert_eq!(rejected(r#"{"tooOldLogEventEndIndex":1,"expiredLogEventEndIndex":2}"#), [0, 1]);
        assert_eq!(rejected(r#"{"tooOldLogEventEndIndex":9}"#), [0, 1, 2, 3, 4]);
    }
}
