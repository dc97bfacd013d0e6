//! What a start leaves in the host's directory for its container: the specification, the folders and files that are mounted,
//! and empty ones to mount over what is hidden. An earlier workload of an older agent could write in the whole directory,
//! so nothing that it may have put in the way is followed.

use super::container::{self, FOLDER, HIDDEN, NOTHING, WRITABLE};
use crate::launch::RunnerSpec;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How often this process has replaced a file.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Everything that is mounted must be there before, as what it is to be.
pub fn write(spec: &RunnerSpec) -> io::Result<()> {
    let folder = spec.host_dir.join(FOLDER);
    let folders = HIDDEN.iter().chain(&WRITABLE).map(|name| spec.host_dir.join(name));
    for path in folders.chain([folder.clone(), folder.join(NOTHING[0])]) {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let is_folder = std::fs::symlink_metadata(&path)?.is_dir();
        replaced(&path, is_folder)?;
    }
    for path in spec.outputs.iter().filter(|path| path.starts_with(&spec.host_dir)) {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        output(path)?;
    }
    replace(&folder.join(NOTHING[1]), 0o400, |_| Ok(()))?;
    let inside = RunnerSpec { host_dir: spec.host_dir.canonicalize()?, ..spec.clone() };
    let text = serde_json::to_vec(&inside)?;
    replace(&folder.join(container::SPEC_FILE), 0o600, |file| file.write_all(&text))
}

/// A file that processes append to; what is in it stays.
fn output(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let is_file = std::fs::symlink_metadata(path)?.is_file();
    replaced(path, is_file)
}

/// Put a whole new file at `path`. What is there is never opened, and two starts at once do not meet.
pub fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let call = WRITES.fetch_add(1, Ordering::Relaxed);
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.{call}", std::process::id()));
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // New, so that no link which somebody left there is followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    fill(&mut file)?;
    std::fs::rename(&new, path)
}

/// A link in the place of a folder or file would lead the engine, or us, to anywhere.
fn replaced(path: &Path, is_plain: bool) -> io::Result<()> {
    if is_plain {
        return Ok(());
    }
    let what = format!("{} is not what it was made as: somebody replaced it; remove it", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}
