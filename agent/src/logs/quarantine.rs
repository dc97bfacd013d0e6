//! Records that a log store refuses whatever is tried, kept beside the spool as the `file` sink would write them.
//!
//! Owns the file. What is put here is counted as a gap in the store; the file is for whoever wants to know what it was.

use super::message::Message;
use super::record::Record;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// No more than this is kept: a store that refuses everything must not fill the disk. The gaps are counted all the same.
const FULL: u64 = 64 * 1024 * 1024;

/// The file for one stream.
#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
    file: Option<File>,
}

impl Quarantine {
    /// The file at `path`; made when it is needed.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Put records aside, durably. False: it is full.
    pub fn keep<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> io::Result<bool> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?,
        };
        let file = self.file.insert(file);
        if file.metadata()?.len() >= FULL {
            return Ok(false);
        }
        let mut lines = Vec::new();
        for record in records {
            Message::new(record, Some(record.time_ms)).append_to(&mut lines);
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_data()?;
        Ok(true)
    }
}
