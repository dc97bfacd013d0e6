//! From the workload's output to its log store.
//!
//! Dask's processes write into a *spool* in the host's directory, so that neither the agent's death nor a slow store
//! blocks them or loses a line (`docs/decisions/0006-…`). The runner notes the time beside it (`index`); the agent's
//! shipper (`shipper`, one thread) reads lines (`spool`, `lines`, `times`), collects them (`batch`), hands them to a
//! `sink`, moves the `cursor` and frees what was delivered (`shipping`).
//!
//! Owns the files of a spool and their names. Must not let a line of it into the agent's own log or to the control plane.

pub mod azure_monitor;
pub mod batch;
pub mod cap;
pub mod cloudwatch;
pub mod cursor;
pub mod file_sink;
pub mod index;
pub mod lines;
pub mod live;
pub mod message;
pub mod open;
pub mod otlp;
mod quarantine;
pub mod record;
mod remote;
pub mod shipper;
pub mod shipping;
pub mod sink;
pub mod spool;
pub mod times;

pub use open::{Access, Destination, MachineIdentity};
pub use shipper::{Flushed, Shipper};

use crate::launch::Users;
use crate::shared;
use shipping::ShipError;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use towline_protocol::assignment::{LogPlan, Sink};

/// Where the spools of a host lie, below its directory.
const SPOOLS: &str = "spool";

/// Why a spool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LogFileError {
    /// The stream is no plain file name.
    #[error("the log stream {0:?} is not a plain name of a-z, 0-9 and '-'")]
    Stream(String),
    /// The directory is not absolute.
    #[error("the log directory {0:?} is not absolute")]
    Directory(String),
    /// A file operation failed.
    #[error("log file {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The files of one spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    /// What the workload writes.
    pub spool: PathBuf,
    /// When it wrote it.
    pub index: PathBuf,
    /// How far it is delivered.
    pub cursor: PathBuf,
    /// Records that the log store refuses.
    pub quarantine: PathBuf,
}

impl LogFiles {
    /// The files beside a spool.
    pub fn of(spool: &Path) -> Self {
        Self {
            spool: spool.to_owned(),
            index: index_of(spool),
            cursor: spool.with_extension("cursor"),
            quarantine: spool.with_extension("quarantine.jsonl"),
        }
    }

    /// The files of a plan's stream on the host in `host_dir`. The plan is signed, but its names still become paths:
    /// nothing but plain names passes.
    pub fn planned(host_dir: &Path, plan: &LogPlan) -> Result<Self, LogFileError> {
        if let Sink::File { directory } = &plan.sink
            && !Path::new(directory).is_absolute()
        {
            return Err(LogFileError::Directory(directory.clone()));
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if plan.stream.is_empty() || plan.stream.len() > 128 || !plan.stream.bytes().all(plain) {
            return Err(LogFileError::Stream(plan.stream.chars().take(80).collect()));
        }
        Ok(Self::of(&host_dir.join(SPOOLS).join(format!("{}.log", plan.stream))))
    }
}

/// The index beside a spool.
pub fn index_of(spool: &Path) -> PathBuf {
    spool.with_extension("index")
}

/// Make a plan's spool if it is not there; lines of an earlier run stay. With `users`, Dask's user may append and not read.
pub fn create(host_dir: &Path, plan: &LogPlan, users: Option<Users>) -> Result<PathBuf, LogFileError> {
    let LogFiles { spool: path, index, .. } = LogFiles::planned(host_dir, plan)?;
    let failed = |source| LogFileError::Io { path: path.clone(), source };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
    // A file that someone replaced by a link or pipe must not get the workload's output.
    let kind = fs::symlink_metadata(&path).map_err(failed)?.file_type();
    if !kind.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")));
    }
    if users.is_some() {
        // The runner cannot make a file in this folder.
        OpenOptions::new().append(true).create(true).mode(0o600).open(&index).map_err(failed)?;
        shared::file(&path, shared::APPEND, users).map_err(failed)?;
        shared::file(&index, shared::READ_APPEND, users).map_err(failed)?;
    }
    Ok(path)
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> ShipError + use<> {
    let path = path.to_owned();
    move |source| ShipError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(directory: &str, stream: &str) -> LogPlan {
        LogPlan { sink: Sink::File { directory: directory.to_owned() }, stream: stream.to_owned() }
    }

    #[test]
    fn a_stream_has_its_files_below_the_host() {
        let files = LogFiles::planned(Path::new("/h"), &plan("/logs", "worker-ho-abc")).expect("paths");
        assert_eq!(files.spool, Path::new("/h/spool/worker-ho-abc.log"));
        assert_eq!(files.index, Path::new("/h/spool/worker-ho-abc.index"));
        assert_eq!(files.cursor, Path::new("/h/spool/worker-ho-abc.cursor"));
    }

    #[test]
    fn refuses_streams_that_would_leave_the_directory() {
        let refused = |directory, stream| LogFiles::planned(Path::new("/h"), &plan(directory, stream));
        for stream in ["", "..", "../x", "a/b", "A", "a.b", "a\0b"] {
            assert!(matches!(refused("/logs", stream), Err(LogFileError::Stream(_))), "{stream:?}");
        }
        assert!(matches!(refused("logs", "a"), Err(LogFileError::Directory(_))));
    }

    #[test]
    fn keeps_the_lines_of_an_earlier_run() {
        let directory = tempfile::tempdir().expect("a directory");
        let host = directory.path().join("deep/er");
        let plan = plan("/logs", "scheduler");
        let path = create(&host, &plan, None).expect("made");
        fs::write(&path, "line\n").expect("written");
        assert_eq!(create(&host, &plan, None).expect("again"), path);
        assert_eq!(fs::read_to_string(&path).expect("read"), "line\n");
    }
}
