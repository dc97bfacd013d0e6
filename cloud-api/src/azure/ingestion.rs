//! Azure Monitor's Logs Ingestion API: one call, and what its answers mean.
//!
//! The contract: <https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview>. Owns the address and
//! one renewal of a refused token. Must not cut batches or try again later: whoever calls does.

use super::TokenSource;
use crate::http::{self, HttpError};
use crate::{CredentialError, Freshness};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use std::sync::Arc;
use std::time::Duration;

/// One call, with a megabyte on a slow line.
const WITHIN: Duration = Duration::from_secs(30);

/// What tokens must be for.
const RESOURCE: &str = "https://monitor.azure.com/";

/// The version of the API.
const VERSION: &str = "2023-01-01";

/// Why lines were not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestionError {
    /// No token.
    #[error("there is no Azure token")]
    Credentials(#[from] CredentialError),
    /// The token is refused, a new one too, or its identity lacks the role.
    #[error("Azure Monitor refuses this identity with status {status} ({message})")]
    Denied {
        /// 401 or 403.
        status: u16,
        /// What it said.
        message: String,
    },
    /// A row is not right, or all are too large.
    #[error("Azure Monitor finds the rows not right, with status {status} ({message})")]
    Invalid {
        /// 400 or 413.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The request is refused, and for nothing that is in its rows: with others it would be as well.
    #[error("Azure Monitor refuses the request with status {status} ({message})")]
    Refused {
        /// 400 or another.
        status: u16,
        /// What it said.
        message: String,
    },
    /// No such rule or stream.
    #[error("Azure Monitor has no such rule or stream ({message})")]
    NotFound {
        /// What it said.
        message: String,
    },
    /// Too many requests or bytes.
    #[error("Azure Monitor takes no more for now")]
    Throttled {
        /// When to try again, if it said so.
        retry_after: Option<Duration>,
    },
    /// Something on the way or in the service.
    #[error("Azure Monitor is not available")]
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
    },
}

/// A client for one stream of one data collection rule.
pub struct IngestionClient {
    http: Client,
    url: Url,
    source: Arc<dyn TokenSource>,
}

impl IngestionClient {
    /// For `stream` (`Custom-…`) of the rule with this immutable id (`dcr-…`), at its data collection endpoint.
    pub fn new(endpoint: &str, rule: &str, stream: &str, source: Arc<dyn TokenSource>) -> Result<Self, IngestionError> {
        let failed = || IngestionError::Client { endpoint: endpoint.to_owned() };
        let mut url = Url::parse(endpoint).map_err(|_| failed())?;
        url.path_segments_mut().map_err(|()| failed())?.pop_if_empty().extend([
            "dataCollectionRules",
            rule,
            "streams",
            stream,
        ]);
        url.set_query(Some(&format!("api-version={VERSION}")));
        let http = http::service_client().map_err(|_| failed())?;
        Ok(Self { http, url, source })
    }

    /// Whether there is a token at all.
    pub async fn check(&self) -> Result<(), IngestionError> {
        self.source.token(RESOURCE, Freshness::Any).await.map(drop).map_err(Into::into)
    }

    /// Hand a JSON array of records over.
    pub async fn put(&self, body: &[u8], now: i64) -> Result<(), IngestionError> {
        let mut freshness = Freshness::Any;
        let body = http::gzip(body);
        loop {
            let token = self.source.token(RESOURCE, freshness).await?;
            let request = self
                .http
                .post(self.url.clone())
                .bearer_auth(token.secret.as_str())
                .header(CONTENT_TYPE, "application/json")
                .header(CONTENT_ENCODING, "gzip")
                .body(body.clone());
            let unavailable = |source| IngestionError::Unavailable { retry_after: None, source };
            let answer = http::send(&self.http, request, WITHIN).await.map_err(unavailable)?;
            let retry_after = http::retry_after(&answer.headers, now);
            let status = answer.status.as_u16();
            let message = said(&answer.body);
            return match answer.status {
                StatusCode::NO_CONTENT => Ok(()),
                StatusCode::UNAUTHORIZED if freshness == Freshness::Any => {
                    freshness = Freshness::New;
                    continue;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(IngestionError::Denied { status, message }),
                StatusCode::TOO_MANY_REQUESTS => Err(IngestionError::Throttled { retry_after }),
                // A proxy's page is no word of the service about the request.
                StatusCode::BAD_REQUEST if is_json(&answer.body) && about_the_request(&message) => {
                    Err(IngestionError::Refused { status, message })
                }
                StatusCode::BAD_REQUEST if is_json(&answer.body) => Err(IngestionError::Invalid { status, message }),
                StatusCode::PAYLOAD_TOO_LARGE => Err(IngestionError::Invalid { status, message }),
                StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNSUPPORTED_MEDIA_TYPE if is_json(&answer.body) => {
                    Err(IngestionError::Refused { status, message })
                }
                StatusCode::NOT_FOUND if is_json(&answer.body) => Err(IngestionError::NotFound { message }),
                _ => Err(IngestionError::Unavailable { retry_after, source: answer.unexpected("204") }),
            };
        }
    }
}

/// Whether a refusal names what every request has, and no row. The service has no list of its codes; those that are seen
/// name the stream, the rule, the version, the encoding or the media type.
fn about_the_request(message: &str) -> bool {
    let code = message.split(':').next().unwrap_or_default().to_ascii_lowercase();
    ["stream", "dcr", "datacollection", "apiversion", "encoding", "mediatype"].iter().any(|word| code.contains(word))
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// The service's own word and sentence, if they are there.
fn said(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| json["error"][name].as_str().unwrap_or_default().chars().take(200).collect::<String>();
    format!("{}: {}", text("code"), text("message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::file::TokenFile;

    #[test]
    fn the_address_is_the_documented_one() {
        let source = Arc::new(TokenFile::new("/none".as_ref()));
        for endpoint in ["https://x.ingest.monitor.azure.com", "https://x.ingest.monitor.azure.com/"] {
            let client = IngestionClient::new(endpoint, "dcr-1", "Custom-Towline_CL", source.clone()).expect("made");
            assert_eq!(
                client.url.as_str(),
                "https://x.ingest.monitor.azure.com/dataCollectionRules/dcr-1/streams/Custom-Towline_CL?api-version=2023-01-01"
            );
        }
        assert!(IngestionClient::new("x", "dcr-1", "y", source).is_err());
    }

    #[test]
    fn an_answer_is_told_with_its_own_words() {
        assert_eq!(said(br#"{"error":{"code":"A","message":"b"}}"#), "A: b");
        assert!(!is_json(b"<html>"));
        assert!(
            ["InvalidStream: x", "UnsupportedApiVersion: x", "InvalidDcrImmutableId: x"]
                .into_iter()
                .all(about_the_request)
        );
        assert!(
            !["InvalidRecord: the stream", "ContentLengthLimitExceeded: x", ": "].into_iter().any(about_the_request)
        );
    }
}
