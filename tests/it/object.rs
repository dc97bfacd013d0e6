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
