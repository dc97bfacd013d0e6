//! What people ask a control plane, as they type it: text for people, `--json` for programs, over one running cluster.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use towline_tests::World;
use towline_tests::world::run;

const LIMIT: Duration = Duration::from_secs(90);

/// A cluster that lives until this script is killed, or somebody else ends it.
const CLUSTER: &str = r#"
import sys
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="seen", wait_for_workers=True, progress=False)
    print(cluster.cluster_id, flush=True)
    sys.stdin.readline()
"#;

async fn cluster(world: &World) -> Result<(Child, String)> {
    held(world, CLUSTER).await
}

/// A script that prints the id of its cluster, and then waits for the end of its standard input.
pub async fn held(world: &World, script: &str) -> Result<(Child, String)> {
    let file = world.scratch("scripts")?.join("cluster.py");
    std::fs::write(&file, script)?;
    let mut command = world.python(&[&file.display().to_string()]);
    command.stdin(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let id = tokio::time::timeout(LIMIT, lines.next_line()).await.context("no cluster")??;
    Ok((child, id.context("the script ended")?))
}

/// What a command that must succeed prints for people.
async fn text(world: &World, arguments: &[&str]) -> Result<String> {
    let done = run(world.towline(arguments), LIMIT).await?;
    ensure!(done.code == Some(0), "{arguments:?}: {done:?}");
    ensure!(!done.stdout.contains('\u{1b}'), "{arguments:?} colours a pipe: {}", done.stdout);
    Ok(done.stdout)
}

/// The same for programs: one value on one line.
async fn json(world: &World, arguments: &[&str]) -> Result<Value> {
    let said = text(world, &[arguments, &["--json"]].concat()).await?;
    ensure!(said.trim().lines().count() == 1, "{arguments:?}: more than one value: {said}");
    serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))
}

fn has(said: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    Ok(())
}

/// One world for all of them: what costs time is the cluster.
#[tokio::test]
async fn commands_show_and_end_a_running_cluster() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    has(&text(&world, &["cluster", "list"]).await?, &["No clusters", "towline.Cluster("])?;
    has(&text(&world, &["host", "list"]).await?, &["No hosts"])?;
    has(&text(&world, &["env", "list"]).await?, &["No environments"])?;
    ensure!(json(&world, &["cluster", "list"]).await? == serde_json::json!([]));

    let (_held, id) = cluster(&world).await?;
    // Dask sees a worker before its host has said so.
    let up =
        |view: &Value| view["hosts"].as_array().is_some_and(|hosts| hosts.iter().all(|host| host["state"] == "up"));
    world.api().cluster_until(&id, LIMIT, up).await?;
    clusters(&world, &id).await?;
    hosts(&world, &id).await?;
    life(&world, &id).await?;
    environments(&world).await?;
    tools(&world).await?;
    unknown(&world).await?;
    events(&world, &id).await?;
    let follower = world.towline(&["cluster", "events", "seen", "--follow", "--json"]).spawn()?;
    end(&world, &id).await?;
    ending(&world, &id, follower).await
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["detail"]["kind"].as_str()).collect()
}

/// The start as it is told: every phase of both hosts, in order.
async fn events(world: &World, id: &str) -> Result<()> {
    let told = json(world, &["cluster", "events", "seen"]).await?;
    let events = told["events"].as_array().context("events")?;
    ensure!(told["cluster"] == id && told["dropped"] == 0, "{told:#}");
    let told = kinds(events);
    ensure!(told.first() == Some(&"cluster_requested") && told.contains(&"cluster_running"), "{told:?}");
    ensure!(told.contains(&"client_admitted"), "{told:?}");
    for host in json(world, &["host", "list"]).await?.as_array().context("hosts")? {
        let of_it = events.iter().filter(|event| event["host"] == host["id"]);
        let phases: Vec<_> = of_it.filter_map(|event| event["detail"]["phase"].as_str()).collect();
        ensure!(phases == ["created", "booted", "enrolled", "synced", "launched", "joined"], "{phases:?}");
    }
    let said = text(world, &["cluster", "events", "seen"]).await?;
    ensure!(said.lines().count() >= events.len(), "{said}");
    has(&said, &["asked for a cluster of 1 worker on local", "joined the cluster", "Z  ", " +", "was admitted"])?;
    let nobody = run(world.towline(&["cluster", "events", "nobody", "--follow"]), LIMIT).await?;
    ensure!(nobody.code == Some(77), "{nobody:?}");
    Ok(())
}

/// Who asked for the end, and each step of it; a follower reads them as they come and ends with the cluster.
async fn ending(world: &World, id: &str, follower: Child) -> Result<()> {
    let done = tokio::time::timeout(LIMIT, follower.wait_with_output()).await.context("the follower goes on")??;
    let followed = String::from_utf8_lossy(&done.stdout);
    let followed: Vec<Value> = followed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let told = json(world, &["cluster", "events", id]).await?;
    let events = told["events"].as_array().context("events")?;
    ensure!(done.status.success() && followed == *events, "followed {:?}\ntold {:?}", kinds(&followed), kinds(events));
    let asked = events.iter().find(|event| event["detail"]["kind"] == "cluster_ending").context("no ending")?;
    ensure!(asked["detail"]["by"] == "me", "{asked:#}");
    let told = kinds(events);
    ensure!(told.last() == Some(&"cluster_ended"), "{told:?}");
    ensure!(told.iter().filter(|kind| **kind == "host_signed_off").count() == 2, "{told:?}");
    ensure!(told.iter().filter(|kind| **kind == "host_ended").count() == 2, "{told:?}");
    has(&text(world, &["cluster", "events", id]).await?, &["me asked for the cluster's end", "(assigned)", "is gone"])
}

async fn clusters(world: &World, id: &str) -> Result<()> {
    has(&text(world, &["cluster", "list"]).await?, &["name", "workers", "seen", id, "running", "1/1", "local"])?;
    let list = json(world, &["cluster", "list"]).await?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 1) && list[0]["id"] == id, "{list:#}");
    for named in ["seen", id] {
        let said = text(world, &["cluster", "show", named]).await?;
        has(&said, &["seen", id, "running", "1 of 1", "logs", "scheduler", "worker", "last heard"])?;
    }
    let view = json(world, &["cluster", "show", "seen"]).await?;
    ensure!(view["id"] == id && view["hosts"].as_array().is_some_and(|hosts| hosts.len() == 2), "{view:#}");
    Ok(())
}

async fn hosts(world: &World, id: &str) -> Result<()> {
    let all = json(world, &["host", "list"]).await?;
    let all = all.as_array().context("a list")?;
    ensure!(all.len() == 2, "{all:#?}");
    for named in ["seen", id] {
        let of_it = json(world, &["host", "list", "--cluster", named]).await?;
        ensure!(of_it.as_array().is_some_and(|hosts| hosts.len() == 2), "{of_it:#}");
    }
    let said = text(world, &["host", "list"]).await?;
    has(&said, &["host", "role", "scheduler", "worker", "up", " ago"])?;
    for host in all {
        let name = host["id"].as_str().context("id")?;
        has(&said, &[name])?;
        let role = host["role"].as_str().context("role")?;
        has(&text(world, &["host", "show", name]).await?, &[name, id, role, "phase", "enrolled", "joined", " s"])?;
        let view = json(world, &["host", "show", name]).await?;
        ensure!(view["id"] == name && view["cluster"] == id && view["state"] == "up", "{view:#}");
    }
    Ok(())
}

/// Why it is alive, what would end it, and what its hosts measure.
async fn life(world: &World, id: &str) -> Result<()> {
    // Rates need two samples, and a report that carries them.
    let begun = std::time::Instant::now();
    let view = loop {
        let view = json(world, &["cluster", "show", id]).await?;
        let measured = |host: &Value| host["vitals"]["workload"]["cpu_milli"].is_u64() && host["verdict"].is_object();
        if view["hosts"].as_array().is_some_and(|hosts| hosts.iter().all(measured)) {
            break view;
        }
        ensure!(begun.elapsed() < LIMIT, "no vitals come: {view:#}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    for host in view["hosts"].as_array().context("hosts")? {
        let vitals = &host["vitals"];
        for number in ["cpu_milli", "cores", "memory_used", "memory_total", "disk_free", "disk_total", "loopback_rate"]
        {
            ensure!(vitals[number].is_u64(), "{number}: {vitals:#}");
        }
        ensure!(vitals["network"]["receive_rate"].is_u64(), "{vitals:#}");
        let workload = &vitals["workload"];
        ensure!(workload["source"] == "processes", "on this machine all are in one cgroup: {workload:#}");
        ensure!(workload["memory"].as_u64().is_some_and(|bytes| bytes > 10 << 20), "Dask is larger: {workload:#}");
        ensure!(workload["cpu_used_ms"].as_u64().is_some_and(|millis| millis > 100), "{workload:#}");
        // A nanny and its worker, or a scheduler.
        let least = if host["role"] == "worker" { 2 } else { 1 };
        ensure!(workload["processes"].as_u64().is_some_and(|count| count >= least), "{workload:#}");
    }
    let said = text(world, &["cluster", "show", id]).await?;
    has(
        &said,
        &["why", "If nothing changes it ends in", "dleness ends it", "max_lifetime 1 d", "Without a control plane"],
    )?;
    has(&said, &["vitals", "memory", "network i/o", " cores, ", "processes: "])?;
    let why = &view["why"];
    ensure!(why["deadlines"].as_array().is_some_and(|rules| !rules.is_empty()), "{why:#}");
    let worker = view["hosts"].as_array().and_then(|hosts| hosts.iter().find(|host| host["role"] == "worker"));
    let worker = worker.and_then(|host| host["id"].as_str()).context("a worker")?;
    has(&text(world, &["host", "show", worker]).await?, &["why", "never ends for idleness by itself", "vitals"])?;
    ensure!(json(world, &["host", "show", worker]).await?["why"]["sentences"].is_array());
    Ok(())
}

async fn environments(world: &World) -> Result<()> {
    let list = json(world, &["env", "list"]).await?;
    let digest = list[0]["digest"].as_str().context("an environment")?;
    has(&text(world, &["env", "list"]).await?, &["digest", &digest[..16], "cpython-", "complete"])?;
    for named in [digest, &digest[..8]] {
        has(&text(world, &["env", "show", named]).await?, &[digest, "package", "distributed", "2026.8.0"])?;
    }
    let view = json(world, &["env", "show", digest]).await?;
    ensure!(view["digest"] == digest && view["complete"] == true, "{view:#}");
    let nothing = run(world.towline(&["env", "show", ""]), LIMIT).await?;
    ensure!(nothing.code == Some(77) && nothing.stderr.contains("env list"), "{nothing:?}");

    let python = world.binaries.python.display().to_string();
    has(&text(world, &["env", "scan", "--python", &python]).await?, &["cpython-", "packages (", "would be uploaded"])?;
    let scan = json(world, &["env", "scan", "--dry-run", "--python", &python]).await?;
    let names: Vec<_> =
        scan["distributions"].as_array().context("distributions")?.iter().map(|one| &one["name"]).collect();
    ensure!(names.iter().any(|name| *name == "distributed"), "{names:?}");
    ensure!(scan["ships"]["bytes"].is_u64() && scan["ships"]["files"].is_array(), "{}", scan["ships"]);
    Ok(())
}

async fn tools(world: &World) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    ensure!(text(world, &["version"]).await?.trim() == format!("towline {version}"));
    ensure!(json(world, &["version"]).await? == serde_json::json!({ "version": version, "debug": true }));
    has(&text(world, &["doctor"]).await?, &["check", "index", "clock", "disk", "server", "This machine"])?;
    let report = json(world, &["doctor"]).await?;
    let checks = report["checks"].as_array().context("checks")?;
    let of_agent = ["launcher process", "log spools", "sensors", "platform", "notices", "power off"];
    for wanted in ["version", "index", "uv", "interpreters", "disk", "server"].iter().chain(&of_agent) {
        let found = checks
            .iter()
            .find(|check| check["check"] == *wanted)
            .with_context(|| format!("no {wanted}: {report:#}"))?;
        ensure!(found["grade"] != "fail" && found["detail"].as_str().is_some_and(|text| !text.is_empty()), "{found:#}");
    }
    Ok(())
}

async fn unknown(world: &World) -> Result<()> {
    for arguments in [
        &["cluster", "show", "nobody"][..],
        &["cluster", "stop", "nobody"],
        &["host", "list", "--cluster", "nobody"],
        &["host", "show", "ho-aaaaaaaaaaaaaaaa"],
    ] {
        let done = run(world.towline(arguments), LIMIT).await?;
        ensure!(done.code == Some(77) && done.stdout.is_empty(), "{arguments:?}: {done:?}");
        has(&done.stderr, &["towline: ", "→", " list"])?;
        let done = run(world.towline(&[arguments, &["--json"]].concat()), LIMIT).await?;
        let said: Value = serde_json::from_str(&done.stdout).with_context(|| format!("{arguments:?}: {done:?}"))?;
        ensure!(done.code == Some(77) && said["event"] == "error" && said["exit"] == 77, "{arguments:?}: {said:#}");
    }
    Ok(())
}

async fn end(world: &World, id: &str) -> Result<()> {
    has(&text(world, &["cluster", "stop", "seen"]).await?, &["seen has ended; 2 of 2 hosts signed off"])?;
    has(&text(world, &["cluster", "list"]).await?, &["No clusters"])?;
    has(&text(world, &["cluster", "list", "--all"]).await?, &["seen", id, "stopped"])?;
    // Asking again changes nothing and says so.
    let again = json(world, &["cluster", "stop", id]).await?;
    ensure!(again["id"] == id && again["state"] == "stopped", "{again:#}");
    let said = text(world, &["cluster", "show", id]).await?;
    has(&said, &["It ended", "stopped it.", "2 of 2 hosts signed off.", "[assigned]", "SHA-256"])?;
    let ended = json(world, &["host", "list", "--cluster", id]).await?;
    for host in ended.as_array().context("hosts")? {
        let name = host["id"].as_str().context("id")?;
        has(&text(world, &["host", "show", name]).await?, &["ended", "signed off", "assigned", "why", "SHA-256"])?;
    }
    Ok(())
}
