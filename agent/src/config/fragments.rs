//! Where settings come from: drop-in files, later ones over earlier ones.
//!
//! Reads files and merges their keys; knows no key's meaning. Driven by `config::load`.

use super::ConfigError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest file that is read.
const MAX_BYTES: u64 = 64 * 1024;

/// One value and the file that it came from, for messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Where it was set last.
    pub file: PathBuf,
    /// What it was set to.
    pub value: toml::Value,
}

/// Every key that is set anywhere.
pub type Fragments = std::collections::BTreeMap<String, Value>;

/// Read `files` in order; later ones win key by key. A file that is not there sets nothing.
pub fn read(files: &[PathBuf]) -> Result<Fragments, ConfigError> {
    let mut merged = Fragments::new();
    for file in files {
        let Some(text) = read_file(file)? else { continue };
        let table: toml::Table =
            text.parse().map_err(|source| ConfigError::Syntax { file: file.clone(), source: Box::new(source) })?;
        for (key, value) in table {
            merged.insert(key, Value { file: file.clone(), value });
        }
    }
    Ok(merged)
}

/// The drop-in files of a directory in the order of their names.
pub fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read { file: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path) -> Result<Option<String>, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.to_owned(), source };
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "the file is larger than 64 KiB")));
        }
        Ok(_) => {}
    }
    fs::read_to_string(file).map(Some).map_err(failed)
}
