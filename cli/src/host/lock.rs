//! The lock that keeps two servers, or two demos, out of one directory.

use crate::files::private_directory;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// A lock on a file that the kernel drops with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Take the lock; `Ok(None)` when another process holds it.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        if let Some(directory) = path.parent() {
            private_directory(directory)?;
        }
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_freed_on_drop() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a/lock");
        let first = Lock::take(&path).expect("take");
        assert!(first.is_some());
        assert!(Lock::take(&path).expect("take").is_none());
        drop(first);
        assert!(Lock::take(&path).expect("take").is_some());
    }
}
