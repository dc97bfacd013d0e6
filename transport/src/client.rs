//! TLS clients that trust one pinned authority and nothing else.
//!
//! Must not fall back to the platform's roots, to a proxy or to TLS 1.2. Driven by `enrol`, `websocket`, the agent's
//! downloads from the blob store, and the CLI.

use crate::tls::{self, HTTP_1_1, TlsError, TlsIdentity};
use rustls::ClientConfig;
use rustls::client::Resumption;
use std::sync::Arc;
use std::time::Duration;

/// A connection that is not there after this long is not coming.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Shorter than our listeners keep it, so that a request never meets a
/// connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// Longest silence while an answer is read; event streams say something every 15 s.
pub const READ_DEADLINE: Duration = Duration::from_secs(60);

/// TLS 1.3, the pinned authority, our certificate when we have one, no resumption (it would skip the check of a
/// client certificate that has been withdrawn since).
pub fn client_config(ca_pem: &str, identity: Option<&TlsIdentity>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rejected)?
        .with_root_certificates(tls::roots(ca_pem)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = tls::identity(identity)?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Rejected)?
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// An HTTP client with the same trust: HTTPS only, no proxy, no redirects.
pub fn http_client(ca_pem: &str, identity: Option<&TlsIdentity>) -> Result<reqwest::Client, TlsError> {
    let config = client_config(ca_pem, identity)?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(Arc::unwrap_or_clone(config))
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_DEADLINE)
        .read_timeout(READ_DEADLINE)
        .pool_idle_timeout(POOL_IDLE)
        .build()
        .map_err(TlsError::HttpClient)
}
