//! One file through the agent's shipper: its spool, cursor, batches and sink, as in an agent.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use towline_agent::logs::{Access, Destination, LogFiles, Shipper};
use towline_protocol::assignment::Sink;
use towline_protocol::ids::ClusterId;

/// A file that takes longer was too large to measure with.
const LIMIT: Duration = Duration::from_secs(300);

/// Deliver `spool` into `sink`, a folder or a sink of an assignment as JSON, and say how long it took. The spool's blocks are
/// freed on the way. `secret` lets it into the store: AWS keys, or a token.
pub async fn run(spool: &Path, sink: &str, secret: Option<&str>) -> Result<()> {
    let begun = Instant::now();
    let shipper = start(spool, sink, secret)?;
    let flushed = shipper.flush(LIMIT).await;
    let seconds = begun.elapsed().as_secs_f64();
    let peak_mib = peak()?;
    let said = json!({ "seconds": seconds, "complete": flushed.complete, "left": flushed.left, "peak_mib": peak_mib });
    println!("{said}");
    Ok(())
}

/// Deliver what is written to `spool` at the shipper's own pace, until standard input closes.
pub async fn follow(spool: &Path, sink: &str, secret: Option<&str>) -> Result<()> {
    let shipper = start(spool, sink, secret)?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    println!("{}", json!({ "trouble": shipper.trouble(), "peak_mib": peak()? }));
    Ok(())
}

fn start(spool: &Path, sink: &str, secret: Option<&str>) -> Result<Shipper> {
    ensure!(spool.is_file(), "{} is no file", spool.display());
    let sink = if sink.starts_with('{') { serde_json::from_str(sink)? } else { folder(Path::new(sink))? };
    let secret = secret.map(Into::into);
    let access = match &sink {
        Sink::AzureMonitor { .. } => Access { azure_token_file: secret, ..Access::default() },
        Sink::Cloudwatch { .. } => Access { aws_credentials_file: secret, ..Access::default() },
        Sink::File { .. } => Access::default(),
        Sink::Otlp { .. } => Access { otlp_token_file: secret, ..Access::default() },
    };
    let destination =
        Destination { sink, cluster: ClusterId::from_random([7; 10]), stream: "bench".to_owned(), access };
    Ok(Shipper::start(LogFiles::of(spool), destination, None)?)
}

fn folder(path: &Path) -> Result<Sink> {
    let directory = std::path::absolute(path)?.to_str().context("the sink's name is text")?.to_owned();
    Ok(Sink::File { directory })
}

/// Resident memory of this process at most so far, in MiB. What `wait4` says of it would include the process that
/// started this one.
fn peak() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
