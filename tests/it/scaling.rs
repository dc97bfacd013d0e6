//! The number of worker hosts: chosen by a person or by the scheduler, and no data lost when there are fewer.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use towline_tests::World;
use towline_tests::world::run;

const LONG: Duration = Duration::from_secs(120);

const FEWER: &str = r#"
import json, time
import towline

def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, [
            cluster.plan, cluster.observed, cluster.details["n_workers"], cluster.get_logs(cluster=False, workers=False)]
        time.sleep(0.05)

if __name__ == "__main__":
    with towline.Cluster(n_workers=3, worker_threads=1, worker_memory="1 GiB", progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(3, timeout=60)
        kept = client.map(lambda n: bytes([n]) * 100_000, range(30), pure=False)
        client.gather(kept)
        begun = time.monotonic()
        cluster.scale(2)
        wait_until(lambda: len(cluster.observed) == 2)
        fewer = time.monotonic() - begun
        # A person chooses which: by name, and by address of the worker.
        (going, staying) = sorted(cluster.observed)
        cluster.scale_down([going])
        wait_until(lambda: cluster.observed == {staying})
        cluster.scale(cores=2, memory="1 GiB")
        wait_until(lambda: len(cluster.observed) == 2)
        # One after the other, before anything of the first shows here.
        cluster.scale_up(1)
        cluster.scale_up(3)
        wait_until(lambda: len(cluster.observed) == 3)
        (first, second, staying) = sorted(cluster.observed)
        cluster.scale_down([first])
        cluster.scale_down([second])
        wait_until(lambda: cluster.observed == {staying} and cluster.details["n_workers"] == 1)
        # No task ran twice: what was made was moved.
        ran = client.run_on_scheduler(lambda dask_scheduler: len(
            [1 for ts in dask_scheduler.tasks.values() if ts.state == "memory"]))
        whole = [value[0] for value in client.gather(kept)] == list(range(30))
        lost = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.get_events("all") and [
            str(event) for _, event in dask_scheduler.get_events("all") if event.get("action") == "could-not-retire"])
        hosts = cluster.details["hosts"]
        print(json.dumps({"whole": whole, "ran": ran, "fewer": fewer, "staying": staying in cluster.observed,
            "reasons": [host["reason"] for host in hosts if host["state"] in ("ending", "ended", "failed")],
            "ends": [(host["sign_off"] or {}).get("reason") for host in hosts if host["state"] == "ended"],
            "repr": repr(cluster), "status": cluster._scaling_status(), "lost": lost}), flush=True)
"#;

#[tokio::test]
async fn fewer_hosts_lose_no_data() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(FEWER, LONG).await?;
    ensure!(said["whole"] == true && said["ran"] == 30, "{said}");
    ensure!(said["staying"] == true, "{said}");
    ensure!(said["fewer"].as_f64().is_some_and(|seconds| seconds < 20.0), "{said}");
    let reasons = said["reasons"].as_array().context("a list")?;
    ensure!(
        reasons.len() == 4 && reasons.iter().all(Value::is_null),
        "hosts that went as asked have not failed: {said}"
    );
    ensure!(said["status"].as_str().is_some_and(|status| status.contains("Manual")), "{said}");
    Ok(())
}

/// Asks for scaling, leaves work behind and is killed.
const LEFT_ALONE: &str = r#"
import json, os, signal, time
import towline
from distributed import fire_and_forget

if __name__ == "__main__":
    cluster = towline.Cluster(
        n_workers=1, worker_threads=1, name="alone", no_client_timeout=None, shutdown_on_close=False, progress=False)
    client = cluster.get_client()
    # Patient: on a machine that does much else the estimate jumps.
    handle = cluster.adapt(minimum=1, maximum=3, interval="100 ms", wait_count=30, target_duration="1 s")
    assert (handle.minimum, handle.maximum, handle.state) == (1, 3, "running")
    fire_and_forget(client.map(time.sleep, [3.0 + n / 1000 for n in range(12)], pure=False))
    while not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        time.sleep(0.05)
    print("left", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"#;

#[tokio::test]
async fn the_scheduler_scales_with_the_client_gone() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let file = world.scratch("scripts")?.join("alone.py");
    std::fs::write(&file, LEFT_ALONE)?;
    let mut child = world.python(&[&file.display().to_string()]).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let said = tokio::time::timeout(LONG, lines.next_line()).await.context("the program says nothing")??;
    ensure!(said.as_deref() == Some("left"), "{said:?}");
    child.wait().await?;

    let workers = |cluster: &Value, state: &str| {
        let hosts = cluster["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().filter(|host| host["role"] == "worker" && host["state"] == state).count()
    };
    let grown = world.api().cluster_until("alone", LONG, |cluster| workers(cluster, "up") == 3).await?;
    ensure!(grown["n_workers"] == 3 && grown["adaptive"]["maximum"] == 3, "{grown}");
    let shrunk = world.api().cluster_until("alone", LONG, |cluster| {
        cluster["n_workers"] == 1 && workers(cluster, "up") == 1 && workers(cluster, "ended") >= 2
    });
    let shrunk = shrunk.await?;
    ensure!(shrunk["state"] == "running", "{shrunk}");

    // The command line sees it and has the last word.
    let shown = run(world.towline(&["cluster", "show", "alone"]), LONG).await?;
    ensure!(shown.stdout.contains("1 to 3, as its work needs"), "{}", shown.stdout);
    let scaled = run(world.towline(&["cluster", "scale", "alone", "2"]), LONG).await?;
    ensure!(scaled.code == Some(0) && scaled.stdout.contains("2 worker hosts"), "{}", scaled.stdout);
    let manual = world.api().cluster_until("alone", LONG, |cluster| workers(cluster, "up") == 2).await?;
    ensure!(manual["adaptive"].is_null(), "{manual}");
    let adapted = run(world.towline(&["cluster", "adapt", "alone", "--maximum", "1", "--json"]), LONG).await?;
    ensure!(adapted.code == Some(0), "{}", adapted.stderr);
    let fewer = world.api().cluster_until("alone", LONG, |cluster| workers(cluster, "up") <= 1).await?;
    ensure!(fewer["adaptive"]["minimum"] == 0, "{fewer}");
    let refused = run(world.towline(&["cluster", "adapt", "alone", "--minimum", "5", "--maximum", "2"]), LONG).await?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("more than the maximum"), "{}", refused.stderr);
    world.api().stop("alone").await?;
    world.api().cluster_until("alone", LONG, |cluster| cluster["state"] == "stopped").await?;
    Ok(())
}
