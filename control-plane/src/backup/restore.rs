//! Bringing a server back: unpacked and checked aside, then put in its place by one rename.

use super::{BackupError, DATABASE, Restored, Staging, archive, file_error};
use crate::clock;
use crate::files::DataDirectory;
use crate::store::Store;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// What the CLI makes before it calls us, to keep others out.
const LOCK: &str = "towline.lock";

/// Bring the server in `archive` back into `data_dir`. Nobody else may use that directory meanwhile: the caller holds its
/// lock. With `replace` a server that is there is put aside and kept; hosts, blobs and log lines stay as they are.
pub async fn restore(archive: &Path, data_dir: &Path, replace: bool) -> Result<Restored, BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(file_error(data_dir))?;
    if !replace && !is_empty(data_dir)? {
        return Err(BackupError::NotEmpty { path: data_dir.to_owned() });
    }
    let staging = Staging::beside(data_dir)?;
    let manifest = archive::unpack(archive, &staging.0)?;
    let unpacked = DataDirectory::new(&staging.0);
    if !unpacked.root_public().exists() {
        let what = "it holds no server".to_owned();
        return Err(BackupError::Damaged { path: archive.to_owned(), what });
    }
    // Opened before it counts: a database that cannot be used is found out here. What was signed after the backup was made
    // is outbid by the new term, here and again at each start.
    let store = Store::open_existing(&staging.0.join(DATABASE)).await?;
    let epoch = store.bump_epoch(clock::unix_now()).await;
    store.close().await;
    let epoch = epoch?;
    let files = DataDirectory::new(data_dir);
    let replaced = put_aside(&files.server())?;
    if let Err(error) = fs::rename(unpacked.server(), files.server()) {
        if let Some(aside) = &replaced {
            // As it was; the first error is the one to tell.
            let _ = fs::rename(aside, files.server());
        }
        return Err(file_error(&files.server())(error));
    }
    File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(file_error(data_dir))?;
    Ok(Restored { manifest, epoch, replaced })
}

fn is_empty(data_dir: &Path) -> Result<bool, BackupError> {
    let entries = fs::read_dir(data_dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    Ok(entries.map_err(file_error(data_dir))?.iter().all(|entry| entry.file_name() == LOCK))
}

/// Keep what is there under another name. None: nothing was there.
fn put_aside(server: &Path) -> Result<Option<PathBuf>, BackupError> {
    if fs::symlink_metadata(server).is_err() {
        return Ok(None);
    }
    let aside = server.with_file_name(format!("server.replaced-{}", clock::unix_ms()));
    fs::rename(server, &aside).map_err(file_error(&aside))?;
    Ok(Some(aside))
}
