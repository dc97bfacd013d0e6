//! What the kernel says about processes and about this boot. Reads `/proc`, decides nothing; driven by the runner
//! (its children) and by `launch` (is a recorded runner still the same process?).

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};
use towline_protocol::time::{BootTime, UnixSeconds};

/// Names one process for good: pids are used again, but not with the same start time within one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerRecord {
    /// The runner's process id.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub start_time: u64,
    /// Which boot.
    pub boot_id: String,
}

impl RunnerRecord {
    /// The record of the process that calls this.
    pub fn of_this_process() -> io::Result<Self> {
        let pid = std::process::id();
        let stat = stat(pid)?.ok_or_else(|| io::Error::other("/proc does not show this process"))?;
        Ok(Self { pid, start_time: stat.start_time, boot_id: boot_id()? })
    }

    /// Whether both began at the same moment of the same boot. A runner in a container counts processes from 1, so that
    /// its own number says nothing outside; its start is the same everywhere.
    pub fn is_same_start(&self, other: &Self) -> bool {
        self.start_time == other.start_time && self.boot_id == other.boot_id
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> io::Result<bool> {
        if boot_id()? != self.boot_id {
            return Ok(false);
        }
        Ok(stat(self.pid)?.is_some_and(|stat| stat.start_time == self.start_time && stat.is_alive()))
    }
}

/// The part of `/proc/<pid>/stat` that we need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, … or `Z`.
    pub state: char,
    /// Parent's pid.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Start, in ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Neither a zombie nor dead.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The state of a process; none when there is no such process.
pub fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text).map(Some).ok_or_else(|| io::Error::other("/proc/<pid>/stat has another form")),
        // ESRCH: it ended between open and read.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The program's name stands in brackets and may itself hold brackets and spaces, so fields count from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Field 22 of the file; 4 are behind us with the name, 16 lie between.
    let start_time = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, parent, group, start_time })
}

/// Every living process whose parent is `parent`.
pub fn children_of(parent: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if stat(pid)?.is_some_and(|stat| stat.parent == parent && stat.is_alive()) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// The kernel's id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A pid as the kernel interface takes it; none for 0 and for what no pid can be.
pub fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw)
}

/// The clock that counts suspended time and never steps back.
pub fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    BootTime(Duration::new(seconds, nanos))
}

/// Wall-clock time.
pub fn unix_time() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Wall-clock time in Unix milliseconds, for log lines.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_brackets_and_spaces() {
        let line = "4242 (a) b (c) S 17 4240 4240 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let expected = Stat { state: 'S', parent: 17, group: 4240, start_time: 987_654 };
        assert_eq!(parse_stat(line), Some(expected));
    }

    #[test]
    fn a_record_of_another_boot_or_start_is_not_alive() {
        let me = RunnerRecord::of_this_process().expect("own record");
        assert!(me.is_alive().expect("readable"));
        assert!(!RunnerRecord { boot_id: "another".into(), ..me.clone() }.is_alive().expect("readable"));
        assert!(!RunnerRecord { start_time: me.start_time + 1, ..me }.is_alive().expect("readable"));
    }

    #[test]
    fn a_start_is_the_same_whatever_number_the_process_has() {
        let me = RunnerRecord::of_this_process().expect("own record");
        assert!(me.is_same_start(&RunnerRecord { pid: 1, ..me.clone() }));
        assert!(!me.is_same_start(&RunnerRecord { start_time: me.start_time + 1, ..me.clone() }));
        assert!(!me.is_same_start(&RunnerRecord { boot_id: "another".into(), ..me.clone() }));
    }

    #[test]
    fn sees_own_children_only_while_they_live() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawns");
        assert!(children_of(std::process::id()).expect("readable").contains(&child.id()));
        child.kill().expect("kills");
        child.wait().expect("waits");
        assert!(!children_of(std::process::id()).expect("readable").contains(&child.id()));
    }
}
