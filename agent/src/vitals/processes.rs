//! CPU time of a process's descendants, read from `/proc`.
//!
//! Must not follow names or arguments: only numbers leave this file.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// Ticks per second of the times in `/proc/<pid>/stat`: fixed at 100 in Linux's user interface on every platform we
/// build for.
const TICKS_PER_SECOND: u64 = 100;

/// Sum of user and system time of all live descendants of `root`; none when `root` is not there or `/proc` cannot be
/// read.
pub fn descendants_cpu(root: u32) -> Option<Duration> {
    let mut table = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(row) = parse_stat(&stat) {
            table.insert(pid, row);
        }
    }
    sum_descendants(&table, root).map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    parent: u32,
    ticks: u64,
}

/// Fields after the command name, which is in parentheses and may hold anything, parentheses included.
fn parse_stat(stat: &str) -> Option<Row> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc_pid_stat(5): state is field 3, so ppid (4) is index 1, utime (14) index 11, stime (15) index 12.
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11)?.parse::<u64>().ok()?.checked_add(fields.get(12)?.parse().ok()?)?;
    Some(Row { parent, ticks })
}

fn sum_descendants(table: &HashMap<u32, Row>, root: u32) -> Option<u64> {
    table.get(&root)?;
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, row) in table {
        children.entry(row.parent).or_default().push(*pid);
    }
    let mut ticks = 0;
    let mut open = children.remove(&root).unwrap_or_default();
    while let Some(pid) = open.pop() {
        ticks += table.get(&pid).map_or(0, |row| row.ticks);
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    Some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_command_with_parentheses() {
        let stat = "7 (a) b) (c) S 3 7 7 0 -1 0 0 0 0 0 11 22 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(stat), Some(Row { parent: 3, ticks: 33 }));
        assert_eq!(parse_stat("7 (x) S"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn sums_descendants_and_nothing_else() {
        let row = |parent, ticks| Row { parent, ticks };
        let table =
            HashMap::from([(1, row(0, 9)), (5, row(1, 100)), (6, row(5, 1)), (7, row(6, 2)), (8, row(1, 1_000))]);
        assert_eq!(sum_descendants(&table, 5), Some(3));
        assert_eq!(sum_descendants(&table, 99), None);
    }
}
