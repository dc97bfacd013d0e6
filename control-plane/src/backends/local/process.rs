//! Processes of a `local` host: which are its own, whether they live, how they are ended.
//!
//! A pid alone names nothing: it is always read together with its start time and the boot. Signals go through a pidfd
//! that is checked after it was opened, so that none ever reaches a stranger with a reused pid.

use super::{LAUNCH_MARK, MARK};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How often processes are looked at while they end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the kernel has to take killed processes away.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A process, told apart from every other one that ever had its pid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: u32,
    /// Its start, in clock ticks since the boot.
    pub start_time: u64,
    /// The kernel's boot id.
    pub boot_id: String,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, start_time: stat.start_time, boot_id: boot_id()? })
    }

    /// Whether it still runs. One that waits to be reaped does not.
    pub fn is_alive(&self) -> bool {
        let same = Stat::read(self.pid).filter(|stat| stat.start_time == self.start_time);
        same.is_some_and(|stat| !stat.dead) && boot_id().as_deref() == Some(self.boot_id.as_str())
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        // The handle pins the process: if it is still ours now, it is ours when the signal arrives.
        if self.is_alive() {
            // A process that ended in between needs no signal.
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// What we read from `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    start_time: u64,
    dead: bool,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in brackets may hold anything, brackets too: the fields start after the last one (proc_pid_stat(5)).
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let state = *fields.first()?;
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
            dead: matches!(state, "Z" | "X" | "x"),
        })
    }
}

/// What a host's processes are known by.
#[derive(Debug)]
struct Signs {
    /// The host's directory as its agent was given it.
    given: PathBuf,
    /// The same, without links in its path.
    real: PathBuf,
    /// The agent's program, without links in its path.
    program: PathBuf,
}

impl Signs {
    fn of(host_dir: &Path, program: &Path) -> Self {
        let real = fs::canonicalize(host_dir).unwrap_or_else(|_| host_dir.to_owned());
        // A link of the kernel's still names a program whose file is gone.
        let file = fs::canonicalize(program).or_else(|_| fs::read_link(program));
        let program = file.map_or_else(|_| program.to_owned(), |path| without_deleted(&path));
        Self { given: host_dir.to_owned(), real, program }
    }

    /// Whether a process with this variable, as in `NAME=value`, is the host's.
    fn is_mark(&self, variable: &[u8]) -> bool {
        let value = |name: &str| {
            let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(Path::new(OsStr::from_bytes(value)))
        };
        value(MARK) == Some(self.given.as_path())
            // By whole names, so that no directory is taken for another one whose name goes on.
            || value(LAUNCH_MARK).is_some_and(|file| file.starts_with(&self.real))
    }
}

/// The host's own processes that run now: those that carry one of the host's marks, agents and runners that were given
/// its directory, and all their descendants.
fn own(signs: &Signs) -> Vec<ProcessId> {
    let Some(boot_id) = boot_id() else {
        return Vec::new();
    };
    let me = std::process::id();
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, Stat::read(pid)?))) {
            stats.insert(pid, stat);
        }
    }
    let mut found: BTreeSet<u32> = stats.keys().copied().filter(|pid| *pid != me && is_root(*pid, signs)).collect();
    loop {
        let more: Vec<u32> = stats
            .iter()
            .filter(|(pid, stat)| **pid != me && found.contains(&stat.parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    stats
        .into_iter()
        .filter(|(pid, stat)| found.contains(pid) && !stat.dead)
        .map(|(pid, stat)| ProcessId { pid, start_time: stat.start_time, boot_id: boot_id.clone() })
        .collect()
}

fn is_root(pid: u32, signs: &Signs) -> bool {
    // Processes of other users cannot be read here, and are not ours.
    let has = |file: &str, fits: &dyn Fn(&[u8]) -> bool| {
        fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(fits))
    };
    if has("environ", &|variable| signs.is_mark(variable)) {
        return true;
    }
    // A person's `tail` in that directory is not ours: the program must be the agent's, too.
    let given = signs.given.as_os_str().as_bytes();
    has("cmdline", &|argument| argument == given) && executable(pid).is_some_and(|exe| exe == signs.program)
}

fn executable(pid: u32) -> Option<PathBuf> {
    // A program that was replaced since is still the program.
    Some(without_deleted(&fs::read_link(format!("/proc/{pid}/exe")).ok()?))
}

/// The kernel says so after the path of a program that was removed or replaced since it started.
fn without_deleted(exe: &Path) -> PathBuf {
    let text = exe.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    text.map_or_else(|| exe.to_owned(), PathBuf::from)
}

/// The host's agent, looked for among the processes themselves: whoever started it may have died before it could write
/// that down. Its runner and what runs under it do not count.
pub fn find_agent(host_dir: &Path, program: &Path) -> Option<ProcessId> {
    let signs = Signs::of(host_dir, program);
    let given = host_dir.as_os_str().as_bytes();
    own(&signs).into_iter().find(|id| {
        let Ok(line) = fs::read(format!("/proc/{}/cmdline", id.pid)) else { return false };
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let holds = |pair: &[&[u8]]| words.windows(pair.len()).any(|window| window == pair);
        holds(&[b"agent", b"--host-dir", given]) && !words.contains(&b"runner".as_slice())
    })
}

/// End every process of a host: ask, wait for `patience`, kill. Gives the number that is left, which should be 0.
pub async fn end_all(host_dir: &Path, program: &Path, patience: Duration) -> usize {
    let signs = Signs::of(host_dir, program);
    let asked_until = Instant::now() + patience;
    let mut asked = BTreeSet::new();
    while Instant::now() < asked_until {
        let left = own(&signs);
        if left.is_empty() {
            return 0;
        }
        for process in left {
            if !asked.contains(&process) {
                process.signal(Signal::TERM);
                asked.insert(process);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let killed_until = Instant::now() + AFTER_KILL;
    loop {
        let left = own(&signs);
        if left.is_empty() || Instant::now() >= killed_until {
            return left.len();
        }
        tracing::info!(component = "backend_local", processes = left.len(), "killing what is left of a host");
        for process in &left {
            process.signal(Signal::KILL);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_after_a_name_with_brackets() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 7, start_time: 987_654, dead: false }));
        assert_eq!(Stat::parse("42 (a"), None);
    }

    #[test]
    fn a_mark_names_this_directory_and_no_other() {
        let signs = Signs { given: "/link/h".into(), real: "/real/h".into(), program: PathBuf::new() };
        for ours in ["TOWLINE_HOST_DIR=/link/h", "TOWLINE_PRELOAD=/real/h/run/dask/preload.json"] {
            assert!(signs.is_mark(ours.as_bytes()), "{ours}");
        }
        for other in [
            "TOWLINE_HOST_DIR=/link/h2",
            "TOWLINE_PRELOAD=/real/h2/run/dask/preload.json",
            "TOWLINE_PRELOAD=run/dask/preload.json",
            "PWD=/real/h",
            "",
        ] {
            assert!(!signs.is_mark(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_another_process() {
        let me = ProcessId::of(std::process::id()).expect("this process");
        assert!(me.is_alive());
        assert!(!ProcessId { start_time: me.start_time + 1, ..me.clone() }.is_alive());
        assert!(!ProcessId { boot_id: "another".to_owned(), ..me }.is_alive());
    }
}
