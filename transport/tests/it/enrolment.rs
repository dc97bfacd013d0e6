//! The enrolment client against a control plane that can be told to misbehave.

use crate::support::{DAY, Listener, authority, client_request, identity, now};
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use towline_protocol::enrolment::{Attestation, Challenge, EnrolmentGrant, EnrolmentRequest, proof_bytes};
use towline_protocol::ids::{ClusterId, HostId, Spki, VerifyingKey, WorkspaceId};
use towline_protocol::user_data::UserData;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::certificate::PeerCertificate;
use towline_transport::enrol::{EnrolError, enrol};
use towline_transport::keys::{self, KeyPair};
use towline_transport::name::HostName;
use towline_transport::server::{self, ClientCertificates, Limits};

const TOKEN: &str = "tk_a-token-that-must-not-show";
const DEADLINE: Duration = Duration::from_secs(15);

/// What the control plane does with one redemption. The last one is repeated.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Grant,
    LoseReply,
    Problem(u16, &'static str),
    OtherKey,
    OtherHost,
    OtherWorkspace,
    Nonsense,
}

struct ControlPlane {
    authority: Authority,
    told: UserData,
    script: Mutex<VecDeque<Behaviour>>,
    challenges: Mutex<Vec<String>>,
    redeemed: Mutex<Vec<Spki>>,
}

fn problem(status: u16, code: &str) -> Response {
    let body = serde_json::json!({
        "type": format!("urn:towline:error:{code}"), "title": "No", "status": status, "detail": "It cannot be.",
        "code": code, "remedy": "Do something else.",
    });
    let status = StatusCode::from_u16(status).expect("status");
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

async fn challenge(State(plane): State<Arc<ControlPlane>>) -> Json<Challenge> {
    let challenge = keys::random_hex(32);
    plane.challenges.lock().expect("lock").push(challenge.clone());
    Json(Challenge { challenge, expires_at: now().plus(DAY) })
}

async fn redeem(State(plane): State<Arc<ControlPlane>>, Json(request): Json<EnrolmentRequest>) -> Response {
    plane.check(&request);
    let (key, host) = (&request.spki, &request.host);
    let workspace = plane.told.workspace.clone();
    match plane.behaviour() {
        Behaviour::Grant => Json(plane.grant(key, host, &workspace)).into_response(),
        Behaviour::LoseReply => {
            // Granted, but the connection breaks before the answer is through.
            let cut = [Ok("{\"certificate_chain\":"), Err(std::io::Error::other("cut"))];
            let body = Body::from_stream(futures_util::stream::iter(cut));
            ([(header::CONTENT_LENGTH, "5000")], body).into_response()
        }
        Behaviour::Problem(status, code) => problem(status, code),
        Behaviour::OtherKey => {
            let other = KeyPair::generate().expect("key").spki();
            Json(plane.grant(&other, host, &workspace)).into_response()
        }
        Behaviour::OtherHost => {
            let other = HostId::from_random([9; 10]);
            Json(plane.grant(key, &other, &workspace)).into_response()
        }
        Behaviour::OtherWorkspace => {
            let other = WorkspaceId::from_random([9; 10]);
            Json(plane.grant(key, host, &other)).into_response()
        }
        Behaviour::Nonsense => "it works".into_response(),
    }
}

impl ControlPlane {
    fn check(&self, request: &EnrolmentRequest) {
        let proof = STANDARD.decode(&request.proof).expect("base64");
        let signed = proof_bytes(&request.challenge, &request.host, TOKEN, &request.spki);
        assert!(keys::verify(&request.spki, &signed, &proof), "the proof holds");
        assert_eq!(request.token, TOKEN);
        let newest = self.challenges.lock().expect("lock").last().cloned();
        assert_eq!(newest.as_ref(), Some(&request.challenge), "each try answers its own challenge");
        self.redeemed.lock().expect("lock").push(request.spki.clone());
    }

    fn behaviour(&self) -> Behaviour {
        let mut script = self.script.lock().expect("lock");
        let next = if script.len() > 1 { script.pop_front() } else { script.front().copied() };
        next.expect("a script")
    }

    fn grant(&self, spki: &Spki, host: &HostId, workspace: &WorkspaceId) -> EnrolmentGrant {
        let name = HostName {
            trust_domain: self.told.trust_domain.clone(),
            workspace: workspace.clone(),
            cluster: self.told.cluster.clone(),
            host: host.to_string(),
        };
        let wanted = CertificateRequest {
            spki: spki.clone(),
            uris: vec![name.to_uri()],
            ..client_request(&KeyPair::generate().expect("key"))
        };
        let leaf = self.authority.issue(&wanted).expect("leaf");
        EnrolmentGrant {
            certificate_chain: leaf + self.authority.certificate_pem(),
            not_after: wanted.not_after,
            workspace: workspace.clone(),
            cluster: self.told.cluster.clone(),
        }
    }
}

struct Scene {
    listener: Listener,
    plane: Arc<ControlPlane>,
    user_data: UserData,
    key: KeyPair,
}

impl Scene {
    async fn new(script: &[Behaviour]) -> Self {
        let authority = authority();
        let identity = identity(&authority, crate::support::server_request);
        let user_data = UserData {
            v: 0,
            control_plane: String::new(),
            control_plane_ca: authority.certificate_pem().to_owned(),
            root_key: VerifyingKey::from_bytes([1; 32]),
            trust_domain: "demo.towline".to_owned(),
            workspace: WorkspaceId::from_random([1; 10]),
            cluster: ClusterId::from_random([2; 10]),
            host: HostId::from_random([3; 10]),
            token: Some(TOKEN.to_owned()),
        };
        let plane = Arc::new(ControlPlane {
            authority,
            told: user_data.clone(),
            script: Mutex::new(script.iter().copied().collect()),
            challenges: Mutex::default(),
            redeemed: Mutex::default(),
        });
        let router = Router::new()
            .route("/enroll/challenge", post(challenge))
            .route("/enroll", post(redeem))
            .with_state(Arc::clone(&plane));
        let tls = server::server_config(&identity, ClientCertificates::Ignored).expect("config");
        let listener = Listener::start(tls, router, Limits::default()).await;
        let user_data = UserData { control_plane: listener.url.clone(), ..user_data };
        Self { listener, plane, user_data, key: KeyPair::generate().expect("key") }
    }

    async fn enrol(&self, deadline: Duration) -> Result<EnrolmentGrant, EnrolError> {
        let result = enrol(&self.user_data, &self.key, Attestation::Local, deadline).await;
        let shown = format!("{result:?}");
        assert!(!shown.contains(TOKEN), "{shown}");
        result
    }

    fn redeemed(&self) -> Vec<Spki> {
        self.plane.redeemed.lock().expect("lock").clone()
    }
}

#[tokio::test]
async fn a_token_and_a_key_become_a_certificate() {
    let scene = Scene::new(&[Behaviour::Grant]).await;
    let grant = scene.enrol(DEADLINE).await.expect("granted");
    let certificate = PeerCertificate::from_pem(&grant.certificate_chain).expect("certificate");
    assert_eq!(certificate.spki, scene.key.spki());
    assert_eq!(certificate.not_after, grant.not_after);
    scene.listener.stop().await;
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_with_the_same_key() {
    let scene = Scene::new(&[Behaviour::LoseReply, Behaviour::LoseReply, Behaviour::Grant]).await;
    scene.enrol(DEADLINE).await.expect("granted");
    assert_eq!(scene.redeemed(), vec![scene.key.spki(); 3]);
    scene.listener.stop().await;
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again() {
    for (status, code) in
        [(425, "not_known_yet"), (503, "starting"), (429, "slow_down"), (400, "challenge_expired"), (500, "unknown")]
    {
        let scene = Scene::new(&[Behaviour::Problem(status, code), Behaviour::Grant]).await;
        scene.enrol(DEADLINE).await.unwrap_or_else(|error| panic!("{status} {code}: {error}"));
        assert_eq!(scene.redeemed().len(), 2, "{status} {code}");
        scene.listener.stop().await;
    }
    let scene = Scene::new(&[Behaviour::Nonsense, Behaviour::Grant]).await;
    scene.enrol(DEADLINE).await.expect("granted");
    scene.listener.stop().await;
}

#[tokio::test]
async fn a_refusal_for_good_is_not_tried_again() {
    for (status, code) in [(401, "token_unknown"), (403, "token_expired"), (409, "token_redeemed_by_other_key")] {
        let scene = Scene::new(&[Behaviour::Problem(status, code)]).await;
        let error = scene.enrol(DEADLINE).await.expect_err("refused");
        let EnrolError::Refused { refusal } = &error else { panic!("{error:?}") };
        assert_eq!((refusal.status, refusal.code.as_str()), (status, code));
        assert_eq!(refusal.remedy.as_deref(), Some("Do something else."));
        assert!(!error.retryable());
        assert_eq!(scene.redeemed().len(), 1);
        scene.listener.stop().await;
    }
}

#[tokio::test]
async fn refuses_a_grant_that_is_for_somebody_else() {
    for behaviour in [Behaviour::OtherKey, Behaviour::OtherHost, Behaviour::OtherWorkspace] {
        let scene = Scene::new(&[behaviour]).await;
        let error = scene.enrol(DEADLINE).await.expect_err("refused");
        assert!(matches!(error, EnrolError::WrongGrant(_)), "{behaviour:?}: {error:?}");
        scene.listener.stop().await;
    }
}

#[tokio::test]
async fn the_deadline_holds_and_names_the_last_failure() {
    let scene = Scene::new(&[Behaviour::Problem(425, "not_known_yet")]).await;
    let started = Instant::now();
    let error = scene.enrol(Duration::from_millis(700)).await.expect_err("too late");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(error.retryable());
    let EnrolError::Deadline { last, .. } = &error else { panic!("{error:?}") };
    assert!(last.contains("not_known_yet"), "{last}");
    scene.listener.stop().await;
}

#[tokio::test]
async fn a_false_control_plane_never_sees_the_token() {
    let mut scene = Scene::new(&[Behaviour::Grant]).await;
    scene.user_data.control_plane_ca = authority().certificate_pem().to_owned();
    let error = scene.enrol(Duration::from_millis(500)).await.expect_err("refused");
    let EnrolError::Deadline { last, .. } = &error else { panic!("{error:?}") };
    assert!(last.contains("certificate"), "{last}");
    assert!(scene.redeemed().is_empty());
    assert!(scene.plane.challenges.lock().expect("lock").is_empty());
    scene.listener.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_without_a_token() {
    let mut scene = Scene::new(&[Behaviour::Grant]).await;
    scene.user_data.token = None;
    assert!(matches!(scene.enrol(DEADLINE).await, Err(EnrolError::NoToken)));
    scene.listener.stop().await;
}
