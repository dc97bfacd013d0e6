//! PURE: what `/proc` says of the processes below the runner, from the texts of its files.
//!
//! Must not follow names or arguments: only numbers leave this file. A table holds every process of the host, because a
//! tree is known only by its members' parents.

use super::counters;
use std::collections::HashMap;
use std::time::Duration;

/// Milliseconds of a tick in `/proc/<pid>/stat`: a hundred ticks per second in Linux's user interface on every platform
/// we build for.
pub const TICK_MS: u64 = 10;

/// `/proc/<pid>/io`, section 3.3 of <https://docs.kernel.org/filesystems/proc.html>: bytes read from and written to
/// disks.
pub fn disk_bytes(text: &str) -> Option<(u64, u64)> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((value("read_bytes:")?, value("write_bytes:")?))
}

/// Processes by id.
pub type Processes = HashMap<u32, Row>;

/// The part of `/proc/<pid>/stat` that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its parent.
    pub parent: u32,
    /// CPU time of its own, in ticks.
    pub own: u64,
    /// CPU time of children that it has waited for, and of those that they had waited for, in ticks.
    pub waited_for: u64,
    /// Threads; none for a process that has exited and is not waited for yet.
    pub threads: u32,
    /// Resident pages.
    pub pages: u64,
}

/// A line of `/proc/<pid>/stat`, table 1-4 of <https://docs.kernel.org/filesystems/proc.html>.
pub fn row(stat: &str) -> Option<Row> {
    // Fields after the command name, which is in parentheses and may hold anything, parentheses included.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // The state is index 0. Times of waited-for children are signed in the kernel's format, but never negative.
    let dead = matches!(*fields.first()?, "Z" | "X" | "x");
    Some(Row {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)?.checked_add(number(12)?)?,
        waited_for: number(13)?.checked_add(number(14)?)?,
        threads: if dead { 0 } else { u32::try_from(number(17)?).ok()? },
        pages: number(21)?,
    })
}

/// A process tree without its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Its live processes.
    pub pids: Vec<u32>,
    /// CPU time in ticks: of its processes, and of all that any of them, or the root, has waited for. It does not fall
    /// when a process exits.
    pub ticks: u64,
    /// Live threads.
    pub threads: u32,
    /// Resident pages; those of two processes count twice.
    pub pages: u64,
}

/// All that descends from `root`; none: `root` is not there.
pub fn tree(processes: &Processes, root: u32) -> Option<Tree> {
    let mut tree = Tree { ticks: processes.get(&root)?.waited_for, ..Tree::default() };
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, row) in processes.iter().filter(|(pid, _)| **pid != root) {
        children.entry(row.parent).or_default().push(*pid);
    }
    let mut open = children.remove(&root).unwrap_or_default();
    while let Some(pid) = open.pop() {
        if let Some(row) = processes.get(&pid) {
            tree.ticks = tree.ticks.saturating_add(row.own).saturating_add(row.waited_for);
            tree.threads = tree.threads.saturating_add(row.threads);
            tree.pages = tree.pages.saturating_add(row.pages);
            if row.threads > 0 {
                tree.pids.push(pid);
            }
        }
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    Some(tree)
}

/// CPU in thousandths of a core between two looks at CPU time; none: it went back.
pub fn milli_cores(before_ms: Option<u64>, now_ms: Option<u64>, elapsed: Duration) -> Option<u64> {
    // Milliseconds of CPU per second are thousandths of a core.
    counters::per_second(counters::rise(before_ms, now_ms), elapsed)
}

/// The proportional set of a process in bytes: `/proc/<pid>/smaps_rollup`,
/// <https://docs.kernel.org/filesystems/proc.html>.
pub fn proportional(smaps_rollup: &str) -> Option<u64> {
    let rest = smaps_rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_command_with_parentheses() {
        let stat = "7 (a) b) (c) S 3 7 7 0 -1 0 0 0 0 0 11 22 5 6 20 0 4 0 50 9000 12 0";
        assert_eq!(row(stat), Some(Row { parent: 3, own: 33, waited_for: 11, threads: 4, pages: 12 }));
        let dead = row("7 (x) Z 3 7 7 0 -1 0 0 0 0 0 11 22 5 6 20 0 1 0 50 0 0 0").expect("reads");
        assert_eq!((dead.own, dead.threads), (33, 0));
    }

    #[test]
    fn a_line_that_is_not_as_documented_is_unknown() {
        for stat in ["", "7", ")", "7 (x) S", "7 (x) S 3 7 7 0 -1 0 0 0 0 0 x 22 5 6 20 0 4 0 50 9000 12", "é)"] {
            assert_eq!(row(stat), None, "{stat:?}");
        }
        let max = u64::MAX;
        assert_eq!(row(&format!("7 (x) S 3 7 7 0 -1 0 0 0 0 0 {max} 1 5 6 20 0 4 0 50 9000 12")), None);
        for text in ["", "Pss: 5", "Pss: x kB", &format!("Pss: {max} kB")] {
            assert_eq!(proportional(text), None, "{text:?}");
        }
        assert_eq!(proportional("00-ff ---p 0 0 0 [rollup]\nRss:  9 kB\nPss:      4 kB\nPss_Anon: 1 kB\n"), Some(4096));
    }

    fn a(parent: u32, own: u64, waited_for: u64) -> Row {
        Row { parent, own, waited_for, threads: 2, pages: 10 }
    }

    #[test]
    fn reads_what_a_process_moved_to_and_from_disks() {
        let text =
            "rchar: 9\nwchar: 8\nsyscr: 7\nsyscw: 6\nread_bytes: 4096\nwrite_bytes: 12\ncancelled_write_bytes: 5\n";
        assert_eq!(disk_bytes(text), Some((4096, 12)));
        for text in ["", "read_bytes: 5", "read_bytes: x\nwrite_bytes: 1"] {
            assert_eq!(disk_bytes(text), None, "{text:?}");
        }
    }

    #[test]
    fn sums_descendants_and_nothing_else() {
        let processes = Processes::from([
            (1, a(0, 9, 0)),
            (5, a(1, 100, 7)),
            (6, a(5, 1, 0)),
            (7, a(6, 2, 20)),
            (8, a(1, 1_000, 0)),
            (9, Row { threads: 0, pages: 0, ..a(6, 4, 0) }),
        ]);
        let found = tree(&processes, 5).expect("there");
        assert_eq!((found.ticks, found.threads, found.pages), (7 + 1 + 2 + 20 + 4, 4, 20));
        assert_eq!(
            {
                let mut pids = found.pids;
                pids.sort_unstable();
                pids
            },
            [6, 7]
        );
        assert_eq!(tree(&processes, 99), None);
    }

    #[test]
    fn a_loop_of_parents_ends() {
        // Read while ids were used again, a table may hold anything.
        let processes = Processes::from([(5, a(6, 1, 0)), (6, a(5, 1, 0)), (7, a(7, 1, 0))]);
        assert_eq!(tree(&processes, 5).expect("there").pids, [6]);
    }

    #[test]
    fn a_process_that_exits_takes_no_time_away() {
        let before = Processes::from([(5, a(1, 0, 0)), (6, a(5, 10, 0)), (7, a(6, 40, 0))]);
        let waited_for = Processes::from([(5, a(1, 0, 0)), (6, a(5, 11, 45))]);
        let all_gone = Processes::from([(5, a(1, 0, 60))]);
        let ticks = |processes| tree(processes, 5).map(|tree| tree.ticks);
        assert_eq!([ticks(&before), ticks(&waited_for), ticks(&all_gone)], [Some(50), Some(56), Some(60)]);
    }

    #[test]
    fn cpu_that_went_back_is_unknown_for_that_period() {
        let second = Duration::from_secs(1);
        assert_eq!(milli_cores(Some(1_000), Some(1_500), second), Some(500));
        assert_eq!(milli_cores(Some(1_500), Some(1_000), second), None);
    }
}
