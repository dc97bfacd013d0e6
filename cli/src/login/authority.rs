//! Fetching a server's CA by its fingerprint: trust on *verified* first use.
//!
//! The handshake here trusts nobody: it only looks at what is presented, sends nothing and is closed. A certificate
//! of the presented chain whose SHA-256 is the fingerprint becomes the pinned CA; every later connection, the one
//! that carries the token included, is verified against it in full.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use towline_protocol::ids::Digest;

/// Limit for connection and handshake.
const LIMIT: Duration = Duration::from_secs(15);

/// The PEM of the certificate with this fingerprint among those that the server presents.
pub async fn fetch(url: &url::Url, fingerprint: &Digest) -> Outcome<String> {
    let place = url.origin().ascii_serialization();
    let presented = tokio::time::timeout(LIMIT, presented(url))
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
        .map_err(|why| {
            Failure::new(
                Exit::Unreachable,
                "unreachable",
                format!("Cannot reach {place}"),
                "check the address, and that the server runs",
            )
            .because(why)
        })?;
    pick(&presented, fingerprint).ok_or_else(|| {
        Failure::new(
            Exit::Refused,
            "fingerprint_mismatch",
            format!("{place} does not present a CA with this fingerprint"),
            "copy the address again from the server's own output; if it is right, somebody sits in between",
        )
    })
}

async fn presented(url: &url::Url) -> Result<Vec<CertificateDer<'static>>, String> {
    let host = url.host_str().ok_or("the address has no host")?;
    let port = url.port_or_known_default().unwrap_or(443);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
    let looker = Arc::new(Looker::default());
    let config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(looker.clone()).with_no_client_auth();
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    let seen = looker.seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(seen.clone())
}

fn pick(presented: &[CertificateDer<'static>], fingerprint: &Digest) -> Option<String> {
    let found = presented.iter().find(|certificate| Digest::of(certificate) == *fingerprint)?;
    let base64 = STANDARD.encode(found);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Some(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")))
}

/// Looks at the chain and believes nothing: the connection it lets through carries no data.
#[derive(Debug, Default)]
struct Looker {
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|one| one.clone().into_owned());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use towline_protocol::time::UnixSeconds;
    use towline_transport::TlsIdentity;
    use towline_transport::authority::{Authority, CertificateRequest};
    use towline_transport::keys::KeyPair;
    use towline_transport::server::{ClientCertificates, server_config};

    const ERA: (UnixSeconds, UnixSeconds) = (UnixSeconds(1_700_000_000), UnixSeconds(4_000_000_000));

    /// A TLS server that shakes hands once, with or without its CA in the chain.
    async fn server(authority: &Authority, with_ca: bool) -> url::Url {
        towline_transport::install_crypto_provider();
        let key = KeyPair::generate().expect("key");
        let request = CertificateRequest {
            spki: key.spki(),
            common_name: "people".to_owned(),
            uris: Vec::new(),
            dns_names: Vec::new(),
            ip_addresses: vec![std::net::IpAddr::from([127, 0, 0, 1])],
            server: true,
            client: false,
            not_before: ERA.0,
            not_after: ERA.1,
        };
        let mut chain_pem = authority.issue(&request).expect("leaf");
        if with_ca {
            chain_pem.push_str(authority.certificate_pem());
        }
        let identity = TlsIdentity { chain_pem, key_pem: key.to_pem().to_string() };
        let config = server_config(&identity, ClientCertificates::Ignored).expect("configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await;
            // Held until the client has looked.
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(stream);
        });
        format!("https://{address}").parse().expect("url")
    }

    #[tokio::test]
    async fn the_presented_ca_of_the_fingerprint_is_pinned() {
        let authority = Authority::create("test", ERA.0, ERA.1).expect("authority");
        let fingerprint = authority.certificate_sha256();
        let pem = fetch(&server(&authority, true).await, &fingerprint).await.expect("pinned");
        assert!(towline_transport::client::http_client(&pem, None).is_ok());
        let words = |pem: &str| pem.split_whitespace().collect::<String>();
        assert_eq!(words(&pem), words(authority.certificate_pem()));
    }

    #[tokio::test]
    async fn another_ca_and_a_chain_without_one_are_refused() {
        let authority = Authority::create("test", ERA.0, ERA.1).expect("authority");
        let other = Authority::create("other", ERA.0, ERA.1).expect("authority");
        let fingerprint = authority.certificate_sha256();
        for (authority, with_ca) in [(&other, true), (&authority, false)] {
            let url = server(authority, with_ca).await;
            let failure = fetch(&url, &fingerprint).await.expect_err("refused");
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::Refused, "fingerprint_mismatch"));
        }
    }

    #[test]
    fn only_the_certificate_of_the_fingerprint_is_taken() {
        let chain = [CertificateDer::from(vec![1u8; 90]), CertificateDer::from(vec![2u8; 90])];
        let pem = pick(&chain, &Digest::of(&[2u8; 90])).expect("found");
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert!(pem.lines().all(|line| line.len() <= 64));
        assert_eq!(pick(&chain, &Digest::of(b"other")), None);
    }
}
