//! The link task: keeps one socket to the control plane, with back-off between tries.
//!
//! Owns dialling and the byte side. Must not know what frames mean beyond "this session was established". Driven by
//! the owner task through bounded channels: dropping the sender that came with [`LinkEvent::Connected`] hangs up.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use towline_protocol::message::{FromAgent, FromControlPlane};
use towline_transport::TlsIdentity;
use towline_transport::backoff::Backoff;
use towline_transport::client::client_config;
use towline_transport::keys::random_fraction;
use towline_transport::websocket::{AgentSocket, SocketError};

/// First ceiling of the pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// After an established session was lost, the first retry comes within this time.
const RETRY_ESTABLISHED: Duration = Duration::from_secs(2);

/// Frames that wait on either side between owner and socket. The session itself allows 256.
const QUEUE: usize = 64;

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https://host:port` of the agents' listener.
    pub url: String,
    /// The one CA that is trusted.
    pub ca_pem: String,
    /// Our identity. A renewed one arrives here and holds from the next dial.
    pub identity: watch::Receiver<Arc<TlsIdentity>>,
    /// The longest pause between two tries.
    pub longest_pause: Duration,
}

/// What the link tells the owner.
#[derive(Debug)]
pub enum LinkEvent {
    /// A socket is open; frames to send go here. Drop it to hang up.
    Connected(mpsc::Sender<FromAgent>),
    /// A frame came.
    Frame(Box<FromControlPlane>),
    /// The socket is gone.
    Lost,
}

/// Run until `stop`.
pub async fn run(endpoint: Endpoint, events: mpsc::Sender<LinkEvent>, stop: CancellationToken) {
    let longest_pause = endpoint.longest_pause;
    let mut backoff = Backoff::new(FIRST_PAUSE, longest_pause.max(FIRST_PAUSE));
    let mut attempt = 0u32;
    loop {
        attempt += 1;
        // Boxed: a TLS handshake's state is large, and most of the time this task only waits.
        let pause = match Box::pin(session(&endpoint, &events, &stop)).await {
            Gone::Stopping => return,
            Gone::Established => {
                backoff.reset();
                attempt = 0;
                RETRY_ESTABLISHED.min(longest_pause).mul_f64(random_fraction())
            }
            Gone::Refused => longest_pause.mul_f64(0.5 + random_fraction() / 2.0),
            Gone::Unreachable(story) => {
                let pause = backoff.next(random_fraction());
                // One line when it begins; the status line says the rest.
                if attempt == 1 {
                    tracing::warn!(component = "link", error = %story, "the control plane cannot be reached; trying again");
                } else {
                    tracing::debug!(component = "link", attempt, error = %story, "the control plane cannot be reached");
                }
                pause
            }
        };
        // Cancel-safe: a timer and a token.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

enum Gone {
    Established,
    Refused,
    Stopping,
    Unreachable(String),
}

async fn session(endpoint: &Endpoint, events: &mpsc::Sender<LinkEvent>, stop: &CancellationToken) -> Gone {
    let identity = endpoint.identity.borrow().clone();
    let config = match client_config(&endpoint.ca_pem, Some(&identity)) {
        Ok(config) => config,
        Err(error) => return Gone::Unreachable(super::parties::story(&error)),
    };
    // Cancelling a dial drops its socket, which is all there is to undo.
    let connected = tokio::select! {
        connected = AgentSocket::connect(&endpoint.url, config) => connected,
        () = stop.cancelled() => return Gone::Stopping,
    };
    let mut socket = match connected {
        Ok(socket) => socket,
        Err(error) => return Gone::Unreachable(super::parties::story(&error)),
    };
    let (sender, mut outbox) = mpsc::channel(QUEUE);
    if events.send(LinkEvent::Connected(sender)).await.is_err() {
        return Gone::Stopping;
    }
    let (established, refused, broken) = pump(&mut socket, &mut outbox, events, stop).await;
    // What was queued before a hang-up still leaves: the last word is among it.
    if broken.is_none() {
        while let Ok(frame) = outbox.try_recv() {
            if socket.send(&frame).await.is_err() {
                break;
            }
        }
    }
    socket.close().await;
    if let Some(error) = &broken {
        tracing::info!(component = "link", error = %super::parties::story(error), "the session's socket is gone");
    }
    if events.send(LinkEvent::Lost).await.is_err() || stop.is_cancelled() {
        return Gone::Stopping;
    }
    match (refused, established, broken) {
        (true, ..) => Gone::Refused,
        (_, true, _) => Gone::Established,
        (.., Some(error)) => Gone::Unreachable(super::parties::story(&error)),
        _ => Gone::Unreachable("the session ended before it was established".to_owned()),
    }
}

async fn pump(
    socket: &mut AgentSocket,
    outbox: &mut mpsc::Receiver<FromAgent>,
    events: &mpsc::Sender<LinkEvent>,
    stop: &CancellationToken,
) -> (bool, bool, Option<SocketError>) {
    let (mut established, mut refused) = (false, false);
    loop {
        tokio::select! {
            // Cancel-safe: a frame is either taken whole or stays in the channel; sending is not inside the select.
            frame = outbox.recv() => match frame {
                None => return (established, refused, None),
                Some(frame) => if let Err(error) = socket.send(&frame).await {
                    return (established, refused, Some(error));
                },
            },
            // Cancel-safe: the websocket keeps half-read frames in itself.
            frame = socket.receive() => match frame {
                Err(error) => return (established, refused, Some(error)),
                Ok(frame) => {
                    established |= matches!(frame, FromControlPlane::Welcome { .. });
                    refused |= matches!(frame, FromControlPlane::Refused { code } if !code.retryable());
                    if events.send(LinkEvent::Frame(Box::new(frame))).await.is_err() {
                        return (established, refused, None);
                    }
                }
            },
            () = stop.cancelled() => return (established, refused, None),
        }
    }
}
