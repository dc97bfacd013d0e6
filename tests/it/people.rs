//! The first steps of the README, as a person types them.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use towline_tests::world::{Program, run};
use towline_tests::{World, processes};

const LIMIT: Duration = Duration::from_secs(60);

async fn login(world: &World, url: &str, token: &str) -> Result<Program> {
    let profile = world.scratch("login")?.join("profiles.toml");
    let mut command = world.towline(&["login", url]);
    command.env("TOWLINE_CONFIG", &profile).stdin(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("piped")?.write_all(format!("{token}\n").as_bytes()).await?;
    let done = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Program { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) })
}

#[tokio::test]
async fn login_pins_the_server_that_the_fingerprint_names_and_no_other() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let facts: Value = serde_json::from_str(&fs::read_to_string(world.data.join("server/run.json"))?)?;
    let (url, fingerprint) = (facts["people_url"].as_str().context("url")?, facts["ca_sha256"].as_str().context("ca")?);
    let token = fs::read_to_string(world.data.join("server/admin.token"))?;

    let wrong = login(&world, &format!("{url}#sha256:{}", "0".repeat(64)), token.trim()).await?;
    ensure!(wrong.code != Some(0) && wrong.stderr.contains("fingerprint"), "{wrong:?}");
    let unpinned = login(&world, url, token.trim()).await?;
    ensure!(unpinned.code != Some(0), "a private CA must not be trusted without its fingerprint: {unpinned:?}");
    let refused = login(&world, &format!("{url}#sha256:{fingerprint}"), "tl_wrong").await?;
    ensure!(refused.code != Some(0) && !refused.stderr.contains("tl_wrong"), "{refused:?}");

    let done = login(&world, &format!("{url}#sha256:{fingerprint}"), token.trim()).await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(!done.stdout.contains(token.trim()), "the token is printed");
    let mut list = world.towline(&["cluster", "list", "--json"]);
    list.env("TOWLINE_CONFIG", world.scratch("login")?.join("profiles.toml"));
    let listed = run(list, LIMIT).await?;
    ensure!(listed.code == Some(0), "{listed:?}");
    serde_json::from_str::<Value>(&listed.stdout).context("--json prints JSON")?;
    Ok(())
}

#[tokio::test]
async fn a_second_demo_is_one_sentence_and_ctrl_c_leaves_nothing() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let data = world.scratch("demo")?;
    let demo = |world: &World| -> Command {
        let mut command = world.towline(&["demo", "--data-dir"]);
        command.arg(&data);
        command
    };
    let mut first = demo(&world);
    first.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut first = first.spawn()?;
    let begun = Instant::now();
    while !data.join("server/run.json").exists() {
        ensure!(begun.elapsed() < Duration::from_secs(180), "the demo's server does not start");
        ensure!(first.try_wait()?.is_none(), "the demo ended early");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = run(demo(&world), LIMIT).await?;
    ensure!(second.code.is_some_and(|code| code != 0), "{second:?}");
    ensure!(second.stderr.contains("demo") && second.stderr.trim().lines().count() <= 2, "{second:?}");

    // Somewhere in the middle of a start: hosts are being made.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let pid = first.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let status = tokio::time::timeout(Duration::from_secs(30), first.wait()).await.context("it does not end")??;
    ensure!(status.code() == Some(130), "{status}");
    processes::gone(&data, Duration::from_secs(5)).await.map_err(|left| anyhow::anyhow!("left running: {left:?}"))
}
