//! The names of a stream's files. A stream's name holds no dot, so that what follows the first one is ours.

use std::io;
use std::path::Path;

/// The file that is being written.
pub fn current(stream: &str) -> String {
    format!("{stream}.jsonl")
}

/// A full file.
pub fn numbered(stream: &str, number: u64) -> String {
    format!("{stream}.{number:06}.jsonl")
}

/// The number in the name of a full file of `stream`.
fn number(stream: &str, name: &str) -> Option<u64> {
    name.strip_prefix(stream)?.strip_prefix('.')?.strip_suffix(".jsonl")?.parse().ok()
}

/// One more than the highest number in `directory`. Numbers of removed files come again only when all are gone.
pub fn next_number(directory: &Path, stream: &str) -> io::Result<u64> {
    let mut highest = 0;
    for entry in std::fs::read_dir(directory)? {
        let found = entry?.file_name().to_str().and_then(|name| number(stream, name));
        highest = highest.max(found.unwrap_or(0));
    }
    Ok(highest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_sort_by_their_number_and_belong_to_one_stream() {
        assert_eq!(numbered("worker-a", 12), "worker-a.000012.jsonl");
        assert_eq!(number("worker-a", "worker-a.000012.jsonl"), Some(12));
        assert_eq!(number("worker-a", "worker-a.1234567.jsonl"), Some(1_234_567));
        for name in ["worker-a.jsonl", "worker-ab.000001.jsonl", "worker-a.x.jsonl", "worker-a.000001.jsonl.tmp"] {
            assert_eq!(number("worker-a", name), None, "{name}");
        }
    }

    #[test]
    fn a_number_follows_the_highest() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(next_number(directory.path(), "a").expect("read"), 1);
        for name in ["a.000007.jsonl", "a.jsonl", "b.000009.jsonl"] {
            std::fs::write(directory.path().join(name), "").expect("written");
        }
        assert_eq!(next_number(directory.path(), "a").expect("read"), 8);
    }
}
