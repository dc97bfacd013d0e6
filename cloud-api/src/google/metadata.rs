//! The metadata server of a Google Compute Engine instance.
//!
//! The contract: <https://cloud.google.com/compute/docs/metadata/querying-metadata>. Owns the service account's token
//! until it runs out. Whatever answers must show that it is the real server: any other one may stand at the address.

use crate::azure::Token;
use crate::http::{self, Answer, HttpError};
use crate::metadata::{self, Patience, ask};
use crate::{CredentialError, Freshness};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// Where every instance finds it. By address, so that no name server can send us elsewhere.
pub const LINK_LOCAL: &str = "http://169.254.169.254";

/// The server itself renews tokens five minutes before they run out.
const BEFORE_EXPIRY: u64 = 4 * 60;

/// It is away for seconds while the machine under it is maintained.
const PATIENCE: Patience = Patience { tries: 5, first_pause: Duration::from_secs(1) };

const FLAVOR: &str = "Metadata-Flavor";

/// The server, and what it gave us.
#[derive(Debug)]
pub struct Metadata {
    client: Client,
    base: String,
    patience: Patience,
    token: Mutex<Option<Arc<Token>>>,
}

#[derive(Deserialize)]
struct AccountToken {
    access_token: String,
    expires_in: u64,
}

impl Metadata {
    /// The server at `base`, which is [`LINK_LOCAL`] but for tests.
    pub fn new(base: &str) -> reqwest::Result<Self> {
        Ok(Self {
            client: http::metadata_client()?,
            base: metadata::base(base),
            patience: PATIENCE,
            token: Mutex::default(),
        })
    }

    /// The same with other pauses.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// What stands at `path` below `/computeMetadata/v1/`, such as `instance/name`. None: there is no such thing.
    pub async fn get(&self, path: &str) -> Result<Option<String>, HttpError> {
        self.ask(path, self.patience).await
    }

    /// The same, asked once: for somebody who asks again every few seconds.
    pub async fn glance(&self, path: &str) -> Result<Option<String>, HttpError> {
        self.ask(path, Patience::NONE).await
    }

    /// A token of the instance's service account.
    pub async fn token(&self, freshness: Freshness) -> Result<Arc<Token>, CredentialError> {
        let path = "instance/service-accounts/default/token";
        let from = || format!("{}/computeMetadata/v1/{path}", self.base);
        let unavailable = |source| CredentialError::Unavailable { from: from(), source };
        let mut held = self.token.lock().await;
        let now = metadata::unix_now();
        if let Some(known) = held.as_ref().filter(|known| known.expires_at > now + BEFORE_EXPIRY)
            && freshness == Freshness::Any
        {
            return Ok(known.clone());
        }
        let text =
            self.get(path).await.map_err(unavailable)?.map(Zeroizing::new).ok_or_else(|| CredentialError::None {
                from: from(),
                reason: "the instance has no service account".to_owned(),
                remedy: "give the instance a service account",
            })?;
        let wanted = "an account's token";
        let found: AccountToken = serde_json::from_str(&text)
            .map_err(|_| unavailable(HttpError::Unexpected { url: from(), status: 200, wanted }))?;
        let new = Token { secret: Zeroizing::new(found.access_token), expires_at: now + found.expires_in };
        Ok(held.insert(Arc::new(new)).clone())
    }

    async fn ask(&self, path: &str, patience: Patience) -> Result<Option<String>, HttpError> {
        let url = format!("{}/computeMetadata/v1/{path}", self.base);
        let request = || self.client.get(&url).header(FLAVOR, "Google");
        let answer = ask(&self.client, patience, request, is_busy).await?;
        if !is_googles(&answer) {
            return Err(answer.unexpected("the header Metadata-Flavor: Google"));
        }
        match answer.status {
            StatusCode::OK => String::from_utf8(answer.body.clone()).map(Some).map_err(|_| answer.unexpected("text")),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(answer.unexpected("200 or 404")),
        }
    }
}

fn is_googles(answer: &Answer) -> bool {
    answer.headers.get(FLAVOR).is_some_and(|flavor| flavor == "Google")
}

fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}
