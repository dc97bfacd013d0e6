//! The cluster object beyond starting and ending: what its workers get, and who else finds it.

use anyhow::{Result, ensure};
use std::time::Duration;
use towline_tests::World;

const LONG: Duration = Duration::from_secs(120);

/// `NANNY` is replaced by True and False.
const ENVIRON: &str = r#"
import json, os
import towline

def value(name="COLOUR"):
    return os.environ.get(name)

if __name__ == "__main__":
    environ = {"COLOUR": "green = blue", "TEMPERATURE": 3}
    with towline.Cluster(n_workers=1, worker_nanny=NANNY, environ=environ, progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(1, timeout=60)
        first = client.submit(value, pure=False).result(timeout=60)
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout=90)
        both = sorted(client.run(value).values())
        number = client.submit(value, "TEMPERATURE", pure=False).result(timeout=60)
    print(json.dumps({"first": first, "both": both, "number": number}), flush=True)
"#;

#[tokio::test]
async fn environment_values_reach_workers_of_every_kind_and_later_ones() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    for nanny in ["True", "False"] {
        let said = world.script_json(&ENVIRON.replace("NANNY", nanny), LONG).await?;
        ensure!(said["first"] == "green = blue" && said["number"] == "3", "nanny={nanny}: {said}");
        ensure!(said["both"] == serde_json::json!(["green = blue", "green = blue"]), "nanny={nanny}: {said}");
    }
    Ok(())
}

const ADDRESS: &str = r#"
import json, subprocess, sys
import towline

SECOND = """
import sys
import dask
import towline
from distributed import Client
assert dask.config.get("distributed.client.security-loader") == "towline.load_security"
with Client(sys.argv[1], timeout=10) as client:
    print(client.submit(sum, [1, 2, 3]).result(timeout=30))
"""

def second(address):
    done = subprocess.run([sys.executable, "-c", SECOND, address], capture_output=True, text=True, timeout=60)
    return [done.returncode, done.stdout.strip(), done.stderr[-300:] if done.returncode else ""]

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, progress=False) as cluster:
        address = cluster.scheduler_address
        alive = second(address)
    print(json.dumps({"alive": alive, "dead": second(address)}), flush=True)
"#;

#[tokio::test]
async fn a_client_of_the_bare_address_finds_its_keys_on_this_machine() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(ADDRESS, LONG).await?;
    ensure!(said["alive"] == serde_json::json!([0, "6", ""]), "{said}");
    ensure!(said["dead"][0] != 0, "the keys of a cluster that has ended are gone: {said}");
    Ok(())
}

/// Every row of the contract between Dask and a cluster object, as `Client`, Jupyter and dask-ctl use it.
const CONTRACT: &str = r#"
import asyncio, json, os, pathlib, tempfile, time
import towline
from distributed import Client
from distributed.core import Status
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.diagnostics.plugin import Environ

def variable(name):
    return os.environ.get(name)

def same(name):
    return __import__(name).answer()

def raises(kind, call):
    try:
        call()
    except kind:
        return True
    return False

def sync():
    rows = {}
    with towline.Cluster(n_workers=2, worker_threads=1, name="contract", progress=False) as cluster:
        rows["is a Dask cluster"] = isinstance(cluster, DaskCluster) and cluster.status == Status.running
        rows["equality"] = cluster == cluster and cluster != 3 and hash(cluster) == id(cluster)
        rows["name"] = cluster.name == "contract"
        cluster.name = "renamed"
        rows["name can be set"] = cluster.name == "renamed" and "renamed" in repr(cluster)
        cluster.name = "contract"
        rows["asynchronous"] = cluster.asynchronous is False and cluster.loop is not None
        rows["scheduler_address"] = isinstance(cluster.scheduler_address, str) and cluster.scheduler_address.startswith("tls://")
        link = cluster.dashboard_link
        rows["dashboard_link"] = link.startswith("http://127.0.0.1:") and link.endswith("/status") and link in cluster._repr_html_()
        cluster.wait_for_workers(2, timeout=60)
        workers = cluster.scheduler_info["workers"]
        rows["scheduler_info"] = len(workers) == 2 and all(
            isinstance(worker["memory_limit"], int) and {"name", "nthreads", "status", "host"} <= set(worker)
            for worker in workers.values())
        rows["wait_for_workers"] = raises(TimeoutError, lambda: cluster.wait_for_workers(9, timeout=0.2)) and raises(
            ValueError, lambda: cluster.wait_for_workers(0))
        client = cluster.get_client()
        rows["get_client"] = cluster.get_client() is client and client.cluster is cluster
        rows["client"] = client.scheduler_info()["address"] == cluster.scheduler_address
        rows["metadata"] = client.get_metadata("cluster-manager-info")["name"] == "contract"
        rows["repr"] = "contract" in repr(cluster) and "workers=2" in repr(cluster)
        rows["html"] = "contract" in cluster._repr_html_()
        names = set(cluster.observed)
        rows["plan"] = cluster.plan == cluster.requested == names and len(names) == 2
        client.run(print, "a line")
        keys = set(cluster.get_logs())
        rows["get_logs"] = {"Cluster", "Scheduler"} <= keys and set(workers) <= keys
        rows["get_logs of some"] = set(cluster.get_logs(cluster=False, scheduler=False, workers=[min(workers)])) == {min(workers)}
        client.restart()
        cluster.wait_for_workers(2, timeout=60)
        rows["work after restart"] = client.submit(sum, [1, 2]).result(timeout=30) == 3
        client.register_plugin(Environ({"FRUIT": "pear"}))
        cluster.wait_for_workers(2, timeout=60)
        rows["Environ"] = set(client.run(variable, "FRUIT").values()) == {"pear"}
        with tempfile.TemporaryDirectory() as folder:
            module = pathlib.Path(folder, "uploaded_module.py")
            module.write_text("def answer():\n    return 42\n")
            client.upload_file(str(module))
        rows["upload_file"] = client.submit(same, "uploaded_module").result(timeout=30) == 42
        rows["run on nannies"] = len(client.run(os.getpid, nanny=True)) == 2
        rows["scale"] = cluster.scale(1) is None
        until = time.monotonic() + 60
        while len(cluster.observed) != 1 and time.monotonic() < until:
            time.sleep(0.1)
        rows["scaled"] = len(cluster.observed) == 1
        handle = cluster.adapt(minimum=1, maximum=2)
        cluster.scale(1)
        rows["adapt"] = (handle.minimum, handle.maximum, handle.state) == (1, 2, "stopped")
        from towline._discovery import discover
        async def found():
            return [(name, kind) async for name, kind in discover()]
        rows["discovery"] = ("contract", towline.Cluster) in asyncio.run(found())
        with Client(towline.Cluster.from_name("contract", progress=False)) as second:
            rows["from_name"] = second.submit(sum, [3, 4]).result(timeout=30) == 7
            rows["from_name again"] = second.cluster == cluster
            second.cluster.close()
        rows["not ended by it"] = client.submit(sum, [5, 6]).result(timeout=30) == 11
    rows["closed"] = cluster.status == Status.closed and cluster.close() is None and cluster.close() is None
    rows["dashboard_link of a closed one"] = cluster.dashboard_link == ""
    rows["a closed one"] = raises(RuntimeError, lambda: Client(cluster, timeout=2))
    return rows

async def asynchronous():
    rows = {}
    cluster = towline.Cluster(n_workers=1, worker_threads=1, asynchronous=True, progress=False)
    rows["before its start"] = cluster.scheduler_address == "<Not Connected>" and cluster.scheduler_info["workers"] == {}
    rows["with is refused"] = raises(TypeError, cluster.__enter__)
    async with cluster:
        rows["running"] = cluster.status == Status.running and cluster.asynchronous
        async with cluster.get_client() as client:
            await cluster.wait_for_workers(1)
            rows["work"] = await client.submit(sum, [1, 2]) == 3
            scaling = cluster.scale(2)
            rows["scale"] = asyncio.isfuture(scaling) or asyncio.iscoroutine(scaling)
            await scaling
            await cluster.wait_for_workers(2)
            rows["logs"] = "Scheduler" in await cluster.get_logs()
            handle = cluster.adapt(minimum=1, maximum=2)
            await asyncio.sleep(0.5)
            rows["adapt"] = cluster.details["adaptive"]["maximum"] == 2 and handle.is_running()
            stopping = handle.stop()
            await stopping
            rows["stop"] = handle.state == "stopped"
    rows["closed"] = cluster.status == Status.closed
    await cluster.close()
    return rows

if __name__ == "__main__":
    print(json.dumps({"sync": sync(), "asynchronous": asyncio.run(asynchronous())}), flush=True)
"#;

#[tokio::test]
async fn the_object_keeps_every_row_of_dasks_contract() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(CONTRACT, LONG).await?;
    for (kind, rows) in said.as_object().into_iter().flatten() {
        for (row, kept) in rows.as_object().into_iter().flatten() {
            ensure!(kept == true, "{kind}: {row}: {said:#}");
        }
    }
    ensure!(said["sync"].as_object().is_some_and(|rows| rows.len() >= 31), "rows are missing: {said:#}");
    ensure!(said["asynchronous"].as_object().is_some_and(|rows| rows.len() == 9), "rows are missing: {said:#}");
    Ok(())
}
