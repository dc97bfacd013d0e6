//! A host whose agent hangs: its Dask ends by the runner's rule, and the fleet puts another host in its place.

use anyhow::{Context as _, Result, ensure};
use std::time::Duration;
use towline_tests::world::run;
use towline_tests::{Running, World, processes};

const LONG: Duration = Duration::from_secs(60);

const WAIT: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, name="hung", progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(1, timeout=60)
        before = set(cluster.observed)
        print(json.dumps({"id": cluster.cluster_id, "hung": sorted(before)[0]}), flush=True)
        until = time.monotonic() + 240
        while not set(cluster.observed) - before:
            assert time.monotonic() < until, cluster.observed
            time.sleep(0.5)
        print(json.dumps({"sum": client.submit(sum, [1, 2], pure=False).result(timeout=60)}), flush=True)
"#;

/// What agents, runners and the fleet say of the hung host and of its Dask processes.
const HUNG: [&str; 5] = [
    "host failed",
    "no agent has spoken: everything ends",
    "a process ended by itself",
    "a Dask process failed",
    "Dask did not stop in order",
];

#[tokio::test]
#[ignore = "slow tier: a host is given up after three reports that did not come, and a minute without its worker"]
async fn a_host_whose_agent_hangs_is_replaced() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.settings("[rules]\nagent_lost = \"10s\"").expect(&HUNG).start().await?;
    let mut program = Running::start(&world, "hung", WAIT)?;
    let said = program.next().await?;
    let (id, hung) = (said["id"].as_str().context("id")?.to_owned(), said["hung"].as_str().context("hung")?.to_owned());
    let hosts = world.data.join("hosts");
    let own = format!(" agent --host-dir {}", hosts.join(&hung).display());
    let agent =
        processes::below(&hosts).into_iter().find(|process| process.command.ends_with(&own)).context("agent")?;
    processes::freeze(agent.pid);

    // The scheduler loses the worker after the runner's rule, and misses its host a minute later: about as long as a
    // program may be silent.
    let answer = match program.next().await {
        Ok(answer) => answer,
        Err(_) => program.next().await?,
    };
    ensure!(answer["sum"] == 3, "work goes on");
    let shown = run(world.towline(&["host", "show", &hung]), LONG).await?;
    ensure!(shown.stdout.contains("host_silent"), "{}", shown.stdout);
    let events = run(world.towline(&["cluster", "events", &id]), LONG).await?;
    ensure!(events.stdout.contains(&hung), "{}", events.stdout);
    let directory = hosts.join(&hung);
    processes::gone(&directory, Duration::from_secs(60)).await.map_err(|left| anyhow::anyhow!("left: {left:?}"))
}
