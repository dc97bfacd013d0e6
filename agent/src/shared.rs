//! What Dask's user may touch of the agent's files where the two are of different users: the modes, in one place.
//!
//! The agent runs with the primary group of Dask's user (`Group=` in its unit), so every file that it makes is of that
//! group, and closed to it by its mode; here a few are opened. Must not change an owner.

use crate::launch::Users;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file that Dask's user reads.
pub const READ: u32 = 0o640;
/// A file that it appends to and does not read.
pub const APPEND: u32 = 0o620;
/// A file that it reads and appends to.
pub const READ_APPEND: u32 = 0o660;

/// The folder of small files that the agent alone writes, and Dask may read.
pub const AGENT: &str = "agent";

/// Folders of a host that Dask's user gets through, or writes in; all others stay the agent's.
const FOLDERS: [(&str, u32); 6] =
    [("", 0o710), (AGENT, 0o710), ("keys", 0o710), ("run", 0o770), ("spool", 0o710), ("work", 0o770)];

/// Open a file to the group, where there is another user.
pub fn file(path: &Path, mode: u32, users: Option<Users>) -> io::Result<()> {
    match users {
        Some(_) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
        None => Ok(()),
    }
}

/// Make the folders of a host that both users need and open them, with what is there of Dask's keys. An error names its
/// path.
pub fn folders(host_dir: &Path, users: Option<Users>) -> Result<(), (PathBuf, io::Error)> {
    if users.is_none() {
        return Ok(());
    }
    for (name, mode) in FOLDERS {
        let path = host_dir.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.and_then(|()| file(&path, mode, users)).map_err(|error| (path, error))?;
    }
    for name in ["dask.key", "dask.crt", "ca.crt"] {
        let path = host_dir.join("keys").join(name);
        match file(&path, READ, users) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn only_what_dask_needs_is_opened_and_only_where_it_is_another_user() {
        let host = tempfile::tempdir().expect("a directory");
        let path = host.path();
        std::fs::create_dir(path.join("identity")).expect("made");
        std::fs::set_permissions(path.join("identity"), Permissions::from_mode(0o700)).expect("closed");
        folders(path, None).expect("nothing to do");
        assert!(!path.join("run").exists());
        std::fs::create_dir(path.join("keys")).expect("made");
        std::fs::write(path.join("keys/dask.key"), "key").expect("written");
        std::fs::set_permissions(path.join("keys/dask.key"), Permissions::from_mode(0o600)).expect("closed");
        folders(path, Some(Users { agent: 1, dask: 2 })).expect("opened");
        assert_eq!((mode(path), mode(&path.join("run")), mode(&path.join("keys"))), (0o710, 0o770, 0o710));
        assert_eq!((mode(&path.join("keys/dask.key")), mode(&path.join("identity"))), (0o640, 0o700));
    }
}
