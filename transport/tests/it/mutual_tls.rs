//! Who gets through the handshake, from both sides.

use crate::support::{DAY, Listener, authority, client_request, identity, mutual_config, now, server_request};
use axum::routing::get;
use axum::{Extension, Router};
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use towline_transport::TlsIdentity;
use towline_transport::authority::Authority;
use towline_transport::certificate::PeerCertificate;
use towline_transport::client;
use towline_transport::keys::KeyPair;
use towline_transport::server::{self, ClientCertificates, Limits, Peer};

/// Says who the client is.
fn who() -> Router {
    async fn answer(Extension(peer): Extension<Peer>) -> String {
        match peer.certificate {
            Some(certificate) => {
                format!("{} {} {}", certificate.uris.join(","), certificate.not_after, certificate.spki)
            }
            None => "nobody".to_owned(),
        }
    }
    Router::new().route("/who", get(answer))
}

async fn ask(url: &str, ca: &Authority, identity: Option<&TlsIdentity>) -> Result<String, reqwest::Error> {
    let http = client::http_client(ca.certificate_pem(), identity).expect("client");
    http.get(format!("{url}/who")).send().await?.error_for_status()?.text().await
}

/// A client made by hand, for what our own cannot be talked into.
async fn dial(listener: &Listener, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(listener.address).await?;
    let name = ServerName::try_from("127.0.0.1").expect("name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

async fn request(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn by_hand(
    ca: &Authority,
    identity: Option<&TlsIdentity>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).expect("certificate")).expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).map(|c| c.expect("certificate"));
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("key");
            builder.with_client_auth_cert(chain.collect(), key).expect("identity")
        }
    }
}

#[tokio::test]
async fn a_client_certificate_reaches_the_handler() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    let identity = identity(&ca, client_request);
    let certificate = PeerCertificate::from_pem(&identity.chain_pem).expect("certificate");
    let answer = ask(&listener.url, &ca, Some(&identity)).await.expect("served");
    assert_eq!(answer, format!("spiffe://test/one,spiffe://test/two {} {}", certificate.not_after, certificate.spki));
    listener.stop().await;
}

#[tokio::test]
async fn a_client_without_a_certificate_is_nobody() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    assert_eq!(ask(&listener.url, &ca, None).await.expect("served"), "nobody");
    listener.stop().await;
}

#[tokio::test]
async fn a_listener_that_ignores_certificates_never_asks_for_one() {
    let ca = authority();
    let tls = server::server_config(&identity(&ca, server_request), ClientCertificates::Ignored).expect("config");
    let listener = Listener::start(tls, who(), Limits::default()).await;
    let identity = identity(&authority(), client_request);
    assert_eq!(ask(&listener.url, &ca, Some(&identity)).await.expect("served"), "nobody");
    listener.stop().await;
}

#[tokio::test]
async fn refuses_client_certificates_that_are_not_good() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    // Same name as the real authority, other key.
    let other = authority();
    let expired = |key: &KeyPair| towline_transport::authority::CertificateRequest {
        not_before: now().minus(2 * DAY),
        not_after: now().minus(DAY / 24),
        ..client_request(key)
    };
    let early = |key: &KeyPair| towline_transport::authority::CertificateRequest {
        not_before: now().plus(DAY),
        not_after: now().plus(2 * DAY),
        ..client_request(key)
    };
    let cases = [
        ("another authority", identity(&other, client_request)),
        ("expired", identity(&ca, expired)),
        ("not yet valid", identity(&ca, early)),
        ("for servers only", identity(&ca, server_request)),
    ];
    for (what, identity) in cases {
        let refused = ask(&listener.url, &ca, Some(&identity)).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    // The listener is none the worse for it.
    assert!(ask(&listener.url, &ca, Some(&identity(&ca, client_request))).await.is_ok());
    listener.stop().await;
}

#[tokio::test]
async fn refuses_a_certificate_that_an_end_entity_issued() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    // A host tries to be an authority: its own leaf in the place of the issuer.
    let host = KeyPair::generate().expect("key");
    let host_leaf = ca.issue(&client_request(&host)).expect("leaf");
    let forged = Authority::from_pem(&host_leaf, &host.to_pem());
    assert!(forged.is_err(), "our own code does not even take it for an authority");
    let victim = KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let issuer_key = rcgen::KeyPair::from_pem(&host.to_pem()).expect("key");
    let mut issuer_params = rcgen::CertificateParams::default();
    issuer_params.distinguished_name = rcgen::DistinguishedName::new();
    issuer_params.distinguished_name.push(rcgen::DnType::CommonName, "test client");
    let issuer = rcgen::Issuer::new(issuer_params, issuer_key);
    let victim_key = rcgen::KeyPair::from_pem(&victim.to_pem()).expect("key");
    let leaf = params.signed_by(&victim_key, &issuer).expect("forged");
    let identity =
        TlsIdentity { chain_pem: leaf.pem() + &host_leaf + ca.certificate_pem(), key_pem: victim.to_pem().to_string() };
    assert!(ask(&listener.url, &ca, Some(&identity)).await.is_err());
    listener.stop().await;
}

#[tokio::test]
async fn a_client_refuses_servers_that_are_not_the_pinned_ones() {
    let ca = authority();
    let other = authority();
    let expired = |key: &KeyPair| towline_transport::authority::CertificateRequest {
        not_before: now().minus(2 * DAY),
        not_after: now().minus(DAY / 24),
        ..server_request(key)
    };
    let other_host = |key: &KeyPair| towline_transport::authority::CertificateRequest {
        ip_addresses: vec!["127.0.0.2".parse().expect("address")],
        ..server_request(key)
    };
    let cases = [
        ("another authority", identity(&other, server_request)),
        ("expired", identity(&ca, expired)),
        ("another host", identity(&ca, other_host)),
        ("for clients only", identity(&ca, client_request)),
    ];
    for (what, identity) in cases {
        let tls = server::server_config(&identity, ClientCertificates::Ignored).expect("config");
        let listener = Listener::start(tls, who(), Limits::default()).await;
        let refused = ask(&listener.url, &ca, None).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
        listener.stop().await;
    }
}

#[tokio::test]
async fn refuses_tls_1_2() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    let identity = identity(&ca, client_request);
    let old = by_hand(&ca, Some(&identity), &[&rustls::version::TLS12]);
    assert!(dial(&listener, old).await.is_err());
    let both = by_hand(&ca, Some(&identity), &[&rustls::version::TLS12, &rustls::version::TLS13]);
    let stream = dial(&listener, both).await.expect("connected");
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    drop(stream);
    listener.stop().await;
}

#[tokio::test]
async fn our_client_refuses_a_tls_1_2_server() {
    let ca = authority();
    let identity = identity(&ca, server_request);
    let chain =
        CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).map(|c| c.expect("certificate")).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("identity");
    let listener = Listener::start(Arc::new(old), who(), Limits::default()).await;
    assert!(ask(&listener.url, &ca, None).await.is_err());
    listener.stop().await;
}

#[tokio::test]
async fn never_resumes_a_session() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    let mut config = by_hand(&ca, Some(&identity(&ca, client_request)), &[&rustls::version::TLS13]);
    config.resumption = Resumption::in_memory_sessions(8);
    for round in 0..3 {
        let mut stream = dial(&listener, config.clone()).await.expect("connected");
        // Tickets come after the handshake: read an answer so that one would have arrived.
        let answer = request(&mut stream).await.expect("served");
        assert!(answer.contains("spiffe://test/one"), "{answer}");
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "round {round}");
        assert_eq!(session.tls13_tickets_received(), 0);
    }
    listener.stop().await;
}

#[tokio::test]
async fn a_new_configuration_holds_for_the_next_connection() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    let known = identity(&ca, client_request);
    assert!(ask(&listener.url, &ca, Some(&known)).await.is_ok());
    // The authority is replaced: the old one's clients are strangers now, and so is the server to them.
    let next = authority();
    listener.tls.send_replace(mutual_config(&next));
    assert!(ask(&listener.url, &ca, Some(&known)).await.is_err());
    assert!(ask(&listener.url, &next, Some(&known)).await.is_err());
    assert!(ask(&listener.url, &next, Some(&identity(&next, client_request))).await.is_ok());
    listener.stop().await;
}

#[tokio::test]
async fn plain_http_gets_nothing() {
    let ca = authority();
    let listener = Listener::mutual(&ca, who(), Limits::default()).await;
    let mut tcp = TcpStream::connect(listener.address).await.expect("connected");
    tcp.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // A reset is as good an end as a close.
    let _ = tcp.read_to_end(&mut answer).await;
    assert!(!answer.windows(4).any(|window| window == b"HTTP"), "{answer:?}");
    listener.stop().await;
}

#[tokio::test]
async fn the_http_client_follows_no_redirect_and_speaks_no_plain_http() {
    let ca = authority();
    let away = Router::new().route("/away", get(async || axum::response::Redirect::to("https://127.0.0.1:1/")));
    let listener = Listener::mutual(&ca, away, Limits::default()).await;
    let http = client::http_client(ca.certificate_pem(), None).expect("client");
    let answer = http.get(format!("{}/away", listener.url)).send().await.expect("answered");
    assert_eq!(answer.status(), 303);
    assert!(http.get(format!("http://{}/away", listener.address)).send().await.is_err());
    listener.stop().await;
}

#[test]
fn refuses_identities_that_do_not_fit() {
    let ca = authority();
    let good = identity(&ca, server_request);
    let other_key = TlsIdentity { key_pem: KeyPair::generate().expect("key").to_pem().to_string(), ..good.clone() };
    let no_key = TlsIdentity { key_pem: String::new(), ..good.clone() };
    let no_chain = TlsIdentity { chain_pem: "nothing".to_owned(), ..good.clone() };
    for bad in [other_key, no_key, no_chain] {
        assert!(server::server_config(&bad, ClientCertificates::Ignored).is_err());
        assert!(client::client_config(ca.certificate_pem(), Some(&bad)).is_err());
    }
    assert!(client::client_config("", None).is_err());
    assert!(!format!("{good:?}").contains("PRIVATE"));
}
