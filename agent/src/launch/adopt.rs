//! Finding a runner again after the agent was restarted, killed or upgraded. A runner counts as ours only if the boot,
//! the process's start and the one who answers on the socket all fit the journaled record: work is never started
//! twice blindly.

use crate::launch::{RunnerError, RunnerHandle, RunnerSpec};
use crate::runner::exits::{self, ExitLine, RunnerEnd};
use crate::runner::facts::{self, RunnerRecord};
use crate::runner::socket;
use crate::runner::wire::StopReport;

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
    /// Its process is gone without a last word. The kernel ended Dask with it, but nobody wrote down how.
    #[error("the runner (pid {pid}) died without a last word")]
    Gone {
        /// Which.
        pid: u32,
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

/// Take up a recorded runner again.
pub async fn adopt(record: &RunnerRecord, spec: &RunnerSpec) -> Result<RunnerHandle, AdoptError> {
    if facts::boot_id()? != record.boot_id {
        return Err(AdoptError::OtherBoot);
    }
    if !record.is_alive()? {
        return Err(last_word(record, spec)?);
    }
    let (found, cluster, host) = match RunnerHandle::hello(&spec.host_dir).await {
        Ok(answer) => answer,
        // It may have ended while we asked.
        Err(_) if !record.is_alive()? => return Err(last_word(record, spec)?),
        Err(error) => return Err(error.into()),
    };
    if found != *record || cluster != spec.cluster || host != spec.host {
        return Err(AdoptError::OtherRunner);
    }
    Ok(RunnerHandle::hold(found, spec))
}

fn last_word(record: &RunnerRecord, spec: &RunnerSpec) -> Result<AdoptError, std::io::Error> {
    let lines = exits::read(&socket::run_dir(&spec.host_dir))?;
    let end = lines.into_iter().rev().find_map(|line| match line {
        ExitLine::Ended { runner, reason, report, .. } if runner == *record => Some((reason, report)),
        _ => None,
    });
    Ok(match end {
        Some((reason, report)) => AdoptError::Ended { reason, report },
        None => AdoptError::Gone { pid: record.pid },
    })
}
