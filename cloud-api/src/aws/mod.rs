//! Amazon Web Services.

pub mod ec2;
pub mod file;
pub mod logs;
pub mod metadata;
pub mod sigv4;

use crate::{BoxFuture, CredentialError, Freshness};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What requests are signed with.
pub struct Credentials {
    /// The key's public name.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Zeroizing<String>,
    /// Of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
    /// Unix seconds after which they are refused; none: they do not expire.
    pub expires_at: Option<u64>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Where credentials come from: the instance's metadata, or files.
pub trait CredentialSource: Send + Sync {
    /// Credentials that last for some minutes at least.
    fn credentials(&self, freshness: Freshness) -> BoxFuture<'_, Result<Arc<Credentials>, CredentialError>>;
}
