//! A host that its platform takes away: its results move to others in time, and another host takes its place.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use towline_tests::world::run;
use towline_tests::{FakeCloud, World, processes};

const LONG: Duration = Duration::from_secs(120);

/// Two workers hold results; each task leaves a mark when it runs.
const HOLD: &str = r#"
import json, os, pathlib, sys, time
import towline

def make(n, marks):
    (pathlib.Path(marks) / f"{n}-{os.getpid()}-{time.time_ns()}").touch()
    return bytes([n]) * 100_000

if __name__ == "__main__":
    marks = sys.argv[1]
    with towline.Cluster(n_workers=2, name="spot", worker_threads=1, worker_memory="1 GiB", progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(2, timeout=60)
        kept = client.map(make, range(20), marks=marks, pure=False)
        client.gather(kept)
        held = {client.scheduler_info()["workers"][address]["name"]: len(keys)
            for address, keys in client.has_what().items()}
        before = set(cluster.observed)
        print(json.dumps({"before": sorted(before), "held": held}), flush=True)
        going = sys.stdin.readline().strip()
        until = time.monotonic() + 90
        while going in cluster.observed or len(cluster.observed) < 2:
            assert time.monotonic() < until, (going, cluster.observed)
            time.sleep(0.05)
        whole = [value[0] for value in client.gather(kept)] == list(range(20))
        print(json.dumps({"whole": whole, "now": sorted(cluster.observed)}), flush=True)
        sys.stdin.readline()
"#;

/// Have a host's agent read its notices from this address: its next life does.
fn listen_to(world: &World, host: &str, url: &str) -> Result<()> {
    let directory = world.data.join("hosts").join(host);
    let settings = directory.join("agent.toml");
    let text = fs::read_to_string(&settings)?;
    fs::write(&settings, format!("{text}\nnotices = \"aws\"\nmetadata_url = \"{url}\"\n"))?;
    let own = format!(" agent --host-dir {}", directory.display());
    let agents = processes::below(&world.data.join("hosts"));
    processes::kill(agents.iter().find(|process| process.command.ends_with(&own)).context("an agent")?.pid);
    Ok(())
}

#[tokio::test]
async fn results_of_a_reclaimed_host_survive_and_another_host_comes() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let cloud = FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await?;
    let world = builder.start().await?;
    let marks = world.scratch("marks")?;
    let file = world.scratch("scripts")?.join("hold.py");
    fs::write(&file, HOLD)?;
    let mut child = world
        .python(&[&file.display().to_string(), &marks.display().to_string()])
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let mut line = async || -> Result<Value> {
        let line = tokio::time::timeout(LONG, lines.next_line()).await.context("the program says nothing")??;
        Ok(serde_json::from_str(&line.context("the program ended")?)?)
    };
    let said = line().await?;
    let [going, staying] = said["before"].as_array().context("a list")?.as_slice() else {
        anyhow::bail!("two workers: {said}");
    };
    let (going, staying) = (going.as_str().context("a host")?, staying.as_str().context("a host")?);

    listen_to(&world, going, &cloud.url("aws_metadata")?)?;
    let begun = Instant::now();
    while cloud.get("aws_metadata", "/_fake/asked").await?["meta-data/spot/instance-action"].is_null() {
        ensure!(begun.elapsed() < LONG, "the agent does not ask for notices");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let at = jiff::Timestamp::now() + Duration::from_secs(120);
    let action = json!({ "action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() });
    let noticed = Instant::now();
    cloud.put("aws_metadata", "/_fake/items", json!({ "meta-data/spot/instance-action": action.to_string() })).await?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, format!("{going}\n").as_bytes()).await?;
    let said = line().await?;
    ensure!(said["whole"] == true, "{said}");
    ensure!(said["now"].as_array().is_some_and(|now| now.iter().any(|host| host == staying)), "{said}");
    ensure!(noticed.elapsed() < Duration::from_secs(105), "later than the platform allows: {:?}", noticed.elapsed());
    ensure!(fs::read_dir(&marks)?.count() == 20, "no result was made twice");

    let gone = world.api().cluster_until("spot", LONG, |cluster| {
        let hosts = cluster["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().any(|host| host["id"] == going && host["state"] == "ended")
    });
    let cluster = gone.await?;
    let host = cluster["hosts"].as_array().context("hosts")?.iter().find(|host| host["id"] == going).context("it")?;
    ensure!(host["reason"]["code"] == "host_interrupted" && host["sign_off"]["reason"] == "assigned", "{host}");
    ensure!(host["interruption"]["kind"] == "reclaimed" && host["interruption"]["going"] == true, "{host}");
    let shown = run(world.towline(&["host", "show", going]), LONG).await?;
    ensure!(shown.stdout.contains("reclaimed"), "{}", shown.stdout);
    let events = run(world.towline(&["cluster", "events", "spot"]), LONG).await?;
    ensure!(events.stdout.contains("is taken back by its platform"), "{}", events.stdout);
    drop(stdin);
    tokio::time::timeout(LONG, child.wait()).await??;
    Ok(())
}
