//! Speaking to the clouds: where credentials come from, how requests are signed, what answers mean.
//!
//! Agent, `cloud` and control plane need it alike. Owns no decision: whoever calls decides whether to try again, and
//! when. Must not know a host, a cluster or a log line. One folder per cloud.

pub mod aws;
pub mod azure;
pub mod file;
pub mod google;
pub mod http;
pub mod metadata;

use std::future::Future;
use std::pin::Pin;

/// A future on the heap, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether credentials that were used before may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Cached ones will do while they last.
    Any,
    /// The service refused those given last: ask the source anew.
    New,
}

/// Why there are no credentials. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The source has none for this machine: no role is attached, the file is not there.
    #[error("{from} gives no credentials: {reason}; {remedy}")]
    None {
        /// Where they were looked for.
        from: String,
        /// What it said.
        reason: String,
        /// What a person can do.
        remedy: &'static str,
    },
    /// The source did not answer, or not in a way that can be understood. Another try may help.
    #[error("{from} did not give credentials")]
    Unavailable {
        /// Where they were looked for.
        from: String,
        /// Why.
        #[source]
        source: http::HttpError,
    },
}
