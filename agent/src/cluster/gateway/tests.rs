//! Who is let in and who is refused, with real TLS on the loopback and a service that answers in capitals.

use super::*;
use std::net::Ipv4Addr;
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
    let key = KeyPair::generate().expect("a key");
    let now = unix_time();
    let not_after = now.plus(Duration::from_secs(3600));
    let member = Member { id: "a-member".into(), role, spki: key.spki(), not_after, admission: None };
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
        Some(Plan { authority: authority.clone(), host, address: Ipv4Addr::LOCALHOST.into(), port: 0 })
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
        if self.gateway.port().is_none() {
            let listens = self.gateway.port_changed();
            tokio::time::timeout(Duration::from_secs(10), listens).await.expect("it listens");
        }
        self.gateway.port().expect("it listens")
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
        tokio::time::timeout(Duration::from_secs(10), gateway.port_changed()).await.expect("it listens");
        stop.cancel();
        task.await.expect("no panic");
        gateway.port()
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
