//! The store of environments: one directory, shared by every agent on this machine.
//!
//!     environments/<digest>/     a virtual environment; whole when it holds `.towline-complete`
//!     wheels/<sha256>/<file>     wheels, shared by environments
//!     staging/<digest>/          being made; whatever lies here without its lock held is garbage
//!     locks/<digest>             held while an environment is made
//!     uv-cache/                  unpacked wheels, linked into environments
//!
//! Owns the order of steps and their durability: an environment is renamed into place when it is full, and its marker is
//! written last. A crash at any point leaves nothing that looks whole. Must not delete what another agent may use.

mod sync;

use super::error::{OpenError, SyncError};
use super::fetch;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_environments::interpreters;
use towline_environments::lock::LockedWheel;
use towline_protocol::ids::Digest;

/// The file that says that an environment is whole.
const MARKER: &str = ".towline-complete";

/// How often a lock that another agent holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A partial download of this age belongs to nobody.
const STALE_PART: Duration = Duration::from_secs(24 * 3600);

/// How far a sync has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncProgress {
    /// What is being done.
    pub step: SyncStep,
    /// How many wheels of it are done.
    pub done: u64,
    /// How many there are.
    pub total: u64,
}

/// A step of a sync, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncStep {
    /// Another agent makes the same environment.
    Waiting,
    /// Reading the lock.
    Lock,
    /// Downloading wheels.
    Fetch,
    /// Making the empty environment.
    Create,
    /// Installing the wheels.
    Install,
    /// Moving it to its place.
    Place,
    /// Marking it as whole.
    Mark,
}

/// The environments of this machine.
#[derive(Debug)]
pub struct EnvironmentStore {
    root: PathBuf,
    uv: Option<PathBuf>,
    index: reqwest::Client,
    /// Where a test ends a sync as `kill -9` would.
    #[cfg(test)]
    stop_before: std::sync::Mutex<Option<SyncStep>>,
}

impl EnvironmentStore {
    /// Open the store at `root`, making it if it is not there. `uv` is the program to use; without it, the one on PATH.
    pub fn open(root: impl Into<PathBuf>, uv: Option<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        for name in ["environments", "locks", "staging", "wheels", "uv-cache"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(|source| OpenError::Directory { path, source })?;
        }
        let index = reqwest::Client::builder()
            .connect_timeout(fetch::CONNECT)
            .user_agent(concat!("towline-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(OpenError::Client)?;
        let store = Self {
            root,
            uv,
            index,
            #[cfg(test)]
            stop_before: std::sync::Mutex::new(None),
        };
        store.sweep();
        Ok(store)
    }

    /// Environments that are whole.
    pub fn present(&self) -> Vec<Digest> {
        let entries = fs::read_dir(self.root.join("environments")).into_iter().flatten().flatten();
        let digests = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<Digest>().ok());
        let mut out: Vec<Digest> = digests.filter(|digest| self.is_whole(digest)).collect();
        out.sort();
        out
    }

    /// The interpreter of an environment, if it is whole.
    pub fn python(&self, digest: &Digest) -> Option<PathBuf> {
        let python = self.environment(digest).join("bin/python");
        (self.is_whole(digest) && python.exists()).then_some(python)
    }

    /// Interpreters that environments can be made with, as `implementation-version`. Blocking.
    pub fn interpreters() -> Vec<String> {
        let mut words: Vec<String> = interpreters::discover().iter().map(interpreters::Found::word).collect();
        words.sort();
        words.dedup();
        words
    }

    /// Take the lock of a digest. It goes with the file, so a crash frees it.
    async fn hold(&self, digest: &Digest, progress: &mut (dyn FnMut(SyncProgress) + Send)) -> Result<File, SyncError> {
        let path = self.root.join("locks").join(digest.as_str());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| SyncError::files("opened", &path, e))?;
        let mut told = false;
        loop {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SyncError::files("locked", &path, error.into())),
            }
            if !told {
                progress(SyncProgress { step: SyncStep::Waiting, done: 0, total: 0 });
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    fn is_whole(&self, digest: &Digest) -> bool {
        // The content too: a file made empty by a crash of the machine is no marker.
        fs::read(self.environment(digest).join(MARKER)).is_ok_and(|text| text == digest.as_str().as_bytes())
    }

    fn environment(&self, digest: &Digest) -> PathBuf {
        self.root.join("environments").join(digest.as_str())
    }

    fn wheel_folder(&self, sha256: &Digest) -> PathBuf {
        self.root.join("wheels").join(sha256.as_str())
    }

    fn wheel_path(&self, wheel: &LockedWheel) -> PathBuf {
        self.wheel_folder(&wheel.sha256).join(&wheel.file)
    }

    fn clear(&self, folder: &Path) -> Result<(), SyncError> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SyncError::files("removed", folder, error)),
            _ => Ok(()),
        }
    }

    /// Remove what crashed syncs left. Whatever cannot be removed is in nobody's way.
    fn sweep(&self) {
        for entry in fs::read_dir(self.root.join("staging")).into_iter().flatten().flatten() {
            let lock = self.root.join("locks").join(entry.file_name());
            let Ok(file) = OpenOptions::new().create(true).truncate(false).write(true).open(lock) else {
                continue;
            };
            if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for folder in fs::read_dir(self.root.join("wheels")).into_iter().flatten().flatten() {
            for entry in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let part = entry.file_name().to_string_lossy().ends_with(".part");
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
                if part && age.is_some_and(|age| age > STALE_PART) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
