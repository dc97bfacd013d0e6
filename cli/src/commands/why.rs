//! Why a cluster or host is alive or has ended, and what its hosts measure, as people see it.
//!
//! The sentences are the control plane's; the rows of vitals are made here. Must not judge.

use crate::api::Answer;
use crate::api::views::{Host, Why};
use crate::output::{Output, size};
use serde_json::Value;
use towline_protocol::report::{GpuVitals, MemoryCount, Vitals, WorkloadVitals};

/// Hosts whose vitals are shown; `--json` has all.
const SHOWN: usize = 30;

/// An answer with the reasons beside it, under `why`.
pub fn with_why(mut answer: Value, why: &Answer<Why>) -> Value {
    if let Value::Object(fields) = &mut answer {
        fields.insert("why".to_owned(), why.json.clone());
    }
    answer
}

/// The sentences, each on its line.
pub fn show_why(why: &Why, output: Output) {
    if !why.sentences.is_empty() {
        output.line("");
        output.line("why");
    }
    for sentence in &why.sentences {
        // They name things that other people named.
        output.line(&format!("  {}", crate::failure::one_line(sentence)));
    }
}

/// What hosts measure of themselves, one row each; nothing if none has said so.
pub fn show_vitals(hosts: &[Host], output: Output) {
    let measured = hosts.iter().filter(|host| !host.ended()).filter_map(|host| Some((host, host.measured()?)));
    let rows: Vec<_> = measured.map(|(host, vitals)| row(host, &vitals)).collect();
    if rows.is_empty() {
        return;
    }
    output.line("");
    let unshown = rows.len().saturating_sub(SHOWN);
    output.table(
        &["vitals", "cpu", "memory", "disk free", "disk i/o", "network i/o", "workload"],
        rows.into_iter().take(SHOWN).collect(),
    );
    if unshown > 0 {
        output.line(&format!("{unshown} more hosts: towline host show, or --json"));
    }
}

/// What the GPUs of hosts do, one row each; nothing where there is none.
pub fn show_gpus(hosts: &[Host], output: Output) {
    let measured = hosts.iter().filter(|host| !host.ended()).filter_map(|host| Some((host, host.measured()?.gpus?)));
    let rows: Vec<_> = measured
        .flat_map(|(host, gpus)| {
            (0..).zip(gpus).map(|(number, gpu)| gpu_row(host, number, &gpu)).collect::<Vec<Vec<String>>>()
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    output.line("");
    let unshown = rows.len().saturating_sub(SHOWN);
    output.table(
        &["gpu", "model", "busy", "memory", "processes", "heat", "power", "notes"],
        rows.into_iter().take(SHOWN).collect(),
    );
    if unshown > 0 {
        output.line(&format!("{unshown} more GPUs: towline host show, or --json"));
    }
}

fn gpu_row(host: &Host, number: u32, gpu: &GpuVitals) -> Vec<String> {
    let number_of = |number: Option<u32>| number.map_or_else(unknown, |number| number.to_string());
    let notes = [
        (gpu.partitioned == Some(true), "partitioned (MIG): how busy it is cannot be told".to_owned()),
        (gpu.throttled == Some(true), "clocks lowered for heat or want of power".to_owned()),
        (gpu.ecc_errors.is_some_and(|errors| errors > 0), format!("memory errors: {}", gpu.ecc_errors.unwrap_or(0))),
    ];
    vec![
        format!("{} {number}", host.id),
        gpu.model.as_deref().map_or_else(unknown, crate::failure::one_line),
        gpu.busy_percent.map_or_else(unknown, |percent| format!("{percent} %")),
        format!("{} of {}", bytes(gpu.memory_used), bytes(gpu.memory_total)),
        number_of(gpu.processes),
        gpu.temperature_celsius.map_or_else(unknown, |celsius| format!("{celsius} °C")),
        gpu.power_milliwatts.map_or_else(unknown, |milliwatts| format!("{} W", milliwatts / 1000)),
        notes.into_iter().filter(|(holds, _)| *holds).map(|(_, note)| note).collect::<Vec<_>>().join("; "),
    ]
}

fn row(host: &Host, vitals: &Vitals) -> Vec<String> {
    let cores = vitals.cores.map_or_else(unknown, |cores| cores.to_string());
    vec![
        host.id.clone(),
        format!("{} of {cores}", milli(vitals.cpu_milli)),
        format!("{} of {}", bytes(vitals.memory_used), bytes(vitals.memory_total)),
        format!("{} of {}", bytes(vitals.disk_free), bytes(vitals.disk_total)),
        format!("{} / {}", rate(vitals.disk_read_rate), rate(vitals.disk_write_rate)),
        format!(
            "{} / {}",
            rate(vitals.network.map(|network| network.receive_rate)),
            rate(vitals.network.map(|network| network.send_rate))
        ),
        vitals.workload.as_ref().map_or_else(unknown, workload),
    ]
}

fn workload(workload: &WorkloadVitals) -> String {
    let counts = match workload.memory_counts {
        Some(MemoryCount::Cgroup) => " with cached files",
        Some(MemoryCount::Resident) => " resident",
        Some(MemoryCount::Proportional) | None => "",
    };
    let number = |number: Option<u32>| number.map_or_else(unknown, |number| number.to_string());
    let mut text = format!(
        "{} cores, {}{counts}, processes: {}, threads: {}",
        milli(workload.cpu_milli),
        bytes(workload.memory),
        number(workload.processes),
        number(workload.threads)
    );
    if let Some(kills @ 1..) = workload.oom_kills {
        text.push_str(&format!(", killed for want of memory: {kills}"));
    }
    text
}

fn unknown() -> String {
    "?".to_owned()
}

/// Thousandths of a core as cores.
pub fn milli(milli: Option<u64>) -> String {
    milli.map_or_else(unknown, |milli| format!("{}.{:02}", milli / 1000, milli % 1000 / 10))
}

/// Bytes in a readable unit.
pub fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(unknown, size)
}

fn rate(bytes: Option<u64>) -> String {
    bytes.map_or_else(unknown, |bytes| format!("{}/s", size(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::report::{Traffic, WorkloadSource};

    fn host() -> Host {
        let json = serde_json::json!({ "id": "ho-a", "role": "worker", "state": "up" });
        serde_json::from_value(json).expect("a host")
    }

    #[test]
    fn vitals_are_one_row_and_what_is_unknown_is_a_question_mark() {
        let workload = WorkloadVitals {
            source: WorkloadSource::CgroupV2,
            cpu_milli: Some(950),
            cpu_used_ms: Some(1),
            memory: Some(300 << 20),
            memory_counts: Some(MemoryCount::Cgroup),
            processes: Some(3),
            threads: None,
            oom_kills: Some(1),
            disk_read_rate: None,
            disk_write_rate: None,
        };
        let vitals = Vitals {
            cpu_milli: Some(1_256),
            cores: Some(2),
            memory_used: Some(3 << 30),
            memory_total: Some(8 << 30),
            disk_free: None,
            disk_total: None,
            disk_read_rate: Some(2048),
            disk_write_rate: Some(0),
            network: Some(Traffic { receive_rate: 10, send_rate: 20 }),
            loopback_rate: None,
            workload: Some(workload),
            processes: Vec::new(),
            gpus: Some(Vec::new()),
        };
        let expected = [
            "ho-a",
            "1.25 of 2",
            "3.0 GiB of 8.0 GiB",
            "? of ?",
            "2.0 KiB/s / 0 B/s",
            "10 B/s / 20 B/s",
            "0.95 cores, 300.0 MiB with cached files, processes: 3, threads: ?, killed for want of memory: 1",
        ];
        assert_eq!(row(&host(), &vitals), expected);
        assert_eq!(row(&host(), &Vitals::default())[6], "?");
    }

    #[test]
    fn a_gpu_is_one_row_and_its_troubles_are_notes() {
        let gpu = GpuVitals {
            model: Some("NVIDIA L4".to_owned()),
            busy_percent: None,
            memory_used: Some(1 << 30),
            memory_total: Some(22 << 30),
            processes: Some(1),
            temperature_celsius: Some(50),
            power_milliwatts: Some(31_900),
            throttled: Some(false),
            ecc_errors: Some(2),
            partitioned: Some(true),
        };
        let notes = "partitioned (MIG): how busy it is cannot be told; memory errors: 2";
        let expected = ["ho-a 1", "NVIDIA L4", "?", "1.0 GiB of 22.0 GiB", "1", "50 °C", "31 W", notes];
        assert_eq!(gpu_row(&host(), 1, &gpu), expected);
        assert_eq!(gpu_row(&host(), 0, &GpuVitals::default())[5..], ["?", "?", ""]);
    }

    #[test]
    fn reasons_are_beside_what_the_server_said() {
        let why = Answer { json: serde_json::json!({"sentences": ["It is busy."]}), view: Why::default() };
        let joined = with_why(serde_json::json!({"id": "cl-a"}), &why);
        assert_eq!(joined, serde_json::json!({"id": "cl-a", "why": {"sentences": ["It is busy."]}}));
    }
}
