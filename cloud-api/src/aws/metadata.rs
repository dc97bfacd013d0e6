//! The metadata service of an EC2 instance, in its version 2: a session token first, then every question with it.
//!
//! The contract: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>. Owns
//! the session token and the role's credentials until they run out. Must not interpret what a path says, credentials
//! excepted. Version 1, which anybody can reach who can make us send a request, is never spoken.

use super::{CredentialSource, Credentials};
use crate::http::{self, HttpError};
use crate::metadata::{self, Patience, ask};
use crate::{BoxFuture, CredentialError, Freshness};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// Where every instance finds it.
pub const LINK_LOCAL: &str = "http://169.254.169.254";

/// Seconds for which a session token is asked for: the longest allowed.
const TOKEN_LIFE: &str = "21600";

/// Credentials are asked for anew this long before they run out; the service has new ones five minutes before.
const BEFORE_EXPIRY: u64 = 5 * 60;

/// A service that is asked too often recovers within seconds.
const PATIENCE: Patience = Patience { tries: 5, first_pause: Duration::from_millis(200) };

/// The folder with one file of credentials for each role; there is one role or none.
const ROLES: &str = "meta-data/iam/security-credentials/";

/// The service, and what it gave us.
pub struct Metadata {
    client: Client,
    base: String,
    patience: Patience,
    session: Mutex<Option<Zeroizing<String>>>,
    credentials: Mutex<Option<Arc<Credentials>>>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").field("base", &self.base).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    code: Option<String>,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

impl Metadata {
    /// The service at `base`, which is [`LINK_LOCAL`] but for tests.
    pub fn new(base: &str) -> reqwest::Result<Self> {
        Ok(Self {
            client: http::metadata_client()?,
            base: metadata::base(base),
            patience: PATIENCE,
            session: Mutex::default(),
            credentials: Mutex::default(),
        })
    }

    /// The same with other pauses.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// What stands at `path` below `/latest/`, such as `meta-data/instance-id`. None: there is no such thing, which for
    /// notices means that there is none.
    pub async fn get(&self, path: &str) -> Result<Option<String>, HttpError> {
        self.ask(path, self.patience).await
    }

    /// The same, asked once: for somebody who asks again every few seconds.
    pub async fn glance(&self, path: &str) -> Result<Option<String>, HttpError> {
        self.ask(path, Patience::NONE).await
    }

    async fn ask(&self, path: &str, patience: Patience) -> Result<Option<String>, HttpError> {
        let url = format!("{}/latest/{path}", self.base);
        let mut refused = None;
        // A second time only where the token was refused: it ran out, or the service has forgotten it.
        for _ in 0..2 {
            let token = self.session(refused.take(), patience).await?;
            let request = || self.client.get(&url).header("x-aws-ec2-metadata-token", token.as_str());
            let answer = ask(&self.client, patience, request, is_busy).await?;
            match answer.status {
                StatusCode::OK => {
                    let text = String::from_utf8(answer.body.clone());
                    return text.map(Some).map_err(|_| answer.unexpected("text"));
                }
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED => refused = Some(token),
                _ => return Err(answer.unexpected("200 or 404")),
            }
        }
        Err(HttpError::Unexpected { url, status: 401, wanted: "a session token that it accepts" })
    }

    /// The session token; a new one if there is none but the refused one.
    async fn session(
        &self,
        refused: Option<Zeroizing<String>>,
        patience: Patience,
    ) -> Result<Zeroizing<String>, HttpError> {
        // Held while we ask: many questions at once need one token.
        let mut held = self.session.lock().await;
        if let Some(token) = held.as_ref().filter(|token| refused.as_ref() != Some(token)) {
            return Ok(token.clone());
        }
        let url = format!("{}/latest/api/token", self.base);
        let request = || self.client.put(&url).header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE);
        let answer = ask(&self.client, patience, request, is_busy).await?;
        let token = match answer.status {
            StatusCode::OK => String::from_utf8(answer.body.clone()).ok().filter(|text| is_token(text)),
            _ => None,
        };
        let token = Zeroizing::new(token.ok_or_else(|| answer.unexpected("a session token"))?);
        *held = Some(token.clone());
        Ok(token)
    }

    async fn role_credentials(&self) -> Result<Credentials, CredentialError> {
        let from = || format!("{}/latest/{ROLES}", self.base);
        let none = |reason: &str| CredentialError::None {
            from: from(),
            reason: reason.to_owned(),
            remedy: "attach an instance profile with the agent's role, or name a file with credentials",
        };
        let unavailable = |source| CredentialError::Unavailable { from: from(), source };
        let roles = match self.get(ROLES).await {
            Err(HttpError::Unexpected { status: 403, .. }) => return Err(none("the metadata service is switched off")),
            roles => roles.map_err(unavailable)?.unwrap_or_default(),
        };
        let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty());
        let role = role.ok_or_else(|| none("the instance has no role"))?;
        let path = format!("{ROLES}{role}");
        let text = Zeroizing::new(self.get(&path).await.map_err(unavailable)?.ok_or_else(|| none("its role is gone"))?);
        let malformed = || HttpError::Unexpected { url: from(), status: 200, wanted: "a role's credentials" };
        let found: RoleCredentials = serde_json::from_str(&text).map_err(|_| unavailable(malformed()))?;
        if found.code.as_deref().is_some_and(|code| code != "Success") {
            return Err(none("the role cannot be assumed; its trust policy must name ec2.amazonaws.com"));
        }
        let expires_at =
            found.expiration.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_second()).ok());
        Ok(Credentials {
            access_key_id: found.access_key_id,
            secret_access_key: Zeroizing::new(found.secret_access_key),
            session_token: Some(Zeroizing::new(found.token)),
            expires_at: Some(expires_at.ok_or_else(|| unavailable(malformed()))?),
        })
    }
}

impl CredentialSource for Metadata {
    fn credentials(&self, freshness: Freshness) -> BoxFuture<'_, Result<Arc<Credentials>, CredentialError>> {
        Box::pin(async move {
            let mut held = self.credentials.lock().await;
            let now = metadata::unix_now();
            let lasts = |known: &&Arc<Credentials>, margin| known.expires_at.is_none_or(|at| at > now + margin);
            if let Some(known) = held.as_ref().filter(|known| lasts(known, BEFORE_EXPIRY))
                && freshness == Freshness::Any
            {
                return Ok(known.clone());
            }
            match self.role_credentials().await {
                Ok(new) => Ok(held.insert(Arc::new(new)).clone()),
                // They are good for some minutes yet, and the next caller asks again.
                Err(error @ CredentialError::Unavailable { .. }) if freshness == Freshness::Any => {
                    held.as_ref().filter(|known| lasts(known, 0)).cloned().ok_or(error)
                }
                Err(error) => Err(error),
            }
        })
    }
}

/// Ask again after a pause.
fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// What can stand in a header.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4096 && text.bytes().all(|byte| byte.is_ascii_graphic())
}
