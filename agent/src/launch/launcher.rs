//! The ways to start a runner, as one trait.
//!
//! A launcher decides only *how the runner is started*, so that whatever happens to the agent never touches Dask; what a
//! runner then is and does is the same under each. One file per launcher beside this one.

use super::{AdoptError, LaunchError, RunnerHandle, RunnerRecord, RunnerSpec, StopReport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::sync::Arc;
use towline_protocol::report::{Failure, FailureKind};

/// Which launcher; the setting `launcher` in `agent.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LauncherKind {
    /// A container of Docker or Podman.
    Docker,
    /// A process of this machine, beside the agent.
    #[default]
    Process,
    /// A unit of systemd.
    Systemd,
}

impl LauncherKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Docker, Self::Process, Self::Systemd];

    /// The word in settings, logs and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
            Self::Systemd => "systemd",
        }
    }
}

impl fmt::Display for LauncherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A launcher that cannot work on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the launcher {launcher} cannot work here: {reason}; {remedy}")]
pub struct Unfit {
    /// Which.
    pub launcher: LauncherKind,
    /// What is missing.
    pub reason: String,
    /// What a person can do.
    pub remedy: String,
}

impl Unfit {
    /// What the control plane is told. It is not tried again: only a person can help, and waiting costs money.
    pub fn failure(&self) -> Failure {
        let subject = format!("{}: {}", self.launcher, self.reason);
        Failure { kind: FailureKind::LauncherUnfit, subject: Some(subject), retryable: false }
    }
}

/// A launcher that is known not to work here: the agent stays up and says so whenever it is to start something.
#[derive(Clone, Debug)]
pub struct Lacking(pub Unfit);

impl Launcher for Lacking {
    fn kind(&self) -> LauncherKind {
        self.0.launcher
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Unfit>> {
        async { Err(self.0.clone()) }.boxed()
    }

    fn start<'a>(&'a self, _: &'a RunnerSpec) -> BoxFuture<'a, Result<RunnerHandle, LaunchError>> {
        async { Err(self.0.clone().into()) }.boxed()
    }

    fn adopt<'a>(
        &'a self,
        record: &'a RunnerRecord,
        spec: &'a RunnerSpec,
    ) -> BoxFuture<'a, Result<RunnerHandle, AdoptError>> {
        // What another launcher started before the setting was changed is found like any other.
        super::adopt(record, spec).boxed()
    }

    fn kill<'a>(&'a self, _: &'a RunnerRecord) -> BoxFuture<'a, io::Result<StopReport>> {
        async { Err(io::Error::new(io::ErrorKind::Unsupported, self.0.clone())) }.boxed()
    }
}

/// A way to start runners and to find them again.
pub trait Launcher: Send + Sync + 'static {
    /// Which it is.
    fn kind(&self) -> LauncherKind;

    /// Whether it can work here. Asked before each start and by `towline doctor`.
    fn check(&self) -> BoxFuture<'_, Result<(), Unfit>>;

    /// Start a runner and wait until it answers. It outlives the caller.
    fn start<'a>(&'a self, spec: &'a RunnerSpec) -> BoxFuture<'a, Result<RunnerHandle, LaunchError>>;

    /// Take up a recorded runner again.
    fn adopt<'a>(
        &'a self,
        record: &'a RunnerRecord,
        spec: &'a RunnerSpec,
    ) -> BoxFuture<'a, Result<RunnerHandle, AdoptError>>;

    /// Find the runner of a start that was cut off before it was recorded. None: nothing of it is left, and what could not
    /// answer was taken away.
    fn find<'a>(&'a self, spec: &'a RunnerSpec) -> BoxFuture<'a, Result<Option<RunnerHandle>, AdoptError>> {
        super::find(spec).boxed()
    }

    /// Kill a recorded runner that does not answer, and all that it started; says how many processes that were.
    fn kill<'a>(&'a self, record: &'a RunnerRecord) -> BoxFuture<'a, io::Result<StopReport>>;
}

/// A launcher that several parts hold.
pub type AnyLauncher = Arc<dyn Launcher>;
