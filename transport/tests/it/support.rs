//! Authorities, identities and a listener for the tests.

use axum::Router;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_protocol::time::UnixSeconds;
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::keys::KeyPair;
use towline_transport::server::{self, ClientCertificates, Limits, Tap};

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// A wait that only a broken program exceeds.
pub const LONG: Duration = Duration::from_secs(20);

pub fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
}

pub fn authority() -> Authority {
    Authority::create("test authority", now().minus(30 * DAY), now().plus(30 * DAY)).expect("authority")
}

/// What a good server's certificate says; tests change one thing.
pub fn server_request(key: &KeyPair) -> CertificateRequest {
    CertificateRequest {
        spki: key.spki(),
        common_name: "test server".to_owned(),
        uris: vec![],
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec!["127.0.0.1".parse().expect("address")],
        server: true,
        client: false,
        not_before: now().minus(DAY),
        not_after: now().plus(DAY),
    }
}

/// What a good client's certificate says; tests change one thing.
pub fn client_request(key: &KeyPair) -> CertificateRequest {
    CertificateRequest {
        common_name: "test client".to_owned(),
        uris: vec!["spiffe://test/one".to_owned(), "spiffe://test/two".to_owned()],
        dns_names: vec![],
        ip_addresses: vec![],
        server: false,
        client: true,
        ..server_request(key)
    }
}

/// An identity whose certificate `authority` issued over `request` of a new key.
pub fn identity(authority: &Authority, request: impl FnOnce(&KeyPair) -> CertificateRequest) -> TlsIdentity {
    let key = KeyPair::generate().expect("key");
    let leaf = authority.issue(&request(&key)).expect("leaf");
    TlsIdentity { chain_pem: leaf + authority.certificate_pem(), key_pem: key.to_pem().to_string() }
}

/// A running listener; stops when the test says so.
pub struct Listener {
    pub address: SocketAddr,
    pub url: String,
    pub tls: watch::Sender<Arc<ServerConfig>>,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<std::io::Result<()>>,
}

impl Listener {
    pub async fn start(tls: Arc<ServerConfig>, router: Router, limits: Limits) -> Self {
        Self::start_tapped(tls, router, limits, None).await
    }

    pub async fn start_tapped(tls: Arc<ServerConfig>, router: Router, limits: Limits, tap: Option<Tap>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (tls, receiver) = watch::channel(tls);
        let shutdown = CancellationToken::new();
        let served = server::serve_tapped(listener, receiver, router, limits, shutdown.clone(), tap);
        let task = tokio::spawn(served);
        Self { address, url: format!("https://{address}"), tls, shutdown, task }
    }

    /// A listener with a good certificate that verifies clients against the same authority.
    pub async fn mutual(authority: &Authority, router: Router, limits: Limits) -> Self {
        Self::start(mutual_config(authority), router, limits).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LONG, self.task).await.expect("in time").expect("no panic").expect("no error");
    }
}

pub fn mutual_config(authority: &Authority) -> Arc<ServerConfig> {
    let clients = ClientCertificates::Optional { ca_pem: authority.certificate_pem().to_owned() };
    server::server_config(&identity(authority, server_request), clients).expect("configuration")
}
