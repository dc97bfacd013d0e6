//! A control plane of protocol parts: real TLS, the real session state machine, signed documents, no store.

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::get;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use towline_agent::runner::facts::{boot_time, unix_time};
use towline_protocol::assignment::*;
use towline_protocol::envelope::{self, Envelope};
use towline_protocol::ids::*;
use towline_protocol::lease::Lease;
use towline_protocol::message::{self, BlobGrant, CertificatePurpose, FromControlPlane, Hello};
use towline_protocol::report::{Event, Report};
use towline_protocol::roster::{Member, MemberRole, Roster};
use towline_protocol::session::{ControlPlaneEvent, ControlPlaneSession};
use towline_protocol::time::UnixSeconds;
use towline_protocol::trust::Delegation;
use towline_protocol::user_data::UserData;
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::keys::{self, KeyPair};
use towline_transport::server::{self, ClientCertificates, Limits, Peer};

pub const TRUST_DOMAIN: &str = "towline.test";
/// More than any test makes an agent say.
const HEARD: usize = 65_536;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a test sees of the agent.
#[derive(Clone, Debug)]
pub enum Heard {
    Event(Event),
    Hello(Hello),
    Report(Box<Report>),
}

/// What the fake sends by itself.
struct Plan {
    delegation: Option<Envelope>,
    assignment: Option<Envelope>,
    roster: Option<Envelope>,
    newest: Option<Position>,
    leases: bool,
}

struct Shared {
    plan: Mutex<Plan>,
    signing: aws_lc_rs::signature::Ed25519KeyPair,
    authority: Arc<Authority>,
    who: Who,
    heard: mpsc::Sender<Heard>,
    push: broadcast::Sender<FromControlPlane>,
}

/// The ids that every document of a test carries.
#[derive(Clone)]
pub struct Who {
    pub workspace: WorkspaceId,
    pub cluster: ClusterId,
    pub host: HostId,
}

pub struct ControlPlane {
    pub who: Who,
    pub root: VerifyingKey,
    pub signer: VerifyingKey,
    root_key: aws_lc_rs::signature::Ed25519KeyPair,
    authority: Arc<Authority>,
    owner: VerifyingKey,
    address: SocketAddr,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    shared: Arc<Shared>,
    heard: mpsc::Receiver<Heard>,
    past: VecDeque<Heard>,
    running: Option<(CancellationToken, tokio::task::JoinHandle<std::io::Result<()>>)>,
}

impl ControlPlane {
    pub async fn start() -> Self {
        towline_transport::install_crypto_provider();
        let now = unix_time();
        // Longer than an identity: what it issues is not old from the start.
        let authority = Authority::create("Test control plane", now.minus(DAY), now.plus(30 * DAY));
        let authority = Arc::new(authority.expect("a CA"));
        let ed25519 = || {
            let (pem, public) = keys::ed25519_generate_pem().expect("a key");
            (keys::ed25519_from_pem(&pem).expect("readable"), public)
        };
        let ((root_key, root), (signing, signer), (_, owner)) = (ed25519(), ed25519(), ed25519());
        let who = Who {
            workspace: WorkspaceId::from_random(keys::random_id()),
            cluster: ClusterId::from_random(keys::random_id()),
            host: HostId::from_random(keys::random_id()),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let identity = issue(&authority, vec![], true);
        let clients = ClientCertificates::Optional { ca_pem: authority.certificate_pem().to_owned() };
        let config = server::server_config(&identity, clients).expect("TLS");
        let (heard_sender, heard) = mpsc::channel(HEARD);
        let plan = Plan { delegation: None, assignment: None, roster: None, newest: None, leases: true };
        let shared = Arc::new(Shared {
            plan: Mutex::new(plan),
            signing,
            authority: authority.clone(),
            who: who.clone(),
            heard: heard_sender,
            push: broadcast::channel(64).0,
        });
        let mut this = Self {
            who,
            root,
            signer,
            root_key,
            authority,
            owner,
            address,
            tls: watch::channel(config).1,
            shared,
            heard,
            past: VecDeque::new(),
            running: None,
        };
        this.delegate(1);
        this.serve(listener);
        this
    }

    fn serve(&mut self, listener: TcpListener) {
        let router = Router::new().route("/agent/v1", get(upgrade)).with_state(self.shared.clone());
        let stop = CancellationToken::new();
        let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
        let task = tokio::spawn(server::serve(listener, self.tls.clone(), router, limits, stop.clone()));
        self.running = Some((stop, task));
    }

    /// As a `kill -9` looks from outside.
    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.expect("no panic").expect("served");
        }
    }

    pub async fn restart(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.serve(listener);
    }

    pub fn user_data(&self) -> UserData {
        UserData {
            v: 0,
            control_plane: format!("https://{}", self.address),
            control_plane_ca: self.authority.certificate_pem().to_owned(),
            root_key: self.root.clone(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            workspace: self.who.workspace.clone(),
            cluster: self.who.cluster.clone(),
            host: self.who.host.clone(),
            token: None,
        }
    }

    /// A host's identity, as enrolment would give it.
    pub fn identity(&self) -> TlsIdentity {
        issue(&self.authority, vec![format!("spiffe://{TRUST_DOMAIN}/test")], false)
    }

    pub fn delegate(&mut self, version: u64) {
        let now = unix_time();
        let delegation = Delegation {
            v: 0,
            key: self.signer.clone(),
            workspaces: vec![self.who.workspace.clone()],
            version,
            epoch_floor: Epoch(0),
            not_before: now.minus(DAY),
            not_after: now.plus(DAY),
        };
        self.plan().delegation = Some(envelope::sign(&delegation, &self.root_key));
    }

    /// A whole assignment of generation `generation`; tests change what they are about.
    pub fn assignment(&self, generation: u64, kind: RoleKind, logs: &std::path::Path) -> Assignment {
        let now = unix_time();
        let digest = Digest::of(b"environment");
        let interpreter = Interpreter { implementation: "cpython".into(), version: "3.11.2".into(), sha256: None };
        Assignment {
            v: 0,
            audience: self.who.host.clone(),
            workspace: self.who.workspace.clone(),
            cluster: self.who.cluster.clone(),
            owner: self.owner.clone(),
            epoch: Epoch(1),
            generation: Generation(generation),
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(900)),
            lifecycle: Lifecycle::Run,
            environment: Some(EnvironmentSpec { digest, interpreter, kind: EnvironmentKind::Wheels }),
            role: Some(Role {
                kind,
                profile: Profile::Dask,
                processes: 1,
                threads: 1,
                memory_limit: None,
                local_directory: None,
                ports: Ports { dask: 0, gateway: 0 },
                resources: Vec::new(),
                job_sha256: None,
                options: DaskOptions { nanny: false },
            }),
            deadlines: Deadlines {
                agent_lost: 60,
                control_plane_lost: 3600,
                scheduler_lost: 300,
                no_client: Some(600),
                first_client: 600,
                phases: PhaseDeadlines { synced: 30, launched: 30, joined: 30 },
            },
            scheduler: Some(SchedulerAddress { addresses: vec!["tls://127.0.0.1:8786".into()] }),
            logs: LogPlan {
                sink: Sink::File { directory: logs.to_string_lossy().into_owned() },
                stream: "test".into(),
            },
            vitals: VitalsPlan { period: 1 },
            idle: IdlePolicy { after: None, hold_until: None },
            caps: Caps { max_lifetime: 86_400, budget_milli: None },
            scaling: None,
        }
    }

    /// Sign and store; every session gets it.
    pub fn assign(&self, assignment: &Assignment) -> Envelope {
        let envelope = envelope::sign(assignment, &self.shared.signing);
        let mut plan = self.plan();
        plan.assignment = Some(envelope.clone());
        plan.newest = Some(assignment.position());
        drop(plan);
        self.send(FromControlPlane::Assignment { envelope: envelope.clone() });
        envelope
    }

    pub fn sign<T: envelope::Document>(&self, document: &T) -> Envelope {
        envelope::sign(document, &self.shared.signing)
    }

    /// Put these keys on the roster.
    pub fn enlist(&self, version: u64, members: &[(String, MemberRole, Spki)]) {
        let now = unix_time();
        let roster = Roster {
            v: 0,
            audience: self.who.host.clone(),
            workspace: self.who.workspace.clone(),
            cluster: self.who.cluster.clone(),
            epoch: Epoch(1),
            version,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(900)),
            entries: members
                .iter()
                .map(|(id, role, spki)| Member {
                    id: id.clone(),
                    role: *role,
                    spki: spki.clone(),
                    not_after: UnixSeconds(now.0 / 86_400 * 86_400 + 7 * 86_400),
                    admission: None,
                })
                .collect(),
        };
        let envelope = self.sign(&roster);
        self.plan().roster = Some(envelope.clone());
        self.send(FromControlPlane::Roster { envelope });
    }

    /// Give a worker's key its certificate from a cluster CA made on the spot.
    pub fn certify(&self, cluster_ca: &Authority, key: &Spki) {
        let now = unix_time();
        let request = CertificateRequest {
            spki: key.clone(),
            common_name: self.who.host.to_string(),
            uris: vec![format!("spiffe://{TRUST_DOMAIN}/role/worker")],
            dns_names: vec![],
            ip_addresses: vec![],
            server: true,
            client: true,
            not_before: now.minus(DAY),
            not_after: now.plus(DAY),
        };
        let leaf = cluster_ca.issue(&request).expect("a certificate");
        let chain = format!("{leaf}{}", cluster_ca.certificate_pem());
        self.send(FromControlPlane::Certificate { purpose: CertificatePurpose::DaskNode, key: key.key_id(), chain });
    }

    pub fn send(&self, message: FromControlPlane) {
        // Without a session there is nobody to hear it.
        let _ = self.shared.push.send(message);
    }

    /// Stop or go on answering reports.
    pub fn answer_reports(&self, leases: bool) {
        self.plan().leases = leases;
    }

    /// Say in leases that this is the newest assignment.
    pub fn announce(&self, newest: Position) {
        self.plan().newest = Some(newest);
    }

    /// The next thing heard for which `pick` gives something; what else was heard is dropped.
    pub async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&Heard) -> Option<T>) -> T {
        let search = async {
            loop {
                let heard = self.heard.recv().await.expect("the control plane lives");
                let picked = pick(&heard);
                self.past.push_back(heard);
                if let Some(picked) = picked {
                    return picked;
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), search).await {
            Ok(picked) => picked,
            Err(_) => panic!("never heard {what}; heard {:#?}", self.past.iter().rev().take(4).collect::<Vec<_>>()),
        }
    }

    pub async fn report(&mut self, what: &str, fits: impl Fn(&Report) -> bool) -> Report {
        self.until(what, |heard| match heard {
            Heard::Report(report) if fits(report) => Some((**report).clone()),
            _ => None,
        })
        .await
    }

    pub async fn hello(&mut self) -> Hello {
        self.until("a hello", |heard| match heard {
            Heard::Hello(hello) => Some(hello.clone()),
            _ => None,
        })
        .await
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.shared.plan.lock().expect("no panic while held")
    }
}

fn issue(authority: &Authority, uris: Vec<String>, server: bool) -> TlsIdentity {
    let key = KeyPair::generate().expect("a key");
    let now = unix_time();
    let request = CertificateRequest {
        spki: key.spki(),
        common_name: "test".into(),
        uris,
        dns_names: vec![],
        ip_addresses: if server { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { vec![] },
        server,
        client: !server,
        not_before: now.minus(DAY),
        not_after: now.plus(Duration::from_secs(96 * 3600)),
    };
    let leaf = authority.issue(&request).expect("a certificate");
    TlsIdentity { chain_pem: format!("{leaf}{}", authority.certificate_pem()), key_pem: key.to_pem().to_string() }
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    upgrade: WebSocketUpgrade,
) -> Response {
    assert!(peer.certificate.is_some(), "the agent shows its certificate");
    upgrade.on_upgrade(move |socket| converse(shared, socket))
}

async fn converse(shared: Arc<Shared>, mut socket: WebSocket) {
    let mut session = ControlPlaneSession::new(vec![0], boot_time());
    let mut push = shared.push.subscribe();
    loop {
        while let Some(frame) = session.poll_transmit() {
            if socket.send(Message::text(message::to_frame(&frame))).await.is_err() {
                return;
            }
        }
        if session.is_over().is_some() {
            return;
        }
        tokio::select! {
            frame = socket.recv() => {
                let Some(Ok(Message::Text(text))) = frame else { return };
                // Strict: an agent of ours never sends what cannot be read.
                let frame = message::from_agent(text.as_bytes()).expect("a well-formed frame");
                session.handle_frame(frame, boot_time());
                while let Some(event) = session.poll_event() {
                    shared.answer(&mut session, event);
                }
                assert!(session.is_over().is_none(), "the agent broke a rule: {:?}", session.is_over());
            }
            Ok(message) = push.recv() => session.handle_send(message, boot_time()),
        }
    }
}

impl Shared {
    fn answer(&self, session: &mut ControlPlaneSession, event: ControlPlaneEvent) {
        let now = boot_time();
        let plan = self.plan.lock().expect("no panic while held");
        match event {
            ControlPlaneEvent::Hello(hello) => {
                session.admit(keys::random_hex(32));
                let delegation = plan.delegation.clone().map(|envelope| FromControlPlane::Delegation { envelope });
                let assignment = plan.assignment.clone().map(|envelope| FromControlPlane::Assignment { envelope });
                let roster = plan.roster.clone().map(|envelope| FromControlPlane::Roster { envelope });
                for message in [delegation, assignment, roster].into_iter().flatten() {
                    session.handle_send(message, now);
                }
                let _ = self.heard.try_send(Heard::Hello(*hello));
            }
            ControlPlaneEvent::Report(report) => {
                if plan.leases {
                    let lease = Lease {
                        v: 0,
                        audience: self.who.host.clone(),
                        epoch: Epoch(1),
                        newest: plan.newest,
                        now: unix_time(),
                        lease_until: unix_time().plus(Duration::from_secs(90)),
                    };
                    let envelope = envelope::sign(&lease, &self.signing);
                    session.handle_send(FromControlPlane::Lease { envelope }, now);
                }
                let _ = self.heard.try_send(Heard::Report(report));
            }
            ControlPlaneEvent::Event(event) => {
                let _ = self.heard.try_send(Heard::Event(event));
            }
            ControlPlaneEvent::BlobRequest(digests) => {
                let grant = |digest: &Digest| BlobGrant {
                    digest: digest.clone(),
                    url: format!("https://127.0.0.1/v1/blobs/{digest}"),
                    not_after: unix_time().plus(Duration::from_secs(60)),
                };
                let grants = digests.iter().map(grant).collect();
                session.handle_send(FromControlPlane::BlobGrants { grants }, now);
            }
            ControlPlaneEvent::Renewal { spki, .. } => {
                let request = CertificateRequest {
                    spki: spki.clone(),
                    common_name: "renewed".into(),
                    uris: vec![format!("spiffe://{TRUST_DOMAIN}/renewed")],
                    dns_names: vec![],
                    ip_addresses: vec![],
                    server: false,
                    client: true,
                    not_before: unix_time().minus(DAY),
                    not_after: unix_time().plus(Duration::from_secs(96 * 3600)),
                };
                let chain = self.authority.issue(&request).expect("a certificate");
                let (purpose, key) = (CertificatePurpose::Identity, spki.key_id());
                session.handle_send(FromControlPlane::Certificate { purpose, key, chain }, now);
            }
            ControlPlaneEvent::ChallengeAnswer { .. } => {}
        }
    }
}
