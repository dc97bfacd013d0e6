//! The `file` sink: JSON lines in `<directory>/<stream>.jsonl`, outside the host's own directory, so that they outlive
//! the host. Full files become `<stream>.000001.jsonl` and so on (`names`); removing old ones is the control plane's.
//!
//! Owns the files of its stream: nobody else writes them. What a crash cut off at the end is removed before the next
//! batch, which brings it again.

mod names;

use super::record::{Body, Record};
use super::sink::{Sink, SinkError};
use std::borrow::Cow;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use towline_protocol::log_record::LogRecord;

/// A file of this length is full: large enough to be few, small enough to be looked through.
pub const FULL: u64 = 64 * 1024 * 1024;

/// One stream's files.
#[derive(Debug)]
pub struct FileSink {
    directory: PathBuf,
    stream: String,
    full: u64,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    /// The length that is acknowledged; what is beyond it is no batch.
    length: u64,
}

impl FileSink {
    /// The sink for `stream` below `directory`, whose files are full at `full` bytes. Opens nothing yet.
    pub fn new(directory: &Path, stream: &str, full: u64) -> Self {
        Self { directory: directory.to_owned(), stream: stream.to_owned(), full, current: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(names::current(&self.stream))
    }

    fn open(&self) -> io::Result<Current> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.path();
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(nofollow).open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
        }
        let (length, whole) = (file.metadata()?.len(), end_of_lines(&file)?);
        if whole < length {
            file.set_len(whole)?;
        }
        // The name must be as durable as what will be acknowledged.
        File::open(&self.directory)?.sync_all()?;
        Ok(Current { file, length: whole })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        // A file that somebody removed takes writes that nobody can read.
        let removed = |current: &Current| current.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        let current = match self.current.take() {
            Some(current) if !removed(&current) => current,
            _ => self.open()?,
        };
        let current = self.current.insert(current);
        let written = current.file.write_all(bytes).and_then(|()| current.file.sync_data());
        if let Err(error) = written {
            // Gives a full disk its blocks back; a half batch that stays is cut off when the file is opened again.
            let _ = current.file.set_len(current.length);
            self.current = None;
            return Err(error);
        }
        current.length += bytes.len() as u64;
        Ok(current.length)
    }

    /// Give a full file its number. The next batch makes a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let number = names::next_number(&self.directory, &self.stream)?;
        std::fs::rename(self.path(), self.directory.join(names::numbered(&self.stream, number)))?;
        self.current = None;
        File::open(&self.directory)?.sync_all()
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError> {
        let path = self.path();
        let failed = |source| SinkError::new(format!("{} cannot be written", path.display()), source);
        let bytes = encode(&self.stream, batch).map_err(failed)?;
        let length = self.append(&bytes).map_err(failed)?;
        if length >= self.full
            && let Err(error) = self.rotate()
        {
            // The batch is safe; the file grows on and is tried again with the next one.
            tracing::warn!(component = "logs", path = %path.display(), %error, "a full log file could not be put aside");
        }
        Ok(batch.len())
    }
}

fn encode(stream: &str, batch: &[Record]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(batch.iter().map(|record| record.weight() + 64).sum());
    for record in batch {
        let (line, part, more, gap) = match &record.body {
            Body::Gap(gap) => (None, 0, false, Some(*gap)),
            Body::Line { text, part, more } => (Some(Cow::Borrowed(text.as_str())), *part, *more, None),
        };
        let stream = Cow::Borrowed(stream);
        let record = LogRecord { time: record.time_ms, stream, id: record.id, line, part, more, gap };
        serde_json::to_writer(&mut bytes, &record)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The length up to and with the last line end.
fn end_of_lines(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut page = vec![0; 64 * 1024];
    while end > 0 {
        let begin = end.saturating_sub(page.len() as u64);
        let part = &mut page[..usize::try_from(end - begin).map_err(io::Error::other)?];
        file.read_exact_at(part, begin)?;
        if let Some(last) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
