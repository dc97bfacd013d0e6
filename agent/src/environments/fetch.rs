//! Downloads: one file at a time to a temporary name, hashed while it is written, kept only when the hash fits.
//!
//! Owns retries, resumption and what a failed answer means. Chooses nothing: address and hash come from a lock.

use super::error::SyncError;
use reqwest::{StatusCode, header};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;
use towline_protocol::ids::Digest;

/// How long the first byte of an answer and each next one may take.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// How long a connection may take.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// An index that refuses a connection three times within two seconds is down, not busy.
const ATTEMPTS: u32 = 3;

/// Pause before the second attempt; doubled before each next one.
const PAUSE: Duration = Duration::from_millis(400);

/// Larger files than this are no wheels.
const MAX_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// A file that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What it is, for messages: `name==version`, or `the lock`.
    pub(super) package: String,
    /// Its name.
    pub(super) file: String,
    /// Where it is read.
    pub(super) url: String,
    /// SHA-256 it must have.
    pub(super) sha256: Digest,
    /// Its size, when it is known.
    pub(super) size: Option<u64>,
    /// Whether it is read from the blob store rather than an index.
    pub(super) blob: bool,
}

enum Attempt {
    Again(SyncError),
    Failed(SyncError),
}

/// Download a file to `to`. On failure nothing is left.
pub(super) async fn fetch(http: &reqwest::Client, wanted: &Wanted, to: &Path) -> Result<u64, SyncError> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).await.map_err(|e| SyncError::files("made", folder, e))?;
    let part = Part::new(to);
    let size = download(http, wanted, &part.0).await?;
    fs::rename(&part.0, to).await.map_err(|e| SyncError::files("renamed", to, e))?;
    Ok(size)
}

/// A temporary file that goes when nobody renamed it, also when the download is cancelled.
struct Part(PathBuf);

impl Part {
    fn new(to: &Path) -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self(to.with_file_name(format!(".{}-{number}.part", std::process::id())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What has been written of a file.
struct Written {
    file: File,
    hash: aws_lc_rs::digest::Context,
    size: u64,
}

impl Written {
    async fn start(path: &Path) -> Result<Self, SyncError> {
        let file = File::create(path).await.map_err(|e| SyncError::files("written", path, e))?;
        Ok(Self { file, hash: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256), size: 0 })
    }

    async fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

async fn download(http: &reqwest::Client, wanted: &Wanted, path: &Path) -> Result<u64, SyncError> {
    let mut written = Written::start(path).await?;
    let mut pause = PAUSE;
    for attempt in 1.. {
        match once(http, wanted, path, &mut written).await {
            Ok(()) => break,
            Err(Attempt::Again(_)) if attempt < ATTEMPTS => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(Attempt::Again(error) | Attempt::Failed(error)) => return Err(error),
        }
    }
    let Written { mut file, hash, size } = written;
    let found: [u8; 32] = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    if Digest::from_sha256(found) != wanted.sha256 {
        return Err(mismatch(wanted));
    }
    file.flush().await.map_err(|e| SyncError::files("written", path, e))?;
    file.sync_all().await.map_err(|e| SyncError::files("written", path, e))?;
    Ok(size)
}

fn mismatch(wanted: &Wanted) -> SyncError {
    SyncError::Hash { package: wanted.package.clone(), file: wanted.file.clone(), wanted: wanted.sha256.clone() }
}

/// One request; it goes on where the one before broke off, if the server can.
async fn once(http: &reqwest::Client, wanted: &Wanted, path: &Path, written: &mut Written) -> Result<(), Attempt> {
    let mut request = http.get(&wanted.url);
    if written.size > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", written.size));
    }
    let silent = || Attempt::Again(network(wanted, format!("it was silent for {} s", SILENCE.as_secs())));
    let answer = tokio::time::timeout(SILENCE, request.send()).await.map_err(|_| silent())?;
    let mut answer = answer.map_err(|error| broken(wanted, &error))?;
    let goes_on = answer.status() == StatusCode::PARTIAL_CONTENT && begins_at(&answer, written.size);
    if !goes_on {
        if answer.status() != StatusCode::OK {
            return Err(refused(wanted, answer.status()));
        }
        if written.size > 0 {
            *written = Written::start(path).await.map_err(Attempt::Failed)?;
        }
    }
    let limit = wanted.size.unwrap_or(MAX_BYTES);
    loop {
        let chunk = tokio::time::timeout(SILENCE, answer.chunk()).await.map_err(|_| silent())?;
        let Some(chunk) = chunk.map_err(|error| broken(wanted, &error))? else {
            break;
        };
        if written.size + chunk.len() as u64 > limit {
            return Err(Attempt::Failed(mismatch(wanted)));
        }
        written.add(&chunk).await.map_err(|e| Attempt::Failed(SyncError::files("written", path, e)))?;
    }
    match wanted.size {
        Some(size) if written.size < size => {
            Err(Attempt::Again(network(wanted, format!("it sent {} of {size} bytes", written.size))))
        }
        _ => Ok(()),
    }
}

fn begins_at(answer: &reqwest::Response, offset: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    range.starts_with(&format!("bytes {offset}-"))
}

fn network(wanted: &Wanted, reason: String) -> SyncError {
    if wanted.blob {
        SyncError::Blob { what: wanted.package.clone(), reason, retryable: true }
    } else {
        SyncError::IndexUnreachable { package: wanted.package.clone(), reason }
    }
}

fn refused(wanted: &Wanted, status: StatusCode) -> Attempt {
    let busy = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    let package = wanted.package.clone();
    if wanted.blob {
        let error = SyncError::Blob { what: package, reason: format!("it answered {status}"), retryable: busy };
        return if busy { Attempt::Again(error) } else { Attempt::Failed(error) };
    }
    if busy {
        return Attempt::Again(network(wanted, format!("it answered {status}")));
    }
    Attempt::Failed(SyncError::PackageMissing { package, file: wanted.file.clone(), status: status.as_u16() })
}

fn broken(wanted: &Wanted, error: &reqwest::Error) -> Attempt {
    let mut reason = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(one) = cause {
        // The outermost text repeats the address, which may carry a capability.
        if !reason.is_empty() || one.source().is_none() {
            reason += if reason.is_empty() { "" } else { ": " };
            reason += &one.to_string();
        } else {
            reason += if error.is_timeout() { "it timed out" } else { "the connection failed" };
        }
        cause = one.source();
    }
    if !wanted.blob && reason.to_lowercase().contains("certificate") {
        return Attempt::Failed(SyncError::IndexUntrusted { package: wanted.package.clone(), reason });
    }
    Attempt::Again(network(wanted, reason))
}
