//! What the serving loop endures and how it ends.

use crate::support::{LONG, Listener, authority, client_request, identity, mutual_config};
use axum::Router;
use axum::extract::WebSocketUpgrade;
use axum::routing::get;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use towline_transport::authority::Authority;
use towline_transport::client;
use towline_transport::server::{Limits, Tap};
use towline_transport::websocket::AgentSocket;

const SHORT: Duration = Duration::from_millis(300);

fn ok() -> Router {
    Router::new()
        .route("/ok", get(async || "ok"))
        .route("/slow", get(async || tokio::time::sleep(SHORT).await))
        .route(
            "/endless",
            get(async || {
                let piece = Ok::<_, std::convert::Infallible>(vec![0u8; 64 * 1024]);
                axum::body::Body::from_stream(futures_util::stream::iter(std::iter::repeat(piece)))
            }),
        )
        .route("/stuck", get(async || tokio::time::sleep(LONG * 10).await))
        .route(
            "/agent/v1",
            get(async |upgrade: WebSocketUpgrade| {
                upgrade.on_upgrade(async |mut socket| {
                    // A handler that does not look at any shutdown.
                    while socket.recv().await.is_some_and(|message| message.is_ok()) {}
                })
            }),
        )
}

async fn tls(listener: &Listener, ca: &Authority) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(listener.address).await.expect("connected");
    let config = client::client_config(ca.certificate_pem(), None).expect("config");
    let name = "127.0.0.1".try_into().expect("name");
    TlsConnector::from(config).connect(name, tcp).await.expect("handshake")
}

/// Reads until the other end closes; how long that took, and what came.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (Duration, String) {
    let started = Instant::now();
    let mut bytes = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    (started.elapsed(), String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let ca = authority();
    let limits = Limits { handshake: SHORT, ..Limits::default() };
    let listener = Listener::mutual(&ca, ok(), limits).await;
    let mut tcp = TcpStream::connect(listener.address).await.expect("connected");
    // The beginning of a TLS record, and then nothing.
    tcp.write_all(&[0x16, 0x03, 0x01]).await.expect("sent");
    let (took, answer) = closed(&mut tcp).await;
    assert!(took >= SHORT / 2 && took < LONG / 2, "{took:?}");
    assert_eq!(answer, "");
    listener.stop().await;
}

#[tokio::test]
async fn a_slow_head_is_cut() {
    let ca = authority();
    let limits = Limits { header: SHORT, ..Limits::default() };
    let listener = Listener::mutual(&ca, ok(), limits).await;
    let mut stream = tls(&listener, &ca).await;
    stream.write_all(b"GET /ok HTTP/1.1\r\nhost:").await.expect("sent");
    let (took, answer) = closed(&mut stream).await;
    assert!(took >= SHORT / 2 && took < LONG / 2, "{took:?}");
    assert!(!answer.contains("200"), "{answer}");
    listener.stop().await;
}

#[tokio::test]
async fn a_silent_connection_is_cut_before_and_after_a_request() {
    let ca = authority();
    let limits = Limits { header: SHORT, ..Limits::default() };
    let listener = Listener::mutual(&ca, ok(), limits).await;
    let mut silent = tls(&listener, &ca).await;
    let (took, _) = closed(&mut silent).await;
    assert!(took < LONG / 2, "{took:?}");
    let mut kept = tls(&listener, &ca).await;
    kept.write_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let (took, answer) = closed(&mut kept).await;
    assert!(took < LONG / 2, "{took:?}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    listener.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    let ca = authority();
    let limits = Limits { write: SHORT, connections: 1, ..Limits::default() };
    let listener = Listener::mutual(&ca, ok(), limits).await;
    let mut greedy = tls(&listener, &ca).await;
    greedy.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    // It reads nothing and does not go away; only its slot tells that it was cut.
    let started = Instant::now();
    let http = client::http_client(ca.certificate_pem(), None).expect("client");
    while http.get(format!("{}/ok", listener.url)).send().await.is_err() {
        assert!(started.elapsed() < LONG, "still connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() >= SHORT / 2);
    drop(greedy);
    listener.stop().await;
}

#[tokio::test]
async fn an_oversize_head_is_refused() {
    let ca = authority();
    let listener = Listener::mutual(&ca, ok(), Limits::default()).await;
    let http = client::http_client(ca.certificate_pem(), None).expect("client");
    let answer = http.get(format!("{}/ok", listener.url)).header("x-long", "x".repeat(64 * 1024)).send().await;
    if let Ok(answer) = answer {
        assert_eq!(answer.status(), 431);
    }
    listener.stop().await;
}

/// A request with a body that the handler does not look at, sent to its end before anything is read, as simple clients do.
async fn send_all(stream: &mut TlsStream<TcpStream>, length: usize) -> std::io::Result<()> {
    stream
        .write_all(format!("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await?;
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..length / piece.len() {
        stream.write_all(&piece).await?;
    }
    stream.flush().await
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_large_request_arrives() {
    let ca = authority();
    let router =
        Router::new().route("/refuse", axum::routing::post(async || (http::StatusCode::PAYLOAD_TOO_LARGE, "no")));
    let listener = Listener::mutual(&ca, router, Limits::default()).await;
    for _ in 0..5 {
        let mut stream = tls(&listener, &ca).await;
        send_all(&mut stream, 16 << 20).await.expect("taken to its end");
        let mut answer = Vec::new();
        timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time").expect("closed in order");
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    }
    listener.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_for_ever_is_cut_all_the_same() {
    let ca = authority();
    let router = Router::new().route("/refuse", axum::routing::post(async || http::StatusCode::PAYLOAD_TOO_LARGE));
    let limits = Limits { linger: SHORT, ..Limits::default() };
    let listener = Listener::mutual(&ca, router, limits).await;
    let mut stream = tls(&listener, &ca).await;
    let started = Instant::now();
    let sent = timeout(LONG, send_all(&mut stream, 1 << 40)).await.expect("in time");
    assert!(sent.is_err() && started.elapsed() >= SHORT / 2, "{sent:?} after {:?}", started.elapsed());
    listener.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once_and_slots_come_back() {
    let ca = authority();
    let limits = Limits { connections: 2, ..Limits::default() };
    let listener = Listener::mutual(&ca, ok(), limits).await;
    let first = tls(&listener, &ca).await;
    // An upgraded connection counts until it closes.
    let config = client::client_config(ca.certificate_pem(), Some(&identity(&ca, client_request))).expect("config");
    let socket = AgentSocket::connect(&listener.url, config).await.expect("session");
    let mut third = TcpStream::connect(listener.address).await.expect("connected");
    let (took, _) = closed(&mut third).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let http = client::http_client(ca.certificate_pem(), None).expect("client");
    assert!(http.get(format!("{}/ok", listener.url)).send().await.is_err());
    drop(first);
    socket.close().await;
    let started = Instant::now();
    while http.get(format!("{}/ok", listener.url)).send().await.is_err() {
        assert!(started.elapsed() < LONG, "no slot came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    listener.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_listener_ends() {
    let ca = authority();
    let listener = Listener::mutual(&ca, ok(), Limits::default()).await;
    let http = client::http_client(ca.certificate_pem(), None).expect("client");
    let url = format!("{}/slow", listener.url);
    let asked = tokio::spawn(async move { http.get(url).send().await });
    tokio::time::sleep(SHORT / 3).await;
    let address = listener.address;
    listener.stop().await;
    assert_eq!(asked.await.expect("no panic").expect("answered").status(), 200);
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn the_end_waits_for_nobody_longer_than_the_drain() {
    let ca = authority();
    let limits = Limits { drain: SHORT, ..Limits::default() };
    let listener = Listener::mutual(&ca, ok(), limits).await;
    let config = client::client_config(ca.certificate_pem(), Some(&identity(&ca, client_request))).expect("config");
    let mut socket = AgentSocket::connect(&listener.url, config).await.expect("session");
    let mut stuck = tls(&listener, &ca).await;
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let half_open = TcpStream::connect(listener.address).await.expect("connected");
    tokio::time::sleep(SHORT / 3).await;
    let started = Instant::now();
    listener.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // Both ends are really closed, the websocket's too.
    assert!(timeout(LONG, socket.receive()).await.expect("in time").is_err());
    let (_, answer) = closed(&mut stuck).await;
    assert_eq!(answer, "");
    drop(half_open);
}

#[tokio::test]
async fn a_tap_sees_every_byte_after_decryption() {
    let ca = authority();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    let tap = Tap::new(move |bytes| copy.lock().expect("lock").extend_from_slice(bytes));
    let listener = Listener::start_tapped(mutual_config(&ca), ok(), Limits::default(), Some(tap)).await;
    let http = client::http_client(ca.certificate_pem(), None).expect("client");
    http.get(format!("{}/ok", listener.url)).header("x-canary", "bird-in-the-mine").send().await.expect("answered");
    listener.stop().await;
    let seen = String::from_utf8_lossy(&seen.lock().expect("lock")).into_owned();
    assert!(seen.starts_with("GET /ok HTTP/1.1"), "{seen}");
    assert!(seen.contains("bird-in-the-mine"));
}
