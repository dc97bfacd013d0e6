//! The part of the API that operators use: tokens.

use super::{Answer, Api};
use crate::failure::Outcome;
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

impl Api {
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
