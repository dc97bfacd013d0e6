//! A scheduler that dies under its cluster, and a start that takes longer than the cluster may be idle.

use anyhow::{Context as _, Result, ensure};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use towline_tests::{Running, World, processes};

const LONG: Duration = Duration::from_secs(120);

const WAITING: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=2, name="beheaded", progress=False)
    client = cluster.get_client()
    kept = client.submit(int, 3, pure=False)
    kept.result(timeout=30)
    futures = [client.submit(time.sleep, 300, pure=False) for _ in range(2)]
    print(json.dumps({"id": cluster.cluster_id}), flush=True)
    said = []
    for future in [*futures, kept]:
        try:
            future.result(timeout=60)
            said.append("done")
        except Exception as error:
            said.append(getattr(error, "code", repr(error)))
    print(json.dumps({"said": said, "at": time.time(), "why": cluster.why()}), flush=True)
    begun = time.monotonic()
    try:
        client.submit(int, 4, pure=False).result(timeout=30)
        later = "done"
    except Exception as error:
        later = getattr(error, "code", repr(error))
    print(json.dumps({"later": later, "took": time.monotonic() - begun}), flush=True)
    cluster.close()
"#;

/// What agents and runners say of Dask processes that end in another way than they were told to.
const KILLED: [&str; 4] =
    ["a process ended by itself", "a Dask process failed", "Dask did not stop in order", "host failed"];

#[tokio::test]
async fn a_killed_scheduler_is_a_failed_cluster_and_every_future_says_so() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.expect(&KILLED).start().await?;
    let mut program = Running::start(&world, "waiting", WAITING)?;
    let id = program.next().await?["id"].as_str().context("id")?.to_owned();
    let hosts = world.data.join("hosts");
    let scheduler = processes::below(&hosts)
        .into_iter()
        .find(|process| process.command.contains("distributed.cli.dask_scheduler"))
        .context("a scheduler")?;
    let killed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    processes::kill(scheduler.pid);
    let said = program.next().await?;
    ensure!(said["said"] == serde_json::json!(["scheduler_lost", "scheduler_lost", "scheduler_lost"]), "{said}");
    let after = said["at"].as_f64().context("at")? - killed;
    ensure!(after < 5.0, "later than promised: {after} s");
    ensure!(said["why"].as_str().is_some_and(|why| why.contains("[scheduler_lost]")), "{said}");
    let later = program.next().await?;
    ensure!(later["later"] == "scheduler_lost", "a task for a cluster without a scheduler: {later}");
    ensure!(later["took"].as_f64().is_some_and(|took| took < 5.0), "{later}");
    let view = world.api().cluster_until(&id, LONG, |view| view["state"] == "failed").await?;
    ensure!(view["reason"]["code"] == "scheduler_lost", "{view:#}");
    let shown = towline_tests::world::run(world.towline(&["cluster", "show", &id]), LONG).await?;
    ensure!(shown.stdout.contains("scheduler_lost"), "{}", shown.stdout);
    processes::gone(&hosts, Duration::from_secs(30)).await.map_err(|left| anyhow::anyhow!("left: {left:?}"))
}

const PATIENT: &str = r#"
import json
import towline

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, name="patient", idle_timeout=4, progress=False) as cluster:
        print(json.dumps({"sum": cluster.get_client().submit(sum, [1, 2]).result(timeout=60)}), flush=True)
"#;

/// Longer than an agent waits before it judges idleness first, and several times longer than the cluster may be idle.
const SLOW_SECONDS: u64 = 28;

fn on_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file()).context("not on PATH")
}

#[tokio::test]
async fn packages_that_take_longer_than_the_cluster_may_be_idle_end_nothing() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    // The hosts' `uv` is a slow one where it makes an environment. The person's own is not asked to make any.
    let programs = tempfile::tempdir()?;
    let uv = on_path("uv").context("uv")?;
    let slow = programs.path().join("uv");
    let script =
        format!("#!/bin/sh\ncase \"$1\" in venv) sleep {SLOW_SECONDS};; esac\nexec '{}' \"$@\"\n", uv.display());
    std::fs::write(&slow, script)?;
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755))?;
    let world = builder.programs(programs.path()).own_store().start().await?;
    let begun = Instant::now();
    let said = world.script_json(PATIENT, LONG).await?;
    ensure!(said["sum"] == 3, "{said}");
    ensure!(begun.elapsed() > Duration::from_secs(SLOW_SECONDS), "nothing was slow: {:?}", begun.elapsed());
    Ok(())
}
