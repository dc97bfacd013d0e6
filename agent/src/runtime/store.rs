//! The real environment store behind the runtime's trait.
//!
//! Translates between the store's words and the runtime's; owns nothing but the list of interpreters, which takes a
//! while to find and is found on a thread of its own.

use super::RuntimeError;
use super::blobs::{GrantsError, SessionBlobs};
use super::host::Host;
use super::parties::{Environments, StepError, story};
use crate::environments::{BlobSource, EnvironmentStore, GrantsRefused, SyncProgress};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use towline_protocol::assignment::EnvironmentSpec;
use towline_protocol::ids::Digest;
use towline_protocol::message::BlobGrant;

/// Open the host's store.
pub fn open(host: &Host) -> Result<Arc<dyn Environments>, RuntimeError> {
    let store = EnvironmentStore::open(&host.settings.store, host.settings.uv.clone())
        .map_err(|error| RuntimeError::Store(Box::new(error)))?;
    let interpreters = Arc::new(OnceLock::new());
    let found = interpreters.clone();
    // Finding runs other programs, each with its own deadline; the thread ends by itself.
    let thread = std::thread::Builder::new().name("interpreters".to_owned());
    thread
        .spawn(move || found.set(EnvironmentStore::interpreters()))
        .map_err(|error| RuntimeError::Store(Box::new(error)))?;
    Ok(Arc::new(Store { store, interpreters }))
}

struct Store {
    store: EnvironmentStore,
    interpreters: Arc<OnceLock<Vec<String>>>,
}

impl Environments for Store {
    fn present(&self) -> Vec<Digest> {
        self.store.present()
    }

    fn python(&self, digest: &Digest) -> Option<PathBuf> {
        self.store.python(digest)
    }

    /// Empty until they are found; the next hello has them.
    fn interpreters(&self) -> Vec<String> {
        self.interpreters.get().cloned().unwrap_or_default()
    }

    fn sync(&self, spec: EnvironmentSpec, blobs: Arc<SessionBlobs>) -> BoxFuture<'_, Result<PathBuf, StepError>> {
        async move {
            let mut last = None;
            let mut progress = |now: SyncProgress| {
                if last.replace(now.step) != Some(now.step) {
                    tracing::info!(component = "environments", step = ?now.step, total = now.total, "the sync goes on");
                }
            };
            self.store
                .sync(&spec, blobs.as_ref(), &mut progress)
                .await
                .map_err(|error| StepError { failure: error.failure(), story: story(&error) })
        }
        .boxed()
    }
}

impl BlobSource for SessionBlobs {
    fn grants(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<BlobGrant>, GrantsRefused>> {
        async move {
            SessionBlobs::grants(self, digests)
                .await
                .map_err(|error| GrantsRefused { reason: error.to_string(), retryable: error == GrantsError::Silent })
        }
        .boxed()
    }

    fn http(&self) -> &reqwest::Client {
        SessionBlobs::http(self)
    }
}
