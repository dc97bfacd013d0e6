//! The `cloudwatch` sink: one log stream `<cluster>/<stream>` for each host, in a group that must be there.
//!
//! Owns the making of the stream and a second try for events whose time the service does not like. What a legal request
//! is stands in `plan`; signing and typed errors are `towline-cloud-api`'s.

mod plan;

pub use plan::PIECE;

use super::record::Record;
use super::remote::{Answering, PERSON_PAUSE, Service, Verdict, seconds};
use super::sink::SinkError;
use std::sync::Arc;
use towline_cloud_api::aws::CredentialSource;
use towline_cloud_api::aws::logs::{Event, LogsClient, LogsError};

/// One stream of one group.
pub struct CloudWatch {
    client: LogsClient,
    group: String,
    region: String,
    stream: String,
}

impl CloudWatch {
    /// The sink for `stream` in `group`; with `endpoint` at a private address.
    pub fn new(
        region: &str,
        group: &str,
        endpoint: Option<&str>,
        stream: String,
        source: Arc<dyn CredentialSource>,
    ) -> Result<Self, SinkError> {
        let client = LogsClient::new(region, endpoint, source)
            .map_err(|error| SinkError::new("the CloudWatch endpoint is not right; correct `logs.endpoint`", error))?;
        Ok(Self { client, group: group.to_owned(), region: region.to_owned(), stream })
    }

    /// Hand events over; a stream that is missing is made.
    async fn put(&self, events: &[Event], now_ms: u64) -> Result<Vec<usize>, LogsError> {
        let now = seconds(now_ms);
        let put = self.client.put(&self.group, &self.stream, events, now).await;
        let rejected = match put {
            Err(LogsError::NotFound { .. }) => {
                self.client.create_stream(&self.group, &self.stream, now).await?;
                self.client.put(&self.group, &self.stream, events, now).await?
            }
            put => put?,
        };
        Ok(rejected.indices(events.len()))
    }

    async fn carry(&self, records: &[Record], events: Vec<Event>, now_ms: u64) -> Result<Verdict, SinkError> {
        let judged = |done: Result<Vec<usize>, LogsError>| match done {
            Ok(rejected) => Ok(Ok(rejected)),
            Err(LogsError::Invalid { kind, .. }) => Ok(Err(Verdict::Refused(kind))),
            Err(error) => Err(self.error(error)),
        };
        let rejected = match judged(self.put(&events, now_ms).await)? {
            Err(refused) => return Ok(refused),
            Ok(rejected) if rejected.is_empty() => return Ok(Verdict::Taken),
            Ok(rejected) => rejected,
        };
        // Too old, mostly because the group keeps its events for a shorter time: they are told as of now.
        let again = rejected.iter().filter_map(|index| records.get(*index));
        match judged(self.put(&plan::restamped(again, self.client.service_time(now_ms)), now_ms).await)? {
            Ok(still) if still.is_empty() => Ok(Verdict::Taken),
            Ok(still) => Ok(Verdict::Partly(still.iter().filter_map(|index| rejected.get(*index)).copied().collect())),
            Err(_) => Ok(Verdict::Partly(rejected)),
        }
    }

    fn error(&self, error: LogsError) -> SinkError {
        let Self { group, region, .. } = self;
        let to = format!("CloudWatch Logs in {region} does not take lines for the group {group}");
        let remedy = match &error {
            LogsError::Credentials(_) | LogsError::Denied { .. } => {
                "give this host a role with logs:CreateLogStream and logs:PutLogEvents for the group, or set \
                 `aws_credentials_file` in agent.toml"
            }
            LogsError::NotFound { .. } => {
                let made = format!("aws logs create-log-group --region {region} --log-group-name {group}");
                return SinkError::new(format!("{to}: make the group with `{made}`"), error).after(Some(PERSON_PAUSE));
            }
            LogsError::Throttled { retry_after } => {
                let retry_after = *retry_after;
                return SinkError { throttled: true, ..SinkError::new(to, error).after(retry_after) };
            }
            LogsError::Unavailable { retry_after, .. } => {
                let retry_after = *retry_after;
                return SinkError::new(to, error).after(retry_after);
            }
            LogsError::Invalid { .. } | LogsError::Refused { .. } | LogsError::Client { .. } => {
                "look at the `[logs]` section of the server's settings"
            }
        };
        SinkError::new(format!("{to}: {remedy}"), error).after(Some(PERSON_PAUSE))
    }
}

impl Service for CloudWatch {
    type Request = Vec<Event>;

    fn prepare(&self, records: &[Record], now_ms: u64) -> (usize, Vec<Event>) {
        // Events are dated by the service's clock as far as it is known; the client corrects its own signature itself.
        let events = plan::request(records, self.client.service_time(now_ms));
        (events.len(), events)
    }

    fn check(&mut self, now_ms: u64) -> Answering<'_, ()> {
        Box::pin(async move {
            let made = self.client.create_stream(&self.group, &self.stream, seconds(now_ms)).await;
            made.map_err(|error| self.error(error))
        })
    }

    fn send<'a>(&'a mut self, records: &'a [Record], request: Vec<Event>, now_ms: u64) -> Answering<'a, Verdict> {
        Box::pin(self.carry(records, request, now_ms))
    }
}
