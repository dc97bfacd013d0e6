//! The Dask processes of a host as people see them: whether each runs, what it uses, and what the kernel killed in it.

use super::why::{bytes, milli};
use crate::api::views::Host;
use crate::output::{Output, size};
use towline_protocol::report::{ExitRecord, OutOfMemory, ProcessRecord, ProcessVitals};

/// One row for each; nothing where the host has said of none.
pub fn show_processes(host: &Host, output: Output) {
    let records = host.records();
    if records.is_empty() {
        return;
    }
    // What a host that has ended measured last says nothing of now.
    let vitals = host.measured().filter(|_| !host.ended()).map(|vitals| vitals.processes).unwrap_or_default();
    let rows = records.iter().map(|record| row(record, vitals.iter().find(|vitals| vitals.name == record.name)));
    output.line("");
    output.table(&["process", "pid", "now", "cpu", "memory", "most", "may have", "notes"], rows.collect());
}

fn row(record: &ProcessRecord, vitals: Option<&ProcessVitals>) -> Vec<String> {
    let of = |number: fn(&ProcessVitals) -> Option<u64>| bytes(vitals.and_then(number));
    vec![
        crate::failure::one_line(&record.name),
        record.pid.to_string(),
        record.exit.as_ref().map_or_else(|| "runs".to_owned(), ended),
        milli(vitals.and_then(|vitals| vitals.cpu_milli)),
        of(|vitals| vitals.memory),
        of(|vitals| vitals.memory_peak),
        vitals.map_or_else(|| bytes(None), |vitals| vitals.memory_limit.map_or_else(|| "all".to_owned(), size)),
        record.out_of_memory.as_ref().map(killed).unwrap_or_default(),
    ]
}

fn ended(exit: &ExitRecord) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited ({code})"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn killed(memory: &OutOfMemory) -> String {
    let mut text = format!("killed for want of memory: {}", memory.kills);
    if let Some(peak) = memory.peak {
        text.push_str(&format!(", at {}", size(peak)));
    }
    if let Some(limit) = memory.limit {
        text.push_str(&format!(" of at most {}", size(limit)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::assignment::RoleKind;
    use towline_protocol::time::UnixSeconds;

    #[test]
    fn a_row_says_what_runs_and_what_was_killed() {
        let memory = OutOfMemory { kills: 2, at: UnixSeconds(5), peak: Some(272 << 20), limit: Some(273 << 20) };
        let mut record = ProcessRecord {
            name: "worker-0".to_owned(),
            role: RoleKind::Worker,
            pid: 42,
            exit: None,
            out_of_memory: Some(memory),
        };
        let vitals = ProcessVitals {
            name: "worker-0".to_owned(),
            cpu_milli: Some(1_500),
            memory: Some(1 << 20),
            memory_peak: None,
            memory_limit: None,
        };
        let note = "killed for want of memory: 2, at 272.0 MiB of at most 273.0 MiB";
        assert_eq!(row(&record, Some(&vitals)), ["worker-0", "42", "runs", "1.50", "1.0 MiB", "?", "all", note]);
        record.exit = Some(ExitRecord { code: None, signal: Some(9), at: UnixSeconds(5) });
        record.out_of_memory = None;
        assert_eq!(row(&record, None), ["worker-0", "42", "ended by signal 9", "?", "?", "?", "?", ""]);
    }
}
