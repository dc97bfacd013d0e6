//! Which processes of this machine belong to a test: those that name its directory in argv, or that run inside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its argument list, joined by spaces.
    pub command: String,
    /// Its working directory, if it may be read.
    pub directory: Option<PathBuf>,
}

/// Every process that names `directory` in its arguments or works inside it; dead ones that nobody waited for are left out.
pub fn below(directory: &Path) -> Vec<Process> {
    let name = directory.display().to_string();
    all()
        .into_iter()
        .filter(|process| {
            process.command.contains(&name)
                || process.directory.as_ref().is_some_and(|there| there.starts_with(directory))
        })
        .collect()
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let raw = fs::read(entry.path().join("cmdline")).ok()?;
            // A zombie has no argument list and no directory: it is dead, only nobody waited for it yet.
            if raw.is_empty() {
                return None;
            }
            let command = String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned();
            Some(Process { pid, command, directory: fs::read_link(entry.path().join("cwd")).ok() })
        })
        .collect()
}

/// Wait until no process belongs to `directory`; the ones left after `limit` otherwise.
pub async fn gone(directory: &Path, limit: Duration) -> Result<(), Vec<Process>> {
    let begun = Instant::now();
    loop {
        let left = below(directory);
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > limit {
            return Err(left);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Send SIGKILL to one process.
pub fn kill(pid: u32) {
    send(pid, rustix::process::Signal::KILL);
}

/// Let one process hang: it stays, and does nothing more.
pub fn freeze(pid: u32) {
    send(pid, rustix::process::Signal::STOP);
}

fn send(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // A process that is already gone is what we wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process is there and alive.
pub fn alive(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|raw| !raw.is_empty())
}
