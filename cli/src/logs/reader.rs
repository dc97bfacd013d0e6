//! One stream, read from its oldest file on and followed as it grows and its files are put aside.
//!
//! Owns how far the stream is read. Holds no file open between reads, so that a thousand streams need no thousand
//! descriptors. What has no line end is read again later: a writer may cut it off.

use super::Entry;
use super::files::LogFile;
use super::joiner::Joiner;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// Read at once; a record may be longer.
const BLOCK: usize = 64 * 1024;

/// A file may have been written this much later than its last line says: its lines are right to about a second.
const SLACK_MS: u64 = 5_000;

/// A stream that is being read.
#[derive(Debug)]
pub struct StreamReader {
    joiner: Joiner,
    ready: VecDeque<Entry>,
    /// Which file, and where in it.
    at: Option<(u64, u64)>,
    /// Files that end before this moment need not be read.
    since_ms: u64,
    moved: bool,
}

impl StreamReader {
    /// A stream of which nothing was read; lines before `since_ms` may be left out.
    pub fn new(stream: &str, since_ms: u64) -> Self {
        let joiner = Joiner::new(Arc::from(stream));
        Self { joiner, ready: VecDeque::new(), at: None, since_ms, moved: false }
    }

    /// The next entry; none: no more for now. `files` are the stream's, as they were listed before this reading.
    pub fn next(&mut self, files: &[LogFile]) -> io::Result<Option<Entry>> {
        while self.ready.is_empty() {
            if !self.read_on(files)? {
                break;
            }
        }
        Ok(self.ready.pop_front())
    }

    /// What is begun and will not go on.
    pub fn finish(&mut self) -> Option<Entry> {
        self.joiner.finish()
    }

    /// A file was put aside since it was listed: list again and read on.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Read a block. False: nothing more in these files.
    fn read_on(&mut self, files: &[LogFile]) -> io::Result<bool> {
        let Some((place, file)) = self.file(files) else { return Ok(false) };
        let offset = match self.at {
            Some((inode, offset)) if inode == file.inode => offset,
            _ => 0,
        };
        if offset == file.length && place + 1 == files.len() {
            // Nothing new: a thousand quiet streams cost no thousand reads at each look.
            return Ok(false);
        }
        let Some(open) = open_same(file)? else {
            self.moved = true;
            return Ok(false);
        };
        let (block, whole) = read_lines(&open, offset)?;
        for line in block[..whole].split(|byte| *byte == b'\n') {
            self.joiner.push(line, |entry| self.ready.push_back(entry));
        }
        self.at = Some((file.inode, offset + whole as u64));
        if whole > 0 {
            return Ok(true);
        }
        // A file with a follower had been put aside before it was read, so this was its end.
        let Some(next) = files.get(place + 1) else { return Ok(false) };
        self.at = Some((next.inode, 0));
        Ok(true)
    }

    /// The file to read: the one begun, or the oldest that matters. What is read twice is told by its ids.
    fn file<'f>(&self, files: &'f [LogFile]) -> Option<(usize, &'f LogFile)> {
        let begun = |file: &LogFile| self.at.is_some_and(|(inode, _)| inode == file.inode);
        let matters =
            |file: &LogFile| file.number == u64::MAX || file.written_ms.saturating_add(SLACK_MS) >= self.since_ms;
        let place = files.iter().position(begun).or_else(|| files.iter().position(matters))?;
        files.get(place).map(|file| (place, file))
    }
}

/// Open a listed file. None: its name belongs to another one by now.
fn open_same(file: &LogFile) -> io::Result<Option<File>> {
    match File::open(&file.path) {
        Ok(open) => Ok((open.metadata()?.ino() == file.inode).then_some(open)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A block from `offset`, and how much of it is whole lines. Grows until there is one, or the file ends.
fn read_lines(file: &File, offset: u64) -> io::Result<(Vec<u8>, usize)> {
    let mut block = Vec::new();
    loop {
        let filled = block.len();
        block.resize(filled + BLOCK, 0);
        let read = read_at(file, &mut block[filled..], offset + filled as u64)?;
        block.truncate(filled + read);
        if let Some(last) = block[filled..].iter().rposition(|byte| *byte == b'\n') {
            return Ok((block, filled + last + 1));
        }
        if read == 0 {
            return Ok((block, 0));
        }
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Body, files};
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::Path;

    fn append(directory: &Path, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(directory.join(name)).expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    }

    fn line(id: u64) -> String {
        format!("{{\"time\":{id},\"stream\":\"a\",\"id\":{id},\"line\":\"{id}\"}}\n")
    }

    fn read(reader: &mut StreamReader, directory: &Path) -> Vec<u64> {
        let listing = files::list(directory).expect("listed");
        let mut ids = Vec::new();
        while let Some(entry) = reader.next(listing.get("a").map_or(&[][..], Vec::as_slice)).expect("read") {
            assert!(matches!(&entry.body, Body::Line(text) if *text == entry.id.to_string()));
            ids.push(entry.id);
        }
        ids
    }

    #[test]
    fn follows_a_stream_over_files_that_are_put_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let mut reader = StreamReader::new("a", 0);
        assert!(read(&mut reader, path).is_empty());
        append(path, "a.jsonl", &(line(1) + &line(2)));
        assert_eq!(read(&mut reader, path), [1, 2]);
        append(path, "a.jsonl", &line(3));
        fs::rename(path.join("a.jsonl"), path.join("a.000001.jsonl")).expect("put aside");
        append(path, "a.jsonl", &line(4));
        assert_eq!(read(&mut reader, path), [3, 4]);
        for number in 2..5 {
            fs::rename(path.join("a.jsonl"), path.join(format!("a.{number:06}.jsonl"))).expect("put aside");
            append(path, "a.jsonl", &line(number + 3));
        }
        assert_eq!(read(&mut reader, path), [5, 6, 7]);
        assert!(!reader.take_moved());
    }

    #[test]
    fn a_file_that_is_put_aside_while_it_is_read_is_not_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        append(path, "a.jsonl", &line(1));
        let listing = files::list(path).expect("listed");
        fs::rename(path.join("a.jsonl"), path.join("a.000001.jsonl")).expect("put aside");
        append(path, "a.jsonl", &line(2));
        let mut reader = StreamReader::new("a", 0);
        assert_eq!(reader.next(&listing["a"]).expect("read"), None);
        assert!(reader.take_moved());
        assert_eq!(read(&mut reader, path), [1, 2]);
    }

    #[test]
    fn half_a_record_is_read_when_it_is_whole_also_if_it_was_cut_off_in_between() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        append(path, "a.jsonl", &(line(1) + &line(2)[..9]));
        let mut reader = StreamReader::new("a", 0);
        assert_eq!(read(&mut reader, path), [1]);
        let file = OpenOptions::new().write(true).open(path.join("a.jsonl")).expect("there");
        file.set_len(line(1).len() as u64).expect("cut");
        append(path, "a.jsonl", &line(2));
        assert_eq!(read(&mut reader, path), [2]);
    }

    #[test]
    fn records_longer_than_a_block_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let text =
            format!("{{\"time\":1,\"stream\":\"a\",\"id\":1,\"line\":\"1\",\"x\":\"{}\"}}\n", "x".repeat(200_000));
        append(directory.path(), "a.jsonl", &text);
        append(directory.path(), "a.jsonl", &line(2));
        assert_eq!(read(&mut StreamReader::new("a", 0), directory.path()), [1, 2]);
    }

    #[test]
    fn full_files_that_are_older_than_what_is_asked_for_are_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        append(path, "a.000001.jsonl", &line(1));
        append(path, "a.000002.jsonl", &line(2));
        append(path, "a.jsonl", &line(3));
        let old = fs::File::open(path.join("a.000001.jsonl")).expect("there");
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        old.set_modified(at).expect("made old");
        assert_eq!(read(&mut StreamReader::new("a", 2_000_000), path), [2, 3]);
        assert_eq!(read(&mut StreamReader::new("a", 1_003_000), path), [1, 2, 3]);
    }
}
