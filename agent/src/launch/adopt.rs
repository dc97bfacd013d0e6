//! Finding a runner again after the agent was restarted, killed or upgraded. A runner counts as ours only if the boot,
//! the process's start and the one who answers on the socket all fit the journaled record: work is never started
//! twice blindly.

use crate::launch::handle::Surrounding;
use crate::launch::{RunnerError, RunnerHandle, RunnerSpec};
use crate::runner::exits::{self, ExitLine, RunnerEnd};
use crate::runner::facts::{self, RunnerRecord};
use crate::runner::leftovers;
use crate::runner::wire::StopReport;
use crate::socket;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a runner that lives may leave a question without an answer.
const SILENCE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the runner of a start that was cut off may take to answer: it listens within milliseconds of its start.
const FIND_DEADLINE: Duration = Duration::from_secs(1);
/// How often it is asked within that time.
const SILENCE_POLL: Duration = Duration::from_millis(20);

/// Why a recorded runner was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It ended in order, and everything it had started ended before it.
    #[error("the runner ended in order ({reason:?})")]
    Ended {
        /// Why.
        reason: RunnerEnd,
        /// What it stopped.
        report: StopReport,
    },
    /// Its process is gone without a last word. Nothing of it lives: the kernel ended Dask with it, and whatever else
    /// was left was killed on this occasion. Nobody wrote down how the processes ended.
    #[error("the runner (pid {pid}) died without a last word; {killed} processes it had left were killed{}", told(how))]
    Gone {
        /// Which.
        pid: u32,
        /// How many processes were found and killed.
        killed: usize,
        /// What the launcher found out about its end.
        how: Option<String>,
        /// What ended with it, where the kernel did that for want of memory.
        out_of_memory: Option<String>,
    },
    /// The machine was restarted since; nothing of it lives.
    #[error("the machine was restarted since the runner was started")]
    OtherBoot,
    /// Another process answers than the one recorded, or it is for another host.
    #[error("the socket is held by another runner than the recorded one")]
    OtherRunner,
    /// The process lives but does not answer.
    #[error("the runner lives but does not answer")]
    Silent(#[from] RunnerError),
    /// The system did not say.
    #[error("the runner's state could not be read")]
    Unreadable(#[from] std::io::Error),
}

fn told(how: &Option<String>) -> String {
    how.as_ref().map(|how| format!("; {how}")).unwrap_or_default()
}

/// Take up a recorded runner again.
pub async fn adopt(record: &RunnerRecord, spec: &RunnerSpec) -> Result<RunnerHandle, AdoptError> {
    adopt_with(record, spec, Surrounding::default()).await
}

/// The same for a runner that something surrounds.
pub(super) async fn adopt_with(
    record: &RunnerRecord,
    spec: &RunnerSpec,
    around: Surrounding,
) -> Result<RunnerHandle, AdoptError> {
    if facts::boot_id()? != record.boot_id {
        return Err(AdoptError::OtherBoot);
    }
    if !record.is_alive()? {
        // Another runner may have followed; what it runs is not ours to end.
        return match RunnerHandle::hello(spec).await {
            Ok(_) => Err(AdoptError::OtherRunner),
            Err(_) => Err(last_word(record, spec).await?),
        };
    }
    let deadline = Instant::now() + SILENCE_DEADLINE;
    let (found, cluster, host) = loop {
        match RunnerHandle::hello(spec).await {
            Ok(answer) => break answer,
            // One that is about to end has closed its socket already.
            Err(_) if !record.is_alive()? => return Err(last_word(record, spec).await?),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => sleep(SILENCE_POLL).await,
        }
    };
    if found != *record || cluster != spec.cluster || host != spec.host {
        return Err(AdoptError::OtherRunner);
    }
    Ok(RunnerHandle::hold(found, spec, around))
}

/// Find the runner of a start that was cut off before it was recorded.
pub async fn find(spec: &RunnerSpec) -> Result<Option<RunnerHandle>, AdoptError> {
    // The one who started it died a while ago: what is not there by now does not come.
    find_with(spec, Surrounding::default(), FIND_DEADLINE).await
}

/// The same for a runner that something surrounds, and that has `patience` to answer.
pub(super) async fn find_with(
    spec: &RunnerSpec,
    around: Surrounding,
    patience: Duration,
) -> Result<Option<RunnerHandle>, AdoptError> {
    let deadline = Instant::now() + patience;
    loop {
        match RunnerHandle::hello(spec).await {
            Ok((_, cluster, host)) if cluster != spec.cluster || host != spec.host => {
                return Err(AdoptError::OtherRunner);
            }
            Ok((record, _, _)) => return Ok(Some(RunnerHandle::hold(record, spec, around))),
            Err(_) if Instant::now() >= deadline => return Ok(None),
            Err(_) => sleep(SILENCE_POLL).await,
        }
    }
}

/// What a dead runner wrote down last; without a last word, end whatever it left.
async fn last_word(record: &RunnerRecord, spec: &RunnerSpec) -> Result<AdoptError, std::io::Error> {
    let run_dir = socket::run_dir(&spec.host_dir);
    let end = exits::read(&run_dir)?.into_iter().rev().find_map(|line| match line {
        ExitLine::Ended { runner, reason, report, .. } if runner.is_same_start(record) => Some((reason, report)),
        _ => None,
    });
    if let Some((reason, report)) = end {
        return Ok(AdoptError::Ended { reason, report });
    }
    // It looks at every process and waits between rounds.
    let killing = tokio::task::spawn_blocking(move || leftovers::kill_all(&run_dir));
    let killed = killing.await.map_err(std::io::Error::other)??;
    Ok(AdoptError::Gone { pid: record.pid, killed, how: None, out_of_memory: None })
}
