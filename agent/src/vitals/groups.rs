//! Reads the control groups of the workload: the one of the runner with all below it, and in it the groups that the runner
//! has made for its processes (`runner::groups`).
//!
//! Must not judge: `meter` makes vitals of it, `cgroup` understands the texts. Runs on the sampler's thread.

use super::cgroup::{self, Hierarchy, Usage};
use super::processes::Tree;
use super::read::text;
use crate::runner::groups::RUNNER;
use std::fs;
use std::path::{Path, PathBuf};
use towline_protocol::report::{MAX_PROCESSES, WorkloadSource};

/// How deep tasks may have nested groups that are looked into for strangers.
const DEEPEST: u32 = 8;

/// What the kernel says of the workload's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// All of it, if it has a group to itself.
    pub whole: Option<(WorkloadSource, Usage)>,
    /// Each process that has a group of its own, by its name.
    pub processes: Vec<(String, Usage)>,
}

/// Look at the groups of the workload. What version 2 does not say, version 1 may: on machines with both, its controllers
/// are in one of them.
pub fn of_workload(runner: u32, tree: &Tree) -> Seen {
    let texts =
        || Some((text(format!("/proc/{runner}/cgroup"))?, text("/proc/self/cgroup")?, text("/proc/self/mountinfo")?));
    let Some((theirs, ours, mounts)) = texts() else { return Seen::default() };
    let is_theirs = |pid: u32| pid == runner || tree.pids.contains(&pid);
    let folder = |hierarchy| {
        let group = cgroup::whole(cgroup::group(&theirs, hierarchy)?, RUNNER, hierarchy);
        if !cgroup::is_own(group, cgroup::group(&ours, hierarchy)?) {
            return None;
        }
        let folder = cgroup::folder(&mounts, hierarchy, group)?;
        // Somebody else's process in it, and its numbers are not the workload's.
        holds_only(&folder, &is_theirs, DEEPEST).then_some(folder)
    };
    let old = version_1(folder);
    let Some(new) = folder(Hierarchy::Unified) else {
        return Seen {
            whole: (old != Usage::default()).then_some((WorkloadSource::CgroupV1, old)),
            processes: Vec::new(),
        };
    };
    Seen { whole: Some((WorkloadSource::CgroupV2, version_2(&new).or(old))), processes: processes(&new) }
}

fn holds_only(folder: &Path, is_theirs: &impl Fn(u32) -> bool, deep: u32) -> bool {
    let members = text(folder.join("cgroup.procs")).as_deref().and_then(cgroup::members);
    members.is_some_and(|members| members.into_iter().all(is_theirs))
        && (deep == 0 || folders(folder).iter().all(|(_, below)| holds_only(below, is_theirs, deep - 1)))
}

/// The groups of a divided one, without the runner's own.
fn processes(whole: &Path) -> Vec<(String, Usage)> {
    let mut all = folders(whole);
    if !all.iter().any(|(name, _)| name == RUNNER) {
        return Vec::new();
    }
    all.retain(|(name, _)| name != RUNNER);
    all.sort();
    all.into_iter().take(MAX_PROCESSES).map(|(name, folder)| (name, version_2(&folder))).collect()
}

fn folders(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

fn version_2(folder: &Path) -> Usage {
    let file = |name: &str| text(folder.join(name));
    let count = |name: &str| file(name).as_deref().and_then(cgroup::number);
    Usage {
        cpu_ms: file("cpu.stat").as_deref().and_then(cgroup::cpu_stat),
        memory: count("memory.current"),
        peak: count("memory.peak"),
        limit: count("memory.max"),
        oom_kills: file("memory.events").and_then(|text| cgroup::entry(&text, "oom_kill")),
        disks: file("io.stat").as_deref().and_then(cgroup::io_stat),
        tasks: count("pids.current"),
    }
}

/// Each controller has a hierarchy of its own, and the workload may have its own group in some of them only.
fn version_1(folder: impl Fn(Hierarchy) -> Option<PathBuf>) -> Usage {
    let file = |hierarchy, name: &str| text(folder(hierarchy)?.join(name));
    let memory = |name: &str| file(cgroup::MEMORY, name).as_deref().and_then(cgroup::number);
    Usage {
        cpu_ms: file(cgroup::CPUACCT, "cpuacct.usage").as_deref().and_then(cgroup::cpuacct_usage),
        memory: memory("memory.usage_in_bytes"),
        peak: memory("memory.max_usage_in_bytes"),
        limit: memory("memory.limit_in_bytes").filter(|limit| *limit < cgroup::NO_LIMIT),
        oom_kills: file(cgroup::MEMORY, "memory.oom_control").and_then(|text| cgroup::entry(&text, "oom_kill")),
        disks: file(cgroup::BLKIO, "blkio.throttle.io_service_bytes").as_deref().and_then(cgroup::io_service_bytes),
        tasks: file(cgroup::PIDS, "pids.current").as_deref().and_then(cgroup::number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A divided group with two processes in it, as the kernel lays it out.
    fn divided() -> tempfile::TempDir {
        let whole = tempfile::tempdir().expect("a directory");
        for (folder, procs) in
            [("", ""), ("runner", "5\n"), ("worker-1", "8\n"), ("worker-0", "6\n"), ("worker-0/own", "7\n")]
        {
            let folder = whole.path().join(folder);
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join("cgroup.procs"), procs).expect("written");
        }
        let file = |name: &str, text: &str| fs::write(whole.path().join("worker-0").join(name), text).expect("written");
        file("cpu.stat", "usage_usec 5000\n");
        file("memory.current", "100\n");
        file("memory.peak", "300\n");
        file("memory.max", "400\n");
        whole
    }

    #[test]
    fn each_process_has_its_own_numbers() {
        let whole = divided();
        let seen = processes(whole.path());
        let numbers =
            Usage { cpu_ms: Some(5), memory: Some(100), peak: Some(300), limit: Some(400), ..Usage::default() };
        assert_eq!(seen, [("worker-0".to_owned(), numbers), ("worker-1".to_owned(), Usage::default())]);
        fs::remove_dir_all(whole.path().join("runner")).expect("removed");
        assert_eq!(processes(whole.path()), [], "somebody else divided it");
    }

    #[test]
    fn strangers_are_seen_however_deep() {
        let whole = divided();
        assert!(holds_only(whole.path(), &|pid| (5..=8).contains(&pid), DEEPEST));
        assert!(!holds_only(whole.path(), &|pid| pid != 7, DEEPEST));
        assert!(!holds_only(&whole.path().join("gone"), &|_| true, DEEPEST));
    }
}
