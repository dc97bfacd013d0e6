//! `towline server backup | restore`: words round the control plane's own work.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, size};
use serde_json::json;
use std::path::Path;
use towline_control_plane::backup::{self, BackupError};

/// Keep the server.
pub async fn keep(data_dir: &Path, file: &Path, output: Output) -> Outcome<Exit> {
    let manifest = backup::backup(data_dir, file).await.map_err(|error| failure("The backup was not made", &error))?;
    let bytes = manifest.files.iter().map(|file| file.size).sum();
    output.value(&json!({ "file": file, "manifest": manifest }));
    output.line(&format!("Kept {} files ({}) in {}.", manifest.files.len(), size(bytes), file.display()));
    output.line("It holds the server's keys: keep it where only you can read it. Blobs and log lines are not in it.");
    Ok(Exit::Ok)
}

/// Bring the server back; the caller holds the lock of the directory.
pub async fn bring_back(file: &Path, data_dir: &Path, replace: bool, output: Output) -> Outcome<Exit> {
    let restored = backup::restore(file, data_dir, replace).await;
    let restored = restored.map_err(|error| failure("Nothing was restored", &error))?;
    output.value(&json!({
        "data_dir": data_dir, "epoch": restored.epoch.0, "replaced": restored.replaced, "manifest": restored.manifest,
    }));
    output.line(&format!("Restored the server of {} into {}.", restored.manifest.towline, data_dir.display()));
    if let Some(replaced) = &restored.replaced {
        output.line(&format!("What was there is in {}; remove it when you no longer need it.", replaced.display()));
    }
    output.line(&format!("Start it:   towline server run --data-dir {}", data_dir.display()));
    Ok(Exit::Ok)
}

/// What to do about it, by why. Pure.
fn failure(what: &str, error: &BackupError) -> Failure {
    let (exit, code, remedy) = match error {
        BackupError::NoServer { .. } => {
            (Exit::Config, "not_initialised", "give the --data-dir of a server that `towline server init` made")
        }
        BackupError::Exists { .. } => (Exit::Refused, "file_exists", "nothing is overwritten"),
        BackupError::NotEmpty { .. } => {
            (Exit::Refused, "data_dir_not_empty", "give an empty --data-dir, or add --replace to put that server aside")
        }
        BackupError::Damaged { .. } => (Exit::Failed, "backup_damaged", "use another backup, or copy this one again"),
        BackupError::Newer { .. } => (Exit::Failed, "backup_newer", "install that version of towline, or a later one"),
        BackupError::Store(_) => (Exit::Failed, "database_failed", "check the disk with `towline doctor`"),
        BackupError::File { .. } => (Exit::Failed, "backup_failed", "check that the place is yours and has room"),
    };
    Failure::new(exit, code, what, remedy).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_names_the_thing_and_says_what_to_do() {
        let path = || Path::new("/b/kept.tar").to_owned();
        for error in [
            BackupError::NoServer { path: path() },
            BackupError::Exists { path: path() },
            BackupError::NotEmpty { path: path() },
            BackupError::Damaged { path: path(), what: "it is empty".to_owned() },
            BackupError::Newer { path: path(), towline: "9.0".to_owned(), what: "tables" },
            BackupError::File { path: path(), source: std::io::ErrorKind::StorageFull.into() },
        ] {
            let said = failure("Nothing was restored", &error);
            assert!(said.line().contains("/b/kept.tar") && said.remedy.len() > 10, "{said}");
        }
    }
}
