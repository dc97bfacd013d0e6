//! What a run may leave behind: nothing that listens, runs or lies about, outside its own folders.

use crate::process::Outcome;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is on this machine at one moment.
#[derive(Debug)]
pub struct Traces {
    listeners: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    /// Look now.
    pub fn now() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let shared = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
        let own = home.into_iter().flat_map(|home| entries(&home)).filter(|path| !is_cache(path));
        Self {
            listeners: ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(listeners).collect(),
            processes: processes(),
            files: shared.iter().flat_map(|place| entries(place)).filter(|path| is_ours(path)).chain(own).collect(),
        }
    }

    /// Fail with what is there now and was not before.
    pub fn compare(&self, what: &str) -> Outcome {
        let now = Self::now();
        let mut left: Vec<String> = Vec::new();
        left.extend(now.listeners.difference(&self.listeners).map(|at| format!("listener {at}")));
        left.extend(now.processes.difference(&self.processes).map(|process| format!("process {process}")));
        left.extend(now.files.difference(&self.files).map(|file| format!("file {}", file.display())));
        if left.is_empty() { Ok(()) } else { Err(format!("{what} left behind:\n{}", left.join("\n"))) }
    }
}

/// Where package caches lie; they may grow.
fn is_cache(path: &Path) -> bool {
    [".cache", ".local"].iter().any(|name| path.ends_with(name))
}

/// In folders that every program uses, only what bears a name of ours or of what we start.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["towline", "tw-", "dask", "distributed", "pymp-", ".uv", "uv-"].iter().any(|start| name.starts_with(start))
}

/// Local addresses in state LISTEN (0A), as the kernel prints them (Documentation/networking/proc_net_tcp).
fn listeners(table: &str) -> Vec<String> {
    let text = fs::read_to_string(table).unwrap_or_default();
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(3) == Some(&"0A") && row.get(1).is_some_and(|at| at.contains("0100007F:")))
        .filter_map(|row| row.get(1).map(|at| (*at).to_owned()))
        .collect()
}

/// Processes that speak of Towline or Dask.
fn processes() -> BTreeSet<String> {
    let me = std::process::id().to_string();
    let pids = entries(Path::new("/proc"));
    pids.filter_map(|path| {
        let pid = path.file_name()?.to_str()?.to_owned();
        let line = fs::read(path.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let ours = pid != me
            && ["towline agent", "towline server", "towline_preload", "distributed"]
                .iter()
                .any(|word| line.contains(word));
        ours.then(|| format!("{pid} {line}"))
    })
    .collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
