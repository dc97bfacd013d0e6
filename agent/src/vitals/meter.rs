//! PURE: two readings of the kernel's counters → vitals.
//!
//! Owns the reading before. Must not read anything or look at a clock: `read` and the sampler's thread do.

use super::cgroup::Usage;
use super::counters::{Table, per_second, rise, rises};
use super::host::{CpuTimes, LOOPBACK, leading_out};
use super::processes::{TICK_MS, Tree, milli_cores};
use std::collections::BTreeSet;
use std::time::Duration;
use towline_protocol::report::{MemoryCount, ProcessVitals, Traffic, Vitals, WorkloadSource, WorkloadVitals};

/// What the kernel says at one moment. None: it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Since when the sampler runs.
    pub at: Duration,
    /// CPU time of the host.
    pub cpu: Option<CpuTimes>,
    /// Memory in use and all, in bytes.
    pub memory: Option<(u64, u64)>,
    /// Free and all bytes of the host directory's file system.
    pub space: Option<(u64, u64)>,
    /// Bytes read and written by disk.
    pub disks: Option<Table>,
    /// Bytes received and sent by interface.
    pub interfaces: Option<Table>,
    /// Interfaces with hardware behind them.
    pub hardware: BTreeSet<String>,
    /// The workload, if there is a runner.
    pub workload: Option<WorkloadReading>,
}

/// What the kernel says of the processes below a runner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadReading {
    /// The runner.
    pub runner: u32,
    /// Its process tree.
    pub tree: Option<Tree>,
    /// The tree's proportional set in bytes, where it was cheap to ask.
    pub proportional: Option<u64>,
    /// Bytes that its processes read from and wrote to disks; those of processes that have exited are gone.
    pub disks: Option<(u64, u64)>,
    /// Bytes of a page.
    pub page: u64,
    /// Its own control group.
    pub group: Option<(WorkloadSource, Usage)>,
    /// Groups of single processes in it, by name.
    pub groups: Vec<(String, Usage)>,
}

/// The meter.
#[derive(Debug, Default)]
pub struct Meter {
    before: Option<Reading>,
}

impl Meter {
    /// Take in a reading. The second answer is what the idle engine judges: CPU of the workload in thousandths of a core.
    pub fn measure(&mut self, now: Reading) -> (Vitals, Option<u64>) {
        let before = self.before.replace(now);
        let now = self.before.as_ref().expect("put there a line above");
        let elapsed = before.as_ref().map_or(Duration::ZERO, |before| now.at.saturating_sub(before.at));
        let (received, sent) = traffic(before.as_ref(), now, elapsed);
        let of = |table: fn(&Reading) -> Option<&Table>| rises(before.as_ref().and_then(table), table(now));
        let disks = of(|reading| reading.disks.as_ref());
        let cpu_before = before.as_ref().and_then(|before| before.cpu).map(|cpu| cpu.busy.saturating_mul(TICK_MS));
        let cpu_now = now.cpu.map(|cpu| cpu.busy.saturating_mul(TICK_MS));
        let workload = now.workload.as_ref().and_then(|workload| {
            let before = before.as_ref().and_then(|before| before.workload.as_ref());
            of_workload(before.filter(|before| before.runner == workload.runner), workload, elapsed)
        });
        let vitals = Vitals {
            cpu_milli: milli_cores(cpu_before, cpu_now, elapsed),
            cores: now.cpu.map(|cpu| cpu.cores),
            memory_used: now.memory.map(|(used, _)| used),
            memory_total: now.memory.map(|(_, total)| total),
            disk_free: now.space.map(|(free, _)| free),
            disk_total: now.space.map(|(_, total)| total),
            disk_read_rate: per_second(disks.map(|(read, _)| read), elapsed),
            disk_write_rate: per_second(disks.map(|(_, written)| written), elapsed),
            network: received.zip(sent).map(|(receive_rate, send_rate)| Traffic { receive_rate, send_rate }),
            loopback_rate: loopback(before.as_ref(), now, elapsed),
            workload,
            processes: of_processes(before.as_ref(), now, elapsed),
            gpus: None,
        };
        // No runner, no workload: that is a known zero.
        let judged = if now.workload.is_none() { Some(0) } else { judged_cpu(before.as_ref(), now, elapsed) };
        (vitals, judged)
    }
}

fn traffic(before: Option<&Reading>, now: &Reading, elapsed: Duration) -> (Option<u64>, Option<u64>) {
    let out = |reading: &Reading| reading.interfaces.as_ref().map(|all| leading_out(all, &reading.hardware));
    let rises = rises(before.and_then(out).as_ref(), out(now).as_ref());
    (per_second(rises.map(|(received, _)| received), elapsed), per_second(rises.map(|(_, sent)| sent), elapsed))
}

fn loopback(before: Option<&Reading>, now: &Reading, elapsed: Duration) -> Option<u64> {
    let received = |reading: &Reading| Some(reading.interfaces.as_ref()?.get(LOOPBACK)?.0);
    per_second(rise(before.and_then(received), received(now)), elapsed)
}

fn of_workload(before: Option<&WorkloadReading>, now: &WorkloadReading, elapsed: Duration) -> Option<WorkloadVitals> {
    let tree = now.tree.as_ref()?;
    let group = now.group.map(|(_, usage)| usage);
    // The same counter both times: the one of the group only if both readings have it.
    let group_before = before.and_then(|before| before.group).map(|(_, usage)| usage);
    let (disks_before, disks) = match group.and_then(|group| group.disks) {
        Some(disks) => (group_before.and_then(|group| group.disks), Some(disks)),
        None => (before.and_then(|before| before.disks), now.disks),
    };
    let rate = |of: fn((u64, u64)) -> u64| per_second(rise(disks_before.map(of), disks.map(of)), elapsed);
    let (memory, memory_counts) = memory(now, tree);
    let tasks = group.and_then(|group| group.tasks).map(|tasks| u32::try_from(tasks).unwrap_or(u32::MAX));
    Some(WorkloadVitals {
        source: now.group.map_or(WorkloadSource::Processes, |(source, _)| source),
        cpu_milli: cpu(before, now, elapsed),
        cpu_used_ms: group.and_then(|group| group.cpu_ms).or(Some(tree.ticks.saturating_mul(TICK_MS))),
        memory: Some(memory),
        memory_counts: Some(memory_counts),
        processes: Some(u32::try_from(tree.pids.len()).unwrap_or(u32::MAX)),
        threads: tasks.or(Some(tree.threads)),
        oom_kills: group.and_then(|group| group.oom_kills),
        disk_read_rate: rate(|(read, _)| read),
        disk_write_rate: rate(|(_, written)| written),
    })
}

/// Each process that has a control group of its own.
fn of_processes(before: Option<&Reading>, now: &Reading, elapsed: Duration) -> Vec<ProcessVitals> {
    let Some(now) = &now.workload else { return Vec::new() };
    let before = before.and_then(|before| before.workload.as_ref()).filter(|before| before.runner == now.runner);
    let earlier = |name: &str| before?.groups.iter().find(|(one, _)| one == name)?.1.cpu_ms;
    let vitals = now.groups.iter().map(|(name, usage)| ProcessVitals {
        name: name.clone(),
        cpu_milli: milli_cores(earlier(name), usage.cpu_ms, elapsed),
        memory: usage.memory,
        memory_peak: usage.peak,
        memory_limit: usage.limit,
    });
    vitals.collect()
}

fn memory(now: &WorkloadReading, tree: &Tree) -> (u64, MemoryCount) {
    if let Some(charged) = now.group.and_then(|(_, usage)| usage.memory) {
        (charged, MemoryCount::Cgroup)
    } else if let Some(shares) = now.proportional {
        (shares, MemoryCount::Proportional)
    } else {
        (tree.pages.saturating_mul(now.page), MemoryCount::Resident)
    }
}

/// CPU by the group's counter, and by processes where that says nothing.
fn cpu(before: Option<&WorkloadReading>, now: &WorkloadReading, elapsed: Duration) -> Option<u64> {
    let of_group = |reading: &WorkloadReading| reading.group.and_then(|(_, usage)| usage.cpu_ms);
    let of_tree = |reading: &WorkloadReading| reading.tree.as_ref().map(|tree| tree.ticks.saturating_mul(TICK_MS));
    if of_group(now).is_some() {
        milli_cores(before.and_then(of_group), of_group(now), elapsed)
    } else {
        milli_cores(before.and_then(of_tree), of_tree(now), elapsed)
    }
}

/// What idleness is judged by: the larger of both, for a process may have left the group, and a short one the tree.
fn judged_cpu(before: Option<&Reading>, now: &Reading, elapsed: Duration) -> Option<u64> {
    let now = now.workload.as_ref()?;
    let before = before.and_then(|before| before.workload.as_ref()).filter(|before| before.runner == now.runner)?;
    let by_group = cpu(Some(before), now, elapsed);
    let without = |reading: &WorkloadReading| WorkloadReading { group: None, ..reading.clone() };
    let by_tree = cpu(Some(&without(before)), &without(now), elapsed);
    by_group.max(by_tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Reading {
        Reading {
            at: Duration::from_secs(seconds),
            cpu: Some(CpuTimes { busy: seconds * 150, cores: 2 }),
            memory: Some((30, 100)),
            space: Some((5, 9)),
            disks: Some(Table::from([("vda".to_owned(), (seconds * 1_000, seconds * 3_000))])),
            interfaces: Some(Table::from([
                ("lo".to_owned(), (seconds * 7, seconds * 7)),
                ("eth0".to_owned(), (seconds * 10, seconds * 20)),
                ("docker0".to_owned(), (seconds * 5_000, seconds * 5_000)),
            ])),
            hardware: BTreeSet::from(["eth0".to_owned()]),
            workload: None,
        }
    }

    fn tree(ticks: u64) -> Tree {
        Tree { pids: vec![7, 8], ticks, threads: 12, pages: 3 }
    }

    fn working(seconds: u64, ticks: u64, group: Option<Usage>) -> Reading {
        let group = group.map(|usage| (WorkloadSource::CgroupV2, usage));
        let workload = WorkloadReading {
            runner: 6,
            tree: Some(tree(ticks)),
            disks: None,
            proportional: None,
            page: 4096,
            group,
            groups: Vec::new(),
        };
        Reading { workload: Some(workload), ..at(seconds) }
    }

    fn usage(cpu_ms: u64, read: u64) -> Usage {
        let (memory, oom_kills, tasks) = (Some(9_000), Some(1), Some(20));
        Usage { cpu_ms: Some(cpu_ms), memory, oom_kills, disks: Some((read, 0)), tasks, ..Usage::default() }
    }

    #[test]
    fn the_first_reading_has_no_rates_and_the_second_has_all() {
        let mut meter = Meter::default();
        let (first, judged) = meter.measure(at(10));
        assert_eq!(
            (first.cpu_milli, first.network, first.disk_read_rate, first.loopback_rate),
            (None, None, None, None)
        );
        assert_eq!((first.cores, first.memory_used, first.disk_total, judged), (Some(2), Some(30), Some(9), Some(0)));
        let (second, _) = meter.measure(at(12));
        assert_eq!(second.cpu_milli, Some(1_500));
        assert_eq!((second.disk_read_rate, second.disk_write_rate), (Some(1_000), Some(3_000)));
        assert_eq!(second.network, Some(Traffic { receive_rate: 10, send_rate: 20 }), "a bridge carries it once more");
        assert_eq!(second.loopback_rate, Some(7));
    }

    #[test]
    fn counters_that_were_set_back_are_unknown_for_one_period() {
        let mut meter = Meter::default();
        meter.measure(working(1_000, 5_000, None));
        let mut again = working(1, 10, None);
        again.at = Duration::from_secs(1_010);
        let (vitals, judged) = meter.measure(again.clone());
        assert_eq!((vitals.cpu_milli, vitals.network, vitals.loopback_rate, judged), (None, None, None, None));
        assert_eq!((vitals.disk_read_rate, vitals.disk_write_rate), (None, None));
        assert_eq!(vitals.workload.and_then(|workload| workload.cpu_milli), None);
        let mut later = working(11, 110, None);
        later.at = Duration::from_secs(1_020);
        let (vitals, judged) = meter.measure(later);
        assert_eq!((vitals.cpu_milli, judged), (Some(1_500), Some(100)));
    }

    #[test]
    fn what_the_kernel_does_not_say_is_unknown_and_spoils_nothing_else() {
        let mut meter = Meter::default();
        meter.measure(at(1));
        let (vitals, _) = meter.measure(Reading { cpu: None, disks: None, memory: None, ..at(2) });
        assert_eq!(
            (vitals.cpu_milli, vitals.cores, vitals.memory_total, vitals.disk_read_rate),
            (None, None, None, None)
        );
        assert!(vitals.network.is_some());
        let (vitals, _) = meter.measure(at(3));
        assert_eq!((vitals.cpu_milli, vitals.memory_total), (None, Some(100)), "there is nothing to compare with");
    }

    #[test]
    fn a_workload_is_summed_over_processes_where_it_has_no_group() {
        let mut meter = Meter::default();
        meter.measure(working(1, 100, None));
        let (vitals, judged) = meter.measure(working(2, 150, None));
        let workload = vitals.workload.expect("there is a runner");
        assert_eq!((workload.source, workload.cpu_milli, judged), (WorkloadSource::Processes, Some(500), Some(500)));
        assert_eq!((workload.cpu_used_ms, workload.processes, workload.threads), (Some(1_500), Some(2), Some(12)));
        assert_eq!((workload.memory, workload.memory_counts), (Some(12_288), Some(MemoryCount::Resident)));
        assert_eq!((workload.oom_kills, workload.disk_read_rate), (None, None));
    }

    #[test]
    fn a_group_of_its_own_says_more_and_idleness_looks_at_both() {
        let mut meter = Meter::default();
        meter.measure(working(1, 100, Some(usage(4_000, 50))));
        let (vitals, judged) = meter.measure(working(2, 190, Some(usage(4_100, 80))));
        let workload = vitals.workload.expect("there is a runner");
        assert_eq!(
            (workload.source, workload.cpu_milli, workload.cpu_used_ms),
            (WorkloadSource::CgroupV2, Some(100), Some(4_100))
        );
        assert_eq!(judged, Some(900), "a process left the group and works");
        assert_eq!((workload.memory, workload.memory_counts), (Some(9_000), Some(MemoryCount::Cgroup)));
        assert_eq!((workload.threads, workload.oom_kills, workload.disk_read_rate), (Some(20), Some(1), Some(30)));
        // The group was made anew: its counters began again.
        let (vitals, judged) = meter.measure(working(3, 200, Some(usage(10, 0))));
        let workload = vitals.workload.expect("there is a runner");
        assert_eq!((workload.cpu_milli, workload.disk_read_rate, judged), (None, None, Some(100)));
    }

    #[test]
    fn processes_with_groups_of_their_own_have_their_own_rates() {
        let reading = |seconds, groups: &[(&str, u64)]| {
            let mut reading = working(seconds, 0, None);
            let usage = |cpu_ms| Usage { peak: Some(7), limit: Some(8), ..usage(cpu_ms, 0) };
            let groups = groups.iter().map(|(name, cpu_ms)| ((*name).to_owned(), usage(*cpu_ms)));
            reading.workload.as_mut().expect("there").groups = groups.collect();
            reading
        };
        let mut meter = Meter::default();
        let (first, _) = meter.measure(reading(1, &[("worker-0", 100)]));
        assert_eq!(first.processes[0].cpu_milli, None);
        let (second, _) = meter.measure(reading(2, &[("worker-0", 400), ("worker-1", 900)]));
        let rates: Vec<_> = second.processes.iter().map(|process| (process.name.as_str(), process.cpu_milli)).collect();
        assert_eq!(rates, [("worker-0", Some(300)), ("worker-1", None)]);
        let memory = &second.processes[0];
        assert_eq!((memory.memory, memory.memory_peak, memory.memory_limit), (Some(9_000), Some(7), Some(8)));
    }

    #[test]
    fn another_runner_is_another_workload() {
        let mut meter = Meter::default();
        meter.measure(working(1, 100, None));
        let mut other = working(2, 500, None);
        other.workload.as_mut().expect("there").runner = 60;
        let (vitals, judged) = meter.measure(other);
        assert_eq!((vitals.workload.and_then(|workload| workload.cpu_milli), judged), (None, None));
    }

    #[test]
    fn a_runner_that_cannot_be_seen_has_an_unknown_workload() {
        let mut meter = Meter::default();
        let mut gone = working(1, 0, None);
        gone.workload.as_mut().expect("there").tree = None;
        meter.measure(gone.clone());
        gone.at = Duration::from_secs(2);
        let (vitals, judged) = meter.measure(gone);
        assert_eq!((vitals.workload, judged), (None, None));
    }
}
