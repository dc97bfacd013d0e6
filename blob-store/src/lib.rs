//! The blob store: files by content hash, behind signed capabilities, served by a process of its own.
//!
//! Owns one directory and one listener. Holds the public half of the capability key only: it can check what the
//! control plane allowed and can allow nothing itself. Must not know what a blob means or who asks. Driven by
//! `towline server blobs`.

mod api;
mod problem;
mod store;
#[cfg(test)]
mod troubleshoot;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use towline_transport::blob_grant::VerifyingKey;
use towline_transport::server::{self, ClientCertificates, Limits, TlsError, TlsIdentity};

/// What a blob store needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the blobs lie; made if absent.
    pub directory: PathBuf,
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Its certificate and key; each new connection gets the newest, so that a store may run longer than a certificate.
    pub tls: watch::Receiver<TlsIdentity>,
    /// The public key that grants are signed for.
    pub verifying_key: VerifyingKey,
    /// No blob may be larger, whatever its grant says.
    pub max_blob_bytes: u64,
}

/// Why the blob store could not run.
#[derive(Debug, thiserror::Error)]
pub enum BlobStoreError {
    /// The directory could not be made ready.
    #[error("the blob directory {} cannot be used", directory.display())]
    Directory {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process serves the directory.
    #[error("another blob store serves {}; stop it, or choose another directory", .0.display())]
    Taken(PathBuf),
    /// Certificate and key are of no use.
    #[error("the blob store's TLS identity cannot be used")]
    Tls(#[source] TlsError),
    /// The address could not be listened on.
    #[error("{listen} cannot be listened on; choose another port")]
    Listen {
        /// Which address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Serving broke.
    #[error("serving broke")]
    Serve(#[source] std::io::Error),
}

/// Serve until `shutdown`. `ready` hears the address once it listens.
pub async fn run(
    settings: Settings,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: CancellationToken,
) -> Result<(), BlobStoreError> {
    let store = Arc::new(store::Store::open(&settings.directory)?);
    let mut identity = settings.tls;
    let tls = server::server_config(&identity.borrow_and_update(), ClientCertificates::Ignored)
        .map_err(BlobStoreError::Tls)?;
    let listen = settings.listen;
    let listener = TcpListener::bind(listen).await.map_err(|source| BlobStoreError::Listen { listen, source })?;
    let address = listener.local_addr().map_err(|source| BlobStoreError::Listen { listen, source })?;
    tracing::info!(component = "blob-store", %address, "listening");
    // Nobody may be waiting for the address any more; the store serves all the same.
    let _ = ready.send(address);
    let router = api::router(store, settings.verifying_key, settings.max_blob_bytes);
    let (newest, tls) = watch::channel(tls);
    // A certificate that is of no use changes nothing.
    let taking_up = async move {
        while identity.changed().await.is_ok() {
            match server::server_config(&identity.borrow_and_update(), ClientCertificates::Ignored) {
                Ok(tls) => {
                    newest.send_replace(tls);
                    tracing::info!(component = "blob-store", "a renewed certificate is in use");
                }
                Err(error) => {
                    tracing::error!(component = "blob-store", %error, "a renewed certificate cannot be used; the last one stays");
                }
            }
        }
        // Nobody renews any more.
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        // Serving ends in its own time; taking up a certificate only waits, and loses nothing when it is dropped.
        served = server::serve(listener, tls, router, Limits::default(), shutdown) => served.map_err(BlobStoreError::Serve),
        never = taking_up => match never {},
    }
}
