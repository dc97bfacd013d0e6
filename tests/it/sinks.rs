//! Whole clusters whose lines go to another store than files: what a task prints arrives there by the agents' own way.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use towline_tests::World;
use towline_tests::cloud::FakeCloud;
use towline_tests::world::run;

const LONG: Duration = Duration::from_secs(240);

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
    print(json.dumps({"cluster": cluster.cluster_id, "hosts": hosts}))
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
