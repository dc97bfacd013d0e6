//! When the bytes of a spool were written, as its index says. Reads the index as it grows, a page at a time.
//!
//! Owns how far the index is read; its lines are `index`'s. A spool that began anew (somebody made it shorter) has
//! entries with smaller lengths again: only those after the last such step count.

use super::index::{self, Entry};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Read at once.
const PAGE: usize = 4096;

/// An index that is read along with its spool.
#[derive(Debug)]
pub struct Times {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    ahead: VecDeque<Entry>,
    at_end: bool,
}

impl Times {
    /// The index at `path`, which need not be there yet.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut times = Self { path: path.to_owned(), file: None, at: 0, ahead: VecDeque::new(), at_end: false };
        times.begin_anew()?;
        Ok(times)
    }

    /// The spool began anew: forget what was read. Gives the last length that the index knows of the time before.
    pub fn begin_anew(&mut self) -> io::Result<Option<u64>> {
        self.ahead.clear();
        let found = scan(&self.path)?;
        (self.file, self.at, self.at_end) = (found.file, found.begin, false);
        Ok(found.last.map(|entry| entry.length))
    }

    /// The index may have grown.
    pub fn look_again(&mut self) {
        self.at_end = false;
    }

    /// When the byte at `offset` was there. None: after the last entry. Offsets must rise from call to call.
    pub fn of(&mut self, offset: u64) -> io::Result<Option<u64>> {
        loop {
            match self.ahead.front() {
                Some(entry) if entry.length > offset => return Ok(Some(entry.at_ms)),
                Some(_) => {
                    self.ahead.pop_front();
                }
                None if self.at_end => return Ok(None),
                None => self.read_on()?,
            }
        }
    }

    fn read_on(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = open(&self.path)?;
        }
        let Some(file) = &self.file else {
            self.at_end = true;
            return Ok(());
        };
        let mut page = [0; PAGE];
        let read = file.read_at(&mut page, self.at)?;
        let (entries, used) = index::decode_all(&page[..read]);
        self.at += used as u64;
        self.at_end = used == 0;
        self.ahead.extend(entries);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct Scan {
    file: Option<File>,
    /// Where the entries of the spool as it is now begin.
    begin: u64,
    /// The last entry of all.
    last: Option<Entry>,
}

fn scan(path: &Path) -> io::Result<Scan> {
    let mut found = Scan { file: open(path)?, begin: 0, last: None };
    let Some(file) = &found.file else { return Ok(found) };
    let (mut reader, mut at, mut line) = (BufReader::new(file), 0, Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
        if let Some(entry) = Entry::decode(&line[..line.len() - 1]) {
            if found.last.is_some_and(|last| entry.length < last.length) {
                found.begin = at;
            }
            found.last = Some(entry);
        }
        at += line.len() as u64;
        line.clear();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = File::options().append(true).create(true).open(path).expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn a_byte_has_the_time_of_the_first_entry_that_counts_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("index");
        let mut times = Times::open(&path).expect("opened");
        assert_eq!(times.of(0).expect("read"), None, "no index yet");
        append(&path, "10 1000\n20 2000\n3");
        assert_eq!(times.of(0).expect("read"), None, "not looked again");
        times.look_again();
        let read: Vec<_> = [0, 9, 10, 19, 20].into_iter().map(|offset| times.of(offset).expect("read")).collect();
        assert_eq!(read, [Some(1000), Some(1000), Some(2000), Some(2000), None]);
        append(&path, "0 3000\n");
        times.look_again();
        assert_eq!(times.of(20).expect("read"), Some(3000));
    }

    #[test]
    fn long_indexes_are_read_to_their_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("index");
        for second in 1..2000_u64 {
            append(&path, &Entry { length: second * 10, at_ms: second }.encode());
        }
        let mut times = Times::open(&path).expect("opened");
        for second in (1..2000).step_by(7) {
            assert_eq!(times.of(second * 10 - 1).expect("read"), Some(second));
        }
        assert_eq!(times.of(19_990).expect("read"), None);
    }

    #[test]
    fn of_a_spool_that_began_anew_only_the_new_entries_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("index");
        append(&path, "10 1\n90 2\n");
        let mut times = Times::open(&path).expect("opened");
        assert_eq!(times.begin_anew().expect("read"), Some(90));
        append(&path, "5 3\n8 4\n");
        assert_eq!(times.begin_anew().expect("read"), Some(8));
        assert_eq!(times.of(0).expect("read"), Some(3));
        let mut later = Times::open(&path).expect("opened");
        assert_eq!(later.of(6).expect("read"), Some(4));
    }
}
