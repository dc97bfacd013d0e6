//! The agent's end of a session, as bytes: one websocket over mutual TLS.
//!
//! Owns dialling, framing, sizes and deadlines. Must not know what a frame means or when a session is dead: the
//! state machine in `protocol` says so. Driven by the agent's session task.

use crate::client::CONNECT_DEADLINE;
use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use towline_protocol::MAX_FRAME_BYTES;
use towline_protocol::message::{self, FromAgent, FromControlPlane};
use towline_protocol::strict::StrictError;
use url::{Host, Url};

/// Path of the session on the `agents` listener.
pub const SESSION_PATH: &str = "/agent/v1";

/// Longest wait for a frame to leave; a peer that takes none for so long is gone.
pub const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// Longest wait for the close handshake; the connection is dropped after it either way.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Read buffer of one connection. The library's default of 128 KiB is for few and busy connections.
const READ_BUFFER: usize = 4 * 1024;

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not `https://host:port`.
    #[error("the address {0:?} is not of the form https://host:port")]
    Address(String),
    /// Not there in time.
    #[error("{step} took longer than {} s", CONNECT_DEADLINE.as_secs())]
    Deadline {
        /// Which step.
        step: &'static str,
    },
    /// No connection.
    #[error("the control plane could not be reached")]
    Connect(#[source] io::Error),
    /// No TLS: another authority, an expired certificate, or not a TLS server at all.
    #[error("the TLS handshake with the control plane failed")]
    Tls(#[source] io::Error),
    /// An HTTP answer instead of a session.
    #[error("the control plane answered {0} instead of opening a session")]
    Refused(u16),
    /// No websocket.
    #[error("the websocket handshake with the control plane failed")]
    Websocket(#[source] Box<tungstenite::Error>),
}

/// Why an open session broke.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other end closed it.
    #[error("the control plane closed the session")]
    Closed,
    /// A frame larger than 1 MiB.
    #[error("a frame is larger than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// A binary frame.
    #[error("a frame is not text")]
    NotText,
    /// A frame that is none of ours.
    #[error("a frame cannot be read")]
    Malformed(#[source] StrictError),
    /// A frame did not leave in time.
    #[error("a frame did not leave within {} s", SEND_DEADLINE.as_secs())]
    SendDeadline,
    /// Network or framing.
    #[error("the connection to the control plane broke")]
    Broken(#[source] Box<tungstenite::Error>),
}

/// An open session.
pub struct AgentSocket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
}

impl std::fmt::Debug for AgentSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentSocket")
    }
}

impl AgentSocket {
    /// Dial the `agents` listener (`https://host:port`) and open the session.
    pub async fn connect(agents_url: &str, tls: Arc<ClientConfig>) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::parse(agents_url).ok_or_else(|| ConnectError::Address(agents_url.to_owned()))?;
        let tcp = within("connecting", TcpStream::connect((endpoint.host.as_str(), endpoint.port)))
            .await?
            .map_err(ConnectError::Connect)?;
        tcp.set_nodelay(true).map_err(ConnectError::Connect)?;
        let stream = within("the TLS handshake", TlsConnector::from(tls).connect(endpoint.name, tcp))
            .await?
            .map_err(ConnectError::Tls)?;
        let upgrade = tokio_tungstenite::client_async_with_config(endpoint.session_url, stream, Some(limits()));
        let (stream, _) = within("the websocket handshake", upgrade).await?.map_err(|error| match error {
            tungstenite::Error::Http(answer) => ConnectError::Refused(answer.status().as_u16()),
            other => ConnectError::Websocket(Box::new(other)),
        })?;
        Ok(Self { stream })
    }

    /// Send one frame. Not cancel-safe: after a dropped call or an error the socket is of no more use.
    pub async fn send(&mut self, frame: &FromAgent) -> Result<(), SocketError> {
        let text = message::to_frame(frame);
        if text.len() > MAX_FRAME_BYTES {
            return Err(SocketError::TooLarge);
        }
        match timeout(SEND_DEADLINE, self.stream.send(Message::text(text))).await {
            Ok(sent) => sent.map_err(broken),
            Err(_) => Err(SocketError::SendDeadline),
        }
    }

    /// The next frame. Cancel-safe. Waits without end: how long silence may last is the session's own rule.
    pub async fn receive(&mut self) -> Result<FromControlPlane, SocketError> {
        loop {
            match self.stream.next().await {
                None | Some(Ok(Message::Close(_))) => return Err(SocketError::Closed),
                Some(Ok(Message::Text(text))) => {
                    return message::from_control_plane(text.as_bytes()).map_err(SocketError::Malformed);
                }
                Some(Ok(Message::Binary(_) | Message::Frame(_))) => {
                    return Err(SocketError::NotText);
                }
                // Nobody of ours sends these; the library answers pings by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) => return Err(broken(error)),
            }
        }
    }

    /// Say goodbye, shortly.
    pub async fn close(mut self) {
        // A peer that is gone already is as good as a closed one.
        let _ = timeout(CLOSE_DEADLINE, self.stream.close(None)).await;
    }
}

struct Endpoint {
    host: String,
    port: u16,
    name: ServerName<'static>,
    session_url: String,
}

impl Endpoint {
    fn parse(agents_url: &str) -> Option<Self> {
        let url = Url::parse(agents_url).ok()?;
        if url.scheme() != "https" || !matches!(url.path(), "" | "/") || url.query().is_some() {
            return None;
        }
        let port = url.port_or_known_default()?;
        // Brackets belong to a URL, not to an address.
        let host = match url.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let name = ServerName::try_from(host.clone()).ok()?;
        let session_url = format!("wss://{}:{port}{SESSION_PATH}", url.host_str()?);
        Some(Self { host, port, name, session_url })
    }
}

/// Every size, set by hand: the library's defaults are unlimited or generous.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_FRAME_BYTES)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
}

async fn within<T>(step: &'static str, future: impl Future<Output = T>) -> Result<T, ConnectError> {
    timeout(CONNECT_DEADLINE, future).await.map_err(|_| ConnectError::Deadline { step })
}

fn broken(error: tungstenite::Error) -> SocketError {
    match error {
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => SocketError::Closed,
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => SocketError::TooLarge,
        // A process that was killed says no goodbye, neither in the websocket's words nor in TLS'.
        tungstenite::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            SocketError::Closed
        }
        other => SocketError::Broken(Box::new(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_each_form() {
        let cases = [
            ("https://127.0.0.1:4411", "127.0.0.1", 4411, "wss://127.0.0.1:4411/agent/v1"),
            ("https://[::1]:4411/", "::1", 4411, "wss://[::1]:4411/agent/v1"),
            ("https://towline.example", "towline.example", 443, "wss://towline.example:443/agent/v1"),
        ];
        for (url, host, port, session) in cases {
            let endpoint = Endpoint::parse(url).expect(url);
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
            assert_eq!(endpoint.session_url, session);
        }
    }

    #[test]
    fn refuses_addresses_that_are_not_the_listeners() {
        for url in ["http://127.0.0.1:1", "127.0.0.1:1", "https://127.0.0.1:1/path", "https://h?x=1", ""] {
            assert!(Endpoint::parse(url).is_none(), "{url}");
        }
    }
}
