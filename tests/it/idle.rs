//! Clusters that end because nobody needs them, and those that must not.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use towline_tests::{Running, World, processes};

const LONG: Duration = Duration::from_secs(120);

/// Needs nothing any more, in every way that could be taken for idleness, for much longer than it may be idle.
const NEVER_IDLE: &str = r#"
import json, time
import towline

def sleeps(seconds):
    time.sleep(seconds)
    return "slept"

def holds_the_lock(seconds):
    import ctypes
    begun, left = time.monotonic(), seconds
    # Called like a part of Python itself: no other thread of the worker runs meanwhile, and it answers nobody.
    while left:
        left = ctypes.PyDLL(None).sleep(left)
    held = time.monotonic() - begun
    return "held" if held > seconds - 1 else f"held for {held} s only"

def leaves_a_thread(seconds):
    import threading
    def spin():
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
    threading.Thread(target=spin, daemon=True).start()
    return "left"

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, worker_threads=1, name="needed", idle_timeout=4, progress=False) as cluster:
        client = cluster.get_client()
        done = [client.submit(work, 12, pure=False).result(timeout=60) for work in (sleeps, holds_the_lock)]
        until = time.monotonic() + 12
        graph = []
        while time.monotonic() < until:
            graph.append(len(graph))
        done.append(client.submit(lambda n: "built", len(graph), pure=False).result(timeout=60))
        done.append(client.submit(leaves_a_thread, 12, pure=False).result(timeout=60))
        time.sleep(11)
        assert cluster.details["state"] == "running", cluster.details["state"]
        begun = time.monotonic()
        kept = client.submit(int, 3, pure=False)
        kept.result(timeout=30)
        while cluster.details["state"] == "running" and time.monotonic() < begun + 60:
            time.sleep(0.1)
        ended = time.monotonic() - begun
        try:
            client.submit(int, 4, pure=False).result(timeout=5)
            after = "computed"
        except towline.ClusterEnded as error:
            after = error.code
        print(json.dumps({"done": done, "after": after, "ended": ended, "id": cluster.cluster_id}), flush=True)
"#;

#[tokio::test]
async fn nothing_busy_is_ended_and_what_is_idle_ends_with_its_reason() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(NEVER_IDLE, LONG).await?;
    ensure!(said["done"] == serde_json::json!(["slept", "held", "built", "left"]), "{said}");
    ensure!(said["after"] == "idle", "a task for a cluster that has ended: {said}");
    ensure!(said["ended"].as_f64().is_some_and(|seconds| (4.0..40.0).contains(&seconds)), "{said}");
    let id = said["id"].as_str().context("id")?;
    let view = world.api().cluster_until(id, LONG, |view| view["state"] == "stopped").await?;
    ensure!(view["reason"]["code"] == "idle", "{view:#}");
    for host in view["hosts"].as_array().context("hosts")? {
        let expected = if host["role"] == "scheduler" { "idle" } else { "assigned" };
        ensure!(host["sign_off"]["reason"] == expected, "workers go first, told by the control plane: {host:#}");
        ensure!(host["sign_off"]["processes_killed"] == 0, "{host:#}");
    }
    let shown = towline_tests::world::run(world.towline(&["cluster", "show", id]), LONG).await?;
    for words in ["idle for as long as its owner allowed", "decided so by its rule", "signed off", "[idle]: 1 process"]
    {
        ensure!(shown.stdout.contains(words), "{words:?} is missing in {}", shown.stdout);
    }
    Ok(())
}

/// A person's request that holds the scheduler's event loop for longer than its last word counts, just before it would
/// have been idle for long enough.
const STUCK: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, name="stuck", idle_timeout=6, progress=False) as cluster:
        client = cluster.get_client()
        client.submit(int, 3, pure=False).result(timeout=30)
        time.sleep(5)
        client.run_on_scheduler(time.sleep, 19)
        alive = client.submit(int, 4, pure=False).result(timeout=30)
        print(json.dumps({"alive": alive, "state": cluster.details["state"]}), flush=True)
"#;

#[tokio::test]
async fn a_scheduler_that_is_stuck_in_a_request_is_not_closed_without_its_word() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(STUCK, LONG).await?;
    ensure!(said["alive"] == 4 && said["state"] == "running", "{said}");
    Ok(())
}

const STEADY: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="steady", idle_timeout=40, progress=False)
    cluster.get_client().submit(int, 3, pure=False).result(timeout=30)
    print(json.dumps({"id": cluster.cluster_id}), flush=True)
    time.sleep(600)
"#;

/// What the agent of the scheduler's host keeps of idleness: when it was last judged, and since when nobody needs it.
fn kept(world: &World, host: &str) -> Result<(f64, Option<f64>)> {
    let text = std::fs::read_to_string(world.data.join("hosts").join(host).join("agent/idle.json"))?;
    let engine = &serde_json::from_str::<Value>(&text)?["engine"];
    let seconds = |time: &Value| Some(time["secs"].as_f64()? + time["nanos"].as_f64()? / 1e9);
    Ok((seconds(&engine["last"]).context("last")?, seconds(&engine["idle_since"])))
}

async fn kept_until(
    world: &World,
    host: &str,
    fits: impl Fn((f64, Option<f64>)) -> bool,
) -> Result<(f64, Option<f64>)> {
    let begun = Instant::now();
    loop {
        // The file is replaced at each sample.
        if let Some(found) = kept(world, host).ok().filter(|found| fits(*found)) {
            return Ok(found);
        }
        ensure!(begun.elapsed() < LONG, "{:?}", kept(world, host));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_restart_of_the_agent_does_not_make_a_cluster_young_again() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let mut program = Running::start(&world, "steady", STEADY)?;
    let id = program.next().await?["id"].as_str().context("id")?.to_owned();
    let view = world.api().get(&format!("/api/v1/clusters/{id}")).await?;
    let hosts = view["hosts"].as_array().context("hosts")?;
    let scheduler = hosts.iter().find(|host| host["role"] == "scheduler").context("a scheduler")?;
    let host = scheduler["id"].as_str().context("id")?;
    // Two samples later it is idle for a while.
    let (_, since) = kept_until(&world, host, |(last, since)| since.is_some_and(|since| last > since + 5.0)).await?;
    for process in processes::below(&world.data.join("hosts").join(host)) {
        if process.command.contains(" agent --host-dir") {
            processes::kill(process.pid);
        }
    }
    let (killed, _) = kept(&world, host)?;
    let after = kept_until(&world, host, |(last, _)| last > killed).await?;
    ensure!(after.1 == since, "idle since {since:?}, and after the restart since {:?}", after.1);
    world.api().stop(&id).await?;
    world.api().cluster_until(&id, LONG, |view| view["state"] == "stopped").await?;
    program.kill()?;
    Ok(())
}

const HELD: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="held", idle_timeout=4, no_client_timeout=4, max_lifetime=300,
                              shutdown_on_close=False, progress=False)
    try:
        cluster.hold("2 hours")
        refused = None
    except towline.ClusterError as error:
        refused = [error.code, error.remedy]
    cluster.hold(200, reason="a demo")
    cluster.release()
    cluster.hold(HOLD, reason="a demo")
    print(json.dumps({"id": cluster.cluster_id, "refused": refused}), flush=True)
    cluster.close()
"#;

/// Held for 16 s with an idle time and a client's absence of 4 s each.
#[tokio::test]
async fn a_cluster_that_a_person_holds_ends_when_the_hold_is_over_and_not_before() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(&HELD.replace("HOLD", "16"), LONG).await?;
    let begun = Instant::now();
    ensure!(said["refused"][0] == "hold_too_long", "{said}");
    ensure!(
        said["refused"][1].as_str().is_some_and(|remedy| remedy.contains("towline cluster hold held --for")),
        "{said}"
    );
    let id = said["id"].as_str().context("id")?;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let shown = towline_tests::world::run(world.towline(&["cluster", "show", id]), LONG).await?;
    for words in ["more: a demo", "holds it for", "a person holds it"] {
        ensure!(shown.stdout.contains(words), "{words:?} is missing in {}", shown.stdout);
    }
    let view = world.api().cluster_until(id, LONG, |view| view["state"] == "stopped").await?;
    ensure!(begun.elapsed() > Duration::from_secs(12), "before the hold was over: {:?}", begun.elapsed());
    ensure!(begun.elapsed() < Duration::from_secs(40), "long after: {:?}", begun.elapsed());
    ensure!(["idle", "no_client"].map(Value::from).contains(&view["reason"]["code"]), "{view:#}");
    let events = towline_tests::world::run(world.towline(&["cluster", "events", id]), LONG).await?;
    for words in ["holds the cluster for 16 s: a demo", "holds the cluster no more"] {
        ensure!(events.stdout.contains(words), "{words:?} is missing in {}", events.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn a_hold_needs_no_control_plane() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.settings("[rules]\nscheduler_lost = \"3s\"").expect(&ALONE).start().await?;
    let script = HELD.replace("HOLD", "20");
    world.script_json(&script, LONG).await?;
    // The assignment with the hold is on its way to the host.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.kill_server().await?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        ensure!(!processes::below(&world.data.join("hosts")).is_empty(), "a held host ended before its time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    processes::gone(&world.data.join("hosts"), Duration::from_secs(60))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))
}

const WARNED: &str = r#"
import json, logging, time
import towline

class Kept(logging.Handler):
    told = []
    def emit(self, record):
        if "nobody has used" in record.getMessage():
            self.told.append(record.getMessage())

if __name__ == "__main__":
    logging.getLogger("towline").addHandler(Kept())
    with towline.Cluster(n_workers=1, name="warned", idle_timeout=12, progress=False) as cluster:
        client, other = cluster.get_client(), towline.Cluster.from_name("warned", progress=False)
        client.submit(int, 3, pure=False).result(timeout=30)
        begun = time.monotonic()
        while cluster.details["state"] == "running" and time.monotonic() < begun + 60:
            time.sleep(0.1)
        print(json.dumps({"told": Kept.told, "id": cluster.cluster_id}), flush=True)
"#;

#[tokio::test]
async fn people_are_warned_twice_before_idleness_ends_their_cluster() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(WARNED, LONG).await?;
    let told = said["told"].as_array().context("told")?;
    ensure!(
        told.len() == 2 && told[0].as_str().is_some_and(|text| text.contains("`cluster.hold(...)` keeps it")),
        "{said}"
    );
    let id = said["id"].as_str().context("id")?;
    world.api().cluster_until(id, LONG, |view| view["state"] == "stopped").await?;
    let events = towline_tests::world::run(world.towline(&["cluster", "events", id]), LONG).await?.stdout;
    ensure!(events.matches("nobody uses the cluster: idleness ends it in").count() == 2, "{events}");
    let logs = towline_tests::world::run(world.towline(&["logs", id, "--scheduler"]), LONG).await?.stdout;
    ensure!(logs.matches("Nobody has used this cluster for a while. It ends in").count() == 2, "{logs}");
    Ok(())
}

const COMPUTES: &str = r#"
import json, os, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="computes", idle_timeout=10, progress=False)
    pid = cluster.get_client().submit(os.getpid, pure=False).result(timeout=30)
    print(json.dumps({"id": cluster.cluster_id, "pid": pid}), flush=True)
    time.sleep(600)
"#;

/// One machine is both hosts here, so both see the GPU; which processes are the workload's they see apart.
#[tokio::test]
async fn a_gpu_that_computes_for_a_worker_keeps_the_cluster_and_somebody_elses_job_does_not() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let nvml = towline_tests::Nvml::build("name=Fake util=0 procs=0")?;
    let world = builder.libraries(nvml.folder()).start().await?;
    let mut program = Running::start(&world, "computes", COMPUTES)?;
    let said = program.next().await?;
    let id = said["id"].as_str().context("id")?.to_owned();
    nvml.say(&format!("name=Fake util=80 procs=1 first={}", said["pid"]))?;
    tokio::time::sleep(Duration::from_secs(28)).await;
    let shown = towline_tests::world::run(world.towline(&["cluster", "show", &id]), LONG).await?.stdout;
    ensure!(shown.contains("It is busy: a GPU computes"), "{shown}");
    // The same GPU, as busy as before, for a process that is nobody's workload.
    nvml.say(&format!("name=Fake util=80 procs=1 first={}", std::process::id()))?;
    let view = world.api().cluster_until(&id, LONG, |view| view["state"] == "stopped").await?;
    ensure!(view["reason"]["code"] == "idle", "{view:#}");
    program.kill()
}

const FORGOTTEN: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="forgotten", no_client_timeout=4, progress=False)
    client = cluster.get_client()
    kept = client.submit(int, 3, pure=False)
    kept.result(timeout=30)
    print(json.dumps({"id": cluster.cluster_id}), flush=True)
    time.sleep(600)
"#;

#[tokio::test]
async fn a_cluster_whose_program_was_killed_ends_for_want_of_a_client() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let mut program = Running::start(&world, "forgotten", FORGOTTEN)?;
    let id = program.next().await?["id"].as_str().context("id")?.to_owned();
    // Somebody is there: a cluster object and a client that do nothing are no reason to end.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let view = world.api().get(&format!("/api/v1/clusters/{id}")).await?;
    ensure!(view["state"] == "running", "{view:#}");
    program.kill()?;
    let begun = Instant::now();
    let view = world.api().cluster_until(&id, LONG, |view| view["state"] == "stopped").await?;
    ensure!(view["reason"]["code"] == "no_client", "{view:#}");
    ensure!(begun.elapsed() > Duration::from_secs(4), "before its time: {:?}", begun.elapsed());
    processes::gone(&world.data.join("hosts"), Duration::from_secs(30))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))
}

/// `BUSY` is replaced: seconds that its task sleeps.
const ORPHAN: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    cluster = towline.Cluster(n_workers=1, name="orphan", idle_timeout=4, max_lifetime=LIFETIME, progress=False)
    client = cluster.get_client()
    client.submit(int, 3, pure=False).result(timeout=30)
    begun = time.time()
    future = client.submit(time.sleep, BUSY, pure=False)
    time.sleep(1)
    print(json.dumps({"id": cluster.cluster_id}), flush=True)
    try:
        future.result(timeout=60)
        what = "done"
    except Exception as error:
        what = type(error).__name__
    print(json.dumps({"what": what, "after": time.time() - begun}), flush=True)
    time.sleep(600)
"#;

/// What agents and runners say when a scheduler goes before its workers, as it must without a control plane.
const ALONE: [&str; 3] = ["a process ended by itself", "a Dask process failed", "Dask did not stop in order"];

#[tokio::test]
async fn without_a_control_plane_idle_hosts_end_by_themselves() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.settings("[rules]\nscheduler_lost = \"3s\"").expect(&ALONE).start().await?;
    let mut program = Running::start(&world, "orphan", &ORPHAN.replace("LIFETIME", "600").replace("BUSY", "5"))?;
    program.next().await?;
    world.kill_server().await?;
    let begun = Instant::now();
    ensure!(program.next().await?["what"] == "done", "its task goes on without a control plane");
    processes::gone(&world.data.join("hosts"), Duration::from_secs(60))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))?;
    ensure!(begun.elapsed() > Duration::from_secs(7), "ended while a task ran: {:?}", begun.elapsed());
    let reasons = sign_offs(&world)?;
    // The workers follow their scheduler, and are seldom idle first.
    ensure!(reasons.iter().any(|reason| reason == "idle"), "{reasons:?}");
    ensure!(
        reasons.len() == 2 && reasons.iter().all(|reason| ["idle", "scheduler_lost"].contains(&&**reason)),
        "{reasons:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_a_control_plane_busy_hosts_live_to_their_longest_life() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.settings("[rules]\nscheduler_lost = \"3s\"").expect(&ALONE).start().await?;
    let started = Instant::now();
    let mut program = Running::start(&world, "orphan", &ORPHAN.replace("LIFETIME", "30").replace("BUSY", "300"))?;
    program.next().await?;
    world.kill_server().await?;
    while started.elapsed() < Duration::from_secs(24) {
        ensure!(!processes::below(&world.data.join("hosts")).is_empty(), "a busy host ended before its time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    processes::gone(&world.data.join("hosts"), Duration::from_secs(60))
        .await
        .map_err(|left| anyhow::anyhow!("left: {left:?}"))?;
    let reasons = sign_offs(&world)?;
    ensure!(reasons.len() == 2 && reasons.iter().any(|reason| reason == "max_lifetime"), "{reasons:?}");
    ensure!(reasons.iter().all(|reason| ["max_lifetime", "scheduler_lost"].contains(&&**reason)), "{reasons:?}");
    Ok(())
}

/// Why each host ended, as it wrote down itself.
fn sign_offs(world: &World) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    for host in std::fs::read_dir(world.data.join("hosts"))? {
        let text = std::fs::read_to_string(host?.path().join("sign-off.json"))?;
        let evidence: Value = serde_json::from_str(&text)?;
        reasons.push(evidence["reason"].as_str().context("a reason")?.to_owned());
    }
    Ok(reasons)
}

const RACES: &str = r#"
import json, random, sys, time
import towline

def race(client, dice):
    """Submit about when idleness ends the cluster. What came of it, and how long the answer took."""
    time.sleep(dice.uniform(2.0, 4.5))
    begun = time.monotonic()
    try:
        client.submit(int, 1, pure=False).result(timeout=30)
        what = "done"
    except towline.ClusterEnded as error:
        what = error.code
    except Exception as error:
        what = repr(error)
    return what, time.monotonic() - begun

if __name__ == "__main__":
    dice, races = random.Random(7), []
    while len(races) < COUNT:
        with towline.Cluster(n_workers=1, worker_threads=1, idle_timeout=2, progress=False) as cluster:
            client = cluster.get_client()
            client.submit(int, 1, pure=False).result(timeout=30)
            while len(races) < COUNT and cluster.details["state"] == "running":
                races.append(race(client, dice))
            client.close()
    print(json.dumps({"races": races}), flush=True)
"#;

async fn races(count: u32) -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(&RACES.replace("COUNT", &count.to_string()), LONG * 6).await?;
    println!("{said}");
    for race in said["races"].as_array().context("races")? {
        ensure!(race[0] == "done" || race[0] == "idle", "neither completed nor ended: {race}");
        ensure!(race[1].as_f64().is_some_and(|seconds| seconds < 5.0), "later than promised: {race}");
    }
    // Of a few, all may come in time; of many some must have met the end, or nothing was raced with.
    let ended = said["races"].as_array().context("races")?.iter().filter(|race| race[0] == "idle").count();
    ensure!(count < 20 || (ended > 0 && ended < count as usize), "{ended} of {count} met the end");
    Ok(())
}

#[tokio::test]
async fn a_task_submitted_while_idleness_closes_the_cluster_completes_or_raises() -> Result<()> {
    races(6).await
}

#[tokio::test]
#[ignore = "slow tier: twenty real races take minutes"]
async fn twenty_tasks_that_race_with_the_close_complete_or_raise() -> Result<()> {
    races(20).await
}

const CUT_SHORT: &str = r#"
import json, time
import towline

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, name="short", max_lifetime=12, progress=False) as cluster:
        client = cluster.get_client()
        finished = client.submit(int, 3, pure=False)
        finished.result(timeout=30)
        future = client.submit(time.sleep, 300, pure=False)
        try:
            future.result(timeout=60)
            what, when = "done", 0
        except Exception as error:
            what, when = getattr(error, "code", repr(error)), time.time()
        late = time.time() - cluster.details["created_at_ms"] / 1000 - 12
        print(json.dumps({"what": what, "late": late}), flush=True)
"#;

#[tokio::test]
async fn the_future_of_a_cluster_at_its_longest_life_says_so_within_five_seconds() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let said = world.script_json(CUT_SHORT, LONG).await?;
    ensure!(said["what"] == "max_lifetime", "{said}");
    ensure!(said["late"].as_f64().is_some_and(|late| late < 5.0), "{said}");
    Ok(())
}
