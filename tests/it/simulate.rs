//! Simulated hosts at a real control plane: all connect, report and obey the end; a banned one is shut out.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use towline_protocol::ids::Digest;
use towline_protocol::message::{FromAgent, FromControlPlane, Hello, Instance, Inventory, SessionRefusal};
use towline_tests::World;
use towline_transport::TlsIdentity;
use towline_transport::client::client_config;
use towline_transport::keys;
use towline_transport::websocket::AgentSocket;

const LONG: Duration = Duration::from_secs(60);
const WARNING: &str = "hosts are simulated (`local.simulate`): clusters compute nothing";
const SETTINGS: &str = "[local]\nsimulate = true";
/// One scheduler and its workers.
const HOSTS: u64 = 6;

/// The process that speaks for the hosts, and what it says.
struct Simulation {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Simulation {
    fn start(world: &World) -> Result<Self> {
        let hosts = world.data.join("hosts").display().to_string();
        let mut command =
            world.towline(&["agent", "--simulate", &hosts, "--report-every", "300", "--for", "300", "--json"]);
        command.stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        Ok(Self { child, lines })
    }

    /// The first figures that fit; an error names the last ones.
    async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let (begun, mut last) = (Instant::now(), Value::Null);
        while begun.elapsed() < LONG {
            let line = tokio::time::timeout(LONG, self.lines.next_line()).await.with_context(|| what.to_owned())??;
            last = serde_json::from_str(&line.with_context(|| format!("{what}: it ended after {last}"))?)?;
            if fits(&last) {
                return Ok(last);
            }
        }
        anyhow::bail!("{what}: not after {LONG:?}: {last}")
    }

    /// End it as a person does. Nothing may be connected in its last word.
    async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        rustix::process::kill_process(pid.context("it runs")?, rustix::process::Signal::TERM)?;
        let mut last = Value::Null;
        while let Some(line) = tokio::time::timeout(LONG, self.lines.next_line()).await?? {
            last = serde_json::from_str(&line)?;
        }
        let status = tokio::time::timeout(LONG, self.child.wait()).await??;
        ensure!(status.success() && last["connected"] == 0, "{status}: {last}");
        Ok(())
    }
}

/// A cluster whose packages nobody will look at.
async fn cluster(world: &World) -> Result<String> {
    let lock = b"simulated";
    let digest = Digest::of(lock);
    let post = |path: String, body: Value| async move {
        let answer = world.api().request(reqwest::Method::POST, &path, Some(&body)).await?;
        ensure!(answer.status < 300, "POST {path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    };
    let announced = json!({
        "digest": digest, "interpreter": "cpython-3.11.2", "platform": "x86_64", "packages": [],
        "blobs": [{ "digest": digest, "size": lock.len() }],
    });
    let missing = post("/api/v1/environments".to_owned(), announced).await?;
    let url = missing["missing"][0]["url"].as_str().context("a place for the lock")?;
    let run: Value = serde_json::from_slice(&std::fs::read(world.data.join("server/run.json"))?)?;
    let ca = std::fs::read_to_string(run["ca_file"].as_str().context("a CA")?)?;
    let http = towline_transport::client::http_client(&ca, None)?;
    ensure!(http.put(url).body(lock.to_vec()).send().await?.status().is_success(), "the lock is not taken");
    post(format!("/api/v1/environments/{digest}/complete"), json!({})).await?;
    let (_, owner) = keys::ed25519_generate_pem()?;
    let made = json!({
        "backend": "local", "n_workers": HOSTS - 1, "owner_key": owner,
        "environment": {
            "digest": digest, "kind": "wheels",
            "interpreter": { "implementation": "cpython", "version": "3.11.2", "sha256": null },
        },
        "worker": { "processes": 1, "threads": 1, "nanny": true, "memory_limit": null, "resources": [] },
        "idle_after": null, "no_client_after": null,
    });
    let made = post("/api/v1/clusters".to_owned(), made).await?;
    Ok(made["id"].as_str().context("an id")?.to_owned())
}

fn hosts(view: &Value) -> impl Iterator<Item = &Value> {
    view["hosts"].as_array().into_iter().flatten()
}

#[tokio::test]
async fn all_connect_report_come_back_and_obey_the_end() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.settings(SETTINGS).expect(&[WARNING]).start().await?;
    let mut simulation = Simulation::start(&world)?;
    let cluster = cluster(&world).await?;
    simulation.until("all joined", |said| said["joined"] == HOSTS).await?;
    let up = |view: &Value| hosts(view).filter(|host| host["state"] == "up").count() as u64 == HOSTS;
    let view = world.api().cluster_until(&cluster, LONG, up).await?;
    ensure!(view["state"] == "running", "{view:#}");
    // More than the reports of a start: each goes on by itself.
    let reports = |view: &Value| {
        hosts(view).all(|host| host["reports"].as_u64() >= Some(6) && host["verdict"]["state"] == "idle")
    };
    world.api().cluster_until(&cluster, LONG, reports).await?;
    let before = simulation.until("leases", |said| said["leases"].as_u64() >= Some(6 * HOSTS)).await?;
    ensure!(before["refused"] == 0 && before["failed"] == 0 && before["welcomes"] == HOSTS, "{before}");

    world.kill_server().await?;
    simulation.until("all lost", |said| said["connected"] == 0).await?;
    world.start_server().await?;
    let back = simulation.until("all back", |said| said["joined"] == HOSTS).await?;
    ensure!(back["hosts"] == HOSTS && back["welcomes"].as_u64() >= Some(2 * HOSTS), "{back}");

    world.api().stop(&cluster).await?;
    let ended = simulation.until("all ended", |said| said["ended"] == HOSTS).await?;
    ensure!(ended["connected"] == 0 && ended["refused"] == 0, "{ended}");
    let view = world.api().cluster_until(&cluster, LONG, |view| view["state"] == "stopped").await?;
    ensure!(hosts(&view).all(|host| host["sign_off"]["reason"] == "assigned"), "{view:#}");
    simulation.stop().await
}

#[tokio::test]
async fn a_host_that_speaks_from_two_machines_is_banned_and_its_session_refused() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let alarm = "a host was banned: two machines spoke as it";
    let world = builder.settings(SETTINGS).expect(&[WARNING, alarm]).start().await?;
    let mut simulation = Simulation::start(&world)?;
    let cluster = cluster(&world).await?;
    simulation.until("all joined", |said| said["joined"] == HOSTS).await?;
    let view = world.api().get(&format!("/api/v1/clusters/{cluster}")).await?;
    let worker = hosts(&view).find(|host| host["role"] == "worker").context("a worker")?;
    let id = worker["id"].as_str().context("an id")?;

    // A thief of its key and certificate.
    let directory = world.data.join("hosts").join(id);
    let read = |name: &str| std::fs::read_to_string(directory.join("identity").join(name));
    let identity = TlsIdentity { chain_pem: read("chain.pem")?, key_pem: read("key.pem")? };
    let run: Value = serde_json::from_slice(&std::fs::read(world.data.join("server/run.json"))?)?;
    let ca = std::fs::read_to_string(run["ca_file"].as_str().context("a CA")?)?;
    let url = run["agents_url"].as_str().context("a URL")?;
    let tls = client_config(&ca, Some(&identity))?;
    let speak = || async {
        let mut socket = AgentSocket::connect(url, tls.clone()).await?;
        let hello = Hello {
            speaks: vec![0],
            agent_version: "thief".to_owned(),
            instance: Instance { machine: Digest::of(b"another"), boot: Digest::of(b"boot") },
            starts: 1,
            last: None,
            roster_version: None,
            inventory: Inventory::default(),
            dask_spki: None,
        };
        socket.send(&FromAgent::Hello(hello)).await?;
        anyhow::Ok(tokio::time::timeout(LONG, socket.receive()).await??)
    };
    let answered = Box::pin(speak()).await?;
    let banned = FromControlPlane::Refused { code: SessionRefusal::Banned };
    ensure!(answered == banned, "the thief: {answered:?}");
    let said = simulation.until("refused", |said| said["refused"] == 1).await?;
    ensure!(said["connected"] == HOSTS - 1 || said["joined"] == HOSTS - 1, "the others are unharmed: {said}");
    let again = Box::pin(speak()).await;
    ensure!(!matches!(again, Ok(FromControlPlane::Welcome { .. })), "shut out for good: {again:?}");
    simulation.stop().await
}
