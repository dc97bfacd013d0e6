//! Whether the kernel killed something for want of memory, and how much was in use: by the counts that a control group
//! keeps. Reads files, decides nothing; a kernel that keeps no count says nothing.

use crate::vitals::cgroup::{self, Hierarchy, MEMORY};
use crate::vitals::descendants;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a hierarchy that tell.
#[derive(Clone, Copy, Debug)]
struct Names {
    kills: &'static str,
    now: &'static str,
    peak: &'static str,
    limit: &'static str,
}

const VERSION_1: Names = Names {
    kills: "memory.oom_control",
    now: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    limit: "memory.limit_in_bytes",
};

const VERSION_2: Names =
    Names { kills: "memory.events", now: "memory.current", peak: "memory.peak", limit: "memory.max" };

/// What the kernel did since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed {
    /// Processes.
    pub count: u64,
    /// The most memory that the group has held, in bytes.
    pub peak: Option<u64>,
    /// What it may hold, in bytes; none: no limit of its own.
    pub limit: Option<u64>,
}

/// A group that is looked at.
#[derive(Debug)]
pub struct Watch {
    folder: PathBuf,
    names: Names,
    seen: Option<u64>,
    /// The most that a look has found: what is told where the kernel keeps no peak (before Linux 5.19).
    sampled: Option<u64>,
}

impl Watch {
    /// A process's own group, from now on.
    pub fn of_group(folder: &Path) -> Self {
        Self::begin(folder.to_owned(), VERSION_2)
    }

    /// The runner's group, from now on; none: nothing counts there.
    pub fn of_runner() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let watch = |hierarchy, names| {
            let folder = cgroup::folder(&mounts, hierarchy, cgroup::group(&groups, hierarchy)?)?;
            Some(Self::begin(folder, names)).filter(Self::counts)
        };
        watch(MEMORY, VERSION_1).or_else(|| watch(Hierarchy::Unified, VERSION_2))
    }

    fn begin(folder: PathBuf, names: Names) -> Self {
        let mut watch = Self { folder, names, seen: None, sampled: None };
        watch.seen = watch.kills();
        watch
    }

    /// Whether this kernel counts in this group.
    pub fn counts(&self) -> bool {
        self.seen.is_some()
    }

    /// Look. The kernel counts before it kills, so whoever sees a killed process sees its count.
    pub fn look(&mut self) -> Option<Killed> {
        let now = self.kills();
        let before = std::mem::replace(&mut self.seen, now);
        let count = now?.checked_sub(before?).filter(|count| *count > 0);
        let Some(count) = count else {
            self.sampled = self.sampled.max(self.number(self.names.now));
            return None;
        };
        let peak = self.number(self.names.peak).or(self.sampled);
        let limit = self.number(self.names.limit).filter(|limit| *limit < cgroup::NO_LIMIT);
        Some(Killed { count, peak, limit })
    }

    /// Whether all that is in the group comes from this process: else somebody else may have been killed.
    pub fn is_ours_alone(&self) -> bool {
        let members = fs::read_to_string(self.folder.join("cgroup.procs"));
        let (Ok(members), Some(below)) = (members, descendants(std::process::id())) else { return false };
        let ours = |pid: &u32| *pid == std::process::id() || below.contains(pid);
        cgroup::members(&members).is_some_and(|members| members.iter().all(ours))
    }

    fn kills(&self) -> Option<u64> {
        cgroup::entry(&fs::read_to_string(self.folder.join(self.names.kills)).ok()?, "oom_kill")
    }

    fn number(&self, file: &str) -> Option<u64> {
        cgroup::number(&fs::read_to_string(self.folder.join(file)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a group of version 2.
    fn group() -> (tempfile::TempDir, impl Fn(&str, &str)) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_owned();
        (directory, move |name, text| fs::write(path.join(name), text).expect("written"))
    }

    #[test]
    fn each_kill_is_told_once_with_the_peak_and_the_limit() {
        let (folder, write) = group();
        write("memory.events", "oom 0\noom_kill 3\n");
        let mut watch = Watch::of_group(folder.path());
        assert_eq!(watch.look(), None, "those of an earlier life");
        write("memory.events", "oom 1\noom_kill 5\noom_group_kill 1\n");
        write("memory.peak", "4096\n");
        write("memory.max", "8192\n");
        assert_eq!(watch.look(), Some(Killed { count: 2, peak: Some(4096), limit: Some(8192) }));
        assert_eq!(watch.look(), None);
    }

    #[test]
    fn without_a_peak_the_most_that_was_seen_is_told() {
        let (folder, write) = group();
        write("memory.events", "oom_kill 0\n");
        write("memory.max", "max\n");
        let mut watch = Watch::of_group(folder.path());
        for now in ["100\n", "700\n", "300\n"] {
            write("memory.current", now);
            assert_eq!(watch.look(), None);
        }
        write("memory.current", "5\n");
        write("memory.events", "oom_kill 1\n");
        assert_eq!(watch.look(), Some(Killed { count: 1, peak: Some(700), limit: None }));
    }

    #[test]
    fn a_group_that_counts_nothing_says_nothing() {
        let (folder, write) = group();
        let mut watch = Watch::of_group(folder.path());
        assert_eq!(watch.look(), None);
        write("memory.events", "oom_kill 7\n");
        assert_eq!(watch.look(), None, "nobody knows how many there were before");
    }
}
