//! What the agent counts of its host, for Prometheus; off unless the machine's owner sets `metrics_listen`.
//!
//! The host's state comes from the one snapshot that the report and the status line come from too. What no snapshot holds
//! (delivered lines, the spool, the last lease) is counted where it happens, once for the process: one agent is one
//! process. No label has values that code does not fix; no text of a user's process is read.

use crate::logs::record::{Body, Record};
use crate::runner::facts::boot_time;
use crate::status::Snapshot;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_protocol::report::{GpuVitals, VerdictState};
use towline_protocol::time::BootTime;
use towline_transport::plain;

/// Lines that the log store acknowledged.
static LINES: AtomicU64 = AtomicU64::new(0);

/// Gaps that the log store was told of.
static GAPS: AtomicU64 = AtomicU64::new(0);

/// Lines that the log store refused, and that lie beside the spool.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Bytes of the spool that are not delivered.
static SPOOL: AtomicU64 = AtomicU64::new(0);

/// When the last lease came, in milliseconds since boot, plus one; 0: none came yet.
static LEASE: AtomicU64 = AtomicU64::new(0);

/// The log store took a batch.
pub fn delivered(batch: &[Record]) {
    let count = |fits: fn(&Body) -> bool| batch.iter().filter(|record| fits(&record.body)).count() as u64;
    // The last piece of a long line counts for the line.
    LINES.fetch_add(count(|body| matches!(body, Body::Line { more: false, .. })), Ordering::Relaxed);
    GAPS.fetch_add(count(|body| matches!(body, Body::Gap(_))), Ordering::Relaxed);
}

/// So many lines the log store refused.
pub fn refused(lines: u64) {
    REFUSED.fetch_add(lines, Ordering::Relaxed);
}

/// So many bytes wait in the spool.
pub fn spool(bytes: u64) {
    SPOOL.store(bytes, Ordering::Relaxed);
}

/// A lease was accepted.
pub fn lease_heard(now: BootTime) {
    let millis = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
    LEASE.store(millis.saturating_add(1), Ordering::Relaxed);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
}

/// Serve them until `stop`, if there is an address. A port that is taken costs the metrics, never the host.
pub async fn serve(address: Option<SocketAddr>, snapshots: watch::Receiver<Snapshot>, stop: CancellationToken) {
    let Some(address) = address else { return };
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let bound = listener.local_addr().unwrap_or(address);
            tracing::info!(component = "metrics", address = %bound, "metrics are served");
            let get = axum::routing::get(move || {
                let text = text(&snapshots.borrow(), boot_time());
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                std::future::ready(([("content-type", kind)], text))
            });
            plain::serve(listener, axum::Router::new().route("/metrics", get), stop).await;
        }
        Err(error) => tracing::warn!(
            component = "metrics", %address, %error,
            "metrics are not served; choose another `metrics_listen` in agent.toml"
        ),
    }
}

/// The host at one moment, as OpenMetrics text.
fn text(snapshot: &Snapshot, now: BootTime) -> String {
    let mut registry = Registry::with_prefix("towline_agent");
    session(&mut registry, snapshot, now);
    logs(&mut registry);
    vitals(&mut registry, snapshot);
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

fn whole(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn seconds(value: f64) -> Gauge<f64, AtomicU64> {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    gauge
}

fn session(to: &mut Registry, snapshot: &Snapshot, now: BootTime) {
    to.register("session_connected", "1: a session with the control plane is up", whole(snapshot.connected.into()));
    let age = match LEASE.load(Ordering::Relaxed) {
        0 => f64::NAN,
        at => now.since(BootTime(Duration::from_millis(at - 1))).as_secs_f64(),
    };
    let help = "Time since the control plane's last sign of life; NaN before the first";
    to.register_with_unit("lease_age", help, Unit::Seconds, seconds(age));
    let verdicts: Family<Verdict, Gauge> = Family::default();
    let said = snapshot.report.verdict.as_ref().map(|verdict| verdict.state);
    for (state, verdict) in
        [(VerdictState::Busy, "busy"), (VerdictState::Idle, "idle"), (VerdictState::Unknown, "unknown")]
    {
        verdicts.get_or_create(&Verdict { verdict }).set((said == Some(state)).into());
    }
    to.register("verdict", "1 for what the idle engine says: busy, idle or unknown", verdicts);
    let running = snapshot.report.processes.iter().filter(|process| process.exit.is_none()).count();
    to.register("children_running", "Dask processes that run", whole(running as u64));
}

fn logs(to: &mut Registry) {
    to.register_with_unit("spool", "Log bytes not delivered yet", Unit::Bytes, whole(SPOOL.load(Ordering::Relaxed)));
    let counter = |value: &AtomicU64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value.load(Ordering::Relaxed));
        counter
    };
    to.register("log_lines", "Log lines that the log store acknowledged", counter(&LINES));
    to.register("log_gaps", "Gaps in the log that the log store was told of", counter(&GAPS));
    to.register(
        "log_refused_lines",
        "Lines that the log store refused and that lie beside the spool",
        counter(&REFUSED),
    );
}

/// One of the host's GPUs, by its number in the driver's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gpu {
    gpu: u32,
}

fn gpus(to: &mut Registry, gpus: &[GpuVitals]) {
    type Value = fn(&GpuVitals) -> Option<f64>;
    let ratio: Value = |gpu| gpu.busy_percent.map(|percent| f64::from(percent) / 100.0);
    let watts: Value = |gpu| gpu.power_milliwatts.map(|milliwatts| milliwatts as f64 / 1000.0);
    let celsius: Value = |gpu| gpu.temperature_celsius.map(f64::from);
    let throttled: Value = |gpu| gpu.throttled.map(|throttled| f64::from(u8::from(throttled)));
    for (name, unit, help, value) in [
        ("gpu_busy", Unit::Ratios, "Share of the time in which a GPU computed", ratio),
        ("gpu_memory_used", Unit::Bytes, "Memory in use of a GPU", |gpu| gpu.memory_used.map(|bytes| bytes as f64)),
        ("gpu_memory_size", Unit::Bytes, "Memory of a GPU", |gpu| gpu.memory_total.map(|bytes| bytes as f64)),
        ("gpu_temperature", Unit::Celsius, "Temperature of a GPU", celsius),
        ("gpu_power", Unit::Other("watts".to_owned()), "What a GPU draws", watts),
        ("gpu_throttled", Unit::Ratios, "1: a GPU's clocks are lowered for heat or want of power", throttled),
    ] {
        let family: Family<Gpu, Gauge<f64, AtomicU64>> = Family::default();
        for (number, gpu) in (0..).zip(gpus) {
            if let Some(value) = value(gpu) {
                family.get_or_create(&Gpu { gpu: number }).set(value);
            }
        }
        if !gpus.is_empty() {
            to.register_with_unit(name, help, unit, family);
        }
    }
}

fn vitals(to: &mut Registry, snapshot: &Snapshot) {
    let Some(vitals) = &snapshot.report.vitals else { return };
    // What cannot be told is left out, not zero.
    if let Some(cores) = vitals.cores {
        to.register("cpu_cores", "Cores of the host", whole(cores.into()));
    }
    if let Some(milli) = vitals.cpu_milli {
        to.register("cpu_cores_used", "Cores in use by the whole host", seconds(milli as f64 / 1000.0));
    }
    let workload = vitals.workload.as_ref();
    if let Some(milli) = workload.and_then(|workload| workload.cpu_milli) {
        to.register(
            "workload_cpu_cores_used",
            "Cores in use by Dask and all it started",
            seconds(milli as f64 / 1000.0),
        );
    }
    gpus(to, vitals.gpus.as_deref().unwrap_or_default());
    for (name, help, value) in [
        ("memory_used", "Memory in use on the host", vitals.memory_used),
        ("memory_size", "Memory of the host", vitals.memory_total),
        ("disk_free", "Bytes free where the host's directory lies", vitals.disk_free),
        ("workload_memory", "Memory of Dask and all it started", workload.and_then(|workload| workload.memory)),
    ] {
        if let Some(value) = value {
            to.register_with_unit(name, help, Unit::Bytes, whole(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::report::{Report, Verdict, Vitals};

    #[test]
    fn a_snapshot_becomes_numbers() {
        let vitals = Vitals {
            cpu_milli: Some(1500),
            cores: Some(4),
            memory_used: Some(5),
            memory_total: Some(9),
            disk_free: Some(7),
            ..Vitals::default()
        };
        let verdict = Verdict {
            state: VerdictState::Idle,
            reasons: Vec::new(),
            idle_for: 0,
            no_client_for: None,
            warning: None,
            held_for: std::collections::BTreeMap::new(),
        };
        let report = Report { vitals: Some(vitals), verdict: Some(verdict), ..Report::default() };
        let snapshot = Snapshot { report, connected: true, runner: None, logs: None };
        let after = |millis| BootTime(Duration::from_millis(millis));
        assert!(text(&snapshot, after(9_000)).contains("towline_agent_lease_age_seconds NaN"));
        lease_heard(after(4_000));
        let gap = towline_protocol::log_record::GapReason::SpoolFull;
        let gap = towline_protocol::log_record::Gap { from: 0, to: 1, bytes: 1, lines: None, reason: gap };
        let line = |more| Body::Line { text: "canary".to_owned(), part: 0, more };
        let bodies = [line(true), line(false), line(false), Body::Gap(gap)];
        delivered(&bodies.map(|body| Record { id: 0, time_ms: 0, body }));
        spool(77);
        let said = text(&snapshot, after(9_000));
        for line in [
            "towline_agent_session_connected 1",
            "towline_agent_lease_age_seconds 5.0",
            "towline_agent_verdict{verdict=\"idle\"} 1",
            "towline_agent_verdict{verdict=\"busy\"} 0",
            "towline_agent_log_lines_total 2",
            "towline_agent_log_gaps_total 1",
            "towline_agent_spool_bytes 77",
            "towline_agent_cpu_cores_used 1.5",
            "towline_agent_memory_size_bytes 9",
        ] {
            assert!(said.lines().any(|found| found == line), "{line:?} is missing in:\n{said}");
        }
        assert!(!said.contains("canary"));
    }
}
