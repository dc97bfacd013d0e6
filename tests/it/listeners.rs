//! Who is refused at a cluster's door: tried with Dask's own client and worker, and with `openssl s_client`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use towline_protocol::ids::ClusterId;
use towline_protocol::roster::MemberRole;
use towline_protocol::time::UnixSeconds;
use towline_tests::{World, world};
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::keys::KeyPair;
use towline_transport::member::{self, Knock};

const LONG: Duration = Duration::from_secs(90);

/// Holds a cluster without workers open until its standard input closes.
const HOLD: &str = r#"
import json, sys, time
import towline

def text(value):
    return value if value.startswith("-----BEGIN") else open(value).read()

if __name__ == "__main__":
    with towline.Cluster(n_workers=0, name=sys.argv[1], progress=False) as cluster:
        security = cluster.security
        until = time.monotonic() + 20
        while not cluster.details.get("gateway") and time.monotonic() < until:
            time.sleep(0.05)
        print(json.dumps({
            "cluster": cluster.cluster_id, "address": cluster.scheduler_address,
            "gateway": cluster.details.get("gateway"), "ca": text(security.tls_ca_file),
            "certificate": text(security.tls_client_cert), "key": text(security.tls_client_key),
        }), flush=True)
        sys.stdin.read()
"#;

/// Tries one way in and prints what came of it.
const TRY: &str = r#"
import asyncio, json, sys
from distributed import Client, Nanny, Worker
from distributed.security import Security

how, address, ca, certificate, key = sys.argv[1:6]

async def attempt():
    security = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key,
                        tls_worker_cert=certificate, tls_worker_key=key, tls_scheduler_cert=certificate,
                        tls_scheduler_key=key)
    if how == "client":
        async with Client(address, security=security, asynchronous=True, timeout=6) as client:
            await client.scheduler.identity()
            return "connected"
    if how == "plain":
        async with Client(address.replace("tls://", "tcp://"), asynchronous=True, timeout=6):
            return "connected"
    kind = {"worker": Worker, "nanny": Nanny}[how]
    async with kind(address, security=security, nthreads=1, death_timeout=6):
        return "registered"

async def main():
    try:
        outcome = await asyncio.wait_for(attempt(), 25)
    except BaseException as error:
        outcome = f"refused: {type(error).__name__}"
    print(json.dumps(outcome), flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"#;

struct Held {
    child: Child,
    facts: Value,
}

async fn hold(world: &World, name: &str) -> Result<Held> {
    let file = world.scratch("scripts")?.join("hold.py");
    fs::write(&file, HOLD)?;
    let mut command = world.python(&[&file.display().to_string(), name]);
    command.stdin(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let line = tokio::time::timeout(LONG, lines.next_line()).await.context("the cluster does not come")??;
    let facts = serde_json::from_str(&line.context("the script ended")?)?;
    Ok(Held { child, facts })
}

async fn release(mut held: Held) -> Result<()> {
    drop(held.child.stdin.take());
    let status = tokio::time::timeout(LONG, held.child.wait()).await.context("the cluster does not close")??;
    ensure!(status.success(), "{status}");
    Ok(())
}

struct Pass {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

fn pass(folder: &Path, name: &str, ca: &str, certificate: &str, key: &str) -> Result<Pass> {
    let path = |what: &str| folder.join(format!("{name}-{what}.pem"));
    let made = Pass { ca: path("ca"), certificate: path("certificate"), key: path("key") };
    fs::write(&made.ca, ca)?;
    fs::write(&made.certificate, certificate)?;
    fs::write(&made.key, key)?;
    Ok(made)
}

async fn attempt(world: &World, how: &str, address: &str, with: &Pass) -> Result<String> {
    let file = world.scratch("scripts")?.join("try.py");
    fs::write(&file, TRY)?;
    let text = |path: &Path| path.display().to_string();
    let command =
        world.python(&[&text(&file), how, address, &text(&with.ca), &text(&with.certificate), &text(&with.key)]);
    let done = world::run(command, LONG).await?;
    let line = done.stdout.lines().last().with_context(|| done.stderr.clone())?;
    Ok(serde_json::from_str::<String>(line)?)
}

fn field<'a>(facts: &'a Value, name: &str) -> Result<&'a str> {
    facts[name].as_str().with_context(|| format!("no {name} in {facts}"))
}

/// What a certificate of the tests says.
#[derive(Clone, Copy)]
struct Claims {
    role: MemberRole,
    /// From and until, Unix seconds.
    valid: (u64, u64),
    /// May it act as a server too?
    server: bool,
}

/// The cluster's own CA, with the key found in the scheduler's host directory.
fn cluster_authority(world: &World, cluster: &ClusterId) -> Result<Authority> {
    let is_of =
        |host: &Path| fs::read_to_string(host.join("user-data.json")).is_ok_and(|text| text.contains(cluster.as_str()));
    let folder = fs::read_dir(world.data.join("hosts"))?
        .flatten()
        .filter(|entry| is_of(&entry.path()))
        .map(|entry| entry.path().join("cluster-ca"))
        .find(|folder| folder.exists() && fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()))
        .context("no host holds a cluster CA")?;
    let read = |ending: &str| -> Result<String> {
        let found = fs::read_dir(&folder)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(ending));
        Ok(fs::read_to_string(found.with_context(|| format!("no *{ending} in {}", folder.display()))?)?)
    };
    Ok(Authority::from_pem(&read(".pem").or_else(|_| read(".crt"))?, &read(".key")?)?)
}

/// A certificate and its key. The names are the cluster's own, so that only the claims are left to decide.
async fn issue(world: &World, authority: &Authority, cluster: &ClusterId, claims: Claims) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let whoami = world.api().get("/api/v1/whoami").await?;
    let workspace = field(&whoami, "workspace")?.parse()?;
    let domain = field(&whoami, "trust_domain")?;
    let uri = towline_transport::name::member_uri(domain, &workspace, cluster, "a-test", claims.role);
    let request = CertificateRequest {
        spki: key.spki(),
        common_name: "a test".into(),
        uris: vec![uri],
        dns_names: Vec::new(),
        ip_addresses: vec!["127.0.0.1".parse()?],
        server: claims.server,
        client: true,
        not_before: UnixSeconds(claims.valid.0),
        not_after: UnixSeconds(claims.valid.1),
    };
    Ok((authority.issue(&request)?, key.to_pem().to_string()))
}

#[tokio::test]
async fn only_an_admitted_client_of_this_cluster_gets_in() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let (here, elsewhere) = (hold(&world, "here").await?, hold(&world, "elsewhere").await?);
    let folder = world.scratch("passes")?;
    let address = field(&here.facts, "address")?.to_owned();
    ensure!(address.starts_with("tls://"), "{address}");
    let (ca, certificate, key) =
        (field(&here.facts, "ca")?, field(&here.facts, "certificate")?, field(&here.facts, "key")?);

    let admitted = pass(&folder, "admitted", ca, certificate, key)?;
    ensure!(attempt(&world, "client", &address, &admitted).await? == "connected", "the admitted client must get in");

    let other = &elsewhere.facts;
    let other_cluster = pass(&folder, "other", ca, field(other, "certificate")?, field(other, "key")?)?;
    let wrong_ca = pass(&folder, "wrong-ca", field(other, "ca")?, certificate, key)?;
    for (name, how, with) in [
        ("another cluster's certificate", "client", &other_cluster),
        ("a client that trusts another CA", "client", &wrong_ca),
        ("plain TCP", "plain", &admitted),
        ("a client's certificate as worker", "worker", &admitted),
        ("a client's certificate as nanny", "nanny", &admitted),
        ("another cluster's certificate as worker", "worker", &other_cluster),
    ] {
        let outcome = attempt(&world, how, &address, with).await?;
        ensure!(outcome.starts_with("refused"), "{name}: {outcome}");
    }
    openssl_is_refused(&address, &other_cluster, "another cluster's certificate").await?;
    let anyone = Claims { role: MemberRole::Client, valid: (0, 4_000_000_000), server: true };
    let stranger = Authority::create("stranger", UnixSeconds(0), UnixSeconds(4_000_000_000))?;
    let (certificate, key) = issue(&world, &stranger, &field(&here.facts, "cluster")?.parse()?, anyone).await?;
    openssl_is_refused(&address, &pass(&folder, "stranger", ca, &certificate, &key)?, "a stranger's CA").await?;
    let seen = attempt(&world, "client", &address, &admitted).await?;
    ensure!(seen == "connected", "the scheduler must be unharmed by all that: {seen}");
    release(here).await?;
    release(elsewhere).await
}

#[tokio::test]
async fn an_expired_certificate_of_the_right_authority_is_refused() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let held = hold(&world, "alone").await?;
    let cluster: ClusterId = field(&held.facts, "cluster")?.parse()?;
    let (address, ca) = (field(&held.facts, "address")?.to_owned(), field(&held.facts, "ca")?);
    let folder = world.scratch("passes")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();

    let authority = cluster_authority(&world, &cluster)?;
    let (certificate, key) = issue(
        &world,
        &authority,
        &cluster,
        Claims { role: MemberRole::Client, valid: (now - 7_200, now - 3_600), server: false },
    )
    .await?;
    let expired = pass(&folder, "expired", ca, &certificate, &key)?;
    let outcome = attempt(&world, "client", &address, &expired).await?;
    ensure!(outcome.starts_with("refused"), "an expired certificate: {outcome}");

    openssl_is_refused(&address, &expired, "an expired certificate").await?;

    // The same with times that hold gets in: so it was the time that was refused.
    let (certificate, key) = issue(
        &world,
        &authority,
        &cluster,
        Claims { role: MemberRole::Client, valid: (now - 600, now + 3_600), server: false },
    )
    .await?;
    let fresh = pass(&folder, "fresh", ca, &certificate, &key)?;
    ensure!(attempt(&world, "client", &address, &fresh).await? == "connected");

    // A worker's certificate does register, and a client's with both usages still does not: the role decides.
    let (certificate, key) = issue(
        &world,
        &authority,
        &cluster,
        Claims { role: MemberRole::Client, valid: (now - 600, now + 3_600), server: true },
    )
    .await?;
    let posing = pass(&folder, "posing", ca, &certificate, &key)?;
    let outcome = attempt(&world, "worker", &address, &posing).await?;
    ensure!(outcome.starts_with("refused"), "a client with server usage as worker: {outcome}");
    let (certificate, key) = issue(
        &world,
        &authority,
        &cluster,
        Claims { role: MemberRole::Worker, valid: (now - 600, now + 3_600), server: true },
    )
    .await?;
    let worker = pass(&folder, "worker", ca, &certificate, &key)?;
    ensure!(
        attempt(&world, "worker", &address, &worker).await? == "registered",
        "a worker's certificate must register"
    );
    release(held).await
}

/// What a client with a pass reads from behind the gateway.
async fn ask_the_gateway(address: &str, cluster: &ClusterId, with: &Pass) -> Result<String> {
    let read = |path: &Path| fs::read_to_string(path);
    let identity = TlsIdentity { chain_pem: read(&with.certificate)?, key_pem: read(&with.key)? };
    let knock = Knock::new(&identity, &read(&with.ca)?, cluster, member::DASHBOARD)?;
    let asked = async {
        let mut stream = knock.at(TcpStream::connect(address).await?).await?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: towline-dashboard\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(LONG, asked).await.context("the gateway says nothing")?
}

#[tokio::test]
async fn only_an_admitted_client_gets_behind_the_gateway() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let (here, elsewhere) = (hold(&world, "here").await?, hold(&world, "elsewhere").await?);
    let folder = world.scratch("passes")?;
    let gateway = field(&here.facts, "gateway")?.to_owned();
    ensure!(gateway.starts_with("127.0.0.1:"), "it listens where the scheduler does: {gateway}");
    let cluster: ClusterId = field(&here.facts, "cluster")?.parse()?;
    let (ca, other) = (field(&here.facts, "ca")?, &elsewhere.facts);
    let admitted = pass(&folder, "admitted", ca, field(&here.facts, "certificate")?, field(&here.facts, "key")?)?;
    let page = ask_the_gateway(&gateway, &cluster, &admitted).await?;
    ensure!(page.starts_with("HTTP/1.1 503") && page.contains("Bokeh"), "{page}");

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let (valid, over) = ((now - 600, now + 3_600), (now - 7_200, now - 3_600));
    let (own, stranger) = (
        cluster_authority(&world, &cluster)?,
        Authority::create("stranger", UnixSeconds(0), UnixSeconds(4_000_000_000))?,
    );
    let mut refused = vec![(
        "another cluster's client",
        pass(&folder, "other", ca, field(other, "certificate")?, field(other, "key")?)?,
    )];
    for (name, authority, role, valid) in [
        ("a worker", &own, MemberRole::Worker, valid),
        ("the scheduler", &own, MemberRole::Scheduler, valid),
        ("an expired client", &own, MemberRole::Client, over),
        ("a stranger's client", &stranger, MemberRole::Client, valid),
    ] {
        let (certificate, key) = issue(&world, authority, &cluster, Claims { role, valid, server: true }).await?;
        refused.push((name, pass(&folder, &name.replace(' ', "-"), ca, &certificate, &key)?));
    }
    for (name, with) in &refused {
        let outcome = ask_the_gateway(&gateway, &cluster, with).await;
        ensure!(outcome.is_err(), "{name}: {outcome:?}");
        openssl_is_refused(&gateway, with, name).await?;
    }
    for (name, arguments) in [("no certificate", vec![]), ("TLS 1.2", vec!["-tls1_2"])] {
        let (success, said) = openssl(&gateway, &arguments).await.context(name)?;
        ensure!(!success && said.contains("alert"), "{name}: {said}");
    }
    let page = ask_the_gateway(&gateway, &cluster, &admitted).await?;
    ensure!(page.starts_with("HTTP/1.1 503"), "the gateway must be unharmed by all that: {page}");
    release(here).await?;
    release(elsewhere).await
}

#[tokio::test]
async fn openssl_without_a_certificate_gets_no_session() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let held = hold(&world, "alone").await?;
    let address = field(&held.facts, "address")?.trim_start_matches("tls://").to_owned();
    let agents = agents_listener(&world)?;
    for (name, target, arguments) in [
        ("scheduler, no certificate", address.as_str(), vec![]),
        ("scheduler, TLS 1.1", address.as_str(), vec!["-tls1_1"]),
        ("agents listener, TLS 1.2", agents.as_str(), vec!["-tls1_2"]),
    ] {
        let (success, said) = openssl(target, &arguments).await.context(name)?;
        ensure!(!success && said.contains("alert"), "{name}: {said}");
    }
    release(held).await
}

/// What `openssl s_client` says to a listener, and whether it was content.
async fn openssl(target: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", target, "-quiet", "-no_ign_eof"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("openssl is needed for this test: apt-get install openssl")?;
    // TLS 1.3 tells the client of a refused certificate only when it reads: keep the pipe open until openssl ends.
    let stdin = child.stdin.take();
    let done = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await;
    drop(stdin);
    let done = done.context("openssl was not cut off")??;
    Ok((done.status.success(), String::from_utf8_lossy(&done.stderr).to_lowercase()))
}

/// `openssl s_client` with a pass must be cut off with an alert.
async fn openssl_is_refused(address: &str, with: &Pass, name: &str) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let (certificate, key) = (text(&with.certificate), text(&with.key));
    let target = address.trim_start_matches("tls://");
    let (success, said) = openssl(target, &["-cert", &certificate, "-key", &key]).await.context(name.to_owned())?;
    ensure!(!success && said.contains("alert"), "{name}, by openssl: {said}");
    Ok(())
}

fn agents_listener(world: &World) -> Result<String> {
    let run: Value = serde_json::from_str(&fs::read_to_string(world.data.join("server/run.json"))?)?;
    Ok(field(&run, "agents_url")?.trim_start_matches("https://").to_owned())
}

#[tokio::test]
async fn the_agents_listener_demands_a_certificate_for_sessions() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let run: Value = serde_json::from_str(&fs::read_to_string(world.data.join("server/run.json"))?)?;
    let ca = fs::read_to_string(field(&run, "ca_file")?)?;
    let http = towline_transport::client::http_client(&ca, None)?;
    let url = format!("{}/agent/v1", field(&run, "agents_url")?);
    let mut request = http.get(&url).timeout(Duration::from_secs(10));
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        request = request.header(name, value);
    }
    let status = request.send().await?.status().as_u16();
    ensure!(status == 401 || status == 403, "without a certificate: {status}");
    let stranger = Authority::create("stranger", UnixSeconds(0), UnixSeconds(4_000_000_000))?;
    let other = towline_transport::client::http_client(stranger.certificate_pem(), None)?;
    ensure!(other.get(&url).send().await.is_err(), "a client that pins another CA must not connect");
    Ok(())
}
