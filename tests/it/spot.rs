//! A host that its platform takes away: its results move to others in time, and another host takes its place.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use towline_tests::world::run;
use towline_tests::{FakeCloud, World, processes};

const LONG: Duration = Duration::from_secs(120);

/// Two workers hold results; each task leaves a mark when it runs.
const HOLD: &str = r#"
import json, os, pathlib, sys, time
import towline

def make(n, marks):
    (pathlib.Path(marks) / f"{n}-{os.getpid()}-{time.time_ns()}").touch()
    return bytes([n]) * 100_000

if __name__ == "__main__":
    marks = sys.argv[1]
    with towline.Cluster(n_workers=2, name="spot", worker_threads=1, worker_memory="1 GiB", progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(2, timeout=60)
        kept = client.map(make, range(20), marks=marks, pure=False)
        client.gather(kept)
        held = {client.scheduler_info()["workers"][address]["name"]: len(keys)
            for address, keys in client.has_what().items()}
        before = set(cluster.observed)
        print(json.dumps({"before": sorted(before), "held": held}), flush=True)
        going = sys.stdin.readline().strip()
        until = time.monotonic() + 90
        while going in cluster.observed or len(cluster.observed) < 2:
            assert time.monotonic() < until, (going, cluster.observed)
            time.sleep(0.05)
        whole = [value[0] for value in client.gather(kept)] == list(range(20))
        print(json.dumps({"whole": whole, "now": sorted(cluster.observed)}), flush=True)
        sys.stdin.readline()
"#;

/// A cloud, a program whose two workers hold results, and one of their hosts that reads that cloud's notices.
struct Scene {
    cloud: FakeCloud,
    world: World,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    going: String,
    staying: String,
}

impl Scene {
    /// Begin; the agent has asked this platform once for notices, at `path`. None: nothing can be run here.
    async fn begin(platform: &str, path: &str) -> Result<Option<Self>> {
        let Some(builder) = World::builder() else {
            return Ok(None);
        };
        let cloud = FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await?;
        let world = builder.start().await?;
        let marks = world.scratch("marks")?;
        let file = world.scratch("scripts")?.join("hold.py");
        fs::write(&file, HOLD)?;
        let mut child = world
            .python(&[&file.display().to_string(), &marks.display().to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdin = child.stdin.take().context("piped")?;
        let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let none = String::new;
        let mut scene = Self { cloud, world, child, stdin, lines, going: none(), staying: none() };
        let said = scene.line().await?;
        let [going, staying] = said["before"].as_array().context("a list")?.as_slice() else {
            anyhow::bail!("two workers: {said}");
        };
        scene.going = going.as_str().context("a host")?.to_owned();
        scene.staying = staying.as_str().context("a host")?.to_owned();
        scene.listen(platform)?;
        let (face, begun) = (format!("{platform}_metadata"), Instant::now());
        while scene.cloud.get(&face, "/_fake/asked").await?[path].is_null() {
            ensure!(begun.elapsed() < LONG, "the agent does not ask for notices");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(scene))
    }

    /// What the program says next.
    async fn line(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await.context("the program says nothing")??;
        Ok(serde_json::from_str(&line.context("the program ended")?)?)
    }

    /// Have the host's agent read its notices from there: its next life does.
    fn listen(&self, platform: &str) -> Result<()> {
        let directory = self.world.data.join("hosts").join(&self.going);
        let settings = directory.join("agent.toml");
        let (text, url) = (fs::read_to_string(&settings)?, self.cloud.url(&format!("{platform}_metadata"))?);
        fs::write(&settings, format!("{text}\nnotices = \"{platform}\"\nmetadata_url = \"{url}\"\n"))?;
        let own = format!(" agent --host-dir {}", directory.display());
        let agents = processes::below(&self.world.data.join("hosts"));
        processes::kill(agents.iter().find(|process| process.command.ends_with(&own)).context("an agent")?.pid);
        Ok(())
    }

    /// The host that is to go, once it is like this.
    async fn host_until(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let of = |cluster: &Value| {
            let hosts = cluster["hosts"].as_array().cloned().unwrap_or_default();
            hosts.into_iter().find(|host| host["id"] == self.going.as_str())
        };
        let shown =
            self.world.api().cluster_until("spot", LONG, |cluster| of(cluster).is_some_and(|host| wanted(&host)));
        of(&shown.await?).context("the host")
    }

    /// The notice was given: the program's results are whole, no task ran twice, another host is there, and the host has
    /// signed off. Returns how it is shown in the end.
    async fn survives(&mut self, kind: &str) -> Result<Value> {
        tokio::io::AsyncWriteExt::write_all(&mut self.stdin, format!("{}\n", self.going).as_bytes()).await?;
        let said = self.line().await?;
        ensure!(said["whole"] == true, "{said}");
        let now = said["now"].as_array().context("a list")?;
        ensure!(now.len() == 2 && now.iter().any(|host| host == self.staying.as_str()), "{said}");
        ensure!(fs::read_dir(self.world.scratch("marks")?)?.count() == 20, "no result was made twice");
        let host = self.host_until(|host| host["state"] == "ended").await?;
        ensure!(host["reason"]["code"] == "host_interrupted" && host["sign_off"]["reason"] == "assigned", "{host}");
        ensure!(host["interruption"]["kind"] == kind && host["interruption"]["going"] == true, "{host}");
        let shown = run(self.world.towline(&["host", "show", &self.going]), LONG).await?;
        ensure!(shown.stdout.contains(kind), "{}", shown.stdout);
        let events = run(self.world.towline(&["cluster", "events", "spot"]), LONG).await?;
        ensure!(events.stdout.contains("its platform"), "{}", events.stdout);
        Ok(host)
    }

    async fn end(mut self) -> Result<()> {
        drop(self.stdin);
        tokio::time::timeout(LONG, self.child.wait()).await??;
        Ok(())
    }
}

#[tokio::test]
async fn results_of_a_reclaimed_host_survive_and_another_host_comes() -> Result<()> {
    let Some(mut scene) = Scene::begin("aws", "meta-data/spot/instance-action").await? else {
        return Ok(());
    };
    // A recommendation to rebalance is told, and the host works on.
    let risk = json!({ "noticeTime": "2026-01-01T00:00:00Z" }).to_string();
    let items = json!({ "meta-data/events/recommendations/rebalance": risk });
    scene.cloud.put("aws_metadata", "/_fake/items", items).await?;
    let host = scene.host_until(|host| host["interruption"]["kind"] == "at_risk").await?;
    ensure!(host["state"] == "up" && host["interruption"]["going"] == false, "{host}");

    let at = jiff::Timestamp::now() + Duration::from_secs(120);
    let action = json!({ "action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() });
    let noticed = Instant::now();
    let items = json!({ "meta-data/spot/instance-action": action.to_string() });
    scene.cloud.put("aws_metadata", "/_fake/items", items).await?;
    scene.survives("reclaimed").await?;
    ensure!(noticed.elapsed() < Duration::from_secs(105), "later than the platform allows: {:?}", noticed.elapsed());
    scene.end().await
}

/// One of Azure's scheduled events, of the machine of this name.
fn scheduled(id: &str, machine: &str, kind: &str, at: jiff::Timestamp) -> Value {
    let at = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    json!({ "EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": [machine],
        "EventStatus": "Scheduled", "NotBefore": at, "Description": "", "EventSource": "Platform" })
}

#[tokio::test]
async fn azure_hears_that_it_may_begin_once_the_results_have_moved() -> Result<()> {
    let Some(mut scene) = Scene::begin("azure", "scheduledevents").await? else {
        return Ok(());
    };
    // Of another machine of the same set: nothing of ours.
    let at = jiff::Timestamp::now() + Duration::from_secs(90);
    let others = scheduled("event-of-another", "worker-2", "Preempt", at);
    scene.cloud.put("azure_metadata", "/_fake/events", json!([others])).await?;
    let asked =
        async || anyhow::Ok(scene.cloud.get("azure_metadata", "/_fake/asked").await?["scheduledevents"].as_u64());
    let before = asked().await?;
    while asked().await? < before.map(|count| count + 3) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let host = scene.host_until(|_| true).await?;
    ensure!(host["state"] == "up" && host["interruption"].is_null(), "it concerns another machine: {host}");

    let ours = scheduled("event-of-ours", "worker-1", "Preempt", at);
    scene.cloud.put("azure_metadata", "/_fake/events", json!([others, ours])).await?;
    let host = scene.survives("reclaimed").await?;
    let begun = Instant::now();
    let approved = loop {
        let approved = scene.cloud.get("azure_metadata", "/_fake/approved_at").await?;
        if approved.as_object().is_some_and(|all| !all.is_empty()) {
            break approved;
        }
        ensure!(begun.elapsed() < LONG, "Azure does not hear that it may begin");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    ensure!(approved.as_object().is_some_and(|all| all.len() == 1), "only ours: {approved}");
    let approved = approved["event-of-ours"].as_u64().context("ours")? / 1000;
    let signed_off = host["sign_off"]["at"].as_u64().context("a time")?;
    ensure!(approved >= signed_off, "Dask still ran: approved at {approved}, signed off at {signed_off}");
    ensure!(i128::from(approved) < i128::from(at.as_second()), "too late to be of use: {approved}, {at}");
    scene.end().await
}

#[tokio::test]
async fn results_of_a_preempted_google_instance_survive_its_half_minute() -> Result<()> {
    let Some(mut scene) = Scene::begin("google", "instance/preempted").await? else {
        return Ok(());
    };
    let noticed = jiff::Timestamp::now();
    scene.cloud.put("google_metadata", "/_fake/items", json!({ "instance/preempted": "TRUE" })).await?;
    let host = scene.survives("reclaimed").await?;
    let signed_off = i128::from(host["sign_off"]["at"].as_u64().context("a time")?);
    let took = signed_off - i128::from(noticed.as_second());
    ensure!(took <= 30, "Google gives half a minute, this took {took} s");
    scene.end().await
}
