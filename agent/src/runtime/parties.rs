//! The agent's outside parties as the runtime sees them: runners, environments, and the platform's end.
//!
//! Traits here, the real ones below; tests bring their own. Each call is one attempt: deadlines, retries and meaning
//! are the caller's.

use super::blobs::SessionBlobs;
use super::host::Host;
use crate::launch::{
    AdoptError, AnyLauncher, DockerLauncher, LaunchError, LaunchPlan, LauncherKind, ProcessLauncher, RunnerEnd,
    RunnerError, RunnerHandle, RunnerProgram, RunnerRecord, RunnerSpec, RunnerStatus, StopReport, SystemdLauncher,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use towline_cloud::Terminator;
use towline_protocol::assignment::EnvironmentSpec;
use towline_protocol::ids::Digest;
use towline_protocol::report::{Failure, FailureKind};

/// An attempt that failed: what the control plane is told, and the whole story for our own log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{story}")]
pub struct StepError {
    /// For the report.
    pub failure: Failure,
    /// For the log; may name paths, never secrets.
    pub story: String,
}

impl StepError {
    /// A failure without a subject.
    pub fn new(kind: FailureKind, retryable: bool, story: impl Into<String>) -> Self {
        Self { failure: Failure { kind, subject: None, retryable }, story: story.into() }
    }
}

/// An error and its causes on one line.
pub fn story(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        out.push_str(": ");
        out.push_str(&error.to_string());
        cause = error.source();
    }
    out
}

/// Why a recorded runner could not be taken up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptFailure {
    /// It ended its children and itself, because no agent had spoken for too long.
    AgentLost,
    /// It and its children are known to be gone.
    Gone(String),
    /// It and its children are gone, because the kernel ended them for want of memory: what, and the story.
    OutOfMemory(String, String),
    /// Nobody knows what its children do.
    Unknown(String),
}

/// Starts runners and finds them again.
pub trait Runners: Send + Sync + 'static {
    /// Start one, or hold the one that an earlier, interrupted start left behind.
    fn start(&self, spec: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, StepError>>;
    /// Find a recorded one again.
    fn adopt(&self, record: RunnerRecord, spec: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, AdoptFailure>>;
    /// Find what a start left that was cut off before it was recorded. Where nothing is left of it, it is gone.
    fn find(&self, spec: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, AdoptFailure>>;
    /// Kill a recorded one that does not answer, and all that it started.
    fn kill(&self, record: RunnerRecord) -> BoxFuture<'_, Result<StopReport, StepError>>;
}

/// One runner that we speak with.
pub trait Runner: Send + Sync + 'static {
    /// Which process it is.
    fn record(&self) -> RunnerRecord;
    /// Start a plan's processes.
    fn launch(&self, plan: LaunchPlan) -> BoxFuture<'_, Result<(), StepError>>;
    /// How are they?
    fn status(&self) -> BoxFuture<'_, Result<RunnerStatus, StepError>>;
    /// End them, then itself.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<StopReport, StepError>>;
}

/// Environments on this host.
pub trait Environments: Send + Sync + 'static {
    /// Whole ones.
    fn present(&self) -> Vec<Digest>;
    /// The interpreter of a whole one.
    fn python(&self, digest: &Digest) -> Option<PathBuf>;
    /// Interpreters that environments can be made with, as `implementation-version`.
    fn interpreters(&self) -> Vec<String>;
    /// Make one present.
    fn sync(&self, spec: EnvironmentSpec, blobs: Arc<SessionBlobs>) -> BoxFuture<'_, Result<PathBuf, StepError>>;
}

/// Everybody.
#[derive(Clone)]
pub struct Parties {
    /// Runners.
    pub runners: Arc<dyn Runners>,
    /// Environments.
    pub environments: Arc<dyn Environments>,
    /// The platform.
    pub terminator: Arc<dyn Terminator>,
}

impl std::fmt::Debug for Parties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parties")
    }
}

/// Runners by the launcher of this host.
#[derive(Clone)]
pub struct Launched(pub AnyLauncher);

impl Runners for Launched {
    fn start(&self, spec: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, StepError>> {
        async move {
            if let Err(unfit) = self.0.check().await {
                return Err(StepError { failure: unfit.failure(), story: story(&unfit) });
            }
            match self.0.start(&spec).await {
                Ok(handle) => Ok(Arc::new(handle) as Arc<dyn Runner>),
                // We died between its start and the journal. It has launched nothing: that needs the record.
                Err(LaunchError::AlreadyRunning { record, .. }) => match self.0.adopt(&record, &spec).await {
                    Ok(handle) => Ok(Arc::new(handle) as Arc<dyn Runner>),
                    Err(error) => Err(StepError::new(FailureKind::AdoptionFailed, true, story(&error))),
                },
                Err(error) => Err(StepError { failure: error.failure(), story: story(&error) }),
            }
        }
        .boxed()
    }

    fn adopt(&self, record: RunnerRecord, spec: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, AdoptFailure>> {
        async move {
            match self.0.adopt(&record, &spec).await {
                Ok(handle) => Ok(Arc::new(handle) as Arc<dyn Runner>),
                Err(AdoptError::Ended { reason: RunnerEnd::AgentLost, .. }) => Err(AdoptFailure::AgentLost),
                Err(AdoptError::Gone { out_of_memory: Some(what), how, .. }) => {
                    Err(AdoptFailure::OutOfMemory(what, how.unwrap_or_default()))
                }
                Err(error @ (AdoptError::Ended { .. } | AdoptError::Gone { .. } | AdoptError::OtherBoot)) => {
                    Err(AdoptFailure::Gone(story(&error)))
                }
                Err(error) => Err(AdoptFailure::Unknown(story(&error))),
            }
        }
        .boxed()
    }

    fn find(&self, spec: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, AdoptFailure>> {
        async move {
            match self.0.find(&spec).await {
                Ok(Some(handle)) => Ok(Arc::new(handle) as Arc<dyn Runner>),
                Ok(None) => Err(AdoptFailure::Gone("the start that was cut off left no runner".to_owned())),
                Err(error) => Err(AdoptFailure::Unknown(story(&error))),
            }
        }
        .boxed()
    }

    fn kill(&self, record: RunnerRecord) -> BoxFuture<'_, Result<StopReport, StepError>> {
        async move {
            self.0.kill(&record).await.map_err(|error| {
                StepError::new(FailureKind::AdoptionFailed, false, format!("the runner cannot be killed: {error}"))
            })
        }
        .boxed()
    }
}

impl Runner for RunnerHandle {
    fn record(&self) -> RunnerRecord {
        RunnerHandle::record(self).clone()
    }

    fn launch(&self, plan: LaunchPlan) -> BoxFuture<'_, Result<(), StepError>> {
        async move {
            RunnerHandle::launch(self, &plan)
                .await
                .map_err(|error| StepError { failure: error.failure(), story: story(&error) })
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<RunnerStatus, StepError>> {
        async move { RunnerHandle::status(self).await.map_err(silent) }.boxed()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<StopReport, StepError>> {
        async move { RunnerHandle::stop(self, grace).await.map_err(silent) }.boxed()
    }
}

fn silent(error: RunnerError) -> StepError {
    StepError::new(FailureKind::AdoptionFailed, true, story(&error))
}

impl Parties {
    /// The real ones.
    pub fn real(host: &Host, program: RunnerProgram) -> Result<Self, super::RuntimeError> {
        let environments = super::store::open(host)?;
        Ok(Self {
            runners: Arc::new(Launched(launcher(host, program))),
            environments,
            terminator: host.settings.machine.terminator(&host.directory).map_err(super::RuntimeError::Metadata)?,
        })
    }
}

/// The launcher that this host's settings name. One that cannot work says so when it is to start something.
fn launcher(host: &Host, program: RunnerProgram) -> AnyLauncher {
    match host.settings.launcher {
        LauncherKind::Process => Arc::new(ProcessLauncher { host_dir: host.directory.clone(), program }),
        LauncherKind::Systemd => Arc::new(SystemdLauncher { socket: host.settings.launch_socket.clone() }),
        LauncherKind::Docker => Arc::new(DockerLauncher {
            host: host.user_data.host.clone(),
            host_dir: host.directory.clone(),
            program,
            store: host.settings.store.clone(),
            settings: host.settings.docker.clone(),
        }),
    }
}
