//! Certificates that arrive: the Dask node's, and the host's own identity.
//!
//! Checks that a certificate is for our key and of the cluster CA we pinned before any file changes. Blocking; the
//! owner task calls it on the blocking pool.

use super::host::Host;
use crate::shared;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::io;
use std::path::PathBuf;
use towline_protocol::ids::{Digest, KeyId};
use towline_transport::certificate::{CertificateError, PeerCertificate};
use towline_transport::keys;

/// Why a Dask certificate was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Not a certificate.
    #[error("the certificate cannot be read")]
    Unreadable(#[from] CertificateError),
    /// For another key.
    #[error("the certificate is not for this host's Dask key")]
    OtherKey,
    /// The chain is not leaf and CA.
    #[error("the chain does not hold exactly a certificate and its cluster CA")]
    Chain,
    /// Of another CA than the first one.
    #[error("the certificate comes with another cluster CA than the first one")]
    OtherAuthority,
    /// A file operation failed.
    #[error("{} cannot be written", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A Dask certificate that passed the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    leaf: String,
    ca: String,
    /// The CA to pin.
    pub authority: Digest,
}

impl NodeCertificate {
    /// Check a chain that the control plane delivered. `pinned` is the cluster CA of an earlier one.
    pub fn check(host: &Host, key: &KeyId, chain: &str, pinned: Option<&Digest>) -> Result<Self, InstallError> {
        let blocks = pem_blocks(chain);
        let [leaf, ca] = blocks.as_slice() else { return Err(InstallError::Chain) };
        Self::of(host, key, leaf, ca, pinned)
    }

    /// Check a leaf that our own cluster CA made.
    pub fn of(host: &Host, key: &KeyId, leaf: &str, ca: &str, pinned: Option<&Digest>) -> Result<Self, InstallError> {
        let certificate = PeerCertificate::from_pem(leaf)?;
        if certificate.spki != host.dask || *key != host.dask.key_id() {
            return Err(InstallError::OtherKey);
        }
        let der = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|_| InstallError::Chain)?;
        let authority = Digest::of(&der);
        if pinned.is_some_and(|pinned| *pinned != authority) {
            return Err(InstallError::OtherAuthority);
        }
        Ok(Self { leaf: leaf.to_owned(), ca: ca.to_owned(), authority })
    }

    /// Write the files. The certificate comes last: it says that the CA beside it is there.
    pub fn install(&self, host: &Host) -> Result<(), InstallError> {
        let files = host.dask_files();
        for (path, text) in [(&files.ca, &self.ca), (&files.certificate, &self.leaf)] {
            keys::write_secret(path, text.as_bytes())
                .and_then(|()| shared::file(path, shared::READ, host.users))
                .map_err(|source| InstallError::Io { path: path.clone(), source })?;
        }
        Ok(())
    }
}

/// Whether an earlier life of the agent installed certificate and CA.
pub fn installed(host: &Host) -> bool {
    let files = host.dask_files();
    files.ca.exists() && files.certificate.exists()
}

/// The PEM blocks of a text, each with its markers.
fn pem_blocks(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END)
        .filter(|block| block.contains(END))
        .map(|block| format!("{}\n", block.trim_start()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_chain_into_its_blocks() {
        let block = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let chain = format!("{}\n{}", block("a"), block("b"));
        assert_eq!(pem_blocks(&chain), [block("a"), block("b")]);
        assert!(pem_blocks("no certificate").is_empty());
    }
}
