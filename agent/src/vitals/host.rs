//! PURE: what `/proc` says of the whole host, from the texts of its files.
//!
//! A file that is not as the kernel documents it is unknown, never a guess. Must not read anything: `read` does.

use super::counters::Table;
use std::collections::BTreeSet;

/// Bytes of a sector in `/proc/diskstats`, whatever the device's own sectors are.
const SECTOR: u64 = 512;

/// The network interface that leads nowhere.
pub const LOOPBACK: &str = "lo";

/// CPU time of the host since its boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    /// In which something ran here.
    pub busy: u64,
    /// Cores.
    pub cores: u32,
}

/// `/proc/stat`, section 1.7 of <https://docs.kernel.org/filesystems/proc.html>.
pub fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = all.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // user nice system idle iowait irq softirq steal; guest time is in user and nice. Stolen time was not used here.
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else { return None };
    let busy = [user, nice, system, irq, softirq].into_iter().try_fold(0u64, u64::checked_add)?;
    let cores = stat.lines().filter(|line| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    });
    let cores = u32::try_from(cores.count()).ok().filter(|cores| *cores > 0)?;
    Some(CpuTimes { busy, cores })
}

/// Bytes read and written of each whole device, from `/proc/diskstats` as
/// <https://docs.kernel.org/admin-guide/iostats.html> has it. Partitions are not in `devices` (the names in `/sys/block`);
/// devices made of others are left out, as their bytes are those of the others.
pub fn disks(diskstats: &str, devices: &BTreeSet<String>) -> Option<Table> {
    let mut table = Table::new();
    for line in diskstats.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // major minor name, then: reads, merged, sectors read, ms, writes, merged, sectors written, …
        let (name, read, written) = (*fields.get(2)?, fields.get(5)?, fields.get(9)?);
        if !devices.contains(name) || ["loop", "ram", "zram", "dm-", "md"].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        let bytes = |sectors: &str| sectors.parse::<u64>().ok()?.checked_mul(SECTOR);
        table.insert(name.to_owned(), (bytes(read)?, bytes(written)?));
    }
    Some(table)
}

/// Bytes received and sent of each interface, from `/proc/net/dev`, section 1.4 of
/// <https://docs.kernel.org/filesystems/proc.html>.
pub fn interfaces(dev: &str) -> Option<Table> {
    // Two lines of headings.
    let rows = dev.lines().skip(2).map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<&str> = numbers.split_ascii_whitespace().collect();
        // Eight numbers of what came, then what went.
        Some((name.trim().to_owned(), (numbers.first()?.parse().ok()?, numbers.get(8)?.parse().ok()?)))
    });
    let table: Table = rows.collect::<Option<_>>()?;
    (!table.is_empty()).then_some(table)
}

/// The interfaces that lead to other machines: those with hardware, real or virtual, behind them. Bridges and their ends
/// carry the same bytes once more. Where none has hardware, as in a container, all but loopback.
pub fn leading_out(all: &Table, hardware: &BTreeSet<String>) -> Table {
    let outside = || all.iter().filter(|(name, _)| *name != LOOPBACK).map(|(name, bytes)| (name.clone(), *bytes));
    let real: Table = outside().filter(|(name, _)| hardware.contains(name)).collect();
    if real.is_empty() { outside().collect() } else { real }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    // Written after proc.html section 1.7: two cores, times in hundredths of a second.
    const STAT: &str = "cpu  100 20 30 4000 50 6 7 8 9 0\ncpu0 50 10 15 2000 25 3 4 4 5 0\n\
        cpu1 50 10 15 2000 25 3 3 4 4 0\nintr 100 1 2\nctxt 5\nbtime 1700000000\nprocesses 9\n";

    #[test]
    fn cpu_is_what_ran_here_on_all_cores() {
        assert_eq!(cpu_times(STAT), Some(CpuTimes { busy: 163, cores: 2 }));
    }

    #[test]
    fn disks_are_whole_devices_that_are_made_of_nothing_else() {
        // After iostats.html: the seventeen numbers of a new kernel, the eleven of an old one.
        let text = "   8       0 sda 10 0 4 1 20 0 6 1 0 1 2 0 0 0 0 0 0\n   8       1 sda1 9 0 3 1 19 0 5 1 0 1 2\n \
            253       0 dm-0 10 0 4 1 20 0 6 1 0 1 2\n   7       0 loop0 1 0 9 1 0 0 0 0 0 0 0\n 259       0 nvme0n1 1 0 100 0 1 0 200 0 0 0 0\n";
        let found = disks(text, &names(&["sda", "dm-0", "loop0", "nvme0n1"])).expect("reads");
        let expected = [("sda", (4 * 512, 6 * 512)), ("nvme0n1", (51_200, 102_400))];
        assert_eq!(found, expected.map(|(name, bytes)| (name.to_owned(), bytes)).into());
    }

    // After proc.html section 1.4.
    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
        lo:  500 5 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n  eth0:1000 9 0 0 0 0 0 0 2000 9 0 0 0 0 0 0\nveth12: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n";

    #[test]
    fn interfaces_with_hardware_lead_out_and_in_a_container_all_but_loopback() {
        let all = interfaces(DEV).expect("reads");
        assert_eq!(all.get(LOOPBACK), Some(&(500, 500)));
        assert_eq!(leading_out(&all, &names(&["eth0"])), Table::from([("eth0".to_owned(), (1000, 2000))]));
        let container = leading_out(&all, &names(&[]));
        assert_eq!(container.keys().map(String::as_str).collect::<Vec<_>>(), ["eth0", "veth12"]);
    }

    #[test]
    fn what_is_not_as_documented_is_unknown() {
        for text in ["", "cpu ", "cpu  1 2 x 4 5 6 7\ncpu0 1", "cpu  1 2 3 4 5 6 7", "cpu  1 2 3"] {
            assert_eq!(cpu_times(text), None, "{text:?}");
        }
        assert_eq!(cpu_times(&format!("cpu  {max} 1 1 1 1 1 1\ncpu0 1", max = u64::MAX)), None);
        for text in ["8 0 sda", "8 0 sda 1 1 x 1 1 1 1", "\n"] {
            assert_eq!(disks(text, &names(&["sda"])), None, "{text:?}");
        }
        for text in ["", "a\nb\n", "a\nb\neth0 1 2 3\n", "a\nb\neth0: 1 2 3\n", "a\nb\neth0: -1 0 0 0 0 0 0 0 1\n"] {
            assert_eq!(interfaces(text), None, "{text:?}");
        }
    }
}
