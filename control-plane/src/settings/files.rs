//! Which files hold the settings: the main one and its drop-ins, in their order. Reads none of them.

use super::{DROP_INS, FILE, SettingsError};
use std::path::{Path, PathBuf};

/// The files that are there, the last word last.
pub(super) fn files(server_directory: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let main = server_directory.join(FILE);
    let mut files = if main.exists() { vec![main] } else { Vec::new() };
    let folder = server_directory.join(DROP_INS);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        other => other.map_err(|source| SettingsError::Read { path: folder.clone(), source })?,
    };
    let mut drop_ins = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| SettingsError::Read { path: folder.clone(), source })?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            drop_ins.push(path);
        }
    }
    drop_ins.sort();
    files.extend(drop_ins);
    Ok(files)
}
