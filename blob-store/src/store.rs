//! The directory: `sha256/<first two digits>/<64 digits>`, whole files only.
//!
//! Owns staging, hashing and the rename. A file under its final name has the hash of that name. Must not know HTTP or
//! grants. Driven by `api`.

use crate::BlobStoreError;
use aws_lc_rs::digest::{Context, SHA256};
use futures_util::{Stream, StreamExt};
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use towline_transport::blob_grant::Digest;
use towline_transport::keys;

/// Longest silence within an upload.
const UPLOAD_SILENCE: Duration = Duration::from_secs(30);

/// Why an upload was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the upload is larger than allowed")]
    TooLarge,
    #[error("the upload has another hash than announced")]
    OtherDigest,
    #[error("the upload ended early")]
    Cut,
    #[error("the upload stood still for too long")]
    Stalled,
    #[error("the disk is full")]
    Full(#[source] io::Error),
    #[error("the file could not be written")]
    Storage(#[source] io::Error),
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Storage(error),
        }
    }
}

/// Blobs on disk.
pub(crate) struct Store {
    blobs: PathBuf,
    staging: PathBuf,
    /// Longest silence within an upload; tests shorten it.
    silence: Duration,
    /// Held for the life of the process: two stores would clean each other's staging.
    _lock: File,
}

impl Store {
    /// Open the directory, make it if absent, and remove what an earlier life left unfinished.
    pub(crate) fn open(directory: &Path) -> Result<Self, BlobStoreError> {
        let failed = |source| BlobStoreError::Directory { directory: directory.to_owned(), source };
        make_directory(directory).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(BlobStoreError::Taken(directory.to_owned()));
            }
            Err(error) => return Err(failed(error.into())),
        }
        let store = Self {
            blobs: directory.join("sha256"),
            staging: directory.join("staging"),
            silence: UPLOAD_SILENCE,
            _lock: lock,
        };
        make_directory(&store.blobs).map_err(failed)?;
        match fs::remove_dir_all(&store.staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        make_directory(&store.staging).map_err(failed)?;
        Ok(store)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        // A digest is 64 hexadecimal digits by its type, so this cannot leave the directory.
        self.blobs.join(&digest.as_str()[..2]).join(digest.as_str())
    }

    /// A blob's file and its size; none when it is absent.
    pub(crate) async fn read(&self, digest: &Digest) -> io::Result<Option<(tokio::fs::File, u64)>> {
        let file = match tokio::fs::File::open(self.path(digest)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = file.metadata().await?.len();
        Ok(Some((file, size)))
    }

    /// Take an upload in. True when the blob is new. It appears under its name only when every byte is there, the
    /// hash fits and the disk has it.
    pub(crate) async fn write<B, E>(
        &self,
        digest: &Digest,
        limit: u64,
        body: impl Stream<Item = Result<B, E>> + Unpin,
    ) -> Result<bool, UploadError>
    where
        B: AsRef<[u8]>,
    {
        let staged = Staged { path: self.staging.join(keys::random_hex(16)) };
        let mut file =
            tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged.path).await?;
        let found = copy(body, limit, self.silence, &mut file).await?;
        if found != *digest {
            return Err(UploadError::OtherDigest);
        }
        file.sync_all().await?;
        let file = file.into_std().await;
        let target = self.path(digest);
        // Blocking: two file system calls and a directory sync.
        tokio::task::spawn_blocking(move || {
            drop(file);
            let new = !target.exists();
            staged.keep(&target)?;
            Ok(new)
        })
        .await
        .map_err(|error| UploadError::Storage(io::Error::other(error)))?
    }
}

async fn copy<B, E>(
    mut body: impl Stream<Item = Result<B, E>> + Unpin,
    limit: u64,
    silence: Duration,
    file: &mut tokio::fs::File,
) -> Result<Digest, UploadError>
where
    B: AsRef<[u8]>,
{
    let mut hash = Context::new(&SHA256);
    let mut size = 0u64;
    while let Some(piece) = timeout(silence, body.next()).await.map_err(|_| UploadError::Stalled)? {
        let piece = piece.map_err(|_| UploadError::Cut)?;
        let piece = piece.as_ref();
        size += piece.len() as u64;
        if size > limit {
            return Err(UploadError::TooLarge);
        }
        hash.update(piece);
        file.write_all(piece).await?;
    }
    // tokio's files write behind; an error of the last write shows only here.
    file.flush().await?;
    let hash: [u8; 32] = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok(Digest::from_sha256(hash))
}

/// A file that vanishes unless it is kept.
struct Staged {
    path: PathBuf,
}

impl Staged {
    fn keep(self, target: &Path) -> io::Result<()> {
        let directory = target.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        make_directory(directory)?;
        fs::rename(&self.path, target)?;
        File::open(directory)?.sync_all()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `keep` there is nothing under this name; before it, the upload failed and its error is the news.
        let _ = fs::remove_file(&self.path);
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    type Piece = Result<Vec<u8>, Infallible>;

    fn pieces(bytes: &[u8], size: usize) -> impl Stream<Item = Piece> + Unpin {
        stream::iter(bytes.chunks(size).map(|piece| Ok(piece.to_vec())).collect::<Vec<Piece>>())
    }

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory).expect("listing").count()
    }

    #[tokio::test]
    async fn a_blob_is_whole_or_absent() {
        let directory = tempfile::tempdir().expect("directory");
        let store = Store::open(directory.path()).expect("store");
        let digest = Digest::of(b"hello blob");
        let other = store.write(&digest, 100, pieces(b"hello blub", 3)).await;
        assert!(matches!(other, Err(UploadError::OtherDigest)));
        let large = store.write(&digest, 9, pieces(b"hello blob", 3)).await;
        assert!(matches!(large, Err(UploadError::TooLarge)));
        let cut = stream::iter([Ok(b"hello".to_vec()), Err("cut")]);
        assert!(matches!(store.write(&digest, 100, cut).await, Err(UploadError::Cut)));
        assert!(store.read(&digest).await.expect("readable").is_none());
        assert_eq!(files(&directory.path().join("staging")), 0);

        assert!(store.write(&digest, 10, pieces(b"hello blob", 3)).await.expect("kept"));
        assert!(!store.write(&digest, 10, pieces(b"hello blob", 3)).await.expect("kept again"));
        let (_, size) = store.read(&digest).await.expect("readable").expect("present");
        assert_eq!(size, 10);
        assert_eq!(files(&directory.path().join("staging")), 0);
    }

    #[tokio::test]
    async fn a_stalled_upload_ends_by_itself() {
        let directory = tempfile::tempdir().expect("directory");
        let opened = Store::open(directory.path()).expect("store");
        let store = Store { silence: Duration::from_millis(20), ..opened };
        let body = stream::pending::<Piece>();
        let stalled = store.write(&Digest::of(b""), 10, body).await;
        assert!(matches!(stalled, Err(UploadError::Stalled)));
        assert_eq!(files(&directory.path().join("staging")), 0);
    }

    #[tokio::test]
    async fn opening_removes_what_a_crash_left_and_keeps_blobs() {
        let directory = tempfile::tempdir().expect("directory");
        let digest = Digest::of(b"kept");
        {
            let store = Store::open(directory.path()).expect("store");
            store.write(&digest, 10, pieces(b"kept", 4)).await.expect("kept");
            fs::write(directory.path().join("staging/half"), b"ke").expect("left over");
        }
        let store = Store::open(directory.path()).expect("store");
        assert_eq!(files(&directory.path().join("staging")), 0);
        assert!(store.read(&digest).await.expect("readable").is_some());
    }

    #[test]
    fn refuses_a_directory_that_another_store_serves() {
        let directory = tempfile::tempdir().expect("directory");
        let _first = Store::open(directory.path()).expect("store");
        assert!(matches!(Store::open(directory.path()), Err(BlobStoreError::Taken(_))));
    }
}
