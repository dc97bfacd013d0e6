//! The listeners' TLS and the loop that serves HTTP on them.
//!
//! Owns who may connect (client certificates), how long each step may take, how many may be connected and how they
//! all end. Must not know a route. Driven by the control plane and the blob store.

use crate::certificate::PeerCertificate;
use crate::tls::{self, HTTP_1_1};
pub use crate::tls::{TlsError, TlsIdentity};
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

mod connection;
mod unread;

pub use connection::Tap;
use connection::{Connection, Ending};
use unread::Unread;

/// What a listener does with client certificates.
#[derive(Clone, Debug)]
pub enum ClientCertificates {
    /// Never asks for one.
    Ignored,
    /// Asks for one; a certificate that is shown must be good, and the handler demands it where it is needed.
    Optional {
        /// The authorities that clients' certificates must come from, PEM.
        ca_pem: String,
    },
}

/// The other end of a connection. In the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub remote: SocketAddr,
    /// Its verified certificate, when it showed one.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// What a listener endures.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest wait for a request's whole head, from the connection's start or the last answer on.
    pub header: Duration,
    /// Longest time in which the other end takes nothing of what it is sent.
    pub write: Duration,
    /// Most connections at once, upgraded ones included.
    pub connections: usize,
    /// How long the other end may go on sending a request that was answered before it was whole.
    pub linger: Duration,
    /// How long connections may take to end when the listener stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            write: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            connections: 4096,
            drain: Duration::from_secs(5),
        }
    }
}

/// Bytes of a request's head at most; also the size of a connection's read buffer.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Pause after a failed accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TLS 1.3 only; no tickets and no stored sessions, because a resumed session skips the check of the certificate.
pub fn server_config(identity: &TlsIdentity, clients: ClientCertificates) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rejected)?;
    let builder = match clients {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Optional { ca_pem } => {
            let verifier = WebPkiClientVerifier::builder_with_provider(tls::roots(&ca_pem)?, tls::provider())
                .allow_unauthenticated()
                .build()
                .map_err(TlsError::Verifier)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = tls::identity(identity)?;
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Rejected)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// Serve until `shutdown`, then end every connection within `limits.drain`.
///
/// The TLS configuration is read anew for every connection, so a renewed certificate needs no restart. Returns once
/// every connection, websockets included, is closed.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_tapped(listener, tls, router, limits, shutdown, None).await
}

/// [`serve`], with every byte that is received (after decryption) copied to `tap`. For tests that prove what never
/// arrives.
pub async fn serve_tapped(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    tap: Option<Tap>,
) -> io::Result<()> {
    let mut door = Door {
        listener,
        slots: Arc::new(Semaphore::new(limits.connections)),
        forced: CancellationToken::new(),
        complained: false,
    };
    let mut connections = JoinSet::new();
    loop {
        let visitor = tokio::select! {
            // Cancel-safe: a token is only looked at.
            () = shutdown.cancelled() => break,
            // Cancel-safe: join_next loses no result. Keeps ended connections from piling up.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            // Cancel-safe: an unaccepted connection stays in the backlog.
            visitor = door.next() => visitor,
        };
        let host = Host {
            acceptor: TlsAcceptor::from(Arc::clone(&tls.borrow())),
            router: router.clone(),
            limits,
            shutdown: shutdown.clone(),
            tap: tap.clone(),
        };
        connections.spawn(host.receive(visitor));
    }
    let Door { listener, slots, forced, .. } = door;
    drop(listener);
    drain(connections, slots, forced, limits).await;
    Ok(())
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    forced: CancellationToken,
    /// Whether the trouble we are in was told already.
    complained: bool,
}

/// A connection that came in.
struct Visitor {
    stream: TcpStream,
    remote: SocketAddr,
    ending: Ending,
}

impl Door {
    /// The next connection that there is room for. Cancel-safe: only the accept and the pause after a failure wait.
    async fn next(&mut self) -> Visitor {
        loop {
            let (stream, remote) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly this process has run out of descriptors.
                    if self.first_trouble() {
                        warn!(%error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                if self.first_trouble() {
                    warn!("the listener is full; new connections are closed at once");
                }
                continue;
            };
            self.complained = false;
            let ending = Ending { slot, forced: self.forced.clone() };
            return Visitor { stream, remote, ending };
        }
    }

    /// Told once per trouble, not once per connection: a flood of connections must not become a flood of lines.
    fn first_trouble(&mut self) -> bool {
        !std::mem::replace(&mut self.complained, true)
    }
}

async fn drain(mut connections: JoinSet<()>, slots: Arc<Semaphore>, forced: CancellationToken, limits: Limits) {
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let gone = async {
        while connections.join_next().await.is_some() {}
        // Upgraded connections live in tasks of their handlers; their slots come back when they close.
        let _ = slots.acquire_many(all).await;
    };
    if timeout(limits.drain, gone).await.is_err() {
        debug!("connections did not end in time and are cut");
        forced.cancel();
        connections.shutdown().await;
        // A cut connection closes as soon as its handler looks at it; a handler that never looks must not hold us.
        let _ = timeout(limits.drain.min(Duration::from_secs(1)), slots.acquire_many(all)).await;
    }
}

/// What one connection is served with.
struct Host {
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    tap: Option<Tap>,
}

impl Host {
    /// Serve one connection to its end.
    async fn receive(self, visitor: Visitor) {
        let Visitor { stream, remote, ending } = visitor;
        let greeted = tokio::select! {
            // Cancel-safe: the whole connection is dropped.
            () = self.shutdown.cancelled() => return,
            // Cancel-safe: as above.
            greeted = timeout(self.limits.handshake, accept(stream, self.acceptor.clone())) => greeted,
        };
        let (stream, certificate) = match greeted {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => return debug!(%remote, %error, "a TLS handshake failed"),
            Err(_) => return debug!(%remote, "a TLS handshake took too long"),
        };
        let peer = Peer { remote, certificate };
        let unread = Unread::default();
        let stream = Connection::new(stream, ending, self.limits, unread.clone(), self.tap.clone());
        if let Err(error) = self.serve(stream, peer, unread).await {
            debug!(%remote, %error, "a connection broke");
        }
    }

    async fn serve(self, stream: Connection<TlsStream<TcpStream>>, peer: Peer, unread: Unread) -> hyper::Result<()> {
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request.map(|body| unread.watch(body)))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(served);
        tokio::select! {
            // Cancel-safe: the future is pinned outside and polled on below.
            ended = &mut served => ended,
            // Cancel-safe: a token is only looked at.
            () = self.shutdown.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    }
}

async fn accept(
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> io::Result<(TlsStream<TcpStream>, Option<Arc<PeerCertificate>>)> {
    // Frames are small and answers wait for them.
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf
        .map(|leaf| PeerCertificate::from_der(leaf))
        .transpose()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((stream, certificate.map(Arc::new)))
}
