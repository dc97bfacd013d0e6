//! Reading certificates whose chain somebody else has verified, or is about to.
//!
//! Must not verify: rustls does. Driven by `server` (peers), `enrol` and `bootstrap` (own certificates).

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use towline_protocol::ids::Spki;
use towline_protocol::time::UnixSeconds;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its URI names (`spiffe://…`), in order.
    pub uris: Vec<String>,
    /// The first second in which it no longer holds is the one after this.
    pub not_after: UnixSeconds,
    /// The holder's public key.
    pub spki: Spki,
}

/// Why a certificate could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No PEM block, or a broken one.
    #[error("the text holds no PEM certificate")]
    Pem,
    /// Not a certificate.
    #[error("the bytes are not an X.509 certificate")]
    Malformed,
    /// A key that this system never uses.
    #[error("the certificate's key is not a P-256 key")]
    Key,
    /// Alternative names that cannot be read.
    #[error("the certificate's names cannot be read")]
    Names,
}

impl PeerCertificate {
    /// Read one certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let spki = Spki::from_der(certificate.public_key().raw).map_err(|_| CertificateError::Key)?;
        let not_after =
            u64::try_from(certificate.validity().not_after.timestamp()).map_err(|_| CertificateError::Malformed)?;
        let mut uris = Vec::new();
        if let Some(names) = certificate.subject_alternative_name().map_err(|_| CertificateError::Names)? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::Invalid(..) => return Err(CertificateError::Names),
                    _ => {}
                }
            }
        }
        Ok(Self { uris, not_after: UnixSeconds(not_after), spki })
    }

    /// Read the first certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::Pem)?;
        Self::from_der(&der)
    }
}
