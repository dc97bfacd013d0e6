//! The metadata service of an Azure virtual machine: what it is, its managed identity, and its scheduled events.
//!
//! The contract: <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service> and
//! <https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events>. Owns the identity's tokens until they run
//! out. Must not decide what an event means.

use super::{Token, TokenSource};
use crate::http::{self, Answer, HttpError};
use crate::metadata::{self, Patience, ask};
use crate::{BoxFuture, CredentialError, Freshness};
use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// Where every virtual machine finds it.
pub const LINK_LOCAL: &str = "http://169.254.169.254";

/// A token is asked for anew this long before it runs out.
const BEFORE_EXPIRY: u64 = 5 * 60;

/// Its server errors want a second at least; while it is updated it is away for up to 70 s.
const PATIENCE: Patience = Patience { tries: 5, first_pause: Duration::from_secs(1) };

const INSTANCE: &str = "metadata/instance/compute?api-version=2021-02-01";
const EVENTS: &str = "metadata/scheduledevents?api-version=2020-07-01";

/// What a virtual machine is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compute {
    /// Its name, as events call it.
    pub name: String,
    /// Its path in Azure Resource Manager, which begins with `/subscriptions/`.
    pub resource_id: String,
    /// Its own id, which no other machine ever has.
    pub vm_id: String,
}

/// What is going to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ScheduledEvents {
    /// Another number means that something changed.
    pub document_incarnation: u64,
    /// Of all machines in the same set, not only this one.
    pub events: Vec<ScheduledEvent>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ScheduledEvent {
    /// Its id.
    pub event_id: String,
    /// `Freeze`, `Reboot`, `Redeploy`, `Preempt` or `Terminate`.
    pub event_type: String,
    /// Names of the machines it concerns.
    #[serde(default)]
    pub resources: Vec<String>,
    /// `Scheduled` or `Started`.
    pub event_status: String,
    /// When it may begin at the earliest, as HTTP writes a date; empty once it has.
    #[serde(default)]
    pub not_before: String,
}

/// The service, and what it gave us.
#[derive(Debug)]
pub struct Metadata {
    client: Client,
    base: String,
    patience: Patience,
    identity: Option<String>,
    tokens: Mutex<HashMap<String, Arc<Token>>>,
}

#[derive(Deserialize)]
struct IdentityToken {
    access_token: String,
    /// Seconds, as text.
    expires_in: String,
}

impl Metadata {
    /// The service at `base`, which is [`LINK_LOCAL`] but for tests. `identity` is the client id of the managed identity
    /// to use; none: the machine's own.
    pub fn new(base: &str, identity: Option<String>) -> reqwest::Result<Self> {
        Ok(Self {
            client: http::metadata_client()?,
            base: metadata::base(base),
            patience: PATIENCE,
            identity,
            tokens: Mutex::default(),
        })
    }

    /// The same with other pauses.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// What this machine is.
    pub async fn compute(&self) -> Result<Compute, HttpError> {
        let answer = self.get(INSTANCE, &[], self.patience).await?;
        expect(&answer, StatusCode::OK)?.json("what this machine is")
    }

    /// What is going to happen, asked once. The first question may take two minutes on Azure's side: until then this
    /// fails, and whoever asks asks again.
    pub async fn events(&self) -> Result<ScheduledEvents, HttpError> {
        let answer = self.get(EVENTS, &[], Patience::NONE).await?;
        expect(&answer, StatusCode::OK)?.json("scheduled events")
    }

    /// Let an event begin now: we are ready for it.
    pub async fn approve(&self, event_id: &str) -> Result<(), HttpError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Id<'a> {
            event_id: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Requests<'a> {
            start_requests: [Id<'a>; 1],
        }
        let body = Requests { start_requests: [Id { event_id }] };
        let url = format!("{}/{EVENTS}", self.base);
        let request = || self.client.post(&url).header("Metadata", "true").json(&body);
        let answer = ask(&self.client, self.patience, request, is_busy).await?;
        expect(&answer, StatusCode::OK).map(|_| ())
    }

    async fn get(&self, path: &str, query: &[(&str, &str)], patience: Patience) -> Result<Answer, HttpError> {
        let url = format!("{}/{path}", self.base);
        let request = || self.client.get(&url).header("Metadata", "true").query(query);
        ask(&self.client, patience, request, is_busy).await
    }

    async fn identity_token(&self, resource: &str) -> Result<Token, CredentialError> {
        let from = || format!("{}/metadata/identity/oauth2/token", self.base);
        let unavailable = |source| CredentialError::Unavailable { from: from(), source };
        let mut query = vec![("resource", resource)];
        query.extend(self.identity.as_deref().map(|id| ("client_id", id)));
        let path = "metadata/identity/oauth2/token?api-version=2018-02-01";
        let answer = self.get(path, &query, self.patience).await.map_err(unavailable)?;
        if answer.status == StatusCode::BAD_REQUEST {
            let said: serde_json::Value = answer.json("a reason").unwrap_or_default();
            return Err(CredentialError::None {
                from: from(),
                reason: said["error"].as_str().unwrap_or("bad request").chars().take(100).collect(),
                remedy: "give the virtual machine a managed identity, and name it if it has several",
            });
        }
        let found: IdentityToken = expect(&answer, StatusCode::OK)
            .and_then(|answer| answer.json("an identity's token"))
            .map_err(unavailable)?;
        let life: u64 = found.expires_in.parse().map_err(|_| unavailable(answer.unexpected("seconds as text")))?;
        Ok(Token { secret: Zeroizing::new(found.access_token), expires_at: metadata::unix_now() + life })
    }
}

impl TokenSource for Metadata {
    fn token(&self, resource: &str, freshness: Freshness) -> BoxFuture<'_, Result<Arc<Token>, CredentialError>> {
        let resource = resource.to_owned();
        Box::pin(async move {
            let mut held = self.tokens.lock().await;
            let now = metadata::unix_now();
            if let Some(known) = held.get(&resource).filter(|known| known.expires_at > now + BEFORE_EXPIRY)
                && freshness == Freshness::Any
            {
                return Ok(known.clone());
            }
            match self.identity_token(&resource).await {
                Ok(new) => {
                    let new = Arc::new(new);
                    held.insert(resource, new.clone());
                    Ok(new)
                }
                // It is good for some minutes yet, and the next caller asks again.
                Err(error @ CredentialError::Unavailable { .. }) if freshness == Freshness::Any => {
                    held.get(&resource).filter(|known| known.expires_at > now).cloned().ok_or(error)
                }
                Err(error) => Err(error),
            }
        })
    }
}

fn expect(answer: &Answer, status: StatusCode) -> Result<&Answer, HttpError> {
    if answer.status == status { Ok(answer) } else { Err(answer.unexpected("200")) }
}

/// Ask again after a pause: it is updated (404, 410), asked too often, or in trouble.
fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::TOO_MANY_REQUESTS)
        || status.is_server_error()
}
