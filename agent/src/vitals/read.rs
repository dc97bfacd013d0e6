//! Reads the kernel's files for `meter`: the only part of the vitals that touches a file.
//!
//! Must not judge or keep anything. What cannot be read is none. Runs on the sampler's thread, because these reads block.

use super::groups;
use super::host;
use super::meter::{Reading, WorkloadReading};
use super::processes::{self, Processes, Tree};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Above this much resident memory nobody asks for shares: the kernel walks every page for the answer (measured: 8 ms
/// for each GiB), and holds up the process's own memory calls meanwhile. What is shared is small beside so much.
const SHARES_UP_TO: u64 = 1 << 30;

/// Longest file that is read: `/proc/stat` of a machine with a thousand cores is below it.
const LONGEST: u64 = 4 << 20;

/// Look at the host, and at the workload below `runner`.
pub fn reading(at: Duration, directory: &Path, runner: Option<u32>) -> Reading {
    let space = rustix::fs::statvfs(directory).ok();
    Reading {
        at,
        cpu: text("/proc/stat").as_deref().and_then(host::cpu_times),
        memory: memory(),
        space: space.map(|space| {
            (space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize))
        }),
        disks: text("/proc/diskstats").and_then(|text| host::disks(&text, &names("/sys/block", |_| true))),
        interfaces: text("/proc/net/dev").as_deref().and_then(host::interfaces),
        hardware: names("/sys/class/net", |path| path.join("device").exists()),
        workload: runner.map(workload),
    }
}

/// Memory in bytes: in use (what could not be given to somebody else), and all.
fn memory() -> Option<(u64, u64)> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    // It says nothing rather than failing.
    (system.total_memory() > 0).then(|| (system.used_memory(), system.total_memory()))
}

fn workload(runner: u32) -> WorkloadReading {
    let tree = processes().and_then(|processes| processes::tree(&processes, runner));
    let page = u64::try_from(rustix::param::page_size()).unwrap_or_default();
    let seen = tree.as_ref().map(|tree| groups::of_workload(runner, tree)).unwrap_or_default();
    WorkloadReading {
        runner,
        disks: tree.as_ref().and_then(disks),
        proportional: tree.as_ref().and_then(|tree| shares(tree, page)),
        group: seen.whole,
        groups: seen.processes,
        tree,
        page,
    }
}

/// Every process that can be seen.
pub(super) fn processes() -> Option<Processes> {
    let mut table = Processes::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading.
        let Some(stat) = bytes(entry.path().join("stat")) else { continue };
        // A command's name need not be UTF-8.
        if let Some(row) = processes::row(&String::from_utf8_lossy(&stat)) {
            table.insert(pid, row);
        }
    }
    Some(table)
}

/// The sum of the shares, if it is cheap. One that ended meanwhile uses nothing; one that may not be asked makes the sum
/// unknown.
fn shares(tree: &Tree, page: u64) -> Option<u64> {
    if tree.pages.saturating_mul(page) > SHARES_UP_TO {
        return None;
    }
    let mut sum = 0u64;
    for pid in &tree.pids {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        match text(folder.join("smaps_rollup")).as_deref().and_then(processes::proportional) {
            Some(share) => sum = sum.saturating_add(share),
            None if !folder.exists() => {}
            None => return None,
        }
    }
    Some(sum)
}

/// What the processes read from and wrote to disks. One that may not be asked makes the sums unknown.
fn disks(tree: &Tree) -> Option<(u64, u64)> {
    let mut sum = (0u64, 0u64);
    for pid in &tree.pids {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        match text(folder.join("io")).as_deref().and_then(processes::disk_bytes) {
            Some((read, written)) => sum = (sum.0.saturating_add(read), sum.1.saturating_add(written)),
            None if !folder.exists() => {}
            None => return None,
        }
    }
    Some(sum)
}

/// The names in a folder that are wanted; empty if it cannot be read.
fn names(folder: &str, wanted: impl Fn(&Path) -> bool) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| wanted(&entry.path())).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A file's text, if it can be read and is one.
pub(super) fn text(path: impl AsRef<Path>) -> Option<String> {
    String::from_utf8(bytes(path)?).ok()
}

fn bytes(path: impl AsRef<Path>) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::{self, Hierarchy};
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Instant;
    use towline_protocol::report::WorkloadSource;

    #[test]
    fn sees_a_tree_of_processes_of_which_one_has_ended() {
        // A shell as the runner: it has waited for one child that used CPU, and keeps one of two processes.
        let script =
            "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; sh -c 'sleep 60; :' & echo ready; wait";
        let mut runner = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut out = std::io::BufReader::new(runner.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut out, &mut String::new()).expect("ready");
        let begun = Instant::now();
        let seen = loop {
            let seen = reading(Duration::ZERO, Path::new("/"), Some(runner.id())).workload.expect("asked for");
            let tree = seen.tree.clone().expect("it runs");
            if tree.pids.len() == 2 || begun.elapsed() > Duration::from_secs(20) {
                break (seen, tree);
            }
        };
        let (seen, tree) = seen;
        for pid in &tree.pids {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("not zero");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        runner.wait().expect("it ends with its children");
        assert_eq!((tree.pids.len(), tree.threads), (2, 2), "{tree:?}");
        assert!(tree.ticks > 0, "the child that ended used CPU: {tree:?}");
        let shares = seen.proportional.expect("they are ours and small");
        assert!(shares > 0 && shares <= tree.pages * seen.page, "{seen:?}");
        assert_eq!(seen.group, None, "it lives in the group of this test");
    }

    /// A group of this name in each of these hierarchies that lets us make one; gone when this goes.
    struct Groups(Vec<PathBuf>);

    impl Groups {
        fn make(name: &str, hierarchies: &[Hierarchy]) -> Self {
            let (ours, mounts) = (text("/proc/self/cgroup"), text("/proc/self/mountinfo"));
            let made = hierarchies.iter().filter_map(|hierarchy| {
                let group = cgroup::group(ours.as_deref()?, *hierarchy)?;
                let folder = cgroup::folder(mounts.as_deref()?, *hierarchy, group)?.join(name);
                fs::create_dir(&folder).ok().map(|()| folder)
            });
            Self(made.collect())
        }

        fn add(&self, pid: u32) {
            for folder in &self.0 {
                fs::write(folder.join("cgroup.procs"), pid.to_string()).expect("a process may be moved");
            }
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            for folder in &self.0 {
                // The kernel lets go of its last member a moment after it has ended.
                for _ in 0..100 {
                    if fs::remove_dir(folder).is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    /// A runner with a child that used CPU, in a group of its own: what is read of it.
    fn in_a_group(groups: &Groups) -> WorkloadReading {
        let script = "read word; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 60 & echo ready; wait";
        let mut command = Command::new("sh");
        let mut runner =
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        groups.add(runner.id());
        drop(runner.stdin.take());
        let mut out = std::io::BufReader::new(runner.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut out, &mut String::new()).expect("ready");
        let seen = reading(Duration::ZERO, Path::new("/"), Some(runner.id())).workload.expect("asked for");
        let pids = seen.tree.as_ref().map(|tree| tree.pids.clone()).unwrap_or_default();
        for pid in pids.into_iter().chain([runner.id()]) {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("not zero");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        runner.wait().expect("it ends");
        seen
    }

    #[test]
    fn a_group_of_its_own_is_read_where_the_kernel_has_it() {
        let name = format!("towline-test-{}", std::process::id());
        let mut tried = 0;
        for (hierarchies, source) in [
            (&[cgroup::CPUACCT, cgroup::MEMORY, cgroup::PIDS][..], WorkloadSource::CgroupV1),
            (&[Hierarchy::Unified], WorkloadSource::CgroupV2),
        ] {
            let groups = Groups::make(&name, hierarchies);
            if groups.0.is_empty() {
                eprintln!("cannot run here: no group of {source:?} can be made");
                continue;
            }
            tried += 1;
            let (found, usage) = in_a_group(&groups).group.expect("a group of its own");
            assert_eq!(found, source);
            assert!(usage.cpu_ms.is_some_and(|millis| millis > 0), "{source:?}: {usage:?}");
            if source == WorkloadSource::CgroupV1 {
                assert!(usage.memory.is_some_and(|bytes| bytes > 0) && usage.tasks == Some(2), "{usage:?}");
            }
        }
        assert!(tried > 0 || std::env::var_os("CI").is_none(), "CI runs where groups can be made");
    }

    #[test]
    #[ignore = "a measurement, not a check: run it by hand"]
    fn what_a_look_costs() {
        let looks = 200;
        let begun = Instant::now();
        for _ in 0..looks {
            std::hint::black_box(reading(Duration::ZERO, Path::new("/"), Some(1)));
        }
        println!("{:?} a look with all processes as the workload", begun.elapsed() / looks);
        let begun = Instant::now();
        for _ in 0..looks {
            std::hint::black_box(reading(Duration::ZERO, Path::new("/"), None));
        }
        println!("{:?} a look without a workload", begun.elapsed() / looks);
    }
}
