//! The proxy between a browser and a gateway, both on the loopback: what passes, what does not, and websockets.

use super::gate::Gate;
use super::proxy;
use super::upstream::Upstream;
use crate::api::Api;
use crate::profiles::Profile;
use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{ClusterId, WorkspaceId};
use towline_protocol::roster::MemberRole;
use towline_protocol::time::UnixSeconds;
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::keys::KeyPair;
use towline_transport::member::{DASHBOARD, Door, Knock};
use towline_transport::name::{gateway_uri, member_uri};

const SECRET: &str = "5ec4e75ec4e7";

fn identity(authority: &Authority, uri: String, server: bool) -> TlsIdentity {
    let key = KeyPair::generate().expect("a key");
    let request = CertificateRequest {
        spki: key.spki(),
        common_name: "a test".to_owned(),
        uris: vec![uri],
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        server,
        client: !server,
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(4_000_000_000),
    };
    TlsIdentity { chain_pem: authority.issue(&request).expect("issued"), key_pem: key.to_pem().to_string() }
}

/// Tells what it was asked; moves on; echoes on a websocket.
async fn pages(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut answer = Response::new(Body::empty());
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.expect("upgraded"));
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.expect("read");
            stream.write_all(&word.map(|letter| letter.to_ascii_uppercase())).await.expect("written");
        });
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
        answer.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
        return Ok(answer);
    }
    if request.uri().path() == "/moved" {
        *answer.status_mut() = StatusCode::FOUND;
        answer.headers_mut().insert("location", "/status".parse().expect("a value"));
        return Ok(answer);
    }
    let headers: &HeaderMap = request.headers();
    let told: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or(""))).collect();
    answer.headers_mut().insert("set-cookie", "a=b".parse().expect("a value"));
    *answer.body_mut() = Body::from(format!("asked {} {}", request.uri(), told.join(" ")));
    Ok(answer)
}

struct World {
    port: u16,
    dialled: Arc<AtomicUsize>,
    end: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        towline_transport::install_crypto_provider();
        let (workspace, cluster) = (WorkspaceId::from_random([1; 10]), ClusterId::from_random([2; 10]));
        let authority = Authority::create("a cluster", UnixSeconds(0), UnixSeconds(4_000_000_000)).expect("made");
        let gateway = identity(&authority, gateway_uri("test", &workspace, &cluster, "ho-a"), true);
        let client = member_uri("test", &workspace, &cluster, "client-a", MemberRole::Client);
        let (client, ca) = (identity(&authority, client, false), authority.certificate_pem());
        let door = Door::new(&gateway, ca, &cluster, &[DASHBOARD]).expect("settings");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let dialled = Arc::new(AtomicUsize::new(0));
        let counted = dialled.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let door = door.clone();
                tokio::spawn(async move {
                    let (stream, service) = door.take(stream).await.expect("let in");
                    assert_eq!(service.as_deref(), Some(DASHBOARD));
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(pages)).with_upgrades().await;
                });
            }
        });
        // Nobody asks it anything while the gateway answers.
        let profile =
            Profile { url: "https://127.0.0.1:1".to_owned(), token: "x".to_owned(), ca_file: None, workspace: None };
        let api = Api::pinned(profile, ca).expect("an API");
        let knock = Knock::new(&client, ca, &cluster, DASHBOARD).expect("settings");
        let upstream = Upstream::new(api, cluster.to_string(), Some(address), knock);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (gate, end) = (Arc::new(Gate::new(port, SECRET.to_owned())), CancellationToken::new());
        let serving = tokio::spawn(proxy::serve(listener, gate, Arc::new(upstream), end.clone()));
        Self { port, dialled, end, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.expect("connected")
    }

    async fn ask(&self, path: &str, headers: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: hub.example.com\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer));
        read.await.expect("in time").expect("answered");
        answer
    }
}

#[tokio::test]
async fn nothing_is_answered_without_the_secret_and_nobody_is_dialled() {
    let world = World::new().await;
    let cookie = format!("cookie: towline={SECRET}\r\n");
    let elsewhere = format!("/x/{SECRET}/status");
    for (path, headers) in [
        ("/status", ""),
        ("/status", cookie.as_str()),
        ("/", "origin: http://127.0.0.1\r\n"),
        (elsewhere.as_str(), ""),
        ("/status/ws", "connection: upgrade\r\nupgrade: websocket\r\n"),
    ] {
        let answer = world.ask(path, headers).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("whole link"), "{path}: {answer}");
    }
    assert_eq!(world.dialled.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_request_passes_without_the_secret_and_without_what_is_other_programs() {
    let world = World::new().await;
    let headers = "cookie: other=1\r\nauthorization: Basic x\r\nreferer: http://a/b\r\norigin: http://hub.example.com\r\nx-own: kept\r\n";
    let answer = world.ask(&format!("/{SECRET}/status?a=b"), headers).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("asked /status?a=b "), "{answer}");
    assert!(
        answer.contains("host=towline-dashboard") && answer.contains("origin=http://towline-dashboard"),
        "{answer}"
    );
    assert!(answer.contains("x-own=kept") && answer.contains("referrer-policy: no-referrer"), "{answer}");
    for held in ["other=1", "Basic", "http://a/b", "hub.example.com", "set-cookie", SECRET] {
        assert!(!answer.contains(held), "{held}: {answer}");
    }
    let moved = world.ask(&format!("/{SECRET}/moved"), "").await;
    assert!(moved.contains(&format!("location: /{SECRET}/status")), "{moved}");
    let first = world.ask(&format!("/{SECRET}/"), "").await;
    assert!(first.starts_with("HTTP/1.1 302") && first.contains("location: status\r\n"), "{first}");
}

#[tokio::test]
async fn a_browsers_connection_keeps_one_to_the_gateway_and_a_websocket_passes_both_ways() {
    let world = World::new().await;
    let mut stream = world.connect().await;
    let mut piece = [0; 4096];
    for _ in 0..3 {
        let asked = format!("GET /{SECRET}/x HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.expect("asked");
        let count = stream.read(&mut piece).await.expect("answered");
        assert!(piece[..count].starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(world.dialled.load(Ordering::Relaxed), 1);
    let asked =
        format!("GET /{SECRET}/status/ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.expect("asked");
    let count = stream.read(&mut piece).await.expect("answered");
    assert!(piece[..count].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&piece[..count]));
    stream.write_all(b"hello").await.expect("written");
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.expect("answered");
    assert_eq!(&word, b"HELLO");
    let _idle = world.connect().await;
    world.end.cancel();
    tokio::time::timeout(Duration::from_secs(10), world.serving).await.expect("it ends").expect("no panic");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).await.is_err(), "nobody listens any more");
}
