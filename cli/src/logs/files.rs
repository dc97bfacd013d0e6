//! Which log files there are. Owns their names; reads no line.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One file of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is now.
    pub path: PathBuf,
    /// Which file it is, whatever it is called.
    pub inode: u64,
    /// Its place among the stream's files; the one that is being written comes last.
    pub number: u64,
    /// How long it was.
    pub length: u64,
    /// When it was last written, in Unix milliseconds.
    pub written_ms: u64,
}

/// The files of each stream, the oldest first.
pub type Listing = BTreeMap<String, Vec<LogFile>>;

/// Look into a directory.
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut found = Listing::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((stream, number)) = name.to_str().and_then(parse) else { continue };
        let metadata = match entry.metadata() {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            // Put aside or removed since the folder was read: the next look finds it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let written =
            metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
        found.entry(stream.to_owned()).or_default().push(LogFile {
            path: entry.path(),
            inode: metadata.ino(),
            number,
            length: metadata.len(),
            written_ms: u64::try_from(written.as_millis()).unwrap_or(u64::MAX),
        });
    }
    found.values_mut().for_each(|files| files.sort_by_key(|file| file.number));
    Ok(found)
}

/// The stream and the place of a file: `worker-a.jsonl` is being written, `worker-a.000001.jsonl` is full.
fn parse(name: &str) -> Option<(&str, u64)> {
    let rest = name.strip_suffix(".jsonl")?;
    match rest.split_once('.') {
        None => (!rest.is_empty()).then_some((rest, u64::MAX)),
        Some((stream, number)) => Some((stream, number.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_stream_and_the_place() {
        assert_eq!(parse("worker-ho-a.jsonl"), Some(("worker-ho-a", u64::MAX)));
        assert_eq!(parse("worker-ho-a.000012.jsonl"), Some(("worker-ho-a", 12)));
        for name in ["notes.txt", ".jsonl", "a.x.jsonl", "a.1.jsonl.tmp"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_file_that_is_written_comes_last() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["a.jsonl", "a.000002.jsonl", "a.000010.jsonl", "b.jsonl", "c.txt"] {
            std::fs::write(directory.path().join(name), "").expect("written");
        }
        std::fs::create_dir(directory.path().join("d.jsonl")).expect("made");
        let found = list(directory.path()).expect("listed");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        let numbers: Vec<u64> = found["a"].iter().map(|file| file.number).collect();
        assert_eq!(numbers, [2, 10, u64::MAX]);
    }
}
