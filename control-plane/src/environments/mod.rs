//! What packages a workspace has: digests, sizes, and short-lived capabilities to the blob store.
//!
//! Owns the capability key and the rules of announcing and completing an environment. Must never see a blob's bytes: they
//! go between people, agents and the blob store alone. Driven by `api` (people) and `sessions` (agents).

mod announce;
mod probe;
pub mod target;

use crate::model::{ClusterRecord, EnvironmentRecord};
use crate::store::{Store, StoreError};
use aws_lc_rs::signature::Ed25519KeyPair;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use towline_protocol::ids::Digest;
use towline_protocol::message::BlobGrant;
use towline_protocol::time::UnixSeconds;
use towline_transport::blob_grant::{self, BlobClaims, BlobMethod};

pub use announce::{AnnounceError, Announcement, check};
pub use probe::{HttpProbe, Probe, ProbeError};

/// Makes capabilities to the blob store and asks it what it has.
pub struct Blobs {
    url: String,
    key: Ed25519KeyPair,
    validity: Duration,
    probe: Box<dyn Probe>,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why an environment could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// These blobs are not in the blob store, or not in the size that was announced.
    #[error("{} blobs are not in the blob store", .0.len())]
    Missing(Vec<Digest>),
    /// The blob store did not answer.
    #[error("the blob store did not say what it has")]
    Probe(#[from] ProbeError),
    /// The store failed.
    #[error("the environment could not be written down")]
    Store(#[from] StoreError),
}

impl Blobs {
    /// Capabilities signed with `key` to the blob store at `url`, each valid for `validity`.
    pub fn new(url: String, key: Ed25519KeyPair, validity: Duration, probe: Box<dyn Probe>) -> Self {
        Self { url, key, validity, probe }
    }

    fn grant(&self, method: BlobMethod, digest: &Digest, max_size: u64, now: UnixSeconds) -> BlobGrant {
        let not_after = now.plus(self.validity);
        let claims = BlobClaims { method, digest: digest.clone(), max_size, not_after };
        let url = blob_grant::url(&self.url, digest, &blob_grant::sign(&claims, &self.key));
        BlobGrant { digest: digest.clone(), url, not_after }
    }

    /// Capabilities to write these blobs, each in exactly its announced size at most.
    pub fn write_grants(&self, environment: &EnvironmentRecord, wanted: &[Digest], now: UnixSeconds) -> Vec<BlobGrant> {
        self.grants(BlobMethod::Put, environment, wanted, now)
    }

    /// Capabilities to read those of the wanted blobs that belong to the environment; others get none.
    pub fn read_grants(&self, environment: &EnvironmentRecord, wanted: &[Digest], now: UnixSeconds) -> Vec<BlobGrant> {
        self.grants(BlobMethod::Get, environment, wanted, now)
    }

    fn grants(
        &self,
        method: BlobMethod,
        environment: &EnvironmentRecord,
        wanted: &[Digest],
        now: UnixSeconds,
    ) -> Vec<BlobGrant> {
        let sizes: BTreeMap<_, _> = environment.blobs.iter().map(|blob| (&blob.digest, blob.size)).collect();
        wanted
            .iter()
            .filter_map(|digest| sizes.get(digest).map(|size| self.grant(method, digest, *size, now)))
            .collect()
    }

    /// Capabilities for a host of `cluster` to read those of the wanted blobs that its environment needs.
    pub async fn grants_for_host(
        &self,
        store: &Store,
        cluster: &ClusterRecord,
        wanted: &[Digest],
        now: UnixSeconds,
    ) -> Result<Vec<BlobGrant>, StoreError> {
        let environment = store.environment(&cluster.workspace, &cluster.environment.digest).await?;
        Ok(environment.map(|environment| self.read_grants(&environment, wanted, now)).unwrap_or_default())
    }

    /// Ask the blob store for every blob of the environment, note what is there, and mark the environment complete when
    /// all are. Asking again heals: a blob that was lost is reported as missing and can be uploaded.
    pub async fn complete(
        &self,
        store: &Store,
        mut environment: EnvironmentRecord,
        now: UnixSeconds,
    ) -> Result<EnvironmentRecord, CompleteError> {
        let (mut present, mut missing) = (Vec::new(), Vec::new());
        for chunk in environment.blobs.chunks(probe::AT_ONCE) {
            let asked = chunk.iter().map(|blob| {
                let url = self.grant(BlobMethod::Get, &blob.digest, blob.size, now).url;
                async move { (blob, self.probe.size(url).await) }
            });
            for (blob, size) in futures_util::future::join_all(asked).await {
                match size? {
                    Some(size) if size == blob.size => present.push((blob.digest.clone(), size)),
                    Some(_) | None => missing.push(blob.digest.clone()),
                }
            }
        }
        store.mark_blobs(&environment.workspace, &present).await?;
        store.unmark_blobs(&environment.workspace, &missing).await?;
        let complete = missing.is_empty();
        if environment.complete != complete {
            environment.complete = complete;
            store.put_environment(environment.clone()).await?;
        }
        if complete { Ok(environment) } else { Err(CompleteError::Missing(missing)) }
    }
}
