//! PURE: what the kernel says of a control group, from the texts of its files, and which group is the workload's own.
//!
//! Version 2: <https://docs.kernel.org/admin-guide/cgroup-v2.html>. Version 1:
//! <https://docs.kernel.org/admin-guide/cgroup-v1/>. Must not read anything: `read` does.

use std::path::{Component, Path, PathBuf};

/// Which hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hierarchy {
    /// The one of version 2, with all controllers.
    Unified,
    /// A controller's of version 1.
    Controller(&'static str),
}

/// CPU time, version 1.
pub const CPUACCT: Hierarchy = Hierarchy::Controller("cpuacct");
/// Memory, version 1.
pub const MEMORY: Hierarchy = Hierarchy::Controller("memory");
/// Disks, version 1.
pub const BLKIO: Hierarchy = Hierarchy::Controller("blkio");
/// Tasks, version 1.
pub const PIDS: Hierarchy = Hierarchy::Controller("pids");

/// A process's group in a hierarchy, from `/proc/<pid>/cgroup`: lines of `id:controllers:path`, in version 2 `0::path`.
pub fn group(text: &str, hierarchy: Hierarchy) -> Option<&str> {
    text.lines().find_map(|line| {
        let (id, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let found = match hierarchy {
            Hierarchy::Unified => id == "0" && controllers.is_empty(),
            Hierarchy::Controller(name) => controllers.split(',').any(|one| one == name),
        };
        // A path that leads out of what this namespace shows begins with `/..`.
        (found && path.starts_with('/') && !path.starts_with("/..")).then_some(path)
    })
}

/// Where a group's files lie, from `/proc/self/mountinfo`, section 3.5 of
/// <https://docs.kernel.org/filesystems/proc.html>.
pub fn folder(mountinfo: &str, hierarchy: Hierarchy, group: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1)?);
        let found = match hierarchy {
            Hierarchy::Unified => kind == "cgroup2",
            Hierarchy::Controller(name) => kind == "cgroup" && options.split(',').any(|one| one == name),
        };
        // Mount points with spaces are written with escapes; nobody has control groups there.
        if !found || point.contains('\\') {
            return None;
        }
        let below = Path::new(group).strip_prefix(root).ok()?;
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| Path::new(point).join(below))
    })
}

/// The workload's group, from the runner's: the one that the runner has divided, if it is in the leaf that it then makes for
/// itself. Groups of version 1 are never divided.
pub fn whole<'a>(runner: &'a str, leaf: &str, hierarchy: Hierarchy) -> &'a str {
    match runner.rsplit_once('/') {
        Some(("", name)) if hierarchy == Hierarchy::Unified && name == leaf => "/",
        Some((above, name)) if hierarchy == Hierarchy::Unified && name == leaf => above,
        _ => runner,
    }
}

/// Whether the runner's group is the workload's own: not the root, nor the agent's group, nor one above it.
pub fn is_own(runner: &str, agent: &str) -> bool {
    runner != "/" && !Path::new(agent).starts_with(runner)
}

/// The processes that are listed in `cgroup.procs`, one a line.
pub fn members(procs: &str) -> Option<Vec<u32>> {
    procs.lines().map(|line| line.trim().parse().ok()).collect()
}

/// What a group's files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Bytes of memory, cached files included.
    pub memory: Option<u64>,
    /// The most of it so far.
    pub peak: Option<u64>,
    /// The most that it may have; none: no limit of its own.
    pub limit: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Bytes read from and written to disks.
    pub disks: Option<(u64, u64)>,
    /// Threads.
    pub tasks: Option<u64>,
}

impl Usage {
    /// What one does not say, by another.
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms.or(other.cpu_ms),
            memory: self.memory.or(other.memory),
            peak: self.peak.or(other.peak),
            limit: self.limit.or(other.limit),
            oom_kills: self.oom_kills.or(other.oom_kills),
            disks: self.disks.or(other.disks),
            tasks: self.tasks.or(other.tasks),
        }
    }
}

/// From here on, a limit of version 1 means none: it says the largest number of pages then.
pub const NO_LIMIT: u64 = 1 << 62;

/// A file with one number.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A line `name value` of a flat file: `cpu.stat`, `memory.events`, `memory.oom_control`.
pub fn entry(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).and_then(number)
}

/// `cpu.stat` of version 2, in microseconds there.
pub fn cpu_stat(text: &str) -> Option<u64> {
    entry(text, "usage_usec").map(|micros| micros / 1_000)
}

/// `cpuacct.usage` of version 1, in nanoseconds there.
pub fn cpuacct_usage(text: &str) -> Option<u64> {
    number(text).map(|nanos| nanos / 1_000_000)
}

/// `io.stat`: lines of `major:minor key=value …`. A group that never touched a disk has an empty file.
pub fn io_stat(text: &str) -> Option<(u64, u64)> {
    let mut sum = (0u64, 0u64);
    for line in text.lines() {
        let value = |name: &str| {
            let found = line.split_ascii_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found?.parse::<u64>().ok()
        };
        // A device may have a line with its name only, before its first byte.
        if line.split_ascii_whitespace().count() > 1 {
            sum = (sum.0.checked_add(value("rbytes")?)?, sum.1.checked_add(value("wbytes")?)?);
        }
    }
    Some(sum)
}

/// `blkio.throttle.io_service_bytes` of version 1: lines of `major:minor Operation bytes`, and a total.
pub fn io_service_bytes(text: &str) -> Option<(u64, u64)> {
    let mut sum = (0u64, 0u64);
    for line in text.lines() {
        match *line.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
            [_, "Read", bytes] => sum.0 = sum.0.checked_add(bytes.parse().ok()?)?,
            [_, "Write", bytes] => sum.1 = sum.1.checked_add(bytes.parse().ok()?)?,
            [_, _, _] | ["Total", _] => {}
            _ => return None,
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "0::/towline.slice/towline-dask@1.service\n";
    const MIXED: &str = "9:name=systemd:/\n4:memory:/box\n2:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn a_process_is_in_one_group_of_each_hierarchy() {
        assert_eq!(group(UNIFIED, Hierarchy::Unified), Some("/towline.slice/towline-dask@1.service"));
        assert_eq!(group(UNIFIED, MEMORY), None);
        assert_eq!((group(MIXED, MEMORY), group(MIXED, CPUACCT)), (Some("/box"), Some("/")));
        assert_eq!((group(MIXED, PIDS), group(MIXED, Hierarchy::Unified)), (None, Some("/")));
        assert_eq!(group("0::/../other\n", Hierarchy::Unified), None, "outside of this namespace");
        for text in ["", "0", "0:", "0::", "::", "0::relative"] {
            assert_eq!(group(text, Hierarchy::Unified), None, "{text:?}");
        }
    }

    #[test]
    fn files_lie_below_the_mount_that_shows_the_group() {
        let text = "32 31 0:29 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n\
            33 31 0:30 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(folder(text, MEMORY, "/jobs/a"), Some("/sys/fs/cgroup/memory/jobs/a".into()));
        assert_eq!(folder(text, Hierarchy::Unified, "/pod/b"), Some("/sys/fs/cgroup/b".into()));
        assert_eq!(folder(text, Hierarchy::Unified, "/other"), None, "this mount does not show it");
        assert_eq!(folder(text, Hierarchy::Unified, "/pod/../etc"), None);
        assert_eq!(folder(text, PIDS, "/jobs"), None);
        for text in ["", " - ", "1 2 3 - cgroup2", "32 31 0:29 / /a\\040b rw - cgroup2 cgroup2 rw"] {
            assert_eq!(folder(text, Hierarchy::Unified, "/"), None, "{text:?}");
        }
    }

    #[test]
    fn the_workloads_group_is_the_one_that_the_runner_divides() {
        for (runner, hierarchy, expected) in [
            ("/a/unit.service/runner", Hierarchy::Unified, "/a/unit.service"),
            ("/runner", Hierarchy::Unified, "/"),
            ("/a/unit.service", Hierarchy::Unified, "/a/unit.service"),
            ("/a/other-runner", Hierarchy::Unified, "/a/other-runner"),
            ("/a/runner", MEMORY, "/a/runner"),
            ("/", Hierarchy::Unified, "/"),
        ] {
            assert_eq!(whole(runner, "runner", hierarchy), expected);
        }
    }

    #[test]
    fn a_group_with_the_agent_in_it_is_not_the_workloads_own() {
        assert!(is_own("/towline.slice/dask", "/towline.slice/agent"));
        assert!(is_own("/towline.slice/dask", "/"));
        assert!(!is_own("/", "/a"));
        assert!(!is_own("/a", "/a"));
        assert!(!is_own("/a", "/a/b"));
        assert!(is_own("/a", "/ab"));
    }

    #[test]
    fn reads_the_files_of_version_2() {
        let cpu = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\n";
        assert_eq!(cpu_stat(cpu), Some(1234));
        let events = "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(entry(events, "oom_kill"), Some(2));
        assert_eq!(number("4096\n"), Some(4096));
        let io = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 rbytes=1 wbytes=2 rios=3\n7:0\n";
        assert_eq!(io_stat(io), Some((1_459_201, 314_773_506)));
        assert_eq!(io_stat(""), Some((0, 0)));
        assert_eq!(members("5\n7\n"), Some(vec![5, 7]));
    }

    #[test]
    fn reads_the_files_of_version_1() {
        assert_eq!(cpuacct_usage("5000000000\n"), Some(5000));
        assert_eq!(entry("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "oom_kill"), Some(4));
        let io = "8:0 Read 100\n8:0 Write 20\n8:0 Sync 1\n8:0 Async 119\n8:0 Discard 0\n8:0 Total 120\nTotal 120\n";
        assert_eq!(io_service_bytes(io), Some((100, 20)));
        assert_eq!(io_service_bytes("Total 0\n"), Some((0, 0)));
    }

    #[test]
    fn what_is_not_as_documented_is_unknown() {
        for text in ["", "max\n", "-1", "usage_usec", "usage_usec x\n", "18446744073709551616"] {
            assert_eq!((number(text), cpu_stat(text), cpuacct_usage(text)), (None, None, None), "{text:?}");
        }
        let max = u64::MAX;
        let twice = format!("8:0 rbytes={max} wbytes=0\n8:1 rbytes={max} wbytes=0\n");
        for text in ["8:0 rbytes=x wbytes=1", "8:0 rbytes=1", twice.as_str()] {
            assert_eq!(io_stat(text), None, "{text:?}");
        }
        for text in ["8:0 Read x", "8:0", "a b c d"] {
            assert_eq!(io_service_bytes(text), None, "{text:?}");
        }
        assert_eq!(members("5\nx\n"), None);
    }
}
