//! The agent's socket against a real listener.

use crate::support::{LONG, Listener, authority, client_request, identity};
use axum::Router;
use axum::body::Bytes;
use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{Message, WebSocket};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use towline_protocol::MAX_FRAME_BYTES;
use towline_protocol::ids::Digest;
use towline_protocol::message::{self, FromAgent, FromControlPlane, SessionRefusal};
use towline_transport::authority::Authority;
use towline_transport::client;
use towline_transport::server::Limits;
use towline_transport::websocket::{AgentSocket, ConnectError, SocketError};

/// A listener whose sessions `serve` handles.
async fn listener<F>(ca: &Authority, serve: impl Fn(WebSocket) -> F + Clone + Send + Sync + 'static) -> Listener
where
    F: Future<Output = ()> + Send + 'static,
{
    let open = move |upgrade: WebSocketUpgrade| async move {
        upgrade.max_message_size(2 * MAX_FRAME_BYTES).max_frame_size(2 * MAX_FRAME_BYTES).on_upgrade(serve)
    };
    Listener::mutual(ca, Router::new().route("/agent/v1", get(open)), Limits::default()).await
}

fn config(ca: &Authority) -> Arc<ClientConfig> {
    client::client_config(ca.certificate_pem(), Some(&identity(ca, client_request))).expect("config")
}

fn welcome() -> FromControlPlane {
    FromControlPlane::Welcome { version: 0, nonce: "00".repeat(32) }
}

async fn send(socket: &mut WebSocket, frame: &FromControlPlane) {
    socket.send(Message::text(message::to_frame(frame))).await.expect("sent");
}

/// Lets the agent's side close.
async fn linger(mut socket: WebSocket) {
    while socket.recv().await.is_some_and(|message| message.is_ok()) {}
}

#[tokio::test]
async fn frames_pass_both_ways() {
    let ca = authority();
    let listener = listener(&ca, async |mut socket: WebSocket| {
        let Some(Ok(Message::Text(text))) = socket.recv().await else {
            return;
        };
        let frame = message::from_agent(text.as_bytes()).expect("a frame of ours");
        assert!(matches!(frame, FromAgent::BlobRequest { ref digests } if digests.len() == 2));
        send(&mut socket, &welcome()).await;
        send(&mut socket, &FromControlPlane::Refused { code: SessionRefusal::GoingAway }).await;
    })
    .await;
    let mut socket = AgentSocket::connect(&listener.url, config(&ca)).await.expect("session");
    let digests = vec![Digest::of(b"one"), Digest::of(b"two")];
    socket.send(&FromAgent::BlobRequest { digests }).await.expect("sent");
    assert_eq!(socket.receive().await.expect("frame"), welcome());
    let goodbye = FromControlPlane::Refused { code: SessionRefusal::GoingAway };
    assert_eq!(socket.receive().await.expect("frame"), goodbye);
    assert!(matches!(socket.receive().await, Err(SocketError::Closed)));
    listener.stop().await;
}

#[tokio::test]
async fn a_dropped_receive_loses_no_frame() {
    let ca = authority();
    let listener = listener(&ca, async |mut socket: WebSocket| {
        for nonce in 0..50 {
            tokio::time::sleep(Duration::from_millis(3)).await;
            // Large, so that a frame arrives in several reads.
            let nonce = format!("{nonce}-{}", "x".repeat(20_000));
            send(&mut socket, &FromControlPlane::Challenge { nonce }).await;
        }
        linger(socket).await;
    })
    .await;
    let mut socket = AgentSocket::connect(&listener.url, config(&ca)).await.expect("session");
    let mut got = Vec::new();
    while got.len() < 50 {
        // Dropped many times in the middle of a frame.
        if let Ok(frame) = timeout(Duration::from_millis(1), socket.receive()).await {
            let FromControlPlane::Challenge { nonce } = frame.expect("frame") else { panic!("another frame") };
            got.push(nonce.split('-').next().expect("number").parse::<u32>().expect("number"));
        }
    }
    assert_eq!(got, (0..50).collect::<Vec<_>>());
    socket.close().await;
    listener.stop().await;
}

#[tokio::test]
async fn refuses_oversize_frames_from_both_sides() {
    let ca = authority();
    let listener = listener(&ca, async |mut socket: WebSocket| {
        let long = "x".repeat(MAX_FRAME_BYTES + 1);
        let _ = socket.send(Message::text(long)).await;
        linger(socket).await;
    })
    .await;
    let mut socket = AgentSocket::connect(&listener.url, config(&ca)).await.expect("session");
    let digests = vec![Digest::of(b"x"); MAX_FRAME_BYTES / 64];
    let refused = socket.send(&FromAgent::BlobRequest { digests }).await;
    assert!(matches!(refused, Err(SocketError::TooLarge)), "{refused:?}");
    let refused = socket.receive().await;
    assert!(matches!(refused, Err(SocketError::TooLarge)), "{refused:?}");
    drop(socket);
    listener.stop().await;
}

#[tokio::test]
async fn a_frame_of_exactly_the_limit_passes() {
    let ca = authority();
    let listener = listener(&ca, async |mut socket: WebSocket| {
        let padding = MAX_FRAME_BYTES - message::to_frame(&FromControlPlane::Challenge { nonce: String::new() }).len();
        let nonce = "x".repeat(padding);
        send(&mut socket, &FromControlPlane::Challenge { nonce }).await;
        linger(socket).await;
    })
    .await;
    let mut socket = AgentSocket::connect(&listener.url, config(&ca)).await.expect("session");
    assert!(matches!(socket.receive().await, Ok(FromControlPlane::Challenge { .. })));
    socket.close().await;
    listener.stop().await;
}

#[tokio::test]
async fn refuses_frames_that_are_none_of_ours() {
    let ca = authority();
    let frames = [
        Message::Binary(Bytes::from_static(b"{}")),
        Message::text("{}"),
        Message::text(r#"{"type":"run_shell","command":"id"}"#),
        Message::text(r#"{"type":"challenge","nonce":"a","nonce":"b"}"#),
    ];
    for frame in frames {
        let shown = format!("{frame:?}");
        let listener = listener(&ca, move |mut socket: WebSocket| {
            let frame = frame.clone();
            async move {
                let _ = socket.send(Message::Ping(Bytes::new())).await;
                let _ = socket.send(frame).await;
                linger(socket).await;
            }
        })
        .await;
        let mut socket = AgentSocket::connect(&listener.url, config(&ca)).await.expect("session");
        let refused = socket.receive().await;
        assert!(matches!(refused, Err(SocketError::NotText | SocketError::Malformed(_))), "{shown}: {refused:?}");
        socket.close().await;
        listener.stop().await;
    }
}

#[tokio::test]
async fn a_lost_connection_is_noticed() {
    let ca = authority();
    let listener = listener(&ca, async |socket: WebSocket| drop(socket)).await;
    let mut socket = AgentSocket::connect(&listener.url, config(&ca)).await.expect("session");
    let lost = timeout(LONG, socket.receive()).await.expect("in time");
    assert!(matches!(lost, Err(SocketError::Closed)), "{lost:?}");
    listener.stop().await;
}

#[tokio::test]
async fn says_why_no_session_could_be_opened() {
    let ca = authority();
    let refusing = Router::new().route("/agent/v1", get(async || StatusCode::UNAUTHORIZED.into_response()));
    let listener = Listener::mutual(&ca, refusing, Limits::default()).await;
    let refused = AgentSocket::connect(&listener.url, config(&ca)).await;
    assert!(matches!(refused, Err(ConnectError::Refused(401))), "{refused:?}");

    let stranger = AgentSocket::connect(&listener.url, config(&authority())).await;
    assert!(matches!(stranger, Err(ConnectError::Tls(_))), "{stranger:?}");

    let malformed = AgentSocket::connect("http://127.0.0.1:1", config(&ca)).await;
    assert!(matches!(malformed, Err(ConnectError::Address(_))), "{malformed:?}");

    let url = listener.url.clone();
    listener.stop().await;
    let gone = AgentSocket::connect(&url, config(&ca)).await;
    assert!(matches!(gone, Err(ConnectError::Connect(_))), "{gone:?}");
}
