//! Environments on this host: made from a lock, shared by every agent on this machine, whole or absent.
//!
//! `store` owns the directory and the order of steps, `fetch` the downloads, `uv` the calls of that program, `error`
//! what is said when a step fails. Must not know sessions or assignments: whoever drives it brings the digest and a
//! [`BlobSource`]. The rules in words: docs/packages.md.

mod error;
mod fetch;
mod store;
mod uv;

pub use error::{OpenError, SyncError};
pub use store::{EnvironmentStore, SyncProgress, SyncStep};

use futures_util::future::BoxFuture;
use towline_protocol::ids::Digest;
use towline_protocol::message::BlobGrant;

/// Why nobody said where blobs can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct GrantsRefused {
    /// Why, for the log.
    pub reason: String,
    /// Whether asking again may help.
    pub retryable: bool,
}

/// Where blobs are read.
pub trait BlobSource: Send + Sync {
    /// Capabilities for these blobs. A blob that does not exist has none in the answer.
    fn grants(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<BlobGrant>, GrantsRefused>>;

    /// A client that trusts the blob store and nothing else.
    fn http(&self) -> &reqwest::Client;
}
