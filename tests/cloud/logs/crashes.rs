//! A shipping process that is killed at any moment: no line is lost, and each crash repeats one request at most.

use super::{Bench, cloudwatch, complete};
use anyhow::{Result, ensure};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::process::{Child, Command};

/// Records of a request at most, as the shipper gathers them.
const REQUEST: u64 = 8_192;

fn shipping(bench: &Bench) -> Result<Child> {
    let destination = cloudwatch::destination(bench)?;
    let sink = serde_json::to_string(&destination.sink)?;
    let secret = destination.access.aws_credentials_file.unwrap_or_default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline-bench"));
    command.arg("ship").arg(bench.files().spool).arg(sink).arg(secret).stdout(Stdio::null()).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Moments that differ from run to run and are told when it fails.
fn moments() -> Result<(u64, impl FnMut() -> u64)> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into();
    let mut state: u64 = seed;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    Ok((seed, next))
}

async fn killed(times: u64) -> Result<()> {
    let mut bench = Bench::start().await?;
    let (seed, mut random) = moments()?;
    for _ in 0..times {
        bench.print(1 + random() % 3_000)?;
        let mut child = shipping(&bench)?;
        tokio::time::sleep(Duration::from_millis(random() % 120)).await;
        child.kill().await?;
    }
    ensure!(shipping(&bench)?.wait().await?.success(), "the last one ends by itself");
    let messages = bench.texts("cloudwatch", "message").await?;
    let doubled = complete(&messages, bench.written).map_err(|error| error.context(format!("seed {seed}")))?;
    eprintln!("{} lines, {doubled} twice, {times} crashes, seed {seed}", bench.written);
    ensure!(doubled <= times * REQUEST, "{doubled} lines twice after {times} crashes, seed {seed}");
    Ok(())
}

#[tokio::test]
async fn twenty_crashes_lose_no_line() -> Result<()> {
    killed(20).await
}

#[tokio::test]
#[ignore = "minutes: for the slow tier"]
async fn two_hundred_crashes_lose_no_line() -> Result<()> {
    killed(200).await
}
