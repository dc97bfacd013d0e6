//! Noting when the spool grew, once a second, so that lines keep their time however late they are shipped. Appends to the
//! index (`logs::index` has the form); must not read a line. Driven by the runner's loop.

use crate::logs::index::Entry;
use crate::logs::index_of;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use towline_protocol::time::BootTime;

/// Between two entries.
const PERIOD: Duration = Duration::from_secs(1);

/// The index of one spool.
#[derive(Debug)]
pub struct SpoolIndex {
    spool: File,
    index: File,
    noted: Option<(u64, BootTime)>,
    /// Told once: a full disk must not fill the runner's own log too.
    failed: bool,
}

impl SpoolIndex {
    /// Open, or make, the index beside `spool`, of which `file` is open.
    pub fn open(spool: &Path, file: File) -> io::Result<Self> {
        let path = index_of(spool);
        let mut index = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        if last_byte(&path)?.is_some_and(|last| last != b'\n') {
            // A crash cut the last entry; the next one must not be glued to it.
            index.write_all(b"\n")?;
        }
        Ok(Self { spool: file, index, noted: None, failed: false })
    }

    /// Write an entry if the spool has changed and the last entry is a second old, or `at_once`.
    pub fn note(&mut self, now: BootTime, at_ms: u64, at_once: bool) {
        if !at_once && self.noted.is_some_and(|(_, at)| now.since(at) < PERIOD) {
            return;
        }
        match self.append(now, at_ms) {
            Ok(()) => self.failed = false,
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                tracing::warn!(error = %error, "the time of log lines cannot be noted");
            }
            Err(_) => {}
        }
    }

    fn append(&mut self, now: BootTime, at_ms: u64) -> io::Result<()> {
        let length = self.spool.metadata()?.len();
        if self.noted.is_some_and(|(noted, _)| noted == length) {
            return Ok(());
        }
        // One write: a crash leaves at most one cut entry, which readers skip.
        self.index.write_all(Entry { length, at_ms }.encode().as_bytes())?;
        self.noted = Some((length, now));
        Ok(())
    }
}

fn last_byte(path: &Path) -> io::Result<Option<u8>> {
    let file = File::open(path)?;
    let Some(at) = file.metadata()?.len().checked_sub(1) else { return Ok(None) };
    let mut last = [0];
    file.read_exact_at(&mut last, at)?;
    Ok(Some(last[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::times::Times;

    const fn at(millis: u64) -> BootTime {
        BootTime(Duration::from_millis(millis))
    }

    #[test]
    fn growth_is_noted_once_a_second_and_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("dask.log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).expect("a spool");
        std::fs::write(index_of(&path), "99 1\n12").expect("a torn index");
        let mut index = SpoolIndex::open(&path, writer.try_clone().expect("cloned")).expect("opened");
        let mut grow = |index: &mut SpoolIndex, millis, at_once| {
            writer.write_all(b"0123456789").expect("written");
            index.note(at(millis), 1_000_000 + millis, at_once);
        };
        grow(&mut index, 0, false);
        grow(&mut index, 999, false);
        grow(&mut index, 1000, false);
        index.note(at(5000), 1_005_000, false);
        grow(&mut index, 5100, false);
        grow(&mut index, 5200, true);
        let text = std::fs::read_to_string(index_of(&path)).expect("there");
        assert_eq!(text, "99 1\n12\n10 1000000\n30 1001000\n40 1005100\n50 1005200\n");
        assert_eq!(Times::open(&index_of(&path)).expect("read").of(10).expect("read"), Some(1_001_000));
    }
}
