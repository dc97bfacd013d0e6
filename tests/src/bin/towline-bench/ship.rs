//! One file through the agent's shipper: its spool, cursor, batches and `file` sink, as in an agent.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use towline_agent::logs::{LogFiles, Shipper};
use towline_protocol::assignment::{LogPlan, Sink};

/// A file that takes longer was too large to measure with.
const LIMIT: Duration = Duration::from_secs(300);

/// Deliver `spool` into the folder `sink`, and say how long it took. The spool's blocks are freed on the way.
pub async fn run(spool: &Path, sink: &Path) -> Result<()> {
    let directory = std::path::absolute(sink)?.to_str().context("the sink's name is text")?.to_owned();
    ensure!(spool.is_file(), "{} is no file", spool.display());
    let plan = LogPlan { sink: Sink::File { directory }, stream: "bench".to_owned() };
    let begun = Instant::now();
    let shipper = Shipper::start(LogFiles::of(spool), &plan, None)?;
    let flushed = shipper.flush(LIMIT).await;
    let seconds = begun.elapsed().as_secs_f64();
    let peak_mib = peak()?;
    let said = json!({ "seconds": seconds, "complete": flushed.complete, "left": flushed.left, "peak_mib": peak_mib });
    println!("{said}");
    Ok(())
}

/// Resident memory of this process at most so far, in MiB. What `wait4` says of it would include the process that
/// started this one.
fn peak() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
