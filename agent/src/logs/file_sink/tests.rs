//! The `file` sink on a real file system, also on a full one.

use super::*;
use std::process::Command;

fn line(id: u64, text: &str) -> Record {
    Record { id, time_ms: 1000 + id, body: Body::Line { text: text.to_owned(), part: 0, more: false } }
}

fn read(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).expect("readable");
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str::<LogRecord<'_>>(line).expect("a record").id).collect()
}

#[test]
fn what_a_crash_cut_off_is_not_glued_to_the_next_batch() {
    let directory = tempfile::tempdir().expect("a directory");
    let logs = directory.path().join("deep/er");
    let path = logs.join("a.jsonl");
    FileSink::new(&logs, "a", FULL).write(&[line(1, "x"), line(2, "y")]).expect("written");
    let whole = std::fs::read(&path).expect("there");
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut]).expect("cut");
        FileSink::new(&logs, "a", FULL).write(&[line(3, "z")]).expect("written");
        let mut ids: Vec<u64> = (1..=2).take(whole[..cut].iter().filter(|byte| **byte == b'\n').count()).collect();
        ids.push(3);
        assert_eq!(read(&path), ids, "cut at {cut}");
    }
}

#[test]
fn full_files_are_put_aside_in_order_and_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    for id in 0..10 {
        // A new sink each time: as after a restart of the agent.
        FileSink::new(directory.path(), "a", 100).write(&[line(id, "twenty characters...")]).expect("written");
    }
    let mut names: Vec<_> = std::fs::read_dir(directory.path()).expect("there").flatten().map(|e| e.path()).collect();
    names.sort();
    assert_eq!(names.len(), 5);
    let ids: Vec<u64> = names.iter().flat_map(|name| read(name)).collect();
    assert_eq!(ids, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_removed_file_is_made_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut sink = FileSink::new(directory.path(), "a", FULL);
    sink.write(&[line(1, "x")]).expect("written");
    std::fs::remove_file(directory.path().join("a.jsonl")).expect("removed");
    sink.write(&[line(2, "y")]).expect("written");
    assert_eq!(read(&directory.path().join("a.jsonl")), [2]);
}

#[test]
fn refuses_a_link_in_the_place_of_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("a.jsonl")).expect("linked");
    let error = FileSink::new(directory.path(), "a", FULL).write(&[line(1, "x")]).expect_err("refused");
    assert!(error.to_string().contains("a.jsonl"), "{error}");
}

/// A file system of one megabyte, which root can make; elsewhere the test says so and on CI fails.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let done = Command::new("mount").args(mount).arg(directory.path()).output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Self(directory));
        }
        assert!(std::env::var_os("CI").is_none(), "this test mounts a tmpfs and needs root on CI");
        eprintln!("skipped: needs root to mount a tmpfs");
        None
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_whole_batches_and_goes_on_when_there_is_room() {
    let Some(tiny) = Tiny::mount() else { return };
    let mut sink = FileSink::new(tiny.0.path(), "a", FULL);
    let ballast = tiny.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 512 * 1024]).expect("room for it");
    let text = "x".repeat(50_000);
    let mut written = Vec::new();
    let refused = loop {
        let id = written.len() as u64;
        match sink.write(&[line(id, &text)]) {
            Ok(_) => written.push(id),
            Err(error) => break error,
        }
    };
    let why = refused.source.downcast_ref::<io::Error>().expect("of the file");
    assert_eq!(why.kind(), io::ErrorKind::StorageFull);
    assert_eq!(read(&tiny.0.path().join("a.jsonl")), written, "no half batch stays");
    std::fs::remove_file(ballast).expect("removed");
    sink.write(&[line(written.len() as u64, &text)]).expect("there is room");
    written.push(written.len() as u64);
    assert_eq!(read(&tiny.0.path().join("a.jsonl")), written);
}
