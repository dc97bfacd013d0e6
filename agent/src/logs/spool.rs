//! The file that Dask's processes write into, from the shipper's side: looked at, read, and freed from its begin.
//!
//! Owns holes: blocks that are delivered go back to the file system while writers append. Must not move anybody's place
//! in the stream. The writers have it open for appending, so their bytes land at its end whatever happens here.

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Freed at once at least, unless there is less.
const FREE_STEP: u64 = 256 * 1024;

/// How far a line end is looked for.
const LONGEST_SEARCH: u64 = 1024 * 1024;

/// The open spool.
#[derive(Debug)]
pub struct Spool {
    file: File,
    block: u64,
    freed: u64,
    can_free: bool,
}

/// What the file system says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its length.
    pub length: u64,
    /// When something was last written, in Unix milliseconds.
    pub written_ms: u64,
}

impl Spool {
    /// Open the spool at `path`. None: there is none yet.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let block = file.metadata()?.blksize().max(512);
        Ok(Some(Self { file, block, freed: 0, can_free: true }))
    }

    /// Whether delivered blocks can be given back.
    pub fn can_free(&self) -> bool {
        self.can_free
    }

    /// As on a file system without holes.
    #[cfg(test)]
    pub fn pretend_no_holes(&mut self) {
        self.can_free = false;
    }

    /// As it is now.
    pub fn look(&self) -> io::Result<Look> {
        let metadata = self.file.metadata()?;
        let millis = metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000);
        Ok(Look { length: metadata.len(), written_ms: u64::try_from(millis).unwrap_or(0) })
    }

    /// Read up to a buffer from `offset`; fewer bytes only at the end.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// The first byte at or after `offset` that is not in a hole. What lies in holes was freed before.
    pub fn first_data(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => Ok(data),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => Ok(self.look()?.length),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(error) => Err(error.into()),
        }
    }

    /// Give back the whole blocks before `end`; with `all` also a few. True: something was given back. Blocks that are
    /// only partly before it stay, so that no byte after it and no half line before it ever reads as zeros.
    pub fn free(&mut self, end: u64, all: bool) -> io::Result<bool> {
        let end = end / self.block * self.block;
        let step = if all { 1 } else { FREE_STEP };
        if !self.can_free || end < self.freed.saturating_add(step) {
            return Ok(false);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, self.freed, end - self.freed) {
            Ok(()) => {
                self.freed = end;
                Ok(true)
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.can_free = false;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Throw everything away. Writers go on at the begin.
    pub fn truncate(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// The file begins anew, so nothing of it is freed.
    pub fn begin_anew(&mut self) {
        self.freed = 0;
    }

    /// The first begin of a line at or after `offset`; `offset` itself when the line there is absurdly long.
    pub fn line_begin(&self, offset: u64, length: u64) -> io::Result<u64> {
        if offset == 0 {
            return Ok(0);
        }
        // The byte before may be the line end that makes `offset` the begin of a line.
        let mut found = None;
        self.scan(offset - 1, length.min(offset.saturating_add(LONGEST_SEARCH)), |at, bytes| {
            found = bytes.iter().position(|byte| *byte == b'\n').map(|index| at + index as u64 + 1);
            found.is_none()
        })?;
        Ok(found.unwrap_or(offset))
    }

    /// How many line ends there are from one offset up to another.
    pub fn count_lines(&self, from: u64, to: u64) -> io::Result<u64> {
        let mut lines = 0;
        self.scan(from, to, |_, bytes| {
            lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            true
        })?;
        Ok(lines)
    }

    fn scan(&self, from: u64, to: u64, mut see: impl FnMut(u64, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut at = from;
        while at < to {
            let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.read(at, &mut buffer[..want])?;
            if read == 0 || !see(at, &buffer[..read]) {
                break;
            }
            at += read as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn appender(path: &Path) -> File {
        File::options().append(true).create(true).open(path).expect("opened")
    }

    #[test]
    fn there_may_be_no_spool_yet() {
        assert!(Spool::open(Path::new("/nowhere/spool")).expect("looked").is_none());
    }

    #[test]
    fn holes_under_a_writer_harm_no_byte_that_is_not_delivered() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("spool");
        let mut writer = appender(&path);
        let mut spool = Spool::open(&path).expect("opened").expect("there");
        let write = std::thread::spawn(move || {
            for number in 0..100_000 {
                writer.write_all(format!("line {number}\n").as_bytes()).expect("written");
            }
        });
        let (mut text, mut at, mut buffer) = (Vec::new(), 0, vec![0; 30_000]);
        loop {
            let over = write.is_finished();
            let read = spool.read(at, &mut buffer).expect("read");
            text.extend_from_slice(&buffer[..read]);
            at += read as u64;
            spool.free(at, true).expect("freed");
            if over && read == 0 {
                break;
            }
        }
        write.join().expect("wrote");
        let text = String::from_utf8(text).expect("no zeros");
        assert!(text.lines().enumerate().all(|(number, line)| line == format!("line {number}")));
        assert_eq!(text.lines().count(), 100_000);
        assert!(spool.can_free(), "the tests' file system has holes");
        let metadata = std::fs::metadata(&path).expect("there");
        assert!(metadata.blocks() * 512 <= 64 * 1024, "{} bytes are still allocated", metadata.blocks() * 512);
        assert_eq!(metadata.len(), at, "its length stays");
    }

    #[test]
    fn a_half_freed_block_is_kept_and_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("spool");
        let mut spool = {
            appender(&path).write_all(&vec![b'x'; 3 * 65_536]).expect("written");
            Spool::open(&path).expect("opened").expect("there")
        };
        assert_eq!(spool.first_data(0).expect("sought"), 0);
        assert!(spool.free(65_536 * 2 + 17, true).expect("freed"));
        assert_eq!(spool.first_data(0).expect("sought"), 65_536 * 2);
        assert!(!spool.free(65_536 * 2 + 18, true).expect("looked"), "nothing more to free");
        assert!(spool.free(65_536 * 3, true).expect("freed"));
        assert_eq!(spool.first_data(0).expect("sought"), 65_536 * 3);
    }

    #[test]
    fn finds_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("spool");
        appender(&path).write_all(b"ab\ncd\nef").expect("written");
        let spool = Spool::open(&path).expect("opened").expect("there");
        let begins: Vec<u64> = (0..8).map(|at| spool.line_begin(at, 8).expect("read")).collect();
        assert_eq!(begins, [0, 3, 3, 3, 6, 6, 6, 7]);
        assert_eq!(spool.count_lines(0, 8).expect("read"), 2);
        assert_eq!(spool.count_lines(3, 5).expect("read"), 0);
    }
}
