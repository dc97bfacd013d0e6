//! One sync, step by step: lock file, lock, wheels, empty environment, install, rename, marker.
//!
//! Drives `fetch` and `uv`; every path is the store's. A future dropped at any point leaves nothing that looks whole.

use super::{EnvironmentStore, MARKER, SyncProgress, SyncStep};
use crate::environments::error::SyncError;
use crate::environments::fetch::{self, Wanted};
use crate::environments::uv::{self, Uv};
use crate::environments::{BlobSource, GrantsRefused};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_environments::lock::{Lock, LockedWheel, WheelSource};
use towline_environments::tags::Platform;
use towline_environments::{interpreters, uv as tool};
use towline_protocol::assignment::EnvironmentSpec;
use towline_protocol::ids::Digest;
use towline_protocol::message::BlobGrant;

/// Downloads at once: more than this fills no line that one host has.
const PARALLEL: usize = 8;

/// The whole of a sync. The phase deadline of an assignment is usually shorter and its owner's affair.
const SYNC_DEADLINE: Duration = Duration::from_secs(30 * 60);

impl EnvironmentStore {
    /// Make an environment present and return its interpreter. Of several at once, on this machine, one builds and the
    /// others wait for it. Dropping the future leaves nothing that looks whole.
    pub async fn sync(
        &self,
        spec: &EnvironmentSpec,
        blobs: &dyn BlobSource,
        progress: &mut (dyn FnMut(SyncProgress) + Send),
    ) -> Result<PathBuf, SyncError> {
        if let Some(python) = self.python(&spec.digest) {
            return Ok(python);
        }
        let made = tokio::time::timeout(SYNC_DEADLINE, self.make(spec, blobs, progress)).await;
        made.map_err(|_| SyncError::Deadline(SYNC_DEADLINE))?
    }

    async fn make(
        &self,
        spec: &EnvironmentSpec,
        blobs: &dyn BlobSource,
        progress: &mut (dyn FnMut(SyncProgress) + Send),
    ) -> Result<PathBuf, SyncError> {
        let digest = &spec.digest;
        let _held = self.hold(digest, progress).await?;
        // Somebody else may have made it while this one waited.
        if let Some(python) = self.python(digest) {
            return Ok(python);
        }
        let uv = self.uv().await?;
        let lock = self.read_lock(spec, blobs, progress).await?;
        let total = lock.wheels.len() as u64;
        let python = interpreter(&lock).await?;
        self.fetch_wheels(&lock, blobs, progress).await?;
        let staging = self.root.join("staging").join(digest.as_str());
        self.clear(&staging)?;
        self.clear(&self.environment(digest))?;
        self.reach(SyncStep::Create, total, progress).await;
        let filled = async {
            uv.create(&python, &staging).await?;
            self.reach(SyncStep::Install, total, progress).await;
            self.install(&uv, &lock, &staging).await
        };
        if let Err(error) = filled.await {
            self.clear(&staging)?;
            return Err(error);
        }
        self.reach(SyncStep::Place, total, progress).await;
        self.place(digest, &staging).await?;
        self.reach(SyncStep::Mark, total, progress).await;
        self.mark(digest)?;
        self.python(digest).ok_or_else(|| SyncError::Tool {
            doing: "make an environment",
            package: None,
            reason: "it holds no bin/python".to_owned(),
        })
    }

    async fn install(&self, uv: &Uv, lock: &Lock, staging: &Path) -> Result<(), SyncError> {
        if lock.wheels.is_empty() {
            return Ok(());
        }
        let list = staging.join(".towline-wheels.txt");
        let text = uv::requirements(lock, |wheel| self.wheel_folder(&wheel.sha256));
        fs::write(&list, text).map_err(|e| SyncError::files("written", &list, e))?;
        uv.install(lock, &list, staging).await
    }

    async fn uv(&self) -> Result<Uv, SyncError> {
        let cache = self.root.join("uv-cache");
        let program = match &self.uv {
            Some(program) => Some(program.clone()),
            None => {
                let folder = self.root.clone();
                blocking(move || tool::locate(&folder)).await?
            }
        };
        Ok(Uv { program: program.ok_or(SyncError::ToolMissing)?, cache })
    }

    async fn read_lock(
        &self,
        spec: &EnvironmentSpec,
        blobs: &dyn BlobSource,
        progress: &mut (dyn FnMut(SyncProgress) + Send),
    ) -> Result<Lock, SyncError> {
        self.reach(SyncStep::Lock, 0, progress).await;
        let digest = &spec.digest;
        let path = self.root.join("locks").join(format!("{digest}.json"));
        if !fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes) == *digest) {
            let grants = grants(blobs, vec![digest.clone()]).await?;
            let what = "the lock".to_owned();
            let url = granted(&grants, digest, &what)?;
            let file = format!("{digest}.json");
            let size = None;
            let wanted = Wanted { package: what, file, url, sha256: digest.clone(), size, blob: true };
            fetch::fetch(blobs.http(), &wanted, &path).await?;
        }
        let bytes = fs::read(&path).map_err(|e| SyncError::files("read", &path, e))?;
        let unusable = |source| SyncError::Lock { digest: digest.clone(), source };
        let lock = Lock::parse_as(&bytes, digest).map_err(unusable)?;
        let locked = format!("{}-{}", lock.interpreter.implementation, lock.interpreter.version);
        let assigned = format!("{}-{}", spec.interpreter.implementation, spec.interpreter.version);
        if locked == assigned { Ok(lock) } else { Err(SyncError::OtherInterpreter { locked, assigned }) }
    }

    /// Download what is not here yet, several at once. The first failure ends the others.
    async fn fetch_wheels(
        &self,
        lock: &Lock,
        blobs: &dyn BlobSource,
        progress: &mut (dyn FnMut(SyncProgress) + Send),
    ) -> Result<(), SyncError> {
        let total = lock.wheels.len() as u64;
        self.reach(SyncStep::Fetch, total, progress).await;
        let wanted = self.lacking(lock, blobs).await?;
        let mut done = total - wanted.len() as u64;
        progress(SyncProgress { step: SyncStep::Fetch, done, total });
        let downloads = wanted.into_iter().map(|(wanted, to)| async move {
            let http = if wanted.blob { blobs.http() } else { &self.index };
            fetch::fetch(http, &wanted, &to).await
        });
        let mut downloads = stream::iter(downloads).buffer_unordered(PARALLEL);
        while downloads.try_next().await?.is_some() {
            done += 1;
            progress(SyncProgress { step: SyncStep::Fetch, done, total });
        }
        Ok(())
    }

    /// The wheels that are not here yet: where each is read, and where it will lie.
    async fn lacking(&self, lock: &Lock, blobs: &dyn BlobSource) -> Result<Vec<(Wanted, PathBuf)>, SyncError> {
        let lacking: Vec<&LockedWheel> = lock.wheels.iter().filter(|wheel| !self.wheel_path(wheel).is_file()).collect();
        let shipped = |wheel: &&&LockedWheel| wheel.source == WheelSource::Blob;
        let digests: Vec<Digest> = lacking.iter().filter(shipped).map(|wheel| wheel.sha256.clone()).collect();
        let grants = if digests.is_empty() { BTreeMap::new() } else { grants(blobs, digests).await? };
        let mut wanted = Vec::with_capacity(lacking.len());
        for wheel in lacking {
            let package = format!("{}=={}", wheel.name, wheel.version);
            let (url, blob) = match &wheel.source {
                WheelSource::Blob => (granted(&grants, &wheel.sha256, &package)?, true),
                WheelSource::Index(url) => (url.clone(), false),
            };
            let (file, sha256, size) = (wheel.file.clone(), wheel.sha256.clone(), wheel.size);
            wanted.push((Wanted { package, file, url, sha256, size, blob }, self.wheel_path(wheel)));
        }
        Ok(wanted)
    }

    /// Put what was made on the disk for good, then where it belongs.
    async fn place(&self, digest: &Digest, staging: &Path) -> Result<(), SyncError> {
        let root = self.root.clone();
        blocking(move || {
            let synced = File::open(&root).and_then(|folder| rustix::fs::syncfs(&folder).map_err(io::Error::from));
            synced.map_err(|e| SyncError::files("synced", root, e))
        })
        .await??;
        let to = self.environment(digest);
        fs::rename(staging, &to).map_err(|e| SyncError::files("renamed", &to, e))?;
        sync_folder(&self.root.join("environments"))
    }

    /// The last step of all.
    fn mark(&self, digest: &Digest) -> Result<(), SyncError> {
        let folder = self.environment(digest);
        let marker = folder.join(MARKER);
        let written = File::create(&marker).and_then(|mut file| {
            file.write_all(digest.as_str().as_bytes())?;
            file.sync_all()
        });
        written.map_err(|e| SyncError::files("written", &marker, e))?;
        sync_folder(&folder)
    }

    async fn reach(&self, step: SyncStep, total: u64, progress: &mut (dyn FnMut(SyncProgress) + Send)) {
        progress(SyncProgress { step, done: 0, total });
        #[cfg(test)]
        if *self.stop_before.lock().expect("no test panics while it holds this") == Some(step) {
            std::future::pending::<()>().await;
        }
    }
}

/// The exact interpreter of a lock, on a machine that its wheels fit.
async fn interpreter(lock: &Lock) -> Result<PathBuf, SyncError> {
    let (wanted, here) = (lock.platform.clone(), blocking(interpreters::platform).await?);
    let fits = match (wanted.parse::<Platform>(), &here) {
        (Ok(wanted), Some(here)) => wanted.machine == here.machine && wanted.glibc <= here.glibc,
        _ => false,
    };
    if !fits {
        let here = here.map_or_else(|| "unknown".to_owned(), |here| here.to_string());
        return Err(SyncError::Platform { wanted, here });
    }
    let (implementation, version) = (lock.interpreter.implementation.clone(), lock.interpreter.version.clone());
    let word = format!("{implementation}-{version}");
    blocking(move || interpreters::find(&implementation, &version))
        .await?
        .map_err(|here| SyncError::Interpreter { wanted: word, here })
}

/// Run what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SyncError::Tool {
        doing: "be prepared",
        package: None,
        reason: error.to_string(),
    })
}

async fn grants(blobs: &dyn BlobSource, digests: Vec<Digest>) -> Result<BTreeMap<Digest, BlobGrant>, SyncError> {
    let refused =
        |GrantsRefused { reason, retryable }| SyncError::Blob { what: "the environment".to_owned(), reason, retryable };
    let grants = blobs.grants(digests).await.map_err(refused)?;
    Ok(grants.into_iter().map(|grant| (grant.digest.clone(), grant)).collect())
}

fn granted(grants: &BTreeMap<Digest, BlobGrant>, digest: &Digest, what: &str) -> Result<String, SyncError> {
    grants.get(digest).map(|grant| grant.url.clone()).ok_or_else(|| SyncError::Blob {
        what: what.to_owned(),
        reason: "it is not there".to_owned(),
        retryable: false,
    })
}

fn sync_folder(folder: &Path) -> Result<(), SyncError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|e| SyncError::files("synced", folder, e))
}
