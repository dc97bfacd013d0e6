//! The local sockets of a host, for this user and at most one more: the runner's in `run/`, the agent's beside its other files. Owns how
//! they are bound and dialled; knows nothing of what is said.
//!
//! Socket addresses hold at most 107 bytes and host directories are often longer, so both sides address the socket
//! through an open descriptor of its directory (`/proc/self/fd/<n>/<name>`).

use rustix::fs::{Mode, OFlags};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// The runner's socket, in [`run_dir`].
pub const RUNNER: &str = "runner.sock";

/// The agent's socket, in the host's directory: Dask's processes speak there.
pub const AGENT: &str = "agent.sock";

/// Where a host's runner keeps its files.
pub fn run_dir(host_dir: &Path) -> PathBuf {
    host_dir.join("run")
}

fn short_path(folder: &Path, name: &str) -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(folder, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()));
    Ok((directory, path))
}

/// Listen. The caller holds the lock of what it is, so a socket file that is there is a dead one's. With `other`, a second
/// user may come by the file's group.
pub fn listen(folder: &Path, name: &str, other: Option<u32>) -> io::Result<UnixListener> {
    remove(folder, name)?;
    let (_directory, path) = short_path(folder, name)?;
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(if other.is_some() { 0o660 } else { 0o600 }))?;
    Ok(listener)
}

/// Connect, and make sure that a process of this user or of `other` answers. Also says the listener's pid.
pub async fn connect(folder: &Path, name: &str, other: Option<u32>) -> io::Result<(UnixStream, Option<u32>)> {
    let (_directory, path) = short_path(folder, name)?;
    let stream = UnixStream::connect(&path).await?;
    let pid = peer(&stream, other)?;
    Ok((stream, pid))
}

/// The peer's pid, if the peer is a process of this user or of `other`; else an error.
pub fn peer(stream: &UnixStream, other: Option<u32>) -> io::Result<Option<u32>> {
    let peer = stream.peer_cred()?;
    if peer.uid() != rustix::process::geteuid().as_raw() && Some(peer.uid()) != other {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer is a process of another user"));
    }
    Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()))
}

/// Remove the socket file.
pub fn remove(folder: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn works_in_a_directory_with_a_path_longer_than_a_socket_address() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).expect("made");
        let listener = listen(&deep, RUNNER, None).expect("listens");
        let (_stream, pid) = connect(&deep, RUNNER, None).await.expect("connects");
        assert_eq!(pid, Some(std::process::id()));
        let (accepted, _) = listener.accept().await.expect("accepts");
        assert_eq!(peer(&accepted, None).expect("same user"), Some(std::process::id()));
    }

    #[tokio::test]
    async fn another_user_is_refused_even_where_files_let_them_in() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI runs as root");
            eprintln!("cannot run here: only root can be another user");
            return;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let listener = listen(directory.path(), AGENT, None).expect("listens");
        let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("opened");
        let file = directory.path().join(AGENT);
        open(directory.path(), 0o777);
        open(&file, 0o777);
        // Only this thread becomes somebody else, and ends with it.
        let stranger = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
            std::os::unix::net::UnixStream::connect(file)
        });
        let (accepted, _) = listener.accept().await.expect("accepts");
        let refused = peer(&accepted, None).expect_err("another user");
        assert!(peer(&accepted, Some(65_533)).is_err(), "nor is it the one who may come");
        assert!(peer(&accepted, Some(65_534)).is_ok(), "the one who may come");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        drop(stranger.join().expect("no panic").expect("the files let them in"));
    }

    #[tokio::test]
    async fn only_the_owner_may_open_the_socket_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let _listener = listen(directory.path(), RUNNER, None).expect("listens");
        let mode = std::fs::metadata(directory.path().join(RUNNER)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
