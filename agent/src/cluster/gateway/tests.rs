//! Who is let in and who is refused, with real TLS on the loopback and a service that answers in capitals.

use super::*;
use std::net::Ipv4Addr;
use tokio::io::AsyncWrite;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use towline_protocol::ids::{ClusterId, Epoch, WorkspaceId};
use towline_protocol::roster::{Member, MemberRole, Roster};
use towline_transport::TlsIdentity;
use towline_transport::keys::KeyPair;
use towline_transport::member::{Answered, Knock};

struct World {
    directory: tempfile::TempDir,
    authority: Arc<ClusterAuthority>,
    gateway: Gateway,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

fn authority(directory: &Path, number: u8) -> Arc<ClusterAuthority> {
    let cluster = ClusterId::from_random([number; 10]);
    let folder = directory.join(format!("ca-{number}"));
    let workspace = WorkspaceId::from_random([1; 10]);
    let opened = ClusterAuthority::open_or_create(&folder, "towline.test", &workspace, &cluster, unix_time());
    Arc::new(opened.expect("an authority"))
}

fn pass_of(authority: &ClusterAuthority, role: MemberRole) -> TlsIdentity {
    named_pass_of(authority, role, "a-member")
}

fn named_pass_of(authority: &ClusterAuthority, role: MemberRole, name: &str) -> TlsIdentity {
    let key = KeyPair::generate().expect("a key");
    let now = unix_time();
    let not_after = now.plus(Duration::from_secs(3600));
    let member = Member { id: name.into(), role, spki: key.spki(), not_after, admission: None };
    let roster = Roster {
        v: 0,
        audience: HostId::from_random([3; 10]),
        workspace: WorkspaceId::from_random([1; 10]),
        cluster: authority.cluster().clone(),
        epoch: Epoch(1),
        version: 1,
        issued_at: now,
        expires_at: not_after,
        entries: vec![member],
    };
    let issued = authority.issue(&roster, &[]).expect("issued").remove(0);
    TlsIdentity { chain_pem: issued.certificate, key_pem: key.to_pem().to_string() }
}

fn serving(directory: &Path, authority: &Arc<ClusterAuthority>) -> (Gateway, CancellationToken, JoinHandle<()>) {
    let (gateway, task) = gateway(directory, None);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(task, stop.clone()));
    gateway.open(|| {
        let host = HostId::from_random([3; 10]);
        let identity = Identity::Authority(authority.clone(), host);
        Some(Plan { identity, address: Ipv4Addr::LOCALHOST.into(), port: 0 })
    });
    (gateway, stop, serving)
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let launch = socket::run_dir(directory.path()).join("dask");
        std::fs::create_dir_all(&launch).expect("made");
        tokio::spawn(shout(socket::listen(&launch, DASHBOARD_SOCKET, None).expect("listens")));
        let authority = authority(directory.path(), 2);
        let (gateway, stop, serving) = serving(directory.path(), &authority);
        Self { directory, authority, gateway, stop, serving }
    }

    async fn port(&mut self) -> u16 {
        if self.gateway.listening().is_none() {
            let listens = self.gateway.listening_changed();
            tokio::time::timeout(Duration::from_secs(10), listens).await.expect("it listens");
        }
        self.gateway.listening().expect("it listens").port
    }

    async fn knock(&mut self, with: &TlsIdentity, ca: &ClusterAuthority, service: &[u8]) -> io::Result<Answered> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port().await)).await?;
        let knock = Knock::new(with, ca.certificate_pem(), ca.cluster(), service).expect("settings");
        tokio::time::timeout(Duration::from_secs(10), knock.at(stream)).await.expect("in time")
    }

    /// What the service answers; an error where we were refused, which TLS 1.3 tells a client only when it reads.
    async fn ask(&mut self, with: &TlsIdentity, service: &[u8]) -> io::Result<String> {
        let ca = self.authority.clone();
        let mut stream = self.knock(with, &ca, service).await?;
        stream.write_all(b"a question").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer));
        read.await.expect("in time")?;
        Ok(answer)
    }

    async fn end(self) -> tempfile::TempDir {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.serving).await.expect("it ends").expect("no panic");
        self.directory
    }
}

/// Reads to the end, then answers: an end that is done with asking must not end the answer.
async fn shout(listener: UnixListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut question = String::new();
        stream.read_to_string(&mut question).await.expect("asked");
        stream.write_all(question.to_uppercase().as_bytes()).await.expect("answered");
    }
}

#[tokio::test]
async fn a_client_of_this_cluster_is_brought_to_the_service_and_back() {
    let mut world = World::new();
    let client = pass_of(&world.authority, MemberRole::Client);
    for _ in 0..3 {
        assert_eq!(world.ask(&client, member::DASHBOARD).await.expect("let in"), "A QUESTION");
    }
    let open = world.knock(&client, &world.authority.clone(), member::DASHBOARD).await.expect("let in");
    let _ = world.end().await;
    drop(open);
}

#[tokio::test]
async fn everybody_else_is_refused() {
    let mut world = World::new();
    let other = authority(world.directory.path(), 9);
    let gateway = world.authority.gateway(&HostId::from_random([4; 10]), unix_time()).expect("a certificate");
    for (name, with) in [
        ("a worker", pass_of(&world.authority, MemberRole::Worker)),
        ("the scheduler", pass_of(&world.authority, MemberRole::Scheduler)),
        ("a gateway", gateway),
        ("another cluster's client", pass_of(&other, MemberRole::Client)),
    ] {
        world.ask(&with, member::DASHBOARD).await.expect_err(name);
    }
    let client = pass_of(&world.authority, MemberRole::Client);
    world.ask(&client, b"another-service/1").await.expect_err("a service that is not there");
    for (name, with) in [
        ("a worker", pass_of(&world.authority, MemberRole::Worker)),
        ("another cluster's client", pass_of(&other, MemberRole::Client)),
    ] {
        world.ask(&with, member::LOGS).await.expect_err(name);
        world.ask(&with, member::WAY).await.expect_err(name);
    }
    assert_eq!(world.ask(&client, member::DASHBOARD).await.expect("let in"), "A QUESTION");
    let _ = world.end().await;
}

#[tokio::test]
async fn whoever_is_not_this_clusters_gateway_gets_no_byte() {
    let mut world = World::new();
    let client = pass_of(&world.authority, MemberRole::Client);
    let other = authority(world.directory.path(), 9);
    let refused = world.knock(&client, &other, member::DASHBOARD).await.expect_err("another cluster's gateway");
    assert!(refused.to_string().contains("certificate"), "{refused}");

    // A worker of this very cluster may serve TLS, but is no gateway.
    let posing = pass_of(&world.authority, MemberRole::Worker);
    let (ca, cluster) = (world.authority.certificate_pem(), world.authority.cluster());
    let door = Door::new(&posing, ca, cluster, &[member::DASHBOARD]).expect("settings");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let knock = Knock::new(&client, ca, cluster, member::DASHBOARD).expect("settings");
    let taken = tokio::spawn(async move { door.take(listener.accept().await?.0).await.map(|_| ()) });
    let refused = knock.at(stream).await.expect_err("a worker is no gateway");
    assert!(refused.to_string().contains("certificate"), "{refused}");
    taken.await.expect("no panic").expect_err("it was told so");
    let _ = world.end().await;
}

#[tokio::test]
async fn a_restarted_agent_listens_where_it_did_unless_somebody_else_does() {
    let mut world = World::new();
    let (port, authority) = (world.port().await, world.authority.clone());
    let directory = world.end().await;
    let again = || async {
        let (mut gateway, stop, task) = serving(directory.path(), &authority);
        tokio::time::timeout(Duration::from_secs(10), gateway.listening_changed()).await.expect("it listens");
        stop.cancel();
        task.await.expect("no panic");
        gateway.listening().map(|listening| listening.port)
    };
    assert_eq!(again().await, Some(port));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("free");
    let other = again().await.expect("it listens elsewhere");
    assert_ne!(other, port);
    drop(taken);
}

#[tokio::test]
async fn a_scheduler_without_pages_ends_the_connection() {
    let mut world = World::new();
    let client = pass_of(&world.authority, MemberRole::Client);
    let launch = socket::run_dir(world.directory.path()).join("dask");
    socket::remove(&launch, DASHBOARD_SOCKET).expect("removed");
    assert!(
        world.ask(&client, member::DASHBOARD).await.is_ok_and(|answer| answer.is_empty()) || {
            // The system may tell of it by a reset.
            world.ask(&client, member::DASHBOARD).await.is_err()
        }
    );
    let _ = world.end().await;
}

/// What a host says to a question, up to the end of the connection.
async fn lines(mut stream: impl AsyncRead + AsyncWrite + Unpin, question: &str) -> io::Result<Vec<String>> {
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut said = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut said)).await.expect("in time")?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn spool(host_dir: &Path, name: &str, text: &str) {
    let folder = host_dir.join("spool");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join(name), text).expect("written");
}

#[tokio::test]
async fn a_client_reads_a_hosts_lines_and_an_end_that_is_no_cut() {
    let mut world = World::new();
    spool(world.directory.path(), "scheduler.log", "one\ntwo\nhalf");
    let (client, ca) = (pass_of(&world.authority, MemberRole::Client), world.authority.clone());
    let stream = world.knock(&client, &ca, member::LOGS).await.expect("let in");
    let said = lines(stream, r#"{"filter":"w"}"#).await.expect("answered");
    assert_eq!(said[0], r#"{"sign":"begin","stream":"scheduler","id":0}"#);
    assert!(said[1].contains(r#""id":4,"line":"two""#) && said[2] == r#"{"sign":"end"}"#, "{said:?}");
    let stream = world.knock(&client, &ca, member::LOGS).await.expect("let in");
    let said = lines(stream, "nonsense").await.expect("answered");
    assert!(said.len() == 1 && said[0].starts_with(r#"{"sign":"failed""#), "{said:?}");

    // Whoever follows hears of the last line and of the end when the agent ends.
    let mut stream = world.knock(&client, &ca, member::LOGS).await.expect("let in");
    stream.write_all(b"{\"follow\":true,\"tail\":0}\n").await.expect("asked");
    let mut begin = [0; 44];
    stream.read_exact(&mut begin).await.expect("it begins");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let file = world.directory.path().join("spool/scheduler.log");
    let mut file = std::fs::File::options().append(true).open(file).expect("there");
    io::Write::write_all(&mut file, b" a line\n").expect("written");
    let rest = tokio::spawn(async move {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.map(|_| rest)
    });
    let _ = world.end().await;
    let rest = rest.await.expect("no panic").expect("no cut");
    assert!(rest.contains(r#""line":"half a line""#) && rest.ends_with("{\"sign\":\"end\"}\n"), "{rest}");
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_one_window_and_keeps_no_agent_from_its_end() {
    let mut world = World::new();
    spool(world.directory.path(), "scheduler.log", &"a line of some length\n".repeat(2_000_000));
    let (client, ca) = (pass_of(&world.authority, MemberRole::Client), world.authority.clone());
    let mut stream = world.knock(&client, &ca, member::LOGS).await.expect("let in");
    stream.write_all(b"{}\n").await.expect("asked");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = std::time::Instant::now();
    let _ = world.end().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    drop(stream);
}

/// A worker's host of the cluster: its directory, with its certificate as the agent leaves it there.
fn worker(authority: &ClusterAuthority, host: &HostId) -> (tempfile::TempDir, Identity) {
    let directory = tempfile::tempdir().expect("a directory");
    let own = named_pass_of(authority, MemberRole::Worker, host.as_str());
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let files = DaskKeyFiles {
        key: file("dask.key", &own.key_pem),
        certificate: file("dask.crt", &own.chain_pem),
        ca: file("ca.crt", authority.certificate_pem()),
    };
    let identity = Identity::Worker { files, cluster: authority.cluster().clone(), scheduler: "127.0.0.1:9".into() };
    (directory, identity)
}

#[tokio::test]
async fn a_workers_lines_come_by_the_schedulers_host_and_nobody_there_reads_them() {
    let mut world = World::new();
    let id = HostId::from_random([4; 10]);
    let (directory, identity) = worker(&world.authority, &id);
    spool(directory.path(), "worker-ho-a.log", "of the worker\n");
    let (mut gateway, task) = gateway(directory.path(), None);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(task, stop.clone()));
    gateway.open(|| Some(Plan { identity, address: Ipv4Addr::LOCALHOST.into(), port: 0 }));
    tokio::time::timeout(Duration::from_secs(10), gateway.listening_changed()).await.expect("it listens");
    let Listening { port, host } = gateway.listening().expect("it listens");
    assert_eq!(host, Some(Ipv4Addr::LOCALHOST.into()));

    let (client, ca) = (pass_of(&world.authority, MemberRole::Client), world.authority.clone());
    let way = async |world: &mut World, port: u16| {
        let mut way = world.knock(&client, &ca, member::WAY).await.expect("let in");
        let asked = serde_json::json!({ "host": id, "address": format!("127.0.0.1:{port}") });
        way.write_all(format!("{asked}\n").as_bytes()).await.expect("asked");
        let said = String::from_utf8(first_line(&mut way).await.expect("answered")).expect("text");
        (way, said)
    };
    let knock = |host: &HostId| {
        Knock::of_worker(&client, ca.certificate_pem(), ca.cluster(), host.clone(), member::LOGS).expect("settings")
    };
    let (open, said) = way(&mut world, port).await;
    assert_eq!(said, r#"{"sign":"open"}"#);
    let stream = knock(&id).through(open).await.expect("it is that worker");
    let said = lines(stream, "{}").await.expect("answered");
    assert!(said.len() == 3 && said[1].contains("of the worker"), "{said:?}");
    let (open, _) = way(&mut world, port).await;
    let refused = knock(&HostId::from_random([5; 10])).through(open).await.expect_err("another worker");
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound").local_addr().expect("known");
    let (_, said) = way(&mut world, closed.port()).await;
    assert!(said.contains("does not reach"), "{said}");
    stop.cancel();
    serving.await.expect("no panic");
    let _ = world.end().await;
}
