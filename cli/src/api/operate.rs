//! The part of the API that operators use: tokens, limits.

use super::{Answer, Api};
use crate::failure::Outcome;
use crate::operate::arguments::Most;
use reqwest::Method;
use serde::{Deserialize, Serialize};

/// A person's token, without its secret.
#[derive(Clone, Debug, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Whose it is.
    pub person: String,
    /// What it allows.
    pub role: String,
    /// Live, expired or revoked.
    pub state: String,
    /// Its end; none: never.
    pub expires_at_ms: Option<u64>,
    /// When it was last used, to the hour.
    pub last_used_at_ms: Option<u64>,
}

/// A token that was made. No `Debug`: it holds the secret.
#[derive(Clone, Deserialize)]
pub struct MadeToken {
    /// The token.
    pub token: Token,
    /// The bearer token itself.
    pub secret: String,
}

/// A token to be made.
#[derive(Clone, Debug, Serialize)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// Whose it is.
    pub person: String,
    /// What it allows.
    pub role: &'static str,
    /// Seconds; null: never expires; absent: the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<Option<u64>>,
}

/// The limit of one resource.
#[derive(Clone, Debug, Deserialize)]
pub struct Limit {
    /// At most this many; none: as many as they like.
    pub most: Option<u64>,
    /// Who says so.
    pub set_by: String,
    /// How many live clusters hold.
    pub used: u64,
}

/// Limits of hosts and cores.
#[derive(Clone, Debug, Deserialize)]
pub struct LimitsOf {
    /// Machines.
    pub hosts: Limit,
    /// Threads.
    pub cores: Limit,
}

/// Limits of a person.
#[derive(Clone, Debug, Deserialize)]
pub struct PersonLimits {
    /// Who.
    pub person: String,
    /// How much.
    #[serde(flatten)]
    pub limits: LimitsOf,
}

/// Limits of a workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Limits {
    /// Of all people together.
    pub workspace: LimitsOf,
    /// Of each person who has none of their own.
    pub everyone: LimitsOf,
    /// Of people who hold something or have a limit of their own.
    pub people: Vec<PersonLimits>,
}

/// A change of limits.
#[derive(Clone, Debug, Serialize)]
pub struct NewLimits {
    /// Whom they bind.
    pub of: &'static str,
    /// Who, when it is one person.
    pub person: Option<String>,
    /// Hosts; null: as it was.
    pub hosts: Option<Most>,
    /// Cores; null: as it was.
    pub cores: Option<Most>,
}

impl Api {
    /// The workspace's limits, and what is used of them.
    pub async fn limits(&self) -> Outcome<Answer<Limits>> {
        self.get(&["limits"], &[]).await
    }

    /// Set limits.
    pub async fn set_limits(&self, limits: &NewLimits) -> Outcome<Answer<Limits>> {
        let request = self.request(Method::PUT, &["limits"])?.json(limits);
        self.answer(request).await
    }

    /// Make a token.
    pub async fn create_token(&self, token: &NewToken) -> Outcome<Answer<MadeToken>> {
        let request = self.request(Method::POST, &["tokens"])?.json(token);
        self.answer(request).await
    }

    /// Tokens of the workspace that the caller may see.
    pub async fn tokens(&self, all: bool) -> Outcome<Answer<Vec<Token>>> {
        self.get(&["tokens"], if all { &[("all", "true")] } else { &[] }).await
    }

    /// Revoke a token.
    pub async fn revoke_token(&self, token: &str) -> Outcome<Answer<Token>> {
        let request = self.request(Method::DELETE, &["tokens", token])?;
        self.answer(request).await
    }
}
