//! From a plan to the sink that it names. The one place that knows every kind of sink, and where credentials come from.

use super::batch::BatchLimits;
use super::remote::{PERSON_PAUSE, Remote};
use super::sink::{Sink, SinkError};
use super::{
    azure_monitor::AzureMonitor, cloudwatch, cloudwatch::CloudWatch, file_sink, file_sink::FileSink, otlp::Otlp,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use towline_cloud::Platform;
use towline_cloud_api::CredentialError;
use towline_cloud_api::aws::{self, CredentialSource};
use towline_cloud_api::azure::{self, TokenSource};
use towline_protocol::assignment::{LogPlan, Sink as SinkPlan};
use towline_protocol::ids::ClusterId;

/// What lets a host into a log store, as its owner set it. Files of its own; none: what the machine itself is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// AWS keys, in the form of `~/.aws/credentials`.
    pub aws_credentials_file: Option<PathBuf>,
    /// A bearer token for Azure Monitor.
    pub azure_token_file: Option<PathBuf>,
    /// A bearer token for an OTLP endpoint.
    pub otlp_token_file: Option<PathBuf>,
    /// The machine's own identity, where its platform gives it one.
    pub identity: Option<MachineIdentity>,
}

/// Where a machine of a cloud learns who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineIdentity {
    /// The cloud.
    pub platform: Platform,
    /// The base address of its metadata service.
    pub url: String,
}

impl Access {
    /// The metadata service, if this is a machine of that cloud.
    fn metadata_of(&self, platform: Platform) -> Option<&str> {
        self.identity.as_ref().filter(|identity| identity.platform == platform).map(|identity| identity.url.as_str())
    }
}

/// Where lines go, and as what.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The store.
    pub sink: SinkPlan,
    /// The cluster that they are of.
    pub cluster: ClusterId,
    /// Their stream.
    pub stream: String,
    /// What lets this host in.
    pub access: Access,
}

impl Destination {
    /// Of a signed plan.
    pub fn new(plan: &LogPlan, cluster: &ClusterId, access: &Access) -> Self {
        let (sink, stream) = (plan.sink.clone(), plan.stream.clone());
        Self { sink, cluster: cluster.clone(), stream, access: access.clone() }
    }
}

/// How much such a sink is handed at once.
pub fn limits(sink: &SinkPlan) -> BatchLimits {
    match sink {
        SinkPlan::AzureMonitor { .. } | SinkPlan::Otlp { .. } => BatchLimits::REMOTE,
        SinkPlan::Cloudwatch { .. } => BatchLimits { piece: cloudwatch::PIECE, ..BatchLimits::REMOTE },
        SinkPlan::File { .. } => BatchLimits::DEFAULT,
    }
}

/// Make the sink; what it refuses goes into the file `quarantine`.
pub fn open(destination: &Destination, quarantine: &Path) -> Result<Box<dyn Sink>, SinkError> {
    let Destination { sink, cluster, stream, access } = destination;
    Ok(match sink {
        SinkPlan::AzureMonitor { endpoint, rule, table } => {
            let tokens = token_source(access)?;
            let service = AzureMonitor::new([endpoint, rule, table], cluster.as_str(), stream, tokens)?;
            Box::new(Remote::new(service, quarantine)?)
        }
        SinkPlan::Cloudwatch { region, group, endpoint } => {
            let name = format!("{cluster}/{stream}");
            let service = CloudWatch::new(region, group, endpoint.as_deref(), name, credential_source(access)?)?;
            Box::new(Remote::new(service, quarantine)?)
        }
        SinkPlan::File { directory } => Box::new(FileSink::new(directory.as_ref(), stream, file_sink::FULL)),
        SinkPlan::Otlp { endpoint } => {
            let token = access.otlp_token_file.as_deref().map(azure::file::TokenFile::new);
            Box::new(Remote::new(Otlp::new(endpoint, cluster.as_str(), stream, token)?, quarantine)?)
        }
    })
}

/// Where AWS credentials come from on this host: a file that its owner set, else the role of its instance.
fn credential_source(access: &Access) -> Result<Arc<dyn CredentialSource>, SinkError> {
    match (&access.aws_credentials_file, access.metadata_of(Platform::Aws)) {
        (Some(path), _) => Ok(Arc::new(aws::file::CredentialFile::new(path))),
        (None, Some(url)) => Ok(Arc::new(aws::metadata::Metadata::new(url).map_err(no_client)?)),
        (None, None) => Err(missing("AWS", "set `aws_credentials_file`, or `platform` on an instance, in agent.toml")),
    }
}

/// Where Azure tokens come from on this host: a file that its owner set, else the machine's managed identity.
fn token_source(access: &Access) -> Result<Arc<dyn TokenSource>, SinkError> {
    match (&access.azure_token_file, access.metadata_of(Platform::Azure)) {
        (Some(path), _) => Ok(Arc::new(azure::file::TokenFile::new(path))),
        (None, Some(url)) => Ok(Arc::new(azure::metadata::Metadata::new(url, None).map_err(no_client)?)),
        (None, None) => {
            Err(missing("Azure", "set `azure_token_file`, or `platform` on a machine there, in agent.toml"))
        }
    }
}

fn no_client(error: reqwest::Error) -> SinkError {
    SinkError::new("an HTTP client for the metadata service cannot be made", error)
}

fn missing(cloud: &'static str, remedy: &'static str) -> SinkError {
    let none = CredentialError::None { from: "this host".to_owned(), reason: "no file is set".to_owned(), remedy };
    SinkError::new(format!("the log store of {cloud} takes no lines without credentials"), none)
        .after(Some(PERSON_PAUSE))
}
