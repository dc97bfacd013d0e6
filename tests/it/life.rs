//! What survives what: agents and control planes that are killed, together and apart.

use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};
use towline_tests::{Running, World, processes};

const LONG: Duration = Duration::from_secs(90);

/// A cluster of one worker that prints a line for each step and goes on when it reads one.
const STEPS: &str = r#"
import json, os, sys, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="steps", progress=False)
    client = cluster.get_client()
    client.wait_for_workers(1, timeout=60)
    before = client.submit(os.getpid, pure=False).result()
    slow = [client.submit(lambda i=i: (time.sleep(4), i, os.getpid())[1:], pure=False) for i in range(2)]
    print(json.dumps({"cluster": cluster.cluster_id, "worker": before}), flush=True)
    sys.stdin.readline()
    after = [future.result(timeout=60) for future in slow]
    print(json.dumps({"after": after, "again": client.submit(os.getpid, pure=False).result(timeout=60)}), flush=True)
    client.close()
    cluster.close()
    print(json.dumps({"closed": True}), flush=True)
"#;

fn agents(world: &World) -> Vec<processes::Process> {
    processes::below(&world.data.join("hosts"))
        .into_iter()
        .filter(|process| process.command.contains(" agent --host-dir"))
        .collect()
}

#[tokio::test]
async fn killing_an_agent_disturbs_no_task() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let mut steps = Running::start(&world, "steps", STEPS)?;
    let first = steps.next().await?;
    let before = agents(&world);
    ensure!(before.len() == 2, "one agent per host: {before:?}");
    for agent in &before {
        processes::kill(agent.pid);
    }
    // The backend restarts them; tasks that were running must come back from the same worker process.
    let begun = Instant::now();
    while agents(&world).len() != 2 {
        ensure!(begun.elapsed() < Duration::from_secs(30), "the agents are not restarted: {}", world.server_log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    steps.go_on().await?;
    let second = steps.next().await?;
    for (index, result) in second["after"].as_array().context("after")?.iter().enumerate() {
        ensure!(
            result[0] == index && result[1] == first["worker"],
            "task {index}: {result}, worker was {}",
            first["worker"]
        );
    }
    ensure!(second["again"] == first["worker"], "another worker process: {second}");
    ensure!(steps.next().await?["closed"] == true);
    processes::gone(&world.data.join("hosts"), Duration::from_secs(30))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_a_start_finishes_it_once() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.start().await?;
    let mut steps = Running::start(&world, "steps", STEPS)?;
    let begun = Instant::now();
    while agents(&world).is_empty() {
        ensure!(begun.elapsed() < LONG, "no host appears: {}", world.server_log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.kill_server().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.start_server().await?;
    let first = steps.next().await?;
    let cluster = first["cluster"].as_str().context("cluster")?.to_owned();
    let view = world.api().get(&format!("/api/v1/clusters/{cluster}")).await?;
    ensure!(view["hosts"].as_array().is_some_and(|hosts| hosts.len() == 2), "one scheduler and one worker: {view:#}");
    ensure!(agents(&world).len() == 2, "two agents: {:?}", agents(&world));
    steps.go_on().await?;
    steps.next().await?;
    ensure!(steps.next().await?["closed"] == true);
    Ok(())
}

#[tokio::test]
async fn with_agents_and_control_plane_gone_for_good_every_process_ends_by_its_deadline() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.settings("[rules]\nagent_lost = \"10s\"").start().await?;
    let mut steps = Running::start(&world, "steps", STEPS)?;
    steps.next().await?;
    world.kill_server().await?;
    for agent in agents(&world) {
        processes::kill(agent.pid);
    }
    drop(steps);
    let begun = Instant::now();
    processes::gone(&world.data.join("hosts"), Duration::from_secs(40))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))?;
    ensure!(begun.elapsed() > Duration::from_secs(7), "ended before the deadline, after {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn agents_accept_assignments_of_a_restored_older_backup() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    // What was done since the backup is not known any more: the third host, its key, a newer roster.
    let mut world = builder
        .expect(&[
            "a certificate came for a member that is not known",
            "destroying a host that no record wants",
            "the session is over",
            // An agent that looks again at once finds nobody there yet.
            "the control plane cannot be reached; trying again",
        ])
        .start()
        .await?;
    let mut steps = Running::start(&world, "steps", STEPS)?;
    let cluster = steps.next().await?["cluster"].as_str().context("cluster")?.to_owned();
    let backup = world.scratch("backup")?.join("kept.tar").display().to_string();
    let server = |world: &World, arguments: &[&str]| {
        let mut command = world.towline(&[&["server"], arguments].concat());
        command.arg("--data-dir").arg(&world.data);
        towline_tests::world::run(command, LONG)
    };
    // While the server runs and hosts report.
    let kept = server(&world, &["backup", &backup]).await?;
    ensure!(kept.code == Some(0) && kept.stdout.contains("server's keys"), "{kept:?}");
    let running = server(&world, &["restore", &backup, "--replace"]).await?;
    ensure!(running.code == Some(1) && running.stderr.contains("Another server uses"), "{running:?}");
    // A later generation for every host: the scale-up is lost with the restored backup.
    let path = format!("/api/v1/clusters/{cluster}/scale");
    let answer = world.api().request(reqwest::Method::POST, &path, Some(&serde_json::json!({"n_workers": 2}))).await?;
    ensure!(answer.status == 200, "{answer:?}");
    world
        .api()
        .cluster_until(&cluster, LONG, |view| {
            view["hosts"].as_array().is_some_and(|hosts| hosts.iter().filter(|host| host["state"] == "up").count() == 3)
        })
        .await?;
    world.stop_server().await?;
    let refused = server(&world, &["restore", &backup]).await?;
    ensure!(refused.code == Some(77) && refused.stderr.contains("--replace"), "{refused:?}");
    let restored = server(&world, &["restore", &backup, "--replace"]).await?;
    ensure!(restored.code == Some(0) && restored.stdout.contains("server.replaced-"), "{restored:?}");
    world.start_server().await?;
    // A new member needs a roster that the scheduler's host accepts, although it held a newer one with another member.
    let answer = world.api().request(reqwest::Method::POST, &path, Some(&serde_json::json!({"n_workers": 2}))).await?;
    ensure!(answer.status == 200, "{answer:?}");
    world
        .api()
        .cluster_until(&cluster, LONG, |view| {
            view["hosts"].as_array().is_some_and(|hosts| hosts.iter().filter(|host| host["state"] == "up").count() == 3)
        })
        .await?;
    let answer = world.api().stop(&cluster).await?;
    ensure!(answer.status == 202, "{answer:?}");
    let view = world.api().cluster_until(&cluster, LONG, |view| view["state"] == "stopped").await?;
    for host in view["hosts"].as_array().context("hosts")? {
        ensure!(host["sign_off"]["reason"] == "assigned", "ended by another way than its assignment: {host:#}");
    }
    processes::gone(&world.data.join("hosts"), Duration::from_secs(30))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))
}
