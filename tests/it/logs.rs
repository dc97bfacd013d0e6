//! Log lines of a real cluster: live and after its end, by `towline logs` and by `get_logs`, and no gap although its
//! agents are killed.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use towline_tests::World;
use towline_tests::world::run;

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster that prints on its worker, reads that back while it lives and after its end, and waits in between for the
/// test to look too.
const SCRIPT: &str = r#"
import json, pathlib, sys, time
import towline

def speak(number):
    # In one write: `print` makes two, between which another thread of the worker may print.
    sys.stdout.write(f"spoken {number}\n")

def logs_with(cluster, text):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        logs = cluster.get_logs(cluster=False)
        if any(text in log for log in logs.values()):
            return logs
        time.sleep(0.1)
    raise SystemExit(f"never in get_logs: {text}")

if __name__ == "__main__":
    seen = pathlib.Path(sys.argv[1])
    with towline.Cluster(n_workers=1, name="speaking", progress=False) as cluster:
        client = cluster.get_client()
        client.gather(client.map(speak, range(50)))
        live = logs_with(cluster, "spoken 49")
        assert "Scheduler" in live, list(live)
        seen.with_name("live").touch()
        until = time.monotonic() + 60
        while not seen.exists() and time.monotonic() < until:
            time.sleep(0.05)
        client.submit(speak, "the last word", pure=False).result(timeout=30)
    dead = cluster.get_logs(cluster=False)
    worker = next(log for name, log in dead.items() if name != "Scheduler")
    numbers = sorted(int(line.split()[1]) for line in worker.splitlines() if line.startswith("spoken ") and "word" not in line)
    print(json.dumps({"numbers": numbers == list(range(50)), "last": "spoken the last word" in worker}))
"#;

#[tokio::test]
async fn lines_are_read_live_followed_to_the_end_and_read_after_death() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let seen = world.scratch("signs")?.join("seen");
    let script = world.scratch("scripts")?.join("speaking.py");
    std::fs::write(&script, SCRIPT)?;
    let cluster = world.python(&[&script.display().to_string(), &seen.display().to_string()]).spawn()?;
    wait_for(&seen.with_file_name("live")).await?;

    // Live: what is there, chosen by worker and text.
    let once = run(world.towline(&["logs", "speaking", "--filter", "spoken 4", "--json"]), LIMIT).await?;
    ensure!(once.code == Some(0), "{once:?}");
    let records: Vec<Value> = once.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(records.len() == 11, "4 and 40 to 49: {records:?}");
    ensure!(records.iter().all(|record| record["stream"].as_str().is_some_and(|name| name.starts_with("worker-ho-"))));
    let none = run(world.towline(&["logs", "speaking", "--scheduler", "--filter", "spoken"]), LIMIT).await?;
    ensure!((none.code, none.stdout.as_str()) == (Some(0), ""), "{none:?}");
    let unknown = run(world.towline(&["logs", "speaking", "--worker", "nobody"]), LIMIT).await?;
    ensure!(unknown.code == Some(1) && unknown.stderr.contains("the workers with lines are: ho-"), "{unknown:?}");

    // Interrupted: at once, with the code that says so.
    let mut interrupted = world.towline(&["logs", "speaking", "--follow"]);
    let mut interrupted = interrupted.stdout(Stdio::null()).spawn()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pid = interrupted.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let status = tokio::time::timeout(Duration::from_secs(5), interrupted.wait()).await.context("it goes on")??;
    ensure!(status.code() == Some(130), "{status}");

    // Followed: the last word comes, then the command ends by itself because the cluster has.
    let mut follow = world.towline(&["logs", "speaking", "--follow", "--tail", "0"]);
    let mut follow = follow.stderr(Stdio::inherit()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("piped")?).lines();
    tokio::time::sleep(Duration::from_millis(700)).await;
    std::fs::write(&seen, "")?;
    let mut followed = Vec::new();
    let status = tokio::time::timeout(LIMIT, async {
        while let Some(line) = lines.next_line().await? {
            followed.push(line);
        }
        follow.wait().await
    });
    let status = status.await.context("following does not end with the cluster")??;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(followed.iter().any(|line| line.ends_with(" | spoken the last word")), "{followed:?}");
    ensure!(!followed.iter().any(|line| line.contains("spoken 4")), "--tail 0 shows only what is new: {followed:?}");

    let done = tokio::time::timeout(LIMIT, cluster.wait_with_output()).await??;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{printed}{}", String::from_utf8_lossy(&done.stderr));
    ensure!(printed.trim() == r#"{"numbers": true, "last": true}"#, "after its end, by get_logs: {printed}");

    // After its end, by the command too.
    let dead = run(world.towline(&["logs", "speaking", "--since", "1h", "--filter", "spoken"]), LIMIT).await?;
    ensure!(dead.code == Some(0) && dead.stdout.lines().count() == 51, "{dead:?}");
    narrowed(&world).await
}

/// By worker, and on both sides of the moment of the last word.
async fn narrowed(world: &World) -> Result<()> {
    let json = async |text: &str, arguments: &[&str]| -> Result<Vec<Value>> {
        let command = world.towline(&[&["logs", "speaking", "--json", "--filter", text], arguments].concat());
        let done = run(command, LIMIT).await?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(done.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let last = json("spoken the last word", &[]).await?;
    let (time, stream) = (last[0]["time"].as_i64().context("time")?, last[0]["stream"].as_str().context("stream")?);
    let moment = jiff::Timestamp::from_millisecond(time)?.to_string();
    let counts = [
        json("spoken", &["--until", &moment]).await?.len(),
        json("spoken", &["--since", &moment]).await?.len(),
        json("spoken", &["--worker", stream.trim_start_matches("worker-")]).await?.len(),
        json("spoken", &["--since", &moment, "--until", &moment]).await?.len(),
    ];
    ensure!(counts == [50, 1, 51, 0], "until, since, by worker, neither: {counts:?}");
    Ok(())
}

async fn wait_for(sign: &std::path::Path) -> Result<()> {
    let waiting = async {
        while !sign.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), waiting).await.with_context(|| format!("never: {}", sign.display()))
}

#[tokio::test]
async fn what_cannot_be_read_is_one_sentence_with_a_remedy() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let unknown = run(world.towline(&["logs", "nothing-like-it"]), LIMIT).await?;
    ensure!(unknown.code.is_some_and(|code| code != 0), "{unknown:?}");
    ensure!(unknown.stderr.contains("nothing-like-it") && unknown.stderr.contains(" → "), "{unknown:?}");
    let moment = run(world.towline(&["logs", "x", "--since", "yesterday"]), LIMIT).await?;
    ensure!(moment.code == Some(64) && moment.stderr.contains("10m"), "{moment:?}");
    Ok(())
}
