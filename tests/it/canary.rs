//! Metadata yes, data never: a unique string in every place where data can be reaches no byte of the control plane.

use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;
use towline_tests::World;
use towline_tests::world::DASK;

const SCRIPT: &str = r#"
import os, sys
import towline

if __name__ == "__main__":
    canary = sys.argv[1]
    os.environ["CANARY_VALUE"] = canary

    def work(value):
        import logging, os, pathlib
        assert os.environ["CANARY_OF_WORKERS"] == value
        import canary_package
        print("a line with", value)
        logging.getLogger("distributed.worker").warning("a warning with %s", value)
        os.environ["CANARY_ON_WORKER"] = value
        return value + pathlib.Path(canary_package.__file__).with_name("data.txt").read_text()

    def fail(value):
        raise ValueError(f"a traceback with {value}")

    environ = {"CANARY_OF_WORKERS": canary}
    with towline.Cluster(n_workers=1, name="canary", environ=environ, progress=False) as cluster:
        client = cluster.get_client()
        result = client.submit(work, canary, key=f"key-{canary}").result(timeout=60)
        assert result.count(canary) == 2, result
        failed = client.submit(fail, canary, key=f"failing-{canary}")
        assert canary in str(failed.exception(timeout=60))
        client.set_metadata([canary], canary)
    print("done")
"#;

fn project(folder: &Path, canary: &str) -> Result<()> {
    let package = folder.join("src/canary_package");
    fs::create_dir_all(&package)?;
    fs::write(package.join("__init__.py"), format!("SECRET = {canary:?}\n"))?;
    fs::write(package.join("data.txt"), canary)?;
    fs::write(
        folder.join("pyproject.toml"),
        "[project]\nname = \"canary-package\"\nversion = \"1.0\"\n[build-system]\nrequires = [\"hatchling\"]\nbuild-backend = \"hatchling.build\"\n",
    )?;
    Ok(())
}

/// Every file below `folder` that holds `needle`.
fn files_with(folder: &Path, needle: &[u8], found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_with(&path, needle, found)?;
        } else if fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle)) {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_canary_in_every_place_of_data_never_reaches_the_control_plane() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.tap().start().await?;
    let canary = format!("canary{}", towline_transport::keys::random_hex(12));
    let sources = world.scratch("project")?;
    project(&sources, &canary)?;
    let python = world.environment("canary", &DASK, &[&sources]).await?;
    // An index with a password: it is asked for nothing that is not in the environment's lock already.
    let index = format!("https://user:{canary}@pypi.org/simple");
    let script = format!(
        "import os\nos.environ['UV_INDEX_TOWLINE_PASSWORD'] = {canary:?}\nos.environ['UV_EXTRA_INDEX_URL'] = {index:?}\n{SCRIPT}"
    );
    let done = world.script_with(&python, &script, &[&canary], Duration::from_secs(120)).await?;
    ensure!(done.code == Some(0), "{}\n{}", done.stdout, done.stderr);
    world.stop_server().await?;

    let tapped = fs::read(world.tapped())?;
    let holds = |needle: &str| tapped.windows(needle.len()).any(|window| window == needle.as_bytes());
    ensure!(
        holds("canary-package") || holds("canary_package"),
        "the tap must hold the package's name, which is metadata"
    );
    ensure!(tapped.len() > 10_000, "the tap holds only {} bytes", tapped.len());
    ensure!(!holds(&canary), "the canary reached the control plane's listeners");
    ensure!(!world.server_log().contains(&canary), "the control plane logged the canary");
    let mut found = Vec::new();
    files_with(&world.data.join("server"), canary.as_bytes(), &mut found)?;
    for host in fs::read_dir(world.data.join("hosts"))?.flatten() {
        for told in ["user-data.json", "agent.toml", "agent.log"] {
            let path = host.path().join(told);
            if fs::read_to_string(&path).is_ok_and(|text| text.contains(&canary)) {
                found.push(path.display().to_string());
            }
        }
    }
    ensure!(found.is_empty(), "the control plane stored the canary: {found:?}");
    // The same search finds it where it belongs, so the search works.
    files_with(&world.data.join("logs"), canary.as_bytes(), &mut found)?;
    ensure!(!found.is_empty(), "the log line must lie in the owner's own log files");
    Ok(())
}
