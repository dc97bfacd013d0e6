//! What server and agent count of themselves, read by a parser that others wrote while a cluster runs.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use towline_tests::{World, processes};

const LIMIT: Duration = Duration::from_secs(90);

/// Fetches each address, parses the text strictly, and prints samples by name and labels.
const PARSE: &str = r#"
import json, sys, urllib.request
from prometheus_client.openmetrics.parser import text_string_to_metric_families

out = []
for url in sys.argv[1:]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        kind, text = answer.headers["content-type"], answer.read().decode()
    assert kind.startswith("application/openmetrics-text"), kind
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown", family
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = str(sample.value)
    out.append({"samples": samples, "text": text})
print(json.dumps(out))
"#;

const CLUSTER: &str = r#"
import sys
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="canary-name", wait_for_workers=True, progress=False)
    client = cluster.get_client()
    client.submit(print, "canary-line").result()
    print(cluster.cluster_id, flush=True)
    sys.stdin.readline()
    client.close()
    cluster.close()
"#;

fn number(samples: &Value, name: &str) -> Result<f64> {
    let text = samples[name].as_str().with_context(|| format!("{name} is missing in {samples:#}"))?;
    Ok(text.parse()?)
}

async fn scrape(world: &World, python: &Path, url: &str) -> Result<Value> {
    let done = world.script_with(python, PARSE, &[url], LIMIT).await?;
    ensure!(done.code == Some(0), "{url}: {done:?}");
    let read: Value = serde_json::from_str(&done.stdout)?;
    let text = read[0]["text"].as_str().context("text")?;
    for secret in ["canary-name", "canary-line", "me\"", "tl_", "ho-", "cl-", "client-"] {
        ensure!(!text.contains(secret), "{secret:?} is told:\n{text}");
    }
    Ok(read[0]["samples"].clone())
}

#[tokio::test]
async fn server_and_agent_count_themselves_and_nobody_else() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder
        .settings("metrics_listen = \"0\"")
        .expect(&["the control plane cannot be reached; trying again", "the session is over"])
        .start()
        .await?;
    let python = world.environment("parser", &["prometheus-client==0.26.0"], &[]).await?;
    let run: Value = serde_json::from_str(&fs::read_to_string(world.data.join("server/run.json"))?)?;
    let url = run["metrics_url"].as_str().context("metrics_url")?.to_owned();
    ensure!(url.starts_with("http://127.0.0.1:"), "{url}");

    let (held, id) = super::commands::held(&world, CLUSTER).await?;
    let up =
        |view: &Value| view["hosts"].as_array().is_some_and(|hosts| hosts.iter().all(|host| host["state"] == "up"));
    let cluster = world.api().cluster_until(&id, LIMIT, up).await?;
    let samples = scrape(&world, &python, &url).await?;
    for (name, value) in [
        ("towline_clusters{state=running}", 1.0),
        ("towline_hosts{phase=joined}", 2.0),
        ("towline_agent_sessions{}", 2.0),
        ("towline_enrolments_total{result=granted}", 2.0),
        ("towline_start_phase_seconds_count{phase=joined}", 2.0),
        ("towline_api_requests_total{method=POST,route=/api/v1/clusters,status=201}", 1.0),
    ] {
        ensure!(number(&samples, name)? == value, "{name} is not {value}: {samples:#}");
    }
    ensure!(number(&samples, "towline_assignments_signed_total{}")? >= 2.0, "{samples:#}");
    ensure!(!samples.to_string().contains("store_errors"), "{samples:#}");

    agent(&world, &python, &cluster).await?;
    drop(held);
    Ok(())
}

/// An agent that is told to serve its metrics does so from its next start on.
async fn agent(world: &World, python: &Path, cluster: &Value) -> Result<()> {
    let hosts = cluster["hosts"].as_array().context("hosts")?;
    let worker =
        hosts.iter().find(|host| host["role"] == "worker").context("a worker")?["id"].as_str().context("id")?;
    let directory = world.data.join("hosts").join(worker);
    let settings = directory.join("agent.toml");
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    fs::write(&settings, format!("{}\nmetrics_listen = \"{port}\"\n", fs::read_to_string(&settings)?))?;
    let own = format!(" agent --host-dir {}", directory.display());
    let agents = processes::below(&world.data.join("hosts"));
    let pid = agents.iter().find(|process| process.command.ends_with(&own)).context("an agent")?.pid;
    processes::kill(pid);
    let url = format!("http://127.0.0.1:{port}/metrics");
    let deadline = std::time::Instant::now() + LIMIT;
    let samples = loop {
        // Until the agent is back: it has measured once and has its session, in either order.
        match scrape(world, python, &url).await {
            Ok(samples)
                if samples.get("towline_agent_cpu_cores{}").is_some()
                    && samples["towline_agent_session_connected{}"] == "1" =>
            {
                break samples;
            }
            other if std::time::Instant::now() > deadline => return other.map(|_| ()),
            _ => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    };
    ensure!(number(&samples, "towline_agent_session_connected{}")? == 1.0, "{samples:#}");
    ensure!(number(&samples, "towline_agent_children_running{}")? >= 1.0, "{samples:#}");
    ensure!(number(&samples, "towline_agent_memory_size_bytes{}")? > 1e6, "{samples:#}");
    ensure!(number(&samples, "towline_agent_log_gaps_total{}")? == 0.0, "{samples:#}");
    Ok(())
}
