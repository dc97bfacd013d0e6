//! Notices of the platform: that it will take this host away, and when.
//!
//! Owns one task that asks the metadata service every few seconds, and the answer to Azure that it may begin. What an
//! answer means is decided in a pure file for each platform. Must not act on a notice: the owner does. The platform's
//! clock says when; from the moment a notice is seen, boot time counts.

mod announced;
mod aws;
mod azure;
mod google;
#[cfg(test)]
mod tests;

pub use announced::{Announced, MARGIN};

use crate::config::Machine;
use crate::runner::facts::unix_time;
use crate::runtime::{RuntimeError, story};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_cloud::Platform;
use towline_cloud_api::http::HttpError;
use towline_cloud_api::{aws as aws_api, azure as azure_api, google as google_api};
use towline_protocol::report::Interruption;
use towline_protocol::time::UnixSeconds;

/// Unanswered questions in a row after which a person should know: a notice would be missed.
const SILENT: u32 = 60;

/// The answer to Azure may take this long.
const APPROVE: Duration = Duration::from_secs(10);

/// What is announced, and how the platform calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What the host tells.
    pub interruption: Interruption,
    /// The platform's id of it, where it wants to hear that we are ready.
    pub event: Option<String>,
}

/// A metadata service that gives notices.
#[derive(Debug)]
pub enum Source {
    /// EC2's.
    Aws(aws_api::metadata::Metadata),
    /// Azure's.
    Azure(azure_api::metadata::Metadata),
    /// Google's.
    Google(google_api::metadata::Metadata),
}

impl Source {
    /// The one of this machine; none: nobody takes it away with notice.
    pub fn of(machine: &Machine) -> Result<Option<Arc<Self>>, RuntimeError> {
        let url = machine.metadata_url();
        let made = match machine.notices() {
            Platform::Aws => aws_api::metadata::Metadata::new(url).map(Self::Aws),
            Platform::Azure => azure_api::metadata::Metadata::new(url, None).map(Self::Azure),
            Platform::Google => google_api::metadata::Metadata::new(url).map(Self::Google),
            Platform::Container | Platform::Local | Platform::OnPrem => return Ok(None),
        };
        made.map(|source| Some(Arc::new(source))).map_err(RuntimeError::Metadata)
    }

    /// Ask once, for who only wants to know whether it answers.
    pub async fn is_reached(&self) -> Result<(), HttpError> {
        Read::new(self).ask(self, unix_time()).await.map(drop)
    }

    /// Between two questions. Google gives half a minute of notice, Azure as little for spot, AWS two minutes.
    fn interval(&self) -> Duration {
        match self {
            Self::Aws(_) => Duration::from_secs(5),
            Self::Azure(_) => Duration::from_secs(2),
            Self::Google(_) => Duration::from_secs(1),
        }
    }
}

/// What each platform's answers have come to so far.
enum Read {
    Aws(aws::Notices),
    Azure(Option<azure::Notices>),
    Google(google::Notices),
}

impl Read {
    fn new(source: &Source) -> Self {
        match source {
            Source::Aws(_) => Self::Aws(aws::Notices::default()),
            Source::Azure(_) => Self::Azure(None),
            Source::Google(_) => Self::Google(google::Notices::default()),
        }
    }

    /// Ask once.
    async fn ask(&mut self, source: &Source, now: UnixSeconds) -> Result<Option<Notice>, HttpError> {
        match (self, source) {
            (Self::Aws(notices), Source::Aws(metadata)) => {
                let action = metadata.glance(aws::ACTION).await?;
                let rebalance = metadata.glance(aws::REBALANCE).await?;
                notices.handle(action.as_deref(), rebalance.is_some(), now);
                Ok(notices.poll())
            }
            (Self::Azure(notices), Source::Azure(metadata)) => {
                if notices.is_none() {
                    *notices = Some(azure::Notices::new(metadata.compute().await?.name));
                }
                let events = metadata.events().await?;
                Ok(notices.as_mut().and_then(|notices| notices.handle(&events, now)))
            }
            (Self::Google(notices), Source::Google(metadata)) => {
                let preempted = metadata.glance(google::PREEMPTED).await?;
                notices.handle(preempted.as_deref(), now);
                Ok(notices.poll())
            }
            // Made from the same source.
            _ => Ok(None),
        }
    }
}

/// Ask until `stop`; what is announced goes to `told`, and nothing where nothing stands any more.
pub async fn watch(source: Option<Arc<Source>>, told: watch::Sender<Option<Notice>>, stop: CancellationToken) {
    let Some(source) = source else {
        // The sender lives as long as the others do: a closed channel would wake its reader for ever.
        return stop.cancelled().await;
    };
    let (mut read, mut unanswered) = (Read::new(&source), 0u32);
    loop {
        let asked = tokio::select! {
            asked = read.ask(&source, unix_time()) => asked,
            () = stop.cancelled() => return,
        };
        match asked {
            Ok(notice) => {
                unanswered = 0;
                told.send_if_modified(|known| std::mem::replace(known, notice.clone()) != notice);
            }
            // What was announced stands: silence takes nothing back.
            Err(error) => {
                unanswered = unanswered.saturating_add(1);
                tracing::debug!(component = "interruption", error = story(&error), "notices could not be read");
                if unanswered == SILENT {
                    tracing::warn!(
                        component = "interruption",
                        error = story(&error),
                        "the metadata service does not answer: this host will not know when it is taken away"
                    );
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(source.interval()) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Tell Azure that what it announced may begin: nothing of the cluster is here any more. Others do not ask.
pub async fn approve(source: Option<&Arc<Source>>, notice: Option<&Notice>) {
    let (Some(Source::Azure(metadata)), Some(event)) =
        (source.map(Arc::as_ref), notice.and_then(|notice| notice.event.as_ref()))
    else {
        return;
    };
    match tokio::time::timeout(APPROVE, metadata.approve(event)).await {
        Ok(Ok(())) => tracing::info!(component = "interruption", "the platform may begin"),
        // It begins anyhow, at the time that it said.
        Ok(Err(error)) => {
            tracing::info!(
                component = "interruption",
                error = story(&error),
                "the platform did not hear that it may begin"
            );
        }
        Err(_) => tracing::info!(component = "interruption", "the platform did not hear in time that it may begin"),
    }
}
