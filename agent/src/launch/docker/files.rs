//! What a start leaves in the host's directory for its container. An earlier workload could write there, so nothing that it
//! may have put in the way is followed.

use super::container::{self, HIDDEN};
use crate::launch::RunnerSpec;
use crate::socket;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often this process has written a specification.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// The specification for the runner, and the folders that are mounted over.
pub fn write(spec: &RunnerSpec) -> io::Result<()> {
    let run_dir = socket::run_dir(&spec.host_dir);
    for folder in HIDDEN.map(|name| spec.host_dir.join(name)).iter().chain([&run_dir.join(container::NOTHING)]) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        plain_folder(folder)?;
    }
    plain_folder(&run_dir)?;
    let inside = RunnerSpec { host_dir: spec.host_dir.canonicalize()?, ..spec.clone() };
    let path = run_dir.join(container::SPEC_FILE);
    // Of this call alone: two starts at once must not take each other's file away.
    let call = WRITES.fetch_add(1, Ordering::Relaxed);
    let new = run_dir.join(format!("{}.{}.{call}", container::SPEC_FILE, std::process::id()));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // New, so that no link which an earlier workload left there is followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(&inside)?)?;
    std::fs::rename(&new, &path)
}

/// An earlier workload wrote here: a link in the place of a folder would lead the engine, or us, to anywhere.
fn plain_folder(folder: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(folder)?.is_dir() {
        return Ok(());
    }
    let what = format!("{} is no folder: somebody replaced it; remove it", folder.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}
