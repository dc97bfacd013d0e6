//! What a host measures of itself, as it travels in reports: numbers and closed enums, small whatever they say.

use serde::{Deserialize, Serialize};

/// What a host measures of itself. Null: cannot be told, as every rate is at the first sample and whenever a counter was
/// set back. Rates are those of the last period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vitals {
    /// CPU in use by the whole host, in thousandths of one core.
    pub cpu_milli: Option<u64>,
    /// Cores of the host.
    pub cores: Option<u32>,
    /// Memory in use that could not be given to somebody else, in bytes.
    pub memory_used: Option<u64>,
    /// Memory of the host, in bytes.
    pub memory_total: Option<u64>,
    /// Bytes free on the host directory's file system.
    pub disk_free: Option<u64>,
    /// Size of that file system, in bytes.
    pub disk_total: Option<u64>,
    /// Read from all disks of the host, in bytes per second.
    pub disk_read_rate: Option<u64>,
    /// Written to all disks of the host, in bytes per second.
    pub disk_write_rate: Option<u64>,
    /// Traffic with other machines.
    pub network: Option<Traffic>,
    /// Received over loopback, which is also what was sent over it, in bytes per second.
    pub loopback_rate: Option<u64>,
    /// The Dask processes and all that they started; null: there is no runner, or it cannot be seen.
    pub workload: Option<WorkloadVitals>,
    /// Those of its processes that have a cgroup of their own, by name, at most [`MAX_PROCESSES`]; absent: none has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessVitals>,
    /// Its GPUs, in the driver's order, at most [`MAX_GPUS`]; empty: it has none; null: the driver does not answer.
    pub gpus: Option<Vec<GpuVitals>>,
}

/// As many processes of a host are told of.
pub const MAX_PROCESSES: usize = 64;

/// What a Dask process uses, with all that it started. Null: cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessVitals {
    /// Its name within the host, e.g. `scheduler` or `worker-0`.
    pub name: String,
    /// CPU in use, in thousandths of one core.
    pub cpu_milli: Option<u64>,
    /// Memory, cached files included, in bytes.
    pub memory: Option<u64>,
    /// The most of it so far, in bytes.
    pub memory_peak: Option<u64>,
    /// The most that it may have, in bytes; null also for no limit of its own.
    pub memory_limit: Option<u64>,
}

/// As many GPUs of a host are told of.
pub const MAX_GPUS: u32 = 64;

/// What one GPU says of itself, through its driver. Null: cannot be told, or the GPU does not support it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuVitals {
    /// The maker's name for it.
    pub model: Option<String>,
    /// The share of the last period, at most a second, in which it computed, in percent; null while it is partitioned.
    pub busy_percent: Option<u8>,
    /// Memory in use, in bytes.
    pub memory_used: Option<u64>,
    /// Its memory, in bytes.
    pub memory_total: Option<u64>,
    /// Processes that hold it for computing.
    pub processes: Option<u32>,
    /// In degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// What it draws, in thousandths of a watt.
    pub power_milliwatts: Option<u64>,
    /// Its clocks are lowered for heat or want of power.
    pub throttled: Option<bool>,
    /// Memory errors that could not be corrected, since the driver was loaded.
    pub ecc_errors: Option<u64>,
    /// It is split into instances (MIG).
    pub partitioned: Option<bool>,
}

/// Traffic of network interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// In bytes per second.
    pub receive_rate: u64,
    /// In bytes per second.
    pub send_rate: u64,
}

/// What the workload uses: the runner's children with whole process trees. Null: cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadVitals {
    /// Where the numbers come from.
    pub source: WorkloadSource,
    /// CPU in use, in thousandths of one core.
    pub cpu_milli: Option<u64>,
    /// CPU time used since its start, in milliseconds; processes that have exited count.
    pub cpu_used_ms: Option<u64>,
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// What `memory` counts.
    pub memory_counts: Option<MemoryCount>,
    /// Live processes.
    pub processes: Option<u32>,
    /// Live threads.
    pub threads: Option<u32>,
    /// Processes that the kernel killed for want of memory, since its cgroup was made.
    pub oom_kills: Option<u64>,
    /// Read from disks, in bytes per second.
    pub disk_read_rate: Option<u64>,
    /// Written to disks, in bytes per second.
    pub disk_write_rate: Option<u64>,
}

/// Where the numbers of a workload come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadSource {
    /// A cgroup of its own, version 1; what it does not say is summed over processes.
    CgroupV1,
    /// A cgroup of its own, version 2; what it does not say is summed over processes.
    CgroupV2,
    /// Sums over processes.
    Processes,
}

/// What a number of bytes of memory counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryCount {
    /// All that is charged to the workload's cgroup, cached files included.
    Cgroup,
    /// Each process's share: a page of two processes counts half for each.
    Proportional,
    /// What each process has in memory: a page of two processes counts twice.
    Resident,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vitals_are_small_whatever_they_say() {
        let most = Some(u64::MAX);
        let workload = WorkloadVitals {
            source: WorkloadSource::Processes,
            cpu_milli: most,
            cpu_used_ms: most,
            memory: most,
            memory_counts: Some(MemoryCount::Proportional),
            processes: Some(u32::MAX),
            threads: Some(u32::MAX),
            oom_kills: most,
            disk_read_rate: most,
            disk_write_rate: most,
        };
        let gpu = GpuVitals {
            model: Some("x".repeat(64)),
            busy_percent: Some(100),
            memory_used: most,
            memory_total: most,
            processes: Some(u32::MAX),
            temperature_celsius: Some(u32::MAX),
            power_milliwatts: most,
            throttled: Some(false),
            ecc_errors: most,
            partitioned: Some(false),
        };
        let name = "x".repeat(64);
        let process = ProcessVitals { name, cpu_milli: most, memory: most, memory_peak: most, memory_limit: most };
        let vitals = Vitals {
            cpu_milli: most,
            cores: Some(u32::MAX),
            memory_used: most,
            memory_total: most,
            disk_free: most,
            disk_total: most,
            disk_read_rate: most,
            disk_write_rate: most,
            network: Some(Traffic { receive_rate: u64::MAX, send_rate: u64::MAX }),
            loopback_rate: most,
            workload: Some(workload),
            processes: vec![process; MAX_PROCESSES],
            gpus: Some(vec![gpu; MAX_GPUS as usize]),
        };
        let text = serde_json::to_string(&vitals).expect("numbers");
        assert!(text.len() < 1024 + MAX_GPUS as usize * 400 + MAX_PROCESSES * 256, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Vitals>(&text).expect("reads"), vitals);
    }

    #[test]
    fn vitals_that_an_older_agent_stored_are_read() {
        let stored = r#"{"cpu_milli":5,"cores":2,"memory_used":1,"memory_total":2,"disk_free":3}"#;
        let vitals: Vitals = serde_json::from_str(stored).expect("reads");
        assert_eq!((vitals.cpu_milli, vitals.disk_total, vitals.workload), (Some(5), None, None));
    }
}
