//! The runner's record of what it started and how it ended: `run/exits.jsonl`, appended and fsynced before anybody is
//! told. It outlives the runner and is the truth about exits, whatever init systems remember.

use crate::runner::facts::RunnerRecord;
use crate::runner::wire::StopReport;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use towline_protocol::report::ProcessRecord;
use towline_protocol::time::UnixSeconds;

const NAME: &str = "exits.jsonl";

/// The longest record that is read: some hundred bytes a line, some lines a process.
const LONGEST: u64 = 16 << 20;

/// One line of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExitLine {
    /// The runner ended after all its processes had.
    Ended {
        /// Which runner.
        runner: RunnerRecord,
        /// Why.
        reason: RunnerEnd,
        /// What it stopped.
        report: StopReport,
        /// When.
        at: UnixSeconds,
    },
    /// A process ended.
    Exited {
        /// Which runner's.
        runner: RunnerRecord,
        /// The process, with its exit.
        process: ProcessRecord,
    },
    /// A process was started.
    Started {
        /// Which runner's.
        runner: RunnerRecord,
        /// The process.
        process: ProcessRecord,
    },
}

/// Why a runner ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerEnd {
    /// No agent spoke for `agent_lost`.
    AgentLost,
    /// A signal asked for it.
    Signalled,
    /// The agent asked for it.
    Told,
}

/// The open record.
#[derive(Debug)]
pub struct ExitLog {
    file: File,
    runner: RunnerRecord,
}

impl ExitLog {
    /// Open for appending; made when it is not there.
    pub fn open(run_dir: &Path, runner: RunnerRecord) -> io::Result<Self> {
        let path = run_dir.join(NAME);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        if std::fs::read(&path)?.last().is_some_and(|last| *last != b'\n') {
            // A crash cut the last line; the next one must not be glued to it.
            file.write_all(b"\n")?;
        }
        Ok(Self { file, runner })
    }

    /// A process was started.
    pub fn started(&mut self, process: &ProcessRecord) -> io::Result<()> {
        self.append(&ExitLine::Started { runner: self.runner.clone(), process: process.clone() })
    }

    /// A process ended.
    pub fn exited(&mut self, process: &ProcessRecord) -> io::Result<()> {
        self.append(&ExitLine::Exited { runner: self.runner.clone(), process: process.clone() })
    }

    /// The runner itself ends; nothing of it lives.
    pub fn ended(&mut self, reason: RunnerEnd, report: StopReport, at: UnixSeconds) -> io::Result<()> {
        self.append(&ExitLine::Ended { runner: self.runner.clone(), reason, report, at })
    }

    fn append(&mut self, line: &ExitLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        // One write: a crash leaves at most one cut line, which readers skip.
        self.file.write_all(&bytes)?;
        self.file.sync_data()
    }
}

/// Read a host's record. Lines that a crash cut are skipped; no record is an empty one.
pub fn read(run_dir: &Path) -> io::Result<Vec<ExitLine>> {
    // Where Dask runs as another user, that user can write here: nothing that is opened may block, lead away or never end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(run_dir.join(NAME));
    let file = match opened {
        Ok(file) if file.metadata()?.is_file() => file.take(LONGEST),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the record of exits is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        lines.extend(serde_json::from_slice::<ExitLine>(&line?).ok());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::assignment::RoleKind;
    use towline_protocol::report::ExitRecord;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join(NAME);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
        read(directory.path()).expect_err("a pipe that nobody writes");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("linked");
        read(directory.path()).expect_err("a link");
    }

    #[test]
    fn a_line_cut_by_a_crash_hides_no_other_line() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let runner = RunnerRecord::of_this_process().expect("own record");
        let mut process = ProcessRecord {
            name: "worker-0".into(),
            role: RoleKind::Worker,
            pid: 4242,
            exit: None,
            out_of_memory: None,
        };
        let mut log = ExitLog::open(directory.path(), runner.clone()).expect("opens");
        log.started(&process).expect("written");
        drop(log);
        let path = directory.path().join(NAME);
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes.extend_from_slice(b"{\"kind\":\"exi");
        std::fs::write(&path, bytes).expect("writable");
        let mut log = ExitLog::open(directory.path(), runner.clone()).expect("opens again");
        process.exit = Some(ExitRecord { code: None, signal: Some(9), at: UnixSeconds(7) });
        log.exited(&process).expect("written");
        let lines = read(directory.path()).expect("readable");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], ExitLine::Exited { runner, process });
    }
}
