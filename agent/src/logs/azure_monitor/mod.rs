//! The `azure_monitor` sink: rows of a table, through the Logs Ingestion API and a data collection rule.
//!
//! Owns nothing but what the answers mean to the shipper. What a legal request is stands in `plan`; the call and its typed
//! errors are `towline-cloud-api`'s.

mod plan;

use super::record::Record;
use super::remote::{Answering, PERSON_PAUSE, Service, Verdict, seconds};
use super::sink::SinkError;
use plan::Source;
use std::sync::Arc;
use towline_cloud_api::azure::TokenSource;
use towline_cloud_api::azure::ingestion::{IngestionClient, IngestionError};

/// One stream's rows.
pub struct AzureMonitor {
    client: IngestionClient,
    rule: String,
    source: Source,
}

impl AzureMonitor {
    /// The sink for a cluster's stream, into the table behind a rule.
    pub fn new(
        [endpoint, rule, table]: [&str; 3],
        cluster: &str,
        stream: &str,
        tokens: Arc<dyn TokenSource>,
    ) -> Result<Self, SinkError> {
        let client = IngestionClient::new(endpoint, rule, table, tokens)
            .map_err(|error| SinkError::new("the Azure endpoint is not right; correct `logs.endpoint`", error))?;
        let source = Source { cluster: cluster.to_owned(), stream: stream.to_owned() };
        Ok(Self { client, rule: rule.to_owned(), source })
    }

    fn error(&self, error: IngestionError) -> SinkError {
        let to = format!("Azure Monitor does not take lines for the rule {}", self.rule);
        let remedy = match &error {
            IngestionError::Credentials(_) | IngestionError::Denied { .. } => {
                "give this host's identity the role Monitoring Metrics Publisher on the rule (it may take half an hour to \
                 count), or set `azure_token_file` in agent.toml"
            }
            IngestionError::NotFound { .. } => "correct `logs.rule` and `logs.table` in the server's settings",
            IngestionError::Throttled { retry_after } => {
                let retry_after = *retry_after;
                return SinkError { throttled: true, ..SinkError::new(to, error).after(retry_after) };
            }
            IngestionError::Unavailable { retry_after, .. } => {
                let retry_after = *retry_after;
                return SinkError::new(to, error).after(retry_after);
            }
            IngestionError::Invalid { .. } | IngestionError::Refused { .. } | IngestionError::Client { .. } => {
                "look at the `[logs]` section of the server's settings"
            }
        };
        SinkError::new(format!("{to}: {remedy}"), error).after(Some(PERSON_PAUSE))
    }
}

impl Service for AzureMonitor {
    type Request = Vec<u8>;

    fn prepare(&self, records: &[Record], now_ms: u64) -> (usize, Vec<u8>) {
        plan::request(records, &self.source, now_ms)
    }

    fn check(&mut self, _: u64) -> Answering<'_, ()> {
        Box::pin(async move { self.client.check().await.map_err(|error| self.error(error)) })
    }

    fn send<'a>(&'a mut self, _: &'a [Record], request: Vec<u8>, now_ms: u64) -> Answering<'a, Verdict> {
        Box::pin(async move {
            match self.client.put(&request, seconds(now_ms)).await {
                Ok(()) => Ok(Verdict::Taken),
                Err(IngestionError::Invalid { message, .. }) => Ok(Verdict::Refused(message)),
                Err(error) => Err(self.error(error)),
            }
        })
    }
}
