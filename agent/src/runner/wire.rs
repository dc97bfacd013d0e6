//! What agent and runner say to each other: one JSON line each way per connection. Owns the types and the reading
//! and writing of lines; knows no process and no socket path.

use crate::launch::LaunchPlan;
use crate::runner::facts::RunnerRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use towline_protocol::ids::{ClusterId, HostId, Position};
use towline_protocol::report::{Failure, ProcessRecord};

/// Longest line either side reads; a plan is far below it.
const MAX_LINE: u64 = 256 * 1024;

/// What a runner is told once, on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerSpec {
    /// The host's directory; the runner lives in `run/` below it.
    pub host_dir: PathBuf,
    /// The cluster the processes belong to.
    pub cluster: ClusterId,
    /// The host.
    pub host: HostId,
    /// How long no agent may speak before the runner ends everything.
    pub agent_lost: Duration,
    /// The assignment it was started for.
    pub position: Position,
    /// Set where agent and runner are of different users; none: both are of the same.
    pub users: Option<Users>,
    /// Files of the host that its processes append to. In a container nothing else beside its own folders can be written.
    #[serde(default)]
    pub outputs: Vec<PathBuf>,
}

/// Two users, by number: the agent's, and the one that people's code runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// The agent's. It is in the group of `dask`, which owns what both use.
    pub agent: u32,
    /// The runner's and Dask's.
    pub dask: u32,
}

/// What the agent asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Only a sign of life.
    Heartbeat,
    /// Who are you?
    Hello,
    /// Start the processes of this plan.
    Launch {
        /// What to start.
        plan: Box<LaunchPlan>,
    },
    /// How are they?
    Status,
    /// End everything, then yourself.
    Stop {
        /// How long the processes may take before they are killed.
        grace: Duration,
    },
}

/// What the runner answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// Done.
    Done,
    /// Who the runner is and what it is for.
    Hello {
        /// The process.
        record: RunnerRecord,
        /// The cluster.
        cluster: ClusterId,
        /// The host.
        host: HostId,
    },
    /// Not done, and why.
    Refused {
        /// Why.
        why: Refusal,
    },
    /// How the processes are.
    Status {
        /// The status.
        status: RunnerStatus,
    },
    /// All processes ended.
    Stopped {
        /// How.
        report: StopReport,
    },
}

/// Why a runner did not start a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// Processes of an earlier plan live, or the runner is ending.
    #[error("the runner already runs a plan or is ending")]
    Busy,
    /// A file that Dask needs at once is not there.
    #[error("{path} is not there yet")]
    FileMissing {
        /// Which.
        path: PathBuf,
    },
    /// A directory or file of the run could not be made.
    #[error("{path} could not be written: {reason}")]
    FileWrite {
        /// Which.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The plan contradicts itself.
    #[error("the plan cannot be run: {reason}")]
    Plan {
        /// In what.
        reason: String,
    },
    /// Another process listens on the scheduler's port.
    #[error("port {port} is taken")]
    PortTaken {
        /// Which.
        port: u16,
    },
    /// The program did not start.
    #[error("{program} did not start: {reason}")]
    Spawn {
        /// Which.
        program: PathBuf,
        /// The system's words.
        reason: String,
    },
}

/// How a runner's processes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerStatus {
    /// Every process of the plan, also ended ones.
    pub processes: Vec<ProcessRecord>,
    /// The scheduler serves, or every worker of the plan is registered. Taken back when one leaves.
    pub joined: bool,
    /// What went wrong with a process that ended by itself, if one did.
    pub failure: Option<Failure>,
}

/// How a stop went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopReport {
    /// Processes of the plan that the stop ended.
    pub stopped: u32,
    /// Of these, how many had to be killed.
    pub killed: u32,
}

/// Read one line and what it says. An end of the stream before a line is `UnexpectedEof`.
pub async fn read<T: DeserializeOwned>(stream: impl tokio::io::AsyncRead + Unpin) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the line does not end, or is too long"));
    }
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Write one line.
pub async fn write(mut stream: impl AsyncWrite + Unpin, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_a_line_without_end_and_one_that_is_too_long() {
        let cut = read::<Request>(&b"{\"op\":\"status\"}"[..]).await.expect_err("no newline");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        let long = vec![b' '; usize::try_from(MAX_LINE).expect("small") + 10];
        let long = read::<Request>(&long[..]).await.expect_err("too long");
        assert_eq!(long.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn refuses_unknown_operations_and_fields() {
        for line in
            ["{\"op\":\"exec\"}\n", "{\"op\":\"stop\",\"grace\":{\"secs\":1,\"nanos\":0},\"argv\":[]}\n", "[]\n"]
        {
            assert!(read::<Request>(line.as_bytes()).await.is_err(), "{line}");
        }
    }
}
