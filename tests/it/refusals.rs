//! One clear sentence each, before any host starts where that is possible.

use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;
use towline_tests::World;
use towline_tests::world::{DASK, run};

const LONG: Duration = Duration::from_secs(120);

fn one_sentence(said: &str, words: &[&str]) -> Result<()> {
    let last = said.trim().lines().last().unwrap_or_default();
    for word in words {
        ensure!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(!last.is_empty() && last.len() < 600, "not one sentence: {last:?}");
    Ok(())
}

fn hosts(world: &World) -> usize {
    fs::read_dir(world.data.join("hosts")).map_or(0, |entries| entries.count())
}

#[tokio::test]
async fn a_reused_cluster_name_is_refused_and_named() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let script = r#"
import towline
if __name__ == "__main__":
    with towline.Cluster(n_workers=0, name="taken", progress=False):
        try:
            towline.Cluster(n_workers=0, name="taken", progress=False)
        except towline.ClusterError as error:
            print(error.code, error)
"#;
    let done = world.script(script, LONG).await?;
    ensure!(done.code == Some(0), "{}\n{}", done.stdout, done.stderr);
    one_sentence(&done.stdout, &["cluster_name_taken", "taken"])
}

#[tokio::test]
async fn an_environment_without_distributed_is_refused_before_any_host() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let python = world.environment("bare", &["rich==15.0.0"], &[]).await?;
    let done = world.script_with(&python, "import towline\ntowline.Cluster(n_workers=1)\n", &[], LONG).await?;
    ensure!(done.code != Some(0));
    one_sentence(&done.stderr, &["distributed"])?;
    ensure!(hosts(&world) == 0, "a host was made");
    Ok(())
}

#[tokio::test]
async fn a_script_without_a_main_guard_hears_of_it_once_and_ends() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let script = r#"
import multiprocessing
import towline

def child():
    pass

cluster = towline.Cluster(n_workers=0, progress=False) if multiprocessing.parent_process() else None
process = multiprocessing.get_context("spawn").Process(target=child)
process.start()
process.join()
print("child ended with", process.exitcode)
"#;
    let done = world.script(script, LONG).await?;
    let said = format!("{}{}", done.stdout, done.stderr);
    ensure!(said.contains("__main__"), "{said}");
    ensure!(hosts(&world) == 0, "a host was made");
    Ok(())
}

#[tokio::test]
async fn a_missing_interpreter_is_named_with_those_that_are_there() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let script = r#"
import towline, towline._scan as scan
if __name__ == "__main__":
    real = scan.scan
    def other(*args, **kwargs):
        found = real(*args, **kwargs)
        found["interpreter"]["version"] = "3.11.99"
        return found
    scan.scan = other
    try:
        towline.Cluster(n_workers=0, progress=False)
    except towline.ClusterError as error:
        print(error.code, error)
"#;
    let done = world.script(script, LONG).await?;
    ensure!(done.code == Some(0), "{}\n{}", done.stdout, done.stderr);
    one_sentence(&done.stdout, &["interpreter_missing", "3.11.99"])
}

#[tokio::test]
async fn a_port_in_use_and_a_running_server_are_each_one_sentence() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let mut second = world.towline(&["server", "run", "--data-dir"]);
    second.arg(&world.data).args(["--people", "127.0.0.1:0", "--agents", "127.0.0.1:0", "--blobs", "127.0.0.1:0"]);
    let done = run(second, LONG).await?;
    ensure!(done.code != Some(0) && done.code.is_some());
    one_sentence(&done.stderr, &["Another server", "--data-dir"])?;

    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let other = world.scratch("other")?;
    let mut init = world.towline(&["server", "init", "--data-dir"]);
    init.arg(&other);
    ensure!(run(init, LONG).await?.code == Some(0));
    let mut start = world.towline(&["server", "run", "--data-dir"]);
    start.arg(&other).args(["--people", &address, "--agents", "127.0.0.1:0", "--blobs", "127.0.0.1:0"]);
    let done = run(start, LONG).await?;
    ensure!(done.code != Some(0) && done.code.is_some());
    one_sentence(&done.stderr, &[&address])
}

#[tokio::test]
async fn an_index_that_is_down_is_named_within_the_deadline() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let python = world.environment("indexless", &DASK, &[]).await?;
    // Nothing listens on port 9 of this machine's own loopback.
    let script = r#"
import os
os.environ["UV_DEFAULT_INDEX"] = "http://127.0.0.1:9/simple"
os.environ["XDG_CACHE_HOME"] = os.environ["HOME"] + "/fresh-cache"
os.environ["UV_CACHE_DIR"] = os.environ["HOME"] + "/fresh-uv-cache"
import towline
if __name__ == "__main__":
    try:
        towline.Cluster(n_workers=0, progress=False)
    except towline.ClusterError as error:
        print(error.code, error)
"#;
    let done = world.script_with(&python, script, &[], LONG).await?;
    ensure!(done.code == Some(0), "{}\n{}", done.stdout, done.stderr);
    one_sentence(&done.stdout, &["index_unreachable", "package index", "asked for"])?;
    ensure!(hosts(&world) == 0, "a host was made");
    Ok(())
}
