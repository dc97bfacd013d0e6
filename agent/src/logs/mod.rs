//! Where the workload's output goes.
//!
//! First light has the `file` sink only: the runner appends straight to a file outside the host's directory, so that
//! it outlives the host. Owns the path and the file's creation; must not read a line of it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use towline_protocol::assignment::{LogPlan, Sink};

/// Why a log file could not be made.
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

/// The file of a stream. The plan is signed, but its names still become a path: nothing but plain names passes.
pub fn file_path(plan: &LogPlan) -> Result<PathBuf, LogFileError> {
    let Sink::File { directory } = &plan.sink;
    if !Path::new(directory).is_absolute() {
        return Err(LogFileError::Directory(directory.clone()));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if plan.stream.is_empty() || plan.stream.len() > 128 || !plan.stream.bytes().all(plain) {
        return Err(LogFileError::Stream(plan.stream.chars().take(80).collect()));
    }
    Ok(Path::new(directory).join(format!("{}.log", plan.stream)))
}

/// Make the file if it is not there; lines of an earlier run stay.
pub fn create(plan: &LogPlan) -> Result<PathBuf, LogFileError> {
    let path = file_path(plan)?;
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
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(directory: &str, stream: &str) -> LogPlan {
        LogPlan { sink: Sink::File { directory: directory.to_owned() }, stream: stream.to_owned() }
    }

    #[test]
    fn a_stream_is_one_file_in_the_directory() {
        let path = file_path(&plan("/logs", "worker-ho-abc")).expect("a path");
        assert_eq!(path, Path::new("/logs/worker-ho-abc.log"));
    }

    #[test]
    fn refuses_streams_that_would_leave_the_directory() {
        for stream in ["", "..", "../x", "a/b", "A", "a.b", "a\0b"] {
            assert!(matches!(file_path(&plan("/logs", stream)), Err(LogFileError::Stream(_))), "{stream:?}");
        }
        assert!(matches!(file_path(&plan("logs", "a")), Err(LogFileError::Directory(_))));
    }

    #[test]
    fn keeps_the_lines_of_an_earlier_run() {
        let directory = tempfile::tempdir().expect("a directory");
        let plan = plan(&directory.path().join("deep/er").to_string_lossy(), "scheduler");
        let path = create(&plan).expect("made");
        fs::write(&path, "line\n").expect("written");
        assert_eq!(create(&plan).expect("again"), path);
        assert_eq!(fs::read_to_string(&path).expect("read"), "line\n");
    }
}
