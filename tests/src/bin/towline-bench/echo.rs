//! Bare sessions: mutual TLS and a websocket that says back what it hears. What a session costs before it means anything.

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;
use towline_protocol::time::UnixSeconds;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::client::client_config;
use towline_transport::keys::{KeyPair, random_fraction};
use towline_transport::server::{ClientCertificates, server_config};
use towline_transport::{TlsIdentity, keys};

const HOUR: Duration = Duration::from_secs(3600);

/// About what a report takes.
const FRAME: usize = 700;

/// Handshakes at once, as many as the simulation's enrolments.
const DIALS: usize = 64;

/// A handshake or an answer that takes longer never comes.
const LIMIT: Duration = Duration::from_secs(30);

/// What `connect` is to do.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub port: u16,
    pub count: usize,
    pub every: Duration,
    pub seconds: Duration,
}

/// Serve until standard input closes. Leaves the CA and a client's identity in `folder`, prints the port.
pub async fn serve(folder: &Path) -> Result<()> {
    let now = UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let authority = Authority::create("Bench", now.minus(HOUR), now.plus(24 * HOUR))?;
    let issue = |server: bool| -> Result<TlsIdentity> {
        let key = KeyPair::generate()?;
        let request = CertificateRequest {
            spki: key.spki(),
            common_name: "bench".into(),
            uris: Vec::new(),
            dns_names: Vec::new(),
            ip_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            server,
            client: !server,
            not_before: now.minus(HOUR),
            not_after: now.plus(12 * HOUR),
        };
        Ok(TlsIdentity { chain_pem: authority.issue(&request)?, key_pem: key.to_pem().to_string() })
    };
    let client = issue(false)?;
    for (name, text) in [("ca", authority.certificate_pem()), ("chain", &client.chain_pem), ("key", &client.key_pem)] {
        keys::write_secret(&folder.join(format!("{name}.pem")), text.as_bytes())?;
    }
    let clients = ClientCertificates::Optional { ca_pem: authority.certificate_pem().to_owned() };
    let acceptor = TlsAcceptor::from(server_config(&issue(true)?, clients)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", json!({ "port": listener.local_addr()?.port() }));
    let (mut stdin, mut byte) = (tokio::io::stdin(), [0u8; 1]);
    let mut sessions = JoinSet::new();
    loop {
        // Cancel-safe: `accept` and a read of one byte lose nothing that counts here.
        tokio::select! {
            accepted = listener.accept() => { sessions.spawn(echo(acceptor.clone(), accepted?.0)); }
            read = stdin.read(&mut byte) => if read? == 0 { break },
        }
        while sessions.try_join_next().is_some() {}
    }
    sessions.shutdown().await;
    Ok(())
}

async fn echo(acceptor: TlsAcceptor, tcp: TcpStream) -> Result<()> {
    tcp.set_nodelay(true)?;
    let tls = tokio::time::timeout(LIMIT, acceptor.accept(tcp)).await??;
    let upgraded = tokio_tungstenite::accept_async_with_config(tls, Some(buffers()));
    let mut stream = tokio::time::timeout(LIMIT, upgraded).await??;
    while let Some(message) = stream.next().await {
        match message? {
            message @ Message::Text(_) => stream.send(message).await?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}

/// Open the connections, speak on each once a period for as long as asked, and print what came of it.
pub async fn connect(folder: &Path, wish: Wish) -> Result<()> {
    let read = |name: &str| std::fs::read_to_string(folder.join(format!("{name}.pem"))).context("serve first");
    let identity = TlsIdentity { chain_pem: read("chain")?, key_pem: read("key")? };
    let tls = client_config(&read("ca")?, Some(&identity))?;
    let (up, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (gate, stop) = (Arc::new(Semaphore::new(DIALS)), CancellationToken::new());
    let mut sessions = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..wish.count {
        sessions.spawn(one(tls.clone(), wish, gate.clone(), up.clone(), answers.clone(), stop.clone()));
    }
    let all = wish.count as u64;
    while up.load(Ordering::Relaxed) < all && begun.elapsed() < 2 * LIMIT {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (connected, seconds) = (up.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    println!("{}", json!({ "connected": connected, "seconds": seconds }));
    let over = Instant::now() + wish.seconds;
    while Instant::now() < over {
        tokio::time::sleep(Duration::from_millis(100)).await;
        println!("{}", json!({ "answers": answers.load(Ordering::Relaxed) }));
    }
    stop.cancel();
    let mut failed = 0;
    while let Some(ended) = sessions.join_next().await {
        failed += u64::from(!matches!(ended, Ok(Ok(()))));
    }
    println!("{}", json!({ "answers": answers.load(Ordering::Relaxed), "failed": failed }));
    Ok(())
}

async fn one(
    tls: Arc<rustls::ClientConfig>,
    wish: Wish,
    gate: Arc<Semaphore>,
    up: Arc<AtomicU64>,
    answers: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Result<()> {
    let mut stream = {
        let _permit = gate.acquire().await?;
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, wish.port)).await?;
        tcp.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1")?;
        let stream = tokio::time::timeout(LIMIT, TlsConnector::from(tls).connect(name, tcp)).await??;
        let url = format!("wss://127.0.0.1:{}/", wish.port);
        let upgraded = tokio_tungstenite::client_async_with_config(url, stream, Some(buffers()));
        tokio::time::timeout(LIMIT, upgraded).await??.0
    };
    up.fetch_add(1, Ordering::Relaxed);
    let frame = "x".repeat(FRAME);
    let mut pause = wish.every.mul_f64(random_fraction());
    loop {
        // Cancel-safe: a timer and a token.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => break,
        }
        pause = wish.every;
        stream.send(Message::text(frame.clone())).await?;
        tokio::time::timeout(LIMIT, stream.next()).await?.context("closed")??;
        answers.fetch_add(1, Ordering::Relaxed);
    }
    stream.close(None).await?;
    Ok(())
}

/// The sizes of the product's own sessions.
fn buffers() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(0).max_write_buffer_size(2 * 1024 * 1024)
}
