//! Azure Resource Manager's calls for a virtual machine, as far as it needs them: to end itself.
//!
//! The contract: <https://learn.microsoft.com/rest/api/compute/virtual-machines>. One try each: who calls decides on
//! another.

use super::TokenSource;
use crate::http::{self, HttpError};
use crate::{CredentialError, Freshness};
use reqwest::{Client, Method};
use std::sync::Arc;
use std::time::Duration;

/// Where Azure Resource Manager answers, and whom tokens for it are for.
pub const PUBLIC: &str = "https://management.azure.com";

/// One call.
const WITHIN: Duration = Duration::from_secs(20);

const VERSION: &str = "2024-03-01";

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachinesError {
    /// No token.
    #[error("there is no token for Azure Resource Manager")]
    Credentials(#[from] CredentialError),
    /// It said no. `code` is its stable word.
    #[error("Azure Resource Manager refuses ({code}, status {status})")]
    Refused {
        /// Such as `AuthorizationFailed`.
        code: String,
        /// The status.
        status: u16,
    },
    /// No answer.
    #[error("Azure Resource Manager did not answer")]
    Unanswered(#[from] HttpError),
}

impl MachinesError {
    /// Whether the same call can succeed later without a person's help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Credentials(CredentialError::None { .. }) => false,
            Self::Credentials(_) | Self::Unanswered(_) => true,
            Self::Refused { status, .. } => *status >= 500 || matches!(status, 409 | 429),
        }
    }
}

/// Azure Resource Manager.
pub struct Machines {
    client: Client,
    url: String,
    tokens: Arc<dyn TokenSource>,
}

impl Machines {
    /// At [`PUBLIC`], or another address.
    pub fn new(url: &str, tokens: Arc<dyn TokenSource>) -> reqwest::Result<Self> {
        Ok(Self { client: http::service_client()?, url: url.trim_end_matches('/').to_owned(), tokens })
    }

    /// Delete a machine, and with it what was made to go with it.
    pub async fn delete(&self, resource_id: &str) -> Result<(), MachinesError> {
        self.call(Method::DELETE, resource_id, "", &[("forceDeletion", "true")]).await
    }

    /// Stop a machine so that it costs no computing any more. One that is shut down from inside is still paid for.
    pub async fn deallocate(&self, resource_id: &str) -> Result<(), MachinesError> {
        self.call(Method::POST, resource_id, "/deallocate", &[]).await
    }

    async fn call(&self, method: Method, id: &str, action: &str, query: &[(&str, &str)]) -> Result<(), MachinesError> {
        let token = self.tokens.token("https://management.azure.com/", Freshness::Any).await?;
        let request = self
            .client
            .request(method, format!("{}{id}{action}", self.url))
            .query(&[("api-version", VERSION)])
            .query(query)
            .header("content-length", "0")
            .bearer_auth(token.secret.as_str());
        let answer = http::send(&self.client, request, WITHIN).await?;
        if matches!(answer.status.as_u16(), 200 | 202 | 204) {
            return Ok(());
        }
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let code = said["error"]["code"].as_str().unwrap_or("unknown");
        let code = code.chars().filter(char::is_ascii_graphic).take(80).collect();
        Err(MachinesError::Refused { code, status: answer.status.as_u16() })
    }
}
