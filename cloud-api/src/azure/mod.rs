//! Microsoft Azure.

pub mod file;
pub mod ingestion;
pub mod machines;
pub mod metadata;

use crate::{BoxFuture, CredentialError, Freshness};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A bearer token for one resource.
pub struct Token {
    /// What goes behind `Authorization: Bearer`.
    pub secret: Zeroizing<String>,
    /// Unix seconds after which it is refused.
    pub expires_at: u64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Where tokens come from: the instance's managed identity, or a file.
pub trait TokenSource: Send + Sync {
    /// A token for a resource, such as `https://monitor.azure.com/`, that lasts for some minutes at least.
    fn token(&self, resource: &str, freshness: Freshness) -> BoxFuture<'_, Result<Arc<Token>, CredentialError>>;
}
