//! The part of the API that operators use: tokens, limits, usage.

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

/// An amount of use.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct UsageSum {
    /// Hosts that were there.
    pub hosts: u64,
    /// Hours of hosts.
    pub host_hours: f64,
    /// Hours of cores.
    pub cpu_hours: f64,
}

/// The use of one person, cluster or tag's value.
#[derive(Clone, Debug, Deserialize)]
pub struct UsageLine {
    /// Which; none: clusters without the tag.
    pub key: Option<String>,
    /// The cluster's name, when summed by cluster.
    pub name: Option<String>,
    /// Whose cluster it is, when summed by cluster.
    pub person: Option<String>,
    /// How much.
    #[serde(flatten)]
    pub sum: UsageSum,
}

/// What was used in a time.
#[derive(Clone, Debug, Deserialize)]
pub struct Usage {
    /// Its beginning.
    pub since_ms: u64,
    /// Its end.
    pub until_ms: u64,
    /// What it is summed by.
    pub by: String,
    /// Only this person's clusters; none: everybody's.
    pub only_of: Option<String>,
    /// Most CPU hours first.
    pub lines: Vec<UsageLine>,
    /// Everything.
    pub total: UsageSum,
}

impl Api {
    /// What was used, from and until moments in Unix milliseconds.
    pub async fn usage(&self, since_ms: Option<u64>, until_ms: Option<u64>, by: &str) -> Outcome<Answer<Usage>> {
        let moments = [("since_ms", since_ms), ("until_ms", until_ms)];
        let moments: Vec<_> = moments.into_iter().filter_map(|(key, at)| Some((key, at?.to_string()))).collect();
        let query: Vec<_> = moments.iter().map(|(key, at)| (*key, at.as_str())).chain([("by", by)]).collect();
        self.get(&["usage"], &query).await
    }
}
