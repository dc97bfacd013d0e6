//! `towline server backup | restore`: a server's records, settings and keys in one tar file, and back.
//!
//! Owns the archive: a manifest with the digest of every file, then the files. The database is copied by SQLite itself, so
//! that a server may go on writing. Blobs, log lines and hosts are no part of it: blobs and lines have stores of their own,
//! and hosts live on. Whoever holds an archive holds the server's keys: it is 0600 and nobody's but the operator's.

mod archive;
mod restore;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::files::DataDirectory;
use crate::settings;
use crate::store::{self, StoreError};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use towline_protocol::ids::{Digest, Epoch};
use towline_transport::keys::random_hex;

pub use restore::restore;

/// The one layout of archives so far.
const FORMAT: u32 = 1;

/// The manifest's name in the archive; its first entry.
const MANIFEST: &str = "towline-backup.json";

/// The database's name in the archive.
const DATABASE: &str = "server/towline.db";

/// What belongs to a running server only.
const NOT_KEPT: [&str; 5] = ["towline.db", "towline.db-shm", "towline.db-wal", "server.lock", "run.json"];

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// How the archive is laid out.
    pub format: u32,
    /// The version of the program that made it.
    pub towline: String,
    /// The version of the database's tables.
    pub schema: i64,
    /// When it was made, Unix milliseconds.
    pub made_at_ms: u64,
    /// Every file, in the archive's order.
    pub files: Vec<KeptFile>,
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptFile {
    /// Its place within the data directory, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
}

/// A server that was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the archive said of itself.
    pub manifest: Manifest,
    /// The new term: above every one before the archive was made, and at least the time.
    pub epoch: Epoch,
    /// Where the files are that were there before; none: there were none.
    pub replaced: Option<PathBuf>,
}

/// Why a backup could not be made or brought back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No server to keep.
    #[error("{path} holds no server", path = path.display())]
    NoServer {
        /// The data directory.
        path: PathBuf,
    },
    /// The archive is there already.
    #[error("{path} is there already; choose another name, or remove it", path = path.display())]
    Exists {
        /// The archive.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot use {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// It is not an archive of ours, or not whole.
    #[error("{path} is not a whole backup: {what}", path = path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It is of a later version.
    #[error("{path} was made by towline {towline}, whose {what} this version does not know", path = path.display())]
    Newer {
        /// The archive.
        path: PathBuf,
        /// Who made it.
        towline: String,
        /// What is too new.
        what: &'static str,
    },
    /// Something is there that would be lost.
    #[error("{path} is not empty", path = path.display())]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
    },
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path: path.clone(), source }
}

/// A folder that only we can read and that goes with this value, unless it was moved away.
struct Staging(PathBuf);

impl Staging {
    fn beside(folder: &Path) -> Result<Self, BackupError> {
        let path = folder.join(format!(".towline-{}", random_hex(8)));
        DirBuilder::new().mode(0o700).create(&path).map_err(file_error(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Best effort: a leftover holds nothing that its neighbours do not.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Keep the server in `data_dir` in the new file `archive`, 0600. The server may run.
pub async fn backup(data_dir: &Path, archive: &Path) -> Result<Manifest, BackupError> {
    let files = DataDirectory::new(data_dir);
    if !files.root_public().exists() || !files.database().exists() {
        return Err(BackupError::NoServer { path: data_dir.to_owned() });
    }
    if fs::symlink_metadata(archive).is_ok() {
        return Err(BackupError::Exists { path: archive.to_owned() });
    }
    let folder = match archive.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let staging = Staging::beside(folder)?;
    let database = staging.0.join("towline.db");
    let schema = store::copy_database(&files.database(), &database).await?;
    let mut kept = vec![(DATABASE.to_owned(), database)];
    kept.extend(small_files(&files.server())?);
    let made_at_ms = clock::unix_ms();
    let whole = staging.0.join("archive");
    let file = File::options().write(true).create_new(true).mode(0o600).open(&whole).map_err(file_error(&whole))?;
    let manifest = archive::write(&file, &whole, schema, made_at_ms, &kept)?;
    file.sync_all().map_err(file_error(&whole))?;
    place(&whole, archive).map_err(file_error(archive))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file_error(folder))?;
    Ok(manifest)
}

/// Give a whole file its name, unless somebody made one of that name meanwhile: a plain rename would replace it in silence.
fn place(whole: &Path, archive: &Path) -> io::Result<()> {
    let folder = rustix::fs::CWD;
    match rustix::fs::renameat_with(folder, whole, folder, archive, rustix::fs::RenameFlags::NOREPLACE) {
        // Old network file systems know links only; USB sticks know no links.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::hard_link(whole, archive),
        other => Ok(other?),
    }
}

/// Keys, certificates, tokens and settings of the server directory.
fn small_files(server: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    for (folder, prefix) in [
        (server.to_owned(), "server".to_owned()),
        (server.join(settings::DROP_INS), format!("server/{}", settings::DROP_INS)),
    ] {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(file_error(&folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(file_error(&folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            // Hidden ones are being written just now and get their own name when they are whole.
            if is_file && !name.starts_with('.') && !NOT_KEPT.contains(&name.as_str()) {
                found.push((format!("{prefix}/{name}"), entry.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}
