//! The agent: one per host, makes true what signed assignments ask for.
//!
//! Pure parts decide (`reconcile`, `idle`, `launch::command`), thin parts do; `runtime` is the one owner of all state.
//! Must not know the control plane's inside or how a host is enrolled. Driven by `towline-agent` and `towline agent`:
//! both run bootstrap first, then [`run`].

pub mod cluster;
pub mod config;
pub mod doctor;
pub mod ending;
pub mod environments;
pub mod idle;
pub mod interruption;
pub mod journal;
pub mod launch;
pub mod logs;
mod metrics;
pub mod observe;
pub mod reconcile;
pub mod runner;
pub mod runtime;
mod shared;
pub mod simulate;
mod socket;
pub mod status;
pub mod vitals;
pub mod watch;

mod accounts;
mod exit;
mod lock;

use launch::RunnerProgram;
use lock::{HostLock, LockError};
use runtime::{Departure, Host, HostError, Parties, RuntimeError};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// How to run an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The host's directory, bootstrapped.
    pub host_dir: PathBuf,
    /// The program that is a runner when started with these arguments.
    pub runner: RunnerProgram,
    /// The user that Dask runs as where it is another than ours; started by the launcher `systemd` only.
    pub dask_user: Option<String>,
    /// Asks the agent to go; the host and its Dask processes stay.
    pub shutdown: CancellationToken,
}

/// How an agent's run ended when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentExit {
    /// The host signed off and its instance was told to end.
    HostEnded,
    /// Asked to go; the runner lives on and the next agent adopts it.
    Stopped,
}

impl From<AgentExit> for ExitCode {
    /// Both are success: systemd must restart neither.
    fn from(_: AgentExit) -> Self {
        ExitCode::SUCCESS
    }
}

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The user that Dask is to run as.
    #[error(transparent)]
    Account(#[from] accounts::AccountError),
    /// The host's directory is not what it must be.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Another agent has the host, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The run failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Run the agent of a bootstrapped host until the host ends or `shutdown` is asked for.
pub async fn run(options: AgentOptions) -> Result<AgentExit, AgentError> {
    towline_transport::install_crypto_provider();
    // Held to the end: two agents must never run one host.
    let lock = HostLock::take(&options.host_dir)?;
    let users = options.dask_user.as_deref().map(accounts::users).transpose()?;
    let host = Host::open(&options.host_dir, users)?;
    let parties = Parties::real(&host, options.runner)?;
    let departure = Box::pin(runtime::run(host, parties, options.shutdown)).await?;
    lock.release();
    Ok(match departure {
        Departure::Ended => AgentExit::HostEnded,
        Departure::Stopped => AgentExit::Stopped,
    })
}
