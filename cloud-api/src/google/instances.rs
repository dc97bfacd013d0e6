//! Compute Engine's call with which an instance ends itself.
//!
//! The contract: <https://cloud.google.com/compute/docs/reference/rest/v1/instances/delete>. One try: who calls decides on
//! another.

use super::metadata::Metadata;
use crate::http::{self, HttpError};
use crate::{CredentialError, Freshness};
use reqwest::Client;
use std::sync::Arc;
use std::time::Duration;

/// Where Compute Engine answers.
pub const PUBLIC: &str = "https://compute.googleapis.com";

/// One call.
const WITHIN: Duration = Duration::from_secs(20);

/// Why the call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum InstancesError {
    /// No token.
    #[error("there is no token for Compute Engine")]
    Credentials(#[from] CredentialError),
    /// It said no.
    #[error("Compute Engine refuses (status {status})")]
    Refused {
        /// The status.
        status: u16,
    },
    /// No answer.
    #[error("Compute Engine did not answer")]
    Unanswered(#[from] HttpError),
}

impl InstancesError {
    /// Whether the same call can succeed later without a person's help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Credentials(CredentialError::None { .. }) => false,
            Self::Credentials(_) | Self::Unanswered(_) => true,
            Self::Refused { status } => *status >= 500 || *status == 429,
        }
    }
}

/// Delete an instance: `path` is `projects/PROJECT/zones/ZONE/instances/NAME`.
pub async fn delete(url: &str, path: &str, account: &Arc<Metadata>) -> Result<(), InstancesError> {
    let client = http::service_client().map_err(|source| HttpError::Failed {
        method: "DELETE".to_owned(),
        url: url.to_owned(),
        source,
    })?;
    delete_with(&client, url, path, account).await
}

async fn delete_with(client: &Client, url: &str, path: &str, account: &Metadata) -> Result<(), InstancesError> {
    let token = account.token(Freshness::Any).await?;
    let url = format!("{}/compute/v1/{path}", url.trim_end_matches('/'));
    let answer = http::send(client, client.delete(url).bearer_auth(token.secret.as_str()), WITHIN).await?;
    if answer.status.is_success() { Ok(()) } else { Err(InstancesError::Refused { status: answer.status.as_u16() }) }
}
