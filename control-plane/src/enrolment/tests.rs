//! Enrolment over its routes, with a real store and a real authority.

use super::*;
use crate::fleet::testing::{self, cluster, host};
use crate::model::HostState;
use crate::store::TokenRecord;
use axum::body::Body;
use http::{Request, StatusCode};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tower::ServiceExt as _;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
use towline_protocol::time::UnixSeconds;
use towline_transport::authority::Authority;
use towline_transport::certificate::PeerCertificate;
use towline_transport::keys::KeyPair;

const TOKEN: &str = "a-token-of-256-bit";

struct World {
    router: Router,
    store: Store,
    host: HostId,
    _directory: tempfile::TempDir,
}

async fn world() -> World {
    world_with(REQUEST_DEADLINE).await
}

async fn world_with(deadline: Duration) -> World {
    let directory = tempfile::tempdir().expect("directory");
    let store = testing::store(directory.path()).await;
    let cluster = cluster(1);
    let host = host(1, RoleKind::Worker);
    store.insert_cluster(cluster, None).await.expect("cluster");
    store.insert_host(host.clone()).await.expect("host");
    put_token(&store, &host.id, TOKEN, clock::unix_now().plus(Duration::from_secs(300))).await;
    let now = clock::unix_now();
    let authority =
        Authority::create("test CA", now.minus(Duration::from_secs(60)), now.plus(Duration::from_secs(1_000_000)))
            .expect("authority");
    let authority = HostAuthority::new(Arc::new(authority), "test".to_owned(), Duration::from_secs(96 * 3600));
    let parts = EnrolmentParts { store: store.clone(), authority: Arc::new(authority), fleet: FleetHandle::default() };
    World { router: routes(parts, deadline), store, host: host.id, _directory: directory }
}

async fn put_token(store: &Store, host: &HostId, token: &str, expires_at: UnixSeconds) {
    let hash = Digest::of(token.as_bytes());
    store.put_token(TokenRecord { hash, host: host.clone(), expires_at }).await.expect("token");
}

struct Answer {
    status: StatusCode,
    body: serde_json::Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    fn chain(&self) -> &str {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body["certificate_chain"].as_str().expect("a chain")
    }
}

impl World {
    async fn post(&self, path: &str, body: String) -> Answer {
        self.send(path, Body::from(body), None).await
    }

    async fn send(&self, path: &str, body: Body, from: Option<SocketAddr>) -> Answer {
        let mut request = Request::post(path).body(body).expect("request");
        if let Some(remote) = from {
            request.extensions_mut().insert(Peer { remote, certificate: None });
        }
        let response = self.router.clone().oneshot(request).await.expect("answer");
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
        Answer { status, body: serde_json::from_slice(&bytes).expect("json") }
    }

    async fn challenge(&self) -> String {
        let answer = self.post("/enroll/challenge", "{}".to_owned()).await;
        answer.body["challenge"].as_str().expect("challenge").to_owned()
    }

    async fn request(&self, key: &KeyPair, token: &str) -> EnrolmentRequest {
        let challenge = self.challenge().await;
        let spki = key.spki();
        let proof = key.sign(&proof_bytes(&challenge, &self.host, token, &spki)).expect("signed");
        EnrolmentRequest {
            v: WIRE_VERSION,
            host: self.host.clone(),
            challenge,
            spki,
            proof: STANDARD.encode(proof),
            token: token.to_owned(),
            attestation: Attestation::Local,
        }
    }

    async fn enrol(&self, request: &EnrolmentRequest) -> Answer {
        self.post("/enroll", serde_json::to_string(request).expect("json")).await
    }

    async fn enrol_with(&self, key: &KeyPair) -> Answer {
        let request = self.request(key, TOKEN).await;
        self.enrol(&request).await
    }
}

#[tokio::test]
async fn the_same_key_gets_the_same_certificate_again() {
    let world = world().await;
    let key = KeyPair::generate().expect("key");
    let first = world.enrol_with(&key).await;
    let second = world.enrol_with(&key).await;
    assert_eq!(first.chain(), second.chain());
    let certificate = PeerCertificate::from_pem(first.chain()).expect("certificate");
    assert_eq!(certificate.spki, key.spki());
    let cluster = cluster(1);
    let name = format!("spiffe://test/workspace/{}/cluster/{}/host/{}", cluster.workspace, cluster.id, world.host);
    assert_eq!(certificate.uris, [name]);
    let record = world.store.host(&world.host).await.expect("read").expect("there");
    assert!(crate::fleet::observed::reached(&record, StartPhase::Booted));
}

#[tokio::test]
async fn two_hundred_keys_at_once_get_one_certificate() {
    let world = Arc::new(world().await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let world = world.clone();
        tasks.spawn(async move {
            let key = KeyPair::generate().expect("key");
            world.enrol_with(&key).await
        });
    }
    let answers = tasks.join_all().await;
    let good = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let codes: BTreeSet<&str> =
        answers.iter().filter(|answer| answer.status != StatusCode::OK).map(Answer::code).collect();
    assert_eq!((good, codes), (1, BTreeSet::from(["token_spent"])));
}

#[tokio::test]
async fn a_second_token_of_one_host_does_not_make_a_second_identity() {
    let world = world().await;
    put_token(&world.store, &world.host, "another", clock::unix_now().plus(Duration::from_secs(300))).await;
    let key = KeyPair::generate().expect("key");
    world.enrol_with(&key).await.chain();
    let thief = KeyPair::generate().expect("key");
    let request = world.request(&thief, "another").await;
    let answer = world.enrol(&request).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "token_spent"));
}

#[tokio::test]
async fn each_wrong_request_gets_its_own_word() {
    let world = world().await;
    let key = KeyPair::generate().expect("key");
    let good = world.request(&key, TOKEN).await;

    let unknown = world.request(&key, "not-the-token").await;
    assert_eq!(world.enrol(&unknown).await.code(), "token_unknown");

    put_token(&world.store, &world.host, "old", clock::unix_now().minus(Duration::from_secs(1))).await;
    let expired = world.request(&key, "old").await;
    assert_eq!(world.enrol(&expired).await.code(), "token_expired");

    let mut other_host = world.request(&key, TOKEN).await;
    other_host.host = HostId::from_random([9; 10]);
    assert_eq!(world.enrol(&other_host).await.code(), "proof_invalid", "the proof covers the host");

    let mut never_given = good.clone();
    never_given.challenge = "0".repeat(64);
    assert_eq!(world.enrol(&never_given).await.code(), "challenge_unknown");

    let mut other_version = world.request(&key, TOKEN).await;
    other_version.v = 99;
    assert_eq!(world.enrol(&other_version).await.code(), "wire_version");

    assert_eq!(world.post("/enroll", "{\"v\":0,\"v\":0}".to_owned()).await.code(), "malformed");

    world.enrol(&good).await.chain();
    assert_eq!(world.enrol(&good).await.code(), "challenge_unknown", "a challenge serves once");
}

#[tokio::test]
async fn a_host_that_is_shut_out_gets_nothing() {
    let world = world().await;
    world.store.update_host(&world.host, |host| host.state = HostState::Banned).await.expect("banned");
    let answer = world.enrol_with(&KeyPair::generate().expect("key")).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::GONE, "host_gone"));
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read() {
    let world = world().await;
    let answer = world.post("/enroll", "x".repeat(BODY_LIMIT + 1)).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
}

/// A body that never ends: a byte at a time, each counted.
fn trickle(sent: Arc<AtomicUsize>) -> Body {
    Body::from_stream(futures_util::stream::unfold(sent, |sent| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        sent.fetch_add(1, Ordering::Relaxed);
        Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")), sent))
    }))
}

#[tokio::test]
async fn a_body_that_trickles_in_is_given_up_at_the_deadline() {
    let world = world_with(Duration::from_millis(200)).await;
    let asked = tokio::time::timeout(Duration::from_secs(10), world.send("/enroll", trickle(Arc::default()), None));
    let answer = asked.await.expect("an answer at the deadline");
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "deadline_exceeded"));
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_refused_before_its_body_is_read() {
    let world = world_with(Duration::from_millis(200)).await;
    let address = SocketAddr::from(([10, 0, 0, 1], 1));
    for _ in 0..rate::BURST * 2 {
        let answer = world.send("/enroll", Body::from("{}"), Some(address)).await;
        if answer.code() != "too_many_requests" {
            continue;
        }
        let sent = Arc::new(AtomicUsize::new(0));
        let refused = world.send("/enroll", trickle(sent.clone()), Some(address)).await;
        // One request may have been given back in between; then this address goes on.
        if refused.code() == "too_many_requests" {
            assert_eq!(sent.load(Ordering::Relaxed), 0, "the body was read");
            return;
        }
    }
    panic!("the limit was never reached");
}
