//! Sessions over real TLS and a real websocket, with the agent's own end of both.

use super::*;
use crate::enrolment::{self, EnrolmentParts};
use crate::environments::{Probe, ProbeError};
use crate::fleet::clock::{boot_now, unix_now};
use crate::fleet::testing::{self, cluster, host, policy};
use crate::model::{BlobSize, EnvironmentRecord, MemberRecord};
use crate::signer::publish;
use crate::signer::testing::signer;
use crate::store::TokenRecord;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use towline_protocol::assignment::RoleKind;
use towline_protocol::enrolment::Attestation;
use towline_protocol::envelope;
use towline_protocol::ids::{Digest, Position, VerifyingKey};
use towline_protocol::message::{CertificatePurpose, FromAgent, FromControlPlane, Hello, Instance, Inventory};
use towline_protocol::report::{IssuedCertificate, Phase, PhaseRecord, Report};
use towline_protocol::roster::Roster;
use towline_protocol::session::CHALLENGE_WITHIN;
use towline_protocol::time::UnixSeconds;
use towline_protocol::user_data::UserData;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::blob_grant;
use towline_transport::client::client_config;
use towline_transport::keys::{self, KeyPair};
use towline_transport::server::{ClientCertificates, Limits, TlsIdentity, serve, server_config};
use towline_transport::websocket::{AgentSocket, ConnectError};

const LIMIT: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A blob store that is never asked.
#[derive(Debug)]
struct NoBlobs;

impl Probe for NoBlobs {
    fn size(&self, _: String) -> BoxFuture<'_, Result<Option<u64>, ProbeError>> {
        async { Ok(None) }.boxed()
    }
}

struct World {
    parts: SessionParts,
    agents_url: String,
    ca: Arc<Authority>,
    joined: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

async fn world() -> World {
    towline_transport::install_crypto_provider();
    let directory = tempfile::tempdir().expect("directory");
    let store = testing::store(directory.path()).await;
    let now = unix_now();
    let ca = Arc::new(Authority::create("test CA", now.minus(DAY), now.plus(DAY * 1000)).expect("authority"));
    let authority = Arc::new(HostAuthority::new(ca.clone(), "test".to_owned(), Duration::from_secs(96 * 3600)));
    let shutdown = CancellationToken::new();
    let (pem, _) = keys::ed25519_generate_pem().expect("key");
    let key = keys::ed25519_from_pem(&pem).expect("key");
    let blobs = Blobs::new("https://127.0.0.1:2".to_owned(), key, Duration::from_secs(600), Box::new(NoBlobs));
    let parts = SessionParts {
        store: store.clone(),
        signer: Arc::new(signer(7)),
        authority: authority.clone(),
        hub: SessionHub::new(),
        fleet: FleetHandle::default(),
        blobs: Arc::new(blobs),
        policy: Arc::new(policy()),
        shutdown: shutdown.clone(),
    };
    let enrolment = EnrolmentParts { store, authority, fleet: parts.fleet.clone() };
    let router = router(parts.clone()).merge(enrolment::router(enrolment));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let tls =
        server_config(&server_identity(&ca), ClientCertificates::Optional { ca_pem: ca.certificate_pem().to_owned() });
    let tls = watch::Sender::new(tls.expect("tls"));
    let joined = tokio::spawn(async move {
        let receiver = tls.subscribe();
        serve(listener, receiver, router, Limits::default(), shutdown).await.expect("served");
    });
    World { parts, agents_url: format!("https://127.0.0.1:{port}"), ca, joined, _directory: directory }
}

fn server_identity(ca: &Authority) -> TlsIdentity {
    let key = KeyPair::generate().expect("key");
    let now = unix_now();
    let chain = ca.issue(&CertificateRequest {
        spki: key.spki(),
        common_name: "server".to_owned(),
        uris: Vec::new(),
        dns_names: Vec::new(),
        ip_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        server: true,
        client: false,
        not_before: now.minus(DAY),
        not_after: now.plus(DAY),
    });
    TlsIdentity { chain_pem: chain.expect("issued"), key_pem: key.to_pem().to_string() }
}

/// One agent: enrolled, with its Dask key.
struct Agent {
    host: HostId,
    identity: TlsIdentity,
    dask: KeyPair,
    instance: Instance,
}

impl World {
    async fn stop(self) {
        self.parts.shutdown.cancel();
        timeout(LIMIT, self.joined).await.expect("in time").expect("joined");
    }

    /// Write cluster and hosts down and enrol the hosts.
    async fn start(&self, roles: &[RoleKind]) -> Vec<Agent> {
        let store = &self.parts.store;
        store.insert_cluster(cluster(1), None).await.expect("cluster");
        let mut agents = Vec::new();
        for (n, role) in (1u8..).zip(roles) {
            let record = host(n, *role);
            store.insert_host(record.clone()).await.expect("host");
            agents.push(self.enrol(&record.id, n).await);
        }
        agents
    }

    async fn enrol(&self, host: &HostId, n: u8) -> Agent {
        let token = keys::random_hex(32);
        let expires_at = unix_now().plus(Duration::from_secs(300));
        let hash = Digest::of(token.as_bytes());
        self.parts.store.put_token(TokenRecord { hash, host: host.clone(), expires_at }).await.expect("token");
        let cluster = cluster(1);
        let user_data = UserData {
            v: 0,
            control_plane: self.agents_url.clone(),
            control_plane_ca: self.ca.certificate_pem().to_owned(),
            root_key: VerifyingKey::from_bytes([0; 32]),
            trust_domain: "test".to_owned(),
            workspace: cluster.workspace,
            cluster: cluster.id,
            host: host.clone(),
            token: Some(token),
        };
        let key = KeyPair::generate().expect("key");
        let grant =
            towline_transport::enrol::enrol(&user_data, &key, Attestation::Local, LIMIT).await.expect("enrolled");
        Agent {
            host: host.clone(),
            identity: TlsIdentity { chain_pem: grant.certificate_chain, key_pem: key.to_pem().to_string() },
            dask: KeyPair::generate().expect("key"),
            instance: Instance { machine: Digest::of(&[n]), boot: Digest::of(b"boot") },
        }
    }

    async fn connect(&self, identity: Option<&TlsIdentity>) -> Result<AgentSocket, ConnectError> {
        let tls = client_config(self.ca.certificate_pem(), identity).expect("tls");
        AgentSocket::connect(&self.agents_url, tls).await
    }

    async fn open(&self, agent: &Agent) -> Talk {
        let socket = self.connect(Some(&agent.identity)).await.expect("connected");
        let mut talk = Talk { socket };
        talk.send(&FromAgent::Hello(hello(agent))).await;
        talk
    }

    async fn publish(&self) {
        let SessionParts { store, signer, policy, hub, .. } = &self.parts;
        let cluster = store.cluster(&cluster(1).id).await.expect("read").expect("there");
        let hosts = store.hosts_of(&cluster.id).await.expect("hosts");
        for host in &hosts {
            publish::assignment(store, signer, policy, &cluster, host, unix_now()).await.expect("signed");
        }
        let clients = store.members_of(&cluster.id).await.expect("members");
        let membership = publish::Membership { cluster: &cluster, hosts: &hosts, clients: &clients, held: None };
        publish::roster(store, signer, membership, unix_now()).await.expect("signed");
        for host in &hosts {
            hub.poke(&host.id);
        }
    }
}

fn hello(agent: &Agent) -> Hello {
    Hello {
        speaks: vec![0],
        agent_version: "0.1.0".to_owned(),
        instance: agent.instance.clone(),
        starts: 1,
        last: None,
        roster_version: None,
        inventory: Inventory::default(),
        dask_spki: Some(agent.dask.spki()),
    }
}

struct Talk {
    socket: AgentSocket,
}

impl Talk {
    async fn send(&mut self, frame: &FromAgent) {
        timeout(LIMIT, self.socket.send(frame)).await.expect("in time").expect("sent");
    }

    async fn receive(&mut self) -> FromControlPlane {
        timeout(LIMIT, self.socket.receive()).await.expect("in time").expect("a frame")
    }

    /// Skip frames until one fits.
    async fn until<T>(&mut self, fits: impl Fn(FromControlPlane) -> Option<T>) -> T {
        loop {
            if let Some(found) = fits(self.receive().await) {
                return found;
            }
        }
    }

    async fn welcome(&mut self) -> String {
        self.until(|frame| match frame {
            FromControlPlane::Welcome { nonce, .. } => Some(nonce),
            _ => None,
        })
        .await
    }

    async fn refusal(&mut self) -> SessionRefusal {
        self.until(|frame| match frame {
            FromControlPlane::Refused { code } => Some(code),
            _ => None,
        })
        .await
    }
}

#[tokio::test]
async fn a_host_says_hello_gets_its_papers_and_leases() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Scheduler]).await;
    let mut talk = world.open(&agents[0]).await;
    talk.welcome().await;
    assert!(matches!(talk.receive().await, FromControlPlane::Delegation { .. }));
    assert!(matches!(talk.receive().await, FromControlPlane::Assignment { .. }), "signed on the spot");
    world.publish().await;
    let roster = talk
        .until(|frame| match frame {
            FromControlPlane::Roster { envelope } => Some(envelope),
            _ => None,
        })
        .await;
    let key = world.parts.signer.verifying_key();
    let roster = envelope::verify::<Roster>(&roster, &key).expect("signed by us").into_document();
    assert_eq!(roster.entries[0].spki, agents[0].dask.spki());

    let phases = vec![PhaseRecord { phase: Phase::Synced, at: UnixSeconds(0), millis: 3 }];
    talk.send(&FromAgent::Report(Box::new(Report { phases, ..Report::default() }))).await;
    assert!(matches!(talk.receive().await, FromControlPlane::Lease { .. }));
    let record = world.parts.store.host(&agents[0].host).await.expect("read").expect("there");
    assert_eq!(record.said.reports, 1);
    assert!(crate::fleet::observed::reached(&record, crate::model::StartPhase::Synced));
    world.stop().await;
}

#[tokio::test]
async fn a_host_that_is_ahead_of_a_restored_store_gets_a_roster_it_can_accept() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Scheduler]).await;
    let mut talk = world.open(&agents[0]).await;
    talk.welcome().await;
    world.publish().await;
    let version = |frame| match frame {
        FromControlPlane::Roster { envelope } => {
            let key = world.parts.signer.verifying_key();
            Some(envelope::verify::<Roster>(&envelope, &key).expect("signed by us").document().version)
        }
        _ => None,
    };
    assert_eq!(talk.until(version).await, 1);
    drop(talk);
    let socket = world.connect(Some(&agents[0].identity)).await.expect("connected");
    let mut talk = Talk { socket };
    talk.send(&FromAgent::Hello(Hello { roster_version: Some(9), ..hello(&agents[0]) })).await;
    talk.welcome().await;
    assert_eq!(talk.until(version).await, 10, "the stored bytes would be refused as a replay");
    world.stop().await;
}

#[tokio::test]
async fn certificates_find_their_way_to_the_workers_and_clients() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Scheduler, RoleKind::Worker]).await;
    let client = KeyPair::generate().expect("key").spki();
    let member = MemberRecord {
        cluster: cluster(1).id,
        id: "client-a".to_owned(),
        spki: client.clone(),
        person: None,
        admission: testing::envelope(),
        not_after: UnixSeconds(u64::MAX / 2),
        certificate: None,
    };
    world.parts.store.put_member(member).await.expect("member");
    let (mut scheduler, mut worker) = (world.open(&agents[0]).await, world.open(&agents[1]).await);
    scheduler.welcome().await;
    worker.welcome().await;
    let issued = |member: &str, key, certificate: &str| IssuedCertificate {
        member: member.to_owned(),
        key,
        certificate: certificate.to_owned(),
    };
    let worker_key = agents[1].dask.spki().key_id();
    let report = Report {
        cluster_ca: Some("the cluster's CA".to_owned()),
        issued: vec![
            issued(agents[1].host.as_str(), worker_key.clone(), "the worker's"),
            issued("client-a", client.key_id(), "the client's"),
            issued(agents[0].host.as_str(), worker_key.clone(), "for another key"),
        ],
        ..Report::default()
    };
    scheduler.send(&FromAgent::Report(Box::new(report))).await;
    // The lease comes after everything in the report was taken in.
    scheduler.until(|frame| matches!(frame, FromControlPlane::Lease { .. }).then_some(())).await;
    let (purpose, key, chain) = worker
        .until(|frame| match frame {
            FromControlPlane::Certificate { purpose, key, chain } => Some((purpose, key, chain)),
            _ => None,
        })
        .await;
    assert_eq!((purpose, key), (CertificatePurpose::DaskNode, worker_key));
    assert_eq!(chain, "the worker's\nthe cluster's CA\n");
    let members = world.parts.store.members_of(&cluster(1).id).await.expect("members");
    assert_eq!(members[0].certificate.as_deref(), Some("the client's"));
    let scheduler_host = world.parts.store.host(&agents[0].host).await.expect("read").expect("there");
    assert_eq!(scheduler_host.dask.certificate, None, "a certificate for another key is not delivered");
    world.stop().await;
}

#[tokio::test]
async fn a_worker_cannot_make_certificates() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Scheduler, RoleKind::Worker]).await;
    let mut worker = world.open(&agents[1]).await;
    worker.welcome().await;
    let own = IssuedCertificate {
        member: agents[1].host.to_string(),
        key: agents[1].dask.spki().key_id(),
        certificate: "made by a worker".to_owned(),
    };
    let report = Report { cluster_ca: Some("another".to_owned()), issued: vec![own], ..Report::default() };
    worker.send(&FromAgent::Report(Box::new(report))).await;
    worker.until(|frame| matches!(frame, FromControlPlane::Lease { .. }).then_some(())).await;
    let record = world.parts.store.host(&agents[1].host).await.expect("read").expect("there");
    assert_eq!(record.dask.certificate, None);
    let cluster = world.parts.store.cluster(&cluster(1).id).await.expect("read").expect("there");
    assert_eq!(cluster.cluster_ca, None);
    world.stop().await;
}

#[tokio::test]
async fn a_silent_connection_is_fenced_by_the_next_one() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    // Welcomed, then never reads or answers again: what is left of a cut cable.
    let mut old = world.open(&agents[0]).await;
    old.welcome().await;
    let started = std::time::Instant::now();
    let mut new = world.open(&agents[0]).await;
    new.welcome().await;
    assert!(started.elapsed() >= CHALLENGE_WITHIN);
    assert_eq!(old.refusal().await, SessionRefusal::Fenced);
    world.stop().await;
}

#[tokio::test]
async fn a_clone_and_its_model_are_both_shut_out() {
    let world = world().await;
    let mut agents = world.start(&[RoleKind::Worker]).await;
    let mut model = world.open(&agents[0]).await;
    model.welcome().await;
    let instance = agents[0].instance.clone();
    agents[0].instance.machine = Digest::of(b"another machine");
    let mut copy = world.open(&agents[0]).await;
    let nonce = model
        .until(|frame| match frame {
            FromControlPlane::Challenge { nonce } => Some(nonce),
            _ => None,
        })
        .await;
    model.send(&FromAgent::ChallengeAnswer { nonce, instance }).await;
    assert_eq!(model.refusal().await, SessionRefusal::Banned);
    assert_eq!(copy.refusal().await, SessionRefusal::Banned);
    let record = world.parts.store.host(&agents[0].host).await.expect("read").expect("there");
    assert_eq!(record.state, HostState::Banned);
    let mut again = world.open(&agents[0]).await;
    assert_eq!(again.refusal().await, SessionRefusal::Banned);
    world.stop().await;
}

#[tokio::test]
async fn a_duplicate_of_a_living_session_is_refused() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let mut first = world.open(&agents[0]).await;
    first.welcome().await;
    let mut second = world.open(&agents[0]).await;
    let nonce = first
        .until(|frame| match frame {
            FromControlPlane::Challenge { nonce } => Some(nonce),
            _ => None,
        })
        .await;
    first.send(&FromAgent::ChallengeAnswer { nonce, instance: agents[0].instance.clone() }).await;
    assert_eq!(second.refusal().await, SessionRefusal::AlreadyConnected);
    world.stop().await;
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate_of_a_living_host() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    assert!(matches!(world.connect(None).await, Err(ConnectError::Refused(401))));

    // Good for TLS, but not a host's name.
    let server = server_identity(&world.ca);
    assert!(world.connect(Some(&server)).await.is_err());

    world.parts.store.update_host(&agents[0].host, |host| host.state = HostState::Ended).await.expect("ended");
    let mut late = world.open(&agents[0]).await;
    assert_eq!(late.refusal().await, SessionRefusal::UnknownHost);
    world.stop().await;
}

#[tokio::test]
async fn a_host_that_ends_while_connected_is_told() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let mut talk = world.open(&agents[0]).await;
    talk.welcome().await;
    world.parts.store.update_host(&agents[0].host, |host| host.state = HostState::Ended).await.expect("ended");
    world.parts.hub.poke(&agents[0].host);
    assert_eq!(talk.refusal().await, SessionRefusal::UnknownHost);
    world.stop().await;
}

#[tokio::test]
async fn a_renewal_needs_the_proof_and_gives_a_certificate_for_the_new_key() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let mut talk = world.open(&agents[0]).await;
    let nonce = talk.welcome().await;
    let key = KeyPair::generate().expect("key");
    let proof = key.sign(&[b"towline-renewal-v0".as_slice(), nonce.as_bytes()].concat()).expect("signed");
    talk.send(&FromAgent::Renewal { spki: key.spki(), proof: STANDARD.encode(proof) }).await;
    let chain = talk
        .until(|frame| match frame {
            FromControlPlane::Certificate { purpose: CertificatePurpose::Identity, chain, .. } => Some(chain),
            _ => None,
        })
        .await;
    drop(talk);
    let identity = TlsIdentity { chain_pem: chain, key_pem: key.to_pem().to_string() };
    let renewed = Agent { identity, dask: KeyPair::generate().expect("key"), ..world.same(&agents[0]) };
    world.open(&renewed).await.welcome().await;

    let mut talk = world.open(&renewed).await;
    let bad = FromAgent::Renewal { spki: key.spki(), proof: STANDARD.encode(b"not a signature") };
    talk.welcome().await;
    talk.send(&bad).await;
    assert_eq!(talk.refusal().await, SessionRefusal::Malformed);
    world.stop().await;
}

#[tokio::test]
async fn an_old_certificate_renews_itself_although_the_agent_reports_first() {
    let world = world().await;
    let mut agents = world.start(&[RoleKind::Worker]).await;
    let key = KeyPair::generate().expect("key");
    let long_ago = unix_now().minus(Duration::from_secs(25 * 3600));
    let old = world.parts.authority.issue(&cluster(1), &agents[0].host, &key.spki(), long_ago).expect("issued");
    agents[0].identity = TlsIdentity { chain_pem: old.chain.clone(), key_pem: key.to_pem().to_string() };
    world.parts.store.update_host(&agents[0].host, |host| host.enrolment = Some(old)).await.expect("enrolled");
    let mut talk = world.open(&agents[0]).await;
    let nonce = talk.welcome().await;
    // As the agent does: what it has to tell goes out with the welcome.
    talk.send(&FromAgent::Report(Box::default())).await;
    let next = KeyPair::generate().expect("key");
    let proof = next.sign(&[b"towline-renewal-v0".as_slice(), nonce.as_bytes()].concat()).expect("signed");
    talk.send(&FromAgent::Renewal { spki: next.spki(), proof: STANDARD.encode(proof) }).await;
    assert!(matches!(talk.receive().await, FromControlPlane::Certificate { .. }), "nothing before it");
    talk.until(|frame| matches!(frame, FromControlPlane::Lease { .. }).then_some(())).await;
    let record = world.parts.store.host(&agents[0].host).await.expect("read").expect("there");
    assert_eq!(record.said.reports, 1, "the report counts once the host may speak");
    world.stop().await;
}

impl World {
    fn same(&self, agent: &Agent) -> Agent {
        Agent {
            host: agent.host.clone(),
            identity: agent.identity.clone(),
            dask: KeyPair::generate().expect("key"),
            instance: agent.instance.clone(),
        }
    }
}

#[tokio::test]
async fn blobs_are_granted_from_the_hosts_own_environment_only() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let cluster = cluster(1);
    let (lock, other) = (cluster.environment.digest.clone(), Digest::of(b"somebody else's"));
    let environment = EnvironmentRecord {
        digest: lock.clone(),
        workspace: cluster.workspace.clone(),
        interpreter: "cpython-3.11.2".to_owned(),
        platform: "x86_64-manylinux_2_36".to_owned(),
        packages: Vec::new(),
        blobs: vec![BlobSize { digest: lock.clone(), size: 9 }],
        complete: true,
        created_at_ms: 0,
    };
    world.parts.store.put_environment(environment).await.expect("environment");
    let mut talk = world.open(&agents[0]).await;
    talk.welcome().await;
    talk.send(&FromAgent::BlobRequest { digests: vec![lock.clone(), other] }).await;
    let grants = talk
        .until(|frame| match frame {
            FromControlPlane::BlobGrants { grants } => Some(grants),
            _ => None,
        })
        .await;
    assert_eq!(grants.iter().map(|grant| &grant.digest).collect::<Vec<_>>(), [&lock]);
    assert!(grants[0].not_after <= unix_now().plus(blob_grant::MAX_GRANT));
    world.stop().await;
}

#[tokio::test]
async fn a_store_restored_from_an_older_backup_is_outbid_on_connection() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let socket = world.connect(Some(&agents[0].identity)).await.expect("connected");
    let mut talk = Talk { socket };
    let held = Position { epoch: towline_protocol::ids::Epoch(6), generation: towline_protocol::ids::Generation(40) };
    talk.send(&FromAgent::Hello(Hello { last: Some(held), ..hello(&agents[0]) })).await;
    let envelope = talk
        .until(|frame| match frame {
            FromControlPlane::Assignment { envelope } => Some(envelope),
            _ => None,
        })
        .await;
    let key = world.parts.signer.verifying_key();
    let assignment = envelope::verify::<towline_protocol::assignment::Assignment>(&envelope, &key).expect("ours");
    assert!(assignment.document().position() > held);
    world.stop().await;
}

#[tokio::test]
async fn an_agent_of_another_age_is_given_up_with_the_remedy() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let socket = world.connect(Some(&agents[0].identity)).await.expect("connected");
    let mut talk = Talk { socket };
    talk.send(&FromAgent::Hello(Hello { speaks: vec![77], ..hello(&agents[0]) })).await;
    assert_eq!(talk.refusal().await, SessionRefusal::AgentTooOld);
    let record = loop {
        let record = world.parts.store.host(&agents[0].host).await.expect("read").expect("there");
        if record.state != HostState::Starting {
            break record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(record.state, HostState::Failed);
    assert_eq!(record.reason.map(|reason| reason.code).as_deref(), Some("agent_too_old"));
    world.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_none_of_ours_ends_the_session() {
    let world = world().await;
    let agents = world.start(&[RoleKind::Worker]).await;
    let socket = world.connect(Some(&agents[0].identity)).await.expect("connected");
    let mut talk = Talk { socket };
    // A report before the hello has no place.
    talk.send(&FromAgent::Report(Box::default())).await;
    assert_eq!(talk.refusal().await, SessionRefusal::Malformed);
    let now = boot_now();
    assert!(world.parts.hub.tick(now).is_empty());
    world.stop().await;
}
