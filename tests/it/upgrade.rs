//! A server whose file was removed or replaced, as by an upgrade, goes on whole until it is started anew.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::time::{Duration, Instant};
use towline_tests::{World, processes};

const LONG: Duration = Duration::from_secs(90);

fn blob_store(world: &World) -> Option<u32> {
    processes::below(&world.data).iter().find(|process| process.command.contains(" server blobs ")).map(|one| one.pid)
}

#[tokio::test]
async fn a_server_whose_file_is_gone_restarts_its_blob_store_and_starts_hosts() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let folder = tempfile::Builder::new().prefix("tw-installed-").tempdir()?;
    let installed = folder.path().join("towline");
    let mut world =
        builder.installed_at(&installed)?.expect(&["the blob store ended; starting it again"]).start().await?;
    fs::remove_file(&installed)?;

    let first = blob_store(&world).context("a blob store runs")?;
    processes::kill(first);
    let begun = Instant::now();
    while blob_store(&world).is_none_or(|pid| pid == first) {
        ensure!(begun.elapsed() < LONG, "no blob store comes back: {}", world.server_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // A cluster needs the blob store for its packages, and an agent and a runner for each host.
    world.use_built_binary()?;
    let script = r#"
import towline
if __name__ == "__main__":
    with towline.Cluster(n_workers=1, wait_for_workers=True, progress=False) as cluster, cluster.get_client() as client:
        print(client.submit(lambda: 6 * 7).result(timeout=30))
"#;
    let done = world.script(script, LONG).await?;
    ensure!(done.code == Some(0) && done.stdout.trim() == "42", "{done:?}\n{}", world.server_log());
    Ok(())
}
