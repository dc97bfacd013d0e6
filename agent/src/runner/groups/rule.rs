//! PURE: which limits the control group of a Dask process gets. Must not read or write anything: `mod.rs` does.
//!
//! The rule: **Dask's own limits act first.** Dask spills at 70 %, pauses at 80 % and, where there is a nanny, ends a worker
//! at 95 % of its memory limit, by what the worker's own process holds. So a group may hold all of its workers' limits, and
//! on top of them the room that the nanny, programs that tasks start, and files in memory need. What still reaches that
//! limit was too fast for Dask, or was not seen by it, and is the kernel's to end before the host is.

use std::fmt::Write as _;
use towline_protocol::assignment::{Role, RoleKind};

/// Room beside the workers' limits: a nanny's process with its imports holds 60 to 150 MiB, and what a worker starts besides
/// itself, such as the resource tracker of `multiprocessing`, some 10 MiB.
const ROOM: u64 = 256 << 20;

/// This share of the workers' limits is room, too: page tables and files in memory grow with them.
const ROOM_SHARE: u64 = 16;

/// Threads and processes of one group; a task that forks without end is stopped here.
const TASKS: u64 = 32_768;

/// CPU under contention, beside the 100 of a worker's group: a scheduler that waits for its workers holds up all of them.
const SCHEDULER_WEIGHT: u32 = 200;
const WORKER_WEIGHT: u32 = 100;
/// The runner needs next to nothing, at once.
pub const RUNNER_WEIGHT: u32 = 300;

/// The limits of one group. None: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From here on the kernel takes memory back and slows the group down, in bytes.
    pub memory_high: Option<u64>,
    /// Here it kills, in bytes.
    pub memory_max: Option<u64>,
    /// It then kills the whole group.
    pub together: bool,
    /// Threads and processes.
    pub tasks: u64,
    /// CPU under contention.
    pub weight: u32,
}

/// The limits of each process of a role, on a machine that has `pid_max` numbers for processes.
pub fn limits(role: &Role, pid_max: Option<u64>) -> Limits {
    let worker = role.kind == RoleKind::Worker;
    let nanny = worker && role.options.nanny;
    // One process holds the nannies of all workers, and they are its children.
    let workers = if nanny { u64::from(role.processes) } else { 1 };
    // A worker without a limit of its own may use its share of the host, all of them together all: less would act before
    // Dask. A scheduler has no limit.
    let limit = role.memory_limit.filter(|_| worker).map(|each| each.saturating_mul(workers));
    Limits {
        // Slowed down, a worker lives until its nanny looks, ten times a second. Without a nanny nobody would end it, and it
        // would crawl on for hours.
        memory_high: limit.filter(|_| nanny).map(|limit| page(limit.saturating_add(ROOM))),
        memory_max: limit.map(|limit| page(limit.saturating_add(ROOM).saturating_add(limit / ROOM_SHARE))),
        // A nanny starts its worker anew, so it must live. Others are nothing without their main process.
        together: !nanny,
        tasks: pid_max.map_or(TASKS, |numbers| TASKS.min((numbers / 2).max(1))),
        weight: if worker { WORKER_WEIGHT } else { SCHEDULER_WEIGHT },
    }
}

/// The kernel counts whole pages.
fn page(bytes: u64) -> u64 {
    bytes & !0xfff
}

impl Limits {
    /// The files of a group and what is written to them.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let bytes = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        vec![
            ("memory.high", bytes(self.memory_high)),
            ("memory.max", bytes(self.memory_max)),
            ("memory.oom.group", u8::from(self.together).to_string()),
            ("pids.max", self.tasks.to_string()),
            ("cpu.weight", self.weight.to_string()),
        ]
    }
}

/// The controllers that are worth enabling, of those that a group has, as they are written to `cgroup.subtree_control`.
pub fn enable(controllers: &str) -> Vec<String> {
    let have = |name: &&str| controllers.split_ascii_whitespace().any(|one| one == *name);
    ["cpu", "io", "memory", "pids"].iter().filter(|name| have(name)).map(|name| format!("+{name}")).collect()
}

/// A name as the name of a group: the kernel's own files have a dot in theirs.
pub fn folder_name(process: &str) -> String {
    let mut name = String::new();
    for letter in process.chars().take(64) {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => name.push(letter),
            other => _ = write!(name, "_{:x}", u32::from(other)),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use towline_protocol::assignment::{DaskOptions, Ports, Profile};

    fn role(kind: RoleKind, processes: u32, memory_limit: Option<u64>, nanny: bool) -> Role {
        Role {
            kind,
            profile: Profile::Dask,
            processes,
            threads: 1,
            memory_limit,
            local_directory: None,
            ports: Ports { dask: 0, gateway: 0 },
            resources: Vec::new(),
            job_sha256: None,
            options: DaskOptions { nanny },
        }
    }

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn limits_are_those_of_all_workers_and_room() {
        for (role, high, max, together) in [
            (role(RoleKind::Worker, 1, Some(GIB), true), Some(1280 * MIB), Some(1344 * MIB), false),
            (role(RoleKind::Worker, 4, Some(GIB), true), Some(4352 * MIB), Some(4608 * MIB), false),
            // Without nannies each worker has a group of its own.
            (role(RoleKind::Worker, 4, Some(GIB), false), None, Some(1344 * MIB), true),
            (role(RoleKind::Worker, 4, None, true), None, None, false),
            (role(RoleKind::Scheduler, 1, None, true), None, None, true),
            (role(RoleKind::Scheduler, 1, Some(GIB), true), None, None, true),
        ] {
            let limits = limits(&role, None);
            assert_eq!((limits.memory_high, limits.memory_max, limits.together), (high, max, together), "{role:?}");
        }
    }

    #[test]
    fn threads_leave_half_of_the_numbers_to_others() {
        let tasks = |pid_max| limits(&role(RoleKind::Worker, 1, None, true), pid_max).tasks;
        assert_eq!(
            [tasks(None), tasks(Some(4_194_304)), tasks(Some(32_768)), tasks(Some(0))],
            [32_768, 32_768, 16_384, 1]
        );
    }

    #[test]
    fn files_are_written_as_the_kernel_reads_them() {
        let files = limits(&role(RoleKind::Worker, 1, Some(GIB), false), None).files();
        let expected = [
            ("memory.high", "max"),
            ("memory.max", "1409286144"),
            ("memory.oom.group", "1"),
            ("pids.max", "32768"),
            ("cpu.weight", "100"),
        ];
        assert_eq!(files, expected.map(|(name, text)| (name, text.to_owned())));
    }

    #[test]
    fn only_controllers_that_are_there_are_enabled() {
        assert_eq!(enable("cpuset cpu io memory hugetlb pids\n"), ["+cpu", "+io", "+memory", "+pids"]);
        assert_eq!(enable("hugetlb memory"), ["+memory"]);
        assert_eq!(enable("\n"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn dask_acts_first(processes in 1u32..=256, each in (64 * MIB)..(1 << 60), nanny: bool) {
            let role = role(RoleKind::Worker, processes, Some(each), nanny);
            let limits = limits(&role, None);
            let all = each.saturating_mul(if nanny { u64::from(processes) } else { 1 });
            let max = limits.memory_max.expect("a worker with a limit");
            prop_assert!(max >= page(all), "all workers at their limits fit");
            prop_assert!(all > u64::MAX - (1 << 62) || max - all >= ROOM - 0xfff);
            prop_assert!(limits.memory_high.is_none_or(|high| high <= max && high >= page(all)));
            prop_assert_eq!(limits.memory_high.is_some(), nanny);
            prop_assert_eq!(max % 4096, 0);
        }

        #[test]
        fn names_of_groups_lead_nowhere(name in ".{0,80}") {
            let folder = folder_name(&name);
            prop_assert!(!folder.contains(['/', '.', '\0']), "{folder}");
        }
    }
}
