//! TLS 1.3 between a cluster's gateway and its clients, for bytes that are not ours to read.
//!
//! Owns who is taken for whom: a gateway takes clients of its own cluster only, and a client takes that cluster's gateway
//! only, both within the handshake, so that no byte passes before. Must not know what passes: the application protocol
//! names the service. Driven by the agent's gateway and by the command line's proxy.

use crate::certificate::PeerCertificate;
use crate::name::{self, HostName};
use crate::tls::{self, TlsError, TlsIdentity};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use towline_protocol::ids::{ClusterId, HostId};
use towline_protocol::roster::MemberRole;

/// The service that is Dask's dashboard: HTTP/1.1 and websockets.
pub const DASHBOARD: &[u8] = b"towline-dashboard/1";

/// The service that is a host's log lines, read live: a question, then JSON lines.
pub const LOGS: &[u8] = b"towline-logs/1";

/// The service that brings a client to the gateway of another host of the cluster, as bytes that are not read here.
pub const WAY: &[u8] = b"towline-way/1";

/// A connection that a gateway took.
pub type Taken = tokio_rustls::server::TlsStream<TcpStream>;

/// A connection that a gateway answered.
pub type Answered = tokio_rustls::client::TlsStream<TcpStream>;

/// Lets clients of one cluster in.
#[derive(Clone)]
pub struct Door(TlsAcceptor);

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// A door with the gateway's identity that offers these services.
    pub fn new(
        identity: &TlsIdentity,
        ca_pem: &str,
        cluster: &ClusterId,
        services: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let inner = WebPkiClientVerifier::builder_with_provider(tls::roots(ca_pem)?, tls::provider());
        let verifier = ClientsOnly { inner: inner.build().map_err(TlsError::Verifier)?, cluster: cluster.clone() };
        let (chain, key) = tls::identity(identity)?;
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Rejected)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain, key)
            .map_err(TlsError::Rejected)?;
        config.alpn_protocols = services.iter().map(|service| service.to_vec()).collect();
        // A resumed session would skip the check of the certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Take a connection; also says which service is wanted, if one is. The caller sets the deadline.
    pub async fn take(&self, stream: TcpStream) -> io::Result<(Taken, Option<Vec<u8>>)> {
        let taken = self.0.accept(stream).await?;
        let service = taken.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Ok((taken, service))
    }
}

/// Knocks at one cluster's gateway.
#[derive(Clone)]
pub struct Knock(TlsConnector);

impl std::fmt::Debug for Knock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Knock")
    }
}

impl Knock {
    /// With a client's identity, for one service of the cluster's gateway.
    pub fn new(identity: &TlsIdentity, ca_pem: &str, cluster: &ClusterId, service: &[u8]) -> Result<Self, TlsError> {
        Self::with(identity, ca_pem, cluster, None, service)
    }

    /// With a client's identity, for one service of a worker's host.
    pub fn of_worker(
        identity: &TlsIdentity,
        ca_pem: &str,
        cluster: &ClusterId,
        host: HostId,
        service: &[u8],
    ) -> Result<Self, TlsError> {
        Self::with(identity, ca_pem, cluster, Some(host), service)
    }

    fn with(
        identity: &TlsIdentity,
        ca_pem: &str,
        cluster: &ClusterId,
        worker: Option<HostId>,
        service: &[u8],
    ) -> Result<Self, TlsError> {
        let (roots, provider) = (tls::roots(ca_pem)?, tls::provider());
        let verifier = GatewayOnly { roots, cluster: cluster.clone(), worker, provider };
        let (chain, key) = tls::identity(identity)?;
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Rejected)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, key)
            .map_err(TlsError::Rejected)?;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.alpn_protocols = vec![service.to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Speak to whoever answers on this connection, if it is the gateway. The caller sets the deadline.
    pub async fn at(&self, stream: TcpStream) -> io::Result<Answered> {
        self.through(stream).await
    }

    /// The same by any other way there.
    pub async fn through<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<tokio_rustls::client::TlsStream<S>> {
        // The name is not sent and not compared: the certificate's URI says who it is.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        self.0.connect(name, stream).await
    }
}

/// The one name in a certificate, if it is this cluster's.
fn named(
    certificate: &CertificateDer<'_>,
    cluster: &ClusterId,
    read: impl Fn(&str) -> Option<HostName>,
) -> Result<(), Error> {
    let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    let certificate = PeerCertificate::from_der(certificate).map_err(|_| refused.clone())?;
    match certificate.uris.as_slice() {
        [uri] if read(uri).is_some_and(|name| name.cluster == *cluster) => Ok(()),
        _ => Err(refused),
    }
}

fn tls_1_3_only() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}

/// Takes what the cluster's authority made for a client of this cluster.
#[derive(Debug)]
struct ClientsOnly {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientCertVerifier for ClientsOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        named(end_entity, &self.cluster, |uri| match name::parse_member(uri) {
            Ok((name, MemberRole::Client)) => Some(name),
            _ => None,
        })?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls_1_3_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes what the cluster's authority made for the gateway of this cluster, or for one worker of it.
#[derive(Debug)]
struct GatewayOnly {
    roots: Arc<RootCertStore>,
    cluster: ClusterId,
    worker: Option<HostId>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for GatewayOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        named(end_entity, &self.cluster, |uri| match &self.worker {
            None => name::parse_gateway(uri).ok(),
            Some(host) => match name::parse_member(uri) {
                Ok((name, MemberRole::Worker)) if name.host == host.as_str() => Some(name),
                _ => None,
            },
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls_1_3_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
