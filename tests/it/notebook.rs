//! A real Jupyter server beside a worker: who uses it needs the cluster.

use anyhow::{Context as _, Result, ensure};
use std::time::Duration;
use towline_tests::World;
use towline_tests::world::DASK;

const LONG: Duration = Duration::from_secs(180);

/// A task leaves a server behind, as one that a person works with; nothing else uses the cluster for four idle times.
const BESIDE: &str = r#"
import json, os, signal, subprocess, sys, time
import towline

def serve():
    command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", "--ip=127.0.0.1", "--port=0"]
    folder = os.path.join(os.getcwd(), "runtime")
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": folder}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, name="notebook", idle_timeout=8, progress=False) as cluster:
        client = cluster.get_client()
        server = client.submit(serve, pure=False).result(timeout=60)
        time.sleep(32)
        why = cluster.why() if cluster.details["state"] == "running" else cluster.details["state"]
        client.submit(os.kill, server, signal.SIGTERM, pure=False).result(timeout=30)
        print(json.dumps(why), flush=True)
"#;

#[tokio::test]
async fn a_jupyter_server_that_was_used_a_moment_ago_keeps_its_cluster() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let packages: Vec<_> = DASK.into_iter().chain(["jupyter-server==2.21.1"]).collect();
    let python = world.environment("with-jupyter", &packages, &[]).await?;
    let done = world.script_with(&python, BESIDE, &[], LONG).await?;
    ensure!(done.code == Some(0), "the script ended with {:?}:\n{}\n{}", done.code, done.stdout, done.stderr);
    let why = done.stdout.lines().last().context("nothing was said")?;
    ensure!(why.contains("somebody used a terminal or a notebook a short while ago"), "{why}");
    Ok(())
}
