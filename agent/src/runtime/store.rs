//! The real environment store behind the runtime's trait.

use super::RuntimeError;
use super::blobs::SessionBlobs;
use super::host::Host;
use super::parties::{Environments, StepError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use towline_protocol::assignment::EnvironmentSpec;
use towline_protocol::ids::Digest;
use towline_protocol::report::FailureKind;

/// Open the host's store.
pub fn open(_host: &Host) -> Result<Arc<dyn Environments>, RuntimeError> {
    Ok(Arc::new(NoStore))
}

struct NoStore;

impl Environments for NoStore {
    fn present(&self) -> Vec<Digest> {
        Vec::new()
    }

    fn python(&self, _: &Digest) -> Option<PathBuf> {
        None
    }

    fn interpreters(&self) -> Vec<String> {
        Vec::new()
    }

    fn sync(&self, _: EnvironmentSpec, _: Arc<SessionBlobs>) -> BoxFuture<'_, Result<PathBuf, StepError>> {
        async { Err(StepError::new(FailureKind::ToolMissing, false, "this build has no environment store")) }.boxed()
    }
}
