//! Starting a runner, finding it again, and telling it what to run. Owns the agent's side of the runner: the plan,
//! its command lines (`command`, pure), the ways to start (`launcher`, `process`,
//! `docker`), the re-adoption (`adopt`) and the handle. It starts no
//! Dask process itself, so that the agent's death touches none. Driven by the agent's runtime.

pub mod adopt;
pub mod command;
pub mod docker;
mod handle;
pub mod launcher;
mod plan;
pub mod process;
pub mod systemd;

pub use crate::runner::exits::RunnerEnd;
pub use crate::runner::facts::RunnerRecord;
pub use crate::runner::wire::{Refusal, RunnerSpec, RunnerStatus, StopReport, Users};
pub use adopt::{AdoptError, adopt, find};
use adopt::{adopt_with, find_with};
pub use docker::{DockerLauncher, DockerSettings, EngineError};
pub use handle::{RunnerError, RunnerHandle};
pub use launcher::{AnyLauncher, Lacking, Launcher, LauncherKind, Unfit};
pub use plan::{DaskKeyFiles, LaunchPlan};
pub use process::{ProcessLauncher, RunnerProgram, start};
pub use systemd::SystemdLauncher;

use std::path::PathBuf;
use towline_protocol::report::{Failure, FailureKind};

/// Why a runner or its processes were not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Another runner holds this host's directory. Adopt it or end it first.
    #[error("a runner (pid {}) already runs in {host_dir}", record.pid)]
    AlreadyRunning {
        /// Which.
        record: RunnerRecord,
        /// Where.
        host_dir: PathBuf,
    },
    /// The runner's container ended before the runner answered.
    #[error("the runner's container did not stay: {how}; its own words are in {log}")]
    Container {
        /// How it ended, or why it could not be made.
        how: String,
        /// Where to read on.
        log: PathBuf,
    },
    /// The runner's directory could not be made.
    #[error("the runner's directory {path} could not be made")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runner's process ended before it answered.
    #[error("the runner ended at once ({exit}); its own words are in {log}")]
    Ended {
        /// How.
        exit: std::process::ExitStatus,
        /// Where to read on.
        log: PathBuf,
    },
    /// The container engine did not do what it was asked.
    #[error("the runner has no container")]
    Engine(#[from] EngineError),
    /// The runner that a service manager had started ended before it answered.
    #[error("the runner ended at once; its own words are in `{words}`")]
    EndedElsewhere {
        /// The command that shows them.
        words: String,
    },
    /// Whoever starts runners here refused.
    #[error("the runner was not started: {why}")]
    NotStarted {
        /// Why.
        why: String,
    },
    /// The launcher cannot work on this host.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The runner refused the plan.
    #[error("the runner refused the plan")]
    Refused(#[from] Refusal),
    /// The runner does not answer.
    #[error("the runner does not answer")]
    Runner(#[from] RunnerError),
    /// The runner's program did not start.
    #[error("{program} did not start")]
    Spawn {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl LaunchError {
    /// What the control plane is told.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Refused(Refusal::PortTaken { port }) => {
                Failure { kind: FailureKind::PortTaken, subject: Some(port.to_string()), retryable: false }
            }
            Self::Engine(EngineError::Silent { .. } | EngineError::Failed { .. } | EngineError::Taken { .. }) => {
                Failure { kind: FailureKind::LaunchFailed, subject: None, retryable: true }
            }
            Self::Unfit(unfit) => unfit.failure(),
            _ => Failure { kind: FailureKind::LaunchFailed, subject: None, retryable: false },
        }
    }
}
