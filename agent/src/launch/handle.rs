//! The agent's end of a runner: asks over the runner's socket, one connection per question, and speaks every few
//! seconds so that the runner knows of an agent. Dropping the handle ends the heartbeats and nothing else.

use crate::launch::{LaunchError, LaunchPlan, RunnerSpec};
use crate::runner::facts::RunnerRecord;
use crate::runner::wire::{self, Reply, Request, RunnerStatus, StopReport};
use crate::socket;
use futures_util::future::BoxFuture;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{ClusterId, HostId};

/// How often the agent speaks; a third of `agent_lost` when that is shorter.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Answers other than to a stop need no waiting for anybody.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// What a stop may take beyond its grace: killing, reaping, and the last record.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// Between a runner's last answer and its end lie milliseconds.
const GONE_POLL: Duration = Duration::from_millis(2);

/// Why a runner could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// No connection, a broken one, or an answer that cannot be read.
    #[error("the runner's socket failed")]
    Socket(#[from] io::Error),
    /// No answer in time.
    #[error("the runner did not answer within {after:?}")]
    Silent {
        /// How long it was waited for.
        after: Duration,
    },
    /// An answer to another question.
    #[error("the runner's answer does not fit the question")]
    WrongReply,
}

/// What a launcher has left to do when its runner has ended in order.
pub(super) trait Aftermath: fmt::Debug + Send + Sync {
    /// Do it, within a deadline of its own; a failure is only worth a line in the log.
    fn clear(&self) -> BoxFuture<'_, ()>;
}

/// What is around a runner, by its launcher. Nothing for a plain process.
#[derive(Clone, Debug, Default)]
pub(super) struct Surrounding {
    /// The interpreter there, in place of the plan's.
    pub(super) python: Option<PathBuf>,
    /// What is left to do at the end.
    pub(super) aftermath: Option<Arc<dyn Aftermath>>,
}

impl Surrounding {
    /// Do what is left to do.
    pub(super) async fn clear(&self) {
        if let Some(aftermath) = &self.aftermath {
            aftermath.clear().await;
        }
    }
}

/// Where a runner listens, and who may answer there.
#[derive(Clone, Debug)]
struct Place {
    run_dir: PathBuf,
    /// Another user than the agent's own.
    user: Option<u32>,
}

impl Place {
    fn of(spec: &RunnerSpec) -> Self {
        Self { run_dir: socket::run_dir(&spec.host_dir), user: spec.users.map(|users| users.dask) }
    }

    async fn connect(&self) -> io::Result<(UnixStream, Option<u32>)> {
        socket::connect(&self.run_dir, socket::RUNNER, self.user).await
    }
}

/// A runner that this agent speaks to.
#[derive(Debug)]
pub struct RunnerHandle {
    record: RunnerRecord,
    place: Place,
    around: Surrounding,
    heartbeats: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl RunnerHandle {
    pub(super) fn hold(record: RunnerRecord, spec: &RunnerSpec, around: Surrounding) -> Self {
        let heartbeats = CancellationToken::new();
        let period = HEARTBEAT.min(spec.agent_lost / 3).max(Duration::from_millis(10));
        let task = tokio::spawn(speak(Place::of(spec), period, heartbeats.clone()));
        Self { record, place: Place::of(spec), around, heartbeats, task: Some(task) }
    }

    /// Which process it is; journal it before anything is launched.
    pub fn record(&self) -> &RunnerRecord {
        &self.record
    }

    /// Start a plan's processes. Returns when they are started; `status` says when they have joined. Refused as
    /// [`crate::launch::Refusal::Busy`] while processes live: after an adoption look at `status` first.
    pub async fn launch(&self, plan: &LaunchPlan) -> Result<(), LaunchError> {
        let python = self.around.python.clone().unwrap_or_else(|| plan.python.clone());
        let request = Request::Launch { plan: Box::new(LaunchPlan { python, ..plan.clone() }) };
        match ask(&self.place, &request, ANSWER_DEADLINE).await? {
            Reply::Done => Ok(()),
            Reply::Refused { why } => Err(why.into()),
            _ => Err(RunnerError::WrongReply.into()),
        }
    }

    /// How the processes are.
    pub async fn status(&self) -> Result<RunnerStatus, RunnerError> {
        match ask(&self.place, &Request::Status, ANSWER_DEADLINE).await? {
            Reply::Status { status } => Ok(status),
            _ => Err(RunnerError::WrongReply),
        }
    }

    /// End all processes: asked to at first, killed after `grace`. Returns when the runner is gone as well; from then
    /// on `adopt` says [`crate::launch::AdoptError::Ended`].
    pub async fn stop(&self, grace: Duration) -> Result<StopReport, RunnerError> {
        let Reply::Stopped { report } = ask(&self.place, &Request::Stop { grace }, grace + STOP_MARGIN).await? else {
            return Err(RunnerError::WrongReply);
        };
        let gone = async {
            while self.record.is_alive()? {
                sleep(GONE_POLL).await;
            }
            Ok(report)
        };
        let gone = timeout(ANSWER_DEADLINE, gone).await;
        let report = gone.map_err(|_| RunnerError::Silent { after: ANSWER_DEADLINE })?;
        self.around.clear().await;
        report
    }

    /// Let go of the runner, which lives on, and wait until the heartbeats have ended.
    pub async fn release(mut self) {
        self.heartbeats.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }

    /// Who answers in this host's directory.
    pub(super) async fn hello(spec: &RunnerSpec) -> Result<(RunnerRecord, ClusterId, HostId), RunnerError> {
        let ask = async {
            let (stream, listener) = Place::of(spec).connect().await?;
            match converse(stream, &Request::Hello).await? {
                Reply::Hello { record, cluster, host } => Ok((as_seen_from_here(record, listener)?, cluster, host)),
                _ => Err(RunnerError::WrongReply),
            }
        };
        timeout(ANSWER_DEADLINE, ask).await.map_err(|_| RunnerError::Silent { after: ANSWER_DEADLINE })?
    }
}

/// The record with the number that the process has outside of its container, which the kernel translates for us. The one
/// who listens must have begun when it says that it did.
fn as_seen_from_here(said: RunnerRecord, listener: Option<u32>) -> Result<RunnerRecord, RunnerError> {
    let record = RunnerRecord { pid: listener.ok_or(RunnerError::WrongReply)?, ..said };
    if record.is_alive()? { Ok(record) } else { Err(RunnerError::WrongReply) }
}

impl Drop for RunnerHandle {
    fn drop(&mut self) {
        self.heartbeats.cancel();
    }
}

async fn speak(place: Place, period: Duration, stop: CancellationToken) {
    loop {
        // Both branches are cancel-safe: a sleep and a token.
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(period) => {}
        }
        if let Err(error) = ask(&place, &Request::Heartbeat, ANSWER_DEADLINE).await {
            // The runner's absence shows in `status`, where it is handled.
            tracing::debug!(error = %error, "the runner did not take a heartbeat");
        }
    }
}

async fn ask(place: &Place, request: &Request, deadline: Duration) -> Result<Reply, RunnerError> {
    let ask = async {
        let (stream, _) = place.connect().await?;
        converse(stream, request).await
    };
    timeout(deadline, ask).await.map_err(|_| RunnerError::Silent { after: deadline })?
}

async fn converse(mut stream: UnixStream, request: &Request) -> Result<Reply, RunnerError> {
    wire::write(&mut stream, request).await?;
    Ok(wire::read(&mut stream).await?)
}
