//! What TLS servers and clients share: the provider, the identity and how PEM becomes rustls' types.
//!
//! Must not decide who is trusted: `server` and `client` do. Driven by those two.

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::sync::Arc;

/// The one application protocol that is spoken.
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

/// Make aws-lc-rs the process's crypto provider. Calling it again changes nothing.
pub fn install_crypto_provider() {
    // An error only says that a provider is installed already, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The provider, given to every configuration by hand so that none depends on process-wide state.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The leaf first, then its issuers.
    pub chain_pem: String,
    /// The leaf's key, PKCS#8.
    pub key_pem: String,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text holds no certificate, or a broken one.
    #[error("the {what} is not a readable PEM certificate")]
    Certificate {
        /// Which text.
        what: &'static str,
    },
    /// The text holds no private key, or a broken one.
    #[error("the private key is not readable PKCS#8 PEM")]
    Key,
    /// The authority's certificates cannot be used to verify clients.
    #[error("clients cannot be verified with these authority certificates")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// rustls refused the parts together, for instance a key that is not the certificate's.
    #[error("certificate and key do not make a TLS identity")]
    Rejected(#[source] rustls::Error),
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    HttpClient(#[source] reqwest::Error),
}

/// Every certificate of a PEM text; at least one.
pub(crate) fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Certificate { what })?;
    if certificates.is_empty() { Err(TlsError::Certificate { what }) } else { Ok(certificates) }
}

/// Trust in exactly these authorities.
pub(crate) fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let what = "authority";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem, what)? {
        roots.add(certificate).map_err(|_| TlsError::Certificate { what })?;
    }
    Ok(Arc::new(roots))
}

/// The parts of an identity as rustls takes them.
pub(crate) fn identity(
    identity: &TlsIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&identity.chain_pem, "identity certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|_| TlsError::Key)?;
    Ok((chain, key))
}
