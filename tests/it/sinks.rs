//! Whole clusters whose lines go to another store than files: what a task prints arrives there by the agents' own way.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use towline_tests::World;
use towline_tests::cloud::FakeCloud;
use towline_tests::world::run;

const LONG: Duration = Duration::from_secs(120);

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster whose tasks print two hundred lines, and that says where they are once it has ended.
const SPEAKING: &str = r#"
import json, sys
import towline

def speak(number):
    # In one write: `print` makes two, between which another thread of the worker may print.
    sys.stdout.write(f"spoken {number:04}\n")

if __name__ == "__main__":
    with towline.Cluster(n_workers=2, name="collected", progress=False) as cluster:
        client = cluster.get_client()
        client.gather(client.map(speak, range(200)))
        hosts = [host["id"] for host in client.scheduler_info()["workers"].values()]
    try:
        told = cluster.get_logs()
    except towline.ClusterError as error:
        told = str(error)
    print(json.dumps({"cluster": cluster.cluster_id, "hosts": hosts, "told": str(told)}))
"#;

#[tokio::test]
async fn every_line_of_a_cluster_arrives_at_its_collector_and_people_are_told_so() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let cloud = FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await?;
    // Its first answers are lost: the agents must try again, and readers know by the ids.
    let lost = json!({ "status": 500, "body": "", "after": true });
    cloud.knobs("otlp", json!({ "script": [lost.clone(), lost] })).await?;
    let endpoint = cloud.url("otlp")?;
    let world = builder
        .settings(&format!("[logs]\nsink = \"otlp\"\nendpoint = \"{endpoint}\""))
        .expect(&["log lines wait on this host"])
        .start()
        .await?;
    let said = world.script_json(SPEAKING, LONG).await?;
    let cluster = said["cluster"].as_str().context("its id")?;

    let spoken = arrived(&cloud, cluster).await?;
    let streams: Vec<&String> = spoken.keys().collect();
    ensure!(streams.iter().any(|stream| *stream == "scheduler"), "{streams:?}");
    let mut numbers = Vec::new();
    for (stream, lines) in &spoken {
        ensure!(stream == "scheduler" || stream.starts_with("worker-ho-"), "{stream}");
        numbers.extend(lines.values().filter_map(|line| line.strip_prefix("spoken ")?.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    ensure!(numbers == (0..200).collect::<Vec<_>>(), "each once by its id: {numbers:?}");

    ensure!(said["told"].as_str().is_some_and(|told| told.contains(&endpoint)), "get_logs says so: {said}");
    let told = run(world.towline(&["logs", "collected"]), LIMIT).await?;
    ensure!(told.code == Some(1) && told.stdout.is_empty(), "{told:?}");
    ensure!(told.stderr.contains(&endpoint) && told.stderr.contains("OTLP"), "it says where they are: {told:?}");
    Ok(())
}

/// What the collector has of a cluster: the texts of each stream by their ids. Everything is there before a cluster has ended.
async fn arrived(cloud: &FakeCloud, cluster: &str) -> Result<BTreeMap<String, BTreeMap<u64, String>>> {
    let until = Instant::now() + LIMIT;
    loop {
        let mut found = BTreeMap::<String, BTreeMap<u64, String>>::new();
        for record in cloud.get("otlp", "/_fake/events").await?.as_array().into_iter().flatten() {
            ensure!(record["cluster"] == cluster, "{record}");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let id = text(&record["attributes"]["towline.id"]).parse().with_context(|| format!("an id: {record}"))?;
            let before = found.entry(text(&record["stream"])).or_default().insert(id, text(&record["body"]));
            ensure!(before.is_none_or(|before| before == text(&record["body"])), "another line with this id: {record}");
        }
        let spoken = found.values().flat_map(BTreeMap::values).filter(|line| line.starts_with("spoken ")).count();
        if spoken >= 200 || Instant::now() >= until {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A cluster that prints on two workers, waits for a sign, prints once more, and ends.
const WAITING: &str = r#"
import pathlib, sys, time
import towline

def speak(number):
    sys.stdout.write(f"spoken {number}\n")
    time.sleep(0.02)

if __name__ == "__main__":
    signs = pathlib.Path(sys.argv[1])
    with towline.Cluster(n_workers=2, name="watched", progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(2)
        client.gather(client.map(speak, range(100)))
        logs = cluster.get_logs(cluster=False)
        workers = client.scheduler_info()["workers"]
        assert set(logs) == {"Scheduler", *workers}, (list(logs), list(workers))
        spoken = sorted(int(line.split()[1]) for log in logs.values() for line in log.split("\n") if "spoken " in line)
        assert spoken == list(range(100)), spoken
        (signs / "spoken").touch()
        until = time.monotonic() + 90
        while not (signs / "go").exists() and time.monotonic() < until:
            time.sleep(0.05)
        client.submit(speak, "the last word", pure=False).result(timeout=30)
        time.sleep(1)
"#;

#[tokio::test]
async fn a_living_cluster_is_read_from_its_hosts_whatever_its_store_and_only_by_whom_it_admits() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let cloud = FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await?;
    let endpoint = cloud.url("otlp")?;
    let world = builder.settings(&format!("[logs]\nsink = \"otlp\"\nendpoint = \"{endpoint}\"")).start().await?;
    let signs = world.scratch("signs")?;
    let script = world.scratch("scripts")?.join("waiting.py");
    std::fs::write(&script, WAITING)?;
    let cluster = world.python(&[&script.display().to_string(), &signs.display().to_string()]).spawn()?;
    if let Err(never) = until("lines", || signs.join("spoken").exists()).await {
        drop(world);
        let done = cluster.wait_with_output().await?;
        return Err(never.context(String::from_utf8_lossy(&done.stderr).into_owned()));
    }

    let json = async |arguments: &[&str]| -> Result<Vec<Value>> {
        let done = run(world.towline(&[&["logs", "watched", "--json"], arguments].concat()), LIMIT).await?;
        ensure!(done.code == Some(0), "{arguments:?}: {done:?}");
        Ok(done.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let spoken = json(&["--filter", "spoken "]).await?;
    let mut numbers: Vec<u32> =
        spoken.iter().filter_map(|one| one["line"].as_str()?.strip_prefix("spoken ")?.parse().ok()).collect();
    numbers.sort_unstable();
    ensure!(numbers == (0..100).collect::<Vec<_>>(), "delivered or not, each is there once: {numbers:?}");
    ensure!(spoken.is_sorted_by_key(|one| one["time"].as_u64()), "by time");
    let workers: Vec<&str> = spoken.iter().filter_map(|one| one["stream"].as_str()).collect();
    let worker = workers[0].trim_start_matches("worker-");
    let of_one = workers.iter().filter(|stream| stream.ends_with(worker)).count();
    ensure!(of_one < 100, "both workers speak: {workers:?}");
    ensure!(json(&["--filter", "spoken ", "--worker", worker]).await?.len() == of_one);
    ensure!(json(&["--filter", "spoken ", "--scheduler"]).await?.is_empty());
    ensure!(!json(&["--scheduler"]).await?.is_empty());
    // The runner notes once a second when lines were written.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spoken = json(&["--filter", "spoken "]).await?;
    ensure!(json(&["--filter", "spoken ", "--tail", "7"]).await? == spoken[93..], "the last of all");
    let unknown = run(world.towline(&["logs", "watched", "--worker", "nobody"]), LIMIT).await?;
    ensure!(unknown.code == Some(1) && unknown.stderr.contains("the workers with lines are: ho-"), "{unknown:?}");

    // Somebody with the workspace's token, whom the owner did not admit.
    let mut stranger = world.towline(&["logs", "watched"]);
    stranger.env("XDG_STATE_HOME", world.scratch("stranger")?);
    let refused = run(stranger, LIMIT).await?;
    ensure!(refused.code == Some(77) && refused.stdout.is_empty(), "{refused:?}");
    ensure!(refused.stderr.contains("owner") && refused.stderr.contains(" → "), "{refused:?}");

    let mut follow = world.towline(&["logs", "watched", "--follow", "--tail", "0", "--filter", "spoken"]);
    let mut follow = follow.stderr(Stdio::inherit()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("piped")?).lines();
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::write(signs.join("go"), "")?;
    let mut followed = Vec::new();
    let status = tokio::time::timeout(LIMIT, async {
        while let Some(line) = lines.next_line().await? {
            followed.push(line);
        }
        follow.wait().await
    });
    let status = status.await.context("following does not end with the cluster")??;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(followed.len() == 1 && followed[0].ends_with(" | spoken the last word"), "{followed:?}");
    let done = tokio::time::timeout(LIMIT, cluster.wait_with_output()).await??;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + LONG;
    while !holds() {
        ensure!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
