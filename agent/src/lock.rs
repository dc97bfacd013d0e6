//! One agent per host: the lock file, and the note that says which process holds it.
//!
//! Owns `agent.lock` and `agent.pid`. The lock is the truth (the kernel drops it with the process); the note is for
//! the backend, which ends a silent agent by pid and start time.

use crate::launch::RunnerRecord;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the host could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent runs this host.
    #[error("another agent runs the host in {}; stop it first (its process id is in agent.pid)", host_dir.display())]
    Held {
        /// The host's directory.
        host_dir: PathBuf,
    },
    /// A file operation failed.
    #[error("{} cannot be locked or written", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The held lock.
#[derive(Debug)]
pub struct HostLock {
    file: File,
    note: PathBuf,
}

impl HostLock {
    /// Take the lock of a host without waiting, and write the note.
    pub fn take(host_dir: &Path) -> Result<Self, LockError> {
        let path = host_dir.join("agent.lock");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Io { path, source }
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held { host_dir: host_dir.to_owned() }),
            Err(error) => return Err(failed(&path)(error.into())),
        }
        let note = host_dir.join("agent.pid");
        let me = RunnerRecord::of_this_process().map_err(failed(&note))?;
        let text = serde_json::to_vec(&me).expect("a record holds only numbers and a string");
        towline_transport::keys::write_secret(&note, &text).map_err(failed(&note))?;
        Ok(Self { file, note })
    }

    /// Let go in order: first the note, then the lock.
    pub fn release(self) {
        // Nobody is hurt by a stale note: its start time names a process that is gone.
        let _ = fs::remove_file(&self.note);
        drop(self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_second_agent_while_the_first_holds_the_host() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = HostLock::take(directory.path()).expect("taken");
        let note: RunnerRecord =
            serde_json::from_slice(&fs::read(directory.path().join("agent.pid")).expect("a note")).expect("JSON");
        assert_eq!(note.pid, std::process::id());
        assert!(matches!(HostLock::take(directory.path()), Err(LockError::Held { .. })));
        first.release();
        HostLock::take(directory.path()).expect("free again").release();
        assert!(!directory.path().join("agent.pid").exists());
    }
}
