//! The last net under a runner that was killed: find and kill what carries the mark of its launches in its
//! environment. Dask's own processes die with the runner by the kernel's hand; this is for what tasks had started.

use crate::runner::facts;
use rustix::process::Signal;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Rounds of looking: a process that forks while we look is found in the next round.
const ROUNDS: u32 = 100;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(10);

/// Kill everything that was launched from this run directory and still lives. Returns how many were found.
/// Call it only when no runner serves the directory.
pub fn kill_all(run_dir: &Path) -> io::Result<usize> {
    let mark = mark(&run_dir.canonicalize()?);
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..ROUNDS {
        let alive = carrying(&mark)?;
        if alive.is_empty() {
            return Ok(found.len());
        }
        for pid in alive {
            found.insert(pid);
            if let Some(pid) = facts::pid(pid) {
                // Gone already is as good.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        sleep(PAUSE);
    }
    Err(io::Error::other("processes of a dead runner cannot be killed"))
}

/// The variable that every process of a launch inherits (see `launch::command`), with its value.
fn mark(run_dir: &Path) -> Vec<u8> {
    let path = run_dir.join("dask").join("preload.json");
    [b"TOWLINE_PRELOAD=", path.as_os_str().as_bytes()].concat()
}

fn carrying(mark: &[u8]) -> io::Result<Vec<u32>> {
    let mut carrying = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Other users' processes cannot be read, and are none of ours.
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        let carries = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
        if carries && pid != std::process::id() && facts::stat(pid)?.is_some_and(|stat| stat.is_alive()) {
            carrying.push(pid);
        }
    }
    Ok(carrying)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_only_what_carries_the_mark_of_this_directory() {
        let started = |value: &str| {
            let mut command = std::process::Command::new("sleep");
            command.arg("60").env("TOWLINE_PRELOAD", value).spawn().expect("spawns")
        };
        let directory = tempfile::tempdir().expect("temporary directory");
        let marked = directory.path().canonicalize().expect("there").join("dask/preload.json");
        let mut ours = started(marked.to_str().expect("a plain path"));
        let mut other = started(&format!("{}x", marked.display()));
        assert_eq!(kill_all(directory.path()).expect("works"), 1);
        assert!(!ours.wait().expect("waited for").success());
        assert!(other.try_wait().expect("waited for").is_none(), "the other one lives");
        other.kill().expect("kills");
        other.wait().expect("waited for");
        assert_eq!(kill_all(directory.path()).expect("works"), 0);
    }
}
